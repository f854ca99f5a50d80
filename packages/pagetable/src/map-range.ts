import { ERRNO, IOMMU_READ, IOMMU_WRITE } from "@iommu/core"
import { doubleStep, fillEmpty, isFiniteDouble, toDouble } from "./fill.ts"
import type { Geometry } from "./geometry.ts"
import { itemLg2, itemPages } from "./leaf.ts"
import { leafTable } from "./leaf-table.ts"
import { commit, noteCreated, noteFill, noteReplaced, undo } from "./map-journal.ts"
import { bestPageSizeLg2, nextPageSizeLg2, offsetIn, pow2 } from "./page-size.ts"
import { entryAddressHi, entryAddressLo, indexAt, isTable, type TableTree } from "./table-tree.ts"
import { isEmptyTable, releaseTable } from "./unmap-range.ts"

const PAGES_PER_4G = 0x10_0000
const ALL_BITS = 0x7fff_ffff

/** Results of {@link slotFor} that are no word index. */
const NO_MEMORY = -1
const LEAF_IN_THE_WAY = -2

/**
 * Maps a range with the largest leaves that fit, all or nothing. Positions are 4 KiB pages, as doubles.
 * @returns 0, or EINVAL, ERANGE, EEXIST, ENOMEM
 */
export function mapRange(tree: TableTree, page: number, paPage: number, pages: number, prot: number): number {
  const refused = checkRequest(tree, page, paPage, pages, prot)
  if (refused !== 0) return refused
  const levelsBefore = tree.levels
  const status = growTo(tree, page + pages - 1) ? fillRange(tree, page, paPage, pages) : ERRNO.ENOMEM
  if (status === 0) commit(tree, releaseTable)
  else undo(tree, levelsBefore)
  return status
}

/** The rules of DomainMapping.map, in its order. Computes the leaf template of a new prot. */
function checkRequest(tree: TableTree, page: number, paPage: number, pages: number, prot: number): number {
  const { geometry } = tree
  const unit = geometry.unitPages
  if (
    tree.levels === 0 ||
    !(pages > 0) ||
    offsetIn(pages, unit) + offsetIn(page, unit) + offsetIn(paPage, unit) !== 0
  ) {
    return ERRNO.EINVAL
  }
  if (prot === 0 || (prot !== geometry.prot && !chooseProt(geometry, prot))) return ERRNO.EINVAL
  if (page < geometry.firstPage || page + pages - 1 > geometry.lastPage) return ERRNO.ERANGE
  return paPage + pages > geometry.outputEnd ? ERRNO.ERANGE : 0
}

function chooseProt(geometry: Geometry, prot: number): boolean {
  if ((prot & (IOMMU_READ | IOMMU_WRITE)) === 0) return false
  const bits = geometry.format.leafBits(prot)
  if (bits === null) return false
  if (!isFiniteDouble(bits))
    throw new Error(`bug: ${geometry.format.name}: leaves that are no positive finite double`)
  geometry.leafHi = Number(BigInt.asIntN(32, bits >> 32n))
  geometry.leafLo = Number(BigInt.asIntN(32, bits))
  geometry.prot = prot
  return true
}

function growTo(tree: TableTree, lastPage: number): boolean {
  while (lastPage >= tree.geometry.reachPages) {
    if (!tree.grow()) return false
  }
  return true
}

/** Chooses leaf sizes: one for as many leaves as it is the best for. */
function fillRange(tree: TableTree, page: number, paPage: number, pages: number): number {
  const { geometry, format } = tree
  const end = page + pages
  const largest = geometry.reachPages / (format.grows === 1 ? 2 : 1)
  let at = page
  while (at < end) {
    const pa = paPage + (at - page)
    const sizeLg2 = bestPageSizeLg2(
      geometry.sizesHi,
      geometry.sizesLo,
      highHalf(at) | highHalf(pa),
      lowHalf(at) | lowHalf(pa),
      Math.min(end - at, largest),
    )
    const leafPages = pow2(sizeLg2 - 12)
    const leaves = Math.floor(Math.min(end - at, roomFor(tree, at, pa, sizeLg2)) / leafPages)
    const status = fillLeaves(tree, at, pa, leaves, sizeLg2)
    if (status !== 0) return status
    at += leaves * leafPages
  }
  return 0
}

/** Pages until a larger size may fit, or until the moved address bits of the next leaf differ. */
function roomFor(tree: TableTree, at: number, pa: number, sizeLg2: number): number {
  const { geometry, format } = tree
  let room = Number.POSITIVE_INFINITY
  if (format.movedMask !== 0) {
    const span = pow2(format.movedFrom - 12)
    room = span - offsetIn(pa, span)
  }
  const larger = nextPageSizeLg2(geometry.sizesHi, geometry.sizesLo, sizeLg2)
  if (larger < 0) return room
  const span = pow2(larger - 12)
  const offset = offsetIn(at, span)
  return offset === offsetIn(pa, span) ? Math.min(room, span - offset) : room
}

/** Word index of the entry of `level` for an IOVA; tables on the way are made, and noted, where they are missing. */
function slotFor(tree: TableTree, hi: number, lo: number, level: number): number {
  const { format } = tree
  const { words } = tree
  const mask = (1 << format.indexBits) - 1
  const known = level === 0 ? leafTable(tree, hi, lo) : -1
  if (known >= 0) return known + 2 * indexAt(hi, lo, format.granuleLg2, mask)
  let table = tree.rootWord
  let indexMask = ALL_BITS
  for (let above = tree.levels - 1; above > level; above--) {
    const slot = table + 2 * indexAt(hi, lo, itemLg2(format, above), indexMask)
    const entry = words[slot] as number
    if (isTable(format, entry, above)) {
      table = tree.wordOfTable(words[slot + 1] as number, entry)
    } else {
      if ((entry | (words[slot + 1] as number)) !== 0) return LEAF_IN_THE_WAY
      table = tree.addTable(slot, above)
      if (table < 0) return NO_MEMORY
      noteCreated(slot)
    }
    indexMask = mask
  }
  return table + 2 * indexAt(hi, lo, itemLg2(format, level), indexMask)
}

/** Writes leaves of one size, table by table. */
function fillLeaves(tree: TableTree, page: number, paPage: number, leaves: number, sizeLg2: number): number {
  const { format, geometry } = tree
  const level = Math.floor((sizeLg2 - format.granuleLg2) / format.indexBits)
  const isRun = sizeLg2 !== itemLg2(format, level)
  const paHi = highHalf(paPage)
  const typeHi = level === 0 ? format.pageBitsHi : format.blockBitsHi
  const typeLo = level === 0 ? format.pageBitsLo : format.blockBitsLo
  const hi = geometry.leafHi | typeHi | (isRun ? format.runBitsHi : 0) | entryAddressHi(format, paHi)
  const lo =
    geometry.leafLo | typeLo | (isRun ? format.runBitsLo : 0) | entryAddressLo(format, paHi, lowHalf(paPage))
  const item = itemPages(format, level)
  const perLeaf = pow2(sizeLg2 - 12) / item
  const isEncoded = isRun && format.runSizeInAddress === 1
  const step = doubleStep(hi, lo, itemLg2(format, level))
  const count = leaves * perLeaf
  let value = toDouble(hi, lo)
  for (let done = 0; done < count; ) {
    const at = page + done * item
    const slot = slotFor(tree, highHalf(at), lowHalf(at), level)
    if (slot < 0) return slot === NO_MEMORY ? ERRNO.ENOMEM : ERRNO.EEXIST
    const room = Math.min(count - done, entriesFrom(tree, at, level))
    const status = isEncoded
      ? fillRuns(tree, slot / 2, level, room, perLeaf, hi, lo, done, at)
      : fillEntries(tree, slot / 2, level, room, value, step, at)
    if (status !== 0) return status
    value += room * step
    done += room
  }
  return 0
}

/** Entries from the one of a page to the end of its table. */
function entriesFrom(tree: TableTree, page: number, level: number): number {
  const { geometry, format } = tree
  const item = itemPages(format, level)
  if (level === geometry.levels - 1) return geometry.rootEntries - page / item
  const entries = 1 << format.indexBits
  return entries - offsetIn(page, item * entries) / item
}

/** Writes entries that grow by the item of their level; emptied tables in the way make room. */
function fillEntries(
  tree: TableTree,
  at: number,
  level: number,
  count: number,
  value: number,
  step: number,
  page: number,
): number {
  const { doubles } = tree.memory
  let done = 0
  while (true) {
    const wrote = fillEmpty(doubles, at + done, count - done, value + done * step, step)
    noteFill(at + done, wrote)
    done += wrote
    if (done === count) return 0
    if (!makeRoom(tree, at + done, level, page + done * itemPages(tree.format, level))) return ERRNO.EEXIST
  }
}

/**
 * Writes leaves that stand in several equal entries each, with their size in the low address bits.
 * @param hi of the first leaf of all, and `lo`; `before` entries of them are written already
 */
function fillRuns(
  tree: TableTree,
  at: number,
  level: number,
  count: number,
  perLeaf: number,
  hi: number,
  lo: number,
  before: number,
  page: number,
): number {
  const { words } = tree
  const item = itemPages(tree.format, level)
  const size = perLeaf * item * 4096
  const onesHi = Math.floor((size / 2 - 1) / 0x1_0000_0000)
  const onesLo = (size / 2 - 1) & -4096
  for (let n = 0; n < count; n++) {
    const slot = (at + n) * 2
    const isEmpty = ((words[slot] as number) | (words[slot + 1] as number)) === 0
    if (!isEmpty && !makeRoom(tree, at + n, level, page + n * item)) {
      noteFill(at, n)
      return ERRNO.EEXIST
    }
    const offset = Math.floor((before + n) / perLeaf) * size
    words[slot + 1] = (hi + Math.floor(((lo >>> 0) + offset) / 0x1_0000_0000)) | onesHi
    words[slot] = (lo + offset) | onesLo
  }
  noteFill(at, count)
  return 0
}

/** Bits 63:32 of a page's address. */
function highHalf(page: number): number {
  return Math.floor(page / PAGES_PER_4G)
}

/** Bits 31:0 of a page's address, signed. */
function lowHalf(page: number): number {
  return (page - Math.floor(page / PAGES_PER_4G) * PAGES_PER_4G) << 12
}

/** Clears an entry that has an emptied table. @returns false when anything is mapped there */
function makeRoom(tree: TableTree, at: number, level: number, page: number): boolean {
  const { words } = tree
  const slot = at * 2
  const lo = words[slot] as number
  if (level === 0 || !isTable(tree.format, lo, level)) return false
  if (!isEmptyTable(tree, tree.wordOfTable(words[slot + 1] as number, lo), level - 1)) return false
  noteReplaced(tree, slot, level, page)
  return true
}
