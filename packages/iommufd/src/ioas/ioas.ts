/**
 * An I/O address space: areas at IOVAs, mapped alike in all its domains. Linux's `struct io_pagetable`.
 *
 * Fields are read by the files of this room; others call methods. Every call that throws leaves state, pins and
 * charges as they were, except where a method says otherwise.
 */
import { IommuError, type MemoryAccount, type PagingDomain, type ReservedRegion, U64_MAX } from "@iommu/core"
import type { PinPolicy } from "../memory/pin-accounting.ts"
import type { UserFile } from "../process/file-table.ts"
import type { Process } from "../process/process.ts"
import { type IoasAccess, type IovaPin, pinRange, readIova, writeIova } from "./access.ts"
import type { Area, AreaAccess, AreaSlice } from "./area.ts"
import { type CopyRequest, copyAreas } from "./copy.ts"
import { cutAfter } from "./cut.ts"
import { type DirtyRequest, type DirtySink, readDirty, setDirtyTracking } from "./dirty.ts"
import { addDomain, removeDomain } from "./domains.ts"
import { insertAreas } from "./insert-areas.ts"
import { type Interval, IntervalTree } from "./interval-tree.ts"
import { fileSlice, userSlice } from "./map-sources.ts"
import { recalculateAlignment, replaceAllowed, reserveRange } from "./narrowing.ts"
import { type PhysicalRun, physicalRun } from "./physical-run.ts"
import { type PinnedRange, pinContiguous } from "./pin-contiguous.ts"
import { ReservedRanges } from "./reserved-ranges.ts"
import { unmapRange } from "./unmap.ts"

/** Bytes of an entry in Linux's xarray of accesses. */
const SLOT_BYTES = 8

export interface IoasOptions {
  /** Pays for the IOAS's own lists. Areas are paid by the process that maps them. */
  readonly account: MemoryAccount
  /** How pinned pages are counted; looked at when memory is mapped. */
  readonly pinPolicy: PinPolicy
}

/** Where memory is to be mapped, and for what. */
export interface MapTarget extends AreaAccess {
  readonly length: bigint
  /** Null: the IOAS finds a place. */
  readonly iova: bigint | null
}

export interface MapRequest extends MapTarget {
  readonly userVa: bigint
}

export interface MapFileRequest extends MapTarget {
  readonly file: UserFile
  /** Position of the first byte in the file. */
  readonly start: bigint
}

export class Ioas {
  readonly account: MemoryAccount
  readonly pinPolicy: PinPolicy
  readonly areas: IntervalTree<Area> = new IntervalTree<Area>()
  readonly reserved: ReservedRanges
  allowed: readonly Interval[] = []
  domains: readonly PagingDomain[] = []
  accesses: readonly IoasAccess[] = []
  /** IOVAs, lengths and offsets in a page are multiples of it: a power of two of at most 4096. */
  alignment = 1n
  usesHugePages = true

  constructor(options: IoasOptions) {
    this.account = options.account
    this.pinPolicy = options.pinPolicy
    this.reserved = new ReservedRanges(options.account)
  }

  /**
   * IOAS_MAP, charged to the process.
   * @returns the IOVA
   * @throws EOVERFLOW, EINVAL, EEXIST, ENOSPC for the range; EFAULT for memory that cannot be pinned; ENOMEM; what a
   *   domain refuses
   */
  map(process: Process, request: MapRequest): bigint {
    const slice = userSlice(process, this.pinPolicy, { ...request, start: request.userVa })
    return this.#insert(slice, request, process.account)
  }

  /** IOAS_MAP_FILE. @throws as {@link map}; EINVAL, EOPNOTSUPP, ENODEV for a dma-buf */
  mapFile(process: Process, request: MapFileRequest): bigint {
    const slice = fileSlice(process, this.pinPolicy, request.file, request)
    return this.#insert(slice, request, process.account)
  }

  /**
   * IOAS_COPY: shows pages of another IOAS, or of this one, at a second place. They are pinned and counted once.
   * @throws ENOENT when the source has holes; EPERM; as {@link map}
   */
  copyFrom(source: Ioas, process: Process, request: CopyRequest): bigint {
    return copyAreas(this, source, process, request)
  }

  /**
   * IOAS_UNMAP: removes the areas that lie in a range.
   * @returns bytes removed
   * @throws EINVAL, EOVERFLOW; ENOENT for nothing, or an area that is only partly in the range; EBUSY; EDEADLOCK. Areas
   *   below the one that is refused are gone then
   */
  unmap(iova: bigint, length: bigint): bigint {
    const bytes = this.unmapIfMapped(iova, length)
    if (bytes === 0n) throw new IommuError("ENOENT", "nothing is mapped in the range")
    return bytes
  }

  /** As {@link unmap}, and content with nothing: VFIO's. */
  unmapIfMapped(iova: bigint, length: bigint): bigint {
    if (length === 0n) throw new IommuError("EINVAL", "a range to unmap is not empty")
    if (iova + length - 1n > U64_MAX) throw new IommuError("EOVERFLOW", "the range ends beyond the last IOVA")
    return unmapRange(this, iova, iova + length - 1n)
  }

  /** @returns bytes removed, 0 when there was nothing. @throws EBUSY, EDEADLOCK */
  unmapAll(): bigint {
    return unmapRange(this, 0n, U64_MAX)
  }

  /** Gives back all that it cost. No domain and no access may be left. */
  destroy(): void {
    if (this.domains.length > 0 || this.accesses.length > 0)
      throw new Error("bug: an IOAS in use is destroyed")
    this.unmapAll()
    this.allowIovas([])
    this.reserved.clear()
  }

  /** IOAS_IOVA_RANGES: what areas may use. */
  iovaRanges(): { readonly ranges: readonly Interval[]; readonly alignment: bigint } {
    return { ranges: this.reserved.holes(), alignment: this.alignment }
  }

  /**
   * IOAS_ALLOW_IOVAS: where areas without fixed IOVA go, and what no later narrowing may take; none means everything.
   * @throws EINVAL for empty, one-byte or overlapping ranges, EADDRINUSE for reserved ones, ENOMEM
   */
  allowIovas(ranges: readonly Interval[]): void {
    replaceAllowed(this, ranges)
  }

  /** The option HUGE_PAGES. @throws EINVAL, EADDRINUSE when areas forbid to turn it off */
  setHugePages(uses: boolean): void {
    if (uses === this.usesHugePages) return
    if (!uses && this.domains.length > 0 && this.areas.size > 0) {
      throw new IommuError("EINVAL", "areas may be in domains with huge pages already")
    }
    this.usesHugePages = uses
    try {
      recalculateAlignment(this)
    } catch (error) {
      this.usesHugePages = !uses
      throw error
    }
  }

  /**
   * Maps all areas in a domain from now on.
   * @throws EADDRINUSE when areas or allowed ranges do not fit its aperture or page size; EINVAL for pages larger than
   *   4096; EEXIST; EFAULT, ENOMEM and what the domain refuses
   */
  addDomain(domain: PagingDomain): void {
    addDomain(this, domain)
  }

  /** Empties a domain, and unpins what no other user needs. */
  removeDomain(domain: PagingDomain): void {
    removeDomain(this, domain)
  }

  /**
   * HWPT_SET_DIRTY_TRACKING. What was dirty before is forgotten at each start.
   * @throws EOPNOTSUPP when the domain was made without
   */
  setDirtyTracking(domain: PagingDomain, state: "on" | "off"): void {
    setDirtyTracking(this, domain, state)
  }

  /**
   * HWPT_GET_DIRTY_BITMAP: hands over the pages of a range that devices wrote to, and forgets them or keeps them for
   * the next reader.
   * @throws EOVERFLOW, EINVAL, EOPNOTSUPP
   */
  readDirty(domain: PagingDomain, request: DirtyRequest, after: "keep" | "clear", sink: DirtySink): void {
    readDirty(this, domain, request, after, sink)
  }

  /** Forbids IOVAs for as long as the owner wants. @throws EADDRINUSE for areas or allowed ranges there, ENOMEM */
  reserve(owner: object, regions: readonly ReservedRegion[]): void {
    try {
      for (const { start, last } of regions) reserveRange(this, owner, start, last)
    } catch (error) {
      this.reserved.remove(owner)
      throw error
    }
  }

  unreserve(owner: object): void {
    this.reserved.remove(owner)
  }

  /** @throws EADDRINUSE when areas do not keep its alignment, ENOMEM */
  addAccess(access: IoasAccess): void {
    this.account.chargeBytes(SLOT_BYTES)
    this.accesses = [...this.accesses, access]
    try {
      recalculateAlignment(this)
    } catch (error) {
      this.#dropAccess(access)
      throw error
    }
  }

  removeAccess(access: IoasAccess): void {
    this.#dropAccess(access)
    recalculateAlignment(this)
  }

  /** `iommufd_access_pin_pages`. @throws EINVAL, EOVERFLOW, ENOENT, EPERM, EFAULT, ENOMEM */
  pin(iova: bigint, length: bigint, use: "read" | "write"): IovaPin {
    return pinRange(this, iova, length, use)
  }

  /**
   * Pins whole pages of a queue of the hardware; its areas cannot be unmapped until it is released.
   * @throws ENOENT, EPERM, EINVAL, EOVERFLOW, ENOMEM; EFAULT when its pages are not physically contiguous
   */
  pinContiguous(iova: bigint, length: bigint): PinnedRange {
    return pinContiguous(this, iova, length)
  }

  /** `iommufd_access_rw`. @throws EINVAL, EOVERFLOW, ENOENT, EPERM, EFAULT */
  read(iova: bigint, length: number): Uint8Array {
    return readIova(this, iova, length)
  }

  /** @throws as {@link read}; areas below the refused one are written */
  write(iova: bigint, bytes: Uint8Array): void {
    writeIova(this, iova, bytes)
  }

  /** VFIO's first type of container: makes an IOVA the last of an area. @throws EBUSY, EOPNOTSUPP, EINVAL, ENOMEM */
  cutAfter(iova: bigint): void {
    cutAfter(this, iova)
  }

  /**
   * IOAS_NOIOMMU_GET_PA.
   * @param domain the IOAS's domain of devices without an IOMMU, if it has one
   * @throws EINVAL, EOVERFLOW, ENOENT, EOPNOTSUPP
   */
  physicalRun(domain: PagingDomain | null, iova: bigint, length: bigint): PhysicalRun {
    return physicalRun(this, domain, iova, length)
  }

  #dropAccess(access: IoasAccess): void {
    this.accesses = this.accesses.filter(other => other !== access)
    this.account.unchargeBytes(SLOT_BYTES)
  }

  /** Alignments that accesses ask for. */
  accessAlignments(): bigint[] {
    return this.accesses.map(access => access.alignment)
  }

  /** Asks accesses to let go of a range. */
  notifyUnmap(iova: bigint, length: bigint): void {
    for (const access of this.accesses) access.onUnmap(iova, length)
  }

  #insert(slice: AreaSlice, { readable, writeable, iova }: MapTarget, account: MemoryAccount): bigint {
    try {
      return insertAreas(this, { slices: [slice], iova, access: { readable, writeable }, account })
    } finally {
      // The area has its own reference.
      slice.pages.put()
    }
  }
}
