/** Page requests on their way to userspace and back: Linux's `struct iommufd_fault`. */
import { IommuError, type PageFaultGroup, type PageRequest, PageResponseCode } from "@iommu/core"
import type { Process } from "../process/process.ts"
import {
  PGFAULT_FLAGS_LAST_PAGE,
  PGFAULT_FLAGS_PASID_VALID,
  PGFAULT_PERM_EXEC,
  PGFAULT_PERM_PRIV,
  PGFAULT_PERM_READ,
  PGFAULT_PERM_WRITE,
} from "../uapi/constants.ts"
import { IOMMU_HWPT_PGFAULT } from "../uapi/records.ts"
import { FaultFile } from "./fault-file.ts"
import type { AttachHandle } from "./group.ts"
import type { Hwpt } from "./hwpt.ts"
import { IdAllocator } from "./id-allocator.ts"
import type { IommufdContext } from "./iommufd-context.ts"
import { type Identity, KernelObject, type ObjectState } from "./object.ts"
import type { Draft } from "./object-table.ts"
import type { Fetched } from "./queue-file.ts"

const LAST_COOKIE = 0xffff_ffff

/** A group of page requests, and the attachment that it came through. */
interface PendingGroup {
  readonly group: PageFaultGroup
  readonly handle: AttachHandle
  readonly deviceId: number
}

export class FaultQueue extends KernelObject {
  readonly kind = "fault"
  readonly file: FaultFile
  readonly #context: IommufdContext
  readonly #cookies = new IdAllocator(LAST_COOKIE)
  /** Not read yet. */
  #waiting: PendingGroup[] = []
  /** Read, not answered. */
  readonly #delivered = new Map<number, PendingGroup>()

  constructor(identity: Identity, context: IommufdContext) {
    super(identity)
    this.#context = context
    this.file = new FaultFile(this)
  }

  get hasWaiting(): boolean {
    return this.#waiting.length > 0
  }

  /** Takes the page requests of a page table's devices from now on. */
  serve(hwpt: Hwpt): void {
    hwpt.fault = this
    this.users++
    if (hwpt.domain.pageFaultHandler !== undefined) {
      hwpt.domain.pageFaultHandler = group => this.#receive(group)
    }
  }

  /** The first waiting group as records, if all of them fit; it has a cookie once the reader has it. */
  fetch(room: number): Fetched | null {
    const first = this.#waiting[0]
    if (first === undefined || first.group.requests.length * IOMMU_HWPT_PGFAULT.size > room) return null
    const cookie = this.#cookies.take()
    this.#cookies.give(cookie)
    return {
      bytes: recordsOf(first, cookie),
      taken: () => {
        this.#waiting.shift()
        this.#delivered.set(this.#cookies.take(), first)
      },
    }
  }

  /** @throws EINVAL for an unknown cookie or code */
  answer(cookie: number, code: number): void {
    if (code !== PageResponseCode.SUCCESS && code !== PageResponseCode.INVALID) {
      throw new IommuError("EINVAL", `response code ${code} is neither SUCCESS nor INVALID`)
    }
    const pending = this.#delivered.get(cookie)
    if (pending === undefined)
      throw new IommuError("EINVAL", `no group of page requests has cookie ${cookie}`)
    this.#forget(cookie)
    pending.group.respond(code)
  }

  /** Answers INVALID to all that came through an attachment which ends. */
  answerAll(handle: AttachHandle): void {
    this.#refuse(pending => pending.handle === handle)
  }

  /** The descriptor is gone: the context and the queue are held no more. */
  fileClosed(): void {
    this.users--
    this.#context.drop()
  }

  destroy(): void {
    this.#refuse(() => true)
  }

  state(): ObjectState {
    return { waiting: this.#waiting.length, unanswered: this.#delivered.size }
  }

  #receive(group: PageFaultGroup): void {
    const bound = this.#context.devices.get(group.device) ?? this.#neighbour(group)
    const attachment = bound?.group.attachmentFor(group.pasid)
    if (bound === undefined || attachment?.hwpt.fault !== this) {
      group.respond(PageResponseCode.INVALID)
      return
    }
    this.#waiting.push({ group, handle: attachment.handle, deviceId: bound.id })
  }

  /** A bound device of the same group stands for members that are not bound. */
  #neighbour({ device }: PageFaultGroup): ReturnType<IommufdContext["devices"]["get"]> {
    return [...this.#context.devices.values()].find(bound => bound.group.members.includes(device))
  }

  #refuse(concerned: (pending: PendingGroup) => boolean): void {
    const waiting = this.#waiting.filter(concerned)
    this.#waiting = this.#waiting.filter(pending => !concerned(pending))
    const delivered = [...this.#delivered].filter(([, pending]) => concerned(pending))
    for (const [cookie] of delivered) this.#forget(cookie)
    for (const { group } of [...delivered.map(([, pending]) => pending), ...waiting]) {
      group.respond(PageResponseCode.INVALID)
    }
  }

  #forget(cookie: number): void {
    this.#delivered.delete(cookie)
    this.#cookies.give(cookie)
  }
}

/** A fault queue and the descriptor of its file. */
export interface FaultQueueDraft extends Draft<FaultQueue> {
  readonly fd: number
}

/** @throws EMFILE, ENOMEM */
export function draftFaultQueue(context: IommufdContext, caller: Process): FaultQueueDraft {
  let fd = -1
  const draft = context.objects.draft(caller.account, identity => {
    const queue = new FaultQueue(identity, context)
    fd = caller.files.install(queue.file)
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

function recordsOf({ group, deviceId }: PendingGroup, cookie: number): Uint8Array {
  const { size } = IOMMU_HWPT_PGFAULT
  const bytes = new Uint8Array(group.requests.length * size)
  group.requests.forEach((request, index) => {
    const record = IOMMU_HWPT_PGFAULT.encode({
      flags:
        (group.pasid === null ? 0 : PGFAULT_FLAGS_PASID_VALID) | (request.last ? PGFAULT_FLAGS_LAST_PAGE : 0),
      devId: deviceId,
      pasid: group.pasid ?? 0,
      grpid: request.group,
      perm: permissions(request),
      __reserved: 0,
      addr: request.address,
      length: 0,
      cookie,
    })
    bytes.set(record, index * size)
  })
  return bytes
}

function permissions({ read, write, execute, privileged }: PageRequest): number {
  return (
    (read ? PGFAULT_PERM_READ : 0) |
    (write ? PGFAULT_PERM_WRITE : 0) |
    (execute ? PGFAULT_PERM_EXEC : 0) |
    (privileged ? PGFAULT_PERM_PRIV : 0)
  )
}
