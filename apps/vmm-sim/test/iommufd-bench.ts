/** A host with one vendor's IOMMU and iommufd, and a process that has two of its devices. */
import { amdDriver, amdModel } from "@iommu/amd"
import {
  type AtsModel,
  createMemory,
  type DomainUserData,
  type HardwareEvent,
  hi32,
  type IommuDevice,
  type IommuModel,
  type IommuOps,
  iommuDevice,
  isIommuError,
  lo32,
  MemoryAccount,
  PageAllocator,
  type PhysicalMemory,
} from "@iommu/core"
import {
  type BoundDevice,
  type HwptRequest,
  type Iommufd,
  MachineMemory,
  openIommufd,
  Process,
  UserMemory,
} from "@iommu/iommufd"
import { smmuv3Driver, smmuv3Model } from "@iommu/smmuv3"
import { vtdDriver, vtdModel } from "@iommu/vtd"

const MIB = 1n << 20n
/** The process's memory: 8 MiB at this user address, in physical memory from {@link RAM_HPA} on. */
export const USER_VA = 0x7f00_0000_0000n
export const RAM_HPA = 16n * MIB
const RAM_BYTES = 8n * MIB
/** Where the process shows its memory to devices, one to one with what a guest would call its addresses. */
export const GPA = 0x4000_0000n

type Model = IommuModel & AtsModel

/** `onEvent` of each driver collects what it keeps. */
const VENDORS = {
  vtd: (memory: PhysicalMemory, pages: PageAllocator, onEvent: (event: HardwareEvent) => void) => {
    const model = vtdModel({ memory, caches: "hoard" })
    return { model, ops: vtdDriver({ memory, pages, mmio: model.mmio }, { onEvent }) }
  },
  smmuv3: (memory: PhysicalMemory, pages: PageAllocator, onEvent: (event: HardwareEvent) => void) => {
    const model = smmuv3Model({ memory, caches: "hoard" })
    return { model, ops: smmuv3Driver({ memory, pages, mmio: model.mmio }, { onEvent }) }
  },
  amd: (memory: PhysicalMemory, pages: PageAllocator, onEvent: (event: HardwareEvent) => void) => {
    const model = amdModel({ memory, caches: "hoard" })
    return { model, ops: amdDriver({ memory, pages, mmio: model.mmio }, { onEvent, maxDeviceId: 0xff }) }
  },
} as const
export type VendorName = keyof typeof VENDORS
export const VENDOR_NAMES: readonly VendorName[] = ["vtd", "smmuv3", "amd"]

export class Bench {
  readonly memory: PhysicalMemory
  readonly model: Model
  readonly ops: IommuOps
  readonly process: Process
  readonly iommufd: Iommufd
  readonly hostEvents: HardwareEvent[] = []
  readonly ioas: number
  readonly devices: readonly [BoundDevice, BoundDevice]

  constructor(vendor: VendorName, more: { ats?: boolean; pasidBits?: number } = {}) {
    this.memory = createMemory([{ base: 0n, size: 32n * MIB }])
    const pages = new PageAllocator(this.memory, { base: 0n, size: RAM_HPA })
    const { model, ops } = VENDORS[vendor](this.memory, pages, event => this.hostEvents.push(event))
    this.model = model
    this.ops = ops
    const userMemory = new UserMemory(new MachineMemory(this.memory))
    userMemory.map(USER_VA, RAM_HPA, RAM_BYTES)
    this.process = new Process({
      name: "vmm",
      user: { name: "user", lockedPages: 0 },
      account: new MemoryAccount("vmm"),
      memory: userMemory,
    })
    this.iommufd = openIommufd(this.process)
    this.ioas = this.iommufd.ioasAlloc()
    this.devices = [this.bind(0x10, more), this.bind(0x11, more)]
  }

  bind(id: number, more: { ats?: boolean; pasidBits?: number } = {}): BoundDevice {
    const device: IommuDevice = iommuDevice({ id, account: new MemoryAccount("host"), ...more })
    this.ops.probeDevice(device)
    return this.iommufd.bindDevice({ ops: this.ops, device })
  }

  get device(): BoundDevice {
    return this.devices[0]
  }

  /** A nest parent that shows the process's memory from {@link GPA} on. */
  nestParent(): number {
    const parent = this.hwpt(this.ioas, null, 1)
    const placement = { ioasId: this.ioas, length: RAM_BYTES, iova: GPA, readable: true, writeable: true }
    this.iommufd.ioasMap({ ...placement, userVa: USER_VA })
    return parent
  }

  hwpt(parentId: number, data: DomainUserData | null, flags = 0, more: Partial<HwptRequest> = {}): number {
    const request = { deviceId: this.device.id, parentId, flags, ...(data === null ? {} : { data }), ...more }
    return this.iommufd.hwptAlloc(request)
  }

  /** 64-bit words into the process's memory, at an address as the guest would call it. */
  put(gpa: bigint, ...words: bigint[]): void {
    words.forEach((word, i) => {
      this.memory.write64(gpa - GPA + RAM_HPA + BigInt(8 * i), word)
    })
  }

  /** Where a read lands, or null when it is refused. */
  dma(iova: bigint, access = 1): bigint | null {
    const { id } = this.device.device
    if (this.model.translate(id, -1, hi32(iova), lo32(iova), access) !== 0) return null
    const { paHi, paLo } = this.model.result
    return (BigInt(paHi >>> 0) << 32n) | BigInt(paLo >>> 0)
  }
}

/** The errno of a call, or "ok". */
export function errnoOf(call: () => unknown): string {
  try {
    call()
    return "ok"
  } catch (error) {
    if (isIommuError(error)) return error.code
    throw error
  }
}
