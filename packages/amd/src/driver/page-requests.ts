/**
 * Peripheral page requests: from the PPR log to the handler of a domain, and back as COMPLETE_PPR_REQUEST. AMD 48882
 * rev 3.10, §2.6 (log), §2.4.7 (answer), §2.2.2.1 (DTE.PPR, GPRP).
 */
import {
  IommuError,
  NO_PASID,
  type PageFaultHandler,
  type PageRequest,
  PageRequestGroups,
  type PageResponse,
} from "@iommu/core"
import { COMPLETE_PPR_REQUEST, OPCODE } from "../spec/commands.ts"
import { PAGE_SERVICE_REQUEST, PPR_PAGE_SERVICE_REQUEST } from "../spec/events.ts"
import { type AmdDomain, type DeviceState, writeEntry } from "./attach.ts"
import type { AmdNestedDomain } from "./nested-domain.ts"
import type { AmdDriver } from "./ops.ts"
import type { AmdPagingDomain } from "./paging-domain.ts"
import type { CommandQueue } from "./queue.ts"

type FaultingDomain = AmdPagingDomain | AmdNestedDomain

export class PageRequests {
  readonly #driver: AmdDriver
  /** Few domains take faults, so that the others need no field for it. */
  readonly #handlers = new Map<FaultingDomain, PageFaultHandler>()
  readonly #groups: PageRequestGroups

  constructor(driver: AmdDriver) {
    const { queue } = driver.hardware
    this.#driver = driver
    this.#groups = new PageRequestGroups((last, code) => answer(queue, last, code))
  }

  /** undefined where the hardware has no page requests (PPRSup). */
  handlerOf(domain: FaultingDomain): PageFaultHandler | null | undefined {
    return this.#driver.hardware.features.PPRSup ? (this.#handlers.get(domain) ?? null) : undefined
  }

  /** Entries of the domain's devices allow page requests while there is a handler. @throws EIO, ETIMEDOUT */
  setHandler(domain: FaultingDomain, handler: PageFaultHandler | null): void {
    if (handler !== null && !this.#driver.hardware.features.PPRSup) {
      throw new IommuError("EOPNOTSUPP", "this hardware has no page requests (PPRSup)")
    }
    const old = this.#handlers.get(domain) ?? null
    this.#put(domain, handler)
    try {
      for (const { state } of domain.attachments) writeEntry(this.#driver, state)
    } catch (error) {
      this.#put(domain, old)
      throw error
    }
  }

  /** A domain is freed. */
  forget(domain: FaultingDomain): void {
    this.#handlers.delete(domain)
  }

  /** Whether the entry of a device on these domains is to allow page requests. */
  areTaken(rid: AmdDomain, pasids: Iterable<AmdPagingDomain>): boolean {
    if (this.#handlers.size === 0) return false
    return this.#handlerFor(rid) !== null || [...pasids].some(domain => this.#handlers.has(domain))
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
      if (PAGE_SERVICE_REQUEST.get(words, "Code") !== BigInt(PPR_PAGE_SERVICE_REQUEST)) continue
      const request = pageRequest(words)
      if (!isStopMarker(request)) this.#take(request)
    }
    // Some of the requests that overflowed may belong to groups that have begun.
    if (lost) this.#groups.discardPartial()
    return records.length
  }

  #put(domain: FaultingDomain, handler: PageFaultHandler | null): void {
    if (handler === null) this.#handlers.delete(domain)
    else this.#handlers.set(domain, handler)
  }

  #take(request: PageRequest): void {
    const state = this.#driver.deviceAt(request.device)
    if (state === null) {
      if (request.last) this.#groups.refuse(request)
      return
    }
    const { rid, pasids } = state
    const domain = request.pasid === null || rid.type === "nested" ? rid : pasids.get(request.pasid)
    this.#groups.take(state.device, domain ? this.#handlerFor(domain) : null, request)
  }

  #handlerFor(domain: AmdDomain): PageFaultHandler | null {
    if (domain.type === "blocked" || domain.type === "identity") return null
    return this.#handlers.get(domain) ?? null
  }
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

function pageRequest(words: readonly bigint[]): PageRequest {
  const ppr = PAGE_SERVICE_REQUEST.decode(words)
  return {
    device: Number(ppr.DeviceID),
    pasid: ppr.GN === 1n ? Number((ppr.PASID_19_16 << 16n) | ppr.PASID_15_0) : null,
    address: ppr.Address << 12n,
    read: ppr.RD === 1n,
    write: ppr.WR === 1n,
    execute: ppr.EX === 1n,
    privileged: ppr.GN === 1n && ppr.US === 0n,
    last: ppr.Last === 1n,
    group: Number(ppr.Tag),
  }
}

/** The last use of a PASID, which wants no answer. PCI Express Base 6.0 §10.4.1.2. */
function isStopMarker({ pasid, last, read, write }: PageRequest): boolean {
  return pasid !== null && last && !read && !write
}
