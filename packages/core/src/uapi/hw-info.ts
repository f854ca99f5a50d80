/** `IOMMU_GET_HW_INFO` structs of `include/uapi/linux/iommufd.h`: raw capability registers for the VMM. */
import { type StructLayout, type StructValue, structLayout } from "./struct-layout.ts"

const intelVtd = {
  flags: ["u32", 0],
  __reserved: ["u32", 4],
  capReg: ["u64", 8],
  ecapReg: ["u64", 16],
} as const
/** `struct iommu_hw_info_vtd`. */
export const HW_INFO_VTD: StructLayout<typeof intelVtd> = structLayout("iommu_hw_info_vtd", 24, intelVtd)
export type HwInfoIntelVtd = StructValue<typeof intelVtd>
/** `IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17`: a nest parent must not hold read-only mappings. */
export const HW_INFO_VTD_ERRATA_772415_SPR17 = 1

const armSmmuv3 = {
  flags: ["u32", 0],
  __reserved: ["u32", 4],
  idr: ["u32[6]", 8],
  iidr: ["u32", 32],
  aidr: ["u32", 36],
} as const
/** `struct iommu_hw_info_arm_smmuv3`. */
export const HW_INFO_ARM_SMMUV3: StructLayout<typeof armSmmuv3> = structLayout(
  "iommu_hw_info_arm_smmuv3",
  40,
  armSmmuv3,
)
export type HwInfoArmSmmuv3 = StructValue<typeof armSmmuv3>

const amd = { efr: ["u64", 0], efr2: ["u64", 8] } as const
/** `struct iommu_hw_info_amd`. */
export const HW_INFO_AMD: StructLayout<typeof amd> = structLayout("iommu_hw_info_amd", 16, amd)
export type HwInfoAmd = StructValue<typeof amd>
