import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { type Interval, IntervalTree } from "../src/ioas/interval-tree.ts"

const U64_MAX = (1n << 64n) - 1n

/** The same by looking at all of a sorted list. */
class SortedList {
  readonly items: Interval[] = []

  firstOverlap(start: bigint, last: bigint): Interval | undefined {
    return this.items.find(item => item.start <= last && item.last >= start)
  }

  insert(item: Interval): void {
    this.items.push(item)
    this.items.sort((a, b) => (a.start < b.start ? -1 : 1))
  }

  holeFrom(from: bigint, length: bigint): Interval | undefined {
    let at = 0n
    for (const item of [...this.items, { start: U64_MAX + 1n, last: U64_MAX + 1n }]) {
      const last = item.start - 1n
      if (last >= from && last - at + 1n >= length && last >= at)
        return { start: at > from ? at : from, last }
      at = item.last + 1n
    }
    return undefined
  }
}

/** Few starts, so that intervals meet; near both ends of the address space and around 2^53, where doubles round. */
const address = fc.oneof(
  fc.bigInt(0n, 400n),
  fc.bigInt(0n, 400n).map(n => U64_MAX - n),
  fc.bigInt(-200n, 200n).map(n => (1n << 53n) + n),
  fc.bigInt(-200n, 200n).map(n => (1n << 63n) + n),
)
const step = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({ kind: fc.constant("insert" as const), at: address, size: fc.bigInt(1n, 40n) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant("remove" as const), at: address, size: fc.bigInt(1n, 40n) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("hole" as const),
      at: address,
      size: fc.oneof(fc.bigInt(1n, 80n), address),
    }),
  },
)

describe("interval tree", () => {
  it("finds what looking at every interval finds", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), steps => {
        const tree = new IntervalTree<Interval>()
        const list = new SortedList()
        for (const { kind, at, size } of steps) {
          const last = at + size - 1n > U64_MAX ? U64_MAX : at + size - 1n
          const found = tree.firstOverlap(at, last)
          expect(found).toBe(list.firstOverlap(at, last))
          if (kind === "insert" && !found) {
            const item = { start: at, last }
            tree.insert(item)
            list.insert(item)
          }
          if (kind === "remove" && found) {
            tree.remove(found)
            list.items.splice(list.items.indexOf(found), 1)
          }
          if (kind === "hole" && size > 0n) expectSameHole(tree, list, at, size)
          expect(tree.size).toBe(list.items.length)
        }
        expect([...tree]).toEqual(list.items)
      }),
      { seed: 4, numRuns: 2000 },
    )
  })

  it("stays balanced when intervals come in order", () => {
    const tree = new IntervalTree<Interval>()
    for (let n = 0n; n < 100_000n; n++) tree.insert({ start: n * 2n, last: n * 2n })
    expect(tree.holeFrom(0n, 1n)).toEqual({ start: 1n, last: 1n })
    expect(tree.holeFrom(0n, 2n)).toEqual({ start: 199_999n, last: U64_MAX })
    for (let n = 0n; n < 99_999n; n++) tree.remove(tree.firstOverlap(0n, U64_MAX) as Interval)
    expect([...tree]).toEqual([{ start: 199_998n, last: 199_998n }])
  })

  it("knows its own bugs", () => {
    const tree = new IntervalTree<Interval>()
    tree.insert({ start: 1n, last: 2n })
    expect(() => tree.remove({ start: 1n, last: 2n })).toThrow(/bug/)
  })
})

/** Holes may be named that are too short by what a double rounds away, never the other way round. */
function expectSameHole(tree: IntervalTree<Interval>, list: SortedList, from: bigint, length: bigint): void {
  const exact = list.holeFrom(from, length)
  let at = from
  for (;;) {
    const hole = tree.holeFrom(at, length)
    if (hole === undefined || (exact && hole.last === exact.last)) {
      expect(hole).toEqual(
        exact === undefined ? undefined : { ...exact, start: exact.start > at ? exact.start : at },
      )
      return
    }
    expect(exact === undefined || hole.last < exact.last).toBe(true)
    at = hole.last + 1n
    if (at > U64_MAX) {
      expect(exact).toBeUndefined()
      return
    }
  }
}
