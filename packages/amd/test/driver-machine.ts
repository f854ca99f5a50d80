/** A host with the model as its hardware and the driver on top. Expected bits are typed as in the book. */
import { type AmdModel, type AmdModelOptions, type AmdOps, amdDriver, amdModel } from "@iommu/amd"
import { errnoOf, invalidationsDuring, statesDuring } from "@iommu/conformance"
import {
  createMemory,
  type DomainUserData,
  type ErrnoCode,
  type HardwareEvent,
  type HwptAmdGuest,
  type HwptPaging,
  type Invalidation,
  type IommuDevice,
  iommuDevice,
  MemoryAccount,
  type NestedDomain,
  NO_PASID,
  PageAllocator,
  type PagingDomain,
  type PhysicalMemory,
  pagingParameters,
  translateRequest,
} from "@iommu/core"
import { expect } from "vitest"

const MEMORY_BYTES = 0x400_0000
const PAGES_BASE = 0x200_0000
const MAX_DEVICE_ID = 0xff

export class Host {
  readonly memory: PhysicalMemory
  readonly pages: PageAllocator
  readonly model: AmdModel
  readonly ops: AmdOps
  readonly account: MemoryAccount = new MemoryAccount("owner")
  /** Records that no guest took. */
  readonly events: HardwareEvent[] = []

  constructor(options: Omit<AmdModelOptions, "memory"> = {}) {
    this.memory = createMemory([{ base: 0, size: MEMORY_BYTES }])
    this.pages = new PageAllocator(this.memory, { base: PAGES_BASE, size: MEMORY_BYTES - PAGES_BASE })
    this.model = amdModel({ memory: this.memory, caches: "hoard", ...options })
    const { memory, pages } = this
    this.ops = amdDriver(
      { memory, mmio: this.model.mmio, pages },
      { maxDeviceId: MAX_DEVICE_ID, pollLimit: 100, onEvent: event => this.events.push(event) },
    )
  }

  device(id: number, more: { pasidBits?: number; ats?: boolean; virtualId?: number } = {}): IommuDevice {
    const device = iommuDevice({ id, account: this.account, ...more })
    this.ops.probeDevice(device)
    return device
  }

  alloc(device: IommuDevice, data: DomainUserData | null = null): PagingDomain {
    return this.ops.domainAllocUser(device, null, data)
  }

  paging(device: IommuDevice, given: Partial<HwptPaging> = {}): PagingDomain {
    return this.alloc(device, pagingParameters(given))
  }

  nested(device: IommuDevice, parent: PagingDomain, dte: HwptAmdGuest["dte"]): NestedDomain {
    return this.ops.domainAllocUser(device, parent, { type: 3, dte })
  }

  /** Where an access lands, null when it is refused. */
  dma(device: IommuDevice, iova: bigint, access = 1, pasid: number = NO_PASID): bigint | null {
    const outcome = translateRequest(this.model, { device: device.id, iova, pasid, access })
    return outcome.ok ? outcome.pa : null
  }

  /** The device table entry in memory, found by the register. */
  entry(device: IommuDevice): bigint[] {
    const at = this.#entryAt(device)
    return [0n, 8n, 16n, 24n].map(word => this.memory.read64(at + word))
  }

  /** Commands other than COMPLETION_WAIT that a call makes the hardware carry out. */
  commands(call: () => void): Invalidation[] {
    return invalidationsDuring(this.model, call)
  }

  /** Values that the entry of a device takes while a call runs, at each 64-bit store into it. */
  entryStates(device: IommuDevice, call: () => void): bigint[][] {
    return statesDuring(this.memory, this.#entryAt(device), 4, call)
  }

  #entryAt(device: IommuDevice): bigint {
    return (this.model.mmio.read64(0) & 0x000f_ffff_ffff_f000n) + BigInt(device.id) * 32n
  }
}

export function expectErrno(code: ErrnoCode, call: () => unknown): void {
  expect(errnoOf(call)).toBe(code)
}

/** Bits of the entry, as §2.2.2.1 numbers them. */
export const DTE_V: bigint = 1n << 0n
export const DTE_TV: bigint = 1n << 1n
export const DTE_GIOV: bigint = 1n << 54n
export const DTE_GV: bigint = 1n << 55n
export const DTE_IRW: bigint = 3n << 61n
export const DTE_I: bigint = 1n << 32n

/** A guest's entry: V, TV, GV, GIOV, IR, IW and a one-level GCR3 table. */
export function guestDte(gcr3: bigint, gDomID: bigint, word0 = 0n): HwptAmdGuest["dte"] {
  return [
    DTE_V | DTE_TV | DTE_GV | DTE_GIOV | DTE_IRW | (((gcr3 >> 12n) & 7n) << 58n) | word0,
    gDomID | (((gcr3 >> 15n) & 0xffffn) << 16n) | (((gcr3 >> 31n) & 0x1f_ffffn) << 43n),
    0n,
    0n,
  ]
}
