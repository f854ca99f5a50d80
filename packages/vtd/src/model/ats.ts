/**
 * Device-TLBs: translation requests, translated requests, and what the unit sends to the devices.
 * Intel VT-d 5.10 (D51397-018) chapter 4; what a fault answers is in Table 30 (§7.1.3).
 */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  ATS_COMPLETER_ABORT,
  ATS_SUCCESS,
  ATS_UNSUPPORTED_REQUEST,
  type AtsCompletion,
  type AtsDevice,
  type Fault,
  fromHalves,
} from "@iommu/core"
import * as cmd from "../spec/commands.ts"
import * as fr from "../spec/events.ts"
import { attributesOf, SNOOPED } from "./attributes.ts"
import { resolveEntries } from "./device-entry.ts"
import type { FaultLog } from "./events.ts"
import { findTranslation, prepareLookUp } from "./tlb.ts"
import {
  MODE_PASS_THROUGH,
  REQUEST_TRANSLATED,
  REQUEST_TRANSLATION,
  type Transaction,
} from "./transaction.ts"
import {
  checkOutput,
  identity,
  isInterruptAddress,
  translateResolved,
  type VtdTranslationResult,
} from "./translate.ts"

const READ_WRITE = ACCESS_READ | ACCESS_WRITE
const PAGE_LG2 = 12
/** The interrupt address range, FEEx_xxxxh, is 1 MiB. §3.15. */
const INTERRUPT_RANGE = 0xfee
const INTERRUPT_RANGE_LG2 = 20

/** Devices that can be asked to invalidate and be answered, by source-id. Others hold nothing: they are done. */
export class AtsDevices {
  readonly #devices = new Map<number, AtsDevice>()

  connect(device: number, ats: AtsDevice): void {
    this.#devices.set(device & 0xffff, ats)
  }

  /** §6.5.2.5. @returns false when the device does not answer in time */
  invalidate(device: number, hi: number, lo: number, sized: boolean): boolean {
    return this.#invalidate(device, hi, lo, sized, null, false)
  }

  /** §6.5.2.6; `lo` has GI and S beside the address. */
  invalidatePasid(device: number, pasid: number, hi: number, lo: number): boolean {
    const all = (lo & cmd.P_DEV_TLB_GI_LO1) !== 0
    return this.#invalidate(device, hi, lo, (lo & cmd.P_DEV_TLB_S_LO1) !== 0, all ? null : pasid, all)
  }

  /** §7.6.1. */
  respond(device: number, group: number, pasid: number | null, code: number): void {
    this.#devices.get(device)?.pageGroupResponse(group, pasid, code)
  }

  #invalidate(
    device: number,
    hi: number,
    lo: number,
    sized: boolean,
    pasid: number | null,
    allPasids: boolean,
  ): boolean {
    const ats = this.#devices.get(device)
    if (ats === undefined) return true
    const sizeLg2 = sized ? rangeLg2(hi, lo) : PAGE_LG2
    const from = (fromHalves(hi, lo) >> BigInt(sizeLg2)) << BigInt(sizeLg2)
    return ats.invalidate(from, sizeLg2, pasid, allPasids)
  }
}

/** The lowest zero from bit 12 on is the highest bit below the size. PCI Express Base 6.0 chapter 10, S field of an invalidation. */
function rangeLg2(hi: number, lo: number): number {
  const zeroLo = ~(lo | 0xfff)
  if (zeroLo !== 0) return lowestBit(zeroLo) + 1
  return ~hi === 0 ? 64 : lowestBit(~hi) + 33
}

function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word)
}

/** Requests with an address type other than "untranslated", while remapping is enabled. */
export class AtsPort {
  readonly completion: AtsCompletion = {
    addressHi: 0,
    addressLo: 0,
    sizeLg2: PAGE_LG2,
    allowed: 0,
    global: false,
    untranslatedOnly: false,
    nonSnooped: false,
  }
  fault: Fault | null = null
  readonly #transaction: Transaction
  readonly #log: FaultLog
  readonly #result: VtdTranslationResult

  constructor(transaction: Transaction, log: FaultLog, result: VtdTranslationResult) {
    this.#transaction = transaction
    this.#log = log
    this.#result = result
  }

  /** Remapping is disabled. §4.2.1. */
  refuse(): number {
    this.fault = null
    return ATS_UNSUPPORTED_REQUEST
  }

  /** §4.2.3. */
  translationRequest(device: number, pasid: number, hi: number, lo: number, access: number): number {
    const t = this.#transaction
    const { features } = t
    this.fault = null
    t.begin(REQUEST_TRANSLATION, device, pasid, hi, lo, access)
    // Without NWFS, NW counts for nothing: each request is read and write.
    const write = (access & ACCESS_WRITE) !== 0 || !features.noWriteFlag
    const privileged = pasid < 0 ? 0 : access & ACCESS_PRIV
    this.#answer(0, 0, PAGE_LG2, privileged)
    let reason = resolveEntries(t)
    // Served execute requests get no execute permission.
    t.access &= ~ACCESS_EXEC
    if (reason === 0) {
      if (pasid < 0 && isInterruptAddress(hi, lo)) return this.#answerInterruptRange(write)
      reason = t.mode === MODE_PASS_THROUGH ? this.#passThrough(t) : this.#translate(t, write)
    }
    if (reason === 0) {
      const { paHi, paLo, sizeLg2, allowed, attributes } = this.#result
      const granted = allowed & (write ? READ_WRITE : ACCESS_READ)
      if (granted === 0) return ATS_SUCCESS
      this.#answer(paHi, paLo, sizeLg2, granted | privileged)
      this.completion.nonSnooped = (attributes & SNOOPED) !== 0
      return ATS_SUCCESS
    }
    t.access = access
    if (fr.COMPLETER_ABORTS.has(reason)) {
      this.fault = this.#log.report(t)
      return ATS_COMPLETER_ABORT
    }
    if (fr.UNSUPPORTED_REQUESTS.has(reason)) {
      this.fault = this.#log.report(t)
      return ATS_UNSUPPORTED_REQUEST
    }
    return ATS_SUCCESS
  }

  /** Writes are tried first: they set dirty flags, as a translation that may be written to must. §4.2.3.1. */
  #translate(t: Transaction, write: boolean): number {
    const result = this.#result
    const reads = t.access & ~READ_WRITE
    t.access = write ? reads | ACCESS_WRITE : reads
    let reason = translateOnce(t, result)
    if (reason === fr.LGN_2 || reason === fr.SGN_6) {
      t.access = reads
      reason = translateOnce(t, result)
    }
    if (reason === 0 && !t.legacy && overlapsInterruptRange(result)) {
      return t.fail(fr.SGN_8, 2, result.paHi, result.paLo)
    }
    return reason
  }

  /** The largest page around the address. */
  #passThrough(t: Transaction): number {
    if ((t.iovaHi & t.features.pointerRsvdHi) !== 0) return t.fail(fr.SGN_4, 0, t.iovaHi, t.iovaLo)
    identity(t, this.#result)
    this.#result.attributes = attributesOf(t)
    this.#result.sizeLg2 = t.features.largestPageLg2
    return 0
  }

  /** Conditions S.1 and S.2: interrupt messages go untranslated. */
  #answerInterruptRange(write: boolean): number {
    if (write) {
      this.completion.allowed = ACCESS_WRITE
      this.completion.untranslatedOnly = true
    }
    return ATS_SUCCESS
  }

  #answer(hi: number, lo: number, sizeLg2: number, allowed: number): void {
    const c = this.completion
    c.addressHi = hi
    c.addressLo = (lo & -(1 << sizeLg2)) >>> 0
    c.sizeLg2 = sizeLg2
    c.allowed = allowed
    c.untranslatedOnly = false
    c.nonSnooped = false
  }

  /** §4.2.5, §4.2.1: with PASID never, as in revision 4.1. @returns 0 or the fault reason, -1 without one */
  translatedRequest(device: number, pasid: number, hi: number, lo: number, access: number): number {
    const t = this.#transaction
    this.fault = null
    if (pasid >= 0) return -1
    t.begin(REQUEST_TRANSLATED, device, pasid, hi, lo, access)
    const reason = resolveEntries(t) || checkHostAddress(t)
    if (reason !== 0) this.fault = this.#log.report(t)
    return reason
  }
}

/** From the IOTLB, as untranslated requests are, or from the tables. §6.5.2.5. */
function translateOnce(t: Transaction, result: VtdTranslationResult): number {
  prepareLookUp(t)
  if (t.looksUp && findTranslation(t, result)) return checkOutput(t, result)
  return translateResolved(t, result)
}

/** LGN.1.2, SGN.4.1; LGN.4, SGN.8.3. */
function checkHostAddress(t: Transaction): number {
  if ((t.iovaHi & t.features.pointerRsvdHi) !== 0) {
    return t.fail(t.legacy ? fr.LGN_1 : fr.SGN_4, 0, t.iovaHi, t.iovaLo)
  }
  if (!isInterruptAddress(t.iovaHi, t.iovaLo)) return 0
  return t.fail(t.legacy ? fr.LGN_4 : fr.SGN_8, 0, t.iovaHi, t.iovaLo)
}

/** SGN.8.2 judges the whole range of a translation: the device is going to use all of it. */
function overlapsInterruptRange(result: VtdTranslationResult): boolean {
  const lg2 = Math.max(result.sizeLg2, INTERRUPT_RANGE_LG2)
  const first = INTERRUPT_RANGE * 2 ** INTERRUPT_RANGE_LG2
  return result.paHi === 0 && result.paLo >>> lg2 === first >>> lg2
}
