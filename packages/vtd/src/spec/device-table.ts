/**
 * Root and context entries, legacy and scalable. Intel VT-d 5.10 (D51397-018) §9.1 to §9.4.
 *
 * Plain constants are masks in one 32-bit half; the suffix names the half: `_LO` bits 31:0 of the entry's first 64
 * bits, `_HI` bits 63:32, `_LO1` and `_HI1` those of the second 64 bits. Without a suffix: bits 31:0.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

/** Low bits that an address field of a table pointer leaves free for flags. */
export const ADDR_MASK_LO: number = 0xfffff000

/** Both modes: 256 entries, one for each bus. */
export const ROOT_ENTRY_BYTES = 16

const rootFields = {
  P: [0, 0, "present"],
  CTP: [63, 12, "context table address"],
} as const
/** Legacy root entry. §9.1. */
export const ROOT: BitLayout<typeof rootFields> = bitLayout("root entry", "VT-d 5.10 §9.1", 128, rootFields)
export const ROOT_P: number = 1 << 0
export const ROOT_RSVD_LO = 0xffe

const scalableRootFields = {
  LP: [0, 0, "lower present: devices 0 to 15"],
  LCTP: [63, 12, "lower context table address"],
  UP: [64, 64, "upper present: devices 16 to 31"],
  UCTP: [127, 76, "upper context table address"],
} as const
/** Scalable-mode root entry: two halves of the same form. §9.2. */
export const SCALABLE_ROOT: BitLayout<typeof scalableRootFields> = bitLayout(
  "scalable-mode root entry",
  "VT-d 5.10 §9.2",
  128,
  scalableRootFields,
)

/** Legacy: 256 entries, one for each device and function. */
export const CONTEXT_ENTRY_BYTES = 16

const contextFields = {
  P: [0, 0, "present"],
  FPD: [1, 1, "fault processing disable"],
  TT: [3, 2, "translation type: 0 untranslated only, 1 with device-TLB, 2 pass-through"],
  SSPTPTR: [63, 12, "second-stage table address"],
  AW: [66, 64, "address width: 1 39 bits (3 levels), 2 48 (4), 3 57 (5)"],
  IGN: [70, 67, "ignored by hardware"],
  DID: [87, 72, "domain-id"],
} as const
/** Legacy context entry. §9.3. */
export const CONTEXT: BitLayout<typeof contextFields> = bitLayout(
  "context entry",
  "VT-d 5.10 §9.3",
  128,
  contextFields,
)
export const CONTEXT_P: number = 1 << 0
export const CONTEXT_FPD: number = 1 << 1
export const CONTEXT_TT_SHIFT = 2
export const CONTEXT_TT_MASK = 3
export const TT_UNTRANSLATED = 0
export const TT_DEVICE_TLB = 1
export const TT_PASS_THROUGH = 2
export const CONTEXT_RSVD_LO = 0xff0
export const CONTEXT_AW_MASK_LO1 = 7
export const CONTEXT_DID_SHIFT_LO1 = 8
export const CONTEXT_RSVD_LO1: number = 0xff000080
export const CONTEXT_RSVD_HI1: number = 0xffffffff

/** Scalable mode: 128 entries in each of the lower and upper table. */
export const SCALABLE_CONTEXT_ENTRY_BYTES = 32

const scalableContextFields = {
  P: [0, 0, "present"],
  FPD: [1, 1, "fault processing disable"],
  DTE: [2, 2, "device-TLB enable"],
  PASIDE: [3, 3, "PASID enable"],
  PRE: [4, 4, "page request enable"],
  PDTS: [11, 9, "PASID directory has 2^(PDTS+7) entries"],
  PASIDDIRPTR: [63, 12, "PASID directory address"],
  RID_PASID: [83, 64, "PASID of requests without PASID"],
  RID_PRIV: [84, 84, "requests without PASID are privileged"],
} as const
/** Scalable-mode context entry. §9.4. */
export const SCALABLE_CONTEXT: BitLayout<typeof scalableContextFields> = bitLayout(
  "scalable-mode context entry",
  "VT-d 5.10 §9.4",
  256,
  scalableContextFields,
)
export const DTE: number = 1 << 2
export const PASIDE: number = 1 << 3
export const PRE: number = 1 << 4
export const PDTS_SHIFT = 9
export const PDTS_MASK = 7
export const SCALABLE_CONTEXT_RSVD_LO = 0x1e0
export const RID_PASID_MASK_LO1 = 0xfffff
export const RID_PRIV_LO1: number = 1 << 20
export const SCALABLE_CONTEXT_RSVD_LO1: number = 0xffe00000
