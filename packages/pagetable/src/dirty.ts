/** Reading, and forgetting, which leaves hardware wrote to. */
import { type DirtyBitmap, IommuError } from "@iommu/core"
import type { PageTableFormat } from "./format.ts"
import { itemLg2, leafLg2 } from "./leaf.ts"
import { isTable, type TableTree } from "./table-tree.ts"

/** What to do with a dirty leaf. */
interface DirtyVisitor {
  /** Where leaves are marked; null to mark none. */
  readonly dirty: DirtyBitmap | null
  /** Pages to look at. */
  readonly first: number
  readonly last: number
  readonly clears: boolean
}

/** Marks dirty leaves; nothing is changed. */
export function readDirty(tree: TableTree, dirty: DirtyBitmap): void {
  visit(tree, { ...pagesOf(dirty), dirty, clears: false })
}

/**
 * Marks dirty leaves and makes them clean; what became clean is in the gather. A leaf that reaches beyond the bitmap
 * stays dirty: the part outside would be forgotten unreported.
 */
export function readAndClearDirty(tree: TableTree, dirty: DirtyBitmap): void {
  visit(tree, { ...pagesOf(dirty), dirty, clears: true })
}

/** Makes all leaves clean, unreported: where dirty tracking begins. What became clean is in the gather. */
export function clearDirty(tree: TableTree): void {
  visit(tree, { first: 0, last: Number.POSITIVE_INFINITY, dirty: null, clears: true })
}

function pagesOf(dirty: DirtyBitmap): { readonly first: number; readonly last: number } {
  const end = dirty.iova + dirty.length
  if ((dirty.iova | end) % 4096n !== 0n)
    throw new IommuError("EINVAL", "dirty pages are counted from 4 KiB up")
  return { first: Number(dirty.iova >> 12n), last: Number(end >> 12n) - 1 }
}

function visit(tree: TableTree, visitor: DirtyVisitor): void {
  if (tree.levels === 0) return
  const last = Math.min(visitor.last, tree.geometry.reachPages - 1)
  if (visitor.first <= last) visitTable(tree, visitor, tree.rootWord, tree.levels - 1, 0, last)
}

function visitTable(
  tree: TableTree,
  visitor: DirtyVisitor,
  table: number,
  level: number,
  base: number,
  last: number,
): void {
  const { format } = tree
  const { words } = tree
  const itemPages = 2 ** (itemLg2(format, level) - 12)
  const start = Math.max(visitor.first, base)
  let at = start - ((start - base) % itemPages)
  while (at <= last) {
    const slot = table + ((at - base) / itemPages) * 2
    const lo = words[slot] as number
    const hi = words[slot + 1] as number
    if ((lo & format.presentMask) === 0) {
      at += itemPages
    } else if (level > 0 && isTable(format, lo, level)) {
      visitTable(tree, visitor, tree.wordOfTable(hi, lo), level - 1, at, Math.min(last, at + itemPages - 1))
      at += itemPages
    } else {
      const sizeLg2 = leafLg2(format, hi, lo, level)
      const pages = 2 ** (sizeLg2 - 12)
      const first = at - ((at - base) % pages)
      visitLeaf(tree, visitor, table + ((first - base) / itemPages) * 2, pages / itemPages, first, sizeLg2)
      at = first + pages
    }
  }
}

/** A run is dirty when any entry of it is: hardware may have marked only the one it met. */
function visitLeaf(
  tree: TableTree,
  visitor: DirtyVisitor,
  slot: number,
  entries: number,
  first: number,
  sizeLg2: number,
): void {
  const { format } = tree
  const { words } = tree
  let found = false
  for (let at = slot; at < slot + entries * 2; at += 2) {
    if (isDirty(format, words[at + 1] as number, words[at] as number)) found = true
  }
  if (!found) return
  visitor.dirty?.mark(BigInt(first) << 12n, 1n << BigInt(sizeLg2))
  const last = first + 2 ** (sizeLg2 - 12) - 1
  if (!visitor.clears || first < visitor.first || last > visitor.last) return
  for (let at = slot; at < slot + entries * 2; at += 2) {
    if (!isDirty(format, words[at + 1] as number, words[at] as number)) continue
    words[at] = (words[at] as number) ^ format.dirtyFlipLo
    words[at + 1] = (words[at + 1] as number) ^ format.dirtyFlipHi
  }
  tree.gathering().addLeaves(first, last, sizeLg2)
}

function isDirty(format: PageTableFormat, hi: number, lo: number): boolean {
  return (
    (lo & format.dirtyMaskLo) === format.dirtyValueLo && (hi & format.dirtyMaskHi) === format.dirtyValueHi
  )
}
