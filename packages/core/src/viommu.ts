/**
 * Virtual IOMMUs: the slice of one physical IOMMU that a guest drives, Linux's `struct iommufd_viommu` with its
 * `iommufd_viommu_ops`. An optional member that is absent is answered with EOPNOTSUPP.
 */
import type { Hpa } from "./address.ts"
import type { IommuDevice } from "./device.ts"
import type { CacheInvalidateResult, NestedDomain, PagingDomain } from "./domain.ts"
import type { CacheInvalidateData, DomainUserData } from "./user-data.ts"

/** Linux's `enum iommu_viommu_type`, and this project's for AMD. */
export const ViommuType = {
  DEFAULT: 0,
  ARM_SMMUV3: 1,
  TEGRA241_CMDQV: 2,
  /** Linux's AMD driver takes any number but 0; this one is outside Linux's range. */
  AMD: 0x8000_0003,
} as const

/** Linux's `enum iommu_veventq_type`, and this project's for AMD. */
export const VeventqType = {
  DEFAULT: 0,
  ARM_SMMUV3: 1,
  TEGRA241_CMDQV: 2,
  /** Raw event log entries of 16 bytes, DeviceID and DomainID being the guest's. */
  AMD: 0x8000_0003,
} as const

/** How a driver makes virtual IOMMUs: Linux's `get_viommu_size` and `viommu_init`. */
export interface ViommuOps {
  /**
   * True: userspace nests on a virtual IOMMU or not at all. Callers of `domainAllocUser` may give it a parent all the
   * same.
   */
  readonly isOnlyWayToNest?: true
  /**
   * Bytes of the ABI struct that userspace passes with a type, 0 for a type that takes none.
   * @throws EOPNOTSUPP for a type that the device's IOMMU does not serve
   */
  dataLen(device: IommuDevice, type: number): number
  /** Fewest bytes of the struct that userspace may pass; missing ones count as zero. Absent: all of them. */
  minDataLen?(device: IommuDevice, type: number): number
  /**
   * @param parent a nest parent; its tags become those of the guest
   * @param data {@link dataLen} bytes, or none when userspace passed none
   * @throws EOPNOTSUPP, EINVAL for a parent of another IOMMU, ENOMEM; nothing is left behind then
   */
  alloc(device: IommuDevice, parent: PagingDomain, type: number, data: Uint8Array): Viommu
}

/** An event for the guest, as the vendor's ABI lays it out. */
export interface ViommuEvent {
  /** A {@link VeventqType}. */
  readonly type: number
  readonly data: Uint8Array
}

/** Registers that userspace may map: whole 4 KiB pages of physical address space. */
export interface MappablePages {
  readonly address: Hpa
  readonly length: bigint
}

export interface Viommu {
  readonly type: number
  readonly parent: PagingDomain
  /** What userspace may map while the virtual IOMMU lives. */
  readonly mappable?: readonly MappablePages[]
  /**
   * What userspace gets back in place of the data it passed.
   * @param mmapOffsets where in the iommufd file each of {@link mappable} can be mapped
   */
  outData?(mmapOffsets: readonly bigint[]): Uint8Array
  /**
   * A guest's stage 1, known by the words of its own tables.
   * @param flags `IOMMU_HWPT_ALLOC_*`: {@link PAGING_PASID} or none
   * @throws as `domainAllocUser` with a parent; EOPNOTSUPP for a flag that the hardware cannot serve
   */
  domainAllocNested?(device: IommuDevice, data: DomainUserData, flags?: number): NestedDomain
  /** Carries out commands of the guest; its device numbers are those of {@link vdeviceAlloc}. */
  cacheInvalidate?(data: CacheInvalidateData): CacheInvalidateResult
  /**
   * Makes a device known by the number that the guest uses for it.
   * @throws EINVAL for a number that the hardware cannot have, ENOMEM
   */
  vdeviceAlloc?(device: IommuDevice, virtualId: bigint): void
  vdeviceFree?(device: IommuDevice): void
  readonly hwQueues?: HwQueueOps
  /** Takes the events of the guest's devices while set; called by the driver. */
  onEvent: ((event: ViommuEvent) => void) | null
  /** @throws EBUSY while a nested domain or a virtual device is left */
  free(): void
}

/** Queues in guest memory that the hardware reads itself. */
export interface HwQueueOps {
  /** Whether a type of queue exists at all; asked before its memory is looked at. */
  serves(type: number): boolean
  /**
   * @param index the guest's number of the queue
   * @param address where the queue lies in physical memory, contiguous
   * @throws EOPNOTSUPP for a type, EINVAL for an index or size, EEXIST for an index in use, EIO when the queue
   *   before it is missing
   */
  alloc(type: number, index: number, address: bigint, length: bigint): HwQueue
}

export interface HwQueue {
  /** The queue that this one needs, and that cannot go before it. */
  readonly previous: HwQueue | null
  free(): void
}
