/** IOMMU_GET_HW_INFO: capability registers and what else a VMM must know of a device's IOMMU. */
import { type HwInfo, HwInfoType, hwInfoToBytes, IommuError } from "@iommu/core"
import {
  HW_CAP_DIRTY_TRACKING,
  HW_CAP_PCI_ATS_NOT_SUPPORTED,
  HW_CAP_PCI_PASID_EXEC,
  HW_CAP_PCI_PASID_PRIV,
} from "../uapi/constants.ts"
import type { BoundDevice } from "./device.ts"

export interface HwInfoReport {
  /** `HwInfoType`, or a third party's; NONE when the driver has nothing to say. */
  readonly type: number
  /** The ABI struct of {@link type}. */
  readonly bytes: Uint8Array
  /** The same as a value. */
  readonly info: HwInfo | null
  /** log2 of the PASIDs that the device has through its IOMMU, 0 for none. */
  readonly maxPasidLog2: number
  /** `HW_CAP_*`. */
  readonly capabilities: bigint
}

/**
 * @param requested type, 0 for the driver's default
 * @throws EOPNOTSUPP when the driver does not give that type
 */
export function hwInfo(device: BoundDevice, requested: number): HwInfoReport {
  const info = device.ops.hwInfo(device.device)
  // Linux does not compare the request when a driver has no such op.
  if (info !== null && requested !== HwInfoType.NONE && requested !== info.type) {
    throw new IommuError("EOPNOTSUPP", `the IOMMU describes itself by type ${info.type}, not ${requested}`)
  }
  return {
    type: info?.type ?? HwInfoType.NONE,
    bytes: info === null ? new Uint8Array(0) : hwInfoToBytes(device.ops, info),
    info,
    maxPasidLog2: device.pasidBits,
    capabilities: capabilities(device),
  }
}

function capabilities({ ops, device, pasidBits }: BoundDevice): bigint {
  const pasids = pasidBits > 0
  return (
    (ops.capable(device, "DIRTY_TRACKING") ? HW_CAP_DIRTY_TRACKING : 0n) |
    (pasids && device.pasidExecute ? HW_CAP_PCI_PASID_EXEC : 0n) |
    (pasids && device.pasidPrivileged ? HW_CAP_PCI_PASID_PRIV : 0n) |
    (device.ats ? 0n : HW_CAP_PCI_ATS_NOT_SUPPORTED)
  )
}
