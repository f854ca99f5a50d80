import type {
  AtsDevice,
  CacheInvalidateData,
  DomainUserData,
  ErrnoCode,
  IommuDevice,
  IommuOps,
  MemoryAccount,
  PageRequest,
  PagingDomain,
  PhysicalMemory,
} from "@iommu/core"

/** The functions of a test runner that the suite uses; vitest, node:test, mocha and jest all have them. */
export interface TestRunner {
  describe(name: string, define: () => void): void
  it(name: string, run: () => void): void
}

/** A machine fresh from power-on: the suite makes one for each test. */
export interface ConformanceMachine {
  readonly ops: IommuOps
  /** Device number `n` (0 to 3) of the machine, not yet probed, with PASIDs if the hardware has them. */
  device(n: number, account: MemoryAccount): IommuDevice
  /** 4 KiB pages that the driver holds of the machine's memory, when that can be counted. */
  pagesInUse?(): number
  /**
   * One DMA access through the hardware.
   * @param pasid -1 for none
   * @param access ACCESS_* bits
   * @returns where it lands, or null when it is refused
   */
  dma?(device: IommuDevice, pasid: number, iova: bigint, access: number): bigint | null
  /** Memory of the machine below 1 MiB, which no driver uses: guest tables and data of a test. */
  readonly memory?: PhysicalMemory
  /** Puts a device with an address translation cache on the hardware, for its answers. Comes with {@link pageRequest}. */
  connect?(device: IommuDevice, ats: AtsDevice): void
  /** One page request message through the hardware. */
  pageRequest?(request: PageRequest): void
}

/** User data that a driver must refuse, with the moment when it does. */
export interface RefusedUserData {
  readonly rule: string
  readonly data: DomainUserData
  readonly errno: ErrnoCode
  /** Most rules are checked at allocation; some of Linux's only when the domain meets a device. */
  readonly at: "alloc" | "attach"
}

/** What the ABI says of one user data type of a driver: the driver's authors type it from the book. */
export interface UserDataContract {
  readonly type: number
  /** Whether the type makes paging domains (no parent) or nested ones. */
  readonly parent: "none" | "nest-parent"
  /** Data that must be accepted; a nested domain's may refer to memory that the parent maps. */
  valid(machine: ConformanceMachine, parent: PagingDomain | null): DomainUserData
  /** Each wrong variant of it. */
  refused(machine: ConformanceMachine): readonly RefusedUserData[]
  /** Bit numbers of the ABI struct that must be zero, refused one at a time. */
  readonly reservedBits: readonly number[]
  readonly reservedErrno: ErrnoCode
  readonly reservedAt: "alloc" | "attach"
}

/** A guest's device with tables of the guest's in {@link ConformanceMachine.memory}, which the parent maps one to one. */
export interface GuestTables {
  readonly data: DomainUserData
  /** Refused by the guest's tables, which is the guest's to hear of. */
  readonly refusedByGuest: bigint
  /** Refused by the parent, which is not. */
  readonly refusedByHost: bigint
}

/** What a driver's virtual IOMMUs are, by its authors from the book. */
export interface ViommuContract {
  readonly type: number
  /** Bits of the number that a guest knows a device by. */
  readonly virtualIdBits: number
  /** An invalidation that names a device by the guest's number. */
  naming(virtualId: number): CacheInvalidateData
  /** One that a guest has no business to ask for: EIO. */
  readonly forbidden: CacheInvalidateData
  /** @param base of 64 KiB that the parent maps one to one */
  guestTables(machine: ConformanceMachine, base: bigint): GuestTables
  /** The number of the device in an event as a guest gets it. */
  deviceIn(event: Uint8Array): number
}

export interface ConformanceTarget {
  readonly name: string
  create(): ConformanceMachine
  /** Contracts of all types in `ops.capabilities.userDataTypes`. */
  readonly userData: readonly UserDataContract[]
  /** For drivers with virtual IOMMUs. */
  readonly viommu?: ViommuContract
}
