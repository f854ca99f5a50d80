/**
 * PCIe ATS: translation requests, translated transactions, and the devices that make them.
 * Arm IHI 0070 G.b §3.9.1, §4.5, §13.6, §13.7.
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
  NO_PASID,
  PRI_INVALID_REQUEST,
  PRI_RESPONSE_FAILURE,
  PRI_SUCCESS,
  REFUSED,
  TRANSLATED,
} from "@iommu/core"
import * as cmd from "../spec/commands.ts"
import * as ste from "../spec/device-table.ts"
import { EVENTS } from "../spec/events.ts"
import { CR0_ATSCHK, CR2_REC_CFG_ATS, CR2_RECINVSID } from "../spec/registers.ts"
import { ABORT, type DeviceEntry, SKIP_STAGE1 } from "./device-entry.ts"
import type { Registers } from "./registers.ts"
import type { Translator } from "./translate.ts"

const READ_WRITE = ACCESS_READ | ACCESS_WRITE

/** ResponseCode of a PRG Response by Resp, §8.3. */
const RESPONSE_CODES = [PRI_RESPONSE_FAILURE, PRI_INVALID_REQUEST, PRI_SUCCESS]

/** The way to the devices with an ATC, for commands and automatic answers. */
export class AtsPort {
  readonly #devices = new Map<number, AtsDevice>()
  #timedOut = false

  connect(device: number, ats: AtsDevice): void {
    this.#devices.set(device >>> 0, ats)
  }

  /** CMD_ATC_INV, whose four words these are; where nobody is connected there is nothing to invalidate. §4.5.1. */
  invalidateAs([w0, device, w2, w3]: Uint32Array, pasid: number | null): void {
    const target = this.#devices.get(device)
    if (target === undefined) return
    const sizeLg2 = 12 + (w2 & cmd.ATC_INV_SIZE)
    const address = BigInt.asUintN(64, (fromHalves(w3, w2) >> BigInt(sizeLg2)) << BigInt(sizeLg2))
    const global = pasid !== null && (w0 & cmd.ATC_INV_GLOBAL) !== 0
    if (!target.invalidate(address, sizeLg2, pasid, global)) this.#timedOut = true
  }

  /** CMD_PRI_RESP. §4.5.2. */
  respondAs([, device, w2]: Uint32Array, pasid: number | null): void {
    const answer = (w2 & cmd.PRI_RESP_RESP) >>> cmd.PRI_RESP_RESP_SHIFT
    this.respond(device, w2 & cmd.PRI_RESP_PRGINDEX, pasid, RESPONSE_CODES[answer] as number)
  }

  /** Whether an invalidation before this CMD_SYNC timed out; it is reported once. §3.9.1.4. */
  takeTimeout(): boolean {
    const timedOut = this.#timedOut
    this.#timedOut = false
    return timedOut
  }

  respond(device: number, group: number, pasid: number | null, code: number): void {
    this.#devices.get(device)?.pageGroupResponse(group, pasid, code)
  }
}

export class AtsService {
  readonly completion: AtsCompletion = {
    addressHi: 0,
    addressLo: 0,
    sizeLg2: 0,
    allowed: 0,
    // Zero with a PASID because CD.ASET keeps contexts apart, and without a meaning else. §3.9.1.
    global: false,
    untranslatedOnly: false,
  }
  readonly reached = { paHi: 0, paLo: 0, sizeLg2: 0 }
  atsFault: Fault | null = null
  readonly #registers: Registers
  readonly #translator: Translator

  constructor(registers: Registers, translator: Translator) {
    this.#registers = registers
    this.#translator = translator
  }

  /** §3.9.1.2. @returns an ATS_* code */
  translationRequest(device: number, pasid: number, hi: number, lo: number, access: number): number {
    const translator = this.#translator
    this.atsFault = null
    // Read is implied in all requests; without PASID there are neither Exe nor Priv. §13.7.
    const asked = pasid === NO_PASID ? access & READ_WRITE : access
    translator.begin(device, pasid, hi, lo, asked | ACCESS_READ)
    if (!this.#registers.features.ats) return this.#unsupported("IDR0.ATS is 0")
    if (!this.#registers.translates) return this.#badRequest("CR0.SMMUEN is 0")
    const status = translator.streams.find(translator.transaction.device)
    if (status === ABORT) return this.#unsupported("STE.Config aborts")
    if (status !== 0) return this.#configurationError(status)
    const { entry } = translator.streams
    if (this.#eats(entry) === ste.EATS_NONE) return this.#badRequest("STE.EATS does not allow ATS")
    translator.enter(entry)
    return this.#translate(entry, asked)
  }

  /** §3.9.1.3. @returns TRANSLATED with {@link reached}, or REFUSED */
  translatedRequest(device: number, _pasid: number, paHi: number, paLo: number, access: number): number {
    const translator = this.#translator
    this.atsFault = null
    // Without IDR3.PASIDTT a PASID has no meaning here, nor what comes with it.
    translator.begin(device, NO_PASID, paHi, paLo, access & READ_WRITE)
    if (!this.#registers.features.ats) return this.#abort("IDR0.ATS is 0")
    if (!this.#registers.translates) return this.#forbidden("CR0.SMMUEN is 0")
    if (!this.#checksTranslated) return this.#passTranslated()
    const status = translator.streams.find(translator.transaction.device)
    if (status === ABORT) return this.#abort("STE.Config aborts")
    if (status !== 0) return this.#refuseTranslated(status)
    const { entry } = translator.streams
    switch (entry.eats) {
      case ste.EATS_FULL:
        return this.#passTranslated()
      case ste.EATS_SPLIT:
        return this.#throughStage2(entry)
      default:
        return this.#forbidden("STE.EATS does not allow ATS")
    }
  }

  get #checksTranslated(): boolean {
    return (this.#registers.get("CR0ACK") & CR0_ATSCHK) !== 0
  }

  /** Split-stage ATS needs the checks of translated transactions. §5.2 EATS. */
  #eats(entry: DeviceEntry): number {
    return entry.eats === ste.EATS_SPLIT && !this.#checksTranslated ? ste.EATS_NONE : entry.eats
  }

  #translate(entry: DeviceEntry, asked: number): number {
    const translator = this.#translator
    const context = entry.contextOf(translator.transaction.pasid)
    if (context < SKIP_STAGE1) return this.#configurationError(-context)
    let status = 0
    if (context === SKIP_STAGE1) {
      const { iasBits, oasBits } = this.#registers.features
      if (translator.exceeds(entry.stage2 ? iasBits : oasBits)) status = EVENTS.F_ADDR_SIZE
    } else {
      status = translator.contexts.find(entry, context)
      if (status === 0) status = this.#walkStage1(entry)
    }
    if (status !== 0) return this.#refuse(status)
    return this.#throughBoth(entry, context !== SKIP_STAGE1, asked)
  }

  /** Asks stage 1 for nothing, which finds what it allows. */
  #walkStage1(entry: DeviceEntry): number {
    const { transaction } = this.#translator
    return this.#translator.enterStage1(entry).walk(transaction.hi, transaction.lo, 0)
  }

  /** Stage 1 is done, or skipped; stage 2 follows, flags are updated, the answer is made. */
  #throughBoth(entry: DeviceEntry, usesStage1: boolean, asked: number): number {
    const { stage1, stage2, transaction } = this.#translator
    const ipaHi = usesStage1 ? stage1.outHi : transaction.hi
    const ipaLo = usesStage1 ? stage1.outLo : transaction.lo
    let sizeLg2 = usesStage1 ? stage1.sizeLg2 : this.#registers.features.oasBits
    let allowed = usesStage1 ? stage1.allowed : READ_WRITE | ACCESS_EXEC
    // A stage 1 that grants nothing keeps stage 2 out of it, §3.9.1.2.
    if (granted(allowed, asked, entry.instCfg) === 0) return this.#deny()
    if (!entry.stage2) {
      // Nothing translates: both permissions, whatever NW says. §13.6.4.
      if (!usesStage1) return this.#complete(ipaHi, ipaLo, sizeLg2, READ_WRITE, asked)
      this.#markDirty(allowed, asked, () => stage1.walk(transaction.hi, transaction.lo, ACCESS_WRITE))
      return this.#complete(ipaHi, ipaLo, sizeLg2, granted(allowed, asked, entry.instCfg), asked)
    }
    const status = stage2.walk(ipaHi, ipaLo, 0)
    if (status !== 0) return this.#refuse(status)
    const split = entry.eats === ste.EATS_SPLIT
    const toHi = split ? ipaHi : stage2.outHi
    const toLo = split ? ipaLo : stage2.outLo
    allowed &= stage2.allowed
    sizeLg2 = Math.min(sizeLg2, stage2.sizeLg2)
    const grant = granted(allowed, asked, entry.instCfg)
    this.#markDirty(allowed, asked, () => {
      if (usesStage1) stage1.walk(transaction.hi, transaction.lo, ACCESS_WRITE)
      stage2.walk(ipaHi, ipaLo, ACCESS_WRITE)
    })
    return this.#complete(toHi, toLo, sizeLg2, grant, asked)
  }

  /** Only where write permission is asked for and both stages give it, §3.13.7.1. */
  #markDirty(allowed: number, asked: number, walkForWrite: () => void): void {
    const { stage1, stage2 } = this.#translator
    if ((allowed & asked & ACCESS_WRITE) !== 0 && (stage1.config.updateDirty || stage2.config.updateDirty))
      walkForWrite()
  }

  #complete(hi: number, lo: number, sizeLg2: number, grant: number, asked: number): number {
    if (grant === 0) return this.#deny()
    const c = this.completion
    const wide = sizeLg2 >= 32
    c.addressHi = (wide ? hi & -(2 ** (sizeLg2 - 32)) : hi) >>> 0
    c.addressLo = wide ? 0 : (lo & -(2 ** sizeLg2)) >>> 0
    c.sizeLg2 = sizeLg2
    c.allowed = grant | (asked & ACCESS_PRIV)
    return ATS_SUCCESS
  }

  /** Success with R and W 0, of the Smallest Translation Unit. */
  #deny(): number {
    const { transaction } = this.#translator
    const c = this.completion
    c.sizeLg2 = this.#registers.features.smallestGranuleLg2
    c.addressHi = transaction.hi >>> 0
    c.addressLo = (transaction.lo & -(2 ** c.sizeLg2)) >>> 0
    c.allowed = 0
    return ATS_SUCCESS
  }

  #refuse(event: number): number {
    if (event >= EVENTS.F_TRANSLATION && event <= EVENTS.F_PERMISSION) {
      this.#translator.site.reset()
      return this.#deny()
    }
    return this.#configurationError(event)
  }

  #unsupported(detail: string): number {
    this.atsFault = this.#translator.reporter.abort(detail)
    return ATS_UNSUPPORTED_REQUEST
  }

  #badRequest(detail: string): number {
    this.atsFault = this.#report(EVENTS.F_BAD_ATS_TREQ, detail)
    return ATS_UNSUPPORTED_REQUEST
  }

  #configurationError(event: number): number {
    const invalidStreams = (this.#registers.get("CR2") & CR2_RECINVSID) !== 0
    const recorded = this.recordsErrors && (event !== EVENTS.C_BAD_STREAMID || invalidStreams)
    this.atsFault = this.#explained(event, recorded)
    return ATS_COMPLETER_ABORT
  }

  /** CR2.REC_CFG_ATS, where IDR0.ATSRECERR has it. */
  get recordsErrors(): boolean {
    const { features } = this.#registers
    return features.atsRecordsErrors && (this.#registers.get("CR2") & CR2_REC_CFG_ATS) !== 0
  }

  #explained(event: number, recorded: boolean): Fault {
    const { reporter } = this.#translator
    const detail = this.#translator.explain(event)
    return recorded ? this.#report(event, detail) : reporter.silent(event, detail)
  }

  #report(event: number, detail: string): Fault {
    const { reporter } = this.#translator
    reporter.merges = false
    return reporter.recorded(event, detail)
  }

  #passTranslated(): number {
    const { oasBits } = this.#registers.features
    if (this.#translator.exceeds(oasBits))
      return this.#abort("the translated address exceeds the output size")
    const { hi, lo } = this.#translator.transaction
    this.reached.paHi = hi >>> 0
    this.reached.paLo = lo >>> 0
    this.reached.sizeLg2 = oasBits
    return TRANSLATED
  }

  /** The address is an IPA; faults are those of an ordinary transaction. §13.6.3. */
  #throughStage2(entry: DeviceEntry): number {
    const translator = this.#translator
    const status = translator.translateIpa(entry)
    const { result } = translator
    if (status !== TRANSLATED) {
      this.atsFault = result.fault
      return REFUSED
    }
    this.reached.paHi = result.paHi
    this.reached.paLo = result.paLo
    this.reached.sizeLg2 = result.sizeLg2
    return TRANSLATED
  }

  #abort(detail: string): number {
    this.atsFault = this.#translator.reporter.abort(detail)
    return REFUSED
  }

  #forbidden(detail: string): number {
    this.atsFault = this.#report(EVENTS.F_TRANSL_FORBIDDEN, detail)
    return REFUSED
  }

  /** Here CR2.RECINVSID does not count, §3.9.1.3. */
  #refuseTranslated(event: number): number {
    this.atsFault = this.#explained(event, this.recordsErrors)
    return REFUSED
  }
}

/** What a completion grants of what the tables allow. §13.7.1. */
function granted(allowed: number, asked: number, instCfg: number): number {
  const reads = (allowed & ACCESS_READ) !== 0
  const executes = (allowed & ACCESS_EXEC) !== 0
  let grant = allowed & asked & ACCESS_WRITE
  if (instCfg === ste.INSTCFG_INSTRUCTION ? executes : reads) grant |= ACCESS_READ
  if ((asked & ACCESS_EXEC) === 0) return grant
  const mayExecute =
    instCfg === ste.INSTCFG_INSTRUCTION ? executes : instCfg === ste.INSTCFG_DATA ? reads : reads && executes
  return mayExecute ? grant | ACCESS_EXEC : grant
}
