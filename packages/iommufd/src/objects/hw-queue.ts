/** A queue in guest memory that the hardware reads itself: Linux's `struct iommufd_hw_queue`. */
import { type HwQueue, IommuError, PAGE_SIZE, U64_MAX } from "@iommu/core"
import type { PinnedRange } from "../ioas/pin-contiguous.ts"
import type { Process } from "../process/process.ts"
import type { IommufdContext } from "./iommufd-context.ts"
import { type Identity, KernelObject, type ObjectState } from "./object.ts"
import type { Draft } from "./object-table.ts"
import type { ViommuObject } from "./viommu.ts"

export interface HwQueueAllocRequest {
  readonly viommuId: number
  readonly type: number
  /** The guest's number of the queue. */
  readonly index: number
  /** In the address space of the vIOMMU's parent: a guest physical address. */
  readonly iova: bigint
  readonly length: bigint
}

export class HwQueueObject extends KernelObject {
  readonly kind = "hw-queue"
  readonly viommu: ViommuObject
  readonly type: number
  readonly index: number
  readonly queue: HwQueue
  readonly #previous: HwQueueObject | null
  readonly #memory: PinnedRange

  constructor(
    identity: Identity,
    viommu: ViommuObject,
    { type, index }: HwQueueAllocRequest,
    queue: HwQueue,
    memory: PinnedRange,
  ) {
    super(identity)
    this.viommu = viommu
    this.type = type
    this.index = index
    this.queue = queue
    this.#memory = memory
    this.#previous = [...viommu.hwQueues].find(other => other.queue === queue.previous) ?? null
    if (this.#previous !== null) this.#previous.users++
    viommu.users++
    viommu.hwQueues.add(this)
  }

  destroy(): void {
    this.queue.free()
    this.#memory.release()
    if (this.#previous !== null) this.#previous.users--
    this.viommu.hwQueues.delete(this)
    this.viommu.users--
  }

  state(): ObjectState {
    return {
      viommu: this.viommu.id,
      type: this.type,
      index: this.index,
      address: `0x${this.#memory.address.toString(16)}`,
      previous: this.#previous?.id ?? null,
    }
  }
}

/** @throws EINVAL, EOVERFLOW, ENOENT, EOPNOTSUPP, ERANGE, EPERM, EFAULT, ENOMEM and what the driver throws */
export function draftHwQueue(
  { objects }: IommufdContext,
  caller: Process,
  request: HwQueueAllocRequest,
): Draft<HwQueueObject> {
  const { type, index, iova, length } = request
  if (length === 0n) throw new IommuError("EINVAL", "a hardware queue is not empty")
  if (iova + length - 1n > U64_MAX) throw new IommuError("EOVERFLOW", "the queue ends beyond the last IOVA")
  const viommu = objects.get(request.viommuId, "viommu")
  const ops = viommu.viommu.hwQueues
  if (ops === undefined || !ops.serves(type)) {
    throw new IommuError("EOPNOTSUPP", `vIOMMU ${viommu.id} has no hardware queues of type ${type}`)
  }
  const offset = iova % BigInt(PAGE_SIZE)
  if (roundToPages(offset + length) > U64_MAX)
    throw new IommuError("ERANGE", "whole pages of the queue exceed 64 bits")
  return objects.draft(caller.account, identity => {
    const memory = viommu.parent.ioas.ioas.pinContiguous(iova - offset, roundToPages(offset + length))
    try {
      const queue = ops.alloc(type, index, memory.address + offset, length)
      return new HwQueueObject(identity, viommu, request, queue, memory)
    } catch (error) {
      memory.release()
      throw error
    }
  })
}

function roundToPages(bytes: bigint): bigint {
  const page = BigInt(PAGE_SIZE)
  return ((bytes + page - 1n) / page) * page
}
