/** What the words of one leaf say. For paths that meet every kind of leaf; the fast paths use masks alone. */
import type { PageTableFormat } from "./format.ts"
import { nextPageSizeLg2, pow2 } from "./page-size.ts"

/** log2 of the bytes that one entry of a level covers. */
export function itemLg2(format: PageTableFormat, level: number): number {
  return format.granuleLg2 + level * format.indexBits
}

/** 4 KiB pages that one entry of a level covers. */
export function itemPages(format: PageTableFormat, level: number): number {
  return pow2(format.granuleLg2 + level * format.indexBits - 12)
}

/** True when a leaf is one of a run of entries. */
export function isRun(format: PageTableFormat, hi: number, lo: number): boolean {
  const { runBitsHi, runBitsLo } = format
  if ((runBitsHi | runBitsLo) === 0) return false
  return (hi & runBitsHi) === runBitsHi && (lo & runBitsLo) === runBitsLo
}

/** log2 of the bytes that a leaf of a level maps, together with the rest of its run. */
export function leafLg2(format: PageTableFormat, hi: number, lo: number, level: number): number {
  const item = itemLg2(format, level)
  if (!isRun(format, hi, lo)) return item
  const run = format.runSizeInAddress === 1 ? encodedSizeLg2(hi, lo) : runLg2(format, level)
  return Math.min(Math.max(run, item), item + format.indexBits)
}

/** The run size of a level where it has one. */
function runLg2(format: PageTableFormat, level: number): number {
  return nextPageSizeLg2(format.sizesHi, format.sizesLo, itemLg2(format, level))
}

/** The lowest clear bit from bit 12 up is half the size. */
function encodedSizeLg2(hi: number, lo: number): number {
  const clearLo = ~lo & 0xffff_f000
  if (clearLo !== 0) return 32 - Math.clz32(clearLo & -clearLo)
  const clearHi = ~hi
  return clearHi === 0 ? 64 : 64 - Math.clz32(clearHi & -clearHi)
}
