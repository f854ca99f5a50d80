/**
 * Page requests: from the page request queue to the handler of a domain, and back as page group responses. Intel VT-d
 * 5.10 (D51397-018) §7.4 (queue), §7.6.1 (response), §9.4 (PRE of a context entry).
 */
import { PageFaultHandlers, type PageRequest, PageRequestGroups, type PageResponse } from "@iommu/core"
import { decodePageRequest } from "../decode/page-request.ts"
import { type DeviceState, followPageRequests } from "./attach.ts"
import type { VtdNestedDomain } from "./nested-domain.ts"
import type { VtdDriver } from "./ops.ts"
import type { VtdPagingDomain } from "./paging-domain.ts"
import type { InvalidationQueue } from "./queue.ts"

type FaultingDomain = VtdPagingDomain | VtdNestedDomain

export class PageRequests {
  readonly handlers: PageFaultHandlers<FaultingDomain>
  readonly #driver: VtdDriver
  readonly #groups: PageRequestGroups

  constructor(driver: VtdDriver) {
    const { queue, features } = driver.hardware
    const lacking = features.pageRequests ? null : "page requests need scalable mode and ECAP.PRS"
    this.handlers = new PageFaultHandlers(lacking, domain => this.#follow(domain))
    this.#driver = driver
    this.#groups = new PageRequestGroups((last, code) => answer(queue, last, code))
  }

  /** A device, or one PASID of it, left a domain; "all": it is released. */
  withdraw({ device }: DeviceState, pasid: number | null | "all"): void {
    this.#groups.withdraw(device, pasid)
  }

  /** Reads the queue once. @returns entries read */
  handle(): number {
    const { records, lost } = this.#driver.hardware.takePageRequests()
    for (const words of records) {
      const request = decodePageRequest(words)
      if (request !== null) this.#take(request)
    }
    // Some of the requests that overflowed may belong to groups that have begun.
    if (lost) this.#groups.discardPartial()
    return records.length
  }

  /** Context entries of the domain's devices allow page requests while there is a handler. */
  #follow(domain: FaultingDomain): void {
    const { hardware } = this.#driver
    for (const { state } of domain.attachments) {
      followPageRequests(hardware, state, this.handlers.areTaken(domainsOf(state)))
    }
  }

  #take(request: PageRequest): void {
    const state = this.#driver.deviceAt(request.device)
    const attachment = request.pasid === null ? state?.rid : state?.pasids.get(request.pasid)
    const handler = attachment ? this.handlers.of(attachment.domain) : null
    this.#groups.take(state?.device ?? null, handler, request)
  }
}

/** What a device and its PASIDs are on. */
export function domainsOf({ rid, pasids }: Pick<DeviceState, "rid" | "pasids">): object[] {
  return [...(rid ? [rid.domain] : []), ...[...pasids.values()].map(({ domain }) => domain)]
}

/** Response codes are those of PCIe. */
function answer(queue: InvalidationQueue, { device, pasid, group }: PageRequest, code: PageResponse): void {
  queue.pageGroupResponse(device, pasid, group, code)
  queue.sync()
}
