import { hi32, lo32 } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { bestPageSizeLg2, floorLg2, nextPageSizeLg2, pow2 } from "../src/page-size.ts"
import { naiveBestSize } from "./model.ts"

const sizes = fc.bigInt({ min: 0n, max: (1n << 52n) - 1n }).map(bits => bits & ~0xfffn)
/** Addresses with many zeros at the end. */
const address = fc
  .tuple(fc.bigInt({ min: 0n, max: (1n << 52n) - 1n }), fc.nat(51))
  .map(([bits, shift]) => (bits << BigInt(shift)) & ((1n << 52n) - 4096n))

describe("page sizes", () => {
  it("picks the size that trying all of them picks", () => {
    const property = fc.property(sizes, address, address, address, (set, iova, pa, size) => {
      const both = iova | pa
      const pages = Number(size >> 12n) + 1
      const best = bestPageSizeLg2(hi32(set), lo32(set), hi32(both), lo32(both), pages)
      const naive = naiveBestSize(set, iova, pa, BigInt(pages) << 12n)
      expect(best < 0 ? null : 1n << BigInt(best)).toBe(naive)
    })
    fc.assert(property, { seed: 7, numRuns: 4000 })
  })

  it("finds the next larger size as a search does", () => {
    const property = fc.property(sizes, fc.integer({ min: 12, max: 62 }), (set, lg2) => {
      const above = Array.from({ length: 63 - lg2 }, (_, n) => lg2 + 1 + n)
      const naive = above.find(bit => ((set >> BigInt(bit)) & 1n) === 1n) ?? -1
      expect(nextPageSizeLg2(hi32(set), lo32(set), lg2)).toBe(naive)
    })
    fc.assert(property, { seed: 8, numRuns: 2000 })
  })

  it("takes logarithms of page counts up to 2^52", () => {
    for (let lg2 = 0; lg2 <= 52; lg2++) {
      expect(floorLg2(pow2(lg2))).toBe(lg2)
      if (lg2 > 1) expect(floorLg2(pow2(lg2) - 1)).toBe(lg2 - 1)
    }
  })
})
