/**
 * User data: what userspace hands to `domainAllocUser`, opaque to core and iommufd.
 *
 * {@link DomainUserDataMap} has one member per ABI struct. A third-party driver adds its own by declaration
 * merging and narrows the type parameter of its ops:
 *
 * ```ts
 * declare module "@iommu/core" {
 *   interface DomainUserDataMap { 0x52495343: { dc: bigint } }
 * }
 * ```
 */

import type { HwInfoAmd, HwInfoArmSmmuv3, HwInfoIntelVtd } from "./uapi/hw-info.ts"
import type {
  AmdGuestInvalidate,
  ArmSmmuv3Invalidate,
  HwptAmdGuest,
  HwptArmSmmuv3,
  HwptPaging,
  HwptVtdS1,
  VtdS1Invalidate,
} from "./uapi/hwpt.ts"

/** Linux's `enum iommu_hwpt_data_type`, and this project's paging parameters. */
export const HwptDataType = {
  NONE: 0,
  VTD_S1: 1,
  ARM_SMMUV3: 2,
  AMD_GUEST: 3,
  /** Parameters of a paging domain. Not in Linux, where no driver takes any; numbered outside its range. */
  PAGING: 0x8000_0001,
} as const

export interface DomainUserDataMap {
  1: HwptVtdS1
  2: HwptArmSmmuv3
  3: HwptAmdGuest
  0x8000_0001: HwptPaging
}

/** Every kind of user data, told apart by `type`. */
export type DomainUserData = {
  [Type in keyof DomainUserDataMap]: { readonly type: Type } & Readonly<DomainUserDataMap[Type]>
}[keyof DomainUserDataMap]

/** Linux's `enum iommu_hwpt_invalidate_data_type`, and this project's for AMD. */
export const HwptInvalidateDataType = {
  VTD_S1: 0,
  ARM_SMMUV3: 1,
  /** Raw command buffer entries of the guest. Linux has no type for AMD. */
  AMD_GUEST: 0x8000_0003,
} as const

export interface CacheInvalidateDataMap {
  0: VtdS1Invalidate
  1: ArmSmmuv3Invalidate
  0x8000_0003: AmdGuestInvalidate
}

/** An array of invalidation requests of one kind. An empty array asks whether the kind is served. */
export type CacheInvalidateData = {
  [Type in keyof CacheInvalidateDataMap]: {
    readonly type: Type
    readonly entries: readonly Readonly<CacheInvalidateDataMap[Type]>[]
  }
}[keyof CacheInvalidateDataMap]

/** Linux's `enum iommu_hw_info_type`. */
export const HwInfoType = { NONE: 0, INTEL_VTD: 1, ARM_SMMUV3: 2, AMD: 4 } as const

export interface HwInfoMap {
  1: HwInfoIntelVtd
  2: HwInfoArmSmmuv3
  4: HwInfoAmd
}

export type HwInfo = {
  [Type in keyof HwInfoMap]: { readonly type: Type } & Readonly<HwInfoMap[Type]>
}[keyof HwInfoMap]
