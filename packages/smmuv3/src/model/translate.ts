/**
 * One transaction through the SMMU, in the order of Arm IHI 0070 G.b §7.3.22 and chapter 15.
 */
import {
  ACCESS_EXEC,
  ACCESS_READ,
  ACCESS_WRITE,
  type Fault,
  HELD,
  type PhysicalMemory,
  REFUSED,
  TRANSLATED,
} from "@iommu/core"
import { CLASS_IN, EVENTS } from "../spec/events.ts"
import { CR2_RECINVSID, GBPA_ABORT } from "../spec/registers.ts"
import { keepPage, Outcome, recallPage } from "./attributes.ts"
import type { Caches } from "./caches.ts"
import { ABORT, type DeviceEntry, SKIP_STAGE1, StreamTable } from "./device-entry.ts"
import { type EventQueue, FaultSite, Reporter } from "./events.ts"
import { ContextTable } from "./pasid-entry.ts"
import { PlainWalk, WAY_COMPLETE } from "./plain-walk.ts"
import type { Registers } from "./registers.ts"
import type { Tracer } from "./trace.ts"
import { type HeldTransaction, type HeldTransactions, Transaction } from "./transaction.ts"
import { Stage1Walk } from "./walk-stage1.ts"
import { Stage2Walk } from "./walk-stage2.ts"

// V8 loads a binding of another module from memory at each use, one of its own not.
const WRITE = ACCESS_WRITE
const ALL_ACCESS = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC

export class Translator {
  readonly result: Outcome
  readonly transaction: Transaction = new Transaction()
  readonly site: FaultSite = new FaultSite()
  readonly stage1: Stage1Walk
  readonly stage2: Stage2Walk
  readonly streams: StreamTable
  readonly contexts: ContextTable
  readonly reporter: Reporter
  private readonly registers: Registers
  private readonly events: EventQueue
  private readonly held: HeldTransactions
  /** The held transaction that is tried again. */
  private retried: HeldTransaction | null = null
  /** A listener to the interrupt of a fault is at work, of which the caller has yet to hear. */
  busy = false
  readonly caches: Caches
  readonly plain: PlainWalk
  private readonly recent: Caches["recent"]
  private tracing = false
  /** Of the STE and CD found last. */
  private usesStage1 = false

  constructor(
    memory: PhysicalMemory,
    registers: Registers,
    events: EventQueue,
    held: HeldTransactions,
    caches: Caches,
  ) {
    this.registers = registers
    this.events = events
    this.held = held
    this.caches = caches
    this.stage2 = new Stage2Walk(memory, this.site, caches)
    this.stage1 = new Stage1Walk(memory, this.site, this.stage2, caches)
    this.streams = new StreamTable(memory, registers, this.site, caches)
    this.contexts = new ContextTable(memory, registers, this.site, this.stage2, caches)
    this.reporter = new Reporter(events, this.transaction, this.site)
    this.result = new Outcome(registers, this.streams, this.contexts, this.stage1, this.stage2)
    this.plain = new PlainWalk(memory, registers, caches, this.stage1, this.stage2, this.result)
    this.recent = caches.recent
  }

  set trace(tracer: Tracer | null) {
    this.caches.forgetEntries()
    this.tracing = tracer !== null
    this.stage1.trace = tracer
    this.stage2.trace = tracer
    this.streams.trace = tracer
    this.contexts.trace = tracer
  }

  /**
   * A transaction that neither a recent answer nor a plain walk gave an answer to.
   * @returns TRANSLATED, or REFUSED or HELD with the fault in {@link result}
   */
  translate(device: number, pasid: number, hi: number, lo: number, access: number): number {
    if (this.result.fault !== null) this.result.fault = null
    this.transaction.begin(device, pasid, hi, lo, access)
    return this.caches.hasEntries(device, pasid) ? this.translateResolved() : this.translateAnew()
  }

  /** Nothing is known of the stream. */
  private translateAnew(): number {
    if (!this.registers.translates) return this.disabled()
    const { caches, transaction: t } = this
    caches.forgetEntries()
    const status = this.streams.find(t.device)
    if (status !== 0) return this.refuseStream(status)
    const { entry } = this.streams
    this.enter(entry)
    const index = entry.contextOf(t.pasid)
    if (index < SKIP_STAGE1) return this.refuseSubstream(-index, entry)
    this.usesStage1 = index !== SKIP_STAGE1
    if (this.usesStage1) {
      const found = this.contexts.find(entry, index)
      if (found !== 0) return this.refuseContext(found, entry)
      this.enterStage1(entry)
    }
    const way = this.tracing ? WAY_COMPLETE : this.plain.load(entry, this.usesStage1)
    caches.noteEntries(t.device, t.pasid, way)
    if (this.plain.follow(way, t.hi, t.lo, t.access)) return TRANSLATED
    return this.translateResolved()
  }

  /** STE and CD stand in their tables. */
  private translateResolved(): number {
    const { entry } = this.streams
    this.enter(entry)
    if (this.usesStage1) return this.withStage1(entry)
    const status = this.withoutStage1(entry)
    if (status === TRANSLATED) this.recent.keep(this.transaction, this.result)
    return status
  }

  /** Takes over what a device asks that is not an ordinary transaction. */
  begin(device: number, pasid: number, hi: number, lo: number, access: number): void {
    this.caches.forgetEntries()
    this.transaction.begin(device, pasid, hi, lo, access)
  }

  /** Translates an address that is an IPA already, by stage 2 alone; the transaction has begun. */
  translateIpa(entry: DeviceEntry): number {
    this.result.fault = null
    this.enter(entry)
    return this.withoutStage1(entry)
  }

  /** Tries a held transaction again, as though it had just arrived. */
  retry(held: HeldTransaction): number {
    this.retried = held
    try {
      return this.translate(held.device, held.pasid, held.hi, held.lo, held.access)
    } finally {
      this.retried = null
    }
  }

  /** Software ends a held transaction. */
  terminate(held: HeldTransaction, completes: boolean): void {
    this.transaction.begin(held.device, held.pasid, held.hi, held.lo, held.access)
    this.result.fault = this.reporter.terminated(completes)
  }

  /** Takes over what the STE says of the transaction's attributes and of stage 2. */
  enter(entry: DeviceEntry): void {
    const t = this.transaction
    if (entry.overrides) t.override(entry.overridden(t.access))
    // A store of an object costs more than the comparison.
    if (this.stage2.config !== entry.stage2Config) this.stage2.config = entry.stage2Config
    this.stage2.privileged = t.privileged
  }

  exceeds(bits: number): boolean {
    return this.transaction.hi >>> (bits - 32) !== 0
  }

  /** SMMUEN is 0: GBPA decides, and nothing is recorded. §6.3.9.6, §3.4. */
  private disabled(): number {
    if ((this.registers.get("GBPA") & GBPA_ABORT) !== 0) return this.abort("GBPA.ABORT with CR0.SMMUEN 0")
    if (this.exceeds(this.registers.features.oasBits)) {
      return this.abort("the address exceeds the output size with CR0.SMMUEN 0")
    }
    return this.pass()
  }

  private pass(): number {
    const { hi, lo } = this.transaction
    this.result.fill(hi, lo, 0, 0, ALL_ACCESS, hi, lo)
    return TRANSLATED
  }

  private withoutStage1(entry: DeviceEntry): number {
    // Stage 2 takes addresses of the IAS; without it the OAS is the limit. Always recorded. §3.4.
    const { iasBits, oasBits } = this.registers.features
    if (this.exceeds(entry.stage2 ? iasBits : oasBits)) {
      const detail = "stage 1 is bypassed and the address exceeds the implemented size"
      return this.refuse(EVENTS.F_ADDR_SIZE, detail, entry)
    }
    if (!entry.stage2) return this.pass()
    const { hi, lo } = this.transaction
    return this.throughStage2(entry, hi, lo, 0, ALL_ACCESS)
  }

  private withStage1(entry: DeviceEntry): number {
    const s1 = this.enterStage1(entry)
    const { caches, result, stage2, transaction: t } = this
    const { keepsTranslations } = caches
    const kept = keepsTranslations ? s1.findPage(t.hi, t.lo) : -1
    if (kept >= 0) {
      const { need } = t
      if ((need & ~caches.pages.allows(kept, s1.privileged)) !== 0) return this.refusePage(kept, entry)
      if ((need & WRITE) === 0 || !caches.pages.isClean(kept)) {
        recallPage(caches.pages, kept, t, result, s1, stage2)
        this.recent.keep(t, result)
        return TRANSLATED
      }
    }
    const isQuick = keepsTranslations && !this.tracing
    const isNear = isQuick && this.plain.walkKept(t.hi, t.lo, entry.overridden(t.access))
    const done = isNear ? TRANSLATED : this.walk(entry)
    if (done !== TRANSLATED || !keepsTranslations) return done
    keepPage(caches.pages, this.contexts.context, t, result, s1, stage2)
    return TRANSLATED
  }

  private walk(entry: DeviceEntry): number {
    const { stage1, transaction } = this
    const status = stage1.walk(transaction.hi, transaction.lo, transaction.need)
    if (status !== 0) return this.refuseWalk(status, entry)
    const { allowed, outHi, outLo, sizeLg2 } = stage1
    if (entry.stage2) return this.throughStage2(entry, outHi, outLo, sizeLg2, allowed)
    this.result.fill(outHi, outLo, sizeLg2, 0, allowed, outHi, outLo)
    return TRANSLATED
  }

  /** Stage 1 of the CD found last. */
  enterStage1(entry: DeviceEntry): Stage1Walk {
    const s1 = this.stage1
    const { context } = this.contexts
    if (s1.context !== context) {
      s1.context = context
      s1.config = context.stage1
    }
    s1.nested = entry.stage2
    s1.privileged = this.transaction.privileged || s1.config.singlePrivilege
    return s1
  }

  /** A page that does not allow the access: the stage that refuses has the fault, as if it had been walked. */
  private refusePage(kept: number, entry: DeviceEntry): number {
    const { caches, transaction } = this
    if ((transaction.need & ~caches.pages.grants(kept, this.stage1.privileged)) === 0) {
      recallPage(caches.pages, kept, transaction, this.result, this.stage1, this.stage2)
      this.site.stage2(CLASS_IN, this.result.ipaHi, this.result.ipaLo, false)
    }
    return this.refuseWalk(EVENTS.F_PERMISSION, entry)
  }

  private throughStage2(
    entry: DeviceEntry,
    hi: number,
    lo: number,
    s1SizeLg2: number,
    allowed: number,
  ): number {
    const s2 = this.stage2
    const status = s2.walk(hi, lo, this.transaction.need)
    if (status !== 0) {
      this.site.stage2(CLASS_IN, hi, lo, false)
      return this.refuseWalk(status, entry)
    }
    this.result.fill(s2.outHi, s2.outLo, s1SizeLg2, s2.sizeLg2, allowed & s2.allowed, hi, lo)
    return TRANSLATED
  }

  /** What is wrong with the structure that the event names. */
  explain(event: number): string {
    const { entry } = this.streams
    return this.reporter.explain(event, entry.reason, this.contexts.context.reason)
  }

  private refuseStream(event: number): number {
    if (event === ABORT) return this.abort("STE.Config aborts")
    const recorded = event !== EVENTS.C_BAD_STREAMID || (this.registers.get("CR2") & CR2_RECINVSID) !== 0
    const detail = this.explain(event)
    this.reporter.merges = false
    return this.fail(recorded ? this.reporter.recorded(event, detail) : this.reporter.silent(event, detail))
  }

  private refuseSubstream(event: number, entry: DeviceEntry): number {
    if (event !== EVENTS.C_BAD_SUBSTREAMID) return this.refuse(event, this.explain(event), entry)
    const detail = entry.stage1
      ? "the SubstreamID is not below 2^STE.S1CDMax"
      : "a SubstreamID came to a stream without stage 1"
    return this.refuse(event, detail, entry)
  }

  private refuseContext(event: number, entry: DeviceEntry): number {
    if (event === EVENTS.C_BAD_SUBSTREAMID) {
      return this.refuse(event, "the L1CD does not lead to a CD table", entry)
    }
    if (event === EVENTS.C_BAD_CD || event === EVENTS.F_CD_FETCH) {
      return this.refuse(event, this.explain(event), entry)
    }
    return this.refuseWalk(event, entry)
  }

  /** Faults of a walk. The four Translation-related ones follow A, R and S, §5.5. */
  private refuseWalk(event: number, entry: DeviceEntry): number {
    if (event === EVENTS.F_WALK_EABT) return this.refuse(event, this.explain(event), entry)
    const inStage2 = this.site.stage === 2
    const detail = this.reporter.describe(event)
    if (inStage2 ? entry.s2Stalls : this.contexts.context.stalls) return this.stall(event, detail)
    const completes = !inStage2 && !this.contexts.context.aborts
    this.reporter.merges = entry.merges
    const recorded = inStage2 ? entry.s2Records : this.contexts.context.records
    const fault = recorded
      ? this.reporter.recorded(event, detail)
      : this.reporter.silent(event, `${detail}; CD.R or STE.S2R suppresses the record`)
    if (!completes) return this.fail(fault)
    return this.fail({ ...fault, completes, detail: `${fault.detail}; reads as zero, writes ignored` })
  }

  /** Without room for the record the transaction waits unseen and is tried again, §7.2.1. */
  private stall(event: number, detail: string): number {
    const held = this.retried ?? this.held.take(this.transaction)
    if (held === null) {
      this.result.fault = this.reporter.silent(event, `${detail}; as many as can be are stalled already`)
      return HELD
    }
    if (!this.events.writable) {
      const fault = this.reporter.silent(event, `${detail}; the transaction waits for room to be recorded`)
      this.result.fault = { ...fault, held: held.held }
      return HELD
    }
    const stag = this.held.freeTag()
    held.stag = stag
    // Whoever gets the interrupt may resume the transaction, of which the caller has yet to hear that it is held.
    this.busy = true
    try {
      this.result.fault = this.reporter.stalled(event, `${detail}; it is stalled`, held.held, stag)
    } finally {
      this.busy = false
    }
    return HELD
  }

  private refuse(event: number, detail: string, entry: DeviceEntry): number {
    this.reporter.merges = entry.merges
    return this.fail(this.reporter.recorded(event, detail))
  }

  private abort(detail: string): number {
    return this.fail(this.reporter.abort(detail))
  }

  private fail(fault: Fault): number {
    this.result.fault = fault
    return REFUSED
  }
}
