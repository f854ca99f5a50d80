/** Layouts of invalidation requests, and of what describes the hardware: the bytes of core's own kinds. */
import type { InvalidateLayout } from "./driver-abi.ts"
import { IommuError } from "./errno.ts"
import type { IommuOps } from "./ops.ts"
import { HW_INFO_AMD, HW_INFO_ARM_SMMUV3, HW_INFO_VTD } from "./uapi/hw-info.ts"
import { AMD_GUEST_INVALIDATE, HWPT_VTD_S1_INVALIDATE, VIOMMU_ARM_SMMUV3_INVALIDATE } from "./uapi/hwpt.ts"
import type { CacheInvalidateData, HwInfo } from "./user-data.ts"

const VTD_S1: InvalidateLayout = {
  size: HWPT_VTD_S1_INVALIDATE.size,
  minSize: HWPT_VTD_S1_INVALIDATE.size,
  copies: "entry",
  decode: entries => ({ type: 0, entries: entries.map(HWPT_VTD_S1_INVALIDATE.decode) }),
}
const ARM_SMMUV3: InvalidateLayout = {
  size: VIOMMU_ARM_SMMUV3_INVALIDATE.size,
  minSize: 1,
  copies: "array",
  decode: entries => ({ type: 1, entries: entries.map(VIOMMU_ARM_SMMUV3_INVALIDATE.decode) }),
}
const AMD_GUEST: InvalidateLayout = {
  size: AMD_GUEST_INVALIDATE.size,
  minSize: AMD_GUEST_INVALIDATE.size,
  copies: "entry",
  decode: entries => ({ type: 0x8000_0003, entries: entries.map(AMD_GUEST_INVALIDATE.decode) }),
}
const LAYOUTS: Readonly<Record<number, InvalidateLayout>> = {
  0: VTD_S1,
  1: ARM_SMMUV3,
  2147483651: AMD_GUEST,
}

/** The layout of a type of invalidations of nested domains. @throws EINVAL for a type that has none */
export function nestedInvalidateLayout(ops: IommuOps, type: number): InvalidateLayout {
  return known(ops.abi?.nestedInvalidate?.(type) ?? LAYOUTS[type], type)
}

/** The layout of a type of invalidations of virtual IOMMUs. @throws EINVAL for a type that has none */
export function viommuInvalidateLayout(ops: IommuOps, type: number): InvalidateLayout {
  return known(ops.abi?.viommuInvalidate?.(type) ?? LAYOUTS[type], type)
}

/**
 * The ABI structs of invalidations, as userspace would pass them: all of one size.
 * @throws EOPNOTSUPP for a third party's, which it encodes by its own layout
 */
export function invalidateToBytes(data: CacheInvalidateData): Uint8Array[] {
  switch (data.type) {
    case 0:
      return data.entries.map(HWPT_VTD_S1_INVALIDATE.encode)
    case 1:
      return data.entries.map(VIOMMU_ARM_SMMUV3_INVALIDATE.encode)
    case 0x8000_0003:
      return data.entries.map(AMD_GUEST_INVALIDATE.encode)
    default:
      throw new IommuError("EOPNOTSUPP", "invalidations of another's kind are encoded by their own layout")
  }
}

function known(layout: InvalidateLayout | undefined, type: number): InvalidateLayout {
  if (layout === undefined) throw new IommuError("EINVAL", `invalidations of type ${type} do not exist here`)
  return layout
}

/** The ABI struct of capability registers. @throws EOPNOTSUPP for a kind without layout */
export function hwInfoToBytes(ops: IommuOps, info: HwInfo): Uint8Array {
  switch (info.type) {
    case 1:
      return HW_INFO_VTD.encode(info)
    case 2:
      return HW_INFO_ARM_SMMUV3.encode(info)
    case 4:
      return HW_INFO_AMD.encode(info)
    default: {
      const bytes = ops.abi?.hwInfo?.(info)
      if (bytes) return bytes
      throw new IommuError("EOPNOTSUPP", `${ops.name} has no layout for its capability registers`)
    }
  }
}
