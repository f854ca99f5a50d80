/**
 * Domains: an address space that devices can be attached to.
 *
 * Control (attach, detach, free) and data path (map, unmap, look up) are apart, as `iommu_ops` and
 * `iommu_domain_ops` are in Linux. An optional member that is absent is a capability that is absent: the caller
 * answers EOPNOTSUPP.
 */
import type { Hpa, Iova } from "./address.ts"
import type { IommuDevice } from "./device.ts"
import type { DirtyBitmap } from "./dirty.ts"
import { IommuError } from "./errno.ts"
import type { IommuOps } from "./ops.ts"
import type { PageFaultHandler } from "./page-faults.ts"
import type { U64Like } from "./u64.ts"
import type { CacheInvalidateData } from "./user-data.ts"

/** Protection bits of a mapping, Linux's `IOMMU_*`. */
export const IOMMU_READ = 1
export const IOMMU_WRITE = 2
/** DMA is cache coherent. */
export const IOMMU_CACHE = 4
export const IOMMU_NOEXEC = 8
/** Device memory. */
export const IOMMU_MMIO = 16
/** Only privileged transactions. */
export const IOMMU_PRIV = 32

/** Attachment, common to all domains. */
export interface DomainControl {
  /** The driver instance that made the domain. */
  readonly ops: IommuOps
  /**
   * Puts a device on this domain, in place of the one it is on. When the call throws, the device stays on its old
   * domain.
   * @throws EINVAL a soft incompatibility (another domain may do), ENOMEM, ENODEV for a device not probed here
   */
  attachDev(device: IommuDevice): void
  /**
   * Takes a device off this domain; its DMA is blocked afterwards.
   * @throws EINVAL when the device is on another domain
   */
  detachDev(device: IommuDevice): void
  /** Puts one PASID (1 and up) of a device on this domain, in place of the one it is on. Absent: no PASID. */
  readonly setDevPasid?: ((device: IommuDevice, pasid: number) => void) | undefined
  /** Takes one PASID of a device off this domain; its DMA is blocked afterwards. */
  readonly removeDevPasid?: ((device: IommuDevice, pasid: number) => void) | undefined
  /**
   * Takes the page requests of this domain's devices and PASIDs while set; null: none are taken. Absent or
   * undefined: the driver, or its hardware, reports none. Setting it on a domain with devices changes their entries.
   * @throws what hardware that does not answer throws; the old handler is in place then
   */
  pageFaultHandler?: PageFaultHandler | null | undefined
  /** Called by {@link iommuDomainFree} alone. */
  free(): void
}

/** Mapping at the door. Addresses in bytes; ranges are multiples of the smallest page size. */
export interface DomainMapping {
  /** Page sizes that leaves can have, one bit each, as Linux's `pgsize_bitmap`. */
  readonly pageSizes: bigint
  /** IOVAs that can be mapped: first and last. */
  readonly aperture: { readonly start: Iova; readonly last: Iova }
  /**
   * Maps a range with the largest pages that fit. All or nothing.
   * @throws EINVAL misaligned, empty or neither readable nor writable; ERANGE outside the aperture or the output
   *   width; EEXIST when any of it is mapped; ENOMEM
   */
  map(iova: U64Like, pa: U64Like, size: U64Like, prot: number): void
  /**
   * Unmaps what is mapped in a range and waits until no cache holds it.
   * @returns bytes unmapped: less than asked when there were holes; more or less when the range cuts into a large
   *   page, as the vendor's Linux driver behaves
   */
  unmap(iova: U64Like, size: U64Like): bigint
  /** {@link unmap} without the wait: {@link iotlbSync} must follow before the memory is used again. */
  unmapFast(iova: U64Like, size: U64Like): bigint
  /** Invalidates exactly what {@link unmapFast} left, and frees emptied tables after that. */
  iotlbSync(): void
  /** Drops all cached translations of this domain. */
  flushIotlbAll(): void
  /** @returns the physical address, or null when nothing is mapped there */
  iovaToPhys(iova: U64Like): Hpa | null
}

/**
 * Mapping in unsigned 32-bit halves, for callers that map page by page. Nothing is allocated per call. Sizes are
 * counts of 4 KiB pages (a double, exact to 2^53).
 */
export interface DomainDataPath {
  /** @returns 0, or the errno that {@link DomainMapping.map} would throw */
  mapPages(iovaHi: number, iovaLo: number, paHi: number, paLo: number, pages: number, prot: number): number
  /** As {@link DomainMapping.unmapFast}. @returns 4 KiB pages unmapped */
  unmapPages(iovaHi: number, iovaLo: number, pages: number): number
  /** @returns 0 and the address in {@link physHi}, {@link physLo}, or ENOENT */
  iovaToPhysHalves(iovaHi: number, iovaLo: number): number
  readonly physHi: number
  readonly physLo: number
}

/** Dirty tracking, Linux's `iommu_dirty_ops`. */
export interface DirtyOps {
  setDirtyTracking(enable: boolean): void
  /** Marks in `dirty` the pages that devices wrote to, and forgets it, with the caches kept in step. */
  readAndClearDirty(dirty: DirtyBitmap): void
  /** As {@link readAndClearDirty}, without forgetting: `IOMMU_DIRTY_NO_CLEAR`. */
  readDirty(dirty: DirtyBitmap): void
}

/** A domain with tables that the driver builds. */
export interface PagingDomain extends DomainControl, DomainMapping, DomainDataPath {
  readonly type: "paging"
  /** A {@link PageTableFormatId}. */
  readonly format: number
  /** True when nested domains can be made on it. */
  readonly nestParent: boolean
  /**
   * Makes all DMA of the domain coherent, whatever its devices ask for, for as long as it lives.
   * @returns false when the hardware cannot. Absent: it cannot
   */
  enforceCacheCoherency?(): boolean
  /** Present when the domain was allocated with dirty tracking. */
  readonly dirty?: DirtyOps
}

/** How far an array of invalidation requests got. Everything before the failed entry is done and waited for. */
export interface CacheInvalidateResult {
  readonly handled: number
  readonly error: IommuError | null
}

/** A guest-owned stage 1 over a stage 2 that the driver builds. */
export interface NestedDomain extends DomainControl {
  readonly type: "nested"
  readonly parent: PagingDomain
  /**
   * Carries out the guest's invalidations, with guest-chosen tags replaced by the host's.
   * @throws never for a bad entry: it is in the result
   */
  cacheInvalidateUser?(data: CacheInvalidateData): CacheInvalidateResult
}

/** Refuses all DMA. One per driver instance, never freed. */
export interface BlockedDomain extends DomainControl {
  readonly type: "blocked"
}

/** Passes all DMA through untranslated. One per driver instance, never freed. */
export interface IdentityDomain extends DomainControl {
  readonly type: "identity"
}

export type IommuDomain = PagingDomain | NestedDomain | BlockedDomain | IdentityDomain

/**
 * Frees a user-owned domain: tables, ids and charges.
 * @throws EBUSY while a device, a PASID or a nested domain uses it; EINVAL for a static or a freed domain
 */
export function iommuDomainFree(domain: IommuDomain): void {
  if (domain.type === "blocked" || domain.type === "identity") {
    throw new IommuError("EINVAL", "blocked and identity domains belong to the driver")
  }
  domain.free()
}
