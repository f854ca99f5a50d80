/** Virtual IOMMUs of the mock: a device cache to invalidate, events, two hardware queues, one page to map. */
import {
  type CacheInvalidateData,
  type CacheInvalidateResult,
  type DomainUserData,
  type HwQueue,
  type HwQueueOps,
  type IommuDevice,
  IommuError,
  type MappablePages,
  type MemoryAccount,
  PAGE_SIZE,
  type Viommu,
  type ViommuEvent,
} from "@iommu/core"
import {
  HW_QUEUE_TYPE_SELFTEST,
  HWPT_DATA_SELFTEST,
  INVALIDATE_DATA_SELFTEST,
  INVALIDATE_FLAG_ALL,
  type SelftestInvalidate,
  VEVENT_SELFTEST,
  VEVENTQ_TYPE_SELFTEST,
  VIOMMU_SELFTEST,
  VIOMMU_TYPE_SELFTEST,
} from "./mock-abi.ts"
import { DEVICE_CACHE_SLOTS } from "./mock-device.ts"
import type { MockIommu } from "./mock-iommu.ts"
import { carryOut, MockNestedDomain } from "./mock-nested.ts"
import type { MockPagingDomain } from "./mock-paging.ts"

/** `IOMMU_TEST_HW_QUEUE_MAX`. */
const HW_QUEUES = 2
const VIOMMU_BYTES = 192
const PAGE_OF_REGISTERS = 0xfed0_0000n

interface MockHwQueue extends HwQueue {
  readonly address: bigint
  readonly length: bigint
}

export class MockViommu implements Viommu {
  readonly type: number = VIOMMU_TYPE_SELFTEST
  readonly parent: MockPagingDomain
  readonly mappable: readonly MappablePages[]
  readonly vdevices: Map<IommuDevice, bigint> = new Map()
  readonly queues: (MockHwQueue | undefined)[] = []
  readonly hwQueues: HwQueueOps
  /** Nested domains over it. */
  children = 0
  onEvent: ((event: ViommuEvent) => void) | null = null
  readonly #ops: MockIommu
  readonly #account: MemoryAccount
  readonly #inData: number

  /** @param data as userspace passed it, or nothing @throws ENOMEM */
  constructor(ops: MockIommu, parent: MockPagingDomain, data: Uint8Array, account: MemoryAccount) {
    account.chargeBytes(VIOMMU_BYTES)
    this.#ops = ops
    this.#account = account
    this.parent = parent
    this.#inData = data.length === 0 ? 0 : VIOMMU_SELFTEST.decode(data).inData
    this.mappable = data.length === 0 ? [] : [{ address: PAGE_OF_REGISTERS, length: BigInt(PAGE_SIZE) }]
    this.hwQueues = {
      serves: type => type === HW_QUEUE_TYPE_SELFTEST,
      alloc: (type, index, address, length) => this.#allocQueue(type, index, address, length),
    }
    parent.children++
  }

  outData([outMmapOffset = 0n]: readonly bigint[]): Uint8Array {
    const inData = this.#inData
    return VIOMMU_SELFTEST.encode({
      inData,
      outData: inData,
      outMmapOffset,
      outMmapLength: BigInt(PAGE_SIZE),
    })
  }

  domainAllocNested(device: IommuDevice, data: DomainUserData): MockNestedDomain {
    if (data.type !== HWPT_DATA_SELFTEST)
      throw new IommuError("EOPNOTSUPP", "nested domains take SELFTEST data")
    this.#ops.stateOf(device)
    return new MockNestedDomain(this.#ops, this.parent, this, data.iotlb, device.account)
  }

  cacheInvalidate(data: CacheInvalidateData): CacheInvalidateResult {
    if (data.type !== INVALIDATE_DATA_SELFTEST) {
      return { handled: 0, error: new IommuError("EINVAL", "the mock takes invalidations of type SELFTEST") }
    }
    return carryOut(data.entries, entry => this.#invalidate(entry))
  }

  vdeviceAlloc(device: IommuDevice, virtualId: bigint): void {
    this.vdevices.set(device, virtualId)
  }

  vdeviceFree(device: IommuDevice): void {
    this.vdevices.delete(device)
  }

  /** Sends the selftests' event: the guest's number of a device. @throws ENOENT without virtual device */
  raiseEvent(device: IommuDevice): void {
    const virtualId = this.vdevices.get(device)
    if (virtualId === undefined) throw new IommuError("ENOENT", "the device has no number on this vIOMMU")
    const data = VEVENT_SELFTEST.encode({ virtId: Number(BigInt.asUintN(32, virtualId)) })
    this.onEvent?.({ type: VEVENTQ_TYPE_SELFTEST, data })
  }

  free(): void {
    if (this.children > 0 || this.vdevices.size > 0) {
      throw new IommuError("EBUSY", "a nested domain or a virtual device uses the vIOMMU")
    }
    this.parent.children--
    this.#account.unchargeBytes(VIOMMU_BYTES)
  }

  #invalidate(entry: Readonly<SelftestInvalidate>): void {
    if (entry.target !== "viommu") throw new IommuError("EINVAL", "an entry for a nested domain")
    if ((entry.flags & ~INVALIDATE_FLAG_ALL) !== 0) throw new IommuError("EOPNOTSUPP", "unknown flags")
    if (entry.cacheId >= DEVICE_CACHE_SLOTS) throw new IommuError("EINVAL", "there are four slots")
    const found = [...this.vdevices].find(([, id]) => id === BigInt(entry.vdevId))
    if (found === undefined) throw new IommuError("EINVAL", "no device has this number")
    const { cache } = this.#ops.stateOf(found[0])
    if ((entry.flags & INVALIDATE_FLAG_ALL) !== 0) cache.fill(0)
    else cache[entry.cacheId] = 0
  }

  #allocQueue(_type: number, index: number, address: bigint, length: bigint): MockHwQueue {
    if (index >= HW_QUEUES) throw new IommuError("EINVAL", `a vIOMMU has ${HW_QUEUES} queues`)
    if (this.queues[index] !== undefined) throw new IommuError("EEXIST", `queue ${index} exists`)
    const previous = index === 0 ? null : this.queues[index - 1]
    if (previous === undefined) throw new IommuError("EIO", `queue ${index - 1} must come first`)
    const queue: MockHwQueue = {
      previous,
      address,
      length,
      free: () => {
        this.queues[index] = undefined
      },
    }
    this.queues[index] = queue
    return queue
  }
}
