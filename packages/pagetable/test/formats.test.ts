import { describe, expect, it } from "vitest"
import { definePageTableFormat } from "../src/index.ts"
import { formatSuite } from "./format-suite.ts"
import { contiguous, growing, moved, plain, spec } from "./toy-formats.ts"

formatSuite([
  { format: plain, levels: 2, inputBits: 30, outputBits: 40 },
  { format: plain, levels: 4, inputBits: 48, outputBits: 48 },
  { format: contiguous, levels: 3, inputBits: 41, outputBits: 48, pageSizes: contiguous.pageSizes },
  { format: growing, levels: 1, inputBits: 64, outputBits: 52 },
  { format: growing, levels: 3, inputBits: 50, outputBits: 52 },
  { format: moved, levels: 4, inputBits: 52, outputBits: 52 },
  { format: moved, levels: 3, inputBits: 47, outputBits: 51 },
])

describe("definePageTableFormat", () => {
  it("gives all formats the same members in the same order, so that they have one hidden class", () => {
    for (const format of [contiguous, growing, moved]) expect(Object.keys(format)).toEqual(Object.keys(plain))
  })

  it("refuses sizes below the granule, unknown default sizes, and kinds that are not linear in the level", () => {
    expect(() => definePageTableFormat({ ...spec, granuleLg2: 14 })).toThrow("granule")
    expect(() => definePageTableFormat({ ...spec, defaultPageSizes: 0x2000n })).toThrow("default page sizes")
    const tableBits = (level: number) => (level === 3 ? 0x81n : 1n)
    expect(() => definePageTableFormat({ ...spec, tableBits })).toThrow("linear")
  })
})
