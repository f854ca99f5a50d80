/**
 * From the page requests of a queue to groups that somebody answers: Linux's `iopf_queue`, the same for all vendors.
 * PCI Express Base 6.0 chapter 10.4.
 */
import type { PageRequest } from "./ats.ts"
import type { IommuDevice } from "./device.ts"
import { isIommuError } from "./errno.ts"
import {
  type PageFaultGroup,
  type PageFaultHandler,
  type PageResponse,
  PageResponseCode,
} from "./page-faults.ts"

/**
 * Requests of one device that wait for the last of their group. A device that sends more has what came before
 * forgotten; it asks again for what it needs, since the answer to a group promises nothing about single pages.
 */
const MOST_PARTIAL = 512
/** Groups of one device without an answer: a Page Request Group Index has nine bits, so no more can be told apart. */
const MOST_PENDING = 512

/** Sends the hardware the answer to a group, known by its last request. */
export type PageGroupAnswer = (last: PageRequest, code: PageResponse) => void

interface DeviceRequests {
  partial: PageRequest[]
  readonly pending: Set<PendingGroup>
}

interface PendingGroup extends PageFaultGroup {
  readonly last: PageRequest
}

export class PageRequestGroups {
  readonly #answer: PageGroupAnswer
  readonly #devices = new Map<IommuDevice, DeviceRequests>()

  constructor(answer: PageGroupAnswer) {
    this.#answer = answer
  }

  /**
   * Takes one request in, and with the last of a group hands the group on. Stop markers belong to none.
   * @param device null: one that the driver does not know, whose groups are answered INVALID
   * @param handler of the domain that the request came from; none: the group is answered INVALID
   */
  take(device: IommuDevice | null, handler: PageFaultHandler | null | undefined, request: PageRequest): void {
    if (isStopMarker(request)) return
    if (device !== null) this.#takeFrom(device, handler ?? null, request)
    else if (request.last) this.#refuse(request)
  }

  /** Requests were lost: groups of which a part has come would never be whole. Linux's `iopf_queue_discard_partial`. */
  discardPartial(): void {
    for (const [device, requests] of this.#devices) {
      requests.partial = []
      this.#tidy(device, requests)
    }
  }

  /**
   * A device left a domain: nobody waits for its pages there any more, and groups without an answer get INVALID, as
   * far as the hardware still takes answers.
   * @param pasid whose requests, null for those without PASID, "all" for all
   */
  withdraw(device: IommuDevice, pasid: number | null | "all"): void {
    const requests = this.#devices.get(device)
    if (requests === undefined) return
    const concerns = (request: PageRequest): boolean => pasid === "all" || request.pasid === pasid
    requests.partial = requests.partial.filter(request => !concerns(request))
    for (const group of [...requests.pending].filter(({ last }) => concerns(last))) {
      try {
        group.respond(PageResponseCode.INVALID)
      } catch (error) {
        if (!isIommuError(error)) throw error
      }
    }
    this.#tidy(device, requests)
  }

  #takeFrom(device: IommuDevice, handler: PageFaultHandler | null, request: PageRequest): void {
    const requests = this.#requestsOf(device)
    if (!request.last) {
      if (requests.partial.length === MOST_PARTIAL) requests.partial = []
      requests.partial.push(request)
      return
    }
    const isSameGroup = (other: PageRequest): boolean =>
      other.group === request.group && other.pasid === request.pasid
    const group = [...requests.partial.filter(isSameGroup), request]
    requests.partial = requests.partial.filter(other => !isSameGroup(other))
    if (handler === null || requests.pending.size === MOST_PENDING) this.#refuse(request)
    else this.#deliver(device, requests, handler, group)
    this.#tidy(device, requests)
  }

  /** Answers a group of which only the last request counts, for want of anybody else: INVALID. */
  #refuse(last: PageRequest): void {
    this.#answer(last, PageResponseCode.INVALID)
  }

  #requestsOf(device: IommuDevice): DeviceRequests {
    const known = this.#devices.get(device)
    if (known !== undefined) return known
    const fresh: DeviceRequests = { partial: [], pending: new Set() }
    this.#devices.set(device, fresh)
    return fresh
  }

  #deliver(
    device: IommuDevice,
    requests: DeviceRequests,
    handler: PageFaultHandler,
    group: readonly PageRequest[],
  ): void {
    const last = group.at(-1) as PageRequest
    const pending: PendingGroup = {
      device,
      pasid: last.pasid,
      requests: group,
      last,
      respond: code => {
        if (!requests.pending.delete(pending)) return
        this.#tidy(device, requests)
        this.#answer(last, code)
      },
    }
    requests.pending.add(pending)
    try {
      handler(pending)
    } catch (error) {
      pending.respond(PageResponseCode.INVALID)
      // A handler without memory for the group is a reason to refuse it; anything else is a bug of the handler's.
      if (!isIommuError(error)) throw error
    }
  }

  #tidy(device: IommuDevice, requests: DeviceRequests): void {
    const isEmpty = requests.partial.length === 0 && requests.pending.size === 0
    // A handler may have sent the device to make new requests meanwhile.
    if (isEmpty && this.#devices.get(device) === requests) this.#devices.delete(device)
  }
}

/** The last use of a PASID, which wants no answer. PCI Express Base 6.0 §10.4.1.2. */
function isStopMarker({ pasid, last, read, write }: PageRequest): boolean {
  return pasid !== null && last && !read && !write
}
