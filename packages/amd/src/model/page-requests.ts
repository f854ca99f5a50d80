/**
 * Peripheral page requests and their log. AMD 48882 rev 3.10, §2.6; control and status in §3.4. PPR log B is not
 * modelled: DualPprLogSup is 0.
 */
import { hi32, lo32, NO_PASID, type PageRequest, type PhysicalMemory, PRI_INVALID_REQUEST } from "@iommu/core"
import * as dte from "../spec/device-table.ts"
import * as evt from "../spec/events.ts"
import * as reg from "../spec/registers.ts"
import type { Ats } from "./ats.ts"
import type { DeviceEntries } from "./device-entry.ts"
import { bufferMask, type EventLog } from "./events.ts"
import type { InterruptSource } from "./interrupts.ts"
import { dwordOf, type Registers } from "./registers.ts"
import { OK, type Transaction } from "./transaction.ts"

const CONTROL = dwordOf("CONTROL")
const EXT_FEATURES = dwordOf("EXT_FEATURES")
const PPR_BASE = dwordOf("PPR_BASE")
const PPR_HEAD = dwordOf("PPR_HEAD")
const PPR_TAIL = dwordOf("PPR_TAIL")
const AUTO_RESPONSE = dwordOf("PPR_AUTO_RESPONSE")
const OVERFLOW_EARLY = dwordOf("PPR_OVERFLOW_EARLY")

/** The PPR log has the shape of the event log. */
const ENTRY_BYTES = evt.EVENT_BYTES
const ENTRY_BYTES_LG2 = evt.EVENT_BYTES_LG2

export class PageRequests {
  readonly #registers: Registers
  readonly #memory: PhysicalMemory
  readonly #transaction: Transaction
  readonly #entries: DeviceEntries
  readonly #events: EventLog
  readonly #interrupts: InterruptSource
  readonly #ats: Ats

  constructor(
    registers: Registers,
    memory: PhysicalMemory,
    transaction: Transaction,
    entries: DeviceEntries,
    events: EventLog,
    interrupts: InterruptSource,
    ats: Ats,
  ) {
    this.#registers = registers
    this.#memory = memory
    this.#transaction = transaction
    this.#entries = entries
    this.#events = events
    this.#interrupts = interrupts
    this.#ats = ats
  }

  /** Starts or stops logging as CONTROL.PPRLogEn and IommuEn say (MMIO Offset 0018h). */
  applyControl(before: number, now: number): void {
    const registers = this.#registers
    const enable = reg.CONTROL_PPRLogEn | reg.CONTROL_IommuEn
    const was = (before & enable) === enable
    const is = (now & enable) === enable
    if (!is) registers.status &= ~reg.STATUS_PprLogRun
    else if (!was && bufferMask(registers.dwords[PPR_BASE + 1] as number) >= 0) {
      registers.status = (registers.status | reg.STATUS_PprLogRun) & ~reg.STATUS_PprOverflow
    }
  }

  /**
   * Takes a request in: into the log, or, where it cannot be served, to its answer. A group is answered once, with its
   * last request.
   */
  receive(request: PageRequest): void {
    if (!this.#isServed(request)) {
      this.#events.append(
        encode(evt.INVALID_PPR_REQUEST, evt.EVENT.INVALID_PPR_REQUEST, request, request.address),
      )
      this.#respond(request, PRI_INVALID_REQUEST, request.pasid)
      return
    }
    if (this.#has(reg.CONTROL_PprAutoRspAon_HI)) {
      this.#respondAutomatically(request)
      return
    }
    if (!this.#append(request) && this.#has(reg.CONTROL_PprAutoRspEn_HI)) this.#respondAutomatically(request)
  }

  /** EXT_FEATURES.PPRSup, CONTROL.PPREn, and DTE.V and TV of the device; with CONTROL.EPHEn also DTE.PPR. */
  #isServed(request: PageRequest): boolean {
    const needed = reg.CONTROL_IommuEn | reg.CONTROL_PPREn
    const { control, dwords, enhancedPageRequests } = this.#registers
    if ((control & needed) !== needed || ((dwords[EXT_FEATURES] as number) & reg.EFR_PPRSup) === 0)
      return false
    const t = this.#transaction
    t.begin(request.device, request.pasid ?? NO_PASID, hi32(request.address), lo32(request.address), 0)
    if (this.#entries.load() !== OK || !this.#entries.valid) return false
    return !enhancedPageRequests || (t.dteGuest & dte.PPR) !== 0
  }

  /** A control bit of automatic responses, where EXT_FEATURES has them. */
  #has(controlHi: number): boolean {
    const { dwords } = this.#registers
    if (((dwords[EXT_FEATURES + 1] as number) & reg.EFR_PprAutoRspSup_HI) === 0) return false
    return ((dwords[CONTROL + 1] as number) & controlHi) !== 0
  }

  /** @returns false when the log does not run or is full: the request is lost */
  #append(request: PageRequest): boolean {
    const registers = this.#registers
    const { dwords } = registers
    const mask = bufferMask(dwords[PPR_BASE + 1] as number)
    if ((registers.status & reg.STATUS_PprLogRun) === 0 || mask < 0) return false
    const head = (dwords[PPR_HEAD] as number) & mask
    const tail = (dwords[PPR_TAIL] as number) & mask
    const next = (tail + ENTRY_BYTES) & mask
    if (next === head) {
      registers.status = (registers.status | reg.STATUS_PprOverflow) & ~reg.STATUS_PprLogRun
      this.#interrupts.pprLog()
      return false
    }
    this.#store(tail, request)
    dwords[PPR_TAIL] = next
    this.#warn(((next - head) & mask) >> ENTRY_BYTES_LG2)
    const before = registers.status
    registers.status = before | reg.STATUS_PprInt
    if ((before & reg.STATUS_PprInt) === 0) this.#interrupts.pprLog()
    return true
  }

  #store(tail: number, request: PageRequest): void {
    const address = (this.#registers.get64("PPR_BASE") & 0x000f_ffff_ffff_f000n) + BigInt(tail)
    const words = encode(
      evt.PAGE_SERVICE_REQUEST,
      evt.PPR_PAGE_SERVICE_REQUEST,
      request,
      (request.address & ((1n << 64n) - 1n)) >> 12n,
    )
    const at = this.#memory.find(hi32(address), lo32(address))
    if (at < 0) return
    words.forEach((word, index) => {
      this.#memory.words[at + index * 2] = lo32(word)
      this.#memory.words[at + index * 2 + 1] = hi32(word)
    })
  }

  /** MMIO Offset 2088h. @param used entries that software has not taken yet */
  #warn(used: number): void {
    const registers = this.#registers
    const { dwords } = registers
    const early = dwords[OVERFLOW_EARLY] as number
    const isSupported = ((dwords[EXT_FEATURES + 1] as number) & reg.EFR_PprOvrflwEarlySup_HI) !== 0
    if (!isSupported || (early & reg.EARLY_En) === 0 || used < (early & reg.EARLY_Threshold)) return
    const before = registers.status
    registers.status = before | reg.STATUS_PprOvrflwEarly
    const isNew = (before & reg.STATUS_PprOvrflwEarly) === 0
    if (isNew && (early & reg.EARLY_IntEn) !== 0) this.#interrupts.pprOverflowEarly()
  }

  /** MMIO Offset 2080h. */
  #respondAutomatically(request: PageRequest): void {
    const auto = this.#registers.dwords[AUTO_RESPONSE] as number
    const withPasid =
      (auto & reg.AUTO_PprAutoRespMaskGn) === 0 && (this.#transaction.dteGuest & dte.GPRP) !== 0
    this.#respond(request, auto & reg.AUTO_PprAutoRespCode, withPasid ? request.pasid : null)
  }

  #respond(request: PageRequest, code: number, pasid: number | null): void {
    if (request.last) this.#ats.deviceAt(request.device)?.pageGroupResponse(request.group, pasid, code)
  }
}

type RequestLayout = typeof evt.INVALID_PPR_REQUEST | typeof evt.PAGE_SERVICE_REQUEST

function encode(layout: RequestLayout, code: number, request: PageRequest, address: bigint): bigint[] {
  const pasid = BigInt((request.pasid ?? 0) >>> 0)
  return layout.encode({
    DeviceID: BigInt(request.device & 0xffff),
    PASID_15_0: pasid & 0xffffn,
    PASID_19_16: (pasid >> 16n) & 0xfn,
    Tag: BigInt(request.group & 0x1ff),
    Last: flag(request.last),
    EX: flag(request.execute),
    RD: flag(request.read),
    WR: flag(request.write),
    US: flag(request.pasid !== null && !request.privileged),
    GN: flag(request.pasid !== null),
    Code: BigInt(code),
    Address: BigInt.asUintN(64, address),
  })
}

const flag = (value: boolean): bigint => (value ? 1n : 0n)
