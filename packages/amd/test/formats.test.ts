import { describe, expect, it } from "vitest"
import { builtEntries, type LeafVector } from "../../pagetable/test/bench-table.ts"
import { formatSuite } from "../../pagetable/test/format-suite.ts"
import { AMD_V2 } from "../src/formats/stage1.ts"
import { AMD_V1 } from "../src/formats/stage2.ts"

formatSuite([
  ...[1, 2, 3, 4, 5, 6].map(levels => ({ format: AMD_V1, levels, inputBits: 64, outputBits: 52 })),
  { format: AMD_V1, levels: 3, inputBits: 48, outputBits: 48, pageSizes: 0x1000n },
  { format: AMD_V1, levels: 2, inputBits: 32, outputBits: 40 },
  { format: AMD_V2, levels: 4, inputBits: 47, outputBits: 48 },
  { format: AMD_V2, levels: 5, inputBits: 57, outputBits: 52 },
])

const v1 = { format: AMD_V1, levels: 4, inputBits: 48, outputBits: 48 }
const v2 = { format: AMD_V2, levels: 4, inputBits: 47, outputBits: 48 }

describe("entries that Linux 6.12 built on an AMD machine", () => {
  const read = 1
  const write = 2
  const leaves: LeafVector[] = [
    { iova: 0xff27_9000n, size: 0x1000n, pa: 0x1_51ef_8000n, prot: read, entry: 0x3000_0001_51ef_8001n },
    { iova: 0xbf1e_0000n, size: 0x1000n, pa: 0x1_4b5c_8000n, prot: write, entry: 0x5000_0001_4b5c_8001n },
    { iova: 0xfffb_c000n, size: 0x1000n, pa: 0x1_519f_b000n, prot: 3, entry: 0x7000_0001_519f_b001n },
    { iova: 0xfffe_4000n, size: 0x2000n, pa: 0x1_5220_0000n, prot: read, entry: 0x3000_0001_5220_0e01n },
    { iova: 0xff47_8000n, size: 0x4000n, pa: 0x1_4144_0000n, prot: write, entry: 0x5000_0001_4144_1e01n },
    { iova: 0xff42_0000n, size: 0x8000n, pa: 0x1_4207_8000n, prot: write, entry: 0x5000_0001_4207_be01n },
    { iova: 0xfffc_0000n, size: 0x1_0000n, pa: 0x1_520e_0000n, prot: 3, entry: 0x7000_0001_520e_7e01n },
    { iova: 0xbf2c_0000n, size: 0x2_0000n, pa: 0x1_43f6_0000n, prot: write, entry: 0x5000_0001_43f6_fe01n },
    { iova: 0xff48_0000n, size: 0x4_0000n, pa: 0x1_4140_0000n, prot: write, entry: 0x5000_0001_4141_fe01n },
    { iova: 0xffe8_0000n, size: 0x8_0000n, pa: 0x1_4468_0000n, prot: write, entry: 0x5000_0001_446b_fe01n },
    { iova: 0xff50_0000n, size: 0x10_0000n, pa: 0x1_4590_0000n, prot: write, entry: 0x5000_0001_4597_fe01n },
    { iova: 0x54c0_0000n, size: 0x20_0000n, pa: 0x1_40e0_0000n, prot: 3, entry: 0x7000_0001_40e0_0001n },
    {
      iova: 0x20dc_c000_0000n,
      size: 0x4000_0000n,
      pa: 0x1_0000_0000n,
      prot: 3,
      entry: 0x7000_0001_0000_0001n,
    },
  ]

  it.each(leaves)("v1 $entry", vector => {
    const { leaf, tables } = builtEntries(v1, vector)
    const entries = vector.size < 0x20_0000n ? vector.size / 0x1000n : 1n
    expect(leaf).toEqual(Array.from({ length: Number(entries) }, () => vector.entry))
    const above = [0x6000_0000_0000_0601n, 0x6000_0000_0000_0401n, 0x6000_0000_0000_0201n]
    expect(tables.map(entry => entry & 0xfff0_0000_0000_0fffn)).toEqual(above.slice(0, tables.length))
  })
})

describe("sizes above 2 MiB", () => {
  it("are told by the address at their level too: AMD 48882 rev 3.10 §2.2.3, table 14", () => {
    const vector = { iova: 0n, size: 0x80_0000n, pa: 0x1_0000_0000n, prot: 3, entry: 0x7000_0001_003f_fe01n }
    expect(builtEntries(v1, vector).leaf).toEqual([vector.entry, vector.entry, vector.entry, vector.entry])
  })
})

describe("v2 entries", () => {
  it("are those of x86-64, accessed and dirty in advance", () => {
    const page = builtEntries(v2, { iova: 0n, size: 0x1000n, pa: 0x5000n, prot: 3, entry: 0n })
    expect(page.leaf).toEqual([0x5067n])
    expect(page.tables.map(entry => entry % 4096n)).toEqual([0x27n, 0x27n, 0x27n])
    expect(builtEntries(v2, { iova: 0n, size: 0x1000n, pa: 0x5000n, prot: 1, entry: 0n }).leaf).toEqual([
      0x5025n,
    ])
    expect(builtEntries(v2, { iova: 0n, size: 0x20_0000n, pa: 0n, prot: 3, entry: 0n }).leaf).toEqual([0xe7n])
  })
})
