import {
  type DomainUserData,
  type Invalidation,
  type IommuModel,
  isIommuError,
  type PhysicalMemory,
} from "@iommu/core"
import type { KernelCalls } from "./kernel/calls.ts"
import type { GuestEntry, NestedVendor } from "./vendor.ts"

/** Events that wait for the VMM at most. */
const EVENT_DEPTH = 64

/** A device as the VMM holds it. */
export interface PassedDevice {
  /** Descriptor of its VFIO file. */
  readonly fd: number
  /** The kernel's id of it. */
  readonly id: number
  /** The guest's number of it. */
  readonly virtualId: number
}

interface Slot {
  readonly device: PassedDevice
  /** Id of the nested page table that it is on. */
  nested: number | null
}

/** The kernel's vIOMMU behind the guest's, and the descriptor of its events. */
interface HostViommu {
  readonly id: number
  readonly events: { readonly id: number; readonly fd: number }
}

/**
 * The virtual IOMMU of a VMM: the model's registers and queue as the guest's front, and behind them nested page tables
 * of the kernel. Every command of the guest arrives here decoded, in its order.
 */
export class VirtualIommu {
  readonly front: IommuModel
  /** Commands that the kernel had to carry out. */
  commands = 0
  /** Events that were passed on to the guest. */
  events = 0
  readonly #vendor: NestedVendor
  readonly #calls: KernelCalls
  /** Id of the nest parent. */
  readonly #parent: number
  readonly #memory: PhysicalMemory
  readonly #host: HostViommu | null
  readonly #slots = new Map<number, Slot>()

  /** @param first the device whose IOMMU the kernel's vIOMMU belongs to */
  constructor(
    vendor: NestedVendor,
    calls: KernelCalls,
    parent: number,
    guestMemory: PhysicalMemory,
    first: PassedDevice,
  ) {
    this.#vendor = vendor
    this.#calls = calls
    this.#parent = parent
    this.#memory = guestMemory
    this.#host = hostViommu(vendor, calls, parent, first)
    this.front = vendor.guestModel(guestMemory)
    this.front.onInvalidate = command => this.#carryOut(command)
  }

  /** Gives a device to the guest; it is blocked until the guest's tables say otherwise. */
  plug(device: PassedDevice): void {
    if (this.#host !== null) this.#calls.vdeviceAlloc(this.#host.id, device.id, device.virtualId)
    this.#slots.set(device.virtualId, { device, nested: null })
    this.#refresh(device.virtualId)
  }

  /** Reads what the host's hardware reported of the guest's devices, and writes it into the guest's log. */
  passEventsOn(): void {
    if (this.#host === null || this.#vendor.viommu === null) return
    const { size, deliver } = this.#vendor.viommu.events
    const { events, lost } = this.#calls.readEvents(this.#host.events.fd, size)
    if (lost > 0) throw new Error(`${lost} events were lost between two looks at the queue`)
    for (const event of events) deliver(this.front, this.#memory, event)
    this.events += events.length
  }

  /** Takes all devices from the guest, and destroys what stood for its tables. */
  unplugAll(): void {
    for (const virtualId of this.#slots.keys()) this.#put(virtualId, { kind: "blocked" })
    this.#slots.clear()
  }

  /** Ends the kernel's vIOMMU; the devices are given back already. */
  destroy(): void {
    if (this.#host === null) return
    this.#calls.close(this.#host.events.fd)
    this.#calls.destroy(this.#host.events.id)
    this.#calls.destroy(this.#host.id)
  }

  #carryOut(command: Invalidation): void {
    const request = this.#vendor.guestCommand(command)
    switch (request.kind) {
      case "entry":
        this.commands++
        for (const virtualId of this.#slots.keys()) {
          if (request.device === "all" || request.device === virtualId) this.#refresh(virtualId)
        }
        return
      case "cache":
        this.commands++
        for (const target of this.#invalidationTargets()) this.#calls.hwptInvalidate(target, request.data)
        return
      case "none":
        return
    }
  }

  /** One vIOMMU, or each nested page table. */
  #invalidationTargets(): number[] {
    if (this.#host !== null) return [this.#host.id]
    return [...this.#slots.values()].flatMap(({ nested }) => (nested === null ? [] : [nested]))
  }

  #refresh(virtualId: number): void {
    this.#put(virtualId, this.#vendor.guestEntry(this.front.mmio, this.#memory, virtualId))
  }

  #put(virtualId: number, entry: GuestEntry): void {
    const slot = this.#slots.get(virtualId)
    if (slot === undefined) return
    const old = slot.nested
    slot.nested = entry.kind === "translated" ? this.#nest(slot.device, entry.data) : null
    if (entry.kind === "bypass") this.#calls.attach(slot.device.fd, this.#parent)
    if (entry.kind === "blocked") this.#calls.detach(slot.device.fd)
    if (old !== null) this.#calls.destroy(old)
  }

  #nest(device: PassedDevice, data: DomainUserData): number {
    const parentId = this.#host?.id ?? this.#parent
    const nested = this.#calls.hwptAlloc({ deviceId: device.id, parentId, flags: 0, data })
    try {
      this.#calls.attach(device.fd, nested)
    } catch (error) {
      if (isIommuError(error)) this.#calls.destroy(nested)
      throw error
    }
    return nested
  }
}

function hostViommu(
  vendor: NestedVendor,
  calls: KernelCalls,
  parent: number,
  first: PassedDevice,
): HostViommu | null {
  if (vendor.viommu === null) return null
  const id = calls.viommuAlloc(first.id, parent, vendor.viommu.type)
  return { id, events: calls.veventqAlloc(id, vendor.viommu.events.type, EVENT_DEPTH) }
}
