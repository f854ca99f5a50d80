import type {
  DomainUserData,
  ErrnoCode,
  IommuDevice,
  IommuOps,
  MemoryAccount,
  PagingDomain,
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

export interface ConformanceTarget {
  readonly name: string
  create(): ConformanceMachine
  /** Contracts of all types in `ops.capabilities.userDataTypes`. */
  readonly userData: readonly UserDataContract[]
}
