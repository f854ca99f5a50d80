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
  type Release,
  TRANSLATED,
} from "@iommu/core"
import * as ste from "../spec/device-table.ts"
import { CLASS_IN, EVENTS } from "../spec/events.ts"
import { CR2_RECINVSID, GBPA_ABORT } from "../spec/registers.ts"
import { keepPage, Outcome, recallPage } from "./attributes.ts"
import { type Caches, LastTransaction } from "./caches.ts"
import { ABORT, type DeviceEntry, SKIP_STAGE1, StreamTable } from "./device-entry.ts"
import { type EventQueue, Reporter } from "./events.ts"
import { ContextTable } from "./pasid-entry.ts"
import type { Registers } from "./registers.ts"
import { INFO_CLEAN, INFO_PRIVILEGED_SHIFT, INFO_STAGE2_SHIFT, PAGE_INFO } from "./tlb.ts"
import type { Tracer } from "./trace.ts"
import {
  ABORT_IT,
  COMPLETE_IT,
  FaultSite,
  type HeldTransaction,
  type HeldTransactions,
  Transaction,
  WAIT,
} from "./transaction.ts"
import { Stage1Walk } from "./walk-stage1.ts"
import { Stage2Walk } from "./walk-stage2.ts"

// V8 loads a binding of another module from memory at each use, one of its own not.
const READ_WRITE = ACCESS_READ | ACCESS_WRITE
const EXEC = ACCESS_EXEC
const WRITE = ACCESS_WRITE
const ALL_ACCESS = READ_WRITE | EXEC
const INFO = PAGE_INFO
const CLEAN = INFO_CLEAN
const PRIVILEGED_SHIFT = INFO_PRIVILEGED_SHIFT
const STAGE2_SHIFT = INFO_STAGE2_SHIFT

export class Translator {
  readonly result: Outcome
  readonly transaction: Transaction = new Transaction()
  readonly site: FaultSite = new FaultSite()
  readonly stage1: Stage1Walk
  readonly stage2: Stage2Walk
  readonly streams: StreamTable
  readonly contexts: ContextTable
  readonly reporter: Reporter
  onRelease: ((release: Release) => void) | null = null
  private readonly registers: Registers
  private readonly events: EventQueue
  private readonly held: HeldTransactions
  /** The held transaction that is tried again. */
  private retried: HeldTransaction | null = null
  private busy = false
  readonly caches: Caches
  private readonly last: LastTransaction

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
    this.last = new LastTransaction(this)
  }

  set trace(tracer: Tracer | null) {
    this.stage1.trace = tracer
    this.stage2.trace = tracer
    this.streams.trace = tracer
    this.contexts.trace = tracer
  }

  /** @returns TRANSLATED, or REFUSED or HELD with the fault in {@link result} */
  translate(device: number, pasid: number, hi: number, lo: number, access: number): number {
    const { last } = this
    const repeats = this.registers.translates && last.matches(device, pasid)
    if (repeats && last.finds(hi, lo, access)) return TRANSLATED
    if (this.result.fault !== null) this.result.fault = null
    this.transaction.begin(device, pasid, hi, lo, access)
    if (repeats) return this.repeat()
    if (!this.registers.translates) return this.disabled()
    const status = this.streams.find(this.transaction.device)
    if (status !== 0) return this.refuseStream(status)
    return this.translateStream(this.streams.entry)
  }

  /** The same STE and CD as last time. */
  private repeat(): number {
    const { entry, context } = this.last
    if (this.streams.entry !== entry) this.streams.entry = entry
    if (this.contexts.context !== context) this.contexts.context = context
    this.enter(entry)
    return this.withStage1(entry, this.caches.keepsTranslations && !this.last.misses)
  }

  /** Translates an address that is an IPA already, by stage 2 alone; the transaction has begun. */
  translateIpa(entry: DeviceEntry): number {
    this.result.fault = null
    this.enter(entry)
    return this.withoutStage1(entry)
  }

  /**
   * Tries held transactions again that may be, ends those that are to end. Called after each change by software;
   * what a listener to an interrupt changes during a transaction is served with the next change.
   */
  service(): void {
    if (this.busy || this.held.count === 0) return
    for (const held of this.held.all) this.serve(held)
  }

  private serve(held: HeldTransaction): void {
    if (held.next === ABORT_IT || held.next === COMPLETE_IT) {
      this.transaction.begin(held.device, held.pasid, held.hi, held.lo, held.access)
      this.result.fault = this.reporter.terminated(held.next === COMPLETE_IT)
      this.release(held, REFUSED)
      return
    }
    if (held.next === WAIT && (held.stag !== null || !this.events.writable)) return
    held.next = WAIT
    const status = this.again(held)
    if (status !== HELD) this.release(held, status === TRANSLATED ? TRANSLATED : REFUSED)
  }

  /** As though it had just arrived. */
  private again(held: HeldTransaction): number {
    this.retried = held
    try {
      return this.translate(held.device, held.pasid, held.hi, held.lo, held.access)
    } finally {
      this.retried = null
    }
  }

  private release(held: HeldTransaction, status: Release["status"]): void {
    this.held.release(held)
    if (this.onRelease !== null) this.onRelease({ held: held.held, status })
  }

  private translateStream(entry: DeviceEntry): number {
    this.enter(entry)
    const context = entry.contextOf(this.transaction.pasid)
    if (context === SKIP_STAGE1) return this.withoutStage1(entry)
    if (context < 0) return this.refuseSubstream(-context, entry)
    const status = this.contexts.find(entry, context)
    if (status !== 0) return this.refuseContext(status, entry)
    if (this.caches.keepsStructures) this.last.remember(this.transaction, entry, this.contexts.context)
    return this.withStage1(entry, this.caches.keepsTranslations)
  }

  /** Takes over what the STE says of the transaction's attributes and of stage 2. */
  enter(entry: DeviceEntry): void {
    if (entry.overrides) this.override(entry)
    // A store of an object costs more than the comparison.
    if (this.stage2.config !== entry.stage2Config) this.stage2.config = entry.stage2Config
    this.stage2.privileged = this.transaction.privileged
  }

  /** STE.PRIVCFG and INSTCFG; writes stay data. §5.2. */
  private override(entry: DeviceEntry): void {
    const t = this.transaction
    if (entry.privCfg >= ste.PRIVCFG_UNPRIVILEGED) t.privileged = entry.privCfg === ste.PRIVCFG_PRIVILEGED
    if (entry.instCfg >= ste.INSTCFG_DATA && (t.access & WRITE) === 0) {
      t.instruction = entry.instCfg === ste.INSTCFG_INSTRUCTION
    }
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

  /** What the access asks of a leaf. Instruction fetches need execution alone, DDI 0487 §D8.4. */
  private get need(): number {
    return this.transaction.instruction ? EXEC : this.transaction.access & READ_WRITE
  }

  private pass(): number {
    const { hi, lo } = this.transaction
    return this.accept(hi, lo, 0, 0, ALL_ACCESS, hi, lo)
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

  /** @param looks whether its page may be kept */
  private withStage1(entry: DeviceEntry, looks: boolean): number {
    const s1 = this.enterStage1(entry)
    const t = this.transaction
    const kept = looks ? s1.findPage(t.hi, t.lo) : -1
    if (kept >= 0) {
      const info = this.caches.pages.store.words[kept + INFO] as number
      const grants = s1.privileged ? info >> PRIVILEGED_SHIFT : info
      const need = this.need
      if ((grants & (grants >> STAGE2_SHIFT) & need) !== need) return this.refusePage(kept, entry)
      if ((info & CLEAN) === 0 || (need & WRITE) === 0) {
        recallPage(this.caches.pages, kept, t, this.result, s1, this.stage2)
        return TRANSLATED
      }
    }
    const status = s1.walk(t.hi, t.lo, this.need)
    if (status !== 0) return this.refuseWalk(status, entry)
    const done = entry.stage2
      ? this.throughStage2(entry, s1.outHi, s1.outLo, s1.sizeLg2, s1.allowed)
      : this.accept(s1.outHi, s1.outLo, s1.sizeLg2, 0, s1.allowed, s1.outHi, s1.outLo)
    if (done === 0 && this.caches.keepsTranslations) {
      keepPage(this.caches.pages, this.contexts.context, t, this.result, s1, this.stage2)
    }
    return done
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
    const info = this.caches.pages.store.words[kept + INFO] as number
    const grants = this.stage1.privileged ? info >> PRIVILEGED_SHIFT : info
    if ((grants & this.need) === this.need) {
      recallPage(this.caches.pages, kept, this.transaction, this.result, this.stage1, this.stage2)
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
    const status = s2.walk(hi, lo, this.need)
    if (status !== 0) {
      this.site.stage2(CLASS_IN, hi, lo, false)
      return this.refuseWalk(status, entry)
    }
    return this.accept(s2.outHi, s2.outLo, s1SizeLg2, s2.sizeLg2, allowed & s2.allowed, hi, lo)
  }

  private accept(
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
    r.sizeLg2 = smaller === 0 ? this.registers.features.oasBits : smaller
    return 0
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
