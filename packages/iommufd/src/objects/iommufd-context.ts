/** What one open of /dev/iommu holds: Linux's `struct iommufd_ctx`. */
import type { IommuDevice } from "@iommu/core"
import { SoftwareMsi } from "../ioas/sw-msi.ts"
import type { PinPolicy } from "../memory/pin-accounting.ts"
import type { UserFile } from "../process/file-table.ts"
import type { Process } from "../process/process.ts"
import type { BoundDevice } from "./device.ts"
import type { IoasObject } from "./ioas-object.ts"
import { MmapOffsets } from "./mmap-offsets.ts"
import { NoIommu } from "./no-iommu.ts"
import { ObjectTable } from "./object-table.ts"

export class IommufdContext implements UserFile {
  readonly kind = "iommufd"
  readonly objects: ObjectTable = new ObjectTable()
  /** Option RLIMIT_MODE. */
  readonly pinPolicy: PinPolicy = { mode: "user" }
  readonly mmapOffsets: MmapOffsets = new MmapOffsets(this)
  readonly softwareMsi: SoftwareMsi = new SoftwareMsi()
  /** Serves devices without an IOMMU. */
  readonly noIommu: NoIommu = new NoIommu()
  /** Bound devices by the device that the driver knows. */
  readonly devices: Map<IommuDevice, BoundDevice> = new Map()
  /** The process whose memory is mapped: the opener, or who called CHANGE_PROCESS last. */
  process: Process
  /** The address space of the VFIO container ioctls. */
  vfioIoas: IoasObject | null = null
  /** Bound devices, files of queues and mappings: the context outlives its descriptor for them. */
  #holders = 0
  #state: "open" | "closed" | "gone" = "open"

  constructor(process: Process) {
    this.process = process
  }

  hold(): void {
    this.#holders++
  }

  drop(): void {
    this.#holders--
    this.#vanish()
  }

  /** Destroys everything as soon as no device, queue file or mapping is left. */
  close(): void {
    if (this.#state !== "open") return
    this.#state = "closed"
    this.#vanish()
  }

  #vanish(): void {
    if (this.#state !== "closed" || this.#holders > 0) return
    this.#state = "gone"
    this.vfioIoas = null
    this.objects.destroyAll()
  }
}
