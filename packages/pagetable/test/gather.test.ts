import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { giveGather, RangeGather, takeGather } from "../src/gather.ts"

describe("RangeGather", () => {
  it("covers exactly what was added, in disjoint ascending ranges", () => {
    const add = fc.record({
      first: fc.nat(200),
      pages: fc.integer({ min: 1, max: 12 }),
      lg2: fc.constantFrom(12, 21),
    })
    const property = fc.property(fc.array(add, { maxLength: 30 }), adds => {
      const gather = new RangeGather()
      const naive = new Set<number>()
      for (const { first, pages, lg2 } of adds) {
        gather.addLeaves(first, first + pages - 1, lg2)
        for (let page = first; page < first + pages; page++) naive.add(page)
      }
      const covered: number[] = []
      for (let n = 0; n < gather.count; n++) {
        if (n > 0) expect(gather.firstPage(n)).toBeGreaterThan(gather.lastPage(n - 1))
        for (let page = gather.firstPage(n); page <= gather.lastPage(n); page++) covered.push(page)
      }
      expect(covered).toEqual([...naive].sort((a, b) => a - b))
    })
    fc.assert(property, { seed: 11, numRuns: 1500 })
  })

  it("joins neighbours of one leaf size, and keeps leaf sizes apart", () => {
    const gather = new RangeGather()
    gather.addLeaves(0, 3, 12)
    gather.addLeaves(4, 9, 12)
    gather.addLeaves(512, 1023, 21)
    gather.addLeaves(1024, 1024, 12)
    expect(gather.count).toBe(3)
    expect([0, 1, 2].map(n => gather.leafSizeLg2(n))).toEqual([12, 21, 12])
    expect([0, 1, 2].some(n => gather.lostTables(n))).toBe(false)
  })

  it("gives no leaf size to rely on where sizes took turns at one address", () => {
    const gather = new RangeGather()
    gather.addLeaves(512, 1023, 21)
    gather.addLeaves(600, 600, 12)
    expect(gather.count).toBe(1)
    expect([gather.firstPage(0), gather.lastPage(0)]).toEqual([512, 1023])
    expect(gather.lostTables(0)).toBe(true)
  })

  it("hands tables back once", () => {
    const gather = new RangeGather()
    gather.addTable(0, 511, 12, 0x5000)
    gather.addTable(512, 1023, 12, 0x7000)
    expect(gather.count).toBe(1)
    expect([gather.takeTable(), gather.takeTable(), gather.takeTable()]).toEqual([0x7000, 0x5000, -1])
  })

  it("is empty when it comes from the pool", () => {
    const gather = takeGather()
    gather.addLeaves(1, 2, 12)
    giveGather(gather)
    const again = takeGather()
    expect(again).toBe(gather)
    expect(again.count).toBe(0)
  })
})
