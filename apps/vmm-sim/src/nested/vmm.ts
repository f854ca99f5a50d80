import type { PhysicalMemory } from "@iommu/core"
import { HWPT_ALLOC_NEST_PARENT } from "@iommu/iommufd"
import { RAM_BLOCKS } from "./guest-ram.ts"
import type { KernelCalls } from "./kernel/calls.ts"
import type { NestedVendor } from "./vendor.ts"
import { type PassedDevice, VirtualIommu } from "./viommu.ts"

/** A device that the VMM has opened. */
export interface OpenDevice {
  /** Descriptor of its VFIO file. */
  readonly fd: number
  /** The number that the guest is to know it by. */
  readonly virtualId: number
}

/** A program that runs a guest: it has descriptors and its own memory, and reaches everything else by system calls. */
export class Vmm {
  readonly viommu: VirtualIommu
  readonly calls: KernelCalls
  readonly #iommufd: number
  readonly #devices: readonly PassedDevice[]
  readonly #ioas: number
  readonly #parent: number

  /** @param iommufd descriptor of the open /dev/iommu */
  constructor(
    vendor: NestedVendor,
    calls: KernelCalls,
    iommufd: number,
    opened: readonly OpenDevice[],
    guestMemory: PhysicalMemory,
  ) {
    this.calls = calls
    this.#iommufd = iommufd
    this.#devices = opened.map(({ fd, virtualId }) => ({ fd, virtualId, id: calls.bind(fd) }))
    const [first] = this.#devices
    if (first === undefined) throw new Error("a guest without devices needs no IOMMU")
    this.#ioas = calls.ioasAlloc()
    const flags = HWPT_ALLOC_NEST_PARENT
    this.#parent = calls.hwptAlloc({ deviceId: first.id, parentId: this.#ioas, flags, data: null })
    for (const { gpa } of RAM_BLOCKS) this.giveRam(gpa)
    this.viommu = new VirtualIommu(vendor, calls, this.#parent, guestMemory, first)
    for (const device of this.#devices) this.viommu.plug(device)
  }

  /** Lets devices reach the block of RAM at a guest-physical address. */
  giveRam(gpa: bigint): void {
    const { userVa, size } = blockAt(gpa)
    this.calls.ioasMap(this.#ioas, userVa, gpa, size)
  }

  /** Keeps devices off the block, as when the guest has given it back. */
  takeRam(gpa: bigint): void {
    this.calls.ioasUnmap(this.#ioas, gpa, blockAt(gpa).size)
  }

  /** Ends the guest. Afterwards nothing is left of it in the kernel. */
  shutDown(): void {
    this.viommu.unplugAll()
    for (const { fd } of this.#devices) this.calls.close(fd)
    this.viommu.destroy()
    this.calls.destroy(this.#parent)
    this.calls.destroy(this.#ioas)
    this.calls.close(this.#iommufd)
  }
}

function blockAt(gpa: bigint): (typeof RAM_BLOCKS)[number] {
  const block = RAM_BLOCKS.find(candidate => candidate.gpa === gpa)
  if (block === undefined) throw new Error(`no block of guest RAM begins at 0x${gpa.toString(16)}`)
  return block
}
