/**
 * The walk down to a table of level 0, unrolled for the usual shapes: a loop over levels with computed shifts took
 * 2.4 times as long (Node 24). Where it does not apply, or meets anything but table entries, callers go the long way.
 */
import type { PageTableFormat } from "./format.ts"
import type { TableTree } from "./table-tree.ts"

/** {@link Geometry.walk}: no unrolled walk. */
const WALK_IN_A_LOOP = 0
/** 4 KiB granule: the number of levels, 3 to 5. 16 and 64 KiB granules: the levels and these. */
const WALK_16K = 16
const WALK_64K = 64

/** The unrolled walk for tables of a format. @param linear whether a table's word follows from its address */
export function walkFor(format: PageTableFormat, levels: number, linear: boolean): number {
  if (!linear) return WALK_IN_A_LOOP
  if (format.granuleLg2 === 12) return levels >= 3 && levels <= 5 ? levels : WALK_IN_A_LOOP
  if (format.granuleLg2 === 14) return levels === 3 || levels === 4 ? WALK_16K + levels : WALK_IN_A_LOOP
  return levels === 2 || levels === 3 ? WALK_64K + levels : WALK_IN_A_LOOP
}

/** @returns word index of the table of level 0 for an IOVA within the reach, or -1 */
export function leafTable(tree: TableTree, iovaHi: number, iovaLo: number): number {
  const { walk } = tree.geometry
  if (walk > WALK_64K) return leafTable64K(tree, iovaHi, iovaLo)
  if (walk > WALK_16K) return leafTable16K(tree, iovaHi, iovaLo)
  return walk === WALK_IN_A_LOOP ? -1 : leafTable4K(tree, iovaHi, iovaLo)
}

/** Roots need no index mask, and may have more entries than other tables. */
const ROOT = -2

function leafTable4K(tree: TableTree, iovaHi: number, iovaLo: number): number {
  const { words } = tree
  const { delta } = tree
  const { walk, kindMask, kind1, kind2, kind3 } = tree.geometry
  let table = tree.rootWord
  let indexMask = ROOT
  if (walk >= 4) {
    if (walk === 5) {
      const entry = words[table + ((iovaHi >>> 15) & ROOT)] as number
      if ((entry & kindMask) !== kind3 + kind2 - kind1) return -1
      table = ((entry & -4096) >>> 2) + delta
      indexMask = 0x3fe
    }
    const entry = words[table + ((iovaHi >>> 6) & indexMask)] as number
    if ((entry & kindMask) !== kind3) return -1
    table = ((entry & -4096) >>> 2) + delta
    indexMask = 0x3fe
  }
  const upper = words[table + (((iovaHi << 3) | (iovaLo >>> 29)) & indexMask)] as number
  if ((upper & kindMask) !== kind2) return -1
  table = ((upper & -4096) >>> 2) + delta
  const lower = words[table + ((iovaLo >>> 20) & 0x3fe)] as number
  return (lower & kindMask) === kind1 ? ((lower & -4096) >>> 2) + delta : -1
}

function leafTable16K(tree: TableTree, iovaHi: number, iovaLo: number): number {
  const { words } = tree
  const { delta } = tree
  const { walk, kindMask, kind1, kind2, kind3 } = tree.geometry
  let table = tree.rootWord
  let indexMask = ROOT
  if (walk === WALK_16K + 4) {
    const entry = words[table + ((iovaHi >>> 14) & ROOT)] as number
    if ((entry & kindMask) !== kind3) return -1
    table = ((entry & -16_384) >>> 2) + delta
    indexMask = 0xffe
  }
  const upper = words[table + ((iovaHi >>> 3) & indexMask)] as number
  if ((upper & kindMask) !== kind2) return -1
  table = ((upper & -16_384) >>> 2) + delta
  const lower = words[table + (((iovaHi << 8) | (iovaLo >>> 24)) & 0xffe)] as number
  return (lower & kindMask) === kind1 ? ((lower & -16_384) >>> 2) + delta : -1
}

function leafTable64K(tree: TableTree, iovaHi: number, iovaLo: number): number {
  const { words } = tree
  const { delta } = tree
  const { walk, kindMask, kind1, kind2 } = tree.geometry
  let table = tree.rootWord
  let indexMask = ROOT
  if (walk === WALK_64K + 3) {
    const entry = words[table + ((iovaHi >>> 9) & ROOT)] as number
    if ((entry & kindMask) !== kind2) return -1
    table = ((entry & -65_536) >>> 2) + delta
    indexMask = 0x3ffe
  }
  const lower = words[table + (((iovaHi << 4) | (iovaLo >>> 28)) & indexMask)] as number
  return (lower & kindMask) === kind1 ? ((lower & -65_536) >>> 2) + delta : -1
}
