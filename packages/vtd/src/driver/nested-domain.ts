/** A guest's own first stage over a nest parent: Linux's `intel_nested_domain`. VT-d 5.10 §3.8. */
import {
  type CacheInvalidateData,
  type CacheInvalidateResult,
  HwptInvalidateDataType,
  type HwptVtdS1,
  IommuError,
  isIommuError,
  type NestedDomain,
  U64_MAX,
  VTD_INV_FLAGS_LEAF,
  type VtdS1Invalidate,
} from "@iommu/core"
import { AttachableDomain, type Attachment, NO_ATTACHMENTS } from "./attach.ts"
import type { Entry } from "./device-table.ts"
import { invalidateGuestPages } from "./invalidate.ts"
import type { VtdDriver } from "./ops.ts"
import type { VtdPagingDomain } from "./paging-domain.ts"
import { nestedEntry } from "./pasid-table.ts"
import { guestFirstStage } from "./user-data.ts"

const LAST_PAGE = 2 ** 52 - 1
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

  cacheInvalidateUser(data: CacheInvalidateData): CacheInvalidateResult {
    if (data.type !== HwptInvalidateDataType.VTD_S1) {
      return {
        handled: 0,
        error: new IommuError("EINVAL", "only invalidations of VT-d's first stage are served"),
      }
    }
    const refusal = data.entries.findIndex(entry => invalidationError(entry) !== null)
    const good = refusal < 0 ? data.entries : data.entries.slice(0, refusal)
    try {
      for (const entry of good) this.#invalidate(entry)
      this.ops.hardware.queue.sync()
    } catch (error) {
      if (!isIommuError(error)) throw error
      // Which one the hardware refused is not known; repeating the others does no harm.
      return { handled: 0, error }
    }
    const wrong = data.entries[good.length]
    return { handled: good.length, error: wrong === undefined ? null : invalidationError(wrong) }
  }

  free(): void {
    if (this.did === FREED) throw new IommuError("EINVAL", "the domain is freed")
    if (this.attachments.length > 0) throw new IommuError("EBUSY", "a device or a PASID uses the domain")
    this.parent.children = this.parent.children.filter(child => child !== this)
    this.ops.ids.give(this.did)
    this.did = FREED
  }

  #invalidate({ addr, npages, flags }: Readonly<VtdS1Invalidate>): void {
    const isLeafOnly = (flags & VTD_INV_FLAGS_LEAF) !== 0
    const first = Number(addr >> 12n)
    const last = npages === U64_MAX ? LAST_PAGE : first + Number(npages) - 1
    invalidateGuestPages(this, first, last, isLeafOnly)
  }
}

/**
 * Rules of `struct iommu_hwpt_vtd_s1_invalidate`. No pages, and ranges that run past 2^64, are refused on purpose:
 * Linux lets them wrap, and invalidates something else than was asked for.
 */
function invalidationError(entry: Readonly<VtdS1Invalidate>): IommuError | null {
  const { addr, npages, flags, __reserved } = entry
  if ((flags & ~VTD_INV_FLAGS_LEAF) !== 0 || __reserved !== 0) {
    return new IommuError("EOPNOTSUPP", "unknown flags and the reserved member must be 0")
  }
  if ((addr & 0xfffn) !== 0n) return new IommuError("EINVAL", "addr is a multiple of 4096")
  if (npages === U64_MAX) {
    return addr === 0n ? null : new IommuError("EINVAL", "npages of all ones means everything, from addr 0")
  }
  if (npages === 0n || addr + npages * 4096n > U64_MAX + 1n) {
    return new IommuError("EINVAL", "npages counts at least one page, and none beyond 2^64")
  }
  return null
}
