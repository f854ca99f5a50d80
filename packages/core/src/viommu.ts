/**
 * Virtual IOMMUs: the slice of one physical IOMMU that a guest drives, Linux's `struct iommufd_viommu` with its
 * `iommufd_viommu_ops`. An optional member that is absent is answered with EOPNOTSUPP.
 */
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
   * Bytes of the ABI struct that userspace passes with a type, 0 for a type that takes none.
   * @throws EOPNOTSUPP for a type that the device's IOMMU does not serve
   */
  dataLen(device: IommuDevice, type: number): number
  /**
   * @param parent a nest parent; its tags become those of the guest
   * @param data {@link dataLen} bytes
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

export interface Viommu {
  readonly type: number
  readonly parent: PagingDomain
  /** What userspace gets back in place of the data it passed. */
  readonly outData?: Uint8Array
  /**
   * A guest's stage 1, known by the words of its own tables.
   * @throws as `domainAllocUser` with a parent
   */
  domainAllocNested?(device: IommuDevice, data: DomainUserData): NestedDomain
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
