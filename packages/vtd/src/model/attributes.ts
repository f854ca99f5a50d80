/**
 * Memory type and snoop behaviour of the page that a request goes to. Intel VT-d 5.10 (D51397-018) §3.10 (Table 6),
 * §3.11 (Tables 7 and 9). The unit has no MTRRs: where the book asks them, memory is write-back.
 */
import * as pte from "../spec/page-tables.ts"
import * as pt from "../spec/pasid-table.ts"
import type { Transaction } from "./transaction.ts"
import * as transaction from "./transaction.ts"

// Copies: V8 reads an imported constant through its module, which costs a walk a third of its time.
const { MODE_FIRST, MODE_NESTED, MODE_PASS_THROUGH, MODE_SECOND } = transaction
const { FS_PAT, FS_PAT_LARGE, FS_PCD, FS_PWT, SS_EMT_SHIFT, SS_IPAT, SS_SNP } = pte
const { PE_CD_LO1, PE_EMTE_LO1, PE_PGSNP_LO1 } = pt

/** Memory types, bits 2:0 of the attributes, as MTRRs, PAT and EMT encode them. */
export const MEMORY_TYPE_MASK = 7
export const UC = 0
export const WC = 1
export const WT = 4
export const WP = 5
export const WB = 6
/** Bit 3: the access snoops processor caches, even if the request has No Snoop. */
export const SNOOPED: number = 1 << 3

/** Table 7, rows by MTRR or EMT type, eight PAT types each; UC- is PAT type 7. Reserved encodings count as UC. */
const EFFECTIVE = new Uint8Array(64)
const rows: readonly (readonly [number, readonly number[]])[] = [
  [UC, [UC, WC, UC, UC, UC, UC, UC, UC]],
  [WC, [UC, WC, UC, UC, UC, UC, WC, WC]],
  [WT, [UC, WC, UC, UC, WT, WP, WT, UC]],
  [WP, [UC, WC, UC, UC, WT, WP, WP, WC]],
  [WB, [UC, WC, UC, UC, WT, WP, WB, UC]],
]
for (const [type, row] of rows) EFFECTIVE.set(row, type * 8)

/** Bits of a second-stage leaf that count: EMT, IPAT, SNP. */
export const SECOND_LEAF: number = SS_SNP | SS_IPAT | (7 << SS_EMT_SHIFT)
/** Bits of a first-stage leaf that count; in a key above those of a second stage. */
export const FIRST_PAGE: number = FS_PAT | FS_PWT | FS_PCD
const FIRST_LARGE = FS_PAT_LARGE | FS_PWT | FS_PCD
export const SECOND_LEAF_BITS = 12
const SIZE_SHIFT = 26

/**
 * {@link TranslationResult.attributes} of the request that was just translated. Pages of one device mostly have the
 * same, so that the last answer is kept until other entries are read: that saves 6 of 115 ns with two stages.
 */
export function attributesOf(t: Transaction): number {
  const first = t.fsLeaf & (t.fsSizeLg2 === 12 ? FIRST_PAGE : FIRST_LARGE)
  const key = (t.ssLeaf & SECOND_LEAF) | (first << SECOND_LEAF_BITS) | (t.fsSizeLg2 << SIZE_SHIFT)
  if (key !== t.attributesKey) {
    t.attributes = combine(t)
    t.attributesKey = key
  }
  return t.attributes
}

/** As {@link attributesOf}, of 4 KiB pages with these leaves; plain-walk.ts asks when the key is not that of the last ones. */
export function plainAttributes(t: Transaction, key: number, firstLeaf: number, secondLeaf: number): number {
  t.fsLeaf = firstLeaf
  t.fsSizeLg2 = 12
  t.ssLeaf = secondLeaf
  t.plainKey = key
  t.plainAttributes = attributesOf(t)
  return t.plainAttributes
}

function combine(t: Transaction): number {
  const hasSecond = t.mode === MODE_SECOND || t.mode === MODE_NESTED
  const pageSnoops = !t.legacy && (t.pasidLo1 & PE_PGSNP_LO1) !== 0
  const snoops = pageSnoops || (hasSecond && (t.ssLeaf & SS_SNP) !== 0)
  return memoryType(t) | (snoops ? SNOOPED : 0)
}

/** Table 9; without MTS, and in legacy mode, everything is write-back. */
function memoryType(t: Transaction): number {
  if (t.legacy || !t.features.memoryTypes) return WB
  if ((t.pasidLo1 & PE_CD_LO1) !== 0) return UC
  const emte = (t.pasidLo1 & PE_EMTE_LO1) !== 0
  const emt = (t.ssLeaf >>> SS_EMT_SHIFT) & 7
  switch (t.mode) {
    case MODE_FIRST:
      return EFFECTIVE[WB * 8 + patType(t)] as number
    case MODE_SECOND:
      return emte ? (EFFECTIVE[emt * 8 + WB] as number) : WB
    case MODE_PASS_THROUGH:
      return WB
    default:
      if (!emte) return EFFECTIVE[WB * 8 + patType(t)] as number
      return EFFECTIVE[emt * 8 + ((t.ssLeaf & SS_IPAT) !== 0 ? WB : patType(t))] as number
  }
}

/** §3.11.1: PAT, PCD and PWT of the leaf choose one of eight types, four bits apart. */
function patType(t: Transaction): number {
  const leaf = t.fsLeaf
  const pat = (leaf & (t.fsSizeLg2 === 12 ? FS_PAT : FS_PAT_LARGE)) !== 0 ? 4 : 0
  return (t.pasidHi1 >>> (4 * (pat | ((leaf >>> 3) & 3)))) & 7
}
