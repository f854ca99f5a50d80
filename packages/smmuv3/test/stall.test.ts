/** The stall model and the merging of events. Arm IHI 0070 G.b §3.12, §4.7, §7.2, §7.3.1. */
import {
  ACCESS_READ,
  ACCESS_WRITE,
  Endpoint,
  HELD,
  hi32,
  lo32,
  NO_PASID,
  REFUSED,
  type Release,
  TRANSLATED,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import { EVERYTHING, type IdRegisters } from "../src/model/options.ts"
import * as reg from "../src/spec/registers.ts"
import { Machine, plainCd, plainStage2, RAM, S1_PAGE, S2_PAGE, SHAPE_4K } from "./model-machine.ts"

const VA = 0x12_3456_7000n
const PAGE = RAM + 0xf0_0000n
/** F_TRANSLATION of stage 1, a data read without privilege: CLASS IN, RnW; with Stall. §7.3.13. */
const READ_RECORD = 0x208_0000_0000n
const STALLED = 0x208_8000_0000n

/** CMD_RESUME as words: §4.7.1. */
const resume = (stream: number, stag: number, flags: bigint): bigint[] => [
  0x44n | flags | (BigInt(stream) << 32n),
  BigInt(stag),
]
const RETRY = 1n << 12n
const ABORT = 1n << 13n
const COMPLETE = 0n
/** §4.7.2. */
const stallTerm = (stream: number): bigint[] => [0x45n | (BigInt(stream) << 32n), 0n]

/** Streams 1 and 2 stall; their tables are empty. */
class Stalling extends Machine {
  readonly root: bigint
  readonly releases: (Release & { detail: string | undefined })[] = []

  constructor(id: Partial<IdRegisters> = {}, cd: Record<string, bigint> = {}) {
    super(id)
    this.root = this.alloc()
    const context = this.cd({ ...plainCd(this.root), S: 1n, R: 0n, ...cd })
    for (const stream of [1, 2]) this.ste(stream, { Config: 5n, S1ContextPtr: context >> 6n })
    this.model.onRelease = release =>
      this.releases.push({ ...release, detail: this.model.result.fault?.detail })
  }

  send(stream: number, address: bigint, access = ACCESS_READ): number {
    return this.model.translate(stream, NO_PASID, hi32(address), lo32(address), access)
  }

  get held(): number | undefined {
    return this.model.result.fault?.held
  }
}

describe("a stalled transaction", () => {
  it("is held, with a record that has Stall and a STAG, whatever CD.R says", () => {
    const m = new Stalling()
    expect(m.send(1, VA)).toBe(HELD)
    expect(m.held).toBe(1)
    expect(m.send(2, VA)).toBe(HELD)
    expect(m.held).toBe(2)
    expect(m.events()).toEqual([
      [0x1_0000_0010n, STALLED, VA, 0n],
      [0x2_0000_0010n, STALLED + 1n, VA, 0n],
    ])
    expect(m.releases).toEqual([])
  })

  it("goes on when it is retried after the page is there", () => {
    const m = new Stalling()
    m.send(1, VA + 0x10n)
    m.map(m.root, SHAPE_4K, VA, PAGE | S1_PAGE)
    m.command(resume(1, 0, RETRY))
    expect(m.releases).toEqual([{ held: 1, status: TRANSLATED, detail: undefined }])
    expect(m.model.result).toMatchObject({ paHi: 0, paLo: Number(PAGE) + 0x10, sizeLg2: 12 })
  })

  it("stays held when a retry faults again, with a record of its own", () => {
    const m = new Stalling()
    m.send(1, VA)
    m.command(resume(1, 0, RETRY))
    expect(m.releases).toEqual([])
    expect(m.events()).toHaveLength(2)
    m.command(resume(1, 0, ABORT))
    expect(m.releases).toMatchObject([{ held: 1, status: REFUSED }])
  })

  it("is retried with the structures of then", () => {
    const m = new Stalling()
    m.send(1, VA)
    m.ste(1, { Config: 0n })
    m.command(resume(1, 0, RETRY))
    expect(m.releases).toEqual([{ held: 1, status: REFUSED, detail: "STE.Config aborts" }])
    expect(m.events()).toHaveLength(1)
  })

  it("is terminated with an abort, or completes without effect", () => {
    const m = new Stalling()
    m.send(1, VA)
    m.command(resume(1, 0, ABORT))
    expect(m.model.result.fault).toMatchObject({ reason: "ABORT", record: null })
    expect(m.model.result.fault?.completes).toBeUndefined()
    m.send(1, VA)
    m.command(resume(1, 0, COMPLETE))
    expect(m.model.result.fault).toMatchObject({ reason: "ABORT", completes: true })
    expect(m.releases.map(r => r.held)).toEqual([1, 2])
  })

  it("is always aborted where IDR0.TERM_MODEL has aborts alone", () => {
    const m = new Stalling({ IDR0: EVERYTHING.IDR0 | (1 << 26) })
    m.send(1, VA)
    m.command(resume(1, 0, COMPLETE))
    expect(m.releases).toHaveLength(1)
    expect(m.model.result.fault?.completes).toBeUndefined()
  })

  it("is found by StreamID and STAG together", () => {
    const m = new Stalling()
    m.send(1, VA)
    m.command(resume(2, 0, ABORT), resume(1, 1, ABORT), resume(3, 0, RETRY))
    expect(m.releases).toEqual([])
    m.command(resume(1, 0, ABORT), resume(1, 0, ABORT))
    expect(m.releases).toHaveLength(1)
  })

  it("of one stream ends with CMD_STALL_TERM, recorded or not", () => {
    const m = new Stalling()
    m.send(1, VA)
    m.send(2, VA)
    m.write("CR0", reg.CR0_SMMUEN | reg.CR0_CMDQEN)
    m.send(1, VA)
    m.command(stallTerm(1))
    expect(m.releases.map(r => [r.held, r.status])).toEqual([
      [1, REFUSED],
      [3, REFUSED],
    ])
  })

  it("ends when translation is disabled", () => {
    const m = new Stalling()
    m.send(1, VA)
    m.send(2, VA)
    m.write("CR0", reg.CR0_EVENTQEN)
    expect(m.releases.map(r => r.held)).toEqual([1, 2])
    m.write("CR0", reg.CR0_SMMUEN | reg.CR0_EVENTQEN)
    m.send(1, VA)
    expect(m.events().at(-1)?.[1]).toBe(STALLED)
  })

  it("is not held when IDR5.STALL_MAX others are", () => {
    const m = new Stalling({ IDR5: (EVERYTHING.IDR5 & 0xffff) | (2 << 16) })
    expect([m.send(1, VA), m.held, m.send(1, VA), m.held]).toEqual([HELD, 1, HELD, 2])
    expect([m.send(1, VA), m.held, m.events().length]).toEqual([HELD, undefined, 2])
    m.command(resume(1, 1, ABORT))
    expect([m.send(1, VA), m.held]).toEqual([HELD, 3])
  })

  it("is held alone where IDR5.STALL_MAX says nothing", () => {
    const m = new Stalling({ IDR5: EVERYTHING.IDR5 & 0xffff })
    expect([m.send(1, VA), m.held, m.send(1, VA), m.held]).toEqual([HELD, 1, HELD, undefined])
  })

  it("waits without overflow while the Event queue is full, and is recorded when there is room", () => {
    const m = new Stalling({ IDR5: (EVERYTHING.IDR5 & 0xffff) | (200 << 16) })
    for (let i = 0; i < 128; i++) m.send(1, VA)
    expect(m.send(2, VA)).toBe(HELD)
    expect(m.model.result.fault).toMatchObject({ held: 129, record: null })
    expect(m.read("EVENTQ_PROD")).toBe(0x80)
    m.write("EVENTQ_CONS", 1)
    expect(m.read("EVENTQ_PROD")).toBe(0x81)
    expect(m.memory.read64(m.eventQueue)).toBe(0x2_0000_0010n)
    m.command(resume(2, 128, ABORT))
    expect(m.releases).toMatchObject([{ held: 129, status: REFUSED }])
  })

  it("waits while the Event queue is off, and goes on when the page came meanwhile", () => {
    const m = new Stalling()
    m.write("CR0", reg.CR0_SMMUEN | reg.CR0_CMDQEN)
    expect(m.send(1, VA)).toBe(HELD)
    m.map(m.root, SHAPE_4K, VA, PAGE | S1_PAGE)
    m.write("CR0", reg.CR0_SMMUEN | reg.CR0_CMDQEN | reg.CR0_EVENTQEN)
    expect(m.releases).toMatchObject([{ held: 1, status: TRANSLATED }])
    expect(m.read("EVENTQ_PROD")).toBe(0)
  })

  it("stalls in stage 2 by STE.S2S, with the IPA", () => {
    const m = new Stalling()
    const root = m.alloc()
    m.ste(1, { Config: 6n, ...plainStage2(root), S2S: 1n, S2R: 0n })
    expect(m.send(1, VA, ACCESS_WRITE)).toBe(HELD)
    expect(m.events()).toEqual([[0x1_0000_0010n, 0x280_8000_0000n, VA, VA]])
    m.map(root, SHAPE_4K, VA, PAGE | S2_PAGE)
    m.command(resume(1, 0, RETRY))
    expect(m.releases).toMatchObject([{ held: 1, status: TRANSLATED }])
  })

  it("is not what a configuration error is", () => {
    const m = new Stalling({}, { AA64: 0n })
    expect(m.send(1, VA)).toBe(REFUSED)
    expect(m.model.result.fault).toMatchObject({ reason: "C_BAD_CD" })
  })

  it("resumed from its own interrupt is served with the next write of software", () => {
    const m = new Stalling()
    m.write64("EVENTQ_IRQ_CFG0", 0x808_0040n)
    m.write("IRQ_CTRL", reg.IRQ_CTRL_EVENTQ_IRQEN)
    m.model.onInterrupt = () => m.command(resume(1, 0, ABORT))
    expect(m.send(1, VA)).toBe(HELD)
    expect([m.held, m.releases.length]).toEqual([1, 0])
    m.write("EVENTQ_CONS", 1)
    expect(m.releases).toMatchObject([{ held: 1, status: REFUSED }])
  })

  it("is a DMA that an endpoint can send again", () => {
    const m = new Stalling()
    const endpoint = new Endpoint({ model: m.model, memory: m.memory, device: 1 })
    expect(endpoint.write(VA, Uint8Array.of(7))).toEqual({ kind: "held", held: 1 })
    m.map(m.root, SHAPE_4K, VA, PAGE | S1_PAGE)
    m.command(resume(1, 0, RETRY))
    expect(m.releases).toMatchObject([{ held: 1, status: TRANSLATED }])
    expect(endpoint.write(VA, Uint8Array.of(7))).toEqual({ kind: "done" })
    expect([...m.memory.read(PAGE, 1)]).toEqual([7])
  })
})

describe("a terminated transaction", () => {
  const stage1 = (fields: Record<string, bigint>): Stalling => new Stalling({}, { S: 0n, ...fields })

  it("is recorded by CD.R and STE.S2R alone", () => {
    const m = stage1({ R: 0n })
    expect(m.send(1, VA)).toBe(REFUSED)
    m.ste(1, { Config: 6n, ...plainStage2(m.alloc()), S2R: 0n })
    expect(m.send(1, VA)).toBe(REFUSED)
    expect(m.model.result.fault).toMatchObject({ reason: "F_TRANSLATION", stage: 2, record: null })
    expect(m.read("EVENTQ_PROD")).toBe(0)
    expect(stage1({ R: 1n }).fault(1, VA).record).toEqual([0x1_0000_0010n, READ_RECORD, VA, 0n])
  })

  it("completes for the device with CD.A = 0, recorded or not; stage 2 always aborts", () => {
    for (const R of [0n, 1n]) {
      const m = stage1({ A: 0n, R })
      expect(m.fault(1, VA)).toMatchObject({ reason: "F_TRANSLATION", completes: true })
      const endpoint = new Endpoint({ model: m.model, memory: m.memory, device: 1 })
      const into = Uint8Array.of(1, 2)
      expect([endpoint.read(VA, into), [...into]]).toEqual([{ kind: "done" }, [0, 0]])
      m.ste(1, { Config: 7n, S1ContextPtr: m.cd(plainCd(m.root)) >> 6n, ...plainStage2(m.alloc()) })
      expect(m.fault(1, VA).completes).toBeUndefined()
    }
  })
})

describe("merging of events", () => {
  const faulting = (mev: bigint, cd: Record<string, bigint> = {}): Stalling => {
    const m = new Stalling({}, { S: 0n, R: 1n, ...cd })
    m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(m.root), ...cd }) >> 6n, MEV: mev })
    return m
  }

  it("lets one record stand for the same fault of a page, until software has read it", () => {
    const m = faulting(1n)
    for (const offset of [0n, 8n, 0xfffn]) expect(m.fault(1, VA + offset).record).not.toBeNull()
    expect(m.events()).toEqual([[0x1_0000_0010n, READ_RECORD, VA, 0n]])
    m.fault(1, VA + 0x1000n)
    m.fault(1, VA, ACCESS_WRITE)
    m.fault(1, VA)
    expect(m.read("EVENTQ_PROD")).toBe(4)
    m.write("EVENTQ_CONS", 4)
    m.fault(1, VA)
    expect(m.read("EVENTQ_PROD")).toBe(5)
  })

  it("does not happen without STE.MEV, nor to stalled transactions", () => {
    const m = faulting(0n)
    m.fault(1, VA)
    m.fault(1, VA)
    expect(m.read("EVENTQ_PROD")).toBe(2)
    const s = faulting(1n, { S: 1n })
    s.send(1, VA)
    s.send(1, VA)
    expect(s.read("EVENTQ_PROD")).toBe(2)
  })

  it("does not hide what a full queue loses", () => {
    const m = faulting(1n)
    for (let i = 0n; i < 128n; i++) m.fault(1, i << 12n)
    m.fault(1, 127n << 12n)
    expect(m.read("EVENTQ_PROD")).toBe(0x8000_0080)
  })
})
