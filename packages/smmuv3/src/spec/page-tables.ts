/**
 * Translation table descriptors of VMSAv8-64, the format of AArch64 CDs and STEs (IHI 0070 G.b §3.4, CD.AA64 in
 * §5.4, STE.S2AA64 in §5.2). Arm Architecture Reference Manual DDI 0487 J.a, §D8.3 "Translation table descriptor
 * formats".
 *
 * Levels are the book's: pages stand in tables of level 3; the first level looked up is 0 to 3, -1 with 52-bit
 * addresses and the 4 KiB granule. Names ending in `_HI` are masks of bits 63:32, all others of bits 31:0.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

export const LAST_LEVEL = 3

/** Bits 1:0, §D8.3.1: 0b11 is a table below level 3 and a page at level 3, 0b01 a block (reserved at level 3). */
export const VALID: number = 1 << 0
export const TABLE: number = 1 << 1
export const PAGE: number = 1 << 1
export const TYPE = 0x3
export const TYPE_BLOCK = 0x1
export const TYPE_TABLE = 0x3
export const TYPE_PAGE = 0x3

/**
 * Bits 31:12 and 47:32 of an address. With 16 KiB and 64 KiB granules bits below the granule are RES0 in table
 * descriptors, or hold OA[51:48] (see {@link LPA_OA_51_48}).
 */
export const ADDR_LO = 0xffff_f000
export const ADDR_HI = 0x0000_ffff
/** 64 KiB granule and 52-bit output (FEAT_LPA): OA[51:48] stand in bits 15:12. §D8.3.1. */
export const LPA_OA_51_48 = 0xf000
export const LPA_OA_51_48_SHIFT = 12
/** 4 KiB and 16 KiB granules with TCR.DS or VTCR.DS = 1 (FEAT_LPA2): OA[49:48] stand in place... */
export const LPA2_ADDR_HI = 0x0003_ffff
/** ...and OA[51:50] in bits 9:8, where SH is otherwise; shareability then comes from the CD or STE. */
export const LPA2_OA_51_50 = 0x300
export const LPA2_OA_51_50_SHIFT = 8

/** Leaf attributes of both stages, §D8.3.2. */
export const SH = 0x300
export const SH_SHIFT = 8
export const SH_NON_SHAREABLE: number = 0 << 8
export const SH_OUTER_SHAREABLE: number = 2 << 8
export const SH_INNER_SHAREABLE: number = 3 << 8
/** Access flag: 0 faults with F_ACCESS, or is set by hardware where HTTU does so. */
export const AF: number = 1 << 10
/** Block translation, FEAT_BBM level 1 and 2. */
export const NT: number = 1 << 16
/** Dirty bit modifier: makes a read-only leaf "writable, clean". */
export const DBM_HI: number = 1 << 19
/** Contiguous: one of a run of aligned entries that translate as one. */
export const CONTIGUOUS_HI: number = 1 << 20
/** Bits 58:55, left to software (bit 55 is NS in Secure stage 2). */
export const SOFTWARE_HI: number = 0xf << 23

/** Stage 1 leaves. AttrIndx picks a byte of CD.MAIR. */
export const S1_ATTR_INDX = 0x1c
export const S1_ATTR_INDX_SHIFT = 2
export const S1_NS: number = 1 << 5
/** AP[2:1] in bits 7:6. AP[1]: unprivileged access is allowed. */
export const S1_AP = 0xc0
export const S1_AP_SHIFT = 6
export const S1_AP1: number = 1 << 6
/** AP[2]: 1 is read-only. With DBM = 1, writable and clean until hardware clears it. §D8.5. */
export const S1_AP2: number = 1 << 7
/** Not global: translation belongs to one ASID. */
export const S1_NG: number = 1 << 11
/** Guarded page; no meaning for devices. */
export const S1_GP_HI: number = 1 << 18
export const S1_PXN_HI: number = 1 << 21
/** UXN, or XN for a single-privilege regime. */
export const S1_UXN_HI: number = 1 << 22

/** Stage 1 table descriptors: limits on everything below, unless CD.HPD0 or HPD1 (hierarchical permissions off). */
export const PXN_TABLE_HI: number = 1 << 27
export const XN_TABLE_HI: number = 1 << 28
/** APTable[1:0] in bits 62:61. [0]: no unprivileged access below. [1]: no write below. */
export const AP_TABLE_HI = 0x6000_0000
export const AP_TABLE_NO_UNPRIV_HI: number = 1 << 29
export const AP_TABLE_NO_WRITE_HI: number = 1 << 30
export const NS_TABLE_HI = 0x8000_0000

/** Stage 2 leaves. MemAttr[3:0] in bits 5:2 is a memory type itself, no index (with FWB its meaning changes). */
export const S2_MEM_ATTR = 0x3c
export const S2_MEM_ATTR_SHIFT = 2
export const S2_MEM_ATTR_DEVICE_NGNRE: number = 0x1 << 2
export const S2_MEM_ATTR_NORMAL_NC: number = 0x5 << 2
export const S2_MEM_ATTR_NORMAL_WB: number = 0xf << 2
export const S2_AP = 0xc0
export const S2_AP_SHIFT = 6
/** S2AP[0]: reads are allowed. */
export const S2_AP_READ: number = 1 << 6
/** S2AP[1]: writes are allowed. With DBM = 1 and 0 here, writable and clean until hardware sets it. §D8.5. */
export const S2_AP_WRITE: number = 1 << 7
export const S2_FNXS: number = 1 << 11
/** XN[1:0] in bits 54:53 (FEAT_XNX); without it bit 54 alone counts. */
export const S2_XN_HI = 0x60_0000
export const S2_XN1_HI: number = 1 << 22
export const S2_XN0_HI: number = 1 << 21

const leafS1 = {
  Type: [1, 0, "0b11 page at level 3, 0b01 block above"],
  AttrIndx: [4, 2, "byte of CD.MAIR"],
  NS: [5, 5, "non-secure"],
  AP: [7, 6, "[1] unprivileged access, [2] read-only"],
  AF: [10, 10, "access flag"],
  nG: [11, 11, "not global"],
  GP: [50, 50, "guarded page"],
  PXN: [53, 53, "privileged execute-never"],
  UXN: [54, 54, "unprivileged execute-never"],
  DBM: [51, 51, "dirty bit modifier"],
  Contiguous: [52, 52, "one of a run that translates as one"],
  Software: [58, 55, "for software"],
  PBHA: [62, 59, "page-based hardware attributes, or ignored"],
  Ignored63: [63, 63, "ignored"],
} as const

const fieldsStage1Leaf = {
  SH: [9, 8, "shareability"],
  OA: [47, 12, "output address"],
} as const
/** Stage 1 page or block, output addresses up to 48 bits. */
export const Stage1Leaf: BitLayout<typeof leafS1 & typeof fieldsStage1Leaf> = bitLayout(
  "stage 1 page or block descriptor",
  "DDI 0487 J.a §D8.3",
  64,
  { ...leafS1, ...fieldsStage1Leaf },
)

const fieldsStage1LeafLpa = {
  SH: [9, 8, "shareability"],
  OA_51_48: [15, 12, "output address bits 51:48"],
  OA: [47, 16, "output address bits 47:16"],
} as const
/** Stage 1 page or block, 64 KiB granule, 52-bit output addresses (FEAT_LPA). */
export const Stage1LeafLpa: BitLayout<typeof leafS1 & typeof fieldsStage1LeafLpa> = bitLayout(
  "stage 1 page or block descriptor, 64 KiB granule, 52 bits",
  "DDI 0487 J.a §D8.3",
  64,
  { ...leafS1, ...fieldsStage1LeafLpa },
)

const fieldsStage1LeafLpa2 = {
  OA_51_50: [9, 8, "output address bits 51:50"],
  OA: [49, 12, "output address bits 49:12"],
} as const
/** Stage 1 page or block, 4 KiB and 16 KiB granules with DS = 1 (FEAT_LPA2). */
export const Stage1LeafLpa2: BitLayout<typeof leafS1 & typeof fieldsStage1LeafLpa2> = bitLayout(
  "stage 1 page or block descriptor, DS = 1",
  "DDI 0487 J.a §D8.3",
  64,
  { ...leafS1, ...fieldsStage1LeafLpa2 },
)

const leafS2 = {
  Type: [1, 0, "0b11 page at level 3, 0b01 block above"],
  MemAttr: [5, 2, "memory type"],
  S2AP: [7, 6, "[0] reads allowed, [1] writes allowed"],
  AF: [10, 10, "access flag"],
  FnXS: [11, 11, "XS attribute"],
  XN: [54, 53, "execute-never"],
  DBM: [51, 51, "dirty bit modifier"],
  Contiguous: [52, 52, "one of a run that translates as one"],
  Software: [57, 55, "for software"],
  AssuredOnly: [58, 58, "for software, or assured translation"],
  PBHA: [62, 59, "page-based hardware attributes, or ignored"],
  AMEC: [63, 63, "alternate memory encryption context, in the Realm state"],
} as const

const fieldsStage2Leaf = {
  SH: [9, 8, "shareability"],
  OA: [47, 12, "output address"],
} as const
/** Stage 2 page or block, output addresses up to 48 bits. */
export const Stage2Leaf: BitLayout<typeof leafS2 & typeof fieldsStage2Leaf> = bitLayout(
  "stage 2 page or block descriptor",
  "DDI 0487 J.a §D8.3",
  64,
  { ...leafS2, ...fieldsStage2Leaf },
)

const fieldsStage2LeafLpa = {
  SH: [9, 8, "shareability"],
  OA_51_48: [15, 12, "output address bits 51:48"],
  OA: [47, 16, "output address bits 47:16"],
} as const
/** Stage 2 page or block, 64 KiB granule, 52-bit output addresses (FEAT_LPA). */
export const Stage2LeafLpa: BitLayout<typeof leafS2 & typeof fieldsStage2LeafLpa> = bitLayout(
  "stage 2 page or block descriptor, 64 KiB granule, 52 bits",
  "DDI 0487 J.a §D8.3",
  64,
  { ...leafS2, ...fieldsStage2LeafLpa },
)

const fieldsStage2LeafLpa2 = {
  OA_51_50: [9, 8, "output address bits 51:50"],
  OA: [49, 12, "output address bits 49:12"],
} as const
/** Stage 2 page or block, 4 KiB and 16 KiB granules with DS = 1 (FEAT_LPA2). */
export const Stage2LeafLpa2: BitLayout<typeof leafS2 & typeof fieldsStage2LeafLpa2> = bitLayout(
  "stage 2 page or block descriptor, DS = 1",
  "DDI 0487 J.a §D8.3",
  64,
  { ...leafS2, ...fieldsStage2LeafLpa2 },
)

const tableLimits = {
  Type: [1, 0, "0b11 table"],
  PXNTable: [59, 59, "privileged execute-never below"],
  XNTable: [60, 60, "execute-never below"],
  APTable: [62, 61, "[0] no unprivileged access, [1] no write below"],
  NSTable: [63, 63, "non-secure below"],
} as const

const fieldsTable = {
  TableAddress: [47, 12, "next table"],
} as const
/** Table of either stage, addresses up to 48 bits; the limits are RES0 in stage 2. */
export const Table: BitLayout<typeof tableLimits & typeof fieldsTable> = bitLayout(
  "table descriptor",
  "DDI 0487 J.a §D8.3.1",
  64,
  { ...tableLimits, ...fieldsTable },
)

const fieldsTableLpa = {
  TA_51_48: [15, 12, "next table bits 51:48"],
  TableAddress: [47, 16, "next table bits 47:16"],
} as const
export const TableLpa: BitLayout<typeof tableLimits & typeof fieldsTableLpa> = bitLayout(
  "table descriptor, 64 KiB granule, 52 bits",
  "DDI 0487 J.a §D8.3.1",
  64,
  { ...tableLimits, ...fieldsTableLpa },
)

const fieldsTableLpa2 = {
  TA_51_50: [9, 8, "next table bits 51:50"],
  TableAddress: [49, 12, "next table bits 49:12"],
} as const
export const TableLpa2: BitLayout<typeof tableLimits & typeof fieldsTableLpa2> = bitLayout(
  "table descriptor, DS = 1",
  "DDI 0487 J.a §D8.3.1",
  64,
  { ...tableLimits, ...fieldsTableLpa2 },
)

/** How a descriptor holds an address: bits 47:n, 64 KiB granule with 51:48 in 15:12, or DS with 51:50 in 9:8. */
export const ADDRESS_48 = 0
export const ADDRESS_LPA = 1
export const ADDRESS_LPA2 = 2

/** log2 of the granule by CD.TG0 and STE.S2TG, then by CD.TG1; 0 where reserved. */
export const GRANULE_LG2_TG0: readonly number[] = [12, 16, 14, 0]
export const GRANULE_LG2_TG1: readonly number[] = [0, 14, 12, 16]

/** Level of a stage 1 root: the deepest that still resolves the input, DDI 0487 §D8.2. */
export function stage1StartLevel(granuleLg2: number, inputBits: number): number {
  return 3 - Math.trunc((inputBits - 1 - granuleLg2) / (granuleLg2 - 3))
}

/** Level of a stage 2 root by {S2SL0_2, S2SL0}; undefined where reserved. DDI 0487 tables D8-19, D8-29, D8-38. */
export function stage2StartLevel(granuleLg2: number, sl: number, ds: boolean): number | undefined {
  if (granuleLg2 === 12) return [2, 1, 0, 3, ds ? -1 : undefined][sl]
  if (granuleLg2 === 14) return [3, 2, 1, ds ? 0 : undefined][sl & 3]
  return [3, 2, 1, undefined][sl & 3]
}

/**
 * Whether stage 2 input bits fit a root of the given level, with up to 16 concatenated tables.
 * DDI 0487 tables D8-20 to D8-41.
 */
export function stage2LevelFits(granuleLg2: number, inputBits: number, startLevel: number): boolean {
  const stride = granuleLg2 - 3
  const fewest = (3 - startLevel) * stride + granuleLg2 + 1
  const most = fewest + stride - 1 + 4
  return inputBits >= fewest && inputBits <= most
}

/** What a descriptor is. DDI 0487 §D8.3.1. */
export const KIND_INVALID = 0
export const KIND_TABLE = 1
export const KIND_LEAF = 2

export function descriptorKind(low: number, level: number, firstBlockLevel: number): number {
  const type = low & TYPE
  if (level === LAST_LEVEL) return type === TYPE_PAGE ? KIND_LEAF : KIND_INVALID
  if (type === TYPE_TABLE) return KIND_TABLE
  return type === TYPE_BLOCK && level >= firstBlockLevel ? KIND_LEAF : KIND_INVALID
}

/** Bits 63:32 of the address that a descriptor holds. */
export function addressHi(high: number, low: number, form: number): number {
  if (form === ADDRESS_48) return high & ADDR_HI
  if (form === ADDRESS_LPA) return (high & ADDR_HI) | ((low & LPA_OA_51_48) << 4)
  return (high & LPA2_ADDR_HI) | ((low & LPA2_OA_51_50) << 10)
}

/** Swaps the bytes of a 32-bit word: tables may be big-endian, CD.ENDI and STE.S2ENDI. */
export function swap32(word: number): number {
  return (word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24)
}
