/**
 * A guest's device table entry over a nest parent: guest (v2) tables that the guest owns, host (v1) tables below.
 * AMD 48882 rev 3.10, §2.2.2.1 (entry), §2.2.6 (guest tables), §2.4 (commands).
 */
import {
  type AmdGuestInvalidate,
  type CacheInvalidateData,
  type CacheInvalidateResult,
  HwptInvalidateDataType,
  type IdPool,
  type IommuDevice,
  IommuError,
  isIommuError,
  type NestedDomain,
} from "@iommu/core"
import { INVALIDATE_IOMMU_PAGES, OPCODE } from "../spec/commands.ts"
import { DTE } from "../spec/device-table.ts"
import { type Attachment, attachRid, detachRid, NO_ATTACHMENTS } from "./attach.ts"
import { type Entry, hostFields } from "./device-table.ts"
import {
  ALL,
  HOST_TABLES,
  nestedIotlb,
  pushDevtabEntry,
  pushIotlb,
  pushIotlbBlock,
  pushPages,
} from "./invalidate.ts"
import type { AmdDriver } from "./ops.ts"
import type { AmdPagingDomain } from "./paging-domain.ts"
import { type GuestCommand, guestCommand, type NestedPlan } from "./user-data.ts"

/** One DomainID of the guest, and the host's that stands for it. */
interface GuestDomain {
  readonly id: number
  /** Nested domains that name it. */
  domains: number
  /** Devices on those. */
  attached: number
}

/**
 * What stands on one nest parent. The guest tags its cached translations with (DomainID, PASID) of its own choice;
 * each of its DomainIDs gets one of the host's, so that two guests, or a guest and the host, never share a tag.
 */
export class GuestDomains {
  readonly #byGuestId = new Map<number, GuestDomain>()
  readonly #domains = new Set<AmdNestedDomain>()
  readonly #ids: IdPool

  constructor(ids: IdPool) {
    this.#ids = ids
  }

  get isInUse(): boolean {
    return this.#domains.size > 0
  }

  get isAttached(): boolean {
    return this.attachedIds().length > 0
  }

  /** @throws ENOSPC */
  add(domain: AmdNestedDomain): GuestDomain {
    const { gDomID } = domain.plan
    const known = this.#byGuestId.get(gDomID)
    const guest = known ?? { id: this.#ids.take(), domains: 0, attached: 0 }
    guest.domains++
    this.#byGuestId.set(gDomID, guest)
    this.#domains.add(domain)
    return guest
  }

  remove(domain: AmdNestedDomain): void {
    this.#domains.delete(domain)
    const guest = domain.guestDomain
    guest.domains--
    if (guest.domains > 0) return
    this.#byGuestId.delete(domain.plan.gDomID)
    this.#ids.give(guest.id)
  }

  /** The host's DomainID for one of the guest's, or null for one that no nested domain names. */
  hostId(gDomID: number): number | null {
    return this.#byGuestId.get(gDomID)?.id ?? null
  }

  /** Host DomainIDs that device table entries name now. */
  attachedIds(): number[] {
    return [...this.#byGuestId.values()].filter(guest => guest.attached > 0).map(guest => guest.id)
  }

  domains(): Iterable<AmdNestedDomain> {
    return this.#domains
  }

  /** Devices on any of the domains. */
  devices(): IommuDevice[] {
    return [...this.#domains].flatMap(domain => domain.attachments.map(({ state }) => state.device))
  }

  /** @throws EIO when the guest has no device of that number on one of the domains */
  devicesNamed(virtualId: number): IommuDevice[] {
    const named = this.devices().filter(device => device.virtualId === virtualId)
    if (named.length === 0) {
      throw new IommuError("EIO", `the guest has no device 0x${virtualId.toString(16)} attached`)
    }
    return named
  }
}

export class AmdNestedDomain implements NestedDomain {
  readonly parent: AmdPagingDomain
  readonly plan: NestedPlan
  readonly guestDomain: GuestDomain
  attachments: readonly Attachment[] = NO_ATTACHMENTS
  isFreed = false

  /** @throws ENOSPC */
  constructor(parent: AmdPagingDomain, plan: NestedPlan) {
    this.parent = parent
    this.plan = plan
    parent.guests ??= new GuestDomains(parent.ops.hardware.domainIds)
    this.guestDomain = parent.guests.add(this)
  }

  get type(): "nested" {
    return "nested"
  }

  get ops(): AmdDriver {
    return this.parent.ops
  }

  attachDev(device: IommuDevice): void {
    attachRid(this.ops, device, this)
  }

  detachDev(device: IommuDevice): void {
    detachRid(this.ops, device, this)
  }

  cacheInvalidateUser(data: CacheInvalidateData): CacheInvalidateResult {
    if (this.isFreed || data.type !== HwptInvalidateDataType.AMD_GUEST) {
      const rule = this.isFreed ? "the domain has been freed" : "AMD-Vi takes raw commands of the guest"
      return { handled: 0, error: new IommuError("EINVAL", rule) }
    }
    let handled = 0
    try {
      for (const entry of data.entries) {
        const request = this.#understand(entry)
        if (isIommuError(request)) return this.#finish(handled, request)
        this.#push(request)
        handled++
      }
      return this.#finish(handled, null)
    } catch (failure) {
      if (!isIommuError(failure)) throw failure
      return { handled: 0, error: failure }
    }
  }

  free(): void {
    if (this.isFreed) throw new IommuError("EINVAL", "the domain has been freed")
    if (this.attachments.length > 0) throw new IommuError("EBUSY", "a device is on the domain")
    this.isFreed = true
    this.#guests.remove(this)
  }

  get #guests(): GuestDomains {
    const { guests } = this.parent
    if (!guests) throw new Error("bug: a nested domain that its parent does not know")
    return guests
  }

  #understand(entry: Readonly<AmdGuestInvalidate>): GuestRequest | IommuError {
    try {
      const command = guestCommand(entry)
      const named = command.kind === "iotlb" || command.kind === "devtab"
      const devices = named ? this.#guests.devicesNamed(command.virtualId) : this.#guests.devices()
      return { command, devices }
    } catch (error) {
      if (isIommuError(error)) return error
      throw error
    }
  }

  #finish(handled: number, error: IommuError | null): CacheInvalidateResult {
    if (handled > 0) this.ops.hardware.queue.sync()
    return { handled, error }
  }

  #push({ command, devices }: GuestRequest): void {
    const { queue } = this.ops.hardware
    switch (command.kind) {
      case "pages": {
        const id = this.#guests.hostId(command.gDomID)
        // Nothing can be cached under a DomainID that no entry of the guest names.
        if (id === null) return
        const Opcode = BigInt(OPCODE.INVALIDATE_IOMMU_PAGES)
        queue.push(INVALIDATE_IOMMU_PAGES.encode({ ...command.fields, DomainID: BigInt(id), Opcode }))
        return
      }
      case "iotlb":
        for (const device of devices.filter(nestedIotlb)) {
          pushIotlbBlock(queue, device.id, command.pasid, command.Address, command.S)
        }
        return
      case "devtab":
        for (const device of devices) pushDevtabEntry(queue, device.id)
        return
      case "all":
        for (const id of this.#guests.attachedIds()) pushPages(queue, id, HOST_TABLES, ALL)
        for (const device of devices) {
          pushDevtabEntry(queue, device.id)
          if (nestedIotlb(device)) pushIotlb(queue, device.id, HOST_TABLES, ALL)
        }
    }
  }
}

/** A guest's command, and the host's devices that it is about. */
interface GuestRequest {
  readonly command: GuestCommand
  readonly devices: readonly IommuDevice[]
}

/** The host's entry for a device on a guest's: tables, tags and IOTLB are the host's in any case. */
export function nestedEntry(domain: AmdNestedDomain, device: IommuDevice): Entry {
  const { plan, parent, guestDomain } = domain
  const host = DTE.encode({
    V: 1n,
    TV: 1n,
    ...hostFields(parent.hostTables),
    DomainID: BigInt(guestDomain.id),
    I: nestedIotlb(device) ? 1n : 0n,
  })
  return [host[0] | plan.word0, host[1] | plan.word1, host[2] | plan.word2, host[3]]
}
