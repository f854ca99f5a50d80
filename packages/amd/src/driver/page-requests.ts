/**
 * Peripheral page requests: from the PPR log to the handler of a domain, and back as COMPLETE_PPR_REQUEST. AMD 48882
 * rev 3.10, §2.6 (log), §2.4.7 (answer), §2.2.2.1 (DTE.PPR, GPRP). As in Linux, hardware needs EPHSup beside PPRSup.
 */
import {
  NO_PASID,
  PageFaultHandlers,
  type PageRequest,
  PageRequestGroups,
  type PageResponse,
} from "@iommu/core"
import { decodePageRequest } from "../decode/page-request.ts"
import { COMPLETE_PPR_REQUEST, OPCODE } from "../spec/commands.ts"
import { type AmdDomain, type DeviceState, writeEntry } from "./attach.ts"
import type { AmdNestedDomain } from "./nested-domain.ts"
import type { AmdDriver } from "./ops.ts"
import type { AmdPagingDomain } from "./paging-domain.ts"
import type { CommandQueue } from "./queue.ts"

type FaultingDomain = AmdPagingDomain | AmdNestedDomain

export class PageRequests {
  readonly handlers: PageFaultHandlers<FaultingDomain>
  readonly #driver: AmdDriver
  readonly #groups: PageRequestGroups

  constructor(driver: AmdDriver) {
    const { queue, features } = driver.hardware
    const lacking = features.pageRequests ? null : "no page requests by device here (PPRSup, EPHSup)"
    this.handlers = new PageFaultHandlers(lacking, domain => {
      for (const { state } of domain.attachments) writeEntry(driver, state)
    })
    this.#driver = driver
    this.#groups = new PageRequestGroups((last, code) => answer(queue, last, code))
  }

  /** A device, or one PASID of it, left a domain. A guest's GCR3 table had all PASIDs. */
  withdraw({ device }: DeviceState, domain: FaultingDomain, pasid: number): void {
    const whose = pasid === NO_PASID ? null : pasid
    this.#groups.withdraw(device, domain.type === "nested" ? "all" : whose)
  }

  /** A device is released. */
  forgetDevice({ device }: DeviceState): void {
    this.#groups.withdraw(device, "all")
  }

  /** Reads the log once. @returns entries read */
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

  #take(request: PageRequest): void {
    const state = this.#driver.deviceAt(request.device)
    const domain = state === null ? undefined : askedDomain(state, request.pasid)
    this.#groups.take(state?.device ?? null, domain && this.handlers.of(domain), request)
  }
}

/** A guest's GCR3 table has all PASIDs: the requests of all of them go where that is. */
function askedDomain({ rid, pasids }: DeviceState, pasid: number | null): AmdDomain | undefined {
  return pasid === null || rid.type === "nested" ? rid : pasids.get(pasid)
}

/** The answer carries the PASID when the request did; response codes are those of PCIe. */
function answer(queue: CommandQueue, { device, pasid, group }: PageRequest, code: PageResponse): void {
  queue.push(
    COMPLETE_PPR_REQUEST.encode({
      DeviceID: BigInt(device),
      PASID: BigInt(pasid ?? 0),
      Opcode: BigInt(OPCODE.COMPLETE_PPR_REQUEST),
      GN: pasid === null ? 0n : 1n,
      CompletionTag: BigInt(group | (code << 12)),
    }),
  )
  queue.sync()
}
