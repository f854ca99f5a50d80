/**
 * Faults that wait for software: page requests of devices with PRI, and transactions that the SMMU stalls. Arm IHI
 * 0070 G.b chapter 8 (PRI queue), §4.5.2 (CMD_PRI_RESP), §3.12.2 and §4.7.1 (stalls, CMD_RESUME).
 */
import {
  PageFaultHandlers,
  type PageRequest,
  PageRequestGroups,
  type PageResponse,
  PageResponseCode,
} from "@iommu/core"
import { decodePageRequest } from "../decode/page-request.ts"
import type { SmmuV3TranslationRecord } from "../decode/record.ts"
import * as cmd from "../spec/commands.ts"
import type { DeviceState, SmmuDomain } from "./attach.ts"
import type { SmmuNestedDomain } from "./nested-domain.ts"
import type { SmmuV3Driver } from "./ops.ts"
import type { SmmuPagingDomain } from "./paging-domain.ts"
import type { CommandQueue, RecordQueue } from "./queue.ts"

/** CMD_PRI_RESP.Resp; 0 is the failure that ends a device's use of PRI. */
const RESP_INVALID = 1
const RESP_SUCCESS = 2

type FaultingDomain = SmmuPagingDomain | SmmuNestedDomain

export class PageRequests {
  readonly handlers: PageFaultHandlers<FaultingDomain>
  readonly #driver: SmmuV3Driver
  readonly #asked: PageRequestGroups
  readonly #stalled: PageRequestGroups

  constructor(driver: SmmuV3Driver) {
    const { queue, features } = driver.hardware
    const reports = features.PRI || features.STALL_MODEL === 2
    const lacking = reports ? null : "this SMMU has no PRI queue (IDR0.PRI), and does not have to stall"
    // No entry changes: the PRI queue is on for all streams, and ATS is a device's own affair (STE.EATS).
    this.handlers = new PageFaultHandlers(lacking, () => {})
    this.#driver = driver
    this.#asked = new PageRequestGroups((last, code) => answer(queue, last, code))
    this.#stalled = new PageRequestGroups((last, code) => resume(queue, last, code))
  }

  /**
   * A device, or one PASID of it, left a domain.
   * @param pasid as {@link PageRequestGroups.withdraw}
   */
  withdraw({ device }: DeviceState, pasid: number | null | "all"): void {
    this.#asked.withdraw(device, pasid)
    this.#stalled.withdraw(device, pasid)
  }

  /** Reads the PRI queue once. @returns records read */
  handle(queue: RecordQueue): number {
    const { records, lost } = queue.take()
    for (const words of records) this.#take(this.#asked, decodePageRequest(words))
    // Some of the requests that overflowed may belong to groups that have begun, §8.1.
    if (lost) this.#asked.discardPartial()
    return records.length
  }

  /** A transaction waits for CMD_RESUME under the given STAG. */
  stalled(record: SmmuV3TranslationRecord, stag: number): void {
    this.#take(this.#stalled, stalledAccess(record, stag))
  }

  #take(groups: PageRequestGroups, request: PageRequest): void {
    const state = this.#driver.deviceAt(request.device)
    const domain = state === null ? undefined : askedDomain(state, request.pasid)
    groups.take(state?.device ?? null, domain && this.handlers.of(domain), request)
  }
}

/** A guest has its PASIDs to itself: the faults of all of them go where its stage 1 is. */
function askedDomain({ rid, pasids }: DeviceState, pasid: number | null): SmmuDomain | undefined {
  return pasid === null || rid.type === "nested" ? rid : pasids.get(pasid)?.domain
}

/** §4.5.2: the answer has a PASID when the request had one. */
function answer(queue: CommandQueue, { device, pasid, group }: PageRequest, code: PageResponse): void {
  const substream = pasid === null ? 0 : (pasid << cmd.SUBSTREAMID_SHIFT) | cmd.SSV
  const resp = code === PageResponseCode.SUCCESS ? RESP_SUCCESS : RESP_INVALID
  queue.push((substream | cmd.CMD_PRI_RESP) >>> 0, device, group | (resp << cmd.PRI_RESP_RESP_SHIFT), 0)
  queue.sync()
}

/** §4.7.1: retry, or terminate with an abort. */
function resume(queue: CommandQueue, { device, group }: PageRequest, code: PageResponse): void {
  const action = code === PageResponseCode.SUCCESS ? cmd.RESUME_AC_RETRY : cmd.RESUME_AB_ABORT
  queue.push(action | cmd.CMD_RESUME, device, group, 0)
  queue.sync()
}

/** Each stalled transaction is a group of its own, known by its STAG. */
function stalledAccess(record: SmmuV3TranslationRecord, stag: number): PageRequest {
  const { device, pasid, address, access, instruction, privileged } = record
  const rights = { read: access === "read", write: access === "write", execute: instruction, privileged }
  return { device, pasid, address, ...rights, last: true, group: stag }
}
