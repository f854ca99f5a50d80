/**
 * A guest's device table entry over a nest parent: guest (v2) tables that the guest owns, host (v1) tables below;
 * and the virtual IOMMU that a guest's devices are on. AMD 48882 rev 3.10, §2.2.2.1 (entry), §2.2.6 (guest tables).
 */
import {
  type CacheInvalidateData,
  type CacheInvalidateResult,
  type DomainUserData,
  type IdPool,
  type IommuDevice,
  IommuError,
  type NestedDomain,
  type PageFaultHandler,
  VeventqType,
  type Viommu,
  type ViommuEvent,
  ViommuType,
  VirtualDevices,
} from "@iommu/core"
import { DEVICE_ID_BITS, DTE, GV } from "../spec/device-table.ts"
import { type Attachment, attachRid, detachRid, NO_ATTACHMENTS } from "./attach.ts"
import { type Entry, hostFields } from "./device-table.ts"
import { guestEvent } from "./events.ts"
import { carryOutGuestCommands, type GuestIds } from "./guest-commands.ts"
import { nestedIotlb } from "./invalidate.ts"
import type { AmdDriver } from "./ops.ts"
import type { AmdPagingDomain } from "./paging-domain.ts"
import type { NestedPlan } from "./user-data.ts"

/** One DomainID of the guest, and the host's that stands for it. */
interface GuestDomain {
  readonly id: number
  /** Nested domains that name it. */
  domains: number
  /** Devices on those. */
  attached: number
}

/**
 * What one guest has on a nest parent. It tags its cached translations with (DomainID, PASID) of its own choice;
 * each of its DomainIDs gets one of the host's, so that two guests, or a guest and the host, never share a tag.
 */
export class GuestDomains implements GuestIds {
  /** The guest's virtual IOMMU; null for domains made on the parent alone. */
  readonly viommu: AmdViommu | null
  readonly #byGuestId = new Map<number, GuestDomain>()
  readonly #domains = new Set<AmdNestedDomain>()
  readonly #ids: IdPool

  constructor(ids: IdPool, viommu: AmdViommu | null) {
    this.#ids = ids
    this.viommu = viommu
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

  hostId(gDomID: number): number | null {
    return this.#byGuestId.get(gDomID)?.id ?? null
  }

  attachedIds(): number[] {
    return [...this.#byGuestId.values()].filter(guest => guest.attached > 0).map(guest => guest.id)
  }

  domains(): Iterable<AmdNestedDomain> {
    return this.#domains
  }

  devices(): IommuDevice[] {
    return [...this.#domains].flatMap(domain => domain.attachments.map(({ state }) => state.device))
  }

  /**
   * Without a virtual IOMMU a device has the number that it brings along.
   * @throws EIO
   */
  devicesNamed(virtualId: number): IommuDevice[] {
    const { viommu } = this
    const named =
      viommu === null
        ? this.devices().filter(device => device.virtualId === virtualId)
        : [viommu.devices.at(virtualId)].filter(device => device !== null)
    if (named.length === 0) throw noSuchDevice(virtualId)
    return named
  }
}

export class AmdNestedDomain implements NestedDomain {
  readonly parent: AmdPagingDomain
  readonly plan: NestedPlan
  readonly guestDomain: GuestDomain
  attachments: readonly Attachment[] = NO_ATTACHMENTS
  isFreed = false
  /** Only on domains made on the parent alone: on a virtual IOMMU, invalidation is that one's. */
  declare readonly cacheInvalidateUser?: (data: CacheInvalidateData) => CacheInvalidateResult
  readonly #guest: GuestDomains

  /** @throws ENOSPC */
  constructor(parent: AmdPagingDomain, plan: NestedPlan, guest: GuestDomains) {
    this.parent = parent
    this.plan = plan
    this.#guest = guest
    this.guestDomain = guest.add(this)
    if (guest.viommu === null) this.cacheInvalidateUser = data => this.#invalidate(data)
  }

  get type(): "nested" {
    return "nested"
  }

  get ops(): AmdDriver {
    return this.parent.ops
  }

  /** The virtual IOMMU that it was made on; null when it was made on the parent alone. */
  get viommu(): AmdViommu | null {
    return this.#guest.viommu
  }

  get pageFaultHandler(): PageFaultHandler | null | undefined {
    return this.ops.pageRequests.handlers.of(this)
  }

  set pageFaultHandler(handler: PageFaultHandler | null | undefined) {
    this.ops.pageRequests.handlers.set(this, handler ?? null)
  }

  attachDev(device: IommuDevice): void {
    attachRid(this.ops, device, this)
  }

  detachDev(device: IommuDevice): void {
    detachRid(this.ops, device, this)
  }

  /**
   * On a virtual IOMMU, guest tables need a DeviceID of the guest: its commands and events carry it.
   * @throws EINVAL, ENOENT
   */
  checkAttachable(device: IommuDevice): void {
    if (this.isFreed) throw new IommuError("EINVAL", "the domain has been freed")
    const translates = (this.plan.word0 & (BigInt(GV) << 32n)) !== 0n
    if (translates && this.viommu !== null && this.viommu.devices.idOf(device) === null) {
      throw new IommuError("ENOENT", `${device.name} has no DeviceID on the virtual IOMMU of the domain`)
    }
  }

  free(): void {
    if (this.isFreed) throw new IommuError("EINVAL", "the domain has been freed")
    if (this.attachments.length > 0) throw new IommuError("EBUSY", "a device is on the domain")
    this.isFreed = true
    this.ops.pageRequests.handlers.forget(this)
    this.#guest.remove(this)
  }

  #invalidate(data: CacheInvalidateData): CacheInvalidateResult {
    if (this.isFreed) return { handled: 0, error: new IommuError("EINVAL", "the domain has been freed") }
    return carryOutGuestCommands(this.ops.hardware.queue, this.#guest, data)
  }
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

/** A guest's IOMMU, with the numbers that the guest knows its devices by. */
export class AmdViommu implements Viommu {
  readonly type: number = ViommuType.AMD
  readonly parent: AmdPagingDomain
  onEvent: ((event: ViommuEvent) => void) | null = null
  /** The guest's, by its DeviceIDs. */
  readonly devices: VirtualDevices = new VirtualDevices("DeviceID", DEVICE_ID_BITS)
  readonly #driver: AmdDriver
  readonly #guest: GuestDomains

  constructor(driver: AmdDriver, parent: AmdPagingDomain) {
    this.#driver = driver
    this.parent = parent
    this.#guest = new GuestDomains(driver.hardware.domainIds, this)
    parent.guests = [...(parent.guests ?? []), this.#guest]
    driver.viommus.add(this)
  }

  /** Linux does not look at the flags; a guest's GCR3 table has all PASIDs, so that none can be the host's. */
  domainAllocNested(device: IommuDevice, data: DomainUserData, flags = 0): AmdNestedDomain {
    this.#checkAlive()
    if (flags !== 0) throw new IommuError("EOPNOTSUPP", "a guest's GCR3 table has all PASIDs of the device")
    return this.#driver.allocNested(device, this.parent, data, this.#guest)
  }

  cacheInvalidate(data: CacheInvalidateData): CacheInvalidateResult {
    if (!this.#isAlive) return { handled: 0, error: freedViommu() }
    return carryOutGuestCommands(this.#driver.hardware.queue, this.#guest, data)
  }

  vdeviceAlloc(device: IommuDevice, virtualId: bigint): void {
    this.#checkAlive()
    this.#driver.stateOf(device)
    this.devices.add(device, virtualId)
  }

  vdeviceFree(device: IommuDevice): void {
    this.devices.remove(device)
  }

  /**
   * Passes an event of one of the guest's devices on, as the guest's hardware would have written it.
   * @returns false when nobody is there to take it
   */
  report(device: IommuDevice, gDomID: number, words: readonly bigint[]): boolean {
    const virtualId = this.devices.idOf(device)
    if (this.onEvent === null || virtualId === null) return false
    this.onEvent({ type: VeventqType.AMD, data: guestEvent(words, virtualId, gDomID) })
    return true
  }

  free(): void {
    this.#checkAlive()
    if (!this.devices.isEmpty || this.#guest.isInUse) {
      throw new IommuError("EBUSY", "a nested domain or a device is on the virtual IOMMU")
    }
    this.parent.guests = this.parent.guests?.filter(guest => guest !== this.#guest) ?? []
    this.#driver.viommus.delete(this)
  }

  get #isAlive(): boolean {
    return this.#driver.viommus.has(this)
  }

  #checkAlive(): void {
    if (!this.#isAlive) throw freedViommu()
  }
}

function freedViommu(): IommuError {
  return new IommuError("EINVAL", "the virtual IOMMU has been freed")
}

function noSuchDevice(virtualId: number): IommuError {
  return new IommuError("EIO", `the guest has no device 0x${virtualId.toString(16)}`)
}
