/** A guest's slice of one physical IOMMU: Linux's `struct iommufd_viommu`. */
import { IommuError, type IommuOps, padded, type Viommu, type ViommuEvent, type ViommuOps } from "@iommu/core"
import type { Process } from "../process/process.ts"
import type { BoundDevice } from "./device.ts"
import type { HwQueueObject } from "./hw-queue.ts"
import type { HwptPaging } from "./hwpt.ts"
import type { IommufdContext } from "./iommufd-context.ts"
import { type Identity, KernelObject, type ObjectState } from "./object.ts"
import type { Draft } from "./object-table.ts"
import type { UserBytes } from "./user-bytes.ts"
import type { VdeviceObject } from "./vdevice.ts"
import type { VeventQueue } from "./veventq.ts"

export interface ViommuAllocRequest {
  readonly deviceId: number
  /** A nest parent. */
  readonly hwptId: number
  /** `ViommuType`, or a third party's. */
  readonly type: number
  readonly data: UserBytes | null
}

export class ViommuObject extends KernelObject {
  readonly kind = "viommu"
  readonly context: IommufdContext
  /** The physical IOMMU. */
  readonly ops: IommuOps
  readonly parent: HwptPaging
  readonly viommu: Viommu
  readonly mmapOffsets: readonly bigint[]
  readonly vdevices: Map<bigint, VdeviceObject> = new Map()
  readonly eventQueues: Map<number, VeventQueue> = new Map()
  readonly hwQueues: Set<HwQueueObject> = new Set()

  constructor(
    identity: Identity,
    context: IommufdContext,
    ops: IommuOps,
    parent: HwptPaging,
    viommu: Viommu,
  ) {
    super(identity)
    this.context = context
    this.ops = ops
    this.parent = parent
    this.viommu = viommu
    parent.users++
    this.mmapOffsets = (viommu.mappable ?? []).map(pages => context.mmapOffsets.add(this, pages))
  }

  /** What userspace gets back in place of the data it passed; null when the kind has none. */
  get outData(): Uint8Array | null {
    return this.viommu.outData?.(this.mmapOffsets) ?? null
  }

  /**
   * An event for the guest: Linux's `iommufd_viommu_report_event`. A full queue loses it, and says so to the reader.
   * @throws EOPNOTSUPP without a queue of its type; EINVAL without data; ENOMEM when it is lost for want of memory
   */
  reportEvent({ type, data }: ViommuEvent): void {
    const queue = this.eventQueues.get(type)
    if (queue === undefined) throw new IommuError("EOPNOTSUPP", `no event queue takes events of type ${type}`)
    if (data.length === 0) throw new IommuError("EINVAL", "an event has data")
    queue.report(data)
  }

  destroy(): void {
    this.context.mmapOffsets.removeAll(this)
    this.viommu.onEvent = null
    this.viommu.free()
    this.parent.users--
  }

  state(): ObjectState {
    return {
      type: this.viommu.type,
      driver: this.ops.name,
      parent: this.parent.id,
      vdevices: [...this.vdevices.values()].map(({ id }) => id),
      eventQueues: [...this.eventQueues.values()].map(({ id }) => id),
      hwQueues: [...this.hwQueues].map(({ id }) => id),
    }
  }
}

/** @throws EOPNOTSUPP, ENOENT, EINVAL, EFAULT, ENOMEM and what the driver throws; nothing is left then */
export function draftViommu(
  context: IommufdContext,
  caller: Process,
  request: ViommuAllocRequest,
): Draft<ViommuObject> {
  const { objects } = context
  const device = objects.get(request.deviceId, "device")
  const ops = device.ops.viommu
  if (ops === undefined) throw new IommuError("EOPNOTSUPP", `${device.ops.name} makes no vIOMMUs`)
  const size = ops.dataLen(device.device, request.type)
  const parent = objects.get(request.hwptId, "hwpt-paging")
  if (!parent.isNestParent) throw new IommuError("EINVAL", `hwpt ${parent.id} is no nest parent`)
  return objects.draft(caller.account, identity => {
    const viommu = allocViommu(ops, device, parent, request, size)
    return new ViommuObject(identity, context, device.ops, parent, viommu)
  })
}

function allocViommu(
  ops: ViommuOps,
  { device }: BoundDevice,
  parent: HwptPaging,
  { type, data }: ViommuAllocRequest,
  size: number,
): Viommu {
  const min = ops.minDataLen?.(device, type) ?? size
  return ops.alloc(device, parent.domain, type, viommuData(data, min, size))
}

/** A kind without data does not look at what is passed. @throws EINVAL, EFAULT */
function viommuData(data: UserBytes | null, min: number, size: number): Uint8Array {
  if (data === null || size === 0) return new Uint8Array(0)
  if (data.length < min || data.length > size) {
    throw new IommuError("EINVAL", `data of this kind of vIOMMU has ${min} to ${size} bytes`)
  }
  return padded(data.copy(), size)
}
