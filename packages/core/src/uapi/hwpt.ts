/** Structs of `include/uapi/linux/iommufd.h` that travel with a hardware page table. All little-endian. */
import { type StructLayout, type StructValue, structLayout } from "./struct-layout.ts"

const vtdS1 = {
  flags: ["u64", 0],
  pgtblAddr: ["u64", 8],
  addrWidth: ["u32", 16],
  __reserved: ["u32", 20],
} as const
/** `struct iommu_hwpt_vtd_s1`: guest-owned VT-d first-stage table. */
export const HWPT_VTD_S1: StructLayout<typeof vtdS1> = structLayout("iommu_hwpt_vtd_s1", 24, vtdS1)
export type HwptVtdS1 = StructValue<typeof vtdS1>

/** `enum iommu_hwpt_vtd_s1_flags`. */
export const VTD_S1_SRE = 1n
export const VTD_S1_EAFE = 2n
export const VTD_S1_WPE = 4n

const armSmmuv3 = { ste: ["u64[2]", 0] } as const
/** `struct iommu_hwpt_arm_smmuv3`: the first two words of the guest's STE. */
export const HWPT_ARM_SMMUV3: StructLayout<typeof armSmmuv3> = structLayout(
  "iommu_hwpt_arm_smmuv3",
  16,
  armSmmuv3,
)
export type HwptArmSmmuv3 = StructValue<typeof armSmmuv3>

const amdGuest = { dte: ["u64[4]", 0] } as const
/** `struct iommu_hwpt_amd_guest`: the guest's DTE. */
export const HWPT_AMD_GUEST: StructLayout<typeof amdGuest> = structLayout(
  "iommu_hwpt_amd_guest",
  32,
  amdGuest,
)
export type HwptAmdGuest = StructValue<typeof amdGuest>

const vtdS1Invalidate = {
  addr: ["u64", 0],
  npages: ["u64", 8],
  flags: ["u32", 16],
  __reserved: ["u32", 20],
} as const
/** `struct iommu_hwpt_vtd_s1_invalidate`. `addr` 0 with `npages` all ones means everything. */
export const HWPT_VTD_S1_INVALIDATE: StructLayout<typeof vtdS1Invalidate> = structLayout(
  "iommu_hwpt_vtd_s1_invalidate",
  24,
  vtdS1Invalidate,
)
export type VtdS1Invalidate = StructValue<typeof vtdS1Invalidate>
/** `IOMMU_VTD_INV_FLAGS_LEAF`: only leaf entries changed. */
export const VTD_INV_FLAGS_LEAF = 1

const armSmmuv3Invalidate = { cmd: ["u64[2]", 0] } as const
/** `struct iommu_viommu_arm_smmuv3_invalidate`: one command queue entry of the guest. */
export const VIOMMU_ARM_SMMUV3_INVALIDATE: StructLayout<typeof armSmmuv3Invalidate> = structLayout(
  "iommu_viommu_arm_smmuv3_invalidate",
  16,
  armSmmuv3Invalidate,
)
export type ArmSmmuv3Invalidate = StructValue<typeof armSmmuv3Invalidate>

const amdGuestInvalidate = { cmd: ["u64[2]", 0] } as const
/** One command buffer entry of an AMD guest. This project's own: Linux has no invalidation type for AMD. */
export const AMD_GUEST_INVALIDATE: StructLayout<typeof amdGuestInvalidate> = structLayout(
  "iommu_hwpt_amd_guest_invalidate",
  16,
  amdGuestInvalidate,
)
export type AmdGuestInvalidate = StructValue<typeof amdGuestInvalidate>

const paging = {
  flags: ["u32", 0],
  format: ["u32", 4],
  levels: ["u8", 8],
  granuleLg2: ["u8", 9],
  inputBits: ["u8", 10],
  outputBits: ["u8", 11],
  __reserved: ["u32", 12],
  apertureStart: ["u64", 16],
  apertureLast: ["u64", 24],
} as const
/**
 * Parameters of a paging domain, this project's own struct: the "special parameters" for which the op takes user
 * data. A zero member leaves the choice to the driver.
 *
 * - `flags`: {@link PAGING_NEST_PARENT}, {@link PAGING_DIRTY_TRACKING}, {@link PAGING_PASID}
 * - `format`: a {@link PageTableFormatId}
 * - `levels` of tables, `granuleLg2` the smallest page (12, 14, 16), `inputBits`, `outputBits` address widths
 * - `apertureStart`, `apertureLast`: the IOVAs that may be mapped; both zero for all that the format reaches
 */
export const HWPT_PAGING: StructLayout<typeof paging> = structLayout("iommu_hwpt_paging", 32, paging)
export type HwptPaging = StructValue<typeof paging>

/** The domain may be the parent of nested domains. Values of these flags are those of `IOMMU_HWPT_ALLOC_*`. */
export const PAGING_NEST_PARENT = 1
export const PAGING_DIRTY_TRACKING = 2
/** The domain may be attached to PASIDs. */
export const PAGING_PASID = 8

/** IOPTE formats that a paging domain can ask for. */
export const PageTableFormatId = {
  DEFAULT: 0,
  VTD_SECOND_STAGE: 1,
  X86_64_FIRST_STAGE: 2,
  AMD_V1: 3,
  AMD_V2: 4,
  ARM_64_LPAE_S1: 5,
  ARM_64_LPAE_S2: 6,
} as const

/** A paging request with everything left to the driver except what is given. */
export function pagingParameters(given: Partial<HwptPaging>): HwptPaging & { readonly type: 0x8000_0001 } {
  return {
    flags: 0,
    format: PageTableFormatId.DEFAULT,
    levels: 0,
    granuleLg2: 0,
    inputBits: 0,
    outputBits: 0,
    __reserved: 0,
    apertureStart: 0n,
    apertureLast: 0n,
    ...given,
    type: 0x8000_0001,
  }
}
