/** A domain whose tables the driver builds: first stage, second stage, nest parent. */
import {
  type DirtyBitmap,
  type DirtyOps,
  ERRNO,
  type Hpa,
  IOMMU_WRITE,
  IommuError,
  isIommuError,
  type MemoryAccount,
  type PageFaultHandler,
  PageTableFormatId,
  type PagingDomain,
  toU64,
  type U64Like,
} from "@iommu/core"
import { createPageTable, type PageTable } from "@iommu/pagetable"
import { firstStageFormat } from "../formats/stage1.ts"
import { secondStageFormat, snoopedSecondStageFormat } from "../formats/stage2.ts"
import { AttachableDomain, type Attachment, applyLiveBit, NO_ATTACHMENTS } from "./attach.ts"
import { type Entry, secondStageContext } from "./device-table.ts"
import { invalidateAll, invalidateGather, invalidateMapped } from "./invalidate.ts"
import type { VtdNestedDomain } from "./nested-domain.ts"
import type { VtdDriver } from "./ops.ts"
import { firstStageEntry, PGSNP, type SecondStage, SSADE, secondStageEntry } from "./pasid-table.ts"
import type { PagingPlan } from "./user-data.ts"

/** What keeps a domain from being freed. */
interface DomainUsers {
  readonly attachments: readonly Attachment[]
  /** Nested domains over it. */
  readonly children: readonly VtdNestedDomain[]
}

/** Shared by all domains at rest: one field in each, so that a domain costs little beyond its tables. */
const NO_USERS: DomainUsers = Object.freeze({ attachments: NO_ATTACHMENTS, children: Object.freeze([]) })
/** 4 KiB pages in 2^32 bytes. */
const PAGES_PER_HI = 0x10_0000
/** {@link VtdPagingDomain.did} of a freed domain; no domain has it. */
const FREED = -1

export class VtdPagingDomain extends AttachableDomain implements PagingDomain {
  readonly table: PageTable
  readonly nestParent: boolean
  readonly dirty?: VtdDirtyOps
  /** Domain-id, the hardware's tag of what it caches of this domain. */
  did: number
  #users: DomainUsers = NO_USERS
  #isSnooped = false

  /** @throws ENOSPC without a free domain-id, ENOMEM */
  constructor(driver: VtdDriver, plan: PagingPlan, account: MemoryAccount) {
    super(driver)
    this.nestParent = plan.nestParent
    this.did = driver.ids.take()
    try {
      this.table = createTable(driver, plan, account)
    } catch (error) {
      driver.ids.give(this.did)
      throw error
    }
    if (plan.dirtyTracking) this.dirty = new VtdDirtyOps(this)
  }

  get type(): "paging" {
    return "paging"
  }

  get format(): number {
    return this.isSecondStage ? PageTableFormatId.VTD_SECOND_STAGE : PageTableFormatId.X86_64_FIRST_STAGE
  }

  get isSecondStage(): boolean {
    return this.table.format !== firstStageFormat
  }

  get attachments(): readonly Attachment[] {
    return this.#users.attachments
  }

  set attachments(attachments: readonly Attachment[]) {
    this.#setUsers({ attachments, children: this.children })
  }

  get children(): readonly VtdNestedDomain[] {
    return this.#users.children
  }

  set children(children: readonly VtdNestedDomain[]) {
    this.#setUsers({ attachments: this.attachments, children })
  }

  get pageSizes(): bigint {
    return this.table.pageSizes
  }

  get aperture(): PagingDomain["aperture"] {
    return this.table.aperture
  }

  get pageFaultHandler(): PageFaultHandler | null | undefined {
    return this.ops.pageRequests.handlers.of(this)
  }

  set pageFaultHandler(handler: PageFaultHandler | null | undefined) {
    this.ops.pageRequests.handlers.set(this, handler ?? null)
  }

  /**
   * Snoop control (ECAP.SC): in scalable mode a bit of the PASID entries (PGSNP, §9.6), which may be set at any time;
   * in legacy mode a bit of each leaf (SNP, §9.8), so that it is too late once something is mapped.
   * @throws ENOMEM; EIO, ETIMEDOUT with all as before
   */
  enforceCacheCoherency(): boolean {
    this.checkAlive()
    const { snoopControl, scalable } = this.ops.hardware.features
    if (!snoopControl) return false
    if (this.#isSnooped) return true
    if (scalable) applyLiveBit(this, PGSNP, true)
    else if (!this.table.useLeavesOf(snoopedSecondStageFormat)) return false
    this.#isSnooped = true
    return true
  }

  map(iova: U64Like, pa: U64Like, size: U64Like, prot: number): void {
    const start = toU64(iova, "iova")
    const bytes = toU64(size, "size")
    this.checkAlive()
    if (this.#refuses(prot)) {
      throw new IommuError("EINVAL", "a nest parent holds no read-only mapping (erratum 772415)")
    }
    this.table.map(start, toU64(pa, "pa"), bytes, prot)
    if (this.#mustAnnounce) this.#announce(Number(start >> 12n), Number(bytes >> 12n))
  }

  mapPages(iovaHi: number, iovaLo: number, paHi: number, paLo: number, pages: number, prot: number): number {
    if (this.did === FREED || this.#refuses(prot)) return ERRNO.EINVAL
    const status = this.table.mapPages(iovaHi, iovaLo, paHi, paLo, pages, prot)
    if (status !== 0 || !this.#mustAnnounce) return status
    try {
      this.#announce(iovaHi * PAGES_PER_HI + (iovaLo >>> 12), pages)
    } catch (error) {
      if (isIommuError(error)) return error.errno
      throw error
    }
    return 0
  }

  unmap(iova: U64Like, size: U64Like): bigint {
    const bytes = this.unmapFast(iova, size)
    this.iotlbSync()
    return bytes
  }

  unmapFast(iova: U64Like, size: U64Like): bigint {
    return this.table.unmap(toU64(iova, "iova"), toU64(size, "size"))
  }

  unmapPages(iovaHi: number, iovaLo: number, pages: number): number {
    return this.table.unmapPages(iovaHi, iovaLo, pages)
  }

  iotlbSync(): void {
    if (this.did !== FREED) invalidateGather(this)
  }

  flushIotlbAll(): void {
    if (this.did !== FREED) invalidateAll(this)
  }

  iovaToPhys(iova: U64Like): Hpa | null {
    return this.table.iovaToPhys(toU64(iova, "iova"))
  }

  iovaToPhysHalves(iovaHi: number, iovaLo: number): number {
    return this.table.iovaToPhysHalves(iovaHi, iovaLo)
  }

  get physHi(): number {
    return this.table.physHi
  }

  get physLo(): number {
    return this.table.physLo
  }

  /** As entries that refer to this second stage describe it. */
  get secondStage(): SecondStage {
    const { root, levels } = this.table
    return { root, levels, isTracking: this.dirty?.isTracking ?? false, isSnooped: this.#isSnooped }
  }

  pasidEntry(): Entry {
    const { features } = this.ops.hardware
    if (this.isSecondStage) return secondStageEntry(features, this.did, this.secondStage)
    const { root, levels } = this.table
    return firstStageEntry(features, this.did, { root, levels, isSnooped: this.#isSnooped })
  }

  contextEntry(hasDeviceTlb: boolean): Entry {
    return secondStageContext(this.did, this.table.root, this.table.levels, hasDeviceTlb)
  }

  /** @throws EINVAL for a freed domain */
  checkAlive(): void {
    if (this.did === FREED) throw new IommuError("EINVAL", "the domain is freed")
  }

  checkAttachable(): void {
    this.checkAlive()
  }

  free(): void {
    this.checkAlive()
    if (this.attachments.length > 0 || this.children.length > 0) {
      throw new IommuError("EBUSY", "a device, a PASID or a nested domain uses the domain")
    }
    this.ops.pageRequests.handlers.forget(this)
    this.table.free()
    this.ops.ids.give(this.did)
    this.did = FREED
  }

  #setUsers(users: DomainUsers): void {
    this.#users = users.attachments.length + users.children.length === 0 ? NO_USERS : users
  }

  #refuses(prot: number): boolean {
    return this.nestParent && (prot & IOMMU_WRITE) === 0
  }

  /** A large leaf that took the place of emptied tables leaves those in the gather. */
  get #mustAnnounce(): boolean {
    return this.ops.announcesMaps || this.table.gather.count > 0
  }

  /** Tells the hardware of new mappings; takes them back when it does not listen. */
  #announce(firstPage: number, pages: number): void {
    try {
      invalidateGather(this)
      if (this.ops.announcesMaps) invalidateMapped(this, firstPage, firstPage + pages - 1)
    } catch (error) {
      this.table.unmap(BigInt(firstPage) << 12n, BigInt(pages) << 12n)
      throw error
    }
  }
}

/** Dirty flags of the second stage, which the hardware sets while SSADE is on. VT-d 5.10 §3.7.2. */
class VtdDirtyOps implements DirtyOps {
  isTracking = false
  readonly #domain: VtdPagingDomain

  constructor(domain: VtdPagingDomain) {
    this.#domain = domain
  }

  setDirtyTracking(enable: boolean): void {
    this.#domain.checkAlive()
    if (enable === this.isTracking) return
    // Flags of an earlier time of tracking; the switch itself empties the caches of this domain.
    if (enable) this.#domain.table.clearDirty()
    applyLiveBit(this.#domain, SSADE, enable)
    this.isTracking = enable
    this.#domain.iotlbSync()
  }

  readAndClearDirty(dirty: DirtyBitmap): void {
    this.#domain.checkAlive()
    this.#domain.table.readAndClearDirty(dirty)
    this.#domain.iotlbSync()
  }

  readDirty(dirty: DirtyBitmap): void {
    this.#domain.checkAlive()
    this.#domain.table.readDirty(dirty)
  }
}

function createTable(driver: VtdDriver, plan: PagingPlan, account: MemoryAccount): PageTable {
  const { memory, pages } = driver.hardware
  const { levels, inputBits, outputBits, pageSizes, aperture } = plan
  const isFirst = plan.format === PageTableFormatId.X86_64_FIRST_STAGE
  return createPageTable({
    format: isFirst ? firstStageFormat : secondStageFormat,
    memory,
    pages,
    account,
    levels,
    inputBits,
    outputBits,
    pageSizes,
    ...(aperture === null ? {} : { apertureStart: aperture.start, apertureLast: aperture.last }),
  })
}
