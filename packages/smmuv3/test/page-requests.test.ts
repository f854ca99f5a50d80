/** The PRI queue, automatic answers and CMD_PRI_RESP. Arm IHI 0070 G.b chapter 8, §4.5.2. */
import {
  type AtsDevice,
  Endpoint,
  type PageRequest,
  PRI_INVALID_REQUEST,
  PRI_RESPONSE_FAILURE,
  PRI_SUCCESS,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import { EVERYTHING, type IdRegisters } from "../src/model/options.ts"
import * as reg from "../src/spec/registers.ts"
import { Machine, plainCd, RAM, S1_PAGE, SHAPE_4K } from "./model-machine.ts"

const VA = 0x12_3456_7000n
const PAGE = RAM + 0xf0_0000n
const ENABLED = reg.CR0_SMMUEN | reg.CR0_EVENTQEN | reg.CR0_CMDQEN | reg.CR0_PRIQEN
const REQUEST: PageRequest = {
  device: 1,
  pasid: null,
  address: VA,
  read: true,
  write: false,
  execute: false,
  privileged: false,
  last: true,
  group: 5,
}

/** A PRI queue of 2^lg2 entries, and a device at stream 1 that notes its answers. */
class Pri extends Machine {
  readonly queue: bigint
  readonly answers: [group: number, pasid: number | null, code: number][] = []

  constructor(id: Partial<IdRegisters> = {}, lg2 = 2n) {
    super(id)
    this.queue = this.alloc()
    this.write64("PRIQ_BASE", this.queue | lg2)
    this.write("CR0", ENABLED)
    const device: AtsDevice = {
      invalidate: () => true,
      pageGroupResponse: (...answer) => this.answers.push(answer),
    }
    this.model.connect(1, device)
  }

  request(fields: Partial<PageRequest> = {}): void {
    this.model.pageRequest({ ...REQUEST, ...fields })
  }

  entry(index: number): bigint[] {
    const at = this.queue + 16n * BigInt(index)
    return [this.memory.read64(at), this.memory.read64(at + 8n)]
  }

  recreate(cr2: number): void {
    this.write("CR0", 0)
    this.write("CR2", cr2)
    this.write("CR0", ENABLED)
  }
}

describe("the PRI queue", () => {
  it("holds requests as they came", () => {
    const m = new Pri()
    m.request()
    m.request({
      device: 0x1234,
      pasid: 0xa_bcde,
      read: false,
      write: true,
      execute: true,
      privileged: true,
      last: false,
      group: 0x1ff,
      address: 0xffff_ffff_ffff_f000n,
    })
    m.request({ execute: true, privileged: true })
    expect(m.read("PRIQ_PROD")).toBe(3)
    expect(m.entry(0)).toEqual([0x5000_0000_0000_0001n, VA | 5n])
    expect(m.entry(1)).toEqual([0xac0a_bcde_0000_1234n, 0xffff_ffff_ffff_f1ffn])
    // X and Priv belong to PASIDs.
    expect(m.entry(2)[0]).toBe(0x5000_0000_0000_0001n)
    expect(m.answers).toEqual([])
  })

  it("wraps", () => {
    const m = new Pri()
    for (let i = 0; i < 4; i++) m.request({ group: i })
    m.write("PRIQ_CONS", 3)
    m.request({ group: 9 })
    expect(m.read("PRIQ_PROD")).toBe(5)
    expect(m.entry(0)[1]).toBe(VA | 9n)
  })

  it("overflows once, keeps requests out until that is acknowledged, and answers last ones", () => {
    const m = new Pri()
    for (let i = 0; i < 4; i++) m.request({ group: i })
    m.request({ group: 7, last: false })
    expect(m.read("PRIQ_PROD")).toBe(0x8000_0004)
    expect(m.answers).toEqual([])
    m.request({ group: 8 })
    m.write("PRIQ_CONS", 4)
    m.request({ group: 9 })
    expect(m.answers).toEqual([
      [8, null, PRI_SUCCESS],
      [9, null, PRI_SUCCESS],
    ])
    expect(m.read("PRIQ_PROD")).toBe(0x8000_0004)
    m.write("PRIQ_CONS", 0x8000_0004)
    m.request({ group: 10 })
    expect(m.read("PRIQ_PROD")).toBe(0x8000_0005)
    expect(m.answers).toHaveLength(2)
    for (let i = 0; i < 4; i++) m.request()
    expect(m.read("PRIQ_PROD")).toBe(0)
  })

  it("answers an overflowing request with PASID as STE.PPAR says", () => {
    const m = new Pri({}, 0n)
    m.recreate(reg.CR2_RECINVSID)
    m.request()
    m.ste(1, { Config: 4n, PPAR: 1n })
    m.request({ pasid: 3 })
    m.ste(1, { Config: 0n, PPAR: 1n })
    m.request({ pasid: 3 })
    m.ste(1, { Config: 5n, S1ContextPtr: 0n, PPAR: 0n })
    m.request({ pasid: 3 })
    m.ste(1, { V: 0n, PPAR: 1n })
    m.request({ pasid: 3 })
    expect(m.answers).toEqual([
      [5, 3, PRI_SUCCESS],
      [5, 3, PRI_SUCCESS],
      [5, null, PRI_SUCCESS],
      [5, null, PRI_RESPONSE_FAILURE],
    ])
    expect(m.events()).toEqual([])
  })

  it("records what kept it from checking STE.PPAR with REC_CFG_ATS alone", () => {
    const m = new Pri({}, 0n)
    m.model.connect(256, { invalidate: () => true, pageGroupResponse: (...a) => m.answers.push(a) })
    m.recreate(reg.CR2_REC_CFG_ATS)
    m.request()
    m.ste(1, { V: 0n })
    m.request({ pasid: 3 })
    m.request({ device: 256, pasid: 3 })
    expect(m.events()).toEqual([[0x1_0000_3804n, 0n, 0n, 0n]])
    m.recreate(reg.CR2_REC_CFG_ATS | reg.CR2_RECINVSID)
    m.request({ device: 256, pasid: 3, write: true, read: false, execute: true, privileged: true })
    expect(m.events()[1]).toEqual([0x100_0000_3802n, 0n, 0n, 0n])
    expect(m.answers.map(a => a[2])).toEqual([15, 15, 15])
  })

  it("does not look at STE.PPAR with IDR3.PPS, nor without SubstreamIDs", () => {
    const pps = new Pri({ IDR3: EVERYTHING.IDR3 | (1 << 5) }, 0n)
    pps.request()
    pps.request({ pasid: 3 })
    expect(pps.answers).toEqual([[5, 3, PRI_SUCCESS]])
    const none = new Pri({ IDR1: EVERYTHING.IDR1 & ~(0x1f << 6) }, 0n)
    none.request()
    none.request({ pasid: 3 })
    expect(none.answers).toEqual([[5, null, PRI_SUCCESS]])
  })

  it.each([
    ["PRIQEN is 0", ENABLED & ~reg.CR0_PRIQEN, {}],
    ["SMMUEN is 0", ENABLED & ~reg.CR0_SMMUEN, {}],
    ["IDR0.PRI is 0", ENABLED, { IDR0: EVERYTHING.IDR0 & ~(1 << 16) }],
  ])("refuses every request without PASID while %s", (_, cr0, id) => {
    const m = new Pri(id)
    m.write("CR0", cr0)
    m.request({ pasid: 3 })
    m.request({ last: false })
    expect(m.answers).toEqual([
      [5, null, PRI_RESPONSE_FAILURE],
      [5, null, PRI_RESPONSE_FAILURE],
    ])
    expect(m.read("PRIQ_PROD")).toBe(0)
  })

  it("without memory raises PRIQ_ABT_ERR and refuses until that is acknowledged", () => {
    const m = new Pri()
    m.write("CR0", 0)
    m.write64("PRIQ_BASE", 0x1_0000_0000n | 2n)
    m.write("CR0", ENABLED)
    m.request()
    expect([m.read("GERROR"), m.read("PRIQ_PROD")]).toEqual([8, 0])
    m.request()
    expect(m.answers.map(a => a[2])).toEqual([15, 15])
    m.write("CR0", 0)
    m.write64("PRIQ_BASE", m.queue | 2n)
    m.write("CR0", ENABLED)
    m.request()
    expect(m.read("PRIQ_PROD")).toBe(0)
    m.write("GERRORN", 8)
    m.request()
    expect(m.read("PRIQ_PROD")).toBe(1)
  })

  it("takes Stop PASID markers, and never answers them", () => {
    const m = new Pri({}, 0n)
    const marker = { pasid: 3, read: false, write: false, last: true }
    m.request(marker)
    expect(m.entry(0)[0]).toBe(0xc000_0003_0000_0001n)
    m.request(marker)
    m.write("CR0", reg.CR0_SMMUEN)
    m.request(marker)
    expect(m.answers).toEqual([])
    // Without PASID it is a request.
    m.request({ ...marker, pasid: null })
    expect(m.answers).toHaveLength(1)
  })

  it("sends its message when it stops being empty, or for last requests with LO", () => {
    const m = new Pri()
    const sent: [bigint, number][] = []
    m.model.onInterrupt = (address, data) => sent.push([address, data])
    m.write64("PRIQ_IRQ_CFG0", 0x808_0040n)
    m.write("PRIQ_IRQ_CFG1", 7)
    m.request()
    expect(sent).toEqual([])
    m.write("PRIQ_CONS", 1)
    m.write("IRQ_CTRL", reg.IRQ_CTRL_PRIQ_IRQEN)
    m.request({ last: false })
    m.request()
    expect(sent).toEqual([[0x808_0040n, 7]])
    m.write("IRQ_CTRL", 0)
    m.write("PRIQ_IRQ_CFG2", 0x8000_0000)
    m.write("IRQ_CTRL", reg.IRQ_CTRL_PRIQ_IRQEN)
    m.request({ last: false })
    m.request()
    expect(sent).toHaveLength(2)
    // Overflow: last requests only.
    m.request({ last: false })
    expect(sent).toHaveLength(2)
    m.request()
    expect(sent).toHaveLength(3)
  })
})

describe("CMD_PRI_RESP", () => {
  /** As words, §4.5.2. */
  const respond = (flags: bigint, group: bigint, resp: bigint): bigint[] => [
    0x41n | flags | (1n << 32n),
    group | (resp << 12n),
  ]

  it("answers a group, with the PASID given", () => {
    const m = new Pri()
    const ssv = (1n << 11n) | (0xa_bcden << 12n)
    m.command(respond(0n, 5n, 2n), respond(ssv, 0x1ffn, 1n), respond(ssv, 0n, 0n))
    expect(m.answers).toEqual([
      [5, null, PRI_SUCCESS],
      [0x1ff, 0xa_bcde, PRI_INVALID_REQUEST],
      [0, 0xa_bcde, PRI_RESPONSE_FAILURE],
    ])
  })

  it("has no PASID without SubstreamIDs, is ignored while SMMUEN is 0, and illegal without IDR0.PRI", () => {
    const none = new Pri({ IDR1: EVERYTHING.IDR1 & ~(0x1f << 6) })
    none.command(respond(1n << 11n, 5n, 2n))
    expect(none.answers).toEqual([[5, null, PRI_SUCCESS]])
    none.write("CR0", reg.CR0_CMDQEN)
    none.command(respond(0n, 5n, 2n))
    expect([none.answers.length, none.read("CMDQ_CONS")]).toEqual([1, 2])
    const noPri = new Pri({ IDR0: EVERYTHING.IDR0 & ~(1 << 16) })
    noPri.command(respond(0n, 5n, 2n))
    expect(noPri.read("CMDQ_CONS")).toBe(1 << 24)
  })
})

describe("an endpoint with PRI", () => {
  it("gets its page and goes on", () => {
    const m = new Pri()
    const root = m.alloc()
    m.ste(1, { Config: 5n, EATS: 1n, S1ContextPtr: m.cd(plainCd(root)) >> 6n })
    const endpoint = new Endpoint({ model: m.model, memory: m.memory, device: 1, ats: true, pri: true })
    expect(endpoint.write(VA + 3n, Uint8Array.of(1))).toEqual({ kind: "page-requested", group: 0 })
    expect(m.entry(0)).toEqual([0x6000_0000_0000_0001n, VA])
    m.map(root, SHAPE_4K, VA, PAGE | S1_PAGE)
    m.write("PRIQ_CONS", 1)
    m.command([0x41n | (1n << 32n), 2n << 12n])
    expect(endpoint.mayRetry(0)).toBe(true)
    expect(endpoint.write(VA + 3n, Uint8Array.of(1))).toEqual({ kind: "done" })
    expect([...m.memory.read(PAGE + 3n, 1)]).toEqual([1])
  })

  it("is told at once to try again when the queue overflows", () => {
    const m = new Pri({}, 0n)
    m.request()
    m.ste(1, { Config: 5n, EATS: 1n, S1ContextPtr: m.cd(plainCd(m.alloc())) >> 6n })
    const endpoint = new Endpoint({ model: m.model, memory: m.memory, device: 1, ats: true, pri: true })
    expect(endpoint.read(VA, new Uint8Array(1))).toEqual({ kind: "page-requested", group: 0 })
    expect(endpoint.mayRetry(0)).toBe(true)
  })
})
