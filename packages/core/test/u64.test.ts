import { fromHalves, halvesToNumber, hex64, hi32, lo32, toU64, U64_MAX } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const u64 = fc.bigInt({ min: 0n, max: U64_MAX })

describe("64-bit values", () => {
  it("split into halves and join again", () => {
    fc.assert(
      fc.property(u64, value => {
        expect([hi32(value), lo32(value)]).toEqual([Number(value >> 32n), Number(value & 0xffff_ffffn)])
        expect(fromHalves(hi32(value), lo32(value))).toBe(value)
      }),
      { seed: 1 },
    )
  })

  it("join from signed halves as from unsigned ones", () => {
    expect(fromHalves(-1, -1)).toBe(U64_MAX)
    expect(halvesToNumber(0xf_ffff, -4096)).toBe(2 ** 52 - 4096)
  })

  it("are refused when negative, too wide, or a number that is no safe integer", () => {
    for (const wrong of [-1n, 1n << 64n, -1, 1.5, 2 ** 53, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => toU64(wrong, "iova")).toThrow(/EINVAL: iova/)
    }
    expect(toU64(2 ** 53 - 1, "iova")).toBe(0x1f_ffff_ffff_ffffn)
    expect(toU64(U64_MAX, "iova")).toBe(U64_MAX)
  })

  it("print as logs do", () => {
    expect(hex64(0xfee0_0000n)).toBe("0xfee00000")
  })
})
