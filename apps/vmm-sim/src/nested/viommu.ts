import {
  type DomainUserData,
  type Invalidation,
  type IommuDevice,
  type IommuModel,
  type IommuOps,
  iommuDomainFree,
  type NestedDomain,
  type PagingDomain,
  type PhysicalMemory,
} from "@iommu/core"
import type { GuestEntry, NestedVendor } from "./vendor.ts"

/**
 * The virtual IOMMU of a VMM: the model's registers and queue as the guest's front, and behind them nested domains
 * of the host's driver. Every command of the guest arrives here decoded, in its order.
 */
export class VirtualIommu {
  readonly front: IommuModel
  /** Commands that the host had to carry out. */
  commands = 0
  readonly #vendor: NestedVendor
  readonly #ops: IommuOps
  readonly #parent: PagingDomain
  readonly #memory: PhysicalMemory
  readonly #devices = new Map<number, { readonly device: IommuDevice; nested: NestedDomain | null }>()

  constructor(vendor: NestedVendor, ops: IommuOps, parent: PagingDomain, guestMemory: PhysicalMemory) {
    this.#vendor = vendor
    this.#ops = ops
    this.#parent = parent
    this.#memory = guestMemory
    this.front = vendor.guestModel(guestMemory)
    this.front.onInvalidate = command => this.#carryOut(command)
  }

  /** Gives a device to the guest; it is blocked until the guest's tables say otherwise. */
  plug(device: IommuDevice): void {
    this.#devices.set(device.virtualId, { device, nested: null })
    this.#refresh(device.virtualId)
  }

  /** Takes all devices from the guest and frees what stood for its tables. */
  unplugAll(): void {
    for (const [virtualId, { device }] of this.#devices) {
      this.#put(virtualId, { kind: "blocked" })
      this.#ops.blockedDomain.attachDev(device)
    }
    this.#devices.clear()
  }

  #carryOut(command: Invalidation): void {
    const request = this.#vendor.guestCommand(command)
    switch (request.kind) {
      case "entry":
        this.commands++
        for (const virtualId of this.#devices.keys()) {
          if (request.device === "all" || request.device === virtualId) this.#refresh(virtualId)
        }
        return
      case "cache":
        this.commands++
        for (const { nested } of this.#devices.values()) {
          const result = nested?.cacheInvalidateUser?.(request.data)
          if (result?.error) throw result.error
        }
        return
      case "none":
        return
    }
  }

  #refresh(virtualId: number): void {
    this.#put(virtualId, this.#vendor.guestEntry(this.front.mmio, this.#memory, virtualId))
  }

  #put(virtualId: number, entry: GuestEntry): void {
    const slot = this.#devices.get(virtualId)
    if (slot === undefined) return
    const old = slot.nested
    slot.nested = entry.kind === "translated" ? this.#nest(slot.device, entry.data) : null
    if (entry.kind === "bypass") this.#parent.attachDev(slot.device)
    if (entry.kind === "blocked") this.#ops.blockedDomain.attachDev(slot.device)
    if (old) iommuDomainFree(old)
  }

  #nest(device: IommuDevice, data: DomainUserData): NestedDomain {
    if (this.#ops.domainAllocUser === undefined)
      throw new Error("the host's driver makes no user-owned domains")
    const nested = this.#ops.domainAllocUser(device, this.#parent, data)
    nested.attachDev(device)
    return nested
  }
}
