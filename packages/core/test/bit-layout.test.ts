import { bitLayout } from "@iommu/core"
import { describe, expect, it } from "vitest"

const fields = {
  V: [0, 0, "valid"],
  ADDR: [51, 12, "table"],
  TAG: [79, 64, "tag in the second word"],
} as const
const LAYOUT = bitLayout("example", "a test", 128, fields)

describe("bit layouts", () => {
  it("encode and decode by the book's positions", () => {
    const words = LAYOUT.encode({ V: 1n, ADDR: 0xabn, TAG: 0x1234n })
    expect(words).toEqual([0xab001n, 0x1234n])
    expect(LAYOUT.decode(words)).toEqual({ V: 1n, ADDR: 0xabn, TAG: 0x1234n })
    expect(LAYOUT.getInPlace(words, "ADDR")).toBe(0xab000n)
  })

  it("know which bits are reserved", () => {
    expect(LAYOUT.reserved).toEqual([0xfff0_0000_0000_0ffen, 0xffff_ffff_ffff_0000n])
  })

  it("refuse values that do not fit: EINVAL", () => {
    expect(() => LAYOUT.encode({ V: 2n })).toThrow(/EINVAL: example.V/)
    expect(() => LAYOUT.encode({ TAG: -1n })).toThrow(/EINVAL/)
  })

  it("refuse fields that overlap, cross a word or lie outside", () => {
    const bad = (fields: Record<string, readonly [number, number, string]>): void => {
      expect(() => bitLayout("bad", "a test", 128, fields)).toThrow(/bug: bad/)
    }
    bad({ A: [3, 0, ""], B: [3, 3, ""] })
    bad({ A: [64, 60, ""] })
    bad({ A: [128, 128, ""] })
    bad({ A: [0, 3, ""] })
  })
})
