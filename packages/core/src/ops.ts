/**
 * The driver's face to iommufd: Linux's `struct iommu_ops`, with the pair of ops that lets userspace own domains.
 */
import type { IommuDevice } from "./device.ts"
import type { BlockedDomain, IdentityDomain, IommuDomain, NestedDomain, PagingDomain } from "./domain.ts"
import type { DriverAbi } from "./driver-abi.ts"
import type { ReservedRegion } from "./reserved-regions.ts"
import type { DomainUserData, HwInfo } from "./user-data.ts"
import type { ViommuOps } from "./viommu.ts"

/** What a driver instance can do, fixed at construction: what the conformance suite switches on. */
export interface DriverCapabilities {
  /** Nested domains over nest parents. */
  readonly nesting: boolean
  readonly dirtyTracking: boolean
  /** log2 of the PASIDs that the hardware takes, 0 for none. */
  readonly pasidBits: number
  /** {@link PageTableFormatId} values that a paging domain can have. */
  readonly formats: readonly number[]
  /** {@link HwptDataType} values that `domainAllocUser` takes. */
  readonly userDataTypes: readonly number[]
  /** {@link HwptInvalidateDataType} values that nested domains take. */
  readonly invalidateDataTypes: readonly number[]
  /** Walks of tables are coherent with the CPU's caches. */
  readonly coherentWalks: boolean
}

/** Linux's `enum iommu_cap`. */
export type IommuCap =
  | "CACHE_COHERENCY"
  | "NOEXEC"
  | "PRE_BOOT_PROTECTION"
  | "ENFORCE_CACHE_COHERENCY"
  | "DEFERRED_FLUSH"
  | "DIRTY_TRACKING"

export interface IommuOps<Data = DomainUserData> {
  /** For people; nothing branches on it. */
  readonly name: string
  readonly capabilities: DriverCapabilities
  capable(device: IommuDevice, cap: IommuCap): boolean
  /** Raw capability registers. */
  hwInfo(device: IommuDevice): HwInfo | null
  /**
   * Takes charge of a device; its DMA is blocked until it is attached.
   * @throws EEXIST when it is probed already; ENODEV when the hardware cannot address it
   */
  probeDevice(device: IommuDevice): void
  /**
   * Forgets a device and frees what it cost.
   * @throws ENODEV when it is not probed; EBUSY while it is on a user-owned domain
   */
  releaseDevice(device: IommuDevice): void
  readonly blockedDomain: BlockedDomain
  readonly identityDomain?: IdentityDomain
  /**
   * Makes a domain that userspace owns, charged to the device's account.
   *
   * Without parent: a paging domain, with the driver's defaults or as {@link HwptPaging} user data says. With
   * parent: a nested domain, user data required. Absent when the driver cannot serve iommufd.
   * @throws EOPNOTSUPP for data or flags that are not understood, EINVAL for data that is wrong, ENOMEM, ENODEV;
   *   more in the driver's page. Nothing is left behind then.
   */
  readonly domainAllocUser?: DomainAllocUser<Data>
  /**
   * Bytes of the ABI struct of a user data type: the length by which iommufd sanitises input, and the answer to
   * "is this type served?".
   * @throws EOPNOTSUPP for a type that the driver does not serve
   */
  domainAllocUserDataLen?(hwptType: number): number
  /** Layouts of ABI structs that core does not know. Absent: the driver takes and gives core's alone. */
  readonly abi?: DriverAbi
  /** Virtual IOMMUs. Absent when the vendor nests on the parent alone. */
  readonly viommu?: ViommuOps
  /** Addresses that no mapping of the device's domains may use. Absent: none. */
  reservedRegions?(device: IommuDevice): readonly ReservedRegion[]
  /**
   * What the interrupt threads do: reads event and page request queues, hands page requests to the handler of the
   * domain that their device or PASID is on, and events of virtual IOMMUs to those. Requests that nobody takes are
   * answered INVALID.
   * @returns records read
   */
  handleInterrupts?(): number
}

/** `domain_alloc_user(dev, parent, user_data)`: a parent makes the domain nested. */
export interface DomainAllocUser<Data> {
  (device: IommuDevice, parent: null, userData: Data | null): PagingDomain
  (device: IommuDevice, parent: IommuDomain, userData: Data | null): NestedDomain
  (device: IommuDevice, parent: IommuDomain | null, userData: Data | null): PagingDomain | NestedDomain
}
