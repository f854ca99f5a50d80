import { IdPool } from "@iommu/core"
import { describe, expect, it } from "vitest"

describe("id pool", () => {
  it("hands out each number once, takes them back, and ends with ENOSPC", () => {
    const pool = new IdPool("tag", 3, 5)
    expect([pool.take(), pool.take(), pool.take()]).toEqual([3, 4, 5])
    expect(() => pool.take()).toThrow(/ENOSPC: all tags up to 5/)
    pool.give(4)
    expect(pool.take()).toBe(4)
    expect(() => pool.take()).toThrow(/ENOSPC/)
  })
})
