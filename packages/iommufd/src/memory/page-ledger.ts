/**
 * Which pages of a mapping are pinned, for how many users, and where they lie: what Linux keeps in the tables of the
 * domains and the xarray of an `iopt_pages`.
 *
 * Pages are grouped in blocks of 2 MiB, the pieces that memory comes in. A block whose pages have equally many users
 * and contiguous frames is two numbers, so that a terabyte costs some 30 MB; only others have arrays. One without users
 * does not exist: mappings may be as long as the address space.
 */
import type { FrameRun } from "./frame-pins.ts"

/** Contiguous frames and the page of the mapping that they begin at. */
export interface PageRun extends FrameRun {
  readonly page: number
}

/** Contiguous pages of the mapping. */
export interface PageRange {
  readonly page: number
  readonly pages: number
}

/** All pages alike: the frame is that of the first. */
interface PlainBlock {
  readonly kind: "plain"
  users: number
  readonly frame: number
}

interface MixedBlock {
  readonly kind: "mixed"
  readonly users: Uint32Array
  /** Of pages with users alone; others hold what they held last. */
  readonly frames: Float64Array
}

const BLOCK_PAGES = 512

export class PageLedger {
  readonly pages: number
  readonly #blocks: (PlainBlock | MixedBlock | undefined)[] = []

  constructor(pages: number) {
    this.pages = pages
  }

  users(page: number): number {
    const block = this.#blocks[Math.floor(page / BLOCK_PAGES)]
    if (block === undefined) return 0
    return block.kind === "plain" ? block.users : (block.users[page % BLOCK_PAGES] as number)
  }

  /** The first pages without users from a page on, before `end` and within one block: what to pin next. */
  nextUnused(page: number, end: number): PageRange | null {
    for (let at = page; at < end; ) {
      const index = Math.floor(at / BLOCK_PAGES)
      const base = index * BLOCK_PAGES
      const stop = Math.min(end, base + BLOCK_PAGES)
      const block = this.#blocks[index]
      if (block === undefined) return { page: at, pages: stop - at }
      if (block.kind === "mixed") {
        while (at < stop && block.users[at - base] !== 0) at++
        let last = at
        while (last < stop && block.users[last - base] === 0) last++
        if (last > at) return { page: at, pages: last - at }
      }
      at = stop
    }
    return null
  }

  /** Gives each page of a range one more user. `pinned` says where those lie that had none, ascending. */
  hold(first: number, pages: number, pinned: readonly PageRun[]): void {
    let run = 0
    this.#forEachBlock(first, pages, (index, from, count) => {
      const start = index * BLOCK_PAGES + from
      while (run < pinned.length && endOf(pinned[run] as PageRun) <= start) run++
      if (count === this.#pagesOf(index) && this.#holdPlain(index, pinned[run])) return
      const block = this.#mix(index)
      for (let at = run; at < pinned.length && (pinned[at] as PageRun).page < start + count; at++) {
        fillFrames(block.frames, index * BLOCK_PAGES, pinned[at] as PageRun)
      }
      for (let page = from; page < from + count; page++) block.users[page] = (block.users[page] as number) + 1
      this.#join(index, block)
    })
  }

  /**
   * Takes one user from each page of a range.
   * @returns where the pages lie that have none left
   */
  drop(first: number, pages: number): FrameRun[] {
    const left: FrameRun[] = []
    this.#forEachBlock(first, pages, (index, from, count) => {
      const block = this.#blocks[index]
      if (block === undefined) throw new Error("bug: a page without users loses one")
      if (block.kind === "plain" && count === this.#pagesOf(index)) {
        block.users--
        if (block.users > 0) return
        addRun(left, block.frame, count)
        this.#blocks[index] = undefined
        return
      }
      const mixed = this.#mix(index)
      for (let page = from; page < from + count; page++) {
        const remaining = (mixed.users[page] as number) - 1
        if (remaining < 0) throw new Error("bug: a page without users loses one")
        mixed.users[page] = remaining
        if (remaining === 0) addRun(left, mixed.frames[page] as number, 1)
      }
      this.#join(index, mixed)
    })
    return left
  }

  /** Contiguous frames from a page with users on, at most `pages` of them. */
  runAt(page: number, pages: number): FrameRun {
    const end = page + pages
    let frame = 0
    let at = page
    while (at < end) {
      const index = Math.floor(at / BLOCK_PAGES)
      const base = index * BLOCK_PAGES
      const stop = Math.min(end, base + BLOCK_PAGES)
      const block = this.#blocks[index]
      if (block === undefined) throw new Error("bug: the place of a page without users is asked for")
      if (at === page) frame = frameIn(block, at - base)
      if (block.kind === "plain") {
        if (block.frame + at - base !== frame + at - page) break
        at = stop
        continue
      }
      while (at < stop && block.frames[at - base] === frame + at - page) at++
      if (at < stop) break
    }
    return { frame, pages: at - page }
  }

  /** True when the whole block could get its user without arrays. */
  #holdPlain(index: number, run: PageRun | undefined): boolean {
    const block = this.#blocks[index]
    if (block !== undefined) {
      if (block.kind === "plain") block.users++
      return block.kind === "plain"
    }
    const start = index * BLOCK_PAGES
    if (run === undefined || run.page > start || endOf(run) < start + this.#pagesOf(index)) return false
    this.#blocks[index] = { kind: "plain", users: 1, frame: run.frame + start - run.page }
    return true
  }

  #pagesOf(index: number): number {
    return Math.min(BLOCK_PAGES, this.pages - index * BLOCK_PAGES)
  }

  #forEachBlock(
    first: number,
    pages: number,
    visit: (index: number, from: number, count: number) => void,
  ): void {
    const end = first + pages
    for (let at = first; at < end; ) {
      const index = Math.floor(at / BLOCK_PAGES)
      const stop = Math.min(end, (index + 1) * BLOCK_PAGES)
      visit(index, at - index * BLOCK_PAGES, stop - at)
      at = stop
    }
  }

  #mix(index: number): MixedBlock {
    const block = this.#blocks[index]
    if (block?.kind === "mixed") return block
    const pages = this.#pagesOf(index)
    const mixed: MixedBlock = {
      kind: "mixed",
      users: new Uint32Array(pages),
      frames: new Float64Array(pages),
    }
    if (block !== undefined) {
      mixed.users.fill(block.users)
      fillFrames(mixed.frames, 0, { page: 0, pages, frame: block.frame })
    }
    this.#blocks[index] = mixed
    return mixed
  }

  /** Makes a block plain again when it can be. First and last page decide most often that it cannot. */
  #join(index: number, { users, frames }: MixedBlock): void {
    const count = users[0] as number
    const frame = frames[0] as number
    if (users.at(-1) !== count || !users.every(other => other === count)) return
    if (count > 0 && !frames.every((other, page) => other === frame + page)) return
    this.#blocks[index] = count === 0 ? undefined : { kind: "plain", users: count, frame }
  }
}

function frameIn(block: PlainBlock | MixedBlock, page: number): number {
  return block.kind === "plain" ? block.frame + page : (block.frames[page] as number)
}

function endOf(run: PageRun): number {
  return run.page + run.pages
}

function addRun(runs: FrameRun[], frame: number, pages: number): void {
  const last = runs.at(-1)
  if (last !== undefined && last.frame + last.pages === frame) {
    runs[runs.length - 1] = { frame: last.frame, pages: last.pages + pages }
  } else {
    runs.push({ frame, pages })
  }
}

/** Writes the part of a run that lies in a block. */
function fillFrames(frames: Float64Array, base: number, run: PageRun): void {
  const last = Math.min(endOf(run), base + frames.length)
  for (let page = Math.max(run.page, base); page < last; page++) {
    frames[page - base] = run.frame + page - run.page
  }
}
