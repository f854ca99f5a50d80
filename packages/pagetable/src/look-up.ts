import { ERRNO } from "@iommu/core"
import { isRun, itemLg2, leafLg2 } from "./leaf.ts"
import { leafTable } from "./leaf-table.ts"
import { pow2 } from "./page-size.ts"
import { addressHi, indexAt, isTable, type TableTree } from "./table-tree.ts"

/** An index mask for roots, whose index has no bits above it: IOVAs beyond the reach never get here. */
const ALL_BITS = 0x7fff_ffff

/**
 * The look-up of any IOVA in any table: what the one unrolled for 4 levels passes on. Leaves of the smallest size are
 * tried first; the others are found level by level.
 *
 * One function on purpose: V8 does not inline it into its callers, whose loops then stay small (with it inlined, the
 * unrolled look-up took 10.8 instead of 8.5 ns).
 * @returns 0 with `paHi`, `paLo` set, or ENOENT
 */
export function lookUp(tree: TableTree, iovaHi: number, iovaLo: number): number {
  const { geometry, words } = tree
  const { format } = geometry
  const hi = iovaHi >>> 0
  const reachHi = geometry.reachHi >>> 0
  if (hi > reachHi || (hi === reachHi && iovaLo >>> 0 > geometry.reachLo >>> 0)) return ERRNO.ENOENT

  const pages = leafTable(tree, iovaHi, iovaLo)
  if (pages >= 0) {
    const slot = pages + (((iovaLo >>> format.granuleLg2) << 1) & ((2 << format.indexBits) - 2))
    const leaf = words[slot] as number
    if ((leaf & format.presentMask) === 0) return ERRNO.ENOENT
    if ((leaf & format.oddLeafMask) === 0) {
      const offset = (1 << format.granuleLg2) - 1
      tree.paLo = (leaf & ~offset) | (iovaLo & offset)
      tree.paHi = (words[slot + 1] as number) & format.addressHi
      return 0
    }
  }

  let table = tree.rootWord
  let indexMask = ALL_BITS
  for (let level = geometry.levels - 1; level >= 0; level--) {
    const slot = table + 2 * indexAt(iovaHi, iovaLo, itemLg2(format, level), indexMask)
    const entryLo = words[slot] as number
    const entryHi = words[slot + 1] as number
    if ((entryLo & format.presentMask) === 0) return ERRNO.ENOENT
    if (level > 0 && isTable(format, entryLo, level)) {
      table = tree.wordOfTable(entryHi, entryLo)
      indexMask = (1 << format.indexBits) - 1
      continue
    }
    const isEncoded = format.runSizeInAddress === 1 && isRun(format, entryHi, entryLo)
    const sizeLg2 = isEncoded ? leafLg2(format, entryHi, entryLo, level) : itemLg2(format, level)
    const offsetHi = sizeLg2 > 32 ? pow2(sizeLg2 - 32) - 1 : 0
    const offsetLo = sizeLg2 >= 32 ? -1 : (1 << sizeLg2) - 1
    tree.paHi = (addressHi(format, entryHi, entryLo) & ~offsetHi) | (iovaHi & offsetHi)
    tree.paLo = (entryLo & format.addressLo & ~offsetLo) | (iovaLo & offsetLo)
    return 0
  }
  return ERRNO.ENOENT
}
