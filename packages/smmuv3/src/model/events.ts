/**
 * Events: where a fault arose, its record, and the Event queue. Arm IHI 0070 G.b §7.2 to §7.4.
 */
import { type BitLayout, type FieldSpecs, fromHalves, hi32, lo32, type PhysicalMemory } from "@iommu/core"
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
import type { FaultSite } from "./transaction.ts"

/** Values that records are made of; each record takes the fields it has. */
export interface EventFields {
  readonly StreamID: number
  /** null: the transaction had none. */
  readonly SubstreamID: number | null
  readonly PnU: boolean
  readonly InD: boolean
  readonly RnW: boolean
  readonly InputAddr: bigint
  /** The stalled transaction, null when it is terminated. */
  readonly STAG: number | null
  readonly site: FaultSite
}

const LAYOUTS: Partial<Record<ev.EventName, BitLayout<FieldSpecs>>> = {
  C_BAD_STREAMID: ev.C_BAD_STREAMID,
  F_STE_FETCH: ev.F_STE_FETCH,
  C_BAD_STE: ev.C_BAD_STE,
  F_STREAM_DISABLED: ev.F_STREAM_DISABLED,
  C_BAD_SUBSTREAMID: ev.C_BAD_SUBSTREAMID,
  F_CD_FETCH: ev.F_CD_FETCH,
  C_BAD_CD: ev.C_BAD_CD,
  F_WALK_EABT: ev.F_WALK_EABT,
  F_TRANSLATION: ev.F_TRANSLATION,
  F_ADDR_SIZE: ev.F_ADDR_SIZE,
  F_ACCESS: ev.F_ACCESS,
  F_PERMISSION: ev.F_PERMISSION,
}

const NAMES: ReadonlyMap<number, ev.EventName> = new Map(
  Object.entries(ev.EVENTS).map(([name, number]) => [number, name as ev.EventName]),
)

export function eventName(event: number): ev.EventName {
  const name = NAMES.get(event)
  if (name === undefined) throw new Error(`bug: no event 0x${event.toString(16)}`)
  return name
}

/** The four 64-bit words of a record. */
export function eventRecord(event: number, fields: EventFields): bigint[] {
  const layout = LAYOUTS[eventName(event)]
  if (layout === undefined) throw new Error(`bug: event 0x${event.toString(16)} has no layout`)
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
    InputAddr: fields.InputAddr,
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
    const wasEmpty = ((prod ^ r.get("EVENTQ_CONS")) & ((2 << lg2) - 1)) === 0
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

/** Transactions that wait for CMD_RESUME or CMD_STALL_TERM, by their STAG. §3.12.2. */
export class StalledTransactions {
  readonly #streams = new Map<number, number>()
  readonly #registers: Registers

  constructor(registers: Registers) {
    this.#registers = registers
  }

  get count(): number {
    return this.#streams.size
  }

  /** @returns a STAG, or null when IDR5.STALL_MAX transactions wait already */
  hold(streamId: number): number | null {
    if (this.#streams.size >= this.#registers.features.stallMax) return null
    let stag = 0
    while (this.#streams.has(stag)) stag++
    this.#streams.set(stag, streamId)
    return stag
  }

  /** No effect when the pair does not match, §4.7.1. */
  release(streamId: number, stag: number): void {
    if (this.#streams.get(stag) === streamId) this.#streams.delete(stag)
  }

  releaseStream(streamId: number): void {
    for (const [stag, stream] of this.#streams) if (stream === streamId) this.#streams.delete(stag)
  }

  releaseAll(): void {
    this.#streams.clear()
  }
}
