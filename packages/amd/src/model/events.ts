/**
 * The event log, and the records of what went wrong. AMD 48882 rev 3.10, §2.5.
 */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  type Fault,
  fromHalves,
  hex64,
  hi32,
  lo32,
  NO_PASID,
  type PhysicalMemory,
} from "@iommu/core"
import * as dte from "../spec/device-table.ts"
import * as evt from "../spec/events.ts"
import * as reg from "../spec/registers.ts"
import type { InterruptSource } from "./interrupts.ts"
import { dwordOf, type Registers } from "./registers.ts"
import * as why from "./transaction.ts"

const EVTLOG_BASE = dwordOf("EVTLOG_BASE")
const EVT_HEAD = dwordOf("EVT_HEAD")
const EVT_TAIL = dwordOf("EVT_TAIL")

/** HWEV_STATUS: an event is held; another one came meanwhile. */
const HEV = 1n
const HEO = 2n

export class EventLog {
  readonly #registers: Registers
  readonly #memory: PhysicalMemory
  readonly #interrupts: InterruptSource
  /** Devices with DTE.SE whose first page fault has been logged; until their entry is invalidated. */
  readonly #suppressed: Set<number> = new Set()

  constructor(registers: Registers, memory: PhysicalMemory, interrupts: InterruptSource) {
    this.#registers = registers
    this.#memory = memory
    this.#interrupts = interrupts
  }

  /** DTE.SE counts from the next fetch of the entry. */
  forgetDevice(device: number): void {
    this.#suppressed.delete(device)
  }

  forgetAllDevices(): void {
    this.#suppressed.clear()
  }

  /**
   * Ends a transaction: logs its event, where one is to be logged.
   * @param status one of the constants of transaction.ts, not OK
   */
  refuse(status: number, t: why.Transaction): Fault {
    const { event, words, detail } = describe(status, t)
    const silent = event === "IO_PAGE_FAULT" && this.#isSuppressed(status, t)
    const written = !silent && this.append(words)
    if (written && event === "IO_PAGE_FAULT" && (t.dteFlags & dte.SE) !== 0) this.#suppressed.add(t.device)
    return {
      reason: event,
      code: evt.EVENT[event],
      device: t.device,
      pasid: t.pasid === NO_PASID ? null : t.pasid,
      address: fromHalves(t.iovaHi, t.iovaLo),
      access: t.access,
      stage: t.faultStage,
      record: written ? words : null,
      detail,
    }
  }

  /**
   * Writes one entry and moves the tail (§2.5.1).
   * @returns false when logging is off, stopped, or the log is full: the event is lost
   */
  append(words: readonly bigint[]): boolean {
    const registers = this.#registers
    this.#keepHardwareError(words)
    const { dwords } = registers
    const mask = bufferMask(dwords[EVTLOG_BASE + 1] as number)
    if ((registers.status & reg.STATUS_EventLogRun) === 0 || mask < 0) return false
    const tail = (dwords[EVT_TAIL] as number) & mask
    const next = (tail + evt.EVENT_BYTES) & mask
    if (next === ((dwords[EVT_HEAD] as number) & mask)) {
      registers.status = (registers.status | reg.STATUS_EventOverflow) & ~reg.STATUS_EventLogRun
      this.#interrupts.eventLog()
      return false
    }
    const base = registers.get64("EVTLOG_BASE") & 0x000f_ffff_ffff_f000n
    const written = this.#store(base + BigInt(tail), words)
    dwords[EVT_TAIL] = next
    const before = registers.status
    registers.status = before | reg.STATUS_EventLogInt
    if ((before & reg.STATUS_EventLogInt) === 0) this.#interrupts.eventLog()
    return written
  }

  /** Starts or stops logging as CONTROL.EventLogEn and IommuEn say (MMIO Offset 0018h). */
  applyControl(before: number, now: number): void {
    const registers = this.#registers
    const enable = reg.CONTROL_EventLogEn | reg.CONTROL_IommuEn
    const was = (before & enable) === enable
    const is = (now & enable) === enable
    if (!is) registers.status &= ~reg.STATUS_EventLogRun
    else if (!was && bufferMask(registers.dwords[EVTLOG_BASE + 1] as number) >= 0) {
      registers.status = (registers.status | reg.STATUS_EventLogRun) & ~reg.STATUS_EventOverflow
    }
  }

  #isSuppressed(status: number, t: why.Transaction): boolean {
    if (status === why.INTERRUPT_UNMAPPED) return (t.dteInterruptsLo & dte.IG) !== 0
    if ((t.dteFlags & dte.SA) !== 0) return true
    return (t.dteFlags & dte.SE) !== 0 && this.#suppressed.has(t.device)
  }

  #store(address: bigint, words: readonly bigint[]): boolean {
    const at = this.#memory.find(hi32(address), lo32(address))
    if (at < 0) return false
    words.forEach((word, index) => {
      this.#memory.words[at + index * 2] = lo32(word)
      this.#memory.words[at + index * 2 + 1] = hi32(word)
    })
    return true
  }

  /** With HESup, the first hardware error stays readable in registers even when the log fails. */
  #keepHardwareError(words: readonly bigint[]): void {
    const registers = this.#registers
    const code = Number((words[0] as bigint) >> 60n)
    const isHardware =
      code === evt.EVENT.DEV_TAB_HARDWARE_ERROR ||
      code === evt.EVENT.PAGE_TAB_HARDWARE_ERROR ||
      code === evt.EVENT.COMMAND_HARDWARE_ERROR
    if (!isHardware || (registers.get64("EXT_FEATURES") & BigInt(reg.EFR_HESup)) === 0n) return
    const status = registers.get64("HWEV_STATUS")
    if ((status & HEV) !== 0n) {
      registers.set64("HWEV_STATUS", status | HEO)
      return
    }
    registers.set64("HWEV_UPPER", words[0] as bigint)
    registers.set64("HWEV_LOWER", words[1] as bigint)
    registers.set64("HWEV_STATUS", status | HEV)
  }
}

/** Mask of a byte offset in a buffer by the high half of its base register; -1 for a reserved length. */
export function bufferMask(baseHi: number): number {
  const length = (baseHi >>> reg.BUFFER_LEN_HI_SHIFT) & reg.BUFFER_LEN_MASK
  return length < reg.BUFFER_LEN_MIN ? -1 : (1 << (length + evt.EVENT_BYTES_LG2)) - 1
}

/** Refusals of something that is not there: PR = 0. */
const ABSENT: ReadonlySet<number> = new Set([
  why.NOT_PRESENT,
  why.NO_DTE,
  why.NO_TRANSLATION,
  why.NO_GUEST_TRANSLATION,
  why.INTERRUPT_UNMAPPED,
])

interface Described {
  readonly event: evt.EventName
  readonly words: readonly bigint[]
  readonly detail: string
}

function describe(status: number, t: why.Transaction): Described {
  switch (status) {
    case why.DTE_RESERVED_BIT:
      return illegalDte(t, 1n, "the device table entry has a reserved bit set")
    case why.DTE_ILLEGAL_VALUE:
      return illegalDte(t, 0n, "a field of the device table entry has a reserved or unsupported value")
    case why.DTE_ERROR:
      return hardwareError("DEV_TAB_HARDWARE_ERROR", t)
    case why.TABLE_ERROR:
      return hardwareError("PAGE_TAB_HARDWARE_ERROR", t)
    case why.INTERRUPT_READ:
      return invalidRequest(t, evt.INVALID_READ_OF_INTERRUPT_RANGE, "a read of the interrupt address range")
    case why.TRANSLATED_REFUSED:
      return invalidRequest(t, evt.TRANSLATED_NOT_ALLOWED, "a translated request of a device without ATS")
    case why.TRANSLATION_REFUSED:
      return invalidRequest(t, evt.TRANSLATION_NOT_ALLOWED, "a translation request of a device without ATS")
    case why.TRANSLATION_OF_RESERVED_RANGE:
      return invalidRequest(
        t,
        evt.TRANSLATION_OF_RESERVED_RANGE,
        "a translation request for an address that is not memory",
      )
    case why.PORT_IO_BLOCKED:
      return invalidRequest(t, evt.PORT_IO_NOT_ALLOWED, "DTE.IoCtl blocks port I/O of the device")
    case why.SYSTEM_MANAGEMENT_BLOCKED:
      return invalidRequest(t, evt.SYSTEM_MANAGEMENT_NOT_ALLOWED, "DTE.SysMgt blocks messages of the device")
    case why.SYSTEM_MANAGEMENT_READ:
      return invalidRequest(
        t,
        evt.INVALID_READ_OF_SYSTEM_MANAGEMENT,
        "a read of the system management address range",
      )
    case why.SYSTEM_MANAGEMENT_UNTRANSLATED:
      return invalidRequest(
        t,
        evt.SYSTEM_MANAGEMENT_NOT_TRANSLATED,
        "DTE.SysMgt sends messages through tables, but the entry has none (TV)",
      )
    case why.INTERRUPT_BLOCKED:
      return invalidRequest(t, evt.INTERRUPT_NOT_ALLOWED, "DTE.IntCtl blocks interrupts of the device")
    default:
      return pageFault(status, t)
  }
}

function pageFault(status: number, t: why.Transaction): Described {
  const present = !ABSENT.has(status)
  const guest = t.faultIsGuest === 1
  const words = evt.IO_PAGE_FAULT.encode({
    ...deviceAndPasid(t),
    DomainID: guest ? pasidOf(t) & 0xffffn : BigInt(t.domainId),
    GN: guest ? 1n : 0n,
    NX: guest && (t.access & ACCESS_EXEC) !== 0 ? 1n : 0n,
    US: guest && (t.access & ACCESS_PRIV) === 0 ? 1n : 0n,
    I: status === why.INTERRUPT_UNMAPPED ? 1n : 0n,
    PR: present ? 1n : 0n,
    RW: writeFlag(t),
    PE: status === why.NO_PERMISSION ? 1n : 0n,
    RZ: status === why.RESERVED_BIT ? 1n : 0n,
    TR: BigInt(t.isTranslationRequest),
    Code: BigInt(evt.EVENT.IO_PAGE_FAULT),
    Address: fromHalves(t.faultHi, t.faultLo),
  })
  return { event: "IO_PAGE_FAULT", words, detail: pageFaultDetail(status, t) }
}

function pageFaultDetail(status: number, t: why.Transaction): string {
  const address = `${t.faultIsGuest === 1 ? "guest virtual" : "device"} address ${hex64(fromHalves(t.faultHi, t.faultLo))}`
  const tables = t.faultStage === 2 ? "host tables" : t.faultStage === 1 ? "guest tables" : "configuration"
  switch (status) {
    case why.NO_DTE:
      return `DeviceID ${hex64(BigInt(t.device))} lies beyond the device table`
    case why.NO_TRANSLATION:
      return "the device table entry has no translation (TV)"
    case why.NO_GUEST_TRANSLATION:
      return "the device has no guest translation for a PASID (DTE.GV, CONTROL.GTEn)"
    case why.INTERRUPT_UNMAPPED:
      return "interrupt tables are not modelled: the message counts as not remapped"
    case why.NO_PERMISSION:
      return `${tables}: ${t.faultIsWrite === 0 ? "read" : "write"} not allowed at ${address}`
    case why.RESERVED_BIT:
      return `${tables}: reserved bit set on the way to ${address}`
    case why.ILLEGAL_LEVEL:
      return `${tables}: illegal level or page size on the way to ${address}`
    default:
      return `${tables}: nothing present at ${address}`
  }
}

function illegalDte(t: why.Transaction, rz: bigint, detail: string): Described {
  const words = evt.ILLEGAL_DEV_TABLE_ENTRY.encode({
    ...deviceAndPasid(t),
    PASID_15_0: t.faultIsGuest === 1 ? pasidOf(t) & 0xffffn : 0n,
    GN: BigInt(t.faultIsGuest),
    RW: writeFlag(t),
    RZ: rz,
    TR: BigInt(t.isTranslationRequest),
    Code: BigInt(evt.EVENT.ILLEGAL_DEV_TABLE_ENTRY),
    Address: fromHalves(t.iovaHi, t.iovaLo) >> 2n,
  })
  return { event: "ILLEGAL_DEV_TABLE_ENTRY", words, detail }
}

function hardwareError(
  event: "DEV_TAB_HARDWARE_ERROR" | "PAGE_TAB_HARDWARE_ERROR",
  t: why.Transaction,
): Described {
  const address = fromHalves(t.errorHi, t.errorLo)
  const common = {
    DeviceID: BigInt(t.device),
    RW: writeFlag(t),
    TR: BigInt(t.isTranslationRequest),
    Type: BigInt(evt.MASTER_ABORT),
    Code: BigInt(evt.EVENT[event]),
  }
  const detail = `no memory answers at ${hex64(address)}`
  if (event === "DEV_TAB_HARDWARE_ERROR") {
    return { event, words: evt.DEV_TAB_HARDWARE_ERROR.encode({ ...common, Address: address >> 4n }), detail }
  }
  const guest = t.faultIsGuest === 1
  const words = evt.PAGE_TAB_HARDWARE_ERROR.encode({
    ...common,
    ...deviceAndPasid(t),
    DomainID: guest ? pasidOf(t) & 0xffffn : BigInt(t.domainId),
    GN: guest ? 1n : 0n,
    Address: address >> 3n,
  })
  return { event, words, detail }
}

function invalidRequest(t: why.Transaction, type: number, detail: string): Described {
  const guest = t.faultIsGuest === 1
  const words = evt.INVALID_DEVICE_REQUEST.encode({
    ...deviceAndPasid(t),
    PASID_15_0: guest ? pasidOf(t) & 0xffffn : 0n,
    GN: guest ? 1n : 0n,
    NX: guest && (t.access & ACCESS_EXEC) !== 0 ? 1n : 0n,
    US: guest && (t.access & ACCESS_PRIV) === 0 ? 1n : 0n,
    TR: BigInt(t.isTranslationRequest),
    Type: BigInt(type),
    Code: BigInt(evt.EVENT.INVALID_DEVICE_REQUEST),
    Address: fromHalves(t.iovaHi, t.iovaLo),
  })
  return { event: "INVALID_DEVICE_REQUEST", words, detail }
}

function deviceAndPasid(t: why.Transaction): { DeviceID: bigint; PASID_19_16: bigint } {
  return {
    DeviceID: BigInt(t.device & 0xffff),
    PASID_19_16: t.faultIsGuest === 1 ? (pasidOf(t) >> 16n) & 0xfn : 0n,
  }
}

/** Requests without a PASID have PASID 0 in guest tables (DTE.GIOV). */
function pasidOf(t: why.Transaction): bigint {
  return t.pasid === NO_PASID ? 0n : BigInt(t.pasid >>> 0)
}

/** A translation request neither reads nor writes (§2.5.3: RW has a meaning with TR = 0 only). */
function writeFlag(t: why.Transaction): bigint {
  return t.faultIsWrite === 0 || t.isTranslationRequest === 1 ? 0n : 1n
}
