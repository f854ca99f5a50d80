import {
  AMD_GUEST_INVALIDATE,
  HW_INFO_AMD,
  HW_INFO_ARM_SMMUV3,
  HW_INFO_VTD,
  HW_INFO_VTD_ERRATA_772415_SPR17,
  HWPT_AMD_GUEST,
  HWPT_ARM_SMMUV3,
  HWPT_PAGING,
  HWPT_VTD_S1,
  HWPT_VTD_S1_INVALIDATE,
  HwInfoType,
  HwptDataType,
  HwptInvalidateDataType,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PAGING_PASID,
  VIOMMU_ARM_SMMUV3_INVALIDATE,
  VTD_INV_FLAGS_LEAF,
  VTD_S1_EAFE,
  VTD_S1_SRE,
  VTD_S1_WPE,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import { compiler } from "./c-compiler.ts"
import { headersWith, measured, ours } from "./c-facts.ts"

const LAYOUTS = [
  HWPT_VTD_S1,
  HWPT_ARM_SMMUV3,
  HWPT_AMD_GUEST,
  HWPT_VTD_S1_INVALIDATE,
  VIOMMU_ARM_SMMUV3_INVALIDATE,
  HW_INFO_VTD,
  HW_INFO_ARM_SMMUV3,
  HW_INFO_AMD,
]

const CONSTANTS: Record<string, number | bigint> = {
  IOMMU_HWPT_DATA_NONE: HwptDataType.NONE,
  IOMMU_HWPT_DATA_VTD_S1: HwptDataType.VTD_S1,
  IOMMU_HWPT_DATA_ARM_SMMUV3: HwptDataType.ARM_SMMUV3,
  IOMMU_HWPT_DATA_AMD_GUEST: HwptDataType.AMD_GUEST,
  IOMMU_HWPT_INVALIDATE_DATA_VTD_S1: HwptInvalidateDataType.VTD_S1,
  IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3: HwptInvalidateDataType.ARM_SMMUV3,
  IOMMU_HW_INFO_TYPE_NONE: HwInfoType.NONE,
  IOMMU_HW_INFO_TYPE_INTEL_VTD: HwInfoType.INTEL_VTD,
  IOMMU_HW_INFO_TYPE_ARM_SMMUV3: HwInfoType.ARM_SMMUV3,
  IOMMU_HW_INFO_TYPE_AMD: HwInfoType.AMD,
  IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17: HW_INFO_VTD_ERRATA_772415_SPR17,
  IOMMU_VTD_S1_SRE: VTD_S1_SRE,
  IOMMU_VTD_S1_EAFE: VTD_S1_EAFE,
  IOMMU_VTD_S1_WPE: VTD_S1_WPE,
  IOMMU_VTD_INV_FLAGS_LEAF: VTD_INV_FLAGS_LEAF,
  IOMMU_HWPT_ALLOC_NEST_PARENT: PAGING_NEST_PARENT,
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING: PAGING_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_PASID: PAGING_PASID,
}

const headers = headersWith("iommu_hwpt_amd_guest")
const FACTS = { layouts: LAYOUTS, constants: CONSTANTS }

describe("uAPI structs", () => {
  it.skipIf(compiler === null || headers === null)("lie in memory as Linux's header says", () => {
    expect(measured(FACTS, headers as string)).toEqual(ours(FACTS))
  })

  it("cover their bytes without gaps and round-trip", () => {
    for (const layout of [...LAYOUTS, HWPT_PAGING, AMD_GUEST_INVALIDATE]) {
      const bytes = Uint8Array.from({ length: layout.size }, (_, i) => i + 1)
      expect(encodeDecoded(layout, bytes), layout.name).toEqual(bytes)
      expect(() => layout.decode(bytes.subarray(1)), layout.name).toThrow(/EINVAL/)
    }
  })

  it("refuse values that do not fit: EINVAL", () => {
    const right = { flags: 0n, pgtblAddr: 0n, addrWidth: 48, __reserved: 0 }
    expect(() => HWPT_VTD_S1.encode({ ...right, addrWidth: 2 ** 32 })).toThrow(
      /EINVAL: iommu_hwpt_vtd_s1.addrWidth/,
    )
    expect(() => HWPT_VTD_S1.encode({ ...right, pgtblAddr: 1n << 64n })).toThrow(/EINVAL/)
    expect(() => HWPT_VTD_S1.encode({ ...right, flags: -1n })).toThrow(/EINVAL/)
  })
})

function encodeDecoded(
  layout: { decode(bytes: Uint8Array): object; encode(value: never): Uint8Array },
  bytes: Uint8Array,
) {
  return layout.encode(layout.decode(bytes) as never)
}
