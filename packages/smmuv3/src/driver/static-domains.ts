/** The two domains without tables: one of each per driver instance. */
import { type BlockedDomain, type IdentityDomain, type IommuDevice, IommuError } from "@iommu/core"
import * as ste from "../spec/device-table.ts"
import { attachRid, blockPasid, detachRid } from "./attach.ts"
import { ABORT_STE, type Entry, incomingShareability } from "./device-table.ts"
import type { Features } from "./features.ts"
import type { SmmuV3Driver } from "./ops.ts"
import { type PasidTable, stage1Ste } from "./pasid-table.ts"

export function bypassSte(features: Features): Entry {
  return ste.STE.encode({
    V: 1n,
    Config: BigInt(ste.CONFIG_BYPASS),
    SHCFG: incomingShareability(features),
  })
}

/** STE.Config abort; S1DSS terminate while PASIDs of the device translate. */
export class SmmuBlockedDomain implements BlockedDomain {
  readonly type = "blocked"
  readonly ops: SmmuV3Driver
  /** Where there are SubstreamIDs. */
  declare readonly setDevPasid?: (device: IommuDevice, pasid: number) => void

  constructor(ops: SmmuV3Driver) {
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
    throw notFreed()
  }

  /** The STE of a device whose requests without PASID are here. */
  ste(table: PasidTable | null, ats: boolean): Entry {
    const { features } = this.ops.hardware
    return table === null ? ABORT_STE : stage1Ste(features, table, ste.S1DSS_TERMINATE, ats)
  }
}

/** STE.Config bypass; S1DSS bypass while PASIDs of the device translate. */
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

  /** The STE of a device whose requests without PASID are here. */
  ste(table: PasidTable | null, ats: boolean): Entry {
    const { features } = this.ops.hardware
    return table === null ? bypassSte(features) : stage1Ste(features, table, ste.S1DSS_BYPASS, ats)
  }
}

function notFreed(): IommuError {
  return new IommuError("EINVAL", "blocked and identity domains belong to the driver")
}
