import { describe, expect, it } from "vitest"
import { builtEntries, type FormatCase, type LeafVector } from "../../pagetable/test/bench-table.ts"
import { formatSuite } from "../../pagetable/test/format-suite.ts"
import { stage1Format } from "../src/formats/stage1.ts"
import { stage2Format } from "../src/formats/stage2.ts"

const plain = { lpa2: false, dirty: false }
const dirty = { lpa2: false, dirty: true }
const lpa2 = { lpa2: true, dirty: false }
const runs = (granuleLg2: number) => stage1Format(granuleLg2, plain).pageSizes

formatSuite([
  { format: stage1Format(12, plain), levels: 4, inputBits: 48, outputBits: 48 },
  { format: stage1Format(12, dirty), levels: 3, inputBits: 39, outputBits: 40 },
  { format: stage1Format(12, lpa2), levels: 5, inputBits: 52, outputBits: 52 },
  { format: stage1Format(12, plain), levels: 4, inputBits: 48, outputBits: 44, pageSizes: runs(12) },
  { format: stage1Format(14, plain), levels: 4, inputBits: 48, outputBits: 48 },
  { format: stage1Format(14, lpa2), levels: 4, inputBits: 52, outputBits: 52 },
  { format: stage1Format(14, plain), levels: 3, inputBits: 47, outputBits: 48, pageSizes: runs(14) },
  { format: stage1Format(16, plain), levels: 3, inputBits: 48, outputBits: 48 },
  { format: stage1Format(16, plain), levels: 3, inputBits: 52, outputBits: 52 },
  { format: stage1Format(16, dirty), levels: 2, inputBits: 42, outputBits: 42, pageSizes: runs(16) },
  { format: stage2Format(12, plain), levels: 4, inputBits: 48, outputBits: 48 },
  { format: stage2Format(12, dirty), levels: 3, inputBits: 40, outputBits: 40 },
  { format: stage2Format(12, plain), levels: 3, inputBits: 43, outputBits: 44 },
  { format: stage2Format(12, lpa2), levels: 4, inputBits: 52, outputBits: 52 },
  { format: stage2Format(14, plain), levels: 3, inputBits: 48, outputBits: 48 },
  { format: stage2Format(16, plain), levels: 2, inputBits: 46, outputBits: 48 },
  { format: stage2Format(16, plain), levels: 3, inputBits: 52, outputBits: 52, pageSizes: runs(16) },
])

const READ = 1
const WRITE = 2
const CACHE = 4
const NOEXEC = 8
const MMIO = 16
const PRIV = 32
const RWC = READ | WRITE | CACHE

const stage1 = { format: stage1Format(12, plain), levels: 4, inputBits: 48, outputBits: 44 }
const stage1On16K = { format: stage1Format(14, plain), levels: 4, inputBits: 48, outputBits: 44 }
const stage2 = { format: stage2Format(12, plain), levels: 4, inputBits: 48, outputBits: 44 }

describe("entries that Linux 6.12 built on SMMUv3 machines", () => {
  const on4K: LeafVector[] = [
    { iova: 0xffef_f000n, size: 0x1000n, pa: 0x45bf_6000n, prot: RWC, entry: 0x45bf_6f47n },
    { iova: 0xfff0_0000n, size: 0x1000n, pa: 0x41fe_1000n, prot: READ | CACHE, entry: 0x41fe_1fc7n },
    { iova: 0x1_8040_0000n, size: 0x20_0000n, pa: 0x4620_0000n, prot: RWC, entry: 0x4620_0f45n },
    { iova: 0x100_0a20_0000n, size: 0x20_0000n, pa: 0x4680_0000n, prot: READ | CACHE, entry: 0x4680_0fc5n },
    {
      iova: 0xffff_f000n,
      size: 0x1000n,
      pa: 0x0809_0000n,
      prot: WRITE | NOEXEC | MMIO,
      entry: 0x60_0000_0809_0e4bn,
    },
  ]
  const on16K: LeafVector[] = [
    { iova: 0xffe8_0000n, size: 0x4000n, pa: 0x42f0_0000n, prot: RWC, entry: 0x42f0_0f47n },
    { iova: 0xffdc_4000n, size: 0x4000n, pa: 0x4804_8000n, prot: READ | CACHE, entry: 0x4804_8fc7n },
    { iova: 0x1_8400_0000n, size: 0x200_0000n, pa: 0x5000_0000n, prot: RWC, entry: 0x5000_0f45n },
  ]
  const onStage2: LeafVector[] = [
    { iova: 0xffef_f000n, size: 0x1000n, pa: 0x43d6_6000n, prot: RWC, entry: 0x43d6_67ffn },
    { iova: 0xfff0_0000n, size: 0x1000n, pa: 0x420d_3000n, prot: READ | CACHE, entry: 0x420d_377fn },
    { iova: 0xfff0_1000n, size: 0x1000n, pa: 0x420d_3000n, prot: WRITE | CACHE, entry: 0x420d_37bfn },
    { iova: 0x1_0000_0000n, size: 0x20_0000n, pa: 0x4620_0000n, prot: RWC, entry: 0x4620_07fdn },
  ]

  it.each(on4K)("stage 1, 4K, $entry", vector => expectEntries(stage1, vector))
  it.each(on16K)("stage 1, 16K, $entry", vector => expectEntries(stage1On16K, vector))
  it.each(onStage2)("stage 2, 4K, $entry", vector => expectEntries(stage2, vector))
})

describe("attributes", () => {
  it("not seen in captures follow DDI 0487 J.a §D8.3.2", () => {
    const leaf = (format: typeof stage1, prot: number): readonly bigint[] =>
      builtEntries(format, { iova: 0n, size: 0x1000n, pa: 0n, prot, entry: 0n }).leaf
    expect(leaf(stage1, READ | WRITE)).toEqual([0xe43n])
    expect(leaf(stage1, RWC | PRIV)).toEqual([0xf07n])
    expect(leaf(stage2, READ | WRITE)).toEqual([0x6d7n])
    expect(leaf(stage2, READ | WRITE | MMIO)).toEqual([0x6c7n])
    expect(leaf(stage2, RWC | NOEXEC)).toEqual([0x60_0000_0000_07ffn])
  })

  it("make writable leaves of dirty-tracking domains DBM, and no others", () => {
    const format = stage1Format(12, dirty)
    expect(format.leafBits(RWC)).toBe(0x8_0000_0000_0f44n)
    expect(format.leafBits(READ | CACHE)).toBe(0xfc4n)
    expect(stage2Format(12, dirty).leafBits(RWC)).toBe(0x8_0000_0000_07fcn)
  })
})

describe("52-bit addresses, DDI 0487 J.a §D8.3.1", () => {
  it("stand in bits 49:12 and 9:8 with DS = 1", () => {
    const given = { format: stage1Format(12, lpa2), levels: 5, inputBits: 52, outputBits: 52 }
    const vector = { iova: 0n, size: 0x1000n, pa: 0xd_1234_5678_9000n, prot: RWC, entry: 0x1_1234_5678_9f47n }
    expect(builtEntries(given, vector).leaf).toEqual([vector.entry])
  })

  it("stand in bits 47:16 and 15:12 with the 64 KiB granule", () => {
    const given = { format: stage1Format(16, plain), levels: 3, inputBits: 52, outputBits: 52 }
    const vector = { iova: 0n, size: 0x1_0000n, pa: 0xd_1234_5678_0000n, prot: RWC, entry: 0x1234_5678_df47n }
    expect(builtEntries(given, vector).leaf).toEqual([vector.entry])
  })
})

describe("the contiguous bit, DDI 0487 J.a §D8.6.1", () => {
  it("is set in each entry of a run, and only there", () => {
    const given = { ...stage1, pageSizes: runs(12) }
    const vector = { iova: 0n, size: 0x1_1000n, pa: 0x4000_0000n, prot: RWC, entry: 0n }
    const { leaf } = builtEntries(given, vector)
    expect(leaf).toEqual(
      Array.from({ length: 17 }, (_, n) => (n < 16 ? 1n << 52n : 0n) | 0x4000_0f47n | (BigInt(n) << 12n)),
    )
  })
})

function expectEntries(given: FormatCase, vector: LeafVector): void {
  const { leaf, tables } = builtEntries(given, vector)
  expect(leaf).toEqual([vector.entry])
  expect(tables.map(entry => entry & 0xfff0_0000_0000_0fffn)).toEqual(tables.map(() => 0x3n))
}
