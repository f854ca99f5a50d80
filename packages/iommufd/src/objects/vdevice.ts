/** A device as a guest knows it: Linux's `struct iommufd_vdevice`. */
import { IommuError } from "@iommu/core"
import type { Process } from "../process/process.ts"
import type { BoundDevice } from "./device.ts"
import type { IommufdContext } from "./iommufd-context.ts"
import { type Identity, KernelObject, type ObjectState } from "./object.ts"
import type { Draft } from "./object-table.ts"
import type { ViommuObject } from "./viommu.ts"

export interface VdeviceAllocRequest {
  readonly viommuId: number
  readonly deviceId: number
  /** The guest's number of the device: vStreamID, vDeviceID. */
  readonly virtualId: bigint
}

export class VdeviceObject extends KernelObject {
  readonly kind = "vdevice"
  readonly viommu: ViommuObject
  readonly device: BoundDevice
  readonly virtualId: bigint

  constructor(identity: Identity, viommu: ViommuObject, device: BoundDevice, virtualId: bigint) {
    super(identity)
    this.viommu = viommu
    this.device = device
    this.virtualId = virtualId
    viommu.viommu.vdeviceAlloc?.(device.device, virtualId)
    viommu.vdevices.set(virtualId, this)
    viommu.users++
    device.vdevice = this
  }

  destroy(): void {
    this.viommu.viommu.vdeviceFree?.(this.device.device)
    this.viommu.vdevices.delete(this.virtualId)
    this.viommu.users--
    this.device.vdevice = null
  }

  state(): ObjectState {
    return { viommu: this.viommu.id, device: this.device.id, virtualId: `0x${this.virtualId.toString(16)}` }
  }
}

/** @throws ENOENT, EINVAL, EEXIST, ENOMEM and what the driver throws */
export function draftVdevice(
  { objects }: IommufdContext,
  caller: Process,
  request: VdeviceAllocRequest,
): Draft<VdeviceObject> {
  const viommu = objects.get(request.viommuId, "viommu")
  const device = objects.get(request.deviceId, "device")
  if (device.ops !== viommu.ops) {
    throw new IommuError("EINVAL", `${device.device.name} is behind another IOMMU than vIOMMU ${viommu.id}`)
  }
  if (device.vdevice !== null) {
    throw new IommuError("EEXIST", `${device.device.name} is virtual device ${device.vdevice.id} already`)
  }
  return objects.draft(caller.account, identity => {
    if (viommu.vdevices.has(request.virtualId)) {
      throw new IommuError("EEXIST", `another device has this number on vIOMMU ${viommu.id}`)
    }
    return new VdeviceObject(identity, viommu, device, request.virtualId)
  })
}
