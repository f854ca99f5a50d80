import { describe, expect, it } from "vitest"
import { builtEntries, type LeafVector } from "../../pagetable/test/bench-table.ts"
import { formatSuite } from "../../pagetable/test/format-suite.ts"
import { firstStageFormat } from "../src/formats/stage1.ts"
import { secondStageFormat, snoopedSecondStageFormat } from "../src/formats/stage2.ts"

formatSuite([
  { format: secondStageFormat, levels: 3, inputBits: 39, outputBits: 39 },
  { format: secondStageFormat, levels: 4, inputBits: 48, outputBits: 46 },
  { format: secondStageFormat, levels: 5, inputBits: 57, outputBits: 52 },
  { format: secondStageFormat, levels: 4, inputBits: 36, outputBits: 46 },
  { format: secondStageFormat, levels: 4, inputBits: 48, outputBits: 48, pageSizes: 0x1000n },
  { format: firstStageFormat, levels: 4, inputBits: 47, outputBits: 46 },
  { format: firstStageFormat, levels: 5, inputBits: 56, outputBits: 52 },
])

const secondStage = { format: secondStageFormat, levels: 4, inputBits: 48, outputBits: 46 }
const firstStage = { format: firstStageFormat, levels: 4, inputBits: 47, outputBits: 46 }

describe("entries that Linux 6.12 built on a VT-d machine", () => {
  const secondStageLeaves: LeafVector[] = [
    { iova: 0xfed6_3000n, size: 0x1000n, pa: 0x1_5001_c000n, prot: 1, entry: 0x1_5001_c001n },
    { iova: 0xbf54_0000n, size: 0x1000n, pa: 0x1_44f7_b000n, prot: 3, entry: 0x1_44f7_b003n },
    { iova: 0x4620_0000n, size: 0x20_0000n, pa: 0x1_7b40_0000n, prot: 3, entry: 0x1_7b40_0083n },
    { iova: 0x33a2_4000_0000n, size: 0x4000_0000n, pa: 0x1_0000_0000n, prot: 3, entry: 0x1_0000_0083n },
  ]
  const firstStageLeaves: LeafVector[] = [
    { iova: 0xff5d_8000n, size: 0x1000n, pa: 0x1_51ac_e000n, prot: 1, entry: 0x1_51ac_e025n },
    { iova: 0xbf94_0000n, size: 0x1000n, pa: 0x1_587a_4000n, prot: 3, entry: 0x1_587a_4067n },
    { iova: 0x5460_0000n, size: 0x20_0000n, pa: 0x1_7b40_0000n, prot: 3, entry: 0x1_7b40_00e7n },
    { iova: 0x13f_8000_0000n, size: 0x4000_0000n, pa: 0x1_0000_0000n, prot: 3, entry: 0x1_0000_00e7n },
  ]

  it.each(secondStageLeaves)("second stage $entry", vector => {
    const { leaf, tables } = builtEntries(secondStage, vector)
    expect(leaf).toEqual([vector.entry])
    expect(tables.map(entry => entry % 4096n)).toEqual(tables.map(() => 0x3n))
  })

  it.each(firstStageLeaves)("first stage $entry", vector => {
    const { leaf, tables } = builtEntries(firstStage, vector)
    expect(leaf).toEqual([vector.entry])
    expect(tables.map(entry => entry % 4096n)).toEqual(tables.map(() => 0x27n))
  })
})

describe("second-stage leaves", () => {
  it("are exact for write-only mappings (Linux 6.12 adds R; later kernels do not)", () => {
    const vector = { iova: 0n, size: 0x1000n, pa: 0x5000n, prot: 2, entry: 0x5002n }
    expect(builtEntries(secondStage, vector).leaf).toEqual([vector.entry])
  })

  it("snoop where the domain forces it", () => {
    const vector = { iova: 0n, size: 0x1000n, pa: 0x5000n, prot: 3, entry: 0x5803n }
    const { leaf, tables } = builtEntries({ ...secondStage, format: snoopedSecondStageFormat }, vector)
    expect(leaf).toEqual([vector.entry])
    expect(tables.every(entry => entry % 4096n === 3n)).toBe(true)
  })
})
