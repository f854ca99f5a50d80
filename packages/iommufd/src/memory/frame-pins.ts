/**
 * How often each page of a machine's memory is pinned: the part of Linux's `struct folio` that iommufd changes.
 *
 * Counts lie in blocks of 2 MiB, the pieces that memory comes in. A block whose pages are all pinned equally often is
 * one number.
 */
const BLOCK_PAGES = 512

/** Physically contiguous pages. */
export interface FrameRun {
  /** Number of the first page: its physical address / 4096. */
  readonly frame: number
  readonly pages: number
}

export class FramePins {
  readonly #blocks = new Map<number, number | Uint32Array>()
  #total = 0

  /** Pins of all pages together. */
  get total(): number {
    return this.#total
  }

  /** How often the page is pinned. */
  count(frame: number): number {
    const block = this.#blocks.get(Math.floor(frame / BLOCK_PAGES))
    return typeof block === "object" ? (block[frame % BLOCK_PAGES] as number) : (block ?? 0)
  }

  pin(frame: number, pages: number): void {
    this.#change(frame, pages, 1)
  }

  unpin(frame: number, pages: number): void {
    this.#change(frame, pages, -1)
  }

  #change(frame: number, pages: number, delta: 1 | -1): void {
    const end = frame + pages
    for (let at = frame; at < end; ) {
      const index = Math.floor(at / BLOCK_PAGES)
      const stop = Math.min(end, (index + 1) * BLOCK_PAGES)
      this.#changeBlock(index, at % BLOCK_PAGES, stop - at, delta)
      at = stop
    }
    this.#total += delta * pages
  }

  #changeBlock(index: number, first: number, pages: number, delta: 1 | -1): void {
    const block = this.#blocks.get(index) ?? 0
    if (pages === BLOCK_PAGES && typeof block === "number") {
      if (block + delta < 0) throw underflow(index * BLOCK_PAGES)
      if (block + delta === 0) this.#blocks.delete(index)
      else this.#blocks.set(index, block + delta)
      return
    }
    const counts = typeof block === "object" ? block : new Uint32Array(BLOCK_PAGES).fill(block)
    for (let page = first; page < first + pages; page++) {
      const count = (counts[page] as number) + delta
      if (count < 0) throw underflow(index * BLOCK_PAGES + page)
      counts[page] = count
    }
    this.#blocks.set(index, counts)
    const neighbour = first > 0 ? first - 1 : first + pages
    if (neighbour === BLOCK_PAGES || counts[first] === counts[neighbour]) this.#join(index, counts)
  }

  /** The first and the last count decide most often that the block stays as it is. */
  #join(index: number, counts: Uint32Array): void {
    const count = counts[0] as number
    if (counts[BLOCK_PAGES - 1] !== count || !counts.every(other => other === count)) return
    if (count === 0) this.#blocks.delete(index)
    else this.#blocks.set(index, count)
  }
}

function underflow(frame: number): Error {
  return new Error(`bug: frame 0x${frame.toString(16)} is unpinned more often than pinned`)
}
