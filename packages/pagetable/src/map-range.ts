import { ERRNO, IOMMU_READ, IOMMU_WRITE } from "@iommu/core"
import { fillEmpty, isFiniteDouble } from "./fill.ts"
import type { Geometry } from "./geometry.ts"
import { itemLg2, itemPages } from "./leaf.ts"
import { commit, noteCreated, noteFill, noteReplaced, undo } from "./map-journal.ts"
import { bestPageSizeLg2, nextPageSizeLg2, pow2 } from "./page-size.ts"
import { entryAddressHi, entryAddressLo, indexAt, isTable, type TableTree } from "./table-tree.ts"
import { isEmptyTable, releaseTable } from "./unmap-range.ts"

const PAGES_PER_4G = 0x10_0000
const ALL_BITS = 0x7fff_ffff

/** Results of {@link tableFor} that are no word index. */
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
  if (tree.levels === 0 || !(pages > 0) || pages % unit !== 0 || page % unit !== 0 || paPage % unit !== 0) {
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

function fillRange(tree: TableTree, page: number, paPage: number, pages: number): number {
  const { geometry, format } = tree
  const end = page + pages
  const largest = geometry.reachPages / (format.grows === 1 ? 2 : 1)
  let at = page
  while (at < end) {
    const pa = paPage + (at - page)
    const hi = Math.floor(at / PAGES_PER_4G)
    const lo = ((at - hi * PAGES_PER_4G) << 12) | 0
    const paHi = Math.floor(pa / PAGES_PER_4G)
    const paLo = ((pa - paHi * PAGES_PER_4G) << 12) | 0
    const sizeLg2 = bestPageSizeLg2(
      geometry.sizesHi,
      geometry.sizesLo,
      hi | paHi,
      lo | paLo,
      Math.min(end - at, largest),
    )
    const level = Math.floor((sizeLg2 - format.granuleLg2) / format.indexBits)
    const table = tableFor(tree, hi, lo, level)
    if (table < 0) return table === NO_MEMORY ? ERRNO.ENOMEM : ERRNO.EEXIST
    const isRoot = level === tree.levels - 1
    const shift = itemLg2(format, level)
    const index = indexAt(hi, lo, shift, isRoot ? ALL_BITS : (1 << format.indexBits) - 1)
    const entries = (isRoot ? geometry.rootEntries : 1 << format.indexBits) - index
    const leafPages = pow2(sizeLg2 - 12)
    const room = Math.min(end - at, roomFor(tree, at, pa, sizeLg2), entries * itemPages(format, level))
    const leaves = Math.floor(room / leafPages)
    const status = fillTable(tree, table / 2 + index, level, leaves, sizeLg2, paHi, paLo, at)
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
    room = span - (pa % span)
  }
  const larger = nextPageSizeLg2(geometry.sizesHi, geometry.sizesLo, sizeLg2)
  if (larger < 0) return room
  const span = pow2(larger - 12)
  const offset = at % span
  return offset === pa % span ? Math.min(room, span - offset) : room
}

/** Word index of the table of `level` on the way to an IOVA; made, and noted, where it is missing. */
function tableFor(tree: TableTree, hi: number, lo: number, level: number): number {
  const { format } = tree
  const { words } = tree
  const mask = (1 << format.indexBits) - 1
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
  return table
}

/**
 * Writes leaves of one size into one table.
 * @param at index of the first entry in doubles
 * @param page of that entry
 */
function fillTable(
  tree: TableTree,
  at: number,
  level: number,
  leaves: number,
  sizeLg2: number,
  paHi: number,
  paLo: number,
  page: number,
): number {
  const { format } = tree
  const shift = itemLg2(format, level)
  const isRun = sizeLg2 !== shift
  const typeHi = level === 0 ? format.pageBitsHi : format.blockBitsHi
  const typeLo = level === 0 ? format.pageBitsLo : format.blockBitsLo
  const hi = tree.geometry.leafHi | typeHi | (isRun ? format.runBitsHi : 0) | entryAddressHi(format, paHi)
  const lo =
    tree.geometry.leafLo | typeLo | (isRun ? format.runBitsLo : 0) | entryAddressLo(format, paHi, paLo)
  const entries = pow2(sizeLg2 - shift)
  return isRun && format.runSizeInAddress === 1
    ? fillRuns(tree, at, level, leaves, entries, hi, lo, page)
    : fillClear(tree, at, level, leaves * entries, hi, lo, page)
}

/** Writes entries that grow by the item of their level; emptied tables in the way make room. */
function fillClear(
  tree: TableTree,
  at: number,
  level: number,
  count: number,
  hi: number,
  lo: number,
  page: number,
): number {
  const { doubles } = tree.memory
  const stepLg2 = itemLg2(tree.format, level)
  const step = pow2(stepLg2)
  let done = 0
  while (true) {
    const entryHi = sumHi(hi, lo, done * step)
    const entryLo = (lo + done * step) | 0
    const wrote = fillEmpty(doubles, at + done, count - done, entryHi, entryLo, stepLg2)
    noteFill(at + done, wrote)
    done += wrote
    if (done === count) return 0
    if (!makeRoom(tree, at + done, level, page + (done * step) / 4096)) return ERRNO.EEXIST
  }
}

/** Writes leaves that stand in several equal entries each, with their size in the low address bits. */
function fillRuns(
  tree: TableTree,
  at: number,
  level: number,
  leaves: number,
  entries: number,
  hi: number,
  lo: number,
  page: number,
): number {
  const { words } = tree
  const item = itemPages(tree.format, level)
  const size = entries * item * 4096
  const onesHi = Math.floor((size / 2 - 1) / 0x1_0000_0000)
  const onesLo = (size / 2 - 1) & -4096
  for (let n = 0; n < leaves * entries; n++) {
    const slot = (at + n) * 2
    if (((words[slot] as number) | (words[slot + 1] as number)) !== 0) {
      if (!makeRoom(tree, at + n, level, page + n * item)) {
        noteFill(at, n)
        return ERRNO.EEXIST
      }
    }
    const offset = Math.floor(n / entries) * size
    words[slot + 1] = sumHi(hi, lo, offset) | onesHi
    words[slot] = (lo + offset) | onesLo
  }
  noteFill(at, leaves * entries)
  return 0
}

/** Bits 63:32 of an entry plus a multiple of 4096. */
function sumHi(hi: number, lo: number, offset: number): number {
  return (hi + Math.floor(((lo >>> 0) + offset) / 0x1_0000_0000)) | 0
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
