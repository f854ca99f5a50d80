/** Paging domains of the mock: tables in a Map, in pages of half the usual size. */
import {
  type DirtyBitmap,
  type DirtyOps,
  ERRNO,
  fromHalves,
  hi32,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  IommuError,
  isIommuError,
  lo32,
  type MemoryAccount,
  type PageFaultHandler,
  PageTableFormatId,
  type PagingDomain,
  toU64,
  type U64Like,
} from "@iommu/core"
import { MockDomain } from "./mock-attach.ts"
import { tracksDirty } from "./mock-device.ts"
import type { MockIommu } from "./mock-iommu.ts"

/** `MOCK_IO_PAGE_SIZE`. */
export const MOCK_PAGE_SIZE = 2048
/** `MOCK_HUGE_PAGE_SIZE`. */
export const MOCK_HUGE_PAGE_SIZE: number = 512 * MOCK_PAGE_SIZE
export const MOCK_APERTURE_START: bigint = 1n << 24n
export const MOCK_APERTURE_LAST: bigint = (1n << 31n) - 1n
/** Kinds of page tables that SELFTEST user data chooses from. */
export const MockTable = { DEFAULT: 0, HUGE: 1, AMDV1: 2 } as const

/** Bytes that a domain and an entry of its table are charged. */
const DOMAIN_BYTES = 256
const ENTRY_BYTES = 8
const LAST_52_BITS = (1n << 52n) - 1n

export interface MockPlan {
  readonly table: number
  readonly nestParent: boolean
  readonly dirty: boolean
}

interface Entry {
  readonly pa: bigint
  readonly prot: number
}

export class MockPagingDomain extends MockDomain implements PagingDomain {
  readonly type = "paging"
  readonly format: number = PageTableFormatId.DEFAULT
  readonly nestParent: boolean
  readonly pageSizes: bigint
  readonly aperture: PagingDomain["aperture"]
  readonly dirty?: DirtyOps
  pageFaultHandler: PageFaultHandler | null = null
  /** Nested domains and vIOMMUs over it. */
  children = 0
  physHi = 0
  physLo = 0
  readonly #account: MemoryAccount
  readonly #pageSize: bigint
  readonly #entries = new Map<bigint, Entry>()
  readonly #dirtyPages = new Set<bigint>()
  #isTracking = false
  #isFreed = false

  /** @throws ENOMEM */
  constructor(ops: MockIommu, plan: MockPlan, account: MemoryAccount) {
    super(ops)
    const isAmd = plan.table === MockTable.AMDV1
    this.#pageSize = isAmd ? 4096n : BigInt(MOCK_PAGE_SIZE)
    this.pageSizes = this.#pageSize | (plan.table === MockTable.HUGE ? BigInt(MOCK_HUGE_PAGE_SIZE) : 0n)
    this.aperture = isAmd
      ? { start: 0n, last: LAST_52_BITS }
      : { start: MOCK_APERTURE_START, last: MOCK_APERTURE_LAST }
    this.nestParent = plan.nestParent
    this.#account = account
    account.chargeBytes(DOMAIN_BYTES)
    if (plan.dirty) {
      this.dirty = {
        setDirtyTracking: enable => this.#track(enable),
        readDirty: bitmap => this.#readDirty(bitmap),
        readAndClearDirty: bitmap => this.#readAndClearDirty(bitmap),
      }
    }
  }

  /** What the mapped pages are: for tests that look at the whole table. */
  get mappedBytes(): bigint {
    return BigInt(this.#entries.size) * this.#pageSize
  }

  /** `IOMMU_*` of the page at an IOVA, 0 when nothing is mapped there. */
  protAt(iova: U64Like): number {
    return this.#entries.get(toU64(iova, "iova") / this.#pageSize)?.prot ?? 0
  }

  /** Pretends that a device wrote to pages. */
  markDirty(iova: U64Like, length: U64Like): void {
    if (!this.#isTracking) throw new IommuError("EINVAL", "nothing is marked while tracking is off")
    const start = toU64(iova, "iova")
    for (const page of this.#pages(start, toU64(length, "length"))) {
      if (this.#entries.has(page)) this.#dirtyPages.add(page)
    }
  }

  enforceCacheCoherency(): boolean {
    return true
  }

  checkAttach(device: IommuDevice): void {
    this.#checkAlive()
    if (this.dirty !== undefined && !tracksDirty(device)) {
      throw new IommuError("EINVAL", "a device without dirty tracking cannot be on a domain that tracks")
    }
  }

  map(iova: U64Like, pa: U64Like, size: U64Like, prot: number): void {
    const [start, target, bytes] = [toU64(iova, "iova"), toU64(pa, "pa"), toU64(size, "size")]
    this.#checkAlive()
    if (
      bytes === 0n ||
      (start | target | bytes) % this.#pageSize !== 0n ||
      (prot & (IOMMU_READ | IOMMU_WRITE)) === 0
    ) {
      throw new IommuError("EINVAL", "whole pages are mapped, readable or writeable")
    }
    if (start < this.aperture.start || start + bytes - 1n > this.aperture.last) {
      throw new IommuError("ERANGE", "the range is outside the aperture")
    }
    const pages = [...this.#pages(start, bytes)]
    if (pages.some(page => this.#entries.has(page)))
      throw new IommuError("EEXIST", "a page is mapped already")
    this.#account.chargeBytes(pages.length * ENTRY_BYTES)
    for (const page of pages) this.#entries.set(page, { pa: target + page * this.#pageSize - start, prot })
  }

  unmap(iova: U64Like, size: U64Like): bigint {
    let bytes = 0n
    for (const page of this.#pages(toU64(iova, "iova"), toU64(size, "size"))) {
      if (!this.#entries.delete(page)) continue
      this.#dirtyPages.delete(page)
      this.#account.unchargeBytes(ENTRY_BYTES)
      bytes += this.#pageSize
    }
    return bytes
  }

  unmapFast(iova: U64Like, size: U64Like): bigint {
    return this.unmap(iova, size)
  }

  /** The mock caches nothing. */
  iotlbSync(): void {}

  flushIotlbAll(): void {}

  iovaToPhys(iova: U64Like): bigint | null {
    const at = toU64(iova, "iova")
    const entry = this.#entries.get(at / this.#pageSize)
    return entry === undefined ? null : entry.pa + (at % this.#pageSize)
  }

  mapPages(iovaHi: number, iovaLo: number, paHi: number, paLo: number, pages: number, prot: number): number {
    try {
      this.map(fromHalves(iovaHi, iovaLo), fromHalves(paHi, paLo), pages * 4096, prot)
      return 0
    } catch (error) {
      if (isIommuError(error)) return error.errno
      throw error
    }
  }

  unmapPages(iovaHi: number, iovaLo: number, pages: number): number {
    return Number(this.unmap(fromHalves(iovaHi, iovaLo), pages * 4096) / 4096n)
  }

  iovaToPhysHalves(iovaHi: number, iovaLo: number): number {
    const pa = this.iovaToPhys(fromHalves(iovaHi, iovaLo))
    if (pa === null) return ERRNO.ENOENT
    this.physHi = hi32(pa)
    this.physLo = lo32(pa)
    return 0
  }

  free(): void {
    this.#checkAlive()
    if (this.attachments > 0 || this.children > 0) {
      throw new IommuError("EBUSY", "a device, a PASID, a nested domain or a vIOMMU uses the domain")
    }
    this.#account.unchargeBytes(DOMAIN_BYTES + this.#entries.size * ENTRY_BYTES)
    this.#isFreed = true
  }

  #checkAlive(): void {
    if (this.#isFreed) throw new IommuError("EINVAL", "the domain is freed")
  }

  *#pages(start: bigint, bytes: bigint): Generator<bigint> {
    const end = (start + bytes) / this.#pageSize
    for (let page = start / this.#pageSize; page < end; page++) yield page
  }

  #track(enable: boolean): void {
    if (enable && !this.#isTracking) this.#dirtyPages.clear()
    this.#isTracking = enable
  }

  #readDirty(bitmap: DirtyBitmap): void {
    for (const page of this.#dirtyPages) bitmap.mark(page * this.#pageSize, this.#pageSize)
  }

  #readAndClearDirty(bitmap: DirtyBitmap): void {
    this.#readDirty(bitmap)
    for (const page of this.#dirtyPages) {
      const iova = page * this.#pageSize
      if (iova >= bitmap.iova && iova < bitmap.iova + bitmap.length) this.#dirtyPages.delete(page)
    }
  }
}
