/**
 * One transaction through the SMMU, in the order of Arm IHI 0070 G.b §7.3.22 and chapter 15.
 */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  type Fault,
  fromHalves,
  hex64,
  NO_PASID,
  type PhysicalMemory,
  type TranslationResult,
} from "@iommu/core"
import * as ste from "../spec/device-table.ts"
import { CLASS_CD, CLASS_IN, CLASS_TT, EVENTS, type EventName } from "../spec/events.ts"
import { CR2_RECINVSID, GBPA_ABORT } from "../spec/registers.ts"
import { ABORT, type DeviceEntry, StreamTable } from "./device-entry.ts"
import { type EventQueue, eventName, eventRecord, type StalledTransactions } from "./events.ts"
import { ContextTable } from "./pasid-entry.ts"
import type { Registers } from "./registers.ts"
import type { Tracer } from "./trace.ts"
import { FaultSite } from "./transaction.ts"
import { Stage1Walk } from "./walk-stage1.ts"
import { Stage2Walk } from "./walk-stage2.ts"

const ALL_ACCESS = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC

// V8 loads a binding of another module from memory at each use, one of its own not.
const NONE = NO_PASID
const READ_WRITE = ACCESS_READ | ACCESS_WRITE
const EXEC = ACCESS_EXEC
const WRITE = ACCESS_WRITE
const PRIV = ACCESS_PRIV

export class Translator {
  readonly result: TranslationResult = {
    paHi: 0,
    paLo: 0,
    sizeLg2: 0,
    allowed: 0,
    ipaHi: 0,
    ipaLo: 0,
    stage1SizeLg2: 0,
    stage2SizeLg2: 0,
    fault: null,
  }
  readonly #registers: Registers
  readonly #events: EventQueue
  readonly #stalled: StalledTransactions
  readonly #site = new FaultSite()
  readonly #stage1: Stage1Walk
  readonly #stage2: Stage2Walk
  readonly #streams: StreamTable
  readonly #contexts: ContextTable
  /** The transaction under way. */
  #device = 0
  #pasid = NO_PASID
  #hi = 0
  #lo = 0
  #access = 0
  #privileged = false
  #instruction = false

  constructor(
    memory: PhysicalMemory,
    registers: Registers,
    events: EventQueue,
    stalled: StalledTransactions,
  ) {
    this.#registers = registers
    this.#events = events
    this.#stalled = stalled
    this.#stage2 = new Stage2Walk(memory, this.#site)
    this.#stage1 = new Stage1Walk(memory, this.#site, this.#stage2)
    this.#streams = new StreamTable(memory, registers, this.#site, this.#stage2)
    this.#contexts = new ContextTable(memory, registers, this.#site, this.#stage1, this.#stage2)
  }

  set trace(tracer: Tracer | null) {
    this.#stage1.trace = tracer
    this.#stage2.trace = tracer
    this.#streams.trace = tracer
    this.#contexts.trace = tracer
  }

  /** @returns 0, or 1 with the fault in {@link result} */
  translate(device: number, pasid: number, hi: number, lo: number, access: number): number {
    this.result.fault = null
    this.#device = device >>> 0
    this.#pasid = pasid
    this.#hi = hi | 0
    this.#lo = lo | 0
    this.#access = access
    this.#privileged = (access & PRIV) !== 0
    // Writes are data whatever the device says, §13.1.2.
    this.#instruction = (access & (EXEC | WRITE)) === EXEC
    if (!this.#registers.translates) return this.#disabled()
    const status = this.#streams.find(this.#device)
    if (status !== 0) return this.#refuseStream(status)
    return this.#translateStream(this.#streams.entry)
  }

  #translateStream(entry: DeviceEntry): number {
    if (entry.overrides) this.#override(entry)
    this.#stage2.privileged = this.#privileged
    const withPasid = this.#pasid !== NONE
    if (!entry.stage1) {
      if (!withPasid) return this.#withoutStage1(entry)
      return this.#refuse(EVENTS.C_BAD_SUBSTREAMID, "a SubstreamID came to a stream without stage 1")
    }
    let context = 0
    if (withPasid || entry.s1CdMax !== 0) {
      const event = this.#substream(entry)
      if (event !== 0) return this.#refuseSubstream(event)
      if (withPasid) context = this.#pasid
      else if (entry.s1Dss === ste.S1DSS_BYPASS) return this.#withoutStage1(entry)
    }
    const status = this.#contexts.find(entry, context)
    if (status !== 0) return this.#refuseContext(status, entry)
    return this.#withStage1(entry)
  }

  /** STE.PRIVCFG and INSTCFG; writes stay data. §5.2. */
  #override(entry: DeviceEntry): void {
    if (entry.privCfg >= ste.PRIVCFG_UNPRIVILEGED) this.#privileged = entry.privCfg === ste.PRIVCFG_PRIVILEGED
    if (entry.instCfg >= ste.INSTCFG_DATA && (this.#access & ACCESS_WRITE) === 0) {
      this.#instruction = entry.instCfg === ste.INSTCFG_INSTRUCTION
    }
  }

  /** SMMUEN is 0: GBPA decides, and nothing is recorded. §6.3.9.6, §3.4. */
  #disabled(): number {
    if ((this.#registers.get("GBPA") & GBPA_ABORT) !== 0) return this.#abort("GBPA.ABORT with CR0.SMMUEN 0")
    if (this.#exceeds(this.#registers.features.oasBits)) {
      return this.#abort("the address exceeds the output size with CR0.SMMUEN 0")
    }
    return this.#accept(this.#hi, this.#lo, 0, 0, ALL_ACCESS, this.#hi, this.#lo)
  }

  #exceeds(bits: number): boolean {
    return this.#hi >>> (bits - 32) !== 0
  }

  /** Whether a SubstreamID, or its absence, is in order: 0 or the event. §5.2 S1CDMax, S1DSS. */
  #substream(entry: DeviceEntry): number {
    const pasid = this.#pasid
    if (pasid === NO_PASID) {
      const terminates = entry.s1Dss !== ste.S1DSS_BYPASS && entry.s1Dss !== ste.S1DSS_SSID0
      return entry.s1CdMax !== 0 && terminates ? EVENTS.F_STREAM_DISABLED : 0
    }
    if (entry.s1CdMax === 0 || pasid < 0 || pasid >= 2 ** entry.s1CdMax) return EVENTS.C_BAD_SUBSTREAMID
    return pasid === 0 && entry.s1Dss === ste.S1DSS_SSID0 ? EVENTS.F_STREAM_DISABLED : 0
  }

  /** What the access asks of a leaf. Instruction fetches need execution alone, DDI 0487 §D8.4. */
  get #need(): number {
    return this.#instruction ? EXEC : this.#access & READ_WRITE
  }

  #withoutStage1(entry: DeviceEntry): number {
    // Stage 2 takes addresses of the IAS; without it the OAS is the limit. Always recorded. §3.4.
    const { iasBits, oasBits } = this.#registers.features
    if (this.#exceeds(entry.stage2 ? iasBits : oasBits)) {
      return this.#refuse(
        EVENTS.F_ADDR_SIZE,
        "stage 1 is bypassed and the address exceeds the implemented size",
      )
    }
    if (!entry.stage2) return this.#accept(this.#hi, this.#lo, 0, 0, ALL_ACCESS, this.#hi, this.#lo)
    return this.#throughStage2(entry, this.#hi, this.#lo, 0, ALL_ACCESS)
  }

  #withStage1(entry: DeviceEntry): number {
    const s1 = this.#stage1
    s1.nested = entry.stage2
    s1.privileged = this.#privileged || s1.singlePrivilege
    const status = s1.walk(this.#hi, this.#lo, this.#need)
    if (status !== 0) return this.#refuseWalk(status, entry)
    if (!entry.stage2) return this.#accept(s1.outHi, s1.outLo, s1.sizeLg2, 0, s1.allowed, s1.outHi, s1.outLo)
    return this.#throughStage2(entry, s1.outHi, s1.outLo, s1.sizeLg2, s1.allowed)
  }

  #throughStage2(entry: DeviceEntry, hi: number, lo: number, s1SizeLg2: number, allowed: number): number {
    const s2 = this.#stage2
    const status = s2.walk(hi, lo, this.#need)
    if (status !== 0) {
      this.#site.stage2(CLASS_IN, hi, lo, false)
      return this.#refuseWalk(status, entry)
    }
    return this.#accept(s2.outHi, s2.outLo, s1SizeLg2, s2.sizeLg2, allowed & s2.allowed, hi, lo)
  }

  #accept(
    paHi: number,
    paLo: number,
    stage1: number,
    stage2: number,
    allowed: number,
    ipaHi: number,
    ipaLo: number,
  ): number {
    const r = this.result
    r.paHi = paHi >>> 0
    r.paLo = paLo >>> 0
    r.ipaHi = ipaHi >>> 0
    r.ipaLo = ipaLo >>> 0
    r.allowed = allowed
    r.stage1SizeLg2 = stage1
    r.stage2SizeLg2 = stage2
    const smaller = stage1 === 0 ? stage2 : stage2 === 0 || stage1 < stage2 ? stage1 : stage2
    r.sizeLg2 = smaller === 0 ? this.#registers.features.oasBits : smaller
    return 0
  }

  #refuseStream(status: number): number {
    if (status === ABORT) return this.#abort("STE.Config aborts")
    if (status === EVENTS.C_BAD_STE)
      return this.#refuse(status, `the STE is ILLEGAL: ${this.#streams.reason}`)
    if (status === EVENTS.F_STE_FETCH)
      return this.#refuse(status, `no memory behind the ${this.#fetchAddress}`)
    const detail = "the Stream table has no entry for the StreamID"
    const recorded = (this.#registers.get("CR2") & CR2_RECINVSID) !== 0
    return recorded ? this.#refuse(status, detail) : this.#fail(status, detail, null)
  }

  #refuseSubstream(event: number): number {
    if (event === EVENTS.C_BAD_SUBSTREAMID) {
      return this.#refuse(event, "the SubstreamID is not below 2^STE.S1CDMax")
    }
    const detail =
      this.#pasid === NO_PASID
        ? "STE.S1DSS terminates transactions without SubstreamID"
        : "STE.S1DSS reserves CD 0 for transactions without SubstreamID"
    return this.#refuse(event, detail)
  }

  #refuseContext(event: number, entry: DeviceEntry): number {
    if (event === EVENTS.C_BAD_CD) return this.#refuse(event, `the CD is ILLEGAL: ${this.#contexts.reason}`)
    if (event === EVENTS.C_BAD_SUBSTREAMID) return this.#refuse(event, "the L1CD does not lead to a CD table")
    if (event === EVENTS.F_CD_FETCH) return this.#refuse(event, `no memory behind the ${this.#fetchAddress}`)
    return this.#refuseWalk(event, entry)
  }

  /** Faults of a walk. The four Translation-related ones follow A, R and S, §5.5. */
  #refuseWalk(event: number, entry: DeviceEntry): number {
    const inStage2 = this.#site.stage === 2
    if (event === EVENTS.F_WALK_EABT) return this.#refuse(event, `no memory behind the ${this.#fetchAddress}`)
    const detail = `${describe(eventName(event))} in stage ${this.#site.stage}${this.#where()}`
    if (inStage2 ? entry.s2Stalls : this.#contexts.stalls) return this.#stall(event, detail)
    if (inStage2 ? entry.s2Records : this.#contexts.records) {
      return this.#refuse(
        event,
        inStage2 || this.#contexts.aborts ? detail : `${detail}; reads as zero, writes ignored`,
      )
    }
    return this.#fail(event, `${detail}; CD.R or STE.S2R suppresses the record`, null)
  }

  #where(): string {
    const { cls, ipaHi, ipaLo, stage } = this.#site
    if (stage === 1) return ""
    const what = cls === CLASS_CD ? "a CD" : cls === CLASS_TT ? "a stage 1 table" : "the page"
    return ` for ${what} at IPA ${hex64(fromHalves(ipaHi, ipaLo))}`
  }

  get #fetchAddress(): string {
    return `fetch at ${hex64(fromHalves(this.#site.fetchHi, this.#site.fetchLo))}`
  }

  #stall(event: number, detail: string): number {
    // Without room for the record the transaction waits unseen and is tried again, §7.2.1.
    const stag = this.#events.writable ? this.#stalled.hold(this.#device) : null
    if (stag === null)
      return this.#fail(event, `${detail}; the transaction waits for room to be recorded`, null)
    return this.#fail(event, `${detail}; the transaction is stalled`, this.#record(event, stag))
  }

  #refuse(event: number, detail: string): number {
    return this.#fail(event, detail, this.#record(event, null))
  }

  /** null where the queue is off: then there is no record at all, §7.2.1. A full queue loses it with OVFLG. */
  #record(event: number, stag: number | null): bigint[] | null {
    if (!this.#events.enabled) return null
    const record = eventRecord(event, {
      StreamID: this.#device,
      SubstreamID: this.#pasid === NO_PASID ? null : this.#pasid,
      PnU: this.#privileged,
      InD: this.#instruction,
      RnW: (this.#access & ACCESS_WRITE) === 0,
      InputAddr: fromHalves(this.#hi, this.#lo),
      STAG: stag,
      site: this.#site,
    })
    this.#events.write(record)
    return record
  }

  #abort(detail: string): number {
    this.result.fault = this.#fault("ABORT", 0, 0, null, detail)
    return 1
  }

  #fail(event: number, detail: string, record: bigint[] | null): number {
    const walk = event >= EVENTS.F_WALK_EABT && event <= EVENTS.F_PERMISSION
    this.result.fault = this.#fault(eventName(event), event, walk ? this.#site.stage : 0, record, detail)
    // Here rather than before each transaction, most of which succeed.
    this.#site.reset()
    return 1
  }

  #fault(reason: string, code: number, stage: 0 | 1 | 2, record: bigint[] | null, detail: string): Fault {
    return {
      reason,
      code,
      device: this.#device,
      pasid: this.#pasid === NO_PASID ? null : this.#pasid,
      address: fromHalves(this.#hi, this.#lo),
      access: this.#access,
      stage,
      record,
      detail,
    }
  }
}

function describe(event: EventName): string {
  switch (event) {
    case "F_TRANSLATION":
      return "no valid translation"
    case "F_ADDR_SIZE":
      return "an address beyond the output size"
    case "F_ACCESS":
      return "the Access flag is clear"
    case "F_PERMISSION":
      return "the access is not permitted"
    default:
      return event
  }
}
