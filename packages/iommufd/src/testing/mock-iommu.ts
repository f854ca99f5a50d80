/** The mock IOMMU of Linux's selftests as a driver: any tests of code above drivers can run on it. */
import {
  type BlockedDomain,
  type DomainUserData,
  type DriverAbi,
  type DriverCapabilities,
  HWPT_PAGING,
  type HwInfo,
  HwptDataType,
  type IommuCap,
  type IommuDevice,
  type IommuDomain,
  IommuError,
  type IommuOps,
  NO_PASID,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PAGING_PASID,
  type PageRequest,
  type PageResponse,
  PageTableFormatId,
  type ReservedRegion,
  type ViommuOps,
} from "@iommu/core"
import {
  HW_INFO_SELFTEST_REGVAL,
  HW_INFO_TYPE_SELFTEST,
  HWPT_DATA_SELFTEST,
  HWPT_SELFTEST,
  INVALIDATE_DATA_SELFTEST,
  MOCK_ABI,
  VIOMMU_SELFTEST,
  VIOMMU_TYPE_SELFTEST,
} from "./mock-abi.ts"
import { MOCK_PASID_BITS, type MockDeviceState, newDeviceState, tracksDirty } from "./mock-device.ts"
import { MockNestedDomain } from "./mock-nested.ts"
import { MockPagingDomain, MockTable } from "./mock-paging.ts"
import { MockViommu } from "./mock-viommu.ts"

const PAGING_FLAGS = PAGING_NEST_PARENT | PAGING_DIRTY_TRACKING | PAGING_PASID

export interface MockIommuOptions {
  readonly reservedRegions?: readonly ReservedRegion[]
  /** DMA of its devices must be coherent, and its domains can make it so. */
  readonly enforcesCoherency?: boolean
}

export function mockIommu(options: MockIommuOptions = {}): MockIommu {
  return new MockIommu(options)
}

export class MockIommu implements IommuOps {
  readonly name = "mock"
  readonly capabilities: DriverCapabilities = {
    nesting: true,
    dirtyTracking: true,
    pasidBits: MOCK_PASID_BITS,
    formats: [PageTableFormatId.DEFAULT],
    userDataTypes: [HWPT_DATA_SELFTEST, HwptDataType.PAGING],
    invalidateDataTypes: [INVALIDATE_DATA_SELFTEST],
    coherentWalks: true,
  }
  readonly abi: DriverAbi = MOCK_ABI
  readonly blockedDomain: BlockedDomain
  readonly viommu: ViommuOps
  readonly #options: MockIommuOptions
  readonly #devices = new Map<IommuDevice, MockDeviceState>()

  constructor(options: MockIommuOptions) {
    this.#options = options
    this.blockedDomain = this.#blockedDomain()
    this.viommu = {
      dataLen: (_device, type) => {
        if (type === VIOMMU_TYPE_SELFTEST) return VIOMMU_SELFTEST.size
        throw new IommuError("EOPNOTSUPP", `vIOMMUs of type ${type} are not served`)
      },
      alloc: (device, parent, _type, data) => {
        if (!(parent instanceof MockPagingDomain) || parent.ops !== this) {
          throw new IommuError("EINVAL", "the parent is a domain of the same mock")
        }
        return new MockViommu(this, parent, data, device.account)
      },
    }
  }

  capable(device: IommuDevice, cap: IommuCap): boolean {
    if (cap === "CACHE_COHERENCY") return true
    if (cap === "DIRTY_TRACKING") return tracksDirty(device)
    return cap === "ENFORCE_CACHE_COHERENCY" && this.#options.enforcesCoherency === true
  }

  hwInfo(): HwInfo {
    return { type: HW_INFO_TYPE_SELFTEST, flags: 0, testReg: HW_INFO_SELFTEST_REGVAL }
  }

  probeDevice(device: IommuDevice): void {
    if (this.#devices.has(device)) throw new IommuError("EEXIST", `${device.name} is probed already`)
    this.#devices.set(device, newDeviceState(device))
  }

  releaseDevice(device: IommuDevice): void {
    if (this.stateOf(device).attachments.size > 0)
      throw new IommuError("EBUSY", `${device.name} is on a domain`)
    this.#devices.delete(device)
  }

  reservedRegions(): readonly ReservedRegion[] {
    return this.#options.reservedRegions ?? []
  }

  domainAllocUser(device: IommuDevice, parent: null, data: DomainUserData | null): MockPagingDomain
  domainAllocUser(device: IommuDevice, parent: IommuDomain, data: DomainUserData | null): MockNestedDomain
  domainAllocUser(
    device: IommuDevice,
    parent: IommuDomain | null,
    data: DomainUserData | null,
  ): MockPagingDomain | MockNestedDomain
  domainAllocUser(
    device: IommuDevice,
    parent: IommuDomain | null,
    data: DomainUserData | null,
  ): MockPagingDomain | MockNestedDomain {
    this.stateOf(device)
    return parent === null ? this.#allocPaging(device, data) : this.#allocNested(device, parent, data)
  }

  domainAllocUserDataLen(hwptType: number): number {
    if (hwptType === HWPT_DATA_SELFTEST) return HWPT_SELFTEST.size
    if (hwptType === HwptDataType.PAGING) return HWPT_PAGING.size
    throw new IommuError("EOPNOTSUPP", `user data of type ${hwptType} is not served`)
  }

  /** @throws ENODEV for a device that is not probed here */
  stateOf(device: IommuDevice): MockDeviceState {
    const state = this.#devices.get(device)
    if (state === undefined) throw new IommuError("ENODEV", `${device.name} is not probed`)
    return state
  }

  /** The domain that requests of a device go through. */
  domainOf(device: IommuDevice, pasid: number = NO_PASID): IommuDomain | null {
    return this.stateOf(device).attachments.get(pasid)?.domain ?? null
  }

  /**
   * A group of page requests as the interrupt handler would hand it up.
   * @returns a list that gets the answer, once
   */
  raisePageRequests(device: IommuDevice, requests: readonly PageRequest[]): readonly PageResponse[] {
    const pasid = requests[0]?.pasid ?? null
    const domain = this.domainOf(device, pasid ?? NO_PASID) ?? this.domainOf(device)
    const answers: PageResponse[] = []
    const respond = (code: PageResponse): void => {
      if (answers.length === 0) answers.push(code)
    }
    if (domain?.pageFaultHandler) domain.pageFaultHandler({ device, pasid, requests, respond })
    else respond(1)
    return answers
  }

  #allocPaging(device: IommuDevice, data: DomainUserData | null): MockPagingDomain {
    const isSelftest = data?.type === HWPT_DATA_SELFTEST
    if (data !== null && !isSelftest && data.type !== HwptDataType.PAGING) {
      throw new IommuError("EOPNOTSUPP", `user data of type ${data.type} does not describe a paging domain`)
    }
    const flags = data?.flags ?? 0
    const table = isSelftest ? data.pagetableType : MockTable.DEFAULT
    if ((flags & ~PAGING_FLAGS) !== 0 || table > MockTable.AMDV1) {
      throw new IommuError("EOPNOTSUPP", "unknown flags, or a kind of table that the mock does not have")
    }
    const dirty = (flags & PAGING_DIRTY_TRACKING) !== 0
    if (dirty && !tracksDirty(device)) throw new IommuError("EOPNOTSUPP", "the device tracks nothing")
    const nestParent = (flags & PAGING_NEST_PARENT) !== 0
    return new MockPagingDomain(this, { table, nestParent, dirty }, device.account)
  }

  #allocNested(device: IommuDevice, parent: IommuDomain, data: DomainUserData | null): MockNestedDomain {
    if (data?.type !== HWPT_DATA_SELFTEST) {
      throw new IommuError("EOPNOTSUPP", "nested domains take SELFTEST data")
    }
    if (!(parent instanceof MockPagingDomain) || parent.ops !== this || !parent.nestParent) {
      throw new IommuError("EINVAL", "the parent is a nest parent of the same mock")
    }
    return new MockNestedDomain(this, parent, null, data.iotlb, device.account)
  }

  #blockedDomain(): BlockedDomain {
    const block = (device: IommuDevice, pasid: number): void => {
      const domain = this.domainOf(device, pasid)
      if (domain === null) return
      if (pasid === NO_PASID) domain.detachDev(device)
      else domain.removeDevPasid?.(device, pasid)
    }
    return {
      type: "blocked",
      ops: this,
      attachDev: device => block(device, NO_PASID),
      detachDev: () => {},
      setDevPasid: block,
      removeDevPasid: () => {},
      free: () => {},
    }
  }
}
