/** A guest's own first stage over a nest parent: Linux's `intel_nested_domain`. VT-d 5.10 §3.8. */
import {
  type CacheInvalidateData,
  type CacheInvalidateResult,
  type HwptVtdS1,
  IommuError,
  type NestedDomain,
  type PageFaultHandler,
} from "@iommu/core"
import { AttachableDomain, type Attachment, NO_ATTACHMENTS } from "./attach.ts"
import type { Entry } from "./device-table.ts"
import { carryOutGuestCommands } from "./guest-commands.ts"
import type { VtdDriver } from "./ops.ts"
import type { VtdPagingDomain } from "./paging-domain.ts"
import { nestedEntry } from "./pasid-table.ts"
import { guestFirstStage } from "./user-data.ts"

const FREED = -1

export class VtdNestedDomain extends AttachableDomain implements NestedDomain {
  readonly parent: VtdPagingDomain
  /** The guest's words, looked at when a device is attached. */
  readonly data: Readonly<HwptVtdS1>
  /** The host's domain-id; the guest's never reaches the hardware. */
  did: number
  attachments: readonly Attachment[] = NO_ATTACHMENTS

  /** @throws ENOSPC without a free domain-id */
  constructor(driver: VtdDriver, parent: VtdPagingDomain, data: Readonly<HwptVtdS1>) {
    super(driver)
    this.parent = parent
    this.data = { ...data }
    this.did = driver.ids.take()
    parent.children = [...parent.children, this]
  }

  get type(): "nested" {
    return "nested"
  }

  pasidEntry(): Entry {
    const { features } = this.ops.hardware
    return nestedEntry(features, this.did, this.parent.secondStage, guestFirstStage(features, this.data))
  }

  contextEntry(): never {
    throw new Error("bug: nested domains exist in scalable mode only")
  }

  checkAttachable(): void {
    if (this.did === FREED) throw new IommuError("EINVAL", "the domain is freed")
    guestFirstStage(this.ops.hardware.features, this.data)
  }

  get pageFaultHandler(): PageFaultHandler | null | undefined {
    return this.ops.pageRequests.handlers.of(this)
  }

  set pageFaultHandler(handler: PageFaultHandler | null | undefined) {
    this.ops.pageRequests.handlers.set(this, handler ?? null)
  }

  cacheInvalidateUser(data: CacheInvalidateData): CacheInvalidateResult {
    return carryOutGuestCommands(this, data)
  }

  free(): void {
    if (this.did === FREED) throw new IommuError("EINVAL", "the domain is freed")
    if (this.attachments.length > 0) throw new IommuError("EBUSY", "a device or a PASID uses the domain")
    this.parent.children = this.parent.children.filter(child => child !== this)
    this.ops.pageRequests.handlers.forget(this)
    this.ops.ids.give(this.did)
    this.did = FREED
  }
}
