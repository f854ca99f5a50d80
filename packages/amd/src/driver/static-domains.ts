/** The two domains that every driver instance has. AMD 48882 rev 3.10, §2.2.2.1: entries with Mode 0. */
import type { BlockedDomain, IdentityDomain, IommuDevice } from "@iommu/core"
import { IommuError } from "@iommu/core"
import { attachRid, blockPasid, detachRid } from "./attach.ts"
import type { AmdDriver } from "./ops.ts"

/** Refuses every request: neither IR nor IW. Devices are on it from probe on. */
export class AmdBlockedDomain implements BlockedDomain {
  readonly type = "blocked"
  readonly ops: AmdDriver
  /** Where there are PASIDs. */
  declare readonly setDevPasid?: (device: IommuDevice, pasid: number) => void

  constructor(ops: AmdDriver) {
    this.ops = ops
    if (ops.capabilities.pasidBits > 0) {
      this.setDevPasid = (device, pasid) => blockPasid(ops, device, pasid)
    }
  }

  attachDev(device: IommuDevice): void {
    attachRid(this.ops, device, this)
  }

  detachDev(device: IommuDevice): void {
    detachRid(this.ops, device, this)
  }

  free(): void {
    throw new IommuError("EINVAL", "the blocked domain belongs to the driver")
  }
}

/** Passes every request through: IR and IW, no tables. */
export class AmdIdentityDomain implements IdentityDomain {
  readonly type = "identity"
  readonly ops: AmdDriver

  constructor(ops: AmdDriver) {
    this.ops = ops
  }

  attachDev(device: IommuDevice): void {
    attachRid(this.ops, device, this)
  }

  detachDev(device: IommuDevice): void {
    detachRid(this.ops, device, this)
  }

  free(): void {
    throw new IommuError("EINVAL", "the identity domain belongs to the driver")
  }
}
