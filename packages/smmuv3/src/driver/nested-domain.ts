/** A guest's stage 1 over a stage 2 that the driver builds, and the virtual SMMU that a guest's devices are on. */
import {
  type CacheInvalidateData,
  type CacheInvalidateResult,
  type DomainUserData,
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
import * as ste from "../spec/device-table.ts"
import { type Attachment, attachRid, detachRid } from "./attach.ts"
import { ABORT_STE, type Entry } from "./device-table.ts"
import { guestEvent } from "./events.ts"
import { carryOutGuestCommands, type GuestIds } from "./guest-commands.ts"
import type { SmmuV3Driver } from "./ops.ts"
import { type SmmuPagingDomain, stage2Ste } from "./paging-domain.ts"
import type { NestedPlan } from "./user-data.ts"

const NO_ATTACHMENTS: readonly Attachment[] = Object.freeze([])
/** Of a StreamID, at most; §3.2. */
const STREAM_ID_BITS = 32

export class SmmuNestedDomain implements NestedDomain {
  readonly ops: SmmuV3Driver
  readonly parent: SmmuPagingDomain
  readonly plan: NestedPlan
  /** The virtual SMMU that it was made on; null when it was made on the parent alone. */
  readonly viommu: SmmuViommu | null
  /** Who is on the domain. Replaced on change, never mutated. */
  attachments: readonly Attachment[] = NO_ATTACHMENTS
  freed = false
  /** Only on domains made on the parent alone: on a virtual SMMU, invalidation is that one's. */
  declare readonly cacheInvalidateUser?: (data: CacheInvalidateData) => CacheInvalidateResult

  constructor(ops: SmmuV3Driver, parent: SmmuPagingDomain, plan: NestedPlan, viommu: SmmuViommu | null) {
    this.ops = ops
    this.parent = parent
    this.plan = plan
    this.viommu = viommu
    if (viommu === null) this.cacheInvalidateUser = data => this.#invalidate(data)
    parent.children = [...parent.children, this]
  }

  get type(): "nested" {
    return "nested"
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

  free(): void {
    if (this.freed) throw new IommuError("EINVAL", "the domain is freed already")
    if (this.attachments.length > 0) throw new IommuError("EBUSY", "a device is on the domain")
    this.parent.children = this.parent.children.filter(child => child !== this)
    this.ops.pageRequests.handlers.forget(this)
    this.freed = true
  }

  /**
   * On a virtual SMMU, a stage 1 of the guest needs a StreamID of the guest: its commands and events carry it.
   * @throws EINVAL, ENOENT
   */
  checkAttachable(device: IommuDevice): void {
    if (this.freed) throw new IommuError("EINVAL", "the domain was freed")
    if (this.plan.config !== "stage1" || this.viommu === null) return
    if (this.viommu.devices.idOf(device) === null) {
      throw new IommuError("ENOENT", `${device.name} has no StreamID on the virtual SMMU of the domain`)
    }
  }

  /** The STE of a device on this domain; PASIDs are in the guest's CD table. */
  ste(ats: boolean): Entry {
    const { features } = this.ops.hardware
    const { config, word0, word1 } = this.plan
    if (config === "abort") return ABORT_STE
    const stage2 = stage2Ste(features, this.parent.stage2Root, ats)
    return config === "bypass" ? stage2 : nestedSte(stage2, word0, word1)
  }

  /** StreamIDs are looked up among the devices on the parent and on all nested domains over it. */
  #invalidate(data: CacheInvalidateData): CacheInvalidateResult {
    const guest: GuestIds = {
      vmid: this.parent.tag,
      streamIdOf: virtualId => this.#hostStreamId(virtualId),
    }
    return carryOutGuestCommands(this.ops.hardware.queue, guest, data)
  }

  #hostStreamId(virtualId: number): number {
    for (const domain of [this.parent, ...this.parent.children]) {
      for (const { state } of domain.attachments) {
        if (state.device.virtualId === virtualId) return state.device.id
      }
    }
    throw noSuchStream(virtualId)
  }
}

/**
 * The parent's STE with the guest's fields of stage 1. Events may be merged (MEV), so that a guest cannot flood the
 * Event queue.
 */
export function nestedSte(stage2: Entry, word0: bigint, word1: bigint): Entry {
  const config = (BigInt(ste.CONFIG_NESTED) << BigInt(ste.CONFIG_SHIFT)) | BigInt(ste.V)
  return stage2.with(0, word0 | config).with(1, (stage2[1] as bigint) | word1 | BigInt(ste.MEV))
}

/** A guest's SMMU: Linux's `struct arm_vsmmu`. Its VMID is the parent's, whoever else stands on that. */
export class SmmuViommu implements Viommu, GuestIds {
  readonly type: number = ViommuType.ARM_SMMUV3
  readonly parent: SmmuPagingDomain
  onEvent: ((event: ViommuEvent) => void) | null = null
  /** The guest's, by its StreamIDs. */
  readonly devices: VirtualDevices = new VirtualDevices("StreamID", STREAM_ID_BITS)
  readonly #driver: SmmuV3Driver

  constructor(driver: SmmuV3Driver, parent: SmmuPagingDomain) {
    this.#driver = driver
    this.parent = parent
    driver.viommus.add(this)
  }

  get vmid(): number {
    return this.parent.tag
  }

  domainAllocNested(device: IommuDevice, data: DomainUserData, flags = 0): SmmuNestedDomain {
    this.#checkAlive()
    if (flags !== 0)
      throw new IommuError("EOPNOTSUPP", "a guest's CD table has the PASIDs of the whole stream")
    return this.#driver.allocNested(device, this.parent, data, this)
  }

  cacheInvalidate(data: CacheInvalidateData): CacheInvalidateResult {
    if (!this.#isAlive) return { handled: 0, error: freedViommu() }
    return carryOutGuestCommands(this.#driver.hardware.queue, this, data)
  }

  vdeviceAlloc(device: IommuDevice, virtualId: bigint): void {
    this.#checkAlive()
    this.#driver.stateOf(device)
    this.devices.add(device, virtualId)
  }

  vdeviceFree(device: IommuDevice): void {
    this.devices.remove(device)
  }

  streamIdOf(virtualId: number): number {
    const device = this.devices.at(virtualId)
    if (device === null) throw noSuchStream(virtualId)
    return device.id
  }

  /**
   * Passes an event of one of the guest's devices on, as the guest's hardware would have written it.
   * @returns false when nobody is there to take it
   */
  report(device: IommuDevice, words: readonly bigint[]): boolean {
    const virtualId = this.devices.idOf(device)
    if (this.onEvent === null || virtualId === null) return false
    this.onEvent({ type: VeventqType.ARM_SMMUV3, data: guestEvent(words, virtualId) })
    return true
  }

  free(): void {
    this.#checkAlive()
    if (!this.devices.isEmpty || this.parent.children.some(child => child.viommu === this)) {
      throw new IommuError("EBUSY", "a nested domain or a device is on the virtual SMMU")
    }
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
  return new IommuError("EINVAL", "the virtual SMMU is freed")
}

function noSuchStream(virtualId: number): IommuError {
  return new IommuError("EIO", `no device of this guest has StreamID 0x${virtualId.toString(16)}`)
}
