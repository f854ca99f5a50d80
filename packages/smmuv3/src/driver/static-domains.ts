/** The two domains without tables: one of each per driver instance. */
import { type BlockedDomain, type IdentityDomain, type IommuDevice, IommuError } from "@iommu/core"
import { attachRid, detachRid } from "./attach.ts"
import type { SmmuV3Driver } from "./ops.ts"

/** STE.Config abort. */
export class SmmuBlockedDomain implements BlockedDomain {
  readonly type = "blocked"
  readonly ops: SmmuV3Driver

  constructor(ops: SmmuV3Driver) {
    this.ops = ops
  }

  attachDev(device: IommuDevice): void {
    attachRid(this.ops, device, this)
  }

  detachDev(device: IommuDevice): void {
    detachRid(this.ops, device, this)
  }

  free(): void {
    throw notFreed()
  }
}

/** STE.Config bypass. */
export class SmmuIdentityDomain implements IdentityDomain {
  readonly type = "identity"
  readonly ops: SmmuV3Driver

  constructor(ops: SmmuV3Driver) {
    this.ops = ops
  }

  attachDev(device: IommuDevice): void {
    attachRid(this.ops, device, this)
  }

  detachDev(device: IommuDevice): void {
    detachRid(this.ops, device, this)
  }

  free(): void {
    throw notFreed()
  }
}

function notFreed(): IommuError {
  return new IommuError("EINVAL", "blocked and identity domains belong to the driver")
}
