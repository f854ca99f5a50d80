/**
 * Devices with an address translation cache (the book's IOTLB): translation requests, translated requests and
 * invalidations. AMD 48882 rev 3.10, §2.2.2.1 (DTE.I), §2.4.4 and §2.5.9; PCI Express Base 6.0 §10.
 */
import {
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  ATS_COMPLETER_ABORT,
  ATS_SUCCESS,
  ATS_UNSUPPORTED_REQUEST,
  type AtsCompletion,
  type AtsDevice,
  type Fault,
  NO_PASID,
} from "@iommu/core"
import * as cmd from "../spec/commands.ts"
import * as dte from "../spec/device-table.ts"
import * as reg from "../spec/registers.ts"
import {
  isInterruptRange,
  isRefusal,
  SPECIAL_HI,
  specialAddress,
  type TableProbe,
  THROUGH_TABLES,
} from "./attributes.ts"
import type { DeviceEntries } from "./device-entry.ts"
import type { EventLog } from "./events.ts"
import type { Registers } from "./registers.ts"
import {
  NO_DTE,
  NO_GUEST_TRANSLATION,
  NO_TRANSLATION,
  OK,
  TRANSLATED_REFUSED,
  TRANSLATION_OF_RESERVED_RANGE,
  TRANSLATION_REFUSED,
  type Transaction,
} from "./transaction.ts"
import type { Translator } from "./translate.ts"

/** A completion without rights covers the smallest page. */
const NOTHING_SIZE_LG2 = 12

export class Ats {
  readonly completion: AtsCompletion = {
    addressHi: 0,
    addressLo: 0,
    sizeLg2: 0,
    allowed: 0,
    global: false,
    untranslatedOnly: false,
  }
  fault: Fault | null = null
  private readonly registers: Registers
  private readonly transaction: Transaction
  private readonly entries: DeviceEntries
  private readonly probe: TableProbe
  private readonly translator: Translator
  private readonly events: EventLog
  private readonly devices: Map<number, AtsDevice> = new Map()

  constructor(
    registers: Registers,
    transaction: Transaction,
    entries: DeviceEntries,
    probe: TableProbe,
    translator: Translator,
    events: EventLog,
  ) {
    this.registers = registers
    this.transaction = transaction
    this.entries = entries
    this.probe = probe
    this.translator = translator
    this.events = events
  }

  connect(device: number, ats: AtsDevice): void {
    this.devices.set(device, ats)
  }

  deviceAt(device: number): AtsDevice | undefined {
    return this.devices.get(device)
  }

  /** A translation request. What an event says of it, it says with TR = 1. */
  translationRequest(device: number, pasid: number, hi: number, lo: number, access: number): number {
    const t = this.transaction
    t.begin(device, pasid, hi, lo, access)
    t.isTranslationRequest = 1
    this.fault = null
    const answer = this.answer(hi, lo, access)
    t.isTranslationRequest = 0
    return answer
  }

  private answer(hi: number, lo: number, access: number): number {
    if ((this.registers.control & reg.CONTROL_IommuEn) === 0) return ATS_UNSUPPORTED_REQUEST
    const { entries, transaction, translator } = this
    const loaded = entries.load()
    if (loaded === NO_DTE || loaded === NO_GUEST_TRANSLATION)
      return this.refuse(loaded, ATS_UNSUPPORTED_REQUEST)
    if (loaded !== OK && loaded !== NO_TRANSLATION) return this.refuse(loaded, ATS_COMPLETER_ABORT)
    if (loaded === NO_TRANSLATION || !entries.valid || (transaction.dteFlags & dte.I) === 0) {
      return this.refuse(TRANSLATION_REFUSED, ATS_UNSUPPORTED_REQUEST)
    }
    if (transaction.pasid === NO_PASID) {
      if (isInterruptRange(hi, lo) || isSpecial(transaction, hi, lo)) {
        return this.refuse(TRANSLATION_OF_RESERVED_RANGE, ATS_UNSUPPORTED_REQUEST)
      }
      if (translator.isInExclusionRange(hi, lo)) {
        return this.complete(hi, lo, NOTHING_SIZE_LG2, access & (ACCESS_READ | ACCESS_WRITE))
      }
    }
    return this.throughTables(hi, lo, access)
  }

  /**
   * Rights first, without a mark in any table; then the walk of an access that uses what the completion grants. So
   * only what the device may do becomes accessed and dirty, and D is set before the device writes.
   */
  private throughTables(hi: number, lo: number, access: number): number {
    const { probe, translator, transaction } = this
    const probed = probe.probe(hi, lo, access & ACCESS_PRIV)
    if (probed !== OK) return this.refuseTables(probed)
    const granted = probe.allowed & access
    if ((granted & (ACCESS_READ | ACCESS_WRITE)) === 0) return this.complete(0, 0, NOTHING_SIZE_LG2, 0)
    transaction.access = granted
    const walked = translator.walkTables(hi, lo, granted)
    transaction.access = access
    if (isRefusal(walked)) return this.complete(0, 0, NOTHING_SIZE_LG2, 0)
    if (walked !== OK) return this.refuseTables(walked)
    const { paHi, paLo, sizeLg2 } = translator.result
    const answer = this.complete(paHi, paLo, sizeLg2, granted)
    this.completion.global = transaction.pasid !== NO_PASID && probe.global
    this.completion.untranslatedOnly = probe.untranslatedOnly
    return answer
  }

  private complete(hi: number, lo: number, sizeLg2: number, allowed: number): number {
    const { completion } = this
    completion.addressHi = pageStartHi(hi, sizeLg2)
    completion.addressLo = pageStartLo(lo, sizeLg2)
    completion.sizeLg2 = sizeLg2
    completion.allowed = allowed
    completion.global = false
    completion.untranslatedOnly = false
    return ATS_SUCCESS
  }

  private refuse(status: number, answer: number): number {
    this.transaction.refuseByEntry()
    this.fault = this.events.refuse(status, this.transaction)
    return answer
  }

  /** The walk has said where it ended. */
  private refuseTables(status: number): number {
    this.fault = this.events.refuse(status, this.transaction)
    return ATS_COMPLETER_ABORT
  }

  /**
   * A request with a translated address: it is not looked up again, so the device must be trusted with ATS
   * (DTE.I). Where DTE.SATS asks for more than that, it is refused.
   * @returns 0 when it reaches memory
   */
  translatedRequest(device: number, pasid: number, hi: number, lo: number, access: number): number {
    const { entries, transaction } = this
    transaction.begin(device, pasid, hi, lo, access)
    this.fault = null
    if ((this.registers.control & reg.CONTROL_IommuEn) === 0) return OK
    const loaded = entries.load()
    if (loaded !== OK && loaded !== NO_TRANSLATION && loaded !== NO_GUEST_TRANSLATION) {
      this.refuse(loaded, ATS_COMPLETER_ABORT)
      return loaded
    }
    if (!entries.valid || (transaction.dteFlags & (dte.I | dte.SATS)) !== dte.I) {
      this.refuse(TRANSLATED_REFUSED, ATS_UNSUPPORTED_REQUEST)
      return TRANSLATED_REFUSED
    }
    if (pasid !== NO_PASID || !isInterruptRange(hi, lo)) return OK
    const status = this.translator.interrupt(hi, lo, access)
    if (status !== OK) this.fault = this.translator.result.fault
    return status
  }

  /**
   * INVALIDATE_IOTLB_PAGES.
   * @returns false when the device does not answer; a device that is not connected has nothing to drop
   */
  invalidate(words: readonly bigint[]): boolean {
    const fields = cmd.INVALIDATE_IOTLB_PAGES.decode(words)
    const device = this.devices.get(Number(fields.DeviceID))
    if (device === undefined) return true
    const { first, last } = cmd.decodeInvalidateRange(fields.Address, fields.S)
    const sizeLg2 = (last - first).toString(2).length
    const pasid = (fields.PASID_19_16 << 16n) | (fields.PASID_15_8 << 8n) | fields.PASID_7_0
    return device.invalidate(first, sizeLg2, fields.GN === 1n ? Number(pasid) : null, false)
  }

  /** COMPLETE_PPR_REQUEST: the answer to a page request group. */
  completePageRequest(words: readonly bigint[]): void {
    const fields = cmd.COMPLETE_PPR_REQUEST.decode(words)
    const group = Number(fields.CompletionTag & 0x1ffn)
    const pasid = fields.GN === 1n ? Number(fields.PASID) : null
    const code = Number(fields.CompletionTag >> 12n)
    this.devices.get(Number(fields.DeviceID))?.pageGroupResponse(group, pasid, code)
  }
}

/** System management and port I/O are never translated for an ATC, unless DTE sends them through tables. */
function isSpecial(t: Transaction, hi: number, lo: number): boolean {
  return hi === SPECIAL_HI && specialAddress(t, lo, t.access, OK) !== THROUGH_TABLES
}

function pageStartLo(lo: number, sizeLg2: number): number {
  return sizeLg2 >= 32 ? 0 : (lo & ~((1 << sizeLg2) - 1)) >>> 0
}

function pageStartHi(hi: number, sizeLg2: number): number {
  return sizeLg2 <= 32 ? hi >>> 0 : (hi & ~((1 << (sizeLg2 - 32)) - 1)) >>> 0
}
