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
  PageTableFormatId,
  type PagingDomain,
  toU64,
  type U64Like,
} from "@iommu/core"
import { createPageTable, type PageTable } from "@iommu/pagetable"
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

export class AmdPagingDomain implements PagingDomain {
  readonly type = "paging"
  readonly ops: AmdDriver
  readonly table: PageTable
  /** DomainID of host tables. Guest tables are cached under those of the GCR3 tables they are in. */
  readonly id: number
  readonly format: number
  readonly nestParent: boolean
  attachments: readonly Attachment[] = NO_ATTACHMENTS
  /** The guest's domains over this one; null until there is one. */
  guests: GuestDomains | null = null
  isFreed = false
  /** Levels that the device table entries name; {@link PageTable.levels} runs ahead when the root grows. */
  #levels: number
  #tracking = false
  readonly dirty?: DirtyOps
  readonly setDevPasid?: (device: IommuDevice, pasid: number) => void
  readonly removeDevPasid?: (device: IommuDevice, pasid: number) => void

  /** @throws ENOSPC, ENOMEM */
  constructor(ops: AmdDriver, device: IommuDevice, plan: PagingPlan) {
    const { domainIds } = ops.hardware
    this.ops = ops
    this.format = plan.format
    this.nestParent = plan.nestParent
    this.id = this.isGuestFormat ? 0 : domainIds.take()
    try {
      this.table = newTable(ops, device, plan)
    } catch (error) {
      if (!this.isGuestFormat) domainIds.give(this.id)
      throw error
    }
    this.#levels = this.table.levels
    if (plan.dirty) this.dirty = new AmdDirtyOps(this)
    if (plan.pasid) {
      this.setDevPasid = setDevPasid
      this.removeDevPasid = removeDevPasid
    }
  }

  get isGuestFormat(): boolean {
    return this.format === PageTableFormatId.AMD_V2
  }

  get hostTables(): HostTables {
    return { root: this.table.root, levels: this.table.levels, tracking: this.#tracking }
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

  /** Has hardware keep A and D in the tables, or stop. */
  setTracking(enable: boolean): void {
    this.#checkUsable()
    if (enable === this.#tracking) return
    this.#tracking = enable
    try {
      this.#refreshAll()
    } catch (error) {
      this.#tracking = !enable
      throw error
    }
    // A cached translation remembers that D was set, or did not have to be.
    invalidateAll(this)
  }

  free(): void {
    this.#checkUsable()
    if (this.attachments.length > 0) throw new IommuError("EBUSY", "a device or a PASID is on the domain")
    if (this.guests?.isInUse) throw new IommuError("EBUSY", "nested domains stand on the domain")
    this.isFreed = true
    this.table.free()
    if (!this.isGuestFormat) this.ops.hardware.domainIds.give(this.id)
  }

  /** False after a map that the hardware must hear of. */
  get #isSettled(): boolean {
    return this.table.levels === this.#levels && this.table.gather.count === 0
  }

  /**
   * Has entries follow a root that grew (the old one is now the first entry of the new), and drops cached pointers
   * to empty tables that a large leaf took the place of.
   */
  #settle(): void {
    if (this.table.levels !== this.#levels) {
      this.#refreshAll()
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

  #refreshAll(): void {
    refreshEntries(this)
    if (this.guests === null) return
    for (const nested of this.guests.domains()) refreshEntries(nested)
  }

  #checkUsable(): void {
    if (this.isFreed) throw new IommuError("EINVAL", "the domain has been freed")
  }
}

/** §2.2.7.3: with HAD, hardware sets D in the leaf that a device writes through. */
class AmdDirtyOps implements DirtyOps {
  readonly #domain: AmdPagingDomain

  constructor(domain: AmdPagingDomain) {
    this.#domain = domain
  }

  setDirtyTracking(enable: boolean): void {
    this.#domain.setTracking(enable)
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
