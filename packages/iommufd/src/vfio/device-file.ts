/** A device's own character device: what a VMM opens, binds to its iommufd and attaches to page tables. */
import { type IommuDevice, IommuError, type IommuOps } from "@iommu/core"
import { Iommufd } from "../context.ts"
import type { BoundDevice } from "../objects/device.ts"
import type { IommuGroup } from "../objects/group.ts"
import { IommufdContext } from "../objects/iommufd-context.ts"
import type { UserFile } from "../process/file-table.ts"
import type { Process } from "../process/process.ts"

export interface VfioDeviceOptions {
  readonly ops: IommuOps
  /** Probed by {@link ops}. */
  readonly device: IommuDevice
  /** Null: the device has none, as behind no IOMMU. Left out: it is a group of its own. */
  readonly group?: IommuGroup | null
  /** The file comes from the character device, or from a group's older file. */
  readonly openedBy?: "cdev" | "group"
  /** The group's older file is open: the two ways exclude each other. */
  readonly isGroupPathInUse?: () => boolean
  /** Whether other devices' interrupts can be forged; allowed only with VFIO's `allow_unsafe_interrupts`. */
  readonly interrupts?: "isolated" | "shared" | "shared, and allowed"
  /** Emulated devices have no PASIDs that a page table could be given to. */
  readonly pasids?: "attachable" | "none"
  readonly numRegions?: number
  readonly numIrqs?: number
}

export class VfioDeviceFile implements UserFile {
  readonly kind = "vfio-device"
  readonly options: VfioDeviceOptions
  #bound: BoundDevice | null = null
  readonly #pasids = new Set<number>()

  constructor(options: VfioDeviceOptions) {
    this.options = options
  }

  /**
   * VFIO_DEVICE_BIND_IOMMUFD: the iommufd gets the device's DMA.
   * @param fd of an iommufd, in the process
   * @returns the device's id there
   * @throws EINVAL for a negative descriptor, a group's file, a second time, or a device whose DMA is not coherent;
   *   EBUSY, EBADF, EBADFD; ENODEV without a group; EPERM when interrupts or the group are not safe with it
   */
  bindIommufd(process: Process, fd: number): number {
    const { openedBy = "cdev", isGroupPathInUse } = this.options
    if (fd < 0) throw new IommuError("EINVAL", "the descriptor of an iommufd is not negative")
    if (openedBy === "group") throw new IommuError("EINVAL", "only a device's own file can be bound")
    if (isGroupPathInUse?.()) throw new IommuError("EBUSY", "the group is in use through its own file")
    if (this.#bound !== null) throw new IommuError("EINVAL", "the device is bound already")
    const context = process.files.get(fd)
    if (!(context instanceof IommufdContext)) {
      throw new IommuError("EBADFD", `descriptor ${fd} is a ${context.kind}, not an iommufd`)
    }
    this.#checkSafe()
    const { ops, device, group } = this.options
    const iommufd = new Iommufd(context, process, fd)
    this.#bound = iommufd.bindDevice({ ops, device, ...(group ? { group } : {}) })
    return this.#bound.id
  }

  /**
   * VFIO_DEVICE_ATTACH_IOMMUFD_PT: in place of what the device, or the PASID, is on.
   * @param ptId of a hwpt or an IOAS
   * @param pasid left out: requests without PASID
   * @returns id of the hwpt that is used
   * @throws EINVAL before it is bound; EOPNOTSUPP for PASIDs of a device without; as attach and replace
   */
  attach(ptId: number, pasid?: number): number {
    const device = this.#device()
    if (pasid === undefined) return device.hwptId() === null ? device.attach(ptId) : device.replace(ptId)
    this.#checkPasids()
    const isAttached = device.hwptId(pasid) !== null
    const used = isAttached ? device.replacePasid(pasid, ptId) : device.attachPasid(pasid, ptId)
    this.#pasids.add(pasid)
    return used
  }

  /** VFIO_DEVICE_DETACH_IOMMUFD_PT. Nothing happens where nothing is attached. @throws EINVAL, EOPNOTSUPP */
  detach(pasid?: number): void {
    const device = this.#device()
    if (pasid === undefined) {
      device.detach()
      return
    }
    this.#checkPasids()
    if (this.#pasids.delete(pasid)) device.detachPasid(pasid)
  }

  /** @throws EINVAL before it is bound */
  info(): { readonly numRegions: number; readonly numIrqs: number } {
    this.#device()
    return { numRegions: this.options.numRegions ?? 9, numIrqs: this.options.numIrqs ?? 5 }
  }

  /** Takes the device off everything and gives it back. */
  close(): void {
    if (this.#bound === null) return
    for (const pasid of this.#pasids) this.#bound.detachPasid(pasid)
    this.#pasids.clear()
    this.#bound.detach()
    this.#bound.unbind()
    this.#bound = null
  }

  #device(): BoundDevice {
    if (this.#bound === null) throw new IommuError("EINVAL", "the device is bound to no iommufd")
    return this.#bound
  }

  #checkPasids(): void {
    if (this.options.pasids === "none") {
      throw new IommuError("EOPNOTSUPP", "PASIDs of this device cannot be attached")
    }
  }

  #checkSafe(): void {
    const { ops, device, group, interrupts = "isolated" } = this.options
    if (!ops.capable(device, "CACHE_COHERENCY")) {
      throw new IommuError("EINVAL", `DMA of ${device.name} is not coherent with the caches`)
    }
    if (group === null) throw new IommuError("ENODEV", `${device.name} is in no group`)
    if (interrupts === "shared") {
      throw new IommuError("EPERM", `${device.name} could forge interrupts of other devices`)
    }
  }
}
