/**
 * Invalidation descriptors, as they stand in the invalidation queue. Intel VT-d 5.10 (D51397-018) §6.5.2, page group
 * response §7.6.1.
 *
 * A descriptor has 128 bits, or 256 when IQA_REG.DW is set; the upper 128 bits are reserved then.
 * Layouts have all 256: with DW clear, software drops the last two words.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

/** Type: bits 11:9 and 3:0 of a descriptor together. Table 26 says which are valid in which mode. */
export const CC_INV = 0x1
export const IOTLB_INV = 0x2
export const DEV_TLB_INV = 0x3
export const IEC_INV = 0x4
export const INV_WAIT = 0x5
export const P_IOTLB_INV = 0x6
export const PC_INV = 0x7
export const P_DEV_TLB_INV = 0x8
export const PAGE_GRP_RESP = 0x9

export const TYPE_MASK = 0xf
export const TYPE_HI_SHIFT = 9
export const TYPE_HI_MASK = 7

/** Fields that stand in the same place in several types; `_HI`: bits 63:32, `_LO1`: bits 95:64. */
export const G_SHIFT = 4
export const G_MASK = 3
export const DID_SHIFT = 16
export const DID_MASK = 0xffff
export const PASID_MASK_HI = 0xfffff
export const FM_SHIFT_HI = 16
export const FM_MASK_HI = 3
export const AM_MASK_LO1 = 0x3f
export const IH_LO1: number = 1 << 6
export const PFSID_LO_MASK = 0xf000
export const PFSID_HI_MASK_HI: number = 0xfff0_0000
/** Invalidation wait, §6.5.2.9. */
export const WAIT_IF: number = 1 << 4
export const WAIT_SW: number = 1 << 5
export const WAIT_PD: number = 1 << 7
/** Device-TLB invalidate, §6.5.2.5: SID in bits 47:32, S in bit 64. */
export const DEV_TLB_S_LO1: number = 1 << 0
/** PASID-based device-TLB invalidate, §6.5.2.6: SID in bits 31:16, GI in bit 64, S in bit 75. */
export const P_DEV_TLB_GI_LO1: number = 1 << 0
export const P_DEV_TLB_S_LO1: number = 1 << 11
/** Page group response, §7.6.1. */
export const PAGE_GRP_PP: number = 1 << 4
export const PAGE_GRP_RC_SHIFT = 12
export const PAGE_GRP_RC_MASK = 0xf
export const PAGE_GRP_RID_SHIFT = 16
export const PAGE_GRP_PRGI_SHIFT_LO1 = 3
export const PAGE_GRP_PRGI_MASK_LO1 = 0x1ff

/** Granularities of a context-cache invalidation. §6.5.2.1. */
export const CC_GLOBAL = 1
export const CC_DOMAIN = 2
export const CC_DEVICE = 3
/** Granularities of a PASID-cache invalidation. §6.5.2.2. */
export const PC_DOMAIN = 0
export const PC_PASID = 1
export const PC_GLOBAL = 3
/** Granularities of an IOTLB invalidation. §6.5.2.3. */
export const IOTLB_GLOBAL = 1
export const IOTLB_DOMAIN = 2
export const IOTLB_PAGE = 3
/** Granularities of a PASID-based IOTLB invalidation. §6.5.2.4. */
export const P_IOTLB_PASID = 2
export const P_IOTLB_PAGE = 3

const ccFields = {
  Type: [3, 0, "1"],
  G: [5, 4, "granularity: 1 global, 2 domain, 3 device"],
  TypeHi: [11, 9, "0"],
  DID: [31, 16, "domain-id"],
  SID: [47, 32, "source-id"],
  FM: [49, 48, "function mask"],
} as const
/** Context-cache invalidate. §6.5.2.1. */
export const CC_INV_DSC: BitLayout<typeof ccFields> = bitLayout(
  "cc_inv_dsc",
  "VT-d 5.10 §6.5.2.1",
  256,
  ccFields,
)

const pcFields = {
  Type: [3, 0, "7"],
  G: [5, 4, "granularity: 0 domain, 1 PASID within domain, 3 global"],
  TypeHi: [11, 9, "0"],
  DID: [31, 16, "domain-id"],
  PASID: [51, 32, "PASID"],
} as const
/** PASID-cache invalidate. §6.5.2.2. */
export const PC_INV_DSC: BitLayout<typeof pcFields> = bitLayout(
  "pc_inv_dsc",
  "VT-d 5.10 §6.5.2.2",
  256,
  pcFields,
)

const iotlbFields = {
  Type: [3, 0, "2"],
  G: [5, 4, "granularity: 1 global, 2 domain, 3 page"],
  DW: [6, 6, "drain writes"],
  DR: [7, 7, "drain reads"],
  TypeHi: [11, 9, "0"],
  DID: [31, 16, "domain-id"],
  AM: [69, 64, "log2 of the pages to invalidate"],
  IH: [70, 70, "only leaf entries changed"],
  ADDR: [127, 76, "page address"],
} as const
/** IOTLB invalidate. §6.5.2.3. */
export const IOTLB_INV_DSC: BitLayout<typeof iotlbFields> = bitLayout(
  "iotlb_inv_dsc",
  "VT-d 5.10 §6.5.2.3",
  256,
  iotlbFields,
)

const pIotlbFields = {
  Type: [3, 0, "6"],
  G: [5, 4, "granularity: 2 PASID, 3 page within PASID"],
  TypeHi: [11, 9, "0"],
  DID: [31, 16, "domain-id"],
  PASID: [51, 32, "PASID"],
  AM: [69, 64, "log2 of the pages to invalidate"],
  IH: [70, 70, "only leaf entries changed"],
  ADDR: [127, 76, "page address"],
} as const
/** PASID-based IOTLB invalidate. §6.5.2.4. */
export const P_IOTLB_INV_DSC: BitLayout<typeof pIotlbFields> = bitLayout(
  "p_iotlb_inv_dsc",
  "VT-d 5.10 §6.5.2.4",
  256,
  pIotlbFields,
)

const devTlbFields = {
  Type: [3, 0, "3"],
  TypeHi: [11, 9, "0"],
  PFSIDLo: [15, 12, "physical function's source-id, bits 3:0"],
  MIP: [20, 16, "largest number of invalidations in flight"],
  SID: [47, 32, "source-id"],
  PFSIDHi: [63, 52, "physical function's source-id, bits 15:4"],
  S: [64, 64, "size: the range is encoded in ADDR's low bits"],
  ADDR: [127, 76, "page address"],
} as const
/** Device-TLB invalidate. §6.5.2.5. */
export const DEV_TLB_INV_DSC: BitLayout<typeof devTlbFields> = bitLayout(
  "dev_tlb_inv_dsc",
  "VT-d 5.10 §6.5.2.5",
  256,
  devTlbFields,
)

const pDevTlbFields = {
  Type: [3, 0, "8"],
  MIP: [8, 4, "largest number of invalidations in flight"],
  TypeHi: [11, 9, "0"],
  PFSIDLo: [15, 12, "physical function's source-id, bits 3:0"],
  SID: [31, 16, "source-id"],
  PASID: [51, 32, "PASID"],
  PFSIDHi: [63, 52, "physical function's source-id, bits 15:4"],
  GI: [64, 64, "global invalidate: all PASIDs"],
  S: [75, 75, "size: the range is encoded in ADDR's low bits"],
  ADDR: [127, 76, "page address"],
} as const
/** PASID-based device-TLB invalidate. §6.5.2.6. */
export const P_DEV_TLB_INV_DSC: BitLayout<typeof pDevTlbFields> = bitLayout(
  "p_dev_tlb_inv_dsc",
  "VT-d 5.10 §6.5.2.6",
  256,
  pDevTlbFields,
)

const iecFields = {
  Type: [3, 0, "4"],
  G: [4, 4, "granularity: 0 global, 1 by index"],
  TypeHi: [11, 9, "0"],
  IM: [31, 27, "log2 of the entries to invalidate"],
  IIDX: [47, 32, "interrupt index"],
} as const
/** Interrupt entry cache invalidate. §6.5.2.8. */
export const IEC_INV_DSC: BitLayout<typeof iecFields> = bitLayout(
  "iec_inv_dsc",
  "VT-d 5.10 §6.5.2.8",
  256,
  iecFields,
)

const waitFields = {
  Type: [3, 0, "5"],
  IF: [4, 4, "interrupt when done"],
  SW: [5, 5, "write STDATA to STADDR when done"],
  FN: [6, 6, "fence: later descriptors wait for this one"],
  PD: [7, 7, "drain page requests first"],
  TypeHi: [11, 9, "0"],
  STDATA: [63, 32, "status data"],
  STADDR: [127, 66, "status address, a multiple of 4"],
} as const
/** Invalidation wait. §6.5.2.9. */
export const INV_WAIT_DSC: BitLayout<typeof waitFields> = bitLayout(
  "inv_wait_dsc",
  "VT-d 5.10 §6.5.2.9",
  256,
  waitFields,
)

const pageGroupFields = {
  Type: [3, 0, "9"],
  PP: [4, 4, "PASID present"],
  TypeHi: [11, 9, "0"],
  RC: [15, 12, "response code: 0 success, 1 invalid request, 15 failure"],
  RID: [31, 16, "requester-id"],
  PASID: [51, 32, "PASID"],
  LPIG: [66, 66, "last page in group"],
  PRGI: [75, 67, "page request group index"],
} as const
/** Page group response. §7.6.1. */
export const PAGE_GRP_RESP_DSC: BitLayout<typeof pageGroupFields> = bitLayout(
  "page_grp_resp_dsc",
  "VT-d 5.10 §7.6.1",
  256,
  pageGroupFields,
)
