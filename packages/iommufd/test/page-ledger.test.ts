import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { PageLedger, type PageRun } from "../src/memory/page-ledger.ts"

/** Enough for several of the smallest blocks, the last not full. */
const PAGES = 512 * 3 + 100
const ranges = fc.array(
  fc.record({
    first: fc.nat(PAGES - 1),
    pages: fc.integer({ min: 1, max: PAGES }),
    run: fc.constantFrom(1, 7, 300, 5000),
  }),
  { minLength: 1, maxLength: 8 },
)

describe("page ledger", () => {
  it("knows users and places of pages as a table of pages does, whatever order they come and go in", () => {
    fc.assert(
      fc.property(ranges, fc.nat(), (list, shuffle) => {
        const ledger = new PageLedger(PAGES)
        const users = new Array<number>(PAGES).fill(0)
        const frames = new Array<number>(PAGES).fill(-1)
        const held = list.map(({ first, pages, run }) => ({
          first,
          pages: Math.min(pages, PAGES - first),
          run,
        }))
        for (const { first, pages, run } of held) {
          ledger.hold(first, pages, pinUnused(ledger, first, first + pages, run, frames))
          for (let page = first; page < first + pages; page++) users[page] = (users[page] as number) + 1
          expectSame(ledger, users, frames)
        }
        for (const { first, pages } of held.sort(
          (a, b) => ((a.first * shuffle) % 7) - ((b.first * shuffle) % 7),
        )) {
          const gone = ledger
            .drop(first, pages)
            .flatMap(run => Array.from({ length: run.pages }, (_, n) => run.frame + n))
          const wanted: number[] = []
          for (let page = first; page < first + pages; page++) {
            users[page] = (users[page] as number) - 1
            if (users[page] === 0) wanted.push(frames[page] as number)
          }
          expect(gone).toEqual(wanted)
          expectSame(ledger, users, frames)
        }
      }),
      { seed: 12, numRuns: 60 },
    )
  })

  it("knows its own bugs", () => {
    const ledger = new PageLedger(600)
    ledger.hold(0, 10, [{ page: 0, pages: 10, frame: 5 }])
    expect(() => ledger.drop(10, 1)).toThrow(/bug/)
    expect(() => ledger.drop(520, 1)).toThrow(/bug/)
    expect(() => ledger.runAt(520, 1)).toThrow(/bug/)
  })
})

/** Places that continue for `run` pages, and then leave a gap. */
function pinUnused(ledger: PageLedger, first: number, end: number, run: number, frames: number[]): PageRun[] {
  const pinned: PageRun[] = []
  for (let gap = ledger.nextUnused(first, end); gap; gap = ledger.nextUnused(gap.page + gap.pages, end)) {
    for (let page = gap.page; page < gap.page + gap.pages; page++) {
      const frame = 0x1000 + page + Math.floor(page / run) * 8
      frames[page] = frame
      const last = pinned.at(-1)
      if (last && last.page + last.pages === page && last.frame + last.pages === frame) {
        pinned[pinned.length - 1] = { ...last, pages: last.pages + 1 }
      } else pinned.push({ page, pages: 1, frame })
    }
  }
  return pinned
}

function expectSame(ledger: PageLedger, users: readonly number[], frames: readonly number[]): void {
  expect(users.map((_, page) => ledger.users(page)).join()).toBe(users.join())
  for (let page = 0; page < PAGES; ) {
    if (users[page] === 0) {
      page++
      continue
    }
    let end = page + 1
    while (end < PAGES && users[end] !== 0 && frames[end] === (frames[end - 1] as number) + 1) end++
    expect(ledger.runAt(page, end - page)).toEqual({ frame: frames[page], pages: end - page })
    page = end
  }
}
