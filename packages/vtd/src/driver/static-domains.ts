/** The two domains that belong to the driver: nothing passes, everything passes. */
import { type BlockedDomain, type IdentityDomain, IommuError } from "@iommu/core"
import { AttachableDomain } from "./attach.ts"
import { type Entry, passThroughContext } from "./device-table.ts"
import { passThroughEntry } from "./pasid-table.ts"

/** Domain-id of the identity domain. 0 is what caching mode tags absent entries with (VT-d 5.10 §6.1). */
export const IDENTITY_DID = 1

/** No entry at all: the hardware records a fault for each request. */
export class VtdBlockedDomain extends AttachableDomain implements BlockedDomain {
  get type(): "blocked" {
    return "blocked"
  }

  checkAttachable(): void {}

  free(): void {
    throw new IommuError("EINVAL", "the blocked domain belongs to the driver")
  }
}

/** Pass-through entries; made only where ECAP.PT is set. */
export class VtdIdentityDomain extends AttachableDomain implements IdentityDomain {
  get type(): "identity" {
    return "identity"
  }

  get did(): number {
    return IDENTITY_DID
  }

  checkAttachable(): void {}

  pasidEntry(): Entry {
    return passThroughEntry(this.ops.hardware.features, this.did)
  }

  /** Translation requests of a device are refused: there is nothing for its TLB to hold (§9.3, TT). */
  contextEntry(): Entry {
    return passThroughContext(this.ops.hardware.features, this.did)
  }

  free(): void {
    throw new IommuError("EINVAL", "the identity domain belongs to the driver")
  }
}
