/**
 * PASID directory and PASID table entries. Intel VT-d 5.10 (D51397-018) §9.5, §9.6.
 *
 * Plain constants are masks in one 32-bit half; `_LO1` is bits 31:0 of the second 64 bits, and so on. Without a
 * suffix: bits 31:0.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

export const PASID_DIRECTORY_ENTRY_BYTES = 8
export const PASID_TABLE_ENTRY_BYTES = 64
/** PASID bits that choose the entry in a PASID table; those above choose the directory entry. §3.4.3. */
export const PASID_TABLE_BITS = 6
/** PASIDs have at most 20 bits. */
export const PASID_MAX = 0xfffff

const directoryFields = {
  P: [0, 0, "present"],
  FPD: [1, 1, "fault processing disable"],
  SMPTBLPTR: [63, 12, "PASID table address"],
} as const
/** §9.5. */
export const PASID_DIRECTORY: BitLayout<typeof directoryFields> = bitLayout(
  "PASID directory entry",
  "VT-d 5.10 §9.5",
  64,
  directoryFields,
)
export const PDE_P: number = 1 << 0
export const PDE_FPD: number = 1 << 1
export const PDE_RSVD_LO = 0xffc

const entryFields = {
  P: [0, 0, "present"],
  FPD: [1, 1, "fault processing disable"],
  AW: [4, 2, "second-stage width: 1 39 bits (3 levels), 2 48 (4), 3 57 (5)"],
  PGTT: [8, 6, "translation type: 1 first stage, 2 second stage, 3 nested, 4 pass-through"],
  SSADE: [9, 9, "second-stage accessed and dirty enable"],
  SSPTPTR: [63, 12, "second-stage table address"],
  DID: [79, 64, "domain-id"],
  PWSNP: [87, 87, "page walks snoop caches"],
  PGSNP: [88, 88, "accesses to pages snoop caches"],
  CD: [89, 89, "cache disable"],
  EMTE: [90, 90, "extended memory type enable"],
  PAT: [127, 96, "page attribute table"],
  SRE: [128, 128, "supervisor request enable"],
  FSPM: [131, 130, "first-stage paging mode: 0 4 levels, 1 5 levels"],
  WPE: [132, 132, "write protect enable: supervisor writes obey R/W"],
  IGN: [134, 133, "ignored; older software set NXE and SMEP here"],
  EAFE: [135, 135, "extended accessed flag enable"],
  FSPTPTR: [191, 140, "first-stage table address"],
} as const
/** §9.6. */
export const PASID_ENTRY: BitLayout<typeof entryFields> = bitLayout(
  "PASID table entry",
  "VT-d 5.10 §9.6",
  512,
  entryFields,
)
export const PE_P: number = 1 << 0
export const PE_FPD: number = 1 << 1
export const PE_AW_SHIFT = 2
export const PE_AW_MASK = 7
export const PE_PGTT_SHIFT = 6
export const PE_PGTT_MASK = 7
export const PGTT_FIRST = 1
export const PGTT_SECOND = 2
export const PGTT_NESTED = 3
export const PGTT_PASS_THROUGH = 4
export const PE_SSADE: number = 1 << 9
export const PE_RSVD_LO = 0xc20
export const PE_DID_MASK_LO1 = 0xffff
export const PE_PWSNP_LO1: number = 1 << 23
export const PE_PGSNP_LO1: number = 1 << 24
export const PE_CD_LO1: number = 1 << 25
export const PE_EMTE_LO1: number = 1 << 26
export const PE_RSVD_LO1: number = 0xf87f0000
export const PE_SRE_LO2: number = 1 << 0
export const PE_FSPM_SHIFT_LO2 = 2
export const PE_FSPM_MASK = 3
export const FSPM_4_LEVEL = 0
export const FSPM_5_LEVEL = 1
export const PE_WPE_LO2: number = 1 << 4
export const PE_EAFE_LO2: number = 1 << 7
export const PE_RSVD_LO2 = 0xf02
