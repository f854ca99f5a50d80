/**
 * What unmapping left to do: the IOVA ranges whose cached translations must go, and the emptied tables that must
 * not be reused before they have. Linux's `struct iommu_iotlb_gather`, kept per table and exact: ranges are
 * disjoint, ascending, of one leaf size each, and cover whole leaves. (A range shorter than the leaf it cut into left stale translations
 * behind in Linux: CVE-2026-31735.)
 */
export interface Gather {
  /** Number of disjoint ranges waiting; 0 when nothing is. */
  readonly count: number
  /** First 4 KiB page of range n, and the last, as doubles (page number = IOVA / 4096). */
  firstPage(n: number): number
  lastPage(n: number): number
  /**
   * log2 of the size of the leaves that were in range n, the stride for hardware that invalidates by leaf; of the
   * smallest that could be there, where the range lost tables.
   */
  leafSizeLg2(n: number): number
  /** True when range n lost tables, not only leaves: paging-structure caches must go too. */
  lostTables(n: number): boolean
}

/** Ranges kept by a gather that rests in the pool; larger ones are left to the garbage collector. */
const POOLED_RANGES = 1024

/** One range in {@link RangeGather}: a stride of three doubles. */
const FIRST = 0
const LAST = 1
/** log2 of the smallest leaf, and {@link LOST_TABLES} */
const INFO = 2
const STRIDE = 3
const LOST_TABLES = 0x100

export class RangeGather implements Gather {
  /** Flat, so that adding a range allocates nothing once the array has grown. */
  private readonly ranges: number[] = []
  private used = 0
  private ordered = true
  private readonly tables: number[] = []

  get count(): number {
    if (!this.ordered) this.#order()
    return this.used / STRIDE
  }

  firstPage(n: number): number {
    return this.#at(n, FIRST)
  }

  lastPage(n: number): number {
    return this.#at(n, LAST)
  }

  leafSizeLg2(n: number): number {
    return this.#at(n, INFO) & 0xff
  }

  lostTables(n: number): boolean {
    return (this.#at(n, INFO) & LOST_TABLES) !== 0
  }

  /** Adds leaves of one size. */
  addLeaves(first: number, last: number, leafLg2: number): void {
    this.#add(first, last, leafLg2)
  }

  /** Adds a table that covered these pages; it is handed back in {@link takeTable}. */
  addTable(first: number, last: number, leafLg2: number, address: number): void {
    this.#add(first, last, leafLg2 | LOST_TABLES)
    this.tables.push(address)
  }

  /** Address of a table that waits to be freed, and forgets it; -1 when there is none. */
  takeTable(): number {
    return this.tables.pop() ?? -1
  }

  clear(): void {
    this.used = 0
    this.ordered = true
  }

  get isSmall(): boolean {
    return this.ranges.length <= POOLED_RANGES * STRIDE
  }

  #add(first: number, last: number, info: number): void {
    const { ranges, used } = this
    if (used > 0) {
      const previous = used - STRIDE
      const previousFirst = ranges[previous + FIRST] as number
      const previousLast = ranges[previous + LAST] as number
      const overlaps = first <= previousLast && last >= previousFirst
      if (overlaps || (first === previousLast + 1 && info === ranges[previous + INFO])) {
        if (first < previousFirst) {
          ranges[previous + FIRST] = first
          this.ordered = this.ordered && previous === 0
        }
        if (last > previousLast) ranges[previous + LAST] = last
        ranges[previous + INFO] = mergedInfo(ranges[previous + INFO] as number, info)
        return
      }
      if (first < previousFirst) this.ordered = false
    }
    ranges[used + FIRST] = first
    ranges[used + LAST] = last
    ranges[used + INFO] = info
    this.used = used + STRIDE
  }

  #at(n: number, what: number): number {
    if (!this.ordered) this.#order()
    return this.ranges[n * STRIDE + what] as number
  }

  /** Sorts the ranges and joins those that touch. */
  #order(): void {
    const copy = this.ranges.slice(0, this.used)
    const order = Array.from({ length: copy.length / STRIDE }, (_, n) => n * STRIDE)
    order.sort((a, b) => (copy[a + FIRST] as number) - (copy[b + FIRST] as number))
    this.clear()
    for (const at of order)
      this.#add(copy[at + FIRST] as number, copy[at + LAST] as number, copy[at + INFO] as number)
  }
}

/**
 * Leaves of different sizes at one address, one after the other, can only be invalidated together with the tables
 * above the smaller ones: a hint of one leaf size would miss the others.
 */
function mergedInfo(a: number, b: number): number {
  return a === b ? a : Math.min(a & 0xff, b & 0xff) | LOST_TABLES
}

/** What a table without pending ranges shows; never added to. */
export const NOTHING_GATHERED: RangeGather = new RangeGather()

const pool: RangeGather[] = []

/** An empty gather. Tables have one only while something waits in it: a domain at rest pays nothing. */
export function takeGather(): RangeGather {
  return pool.pop() ?? new RangeGather()
}

/** Back to the pool, emptied. */
export function giveGather(gather: RangeGather): void {
  gather.clear()
  if (gather.isSmall && pool.length < 16) pool.push(gather)
}
