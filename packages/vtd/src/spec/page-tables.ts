/**
 * Paging entries. Intel VT-d Architecture Specification, revision 5.10 (D51397-018), §9.7 and §9.8.
 *
 * The book names entries by the table they stand in; `level` counts as AW and the walk do, leaf tables are 1:
 * SS-PTE and FS-PTE 1, SS-PDE and FS-PDE 2, SS-PDPE and FS-PDPE 3, SS-PML4E and FS-PML4E 4, SS-PML5E and
 * FS-PML5E 5. Names ending in `_HI` are masks of bits 63:32, all others of bits 31:0.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

/** Bits of the address that a table of either stage resolves; each has 512 entries. */
export const INDEX_BITS = 9
/** Largest level with leaves (1 GiB); PS is reserved above it. §3.7, §3.6. */
export const MAX_LEAF_LEVEL = 3

/** Bits 31:12 and 51:32 of the address in any entry; bits at and above the host address width are reserved. */
export const ADDR_LO = 0xffff_f000
export const ADDR_HI = 0x000f_ffff

/** Second stage, §9.8. An entry is present when R or W is set (or X, where execute requests are served). */
export const SS_R: number = 1 << 0
export const SS_W: number = 1 << 1
export const SS_X: number = 1 << 2
/** Bits 5:3 of a leaf. */
export const SS_EMT_SHIFT = 3
export const SS_IPAT: number = 1 << 6
/** Leaf at levels 2 and 3; ignored at level 1, reserved at levels 4 and 5. */
export const SS_PS: number = 1 << 7
/** Set by hardware when SSADE is 1 in the PASID entry; in leaves and tables. */
export const SS_A: number = 1 << 8
/** Set by hardware on a write when SSADE is 1; leaves only. */
export const SS_D: number = 1 << 9
/** Snoop; reserved when ECAP.SC is 0. Leaves only. */
export const SS_SNP: number = 1 << 11
/** Bit 62: was TM (transient mapping), reserved since revision 3.0. */
export const SS_RSVD_HI: number = 1 << 30

/** First stage, §9.7. */
export const FS_P: number = 1 << 0
export const FS_RW: number = 1 << 1
export const FS_US: number = 1 << 2
export const FS_PWT: number = 1 << 3
export const FS_PCD: number = 1 << 4
export const FS_A: number = 1 << 5
/** Leaves only. */
export const FS_D: number = 1 << 6
/** Leaf at levels 2 and 3, reserved at levels 4 and 5. At level 1 the bit is PAT. */
export const FS_PS: number = 1 << 7
export const FS_PAT: number = 1 << 7
/** Leaves only. */
export const FS_G: number = 1 << 8
/** Extended accessed, where EAFE is 1 in the PASID entry. */
export const FS_EA: number = 1 << 10
/** PAT of a leaf at levels 2 and 3. */
export const FS_PAT_LARGE: number = 1 << 12
/** Execute disable. */
export const FS_XD_HI = 0x8000_0000

const leafCommonSs = {
  R: [0, 0, "reads allowed"],
  W: [1, 1, "writes allowed"],
  X: [2, 2, "execute allowed, where SSEE serves execute requests"],
  EMT: [5, 3, "extended memory type"],
  IPAT: [6, 6, "ignore the first stage's PAT"],
  A: [8, 8, "accessed"],
  D: [9, 9, "dirty"],
  Ignored10: [10, 10, "ignored"],
  SNP: [11, 11, "snoop"],
  Ignored: [61, 52, "ignored"],
  Ignored63: [63, 63, "ignored"],
} as const

const fieldsSsPte = {
  Ignored7: [7, 7, "ignored"],
  ADDR: [51, 12, "4 KiB page"],
} as const
export const SsPte: BitLayout<typeof leafCommonSs & typeof fieldsSsPte> = bitLayout(
  "SS-PTE",
  "VT-d 5.10 §9.8",
  64,
  { ...leafCommonSs, ...fieldsSsPte },
)

const fieldsSsPde2M = {
  PS: [7, 7, "1: leaf"],
  ADDR: [51, 21, "2 MiB page"],
} as const
export const SsPde2M: BitLayout<typeof leafCommonSs & typeof fieldsSsPde2M> = bitLayout(
  "SS-PDE of a 2 MiB page",
  "VT-d 5.10 §9.8",
  64,
  { ...leafCommonSs, ...fieldsSsPde2M },
)

const fieldsSsPdpe1G = {
  PS: [7, 7, "1: leaf"],
  ADDR: [51, 30, "1 GiB page"],
} as const
export const SsPdpe1G: BitLayout<typeof leafCommonSs & typeof fieldsSsPdpe1G> = bitLayout(
  "SS-PDPE of a 1 GiB page",
  "VT-d 5.10 §9.8",
  64,
  { ...leafCommonSs, ...fieldsSsPdpe1G },
)

export const fieldsSsTable = {
  R: [0, 0, "reads allowed"],
  W: [1, 1, "writes allowed"],
  X: [2, 2, "execute allowed, where SSEE serves execute requests"],
  Ignored3: [6, 3, "ignored"],
  PS: [7, 7, "0: table"],
  A: [8, 8, "accessed"],
  Ignored9: [10, 9, "ignored"],
  ADDR: [51, 12, "next table"],
  Ignored: [61, 52, "ignored"],
  Ignored63: [63, 63, "ignored"],
} as const
/** SS-PML5E, SS-PML4E, and SS-PDPE and SS-PDE that point to a table. */
export const SsTable: BitLayout<typeof fieldsSsTable> = bitLayout(
  "SS-PML5E, SS-PML4E, SS-PDPE, SS-PDE",
  "VT-d 5.10 §9.8",
  64,
  fieldsSsTable,
)

const commonFs = {
  P: [0, 0, "present"],
  RW: [1, 1, "writes allowed"],
  US: [2, 2, "user-mode accesses allowed"],
  PWT: [3, 3, "page-level write-through"],
  PCD: [4, 4, "page-level cache disable"],
  A: [5, 5, "accessed"],
  Ignored9: [9, 9, "ignored"],
  EA: [10, 10, "extended accessed"],
  Ignored11: [11, 11, "ignored"],
  Ignored: [62, 52, "ignored"],
  XD: [63, 63, "execute disable"],
} as const

const fieldsFsPte = {
  D: [6, 6, "dirty"],
  PAT: [7, 7, "page attribute"],
  G: [8, 8, "global"],
  ADDR: [51, 12, "4 KiB page"],
} as const
export const FsPte: BitLayout<typeof commonFs & typeof fieldsFsPte> = bitLayout(
  "FS-PTE",
  "VT-d 5.10 §9.7",
  64,
  { ...commonFs, ...fieldsFsPte },
)

const fieldsFsPde2M = {
  D: [6, 6, "dirty"],
  PS: [7, 7, "1: leaf"],
  G: [8, 8, "global"],
  PAT: [12, 12, "page attribute"],
  ADDR: [51, 21, "2 MiB page"],
} as const
export const FsPde2M: BitLayout<typeof commonFs & typeof fieldsFsPde2M> = bitLayout(
  "FS-PDE of a 2 MiB page",
  "VT-d 5.10 §9.7",
  64,
  { ...commonFs, ...fieldsFsPde2M },
)

const fieldsFsPdpe1G = {
  D: [6, 6, "dirty"],
  PS: [7, 7, "1: leaf"],
  G: [8, 8, "global"],
  PAT: [12, 12, "page attribute"],
  ADDR: [51, 30, "1 GiB page"],
} as const
export const FsPdpe1G: BitLayout<typeof commonFs & typeof fieldsFsPdpe1G> = bitLayout(
  "FS-PDPE of a 1 GiB page",
  "VT-d 5.10 §9.7",
  64,
  { ...commonFs, ...fieldsFsPdpe1G },
)

const fieldsFsTable = {
  Ignored6: [6, 6, "ignored"],
  PS: [7, 7, "0: table"],
  Ignored8: [8, 8, "ignored"],
  ADDR: [51, 12, "next table"],
} as const
/** FS-PML5E, FS-PML4E, and FS-PDPE and FS-PDE that point to a table. */
export const FsTable: BitLayout<typeof commonFs & typeof fieldsFsTable> = bitLayout(
  "FS-PML5E, FS-PML4E, FS-PDPE, FS-PDE",
  "VT-d 5.10 §9.7",
  64,
  { ...commonFs, ...fieldsFsTable },
)
