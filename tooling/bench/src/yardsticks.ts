/** The two yardsticks: `Int32Array.fill` of the same bytes, and a walk of ten lines that checks next to nothing. */
import type { Yardstick } from "./bench-case.ts"

/** Fills as many 8-byte entries as the work it is compared with writes. */
export function fillYardstick(entries: number): Yardstick {
  const words = new Int32Array(entries * 2)
  let value = 1
  return {
    name: "fill",
    operations: entries,
    run: () => {
      words.fill(value++)
      return words[entries] as number
    },
  }
}

/** Table memory of the bare walk: words, and a four-level table over `pages` 4 KiB pages from IOVA 0. */
export interface BareTable {
  readonly words: Uint32Array
  readonly root: number
}

const PRESENT = 1
const LARGE = 0x80
const ENTRIES = 512

export function bareTable(pages: number): BareTable {
  const leafTables = Math.ceil(pages / ENTRIES)
  const middleTables = Math.ceil(leafTables / ENTRIES)
  const tables = 2 + middleTables + leafTables
  const words = new Uint32Array(tables * ENTRIES * 2)
  const link = (table: number, index: number, to: number): void => {
    words[(table * ENTRIES + index) * 2] = to * 4096 + PRESENT
  }
  link(0, 0, 1)
  for (let n = 0; n < middleTables; n++) link(1, n, 2 + n)
  for (let n = 0; n < leafTables; n++) link(2 + Math.floor(n / ENTRIES), n % ENTRIES, 2 + middleTables + n)
  for (let n = 0; n < pages; n++) {
    words[((2 + middleTables) * ENTRIES + n) * 2] = (((n * 7919) & 0xfffff) << 12) | PRESENT
  }
  return { words, root: 0 }
}

export const barePa: Int32Array = new Int32Array(2)

/** What {@link bareWalk} of hot pages takes on the machine that the goals of this project were set on. */
export const BARE_WALK_NS = 7.6

/**
 * Address is index, every level unrolled, present and leaf checked at each, result in a reused record: the form that
 * the goals of this project were set against.
 */
export function bareWalk({ words, root }: BareTable, iovaHi: number, iovaLo: number): number {
  let entry = words[root + ((iovaHi >>> 6) & 0x3fe)] as number
  if ((entry & PRESENT) === 0) return -1
  if ((entry & LARGE) !== 0) return -2
  entry = words[((entry & -4096) >>> 2) + (((iovaHi << 3) | (iovaLo >>> 29)) & 0x3fe)] as number
  if ((entry & PRESENT) === 0) return -1
  if ((entry & LARGE) !== 0) return -2
  entry = words[((entry & -4096) >>> 2) + ((iovaLo >>> 20) & 0x3fe)] as number
  if ((entry & PRESENT) === 0) return -1
  if ((entry & LARGE) !== 0) return -2
  const leaf = ((entry & -4096) >>> 2) + ((iovaLo >>> 11) & 0x3fe)
  entry = words[leaf] as number
  if ((entry & PRESENT) === 0) return -1
  barePa[0] = (entry & -4096) | (iovaLo & 0xfff)
  barePa[1] = words[leaf + 1] as number
  return 0
}

/** IOVAs to look up, halves side by side: hi, lo, hi, lo... */
export function addressesOf(pages: Int32Array, pageLg2: number): Int32Array {
  const halves = new Int32Array(pages.length * 2)
  pages.forEach((page, n) => {
    halves[n * 2] = page >>> (32 - pageLg2)
    halves[n * 2 + 1] = page << pageLg2
  })
  return halves
}

/** Walks to a list of page numbers below `pages`. */
export function walkYardstick(pages: number, list: Int32Array): Yardstick {
  const table = bareTable(pages)
  const addresses = addressesOf(list, 12)
  return {
    name: "bare walk",
    operations: list.length,
    run: () => {
      let sum = 0
      for (let n = 0; n < addresses.length; n += 2) {
        const status = bareWalk(table, addresses[n] as number, addresses[n + 1] as number)
        sum = (sum + status + (barePa[0] as number)) | 0
      }
      return sum
    },
  }
}
