/**
 * Events of a vIOMMU on their way to the guest: Linux's `struct iommufd_veventq`.
 *
 * Each event takes the next number, also one that is lost. What tells the reader of a loss is a gap in the numbers, or,
 * while nothing came after it, one header without data at the end of the queue.
 */
import { IommuError } from "@iommu/core"
import type { UserMemory } from "../memory/user-memory.ts"
import type { Process } from "../process/process.ts"
import { VEVENTQ_FLAG_LOST_EVENTS } from "../uapi/constants.ts"
import { IOMMUFD_VEVENT_HEADER } from "../uapi/records.ts"
import type { IommufdContext } from "./iommufd-context.ts"
import { type Identity, KernelObject, type ObjectState } from "./object.ts"
import type { Draft } from "./object-table.ts"
import {
  checkPosition,
  drain,
  drainToBytes,
  type Fetched,
  type QueueFile,
  type Readiness,
} from "./queue-file.ts"
import { copyToUser } from "./user-copy.ts"
import type { ViommuObject } from "./viommu.ts"

const LAST_SEQUENCE = 0x7fff_ffff
/** Kernel memory of a queued event. */
const EVENT_BYTES = 64

/** Numbers run to INT_MAX and begin again. */
export function sequenceAfter(sequence: number): number {
  return sequence === LAST_SEQUENCE ? 0 : sequence + 1
}

export interface VeventqAllocRequest {
  readonly viommuId: number
  /** `VeventqType`, or a third party's; not compared with what the driver sends. */
  readonly type: number
  /** Events that wait at most. */
  readonly depth: number
}

interface QueuedEvent {
  readonly sequence: number
  readonly data: Uint8Array
}

export class VeventQueue extends KernelObject {
  readonly kind = "veventq"
  readonly viommu: ViommuObject
  readonly type: number
  readonly depth: number
  readonly file: VeventFile
  readonly #events: QueuedEvent[] = []
  /** Number of the last lost event, while nothing is queued behind it. */
  #lost: number | null = null
  #nextSequence = 0

  constructor(identity: Identity, viommu: ViommuObject, type: number, depth: number) {
    super(identity)
    this.viommu = viommu
    this.type = type
    this.depth = depth
    this.file = new VeventFile(this)
    viommu.users++
    viommu.eventQueues.set(type, this)
    viommu.viommu.onEvent = event => viommu.eventQueues.get(event.type)?.take(event.data)
  }

  get isReadable(): boolean {
    return this.#events.length > 0 || this.#lost !== null
  }

  /** @throws ENOMEM when the event is lost for want of memory */
  report(data: Uint8Array): void {
    const sequence = this.#nextSequence
    this.#nextSequence = sequenceAfter(sequence)
    if (this.#events.length === this.depth) {
      this.#lost = sequence
      return
    }
    try {
      this.account.chargeBytes(EVENT_BYTES)
    } catch (error) {
      this.#lost = sequence
      throw error
    }
    this.#events.push({ sequence, data: data.slice() })
    this.#lost = null
  }

  /** {@link report} for a driver's interrupt handler, which can do nothing about a loss. */
  take(data: Uint8Array): void {
    try {
      this.report(data)
    } catch {
      // The reader learns of it from the lost event's number.
    }
  }

  /** The first event that waits, if it fits. */
  fetch(room: number): Fetched | null {
    const first = this.#events[0]
    if (first !== undefined) return this.#fetchEvent(first, room)
    if (this.#lost === null || room < IOMMUFD_VEVENT_HEADER.size) return null
    return {
      bytes: IOMMUFD_VEVENT_HEADER.encode({ flags: VEVENTQ_FLAG_LOST_EVENTS, sequence: this.#lost }),
      taken: () => {
        this.#lost = null
      },
    }
  }

  #fetchEvent({ sequence, data }: QueuedEvent, room: number): Fetched | null {
    const { size } = IOMMUFD_VEVENT_HEADER
    if (size + data.length > room) return null
    const bytes = new Uint8Array(size + data.length)
    bytes.set(IOMMUFD_VEVENT_HEADER.encode({ flags: 0, sequence }))
    bytes.set(data, size)
    return {
      bytes,
      taken: () => {
        this.#events.shift()
        this.account.unchargeBytes(EVENT_BYTES)
      },
    }
  }

  fileClosed(): void {
    this.users--
    this.viommu.context.drop()
  }

  destroy(): void {
    this.account.unchargeBytes(EVENT_BYTES * this.#events.length)
    this.#events.length = 0
    this.viommu.eventQueues.delete(this.type)
    this.viommu.users--
    if (this.viommu.eventQueues.size === 0) this.viommu.viommu.onEvent = null
  }

  state(): ObjectState {
    return {
      viommu: this.viommu.id,
      type: this.type,
      depth: this.depth,
      waiting: this.#events.length,
      lost: this.#lost !== null,
    }
  }
}

/** The file of an event queue. Nothing can be written to it. */
export class VeventFile implements QueueFile {
  readonly kind = "iommufd event queue"
  readonly #queue: VeventQueue
  #isOpen = true

  constructor(queue: VeventQueue) {
    this.#queue = queue
  }

  read(count: number): Uint8Array {
    return drainToBytes(count, room => this.#queue.fetch(room))
  }

  readTo(memory: UserMemory, va: bigint, count: number, position = 0n): number {
    checkPosition(position)
    return drain(
      count,
      room => this.#queue.fetch(room),
      (offset, bytes) => copyToUser(memory, va + BigInt(offset), bytes),
    )
  }

  poll(): Readiness {
    return { readable: this.#queue.isReadable, writable: false }
  }

  close(): void {
    if (this.#isOpen) this.#queue.fileClosed()
    this.#isOpen = false
  }
}

/** An event queue and the descriptor of its file. */
export interface VeventqDraft extends Draft<VeventQueue> {
  readonly fd: number
}

/** @throws EINVAL, ENOENT, EEXIST, EMFILE, ENOMEM */
export function draftVeventq(
  context: IommufdContext,
  caller: Process,
  { viommuId, type, depth }: VeventqAllocRequest,
): VeventqDraft {
  if (depth === 0) throw new IommuError("EINVAL", "an event queue holds at least one event")
  const viommu = context.objects.get(viommuId, "viommu")
  if (viommu.eventQueues.has(type)) {
    throw new IommuError("EEXIST", `vIOMMU ${viommuId} has a queue for events of type ${type}`)
  }
  let fd = -1
  const draft = context.objects.draft(caller.account, identity => {
    const queue = new VeventQueue(identity, viommu, type, depth)
    try {
      fd = caller.files.install(queue.file)
    } catch (error) {
      queue.destroy()
      throw error
    }
    queue.users++
    context.hold()
    return queue
  })
  return {
    ...draft,
    fd,
    abort: () => {
      caller.files.close(fd)
      draft.abort()
    },
  }
}
