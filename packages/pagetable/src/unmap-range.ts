/**
 * Unmapping: leaves in the range go, holes are passed over, tables whose whole span lies in the range are unlinked
 * and wait in the gather.
 *
 * A leaf is never split. One that the range begins inside stays, and unmapping stops there; one that the range
 * ends inside stays too or goes whole, as the format says (Linux: `generic_pt` removes it and reports the larger
 * size, `io-pgtable-arm` since 6.13 refuses).
 */
import { skipEmpty, skipPlain, skipPresent } from "./fill.ts"
import type { RangeGather } from "./gather.ts"
import { itemLg2, itemPages, leafLg2 } from "./leaf.ts"
import { leafTable } from "./leaf-table.ts"
import { offsetIn, pow2 } from "./page-size.ts"
import { isTable, type TableTree } from "./table-tree.ts"

/** 4 KiB pages removed by the unmap that is running. */
let removed = 0
/** Set when it met a leaf that stays. */
let stopped = false

const PAGES_PER_4G = 0x10_0000

/** Fewer entries than this are cleared faster one by one than by `fill` (a call of 30 ns). */
const FEW_ENTRIES = 12

/**
 * Unmaps `[page, page + pages)`, both counted in 4 KiB pages.
 * @returns 4 KiB pages that are no longer mapped
 */
export function unmapRange(tree: TableTree, page: number, pages: number): number {
  const { geometry } = tree
  if (tree.levels === 0) return 0
  const first = Math.max(page, geometry.firstPage)
  const last = Math.min(page + pages, geometry.lastPage + 1, geometry.reachPages) - 1
  if (first > last) return 0
  removed = 0
  stopped = false
  if (!clearWithinTable(tree, first, last)) {
    clearTable(tree, tree.gathering(), false, tree.rootWord, tree.levels - 1, 0, first, last)
  }
  if (tree.pending.count === 0) tree.gatherDone()
  return removed
}

/** A range of less than one table of level 0, without a recursion (100 ns). @returns false where that is not so */
function clearWithinTable(tree: TableTree, first: number, last: number): boolean {
  const span = itemPages(tree.format, 1)
  const base = first - offsetIn(first, span)
  if (last - first + 1 >= span || last >= base + span) return false
  const hi = Math.floor(first / PAGES_PER_4G)
  const table = leafTable(tree, hi, (first - hi * PAGES_PER_4G) << 12)
  if (table >= 0) clearLeaves(tree, tree.gathering(), false, table, base, first, last)
  return table >= 0
}

/**
 * @param covered by the range whole, as a table of its parent that will gather it
 * @param base page of the table's first entry
 */
function clearTable(
  tree: TableTree,
  gather: RangeGather,
  covered: boolean,
  table: number,
  level: number,
  base: number,
  first: number,
  last: number,
): void {
  const item = itemPages(tree.format, level)
  const from = base + Math.floor((Math.max(first, base) - base) / item) * item
  if (level === 0) {
    clearLeaves(tree, gather, covered, table, base, from, last)
    return
  }
  const { format } = tree
  const { words } = tree
  let at = from
  while (at <= last && !stopped) {
    const slot = table + ((at - base) / item) * 2
    const lo = words[slot] as number
    const hi = words[slot + 1] as number
    if (isTable(format, lo, level)) {
      const slotLast = at + item - 1
      const whole = at >= first && slotLast <= last
      const end = Math.min(last, slotLast)
      clearTable(tree, gather, whole, tree.wordOfTable(hi, lo), level - 1, at, Math.max(first, at), end)
      if (whole) {
        words[slot] = 0
        words[slot + 1] = 0
        gather.addTable(at, slotLast, itemLg2(format, level - 1), tree.addressOfTable(hi, lo))
      }
      at += item
    } else if ((lo | hi) === 0) {
      at += item
    } else {
      at = clearLeaf(tree, gather, covered, table, level, base, at, first, last)
    }
  }
}

/** Clears one leaf with its run. @returns the page after it */
function clearLeaf(
  tree: TableTree,
  gather: RangeGather,
  covered: boolean,
  table: number,
  level: number,
  base: number,
  at: number,
  first: number,
  last: number,
): number {
  const { format } = tree
  const { words } = tree
  const item = itemPages(format, level)
  const slot = table + ((at - base) / item) * 2
  const sizeLg2 = leafLg2(format, words[slot + 1] as number, words[slot] as number, level)
  const pages = pow2(sizeLg2 - 12)
  const start = at - offsetIn(at - base, pages)
  if (start < first || (start + pages - 1 > last && format.cutLeafGoes === 0)) {
    stopped = true
    return last + 1
  }
  clearEntries(tree, table / 2 + (start - base) / item, pages / item)
  removed += pages
  if (!covered) gather.addLeaves(start, start + pages - 1, sizeLg2)
  return start + pages
}

/** A table of level 0: stretches of single-entry leaves at once, runs one by one. */
function clearLeaves(
  tree: TableTree,
  gather: RangeGather,
  covered: boolean,
  table: number,
  base: number,
  first: number,
  last: number,
): void {
  const { format, memory, geometry } = tree
  const unit = itemPages(format, 0)
  const origin = table / 2
  const end = origin + Math.floor((last - base) / unit) + 1
  let at = origin + (first - base) / unit
  while (true) {
    at = skipEmpty(memory.doubles, at, end)
    if (at >= end || stopped) return
    const stop =
      geometry.smallRuns === 0
        ? skipPresent(tree.words, at, end, format.presentMask)
        : skipPlain(tree.words, at, end, format.presentMask, format.runBitsHi, format.runBitsLo)
    const from = base + (at - origin) * unit
    if (stop === at) {
      at = origin + (clearLeaf(tree, gather, covered, table, 0, base, from, first, last) - base) / unit
      continue
    }
    clearEntries(tree, at, stop - at)
    removed += (stop - at) * unit
    if (!covered) gather.addLeaves(from, from + (stop - at) * unit - 1, format.granuleLg2)
    at = stop
  }
}

function clearEntries(tree: TableTree, at: number, count: number): void {
  const { doubles } = tree.memory
  if (count > FEW_ENTRIES) doubles.fill(0, at, at + count)
  else for (let i = at; i < at + count; i++) doubles[i] = 0
}

/** True when nothing is mapped below a table; emptied tables may still be linked in it. */
export function isEmptyTable(tree: TableTree, table: number, level: number): boolean {
  const { format } = tree
  const { words } = tree
  const { doubles } = tree.memory
  const at = table / 2
  const end = at + 2 ** format.indexBits
  if (level === 0) return skipEmpty(doubles, at, end) === end
  for (let slot = table; slot < end * 2; slot += 2) {
    const lo = words[slot] as number
    const hi = words[slot + 1] as number
    if ((lo | hi) === 0) continue
    if (!isTable(format, lo, level)) return false
    if (!isEmptyTable(tree, tree.wordOfTable(hi, lo), level - 1)) return false
  }
  return true
}

/**
 * Puts an unlinked, empty table and those below it into the gather.
 * @param level of the entry that pointed to it, whose first page is `page`
 */
export function releaseTable(tree: TableTree, hi: number, lo: number, level: number, page: number): void {
  const { format } = tree
  const { words } = tree
  const pages = itemPages(format, level)
  const below = itemLg2(format, level - 1)
  const table = tree.wordOfTable(hi, lo)
  tree.gathering().addTable(page, page + pages - 1, below, tree.addressOfTable(hi, lo))
  if (level === 1) return
  for (let n = 0; n < 2 ** format.indexBits; n++) {
    const entryHi = words[table + n * 2 + 1] as number
    const entryLo = words[table + n * 2] as number
    if (isTable(format, entryLo, level - 1)) {
      releaseTable(tree, entryHi, entryLo, level - 1, page + n * 2 ** (below - 12))
    }
  }
}
