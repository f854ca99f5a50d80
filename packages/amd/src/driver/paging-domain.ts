/**
 * Domains with tables that the driver builds: host (v1) or guest (v2) format.
 * AMD 48882 rev 3.10, §2.2.3 and §2.2.6.
 */
import {
  type DirtyBitmap,
  type DirtyOps,
  ERRNO,
  type Hpa,
  type IommuDevice,
  IommuError,
  type Iova,
  isIommuError,
  type PageFaultHandler,
  PageTableFormatId,
  type PagingDomain,
  toU64,
  type U64Like,
} from "@iommu/core"
import { createPageTable, NOTHING_GATHERED, type PageTable } from "@iommu/pagetable"
import { AMD_V2 } from "../formats/stage1.ts"
import { AMD_V1 } from "../formats/stage2.ts"
import {
  type Attachment,
  attachPasid,
  attachRid,
  detachPasid,
  detachRid,
  NO_ATTACHMENTS,
  refreshEntries,
} from "./attach.ts"
import type { HostTables } from "./device-table.ts"
import { invalidateAll, invalidateGather } from "./invalidate.ts"
import type { GuestDomains } from "./nested-domain.ts"
import type { AmdDriver } from "./ops.ts"
import type { PagingPlan } from "./user-data.ts"

/** {@link AmdPagingDomain.id} of a freed domain. */
const FREED = -1
const NO_GUESTS: readonly GuestDomains[] = Object.freeze([])

/**
 * Five fields and what a kind of domain adds: with its {@link PageTable}, a domain at rest costs some 250 bytes of
 * heap beyond its table pages.
 */
export class AmdPagingDomain implements PagingDomain {
  readonly ops: AmdDriver
  readonly table: PageTable
  /** DomainID of host tables, 0 for guest tables: those are cached under the DomainIDs of the GCR3 tables. */
  id: number
  attachments: readonly Attachment[] = NO_ATTACHMENTS
  /** Levels that the device table entries name; {@link PageTable.levels} runs ahead when the root grows. */
  #levels: number
  /** On nest parents: what each guest has over this one. Replaced on change, never mutated. */
  declare guests?: readonly GuestDomains[]
  declare readonly dirty?: AmdDirtyOps
  declare readonly setDevPasid?: (device: IommuDevice, pasid: number) => void
  declare readonly removeDevPasid?: (device: IommuDevice, pasid: number) => void

  /** @throws ENOSPC, ENOMEM */
  constructor(ops: AmdDriver, device: IommuDevice, plan: PagingPlan) {
    const { domainIds } = ops.hardware
    const isHost = plan.format === PageTableFormatId.AMD_V1
    this.ops = ops
    this.id = isHost ? domainIds.take() : 0
    try {
      this.table = newTable(ops, device, plan)
    } catch (error) {
      if (isHost) domainIds.give(this.id)
      throw error
    }
    this.#levels = this.table.levels
    if (plan.nestParent) this.guests = NO_GUESTS
    if (plan.dirty) this.dirty = new AmdDirtyOps(this)
    if (plan.pasid) {
      this.setDevPasid = setDevPasid
      this.removeDevPasid = removeDevPasid
    }
  }

  get type(): "paging" {
    return "paging"
  }

  get format(): number {
    return this.isGuestFormat ? PageTableFormatId.AMD_V2 : PageTableFormatId.AMD_V1
  }

  get pageFaultHandler(): PageFaultHandler | null | undefined {
    return this.ops.pageRequests.handlers.of(this)
  }

  set pageFaultHandler(handler: PageFaultHandler | null | undefined) {
    this.ops.pageRequests.handlers.set(this, handler ?? null)
  }

  get isGuestFormat(): boolean {
    return this.table.format === AMD_V2
  }

  get nestParent(): boolean {
    return this.guests !== undefined
  }

  get isFreed(): boolean {
    return this.id === FREED
  }

  get hostTables(): HostTables {
    const { root, levels } = this.table
    return { root, levels, tracking: this.dirty?.isTracking ?? false }
  }

  get pageSizes(): bigint {
    return this.table.pageSizes
  }

  get aperture(): { readonly start: Iova; readonly last: Iova } {
    return this.table.aperture
  }

  get physHi(): number {
    return this.table.physHi
  }

  get physLo(): number {
    return this.table.physLo
  }

  /** Every leaf of host tables has FC; guest tables have no such bit (§2.2.3, §2.2.6). */
  enforceCacheCoherency(): boolean {
    return !this.isGuestFormat
  }

  attachDev(device: IommuDevice): void {
    attachRid(this.ops, device, this)
  }

  detachDev(device: IommuDevice): void {
    detachRid(this.ops, device, this)
  }

  map(iova: U64Like, pa: U64Like, size: U64Like, prot: number): void {
    this.#checkUsable()
    const first = toU64(iova, "iova")
    const bytes = toU64(size, "size")
    this.table.map(first, toU64(pa, "physical address"), bytes, prot)
    if (this.#isSettled) return
    try {
      this.#settle()
    } catch (error) {
      this.table.unmap(first, bytes)
      throw error
    }
  }

  unmap(iova: U64Like, size: U64Like): bigint {
    const bytes = this.unmapFast(iova, size)
    this.iotlbSync()
    return bytes
  }

  unmapFast(iova: U64Like, size: U64Like): bigint {
    this.#checkUsable()
    return this.table.unmap(toU64(iova, "iova"), toU64(size, "size"))
  }

  iotlbSync(): void {
    if (!this.isFreed) invalidateGather(this)
  }

  flushIotlbAll(): void {
    if (!this.isFreed) invalidateAll(this)
  }

  iovaToPhys(iova: U64Like): Hpa | null {
    return this.table.iovaToPhys(toU64(iova, "iova"))
  }

  mapPages(iovaHi: number, iovaLo: number, paHi: number, paLo: number, pages: number, prot: number): number {
    const status = this.table.mapPages(iovaHi, iovaLo, paHi, paLo, pages, prot)
    return this.#isSettled ? status : this.#settleStatus(status, iovaHi, iovaLo, pages)
  }

  unmapPages(iovaHi: number, iovaLo: number, pages: number): number {
    return this.table.unmapPages(iovaHi, iovaLo, pages)
  }

  iovaToPhysHalves(iovaHi: number, iovaLo: number): number {
    return this.table.iovaToPhysHalves(iovaHi, iovaLo)
  }

  free(): void {
    this.#checkUsable()
    if (this.attachments.length > 0) throw new IommuError("EBUSY", "a device or a PASID is on the domain")
    if (this.guests?.some(guest => guest.isInUse || guest.viommu !== null)) {
      throw new IommuError("EBUSY", "nested domains or virtual IOMMUs stand on the domain")
    }
    this.ops.pageRequests.handlers.forget(this)
    this.table.free()
    if (!this.isGuestFormat) this.ops.hardware.domainIds.give(this.id)
    this.id = FREED
  }

  /** False after a map that the hardware must hear of, or while unmaps wait for {@link iotlbSync}. */
  get #isSettled(): boolean {
    return this.table.levels === this.#levels && this.table.gather === NOTHING_GATHERED
  }

  /**
   * Has entries follow a root that grew (the old one is now the first entry of the new), and drops cached pointers
   * to empty tables that a large leaf took the place of.
   */
  #settle(): void {
    if (this.table.levels !== this.#levels) {
      this.refreshEntries()
      this.#levels = this.table.levels
    }
    invalidateGather(this)
  }

  #settleStatus(status: number, iovaHi: number, iovaLo: number, pages: number): number {
    try {
      this.#settle()
      return status
    } catch (error) {
      if (!isIommuError(error)) throw error
      if (status === 0) this.table.unmapPages(iovaHi, iovaLo, pages)
      return ERRNO[error.code]
    }
  }

  /** Writes the entries of all devices on these tables anew, nested ones included. */
  refreshEntries(): void {
    refreshEntries(this)
    for (const guest of this.guests ?? NO_GUESTS) {
      for (const nested of guest.domains()) refreshEntries(nested)
    }
  }

  #checkUsable(): void {
    if (this.isFreed) throw new IommuError("EINVAL", "the domain has been freed")
  }
}

/** Hardware sets D in the leaf that a device writes through, while HAD says so (§2.2.2.1). */
class AmdDirtyOps implements DirtyOps {
  readonly #domain: AmdPagingDomain
  isTracking = false

  constructor(domain: AmdPagingDomain) {
    this.#domain = domain
  }

  setDirtyTracking(enable: boolean): void {
    if (this.#domain.isFreed) throw new IommuError("EINVAL", "the domain has been freed")
    if (enable === this.isTracking) return
    this.isTracking = enable
    try {
      this.#domain.refreshEntries()
    } catch (error) {
      this.isTracking = !enable
      this.#tryRefresh()
      throw error
    }
  }

  #tryRefresh(): void {
    try {
      this.#domain.refreshEntries()
    } catch {
      // The hardware has failed already; the caller hears of the first failure.
    }
  }

  readAndClearDirty(dirty: DirtyBitmap): void {
    this.#domain.table.readAndClearDirty(dirty)
    invalidateGather(this.#domain)
  }

  readDirty(dirty: DirtyBitmap): void {
    this.#domain.table.readDirty(dirty)
  }
}

function newTable(ops: AmdDriver, device: IommuDevice, plan: PagingPlan): PageTable {
  const { memory, pages } = ops.hardware.platform
  return createPageTable({
    format: plan.format === PageTableFormatId.AMD_V2 ? AMD_V2 : AMD_V1,
    memory,
    pages,
    account: device.account,
    levels: plan.levels,
    inputBits: plan.inputBits,
    outputBits: plan.outputBits,
    apertureStart: plan.apertureStart,
    apertureLast: plan.apertureLast,
  })
}

function setDevPasid(this: AmdPagingDomain, device: IommuDevice, pasid: number): void {
  attachPasid(this.ops, device, pasid, this)
}

function removeDevPasid(this: AmdPagingDomain, device: IommuDevice, pasid: number): void {
  detachPasid(this.ops, device, pasid, this)
}
