/**
 * Context descriptors: Level 1 Context Descriptor and Context Descriptor. Arm IHI 0070 G.b §5.3, §5.4.
 *
 * A CD is to a SubstreamID what other books call a PASID table entry. Masks are for one of the CD's sixteen
 * 32-bit words, word 0 first; the layouts count bits through all words.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

export const L1CD_BYTES = 8
export const CD_BYTES = 64

/** Word 0 of an L1CD. */
export const L1CD_V: number = 1 << 0
export const L1CD_L2PTR_LO = 0xffff_f000
export const L1CD_L2PTR_HI = 0x00ff_ffff
/** log2 of the CDs in one leaf table, by STE.S1Fmt. */
export const L2_CDS_LG2_4KB = 6
export const L2_CDS_LG2_64KB = 10

const fieldsL1cd = {
  V: [0, 0, "L2Ptr is valid"],
  L2Ptr: [55, 12, "address of the next-level table; an IPA with stage 2"],
} as const
/** §5.3 */
export const L1CD: BitLayout<typeof fieldsL1cd> = bitLayout("L1CD", "IHI 0070 G.b §5.3", 64, fieldsL1cd)

/** Word 0: TTB0, then TTB1 with other names for the same things 16 bits higher. */
export const T0SZ = 0x3f
export const TG0_SHIFT = 6
export const TG0: number = 0x3 << 6
export const IR0_SHIFT = 8
export const OR0_SHIFT = 10
export const SH0_SHIFT = 12
export const SH0: number = 0x3 << 12
export const EPD0: number = 1 << 14
export const ENDI: number = 1 << 15
export const T1SZ_SHIFT = 16
export const T1SZ: number = 0x3f << 16
export const TG1_SHIFT = 22
export const TG1: number = 0x3 << 22
export const IR1_SHIFT = 24
export const OR1_SHIFT = 26
export const SH1_SHIFT = 28
export const SH1: number = 0x3 << 28
export const EPD1: number = 1 << 30
export const V = 0x8000_0000
/** Word 1. */
export const IPS = 0x7
export const AFFD: number = 1 << 3
export const WXN: number = 1 << 4
export const UWXN: number = 1 << 5
export const TBI0: number = 1 << 6
export const TBI1: number = 1 << 7
export const PAN: number = 1 << 8
export const AA64: number = 1 << 9
export const HD: number = 1 << 10
export const HA: number = 1 << 11
export const S: number = 1 << 12
export const R: number = 1 << 13
export const A: number = 1 << 14
export const ASET: number = 1 << 15
export const ASID_SHIFT = 16
export const ASID = 0xffff_0000
/** Word 2. */
export const HAD0: number = 1 << 1
export const E0PD0: number = 1 << 2
export const HAFT: number = 1 << 3
export const TTB0_LO = 0xffff_fff0
/** Word 3. */
export const TTB0_HI = 0x00ff_ffff
export const EPAN: number = 1 << 27
/** Word 4. */
export const HAD1: number = 1 << 1
export const E0PD1: number = 1 << 2
export const TTB1_LO = 0xffff_fff0
/** Word 5. */
export const TTB1_HI = 0x00ff_ffff
export const DS: number = 1 << 26

/** TG0 and STE.S2TG. */
export const TG0_4KB = 0
export const TG0_64KB = 1
export const TG0_16KB = 2
/** TG1 counts differently. */
export const TG1_16KB = 1
export const TG1_4KB = 2
export const TG1_64KB = 3

const fieldsCd = {
  T0SZ: [5, 0, "TTB0 translates 64 - T0SZ bits"],
  TG0: [7, 6, "TTB0 granule: 0 4 KiB, 1 64 KiB, 2 16 KiB"],
  IR0: [9, 8, "TTB0 inner cacheability"],
  OR0: [11, 10, "TTB0 outer cacheability"],
  SH0: [13, 12, "TTB0 shareability"],
  EPD0: [14, 14, "TTB0 walks disabled"],
  ENDI: [15, 15, "tables are big-endian"],
  T1SZ: [21, 16, "TTB1 translates 64 - T1SZ bits"],
  TG1: [23, 22, "TTB1 granule: 1 16 KiB, 2 4 KiB, 3 64 KiB"],
  IR1: [25, 24, "TTB1 inner cacheability"],
  OR1: [27, 26, "TTB1 outer cacheability"],
  SH1: [29, 28, "TTB1 shareability"],
  EPD1: [30, 30, "TTB1 walks disabled"],
  V: [31, 31, "the CD is valid"],
  IPS: [34, 32, "output size of stage 1, as IDR5.OAS"],
  AFFD: [35, 35, "Access flag faults disabled"],
  WXN: [36, 36, "writable is not executable"],
  UWXN: [37, 37, "writable without privilege is not executable with privilege"],
  TBI0: [38, 38, "top byte ignored in the lower range"],
  TBI1: [39, 39, "top byte ignored in the upper range"],
  PAN: [40, 40, "privileged access never to unprivileged pages"],
  AA64: [41, 41, "tables are VMSAv8-64"],
  HD: [42, 42, "hardware update of dirty state"],
  HA: [43, 43, "hardware update of the Access flag"],
  S: [44, 44, "faults stall"],
  R: [45, 45, "faults are recorded"],
  A: [46, 46, "terminated transactions abort"],
  ASET: [47, 47, "ASID is not shared with PEs"],
  ASID: [63, 48, "ASID"],
  NSCFG0: [64, 64, "TTB0 space, for Secure streams"],
  HAD0: [65, 65, "TTB0 hierarchical attributes disabled"],
  E0PD0: [66, 66, "no unprivileged access through TTB0"],
  HAFT: [67, 67, "Access flag in tables"],
  TTB0: [119, 68, "address of the lower range's root; an IPA with stage 2"],
  PnCH: [122, 122, "protected attribute instead of contiguous"],
  EPAN: [123, 123, "PAN also for executable pages"],
  HWU059: [124, 124, "TTB0: meaning of descriptor bit 59"],
  HWU060: [125, 125, "TTB0: meaning of descriptor bit 60"],
  SKL0: [127, 126, "TTB0: levels skipped, or meaning of descriptor bits 61 and 62"],
  NSCFG1: [128, 128, "TTB1 space, for Secure streams"],
  HAD1: [129, 129, "TTB1 hierarchical attributes disabled"],
  E0PD1: [130, 130, "no unprivileged access through TTB1"],
  AIE: [131, 131, "attribute index extension"],
  TTB1: [183, 132, "address of the upper range's root; an IPA with stage 2"],
  DS: [186, 186, "tables are LPA2"],
  PIE: [187, 187, "permission indirection"],
  HWU159: [188, 188, "TTB1: meaning of descriptor bit 59"],
  HWU160: [189, 189, "TTB1: meaning of descriptor bit 60"],
  SKL1: [191, 190, "TTB1: levels skipped, or meaning of descriptor bits 61 and 62"],
  MAIR0: [223, 192, "memory attributes 0 to 3"],
  MAIR1: [255, 224, "memory attributes 4 to 7"],
  AMAIR0: [287, 256, "auxiliary memory attributes 0 to 3"],
  AMAIR1: [319, 288, "auxiliary memory attributes 4 to 7"],
  ImplDef: [351, 320, "IMPLEMENTATION DEFINED"],
  PARTID: [367, 352, "MPAM partition"],
  PMG: [375, 368, "MPAM performance group"],
  PIIU: [431, 384, "unprivileged permission indirection"],
  PIIP: [495, 448, "privileged permission indirection"],
} as const
/** §5.4 */
export const CD: BitLayout<typeof fieldsCd> = bitLayout("CD", "IHI 0070 G.b §5.4", 512, fieldsCd)
