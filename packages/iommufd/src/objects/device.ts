/** A device whose DMA belongs to an iommufd: Linux's `struct iommufd_device`. Made by whoever drives it: VFIO, a test. */
import { type IommuDevice, IommuError, type IommuOps, type MemoryAccount, NO_PASID } from "@iommu/core"
import { attachTo, detach, replaceWith } from "./attach.ts"
import { groupOf, type IommuGroup } from "./group.ts"
import { beginReset, endReset } from "./group-domain.ts"
import { pagingOf } from "./hwpt.ts"
import type { IommufdContext } from "./iommufd-context.ts"
import { type Identity, KernelObject, type ObjectState } from "./object.ts"
import type { VdeviceObject } from "./vdevice.ts"

export interface BindRequest {
  readonly ops: IommuOps
  /** Probed by {@link ops}. */
  readonly device: IommuDevice
  /** Left out: the device is a group of its own. */
  readonly group?: IommuGroup
  /** An SR-IOV virtual function whose page requests go through its physical function. */
  readonly sharesPageRequests?: boolean
}

export class BoundDevice extends KernelObject {
  readonly kind = "device"
  readonly context: IommufdContext
  readonly ops: IommuOps
  readonly device: IommuDevice
  readonly group: IommuGroup
  readonly sharesPageRequests: boolean
  /** Its page tables must make all DMA coherent. */
  readonly enforcesCoherency: boolean
  vdevice: VdeviceObject | null = null
  readonly #previousAccount: MemoryAccount

  /** @throws EBUSY when an iommufd has the device already; EPERM when its group belongs to another owner */
  constructor(identity: Identity, context: IommufdContext, request: BindRequest) {
    super(identity)
    const { ops, device } = request
    this.context = context
    this.ops = ops
    this.device = device
    this.group = request.group ?? groupOf(ops, device)
    this.sharesPageRequests = request.sharesPageRequests ?? false
    this.enforcesCoherency = ops.capable(device, "ENFORCE_CACHE_COHERENCY")
    if (!this.group.members.includes(device) || this.group.ops !== ops) {
      throw new IommuError("ENODEV", `${device.name} is no member of group "${this.group.name}"`)
    }
    if (context.devices.has(device)) throw new IommuError("EBUSY", `${device.name} is bound already`)
    this.group.claim(context)
    this.#previousAccount = device.account
    device.account = identity.account
    context.devices.set(device, this)
    context.hold()
    // Only whoever bound it lets it go.
    this.users = 1
  }

  /** PASIDs that device and IOMMU both have, log2. */
  get pasidBits(): number {
    return Math.min(this.device.pasidBits, this.ops.capabilities.pasidBits)
  }

  /**
   * Puts the device on a page table, or on one of an address space.
   * @param ptId of a hwpt or an IOAS
   * @returns id of the hwpt that is used
   * @throws ENOENT, EINVAL, EBUSY when it is attached already, EADDRINUSE for reserved regions in use, and what the driver throws
   */
  attach(ptId: number): number {
    return attachTo(this, NO_PASID, ptId)
  }

  /** As {@link attach}, in place of what it is on, in one step. @throws EINVAL when it is on nothing */
  replace(ptId: number): number {
    return replaceWith(this, NO_PASID, ptId)
  }

  /** Takes the device off; its DMA is blocked afterwards. */
  detach(): void {
    detach(this, NO_PASID)
  }

  attachPasid(pasid: number, ptId: number): number {
    return attachTo(this, checkPasid(pasid), ptId)
  }

  replacePasid(pasid: number, ptId: number): number {
    return replaceWith(this, checkPasid(pasid), ptId)
  }

  detachPasid(pasid: number): void {
    detach(this, checkPasid(pasid))
  }

  /**
   * Makes an interrupt controller's doorbell reachable for the device: Linux's `iommufd_sw_msi`.
   * @param address physical address of the doorbell
   * @returns what the device writes to; a guest's stage 1 must map it one to one
   * @throws ENODEV while the device is on no page table, or has no window for software MSIs; EOVERFLOW
   */
  mapDoorbell(address: bigint): bigint {
    const window = this.ops.reservedRegions?.(this.device).find(({ type }) => type === "sw-msi")
    const { rid } = this.group
    if (rid === undefined || window === undefined) {
      throw new IommuError("ENODEV", `${this.device.name} has no window for software MSIs`)
    }
    return this.context.softwareMsi.map(pagingOf(rid.hwpt).domain, window, address)
  }

  /**
   * Blocks the device's DMA while it is reset: Linux's `pci_dev_reset_iommu_prepare`.
   * @throws EBUSY while a device of the group is being reset
   */
  beginReset(): void {
    beginReset(this.group, this.device)
  }

  /** Puts the device back on what it is attached to. @throws what the driver throws; the device is blocked then */
  endReset(): void {
    endReset(this.group, this.device)
  }

  /** The hwpt that requests without PASID, or with one, go through; null when there is none. */
  hwptId(pasid: number = NO_PASID): number | null {
    const attachment = this.group.attachments.get(pasid)
    return attachment?.devices.has(this) ? attachment.hwpt.id : null
  }

  /**
   * Gives the device back. Its virtual device goes with it.
   * @throws EBUSY while it is attached
   */
  unbind(): void {
    if ([...this.group.attachments.values()].some(({ devices }) => devices.has(this))) {
      throw new IommuError("EBUSY", `${this.device.name} is attached; detach it first`)
    }
    const { objects } = this.context
    if (this.vdevice !== null) objects.bury(this.vdevice)
    this.users = 0
    objects.destroy(this)
    this.context.drop()
  }

  destroy(): void {
    this.context.devices.delete(this.device)
    this.device.account = this.#previousAccount
    this.group.unclaim()
  }

  state(): ObjectState {
    const attached = [...this.group.attachments].filter(([, { devices }]) => devices.has(this))
    return {
      device: this.device.name,
      group: this.group.name,
      driver: this.ops.name,
      vdevice: this.vdevice?.id ?? null,
      attached: attached.map(([pasid, { hwpt }]) =>
        pasid === NO_PASID ? { hwpt: hwpt.id } : { pasid, hwpt: hwpt.id },
      ),
    }
  }
}

/** @throws EINVAL for PASID 0, which stands for requests without PASID */
function checkPasid(pasid: number): number {
  if (!Number.isInteger(pasid) || pasid <= 0) throw new IommuError("EINVAL", "PASIDs are counted from 1")
  return pasid
}
