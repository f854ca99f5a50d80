/**
 * Events: where a fault arose, its record, and the Event queue. Arm IHI 0070 G.b §7.2 to §7.4.
 */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  type BitLayout,
  type Fault,
  type FieldSpecs,
  fromHalves,
  hex64,
  hi32,
  lo32,
  NO_PASID,
  type PhysicalMemory,
} from "@iommu/core"
import * as ev from "../spec/events.ts"
import {
  CR0_EVENTQEN,
  GERROR_EVENTQ_ABT_ERR,
  QUEUE_BASE_ADDR_HI,
  QUEUE_BASE_ADDR_LO,
  QUEUE_BASE_LOG2SIZE,
  QUEUE_INDEX,
  QUEUE_PROD_OVFLG,
} from "../spec/registers.ts"
import type { Interrupts } from "./interrupts.ts"
import type { Registers } from "./registers.ts"
import type { Transaction } from "./transaction.ts"

/** What the walks say about a fault besides its number. One per model, reused. */
export class FaultSite {
  stage: 1 | 2 = 1
  cls: number = ev.CLASS_IN
  /** The stage 1 table access was a read. */
  tableRead = false
  ipaHi = 0
  ipaLo = 0
  fetchHi = 0
  fetchLo = 0

  /** Stage 1, input address: what holds unless a walk says otherwise. */
  reset(): void {
    this.stage = 1
    this.cls = ev.CLASS_IN
    this.tableRead = false
    this.ipaHi = 0
    this.ipaLo = 0
  }

  stage2(cls: number, ipaHi: number, ipaLo: number, tableRead: boolean): void {
    this.stage = 2
    this.cls = cls
    this.ipaHi = ipaHi
    this.ipaLo = ipaLo
    this.tableRead = tableRead && cls === ev.CLASS_TT
  }
}

/** Values that records are made of; each record takes the fields it has. */
interface EventFields {
  readonly StreamID: number
  /** null: the transaction had none. */
  readonly SubstreamID: number | null
  readonly PnU: boolean
  readonly InD: boolean
  readonly RnW: boolean
  /** What the device asked, before STE.INSTCFG and PRIVCFG. */
  readonly access: number
  readonly InputAddr: bigint
  /** The stalled transaction, null when it is terminated. */
  readonly STAG: number | null
  readonly site: FaultSite
}

/** Of each event that arises here, by its number. */
const LAYOUTS: ReadonlyMap<number, BitLayout<FieldSpecs>> = new Map<number, BitLayout<FieldSpecs>>([
  [ev.EVENTS.C_BAD_STREAMID, ev.C_BAD_STREAMID],
  [ev.EVENTS.F_STE_FETCH, ev.F_STE_FETCH],
  [ev.EVENTS.C_BAD_STE, ev.C_BAD_STE],
  [ev.EVENTS.F_BAD_ATS_TREQ, ev.F_BAD_ATS_TREQ],
  [ev.EVENTS.F_STREAM_DISABLED, ev.F_STREAM_DISABLED],
  [ev.EVENTS.F_TRANSL_FORBIDDEN, ev.F_TRANSL_FORBIDDEN],
  [ev.EVENTS.C_BAD_SUBSTREAMID, ev.C_BAD_SUBSTREAMID],
  [ev.EVENTS.F_CD_FETCH, ev.F_CD_FETCH],
  [ev.EVENTS.C_BAD_CD, ev.C_BAD_CD],
  [ev.EVENTS.F_WALK_EABT, ev.F_WALK_EABT],
  [ev.EVENTS.F_TRANSLATION, ev.F_TRANSLATION],
  [ev.EVENTS.F_ADDR_SIZE, ev.F_ADDR_SIZE],
  [ev.EVENTS.F_ACCESS, ev.F_ACCESS],
  [ev.EVENTS.F_PERMISSION, ev.F_PERMISSION],
])

function layoutOf(event: number): BitLayout<FieldSpecs> {
  const layout = LAYOUTS.get(event)
  if (layout === undefined) throw new Error(`bug: event 0x${event.toString(16)} does not arise`)
  return layout
}

/** The four 64-bit words of a record. */
function eventRecord(event: number, fields: EventFields): bigint[] {
  const layout = layoutOf(event)
  const { site } = fields
  const inStage2 = site.stage === 2
  const flag = (value: boolean): bigint => (value ? 1n : 0n)
  const values: Record<string, bigint> = {
    EventNumber: BigInt(event),
    SSV: flag(fields.SubstreamID !== null),
    SubstreamID: BigInt((fields.SubstreamID ?? 0) & 0xf_ffff),
    StreamID: BigInt(fields.StreamID >>> 0),
    STAG: BigInt(fields.STAG ?? 0),
    Stall: flag(fields.STAG !== null),
    PnU: flag(fields.PnU),
    InD: flag(fields.InD),
    RnW: flag(fields.RnW),
    S2: flag(inStage2),
    CLASS: BigInt(site.cls),
    TTRnW: flag(site.tableRead),
    R: flag((fields.access & ACCESS_READ) !== 0),
    W: flag((fields.access & ACCESS_WRITE) !== 0),
    X: flag((fields.access & ACCESS_EXEC) !== 0),
    PRIV: flag((fields.access & ACCESS_PRIV) !== 0),
    // Translation requests ask for one translation here.
    Span: 1n,
    // The one record that has a page address.
    InputAddr: event === ev.EVENTS.F_BAD_ATS_TREQ ? fields.InputAddr >> 12n : fields.InputAddr,
    FetchAddr: fromHalves(site.fetchHi & 0x00ff_ffff, site.fetchLo) >> 3n,
    IPA: inStage2 ? fromHalves(site.ipaHi & 0x00ff_ffff, site.ipaLo) >> 12n : 0n,
  }
  return layout.encode(Object.fromEntries(Object.keys(layout.fields).map(name => [name, values[name] ?? 0n])))
}

/** The Event queue, whose producer the SMMU is. */
export class EventQueue {
  readonly #memory: PhysicalMemory
  readonly #registers: Registers
  readonly #interrupts: Interrupts
  /** The record written last, without bits that merging ignores, and EVENTQ_PROD behind it. */
  #last: readonly bigint[] = []
  #lastProd = -1

  constructor(memory: PhysicalMemory, registers: Registers, interrupts: Interrupts) {
    this.#memory = memory
    this.#registers = registers
    this.#interrupts = interrupts
  }

  get enabled(): boolean {
    return (this.#registers.get("CR0ACK") & CR0_EVENTQEN) !== 0
  }

  /** §7.2.1: enabled, not full, no unacknowledged abort. */
  get writable(): boolean {
    return this.enabled && !this.#aborted && !this.#full
  }

  get #aborted(): boolean {
    const r = this.#registers
    return ((r.get("GERROR") ^ r.get("GERRORN")) & GERROR_EVENTQ_ABT_ERR) !== 0
  }

  get #sizeLg2(): number {
    const r = this.#registers
    return Math.min(Number(r.get64("EVENTQ_BASE") & BigInt(QUEUE_BASE_LOG2SIZE)), r.features.eventqs)
  }

  get #full(): boolean {
    const size = 1 << this.#sizeLg2
    const used = (this.#registers.get("EVENTQ_PROD") - this.#registers.get("EVENTQ_CONS")) & (2 * size - 1)
    // More than full is an inconsistent pair of indexes, which §3.5.1 lets count as full.
    return used >= size
  }

  /**
   * Appends a record unless software has yet to read the same one, which then stands for both. §7.3.1.
   * All events that have InputAddr[11:0] ignore it in the comparison.
   */
  merge(record: readonly bigint[]): void {
    const same = comparable(record).every((word, i) => word === this.#last[i])
    if (!same || !this.writable || this.#empty || this.#registers.get("EVENTQ_PROD") !== this.#lastProd) {
      this.write(record)
    }
  }

  get #empty(): boolean {
    const r = this.#registers
    return ((r.get("EVENTQ_PROD") ^ r.get("EVENTQ_CONS")) & ((2 << this.#sizeLg2) - 1)) === 0
  }

  /** Appends a record, or loses it as §7.2.1 and §7.4 say. */
  write(record: readonly bigint[]): void {
    if (!this.enabled || this.#aborted) return
    if (this.#full) {
      this.#overflow()
      return
    }
    const r = this.#registers
    const lg2 = this.#sizeLg2
    const prod = r.get("EVENTQ_PROD")
    const wasEmpty = this.#empty
    const base = r.get64("EVENTQ_BASE")
    const tableLg2 = Math.max(5, lg2 + 5)
    const baseLo = lo32(base) & QUEUE_BASE_ADDR_LO & -(2 ** tableLg2)
    const at = this.#memory.find(
      hi32(base) & QUEUE_BASE_ADDR_HI & r.physicalMaskHi,
      baseLo | ((prod & ((1 << lg2) - 1)) << 5),
    )
    if (at < 0) {
      this.#interrupts.globalError(GERROR_EVENTQ_ABT_ERR)
      return
    }
    for (const [word, value] of record.entries()) {
      this.#memory.words[at + 2 * word] = lo32(value)
      this.#memory.words[at + 2 * word + 1] = hi32(value)
    }
    const next = (prod + 1) & ((2 << lg2) - 1) & QUEUE_INDEX
    r.set("EVENTQ_PROD", (prod & QUEUE_PROD_OVFLG) | next)
    this.#last = comparable(record)
    this.#lastProd = r.get("EVENTQ_PROD")
    if (wasEmpty) this.#interrupts.eventQueue()
  }

  /** OVFLG toggles unless an earlier overflow waits for its acknowledgement. */
  #overflow(): void {
    const r = this.#registers
    const prod = r.get("EVENTQ_PROD")
    if (((prod ^ r.get("EVENTQ_CONS")) & QUEUE_PROD_OVFLG) === 0)
      r.set("EVENTQ_PROD", prod ^ QUEUE_PROD_OVFLG)
  }
}

function comparable(record: readonly bigint[]): bigint[] {
  return record.map((word, i) => (i === 2 ? word & ~0xfffn : word))
}

/** Makes faults of refused transactions, and writes their records. */
export class Reporter {
  /** STE.MEV of the stream, once it is known. */
  merges = false
  readonly #events: EventQueue
  readonly #transaction: Transaction
  readonly #site: FaultSite

  constructor(events: EventQueue, transaction: Transaction, site: FaultSite) {
    this.#events = events
    this.#transaction = transaction
    this.#site = site
  }

  /** The event's fault with its record, which the queue gets. */
  recorded(event: number, detail: string): Fault {
    // Where the queue is off there is no record at all, §7.2.1. A full queue loses it with OVFLG.
    if (!this.#events.enabled) return this.silent(event, detail)
    const record = this.#record(event, null)
    const fault = this.silent(event, detail, record)
    // Last of all: whoever gets the interrupt may send transactions of its own.
    if (this.merges) this.#events.merge(record)
    else this.#events.write(record)
    return fault
  }

  /** The same for a transaction that is held; the queue can be written. */
  stalled(event: number, detail: string, held: number, stag: number): Fault {
    const record = this.#record(event, stag)
    const fault = { ...this.silent(event, detail, record), held }
    this.#events.write(record)
    return fault
  }

  /** A fault with the record given, if any; the site is ready for the next transaction. */
  silent(event: number, detail: string, record: readonly bigint[] | null = null): Fault {
    const walk = event >= ev.EVENTS.F_WALK_EABT && event <= ev.EVENTS.F_PERMISSION
    const fault = this.#fault(layoutOf(event).name, event, walk ? this.#site.stage : 0, record, detail)
    // Here rather than before each transaction, most of which succeed.
    this.#site.reset()
    return fault
  }

  /** An abort that is no event. */
  abort(detail: string): Fault {
    return this.#fault("ABORT", 0, 0, null, detail)
  }

  /** What one of the four Translation-related faults is, for people. */
  describe(event: number): string {
    const { cls, ipaHi, ipaLo, stage } = this.#site
    const happened = `${WHAT_HAPPENED[event - ev.EVENTS.F_TRANSLATION]} in stage ${stage}`
    if (stage === 1) return happened
    const what = cls === ev.CLASS_CD ? "a CD" : cls === ev.CLASS_TT ? "a stage 1 table" : "the page"
    return `${happened} for ${what} at IPA ${hex64(fromHalves(ipaHi, ipaLo))}`
  }

  /** What is wrong with the structure that the event names. */
  explain(event: number, stePart: string, cdPart: string): string {
    switch (event) {
      case ev.EVENTS.C_BAD_STREAMID:
        return "the Stream table has no entry for the StreamID"
      case ev.EVENTS.C_BAD_STE:
        return `the STE is ILLEGAL: ${stePart}`
      case ev.EVENTS.C_BAD_CD:
        return `the CD is ILLEGAL: ${cdPart}`
      case ev.EVENTS.C_BAD_SUBSTREAMID:
        return "the SubstreamID leads to no CD"
      case ev.EVENTS.F_STREAM_DISABLED:
        return this.#transaction.pasid === NO_PASID
          ? "STE.S1DSS terminates transactions without SubstreamID"
          : "STE.S1DSS reserves CD 0 for transactions without SubstreamID"
      default:
        return `no memory behind the fetch at ${hex64(fromHalves(this.#site.fetchHi, this.#site.fetchLo))}`
    }
  }

  /** The end of a held transaction, by an abort or as a success without effect. */
  terminated(completes: boolean): Fault {
    const fault = this.abort("software terminated the stalled transaction")
    return completes ? { ...fault, completes } : fault
  }

  #record(event: number, stag: number | null): bigint[] {
    const t = this.#transaction
    return eventRecord(event, {
      StreamID: t.device,
      SubstreamID: t.pasid === NO_PASID ? null : t.pasid,
      PnU: t.privileged,
      InD: t.instruction,
      RnW: (t.access & ACCESS_WRITE) === 0,
      access: t.access,
      InputAddr: fromHalves(t.hi, t.lo),
      STAG: stag,
      site: this.#site,
    })
  }

  #fault(
    reason: string,
    code: number,
    stage: 0 | 1 | 2,
    record: readonly bigint[] | null,
    detail: string,
  ): Fault {
    const { device, pasid, hi, lo, access } = this.#transaction
    return {
      reason,
      code,
      device,
      pasid: pasid === NO_PASID ? null : pasid,
      address: fromHalves(hi, lo),
      access,
      stage,
      record,
      detail,
    }
  }
}

/** From F_TRANSLATION on: F_ADDR_SIZE, F_ACCESS, F_PERMISSION. */
const WHAT_HAPPENED = [
  "no valid translation",
  "an address beyond the output size",
  "the Access flag is clear",
  "the access is not permitted",
]
