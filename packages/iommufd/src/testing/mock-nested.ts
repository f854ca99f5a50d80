/** Nested domains of the mock: four slots of a pretended IOTLB. */
import {
  type CacheInvalidateData,
  type CacheInvalidateResult,
  type IommuDevice,
  IommuError,
  type MemoryAccount,
  type NestedDomain,
  type PageFaultHandler,
} from "@iommu/core"
import { INVALIDATE_DATA_SELFTEST, INVALIDATE_FLAG_ALL, type SelftestInvalidate } from "./mock-abi.ts"
import { MockDomain } from "./mock-attach.ts"
import type { MockIommu } from "./mock-iommu.ts"
import type { MockPagingDomain } from "./mock-paging.ts"
import type { MockViommu } from "./mock-viommu.ts"

/** Slots of the pretended IOTLB. */
export const NESTED_IOTLB_SLOTS = 4
const NESTED_BYTES = 128

export class MockNestedDomain extends MockDomain implements NestedDomain {
  readonly type = "nested"
  readonly parent: MockPagingDomain
  readonly iotlb: number[]
  pageFaultHandler: PageFaultHandler | null = null
  readonly #viommu: MockViommu | null
  readonly #account: MemoryAccount

  /** @param fill what the slots hold at first @throws ENOMEM */
  constructor(
    ops: MockIommu,
    parent: MockPagingDomain,
    viommu: MockViommu | null,
    fill: number,
    account: MemoryAccount,
  ) {
    super(ops)
    account.chargeBytes(NESTED_BYTES)
    this.#account = account
    this.parent = parent
    this.#viommu = viommu
    this.iotlb = new Array<number>(NESTED_IOTLB_SLOTS).fill(fill)
    parent.children++
    if (viommu !== null) viommu.children++
  }

  cacheInvalidateUser(data: CacheInvalidateData): CacheInvalidateResult {
    if (data.type !== INVALIDATE_DATA_SELFTEST) {
      return { handled: 0, error: new IommuError("EINVAL", "the mock takes invalidations of type SELFTEST") }
    }
    return carryOut(data.entries, entry => this.#invalidate(entry))
  }

  checkAttach(device: IommuDevice): void {
    if (this.#viommu !== null && !this.#viommu.vdevices.has(device)) {
      throw new IommuError("ENOENT", "the device has no virtual device on the domain's vIOMMU")
    }
  }

  override viommuOf(): MockViommu | null {
    return this.#viommu
  }

  free(): void {
    if (this.attachments > 0) throw new IommuError("EBUSY", "a device or a PASID uses the domain")
    this.parent.children--
    if (this.#viommu !== null) this.#viommu.children--
    this.#account.unchargeBytes(NESTED_BYTES)
  }

  #invalidate(entry: Readonly<SelftestInvalidate>): void {
    if (entry.target !== "hwpt") throw new IommuError("EINVAL", "an entry for a vIOMMU")
    if ((entry.flags & ~INVALIDATE_FLAG_ALL) !== 0) throw new IommuError("EOPNOTSUPP", "unknown flags")
    if (entry.iotlbId >= NESTED_IOTLB_SLOTS) throw new IommuError("EINVAL", "there are four slots")
    if ((entry.flags & INVALIDATE_FLAG_ALL) !== 0) this.iotlb.fill(0)
    else this.iotlb[entry.iotlbId] = 0
  }
}

/** Requests one by one, up to the first that is refused. */
export function carryOut<Entry>(
  entries: readonly Entry[],
  run: (entry: Entry) => void,
): CacheInvalidateResult {
  let handled = 0
  try {
    for (const entry of entries) {
      run(entry)
      handled++
    }
    return { handled, error: null }
  } catch (error) {
    if (error instanceof IommuError) return { handled, error }
    throw error
  }
}
