import { DirtyBitmap } from "@iommu/core"
import { describe, expect, it } from "vitest"

describe("dirty bitmap", () => {
  it("marks every page that a range touches, within its own range", () => {
    const dirty = new DirtyBitmap(0x10_0000, 64 * 4096, 4096)
    dirty.mark(0x10_0fffn, 2n)
    dirty.mark(0x0n, 0x10_0000n)
    dirty.mark(0x10_0000n + 63n * 4096n, 1n << 40n)
    expect([0, 1, 2, 62, 63].map(page => dirty.has(0x10_0000 + page * 4096))).toEqual([
      true,
      true,
      false,
      false,
      true,
    ])
    expect(dirty.count).toBe(3)
    expect(dirty.has(0)).toBe(false)
    expect(dirty.has(0x10_0000 + 64 * 4096)).toBe(false)
  })

  it("sets exactly the bits of a range, wherever it begins and ends in a word", () => {
    for (const [first, last] of [
      [0, 0],
      [31, 31],
      [0, 31],
      [31, 32],
      [5, 64],
      [32, 95],
      [33, 200],
      [63, 255],
    ] as const) {
      const dirty = new DirtyBitmap(0, 256 * 4096, 4096)
      dirty.mark(BigInt(first) * 4096n, BigInt(last - first + 1) * 4096n)
      const set = Array.from({ length: 256 }, (_, page) => page).filter(page => dirty.has(page * 4096))
      expect(set).toEqual(Array.from({ length: last - first + 1 }, (_, n) => first + n))
    }
  })

  it("stands for larger pages with one bit each", () => {
    const dirty = new DirtyBitmap(0, 1 << 30, 2 << 20)
    dirty.mark(0x40_0000n - 1n, 2n)
    expect([...dirty.words.slice(0, 2)]).toEqual([0b110, 0])
  })

  it("refuses page sizes that do not fit: EINVAL", () => {
    expect(() => new DirtyBitmap(0, 4096, 3000)).toThrow(/EINVAL/)
    expect(() => new DirtyBitmap(0, 4096, 0)).toThrow(/EINVAL/)
    expect(() => new DirtyBitmap(0x800, 4096, 4096)).toThrow(/EINVAL/)
    expect(() => new DirtyBitmap(0, 6144, 4096)).toThrow(/EINVAL/)
  })
})
