import { ERRNO } from "@iommu/core"
import { isRun, leafLg2 } from "./leaf.ts"
import { addressHi, indexAt, isTable, type TableTree } from "./table-tree.ts"

/** An index mask for roots, whose index has no bits above it: IOVAs beyond the reach never get here. */
const ALL_BITS = 0x7fff_ffff

/** Word index of the entry that decided the last {@link findLeaf}, and its level. */
let leafSlot = 0
let leafLevel = 0

/**
 * Finds the leaf of an IOVA within the reach, of any format, size and depth.
 * @returns 0 with {@link leafSlot} and {@link leafLevel} set, or ENOENT
 */
function findLeaf(tree: TableTree, iovaHi: number, iovaLo: number): number {
  const { format } = tree
  const { words } = tree
  const mask = (1 << format.indexBits) - 1
  let shift = format.granuleLg2 + (tree.levels - 1) * format.indexBits
  let table = tree.rootWord
  let indexMask = ALL_BITS
  for (let level = tree.levels - 1; level >= 0; level--) {
    const slot = table + 2 * indexAt(iovaHi, iovaLo, shift, indexMask)
    const lo = words[slot] as number
    if ((lo & format.presentMask) === 0) return ERRNO.ENOENT
    if (level === 0 || !isTable(format, lo, level)) {
      leafSlot = slot
      leafLevel = level
      return 0
    }
    table = tree.wordOfTable(words[slot + 1] as number, lo)
    shift -= format.indexBits
    indexMask = mask
  }
  return ERRNO.ENOENT
}

/** The readable look-up: where the unrolled one gives up. @returns 0 with `paHi`, `paLo` set, or ENOENT */
export function lookUp(tree: TableTree, iovaHi: number, iovaLo: number): number {
  const status = findLeaf(tree, iovaHi, iovaLo)
  if (status !== 0) return status
  const { format } = tree
  const lo = tree.words[leafSlot] as number
  const hi = tree.words[leafSlot + 1] as number
  const sizeLg2 =
    format.runSizeInAddress === 1 && isRun(format, hi, lo)
      ? leafLg2(format, hi, lo, leafLevel)
      : format.granuleLg2 + leafLevel * format.indexBits
  const offsetHi = sizeLg2 > 32 ? 2 ** (sizeLg2 - 32) - 1 : 0
  const offsetLo = sizeLg2 >= 32 ? -1 : (1 << sizeLg2) - 1
  tree.paHi = (addressHi(format, hi, lo) & ~offsetHi) | (iovaHi & offsetHi)
  tree.paLo = (lo & format.addressLo & ~offsetLo) | (iovaLo & offsetLo)
  return 0
}
