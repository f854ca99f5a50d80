/**
 * I/O page table entries. AMD I/O Virtualization Technology (IOMMU) Specification, 48882 revision 3.10.
 *
 * v1: host tables, §2.2.3, figures 8 to 10 and tables 14 to 18. Levels are the book's: 1 (4 KiB entries) to 6; the
 * DTE's Mode and an entry's NextLevel name the level of the table they point to.
 * v2: guest tables in the format of AMD64 long mode, §2.2.6 and AMD 24593 revision 3.42 §5.3; levels 1 (PTE) to 5
 * (PML5E). Names ending in `_HI` are masks of bits 63:32, all others of bits 31:0.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

/** Bits of the address that a table resolves; 512 entries, 128 in a v1 table of level 6 (bits 63:57). */
export const INDEX_BITS = 9
export const V1_TOP_LEVEL = 6

/** Bits 31:12 and 51:32 of the address in any entry. */
export const ADDR_LO = 0xffff_f000
export const ADDR_HI = 0x000f_ffff

export const V1_PR: number = 1 << 0
/** Accessed and dirty, where the DTE's HAD lets hardware set them. */
export const V1_A: number = 1 << 5
/** Leaves only. */
export const V1_D: number = 1 << 6
export const V1_NEXT_LEVEL = 0xe00
export const V1_NEXT_LEVEL_SHIFT = 9
/** NextLevel of a leaf of the size that its table's level has by default. */
export const V1_NEXT_LEVEL_LEAF = 0
/**
 * NextLevel of a leaf whose size stands in its address: with the lowest 0 of bits 51:12 at bit n, the page has
 * 2^(n + 1) bytes. The entry is repeated in every slot that the page covers. Table 14.
 */
export const V1_NEXT_LEVEL_SIZED = 7
/** What an entry is: PR and NextLevel. */
export const V1_KIND: number = V1_PR | V1_NEXT_LEVEL
const kindOf = (nextLevel: number): number => V1_PR | (nextLevel << V1_NEXT_LEVEL_SHIFT)
export const V1_KIND_LEAF: number = kindOf(V1_NEXT_LEVEL_LEAF)
export const V1_KIND_SIZED_LEAF: number = kindOf(V1_NEXT_LEVEL_SIZED)
export const V1_KIND_TABLE_1: number = kindOf(1)
export const V1_KIND_TABLE_2: number = kindOf(2)
export const V1_KIND_TABLE_3: number = kindOf(3)
/** Bits 60:52 of a PDE, in its high half. */
export const V1_TABLE_RESERVED_HI = 0x1ff0_0000
/** Bits 58:52 of a PTE. */
export const V1_LEAF_RESERVED_HI = 0x07f0_0000
/** U of an ATS translation response. Leaves only. */
export const V1_U_HI: number = 1 << 27
/** Force coherent: what an ATS response with N = 0 promises. Leaves only. */
export const V1_FC_HI: number = 1 << 28
/** Read and write permission; the AND of DTE and all levels counts. */
export const V1_IR_HI: number = 1 << 29
export const V1_IW_HI: number = 1 << 30

export const V2_P: number = 1 << 0
export const V2_RW: number = 1 << 1
export const V2_US: number = 1 << 2
export const V2_PWT: number = 1 << 3
export const V2_PCD: number = 1 << 4
export const V2_A: number = 1 << 5
/** Leaves only. */
export const V2_D: number = 1 << 6
/** Leaf at levels 2 and 3; at level 1 the bit is PAT. */
export const V2_PS: number = 1 << 7
export const V2_PAT: number = 1 << 7
/** Leaves only. */
export const V2_G: number = 1 << 8
/** PAT of a leaf at levels 2 and 3. */
export const V2_PAT_LARGE: number = 1 << 12
export const V2_NX_HI = 0x8000_0000
/** Largest v2 level with leaves (1 GiB). */
export const V2_MAX_LEAF_LEVEL = 3

export const fieldsV1Pte = {
  PR: [0, 0, "present"],
  Ignored1: [4, 1, "ignored"],
  A: [5, 5, "accessed"],
  D: [6, 6, "dirty"],
  Ignored7: [8, 7, "ignored"],
  NextLevel: [11, 9, "0: default page size, 7: size in the address"],
  PageAddress: [51, 12, "page, with its size in the low bits where NextLevel is 7"],
  U: [59, 59, "U of an ATS response"],
  FC: [60, 60, "force coherent"],
  IR: [61, 61, "reads allowed"],
  IW: [62, 62, "writes allowed"],
  Ignored63: [63, 63, "ignored"],
} as const
export const V1Pte: BitLayout<typeof fieldsV1Pte> = bitLayout(
  "I/O page translation entry",
  "AMD 48882 rev 3.10 §2.2.3",
  64,
  fieldsV1Pte,
)

export const fieldsV1Pde = {
  PR: [0, 0, "present"],
  Ignored1: [4, 1, "ignored"],
  A: [5, 5, "accessed"],
  Ignored6: [8, 6, "ignored"],
  NextLevel: [11, 9, "level of the next table, 1 to 6 and below this one's"],
  NextTableAddress: [51, 12, "next table"],
  IR: [61, 61, "reads allowed"],
  IW: [62, 62, "writes allowed"],
  Ignored63: [63, 63, "ignored"],
} as const
export const V1Pde: BitLayout<typeof fieldsV1Pde> = bitLayout(
  "I/O page directory entry",
  "AMD 48882 rev 3.10 §2.2.3",
  64,
  fieldsV1Pde,
)

const commonV2 = {
  P: [0, 0, "present"],
  RW: [1, 1, "writes allowed"],
  US: [2, 2, "user accesses allowed"],
  PWT: [3, 3, "page-level write-through"],
  PCD: [4, 4, "page-level cache disable"],
  A: [5, 5, "accessed"],
  AVL: [11, 9, "for software"],
  Available: [62, 52, "for software"],
  NX: [63, 63, "no execute"],
} as const

const fieldsV2Pte = {
  D: [6, 6, "dirty"],
  PAT: [7, 7, "page attribute"],
  G: [8, 8, "global"],
  Address: [51, 12, "4 KiB page"],
} as const
export const V2Pte: BitLayout<typeof commonV2 & typeof fieldsV2Pte> = bitLayout(
  "PTE",
  "AMD 48882 rev 3.10 §2.2.6",
  64,
  { ...commonV2, ...fieldsV2Pte },
)

const fieldsV2Large = {
  D: [6, 6, "dirty"],
  PS: [7, 7, "1: leaf"],
  G: [8, 8, "global"],
  PAT: [12, 12, "page attribute"],
  Address: [51, 21, "2 MiB page; bits 29:21 are reserved in a 1 GiB page"],
} as const
/** PDE of a 2 MiB page and PDPE of a 1 GiB page. */
export const V2Large: BitLayout<typeof commonV2 & typeof fieldsV2Large> = bitLayout(
  "PDE or PDPE of a large page",
  "AMD 48882 rev 3.10 §2.2.6",
  64,
  { ...commonV2, ...fieldsV2Large },
)

const fieldsV2Table = {
  Ignored6: [6, 6, "ignored"],
  PS: [7, 7, "0: table"],
  Ignored8: [8, 8, "ignored"],
  Address: [51, 12, "next table"],
} as const
export const V2Table: BitLayout<typeof commonV2 & typeof fieldsV2Table> = bitLayout(
  "PML5E, PML4E, PDPE, PDE",
  "AMD 48882 rev 3.10 §2.2.6",
  64,
  { ...commonV2, ...fieldsV2Table },
)

/** log2 of the bytes below one table of a level, of either format: 2 MiB at level 1. */
export function tableLg2(level: number): number {
  return 12 + INDEX_BITS * level
}

/** log2 of the page of a v1 leaf whose NextLevel is 0: 4 KiB in a table of level 1. */
export function v1PageLg2(level: number): number {
  return tableLg2(level - 1)
}

/** Table 14: the lowest zero among address bits 51:12 is the top bit of the offset. 0 when there is none. */
export function v1SizedLeafLg2(high: number, low: number): number {
  const zerosLo = ~low & ADDR_LO
  if (zerosLo !== 0) return 32 - Math.clz32(zerosLo & -zerosLo)
  const zerosHi = ~high & ADDR_HI
  return zerosHi === 0 ? 0 : 64 - Math.clz32(zerosHi & -zerosHi)
}

/** A size of its own lies between the default sizes of the level and of the one above. */
export function v1FitsLevel(sizeLg2: number, level: number): boolean {
  return sizeLg2 > v1PageLg2(level) && sizeLg2 < tableLg2(level)
}

/** Address bits that a v1 table of a level resolves; level 6 has only bits 63:57. */
export function v1IndexAt(level: number, hi: number, lo: number): number {
  switch (level) {
    case 1:
      return (lo >>> 12) & 0x1ff
    case 2:
      return (lo >>> 21) & 0x1ff
    case 3:
      return ((hi << 2) | (lo >>> 30)) & 0x1ff
    case 4:
      return (hi >>> 7) & 0x1ff
    case 5:
      return (hi >>> 16) & 0x1ff
    default:
      return hi >>> 25
  }
}

/** True when the address has bits above those that `level` levels resolve. */
export function v1IsBeyond(level: number, hi: number, lo: number): boolean {
  const bits = tableLg2(level)
  if (bits >= 64) return false
  return bits >= 32 ? hi >>> (bits - 32) !== 0 : hi !== 0 || lo >>> bits !== 0
}

/** True when the address has bits set that the levels between these two would resolve. */
export function v1SkipsNonzero(level: number, next: number, hi: number, lo: number): boolean {
  for (let skipped = level - 1; skipped > next; skipped--) {
    if (v1IndexAt(skipped, hi, lo) !== 0) return true
  }
  return false
}
