/** ATS: translation requests, translated transactions, invalidations. Arm IHI 0070 G.b §3.9.1, §4.5.1, §13.6, §13.7. */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  ATS_COMPLETER_ABORT,
  ATS_SUCCESS,
  ATS_UNSUPPORTED_REQUEST,
  type AtsDevice,
  type CachePolicy,
  Endpoint,
  hi32,
  lo32,
  NO_PASID,
} from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { EVERYTHING, type IdRegisters } from "../src/model/options.ts"
import * as cd from "../src/spec/pasid-table.ts"
import * as reg from "../src/spec/registers.ts"
import {
  Machine,
  plainCd,
  plainStage2,
  RAM,
  S1_BLOCK,
  S1_PAGE,
  S2_BLOCK,
  S2_PAGE,
  SHAPE_4K,
  type SteFields,
} from "./model-machine.ts"

const VA = 0x12_3456_7000n
const IPA = 0x9_8765_4000n
const PAGE = RAM + 0xf0_0000n
const RW = ACCESS_READ | ACCESS_WRITE
const ENABLED = reg.CR0_SMMUEN | reg.CR0_EVENTQEN | reg.CR0_CMDQEN
const FULL = 1n
const SPLIT = 2n

interface Completion {
  readonly status: number
  readonly address: bigint
  readonly size: number
  readonly allowed: number
}

class Ats extends Machine {
  readonly s1: bigint
  readonly s2: bigint

  constructor(id: Partial<IdRegisters> = {}, caches: CachePolicy = "none", ramBytes?: bigint) {
    super(id, ramBytes, caches)
    this.s1 = this.alloc()
    this.s2 = this.alloc()
  }

  /** Stream 1 with stage 1 alone. */
  stage1(fields: SteFields = {}, context: object = {}): void {
    const at = this.cd({ ...plainCd(this.s1), ...context })
    this.ste(1, { Config: 5n, EATS: FULL, S1ContextPtr: at >> 6n, ...fields })
  }

  /** Stream 1 with both stages; the tables of stage 1 are where their IPA says. */
  nested(fields: SteFields = {}, context: object = {}): void {
    for (let page = RAM; page < RAM + 0x100_0000n; page += 0x20_0000n) {
      this.map(this.s2, { ...SHAPE_4K, leafLevel: 2 }, page, page | S2_BLOCK)
    }
    this.stage1({ Config: 7n, ...plainStage2(this.s2), ...fields }, context)
  }

  recreate(cr0: number, cr2: number): void {
    this.write("CR0", 0)
    this.write("CR2", cr2)
    this.write("CR0", cr0)
  }

  request(address: bigint, access = RW, pasid = NO_PASID, device = 1): Completion {
    const { model } = this
    const status = model.translationRequest(device, pasid, hi32(address), lo32(address), access)
    const { addressHi, addressLo, sizeLg2, allowed, global, untranslatedOnly } = model.completion
    expect([global, untranslatedOnly]).toEqual([false, false])
    return { status, address: (BigInt(addressHi) << 32n) | BigInt(addressLo), size: sizeLg2, allowed }
  }

  translated(address: bigint, access = ACCESS_READ, device = 1): bigint | null {
    const { model } = this
    const status = model.translatedRequest(device, NO_PASID, hi32(address), lo32(address), access)
    if (status !== 0 || model.reached === undefined) return null
    return (BigInt(model.reached.paHi) << 32n) | BigInt(model.reached.paLo)
  }
}

describe("a translation request", () => {
  it("is answered with the page, its size and what it allows of what was asked", () => {
    const m = new Ats()
    m.stage1()
    m.map(m.s1, SHAPE_4K, VA, PAGE | S1_PAGE)
    expect(m.request(VA + 0x123n)).toEqual({ status: ATS_SUCCESS, address: PAGE, size: 12, allowed: RW })
    // NW is set.
    expect(m.request(VA, ACCESS_READ).allowed).toBe(ACCESS_READ)
    // Read is implied.
    expect(m.request(VA, ACCESS_WRITE).allowed).toBe(RW)
    expect(m.events()).toEqual([])
  })

  it("gives a block whole, and the smaller of two stages", () => {
    const m = new Ats()
    m.nested()
    m.map(m.s1, { ...SHAPE_4K, leafLevel: 2 }, VA, IPA | S1_BLOCK)
    m.map(m.s2, SHAPE_4K, IPA & ~0x1f_ffffn, PAGE | S2_PAGE)
    const block = VA & ~0x1f_ffffn
    m.memory.write64(findLeaf(m, m.s1, block), (IPA & ~0x1f_ffffn) | S1_BLOCK)
    expect(m.request(block)).toEqual({ status: ATS_SUCCESS, address: PAGE, size: 12, allowed: RW })
    m.stage1()
    expect(m.request(block + 0x5000n)).toMatchObject({ address: IPA & ~0x1f_ffffn, size: 21 })
  })

  it("is Unsupported with F_BAD_ATS_TREQ where ATS is off, and silent where the stream aborts", () => {
    const m = new Ats()
    m.stage1({ EATS: 0n })
    // R and W at bits 95 and 94, Span 1.
    const record = [0x1_0000_0005n, 0xc000_0001n, VA, 0n]
    expect(m.request(VA + 5n).status).toBe(ATS_UNSUPPORTED_REQUEST)
    expect(m.model.atsFault).toMatchObject({ reason: "F_BAD_ATS_TREQ", code: 5, record })
    // Without a DPT 3 counts as 0.
    m.stage1({ EATS: 3n })
    expect(m.request(VA, RW, NO_PASID).status).toBe(ATS_UNSUPPORTED_REQUEST)
    m.ste(1, { Config: 4n, EATS: FULL })
    expect(m.request(VA).status).toBe(ATS_UNSUPPORTED_REQUEST)
    m.write("CR0", reg.CR0_EVENTQEN)
    expect(m.request(VA).status).toBe(ATS_UNSUPPORTED_REQUEST)
    expect(m.events()).toEqual([record, record, record, record])
    m.write("CR0", ENABLED)
    m.ste(1, { Config: 0n, EATS: FULL })
    expect(m.request(VA).status).toBe(ATS_UNSUPPORTED_REQUEST)
    expect(m.model.atsFault).toMatchObject({ reason: "ABORT", record: null })
    expect(m.events()).toHaveLength(4)
  })

  it("is Unsupported and unrecorded without IDR0.ATS", () => {
    const m = new Ats({ IDR0: EVERYTHING.IDR0 & ~(1 << 10) })
    m.stage1()
    expect(m.request(VA).status).toBe(ATS_UNSUPPORTED_REQUEST)
    expect(m.events()).toEqual([])
    expect(m.translated(PAGE)).toBeNull()
  })

  it.each([
    ["a read", ACCESS_READ, 0x8000_0001n],
    ["a write", ACCESS_WRITE, 0xc000_0001n],
    ["an instruction fetch", ACCESS_READ | ACCESS_EXEC, 0xa000_0001n],
    ["a privileged access", RW | ACCESS_PRIV, 0xd000_0001n],
  ])("tells of PASIDs and of %s in F_BAD_ATS_TREQ, before INSTCFG and PRIVCFG", (_, access, word) => {
    const m = new Ats()
    m.stage1({ EATS: 0n, INSTCFG: 2n, PRIVCFG: 2n })
    m.request(VA, access, 0x1_2345)
    expect(m.events()).toEqual([[0x1_1234_5805n, word, VA, 0n]])
  })

  it("has neither X nor PRIV in F_BAD_ATS_TREQ without a PASID", () => {
    const m = new Ats()
    m.stage1({ EATS: 0n })
    m.request(VA, ACCESS_READ | ACCESS_EXEC | ACCESS_PRIV)
    expect(m.events()).toEqual([[0x1_0000_0005n, 0x8000_0001n, VA, 0n]])
  })

  it.each([
    ["C_BAD_STREAMID", 256, 2, (_: Ats) => {}],
    ["C_BAD_STE", 1, 4, (m: Ats) => m.stage1({ V: 0n })],
    ["F_STREAM_DISABLED", 1, 6, (m: Ats) => m.stage1({ S1CDMax: 1n })],
    ["C_BAD_CD", 1, 0xa, (m: Ats) => m.stage1({}, { AA64: 0n })],
    ["F_CD_FETCH", 1, 9, (m: Ats) => m.stage1({ S1ContextPtr: 0x1_0000_0000n >> 6n })],
    ["F_WALK_EABT", 1, 0xb, (m: Ats) => m.memory.write64(m.s1, 0x1_0000_0003n)],
  ] as const)("is aborted for %s, recorded with REC_CFG_ATS alone", (reason, device, code, spoil) => {
    const m = new Ats()
    m.stage1()
    spoil(m)
    m.recreate(ENABLED, reg.CR2_RECINVSID)
    expect(m.request(0n, RW, NO_PASID, device).status).toBe(ATS_COMPLETER_ABORT)
    expect(m.model.atsFault).toMatchObject({ reason, record: null })
    m.recreate(ENABLED, reg.CR2_RECINVSID | reg.CR2_REC_CFG_ATS)
    expect(m.request(0n, RW, NO_PASID, device).status).toBe(ATS_COMPLETER_ABORT)
    expect(m.events().map(e => Number(e[0] & 0xffn))).toEqual([code])
    if (reason !== "C_BAD_STREAMID") return
    m.recreate(ENABLED, reg.CR2_REC_CFG_ATS)
    m.request(0n, RW, NO_PASID, device)
    expect(m.events()).toHaveLength(1)
  })

  it("is aborted for a PASID beyond the CD table", () => {
    const m = new Ats()
    m.recreate(ENABLED, reg.CR2_REC_CFG_ATS)
    m.stage1({ S1CDMax: 4n, S1DSS: 2n })
    expect(m.request(VA, RW, 16).status).toBe(ATS_COMPLETER_ABORT)
    expect(m.model.atsFault).toMatchObject({ reason: "C_BAD_SUBSTREAMID", pasid: 16 })
    expect(m.model.atsFault?.detail).toContain("SubstreamID")
    expect(m.events()).toEqual([[0x1_0001_0008n, 0n, 0n, 0n]])
  })

  it("is not recorded where IDR0.ATSRECERR is 0", () => {
    const m = new Ats({ IDR0: EVERYTHING.IDR0 & ~(1 << 23) })
    m.recreate(ENABLED, reg.CR2_REC_CFG_ATS)
    m.stage1({ V: 0n })
    expect(m.request(VA).status).toBe(ATS_COMPLETER_ABORT)
    expect(m.events()).toEqual([])
  })

  it("succeeds without R and W for Translation-related faults of either stage, and records none", () => {
    const denied = { status: ATS_SUCCESS, size: 12, allowed: 0 }
    const m = new Ats()
    m.stage1()
    expect(m.request(VA)).toMatchObject(denied)
    // Access flag clear; output beyond IPS; no permission.
    for (const leaf of [0x343n, (1n << 47n) | S1_PAGE, S1_PAGE & ~0x40n]) {
      m.stage1({}, { IPS: 0n, A: 1n, S: 1n })
      m.map(m.s1, SHAPE_4K, VA, leaf)
      expect(m.request(VA)).toMatchObject(denied)
    }
    m.map(m.s1, SHAPE_4K, VA, IPA | S1_PAGE)
    m.nested()
    expect(m.request(VA)).toMatchObject(denied)
    m.ste(1, { Config: 6n, EATS: FULL, ...plainStage2(m.s2) })
    expect(m.request(1n << 52n)).toMatchObject(denied)
    // Stage 2 for a CD.
    m.nested({ S1ContextPtr: 0x8000_0000n >> 6n })
    expect(m.request(VA)).toMatchObject(denied)
    expect(m.events()).toEqual([])
  })

  it("of the Smallest Translation Unit when denied, which is the smallest granule", () => {
    const m = new Ats({ IDR5: 0x2000_0040 | 5 })
    m.ste(1, { Config: 6n, EATS: FULL, ...plainStage2(m.s2), S2TG: 1n, S2SL0: 1n, S2T0SZ: 24n })
    expect(m.request(VA)).toMatchObject({ status: ATS_SUCCESS, size: 16, allowed: 0 })
    const middle = new Ats({ IDR5: 0x2000_0060 | 5 })
    middle.stage1({}, { TG0: 2n, T0SZ: 17n })
    expect(middle.request(VA)).toMatchObject({ status: ATS_SUCCESS, size: 14, allowed: 0 })
  })

  it("is denied by a read-only stage for writes only", () => {
    const m = new Ats()
    m.nested()
    m.map(m.s1, SHAPE_4K, VA, IPA | S1_PAGE)
    m.map(m.s2, SHAPE_4K, IPA, PAGE | (S2_PAGE & ~0x80n))
    expect(m.request(VA)).toMatchObject({ address: PAGE, allowed: ACCESS_READ })
    m.map(m.s2, SHAPE_4K, IPA, PAGE | S2_PAGE)
    m.map(m.s1, SHAPE_4K, VA, IPA | S1_PAGE | 0x80n)
    expect(m.request(VA)).toMatchObject({ address: PAGE, allowed: ACCESS_READ })
  })

  it("of a skipped stage 1 is answered by the address itself, or by stage 2", () => {
    const m = new Ats()
    m.stage1({ S1CDMax: 4n, S1DSS: 1n })
    const all = { status: ATS_SUCCESS, address: 0n, size: 52, allowed: RW }
    expect(m.request(VA)).toEqual(all)
    expect(m.request(VA, RW | ACCESS_EXEC | ACCESS_PRIV)).toEqual(all)
    expect(m.request(VA, ACCESS_READ)).toEqual(all)
    expect(m.request(1n << 52n)).toMatchObject({ status: ATS_SUCCESS, allowed: 0 })
    m.map(m.s2, SHAPE_4K, IPA, PAGE | S2_PAGE)
    m.nested({ S1CDMax: 4n, S1DSS: 1n })
    expect(m.request(IPA)).toEqual({ status: ATS_SUCCESS, address: PAGE, size: 12, allowed: RW })
  })
})

describe("a completion", () => {
  const bits = (...positions: number[]) =>
    fc.subarray(positions).map(chosen => chosen.reduce((all, bit) => all | (1n << BigInt(bit)), 0n))
  /** AP, AF, UXN, PXN, DBM of stage 1; S2AP, AF, XN, DBM of stage 2: mostly accessed. */
  const leaf1 = bits(6, 7, 51, 53, 54).map(b => b | 0x703n)
  const leaf2 = bits(6, 7, 51, 53, 54).map(b => b | 0x73fn)
  const flags = fc.record({ HA: fc.boolean(), WXN: fc.boolean(), PAN: fc.boolean(), E0PD0: fc.boolean() })

  /** A machine of its own for each question, because asking may update flags. */
  function machine(one: bigint, two: bigint, on: Record<string, boolean>): Ats {
    const m = new Ats({}, "none", 0x40_0000n)
    const cdFlags = Object.fromEntries(Object.entries(on).map(([name, set]) => [name, set ? 1n : 0n]))
    const both = on.HA === true ? { HD: 1n } : {}
    const at = m.alloc()
    m.store(at + 64n, cd.CD.encode({ ...plainCd(m.s1), ...cdFlags, ...both }))
    for (const page of [RAM, RAM + 0x20_0000n])
      m.map(m.s2, { ...SHAPE_4K, leafLevel: 2 }, page, page | S2_BLOCK)
    const s2Flags = on.HA === true ? { S2HA: 1n, S2HD: 1n } : {}
    const ste = { Config: 7n, EATS: FULL, S1CDMax: 1n, S1ContextPtr: at >> 6n }
    m.ste(1, { ...ste, ...plainStage2(m.s2), ...s2Flags })
    m.map(m.s1, SHAPE_4K, VA, IPA | one)
    m.map(m.s2, SHAPE_4K, IPA, PAGE | two)
    return m
  }

  it("grants what transactions of the same kind and privilege are allowed, at the same place", () => {
    fc.assert(
      fc.property(leaf1, leaf2, flags, fc.constantFrom(0, ACCESS_PRIV), (one, two, on, privilege) => {
        const all = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC | privilege
        const answer = machine(one, two, on).request(VA, all, 1)
        const may = (access: number): boolean => machine(one, two, on).access(1, VA, access | privilege, 1).ok
        const reads = may(ACCESS_READ)
        // Execution alone cannot be told, and stage 1 that only executes ends the request.
        const executes = reads && may(ACCESS_READ | ACCESS_EXEC)
        const writes = may(ACCESS_WRITE)
        const granted = (reads ? ACCESS_READ : 0) | (writes ? ACCESS_WRITE : 0) | (executes ? ACCESS_EXEC : 0)
        expect(answer.status).toBe(ATS_SUCCESS)
        expect(answer.allowed & ~ACCESS_PRIV).toBe(granted)
        if (granted !== 0) expect([answer.address, answer.size]).toEqual([PAGE, 12])
      }),
      { seed: 39, numRuns: 150 },
    )
  })
})

/** The table of §13.7, Priv and Exe as they come with a PASID. */
describe("permissions of a completion", () => {
  const USER = 0x40n
  const READ_ONLY = 0x80n
  const UXN = 1n << 54n
  const PXN = 1n << 53n

  function answer(leaf: bigint, access: number, fields: SteFields = {}): number {
    const m = new Ats()
    const table = m.alloc()
    m.store(table + 64n, cd.CD.encode(plainCd(m.s1)))
    m.stage1({ S1ContextPtr: table >> 6n, S1CDMax: 1n, ...fields })
    m.map(m.s1, SHAPE_4K, VA, PAGE | (leaf | 0x703n))
    const { status, allowed } = m.request(VA, access, 1)
    expect(status).toBe(ATS_SUCCESS)
    return allowed
  }

  it.each([
    [USER | READ_ONLY, ACCESS_READ, ACCESS_READ],
    [USER, RW, RW],
    [USER | READ_ONLY, RW, ACCESS_READ],
    [USER | UXN, ACCESS_READ | ACCESS_EXEC, ACCESS_READ],
    [USER | UXN, RW, RW],
    [USER, RW | ACCESS_EXEC, RW | ACCESS_EXEC],
    // Executable without privilege, readable with: no access.
    [0n, RW | ACCESS_EXEC, 0],
    [0n, RW | ACCESS_PRIV, RW | ACCESS_PRIV],
    [PXN, RW | ACCESS_EXEC | ACCESS_PRIV, RW | ACCESS_PRIV],
  ])("leaf bits %s, asked %s: %s", (leaf, asked, allowed) => {
    expect(answer(leaf, asked)).toBe(allowed)
  })

  it("are those of the privilege that PRIVCFG sets, told as asked", () => {
    expect(answer(0n, RW, { PRIVCFG: 3n })).toBe(RW)
    expect(answer(0n, RW | ACCESS_PRIV, { PRIVCFG: 2n })).toBe(0)
    expect(answer(USER | READ_ONLY, RW | ACCESS_PRIV, { PRIVCFG: 2n })).toBe(ACCESS_READ | ACCESS_PRIV)
  })

  it("take reads for execution, or execution for reads, by INSTCFG", () => {
    const asked = ACCESS_READ | ACCESS_EXEC
    expect(answer(0n, asked, { INSTCFG: 3n })).toBe(asked)
    expect(answer(USER | UXN, asked, { INSTCFG: 3n })).toBe(0)
    expect(answer(USER | UXN, asked, { INSTCFG: 2n })).toBe(asked)
  })
})

/** §3.13.7. */
describe("flags", () => {
  const DBM = 1n << 51n
  const CLEAN = 0x3c3n | DBM

  it("are updated by the request: AF always, dirty state for writes that both stages allow", () => {
    const m = new Ats()
    m.stage1({}, { HA: 1n, HD: 1n })
    m.map(m.s1, SHAPE_4K, VA, PAGE | CLEAN)
    const leaf = findLeaf(m, m.s1, VA)
    expect(m.request(VA, ACCESS_READ).allowed).toBe(ACCESS_READ)
    expect(m.memory.read64(leaf)).toBe(PAGE | CLEAN | 0x400n)
    expect(m.request(VA).allowed).toBe(RW)
    expect(m.memory.read64(leaf)).toBe(PAGE | S1_PAGE | DBM)
  })

  it("are not updated in stage 2 by a read-only stage 1, nor in stage 1 by a read-only stage 2", () => {
    const m = new Ats()
    m.nested({ S2HA: 1n, S2HD: 1n }, { HA: 1n, HD: 1n })
    m.map(m.s1, SHAPE_4K, VA, IPA | S1_PAGE | 0x80n)
    m.map(m.s2, SHAPE_4K, IPA, PAGE | 0x77fn | DBM)
    expect(m.request(VA).allowed).toBe(ACCESS_READ)
    expect(m.memory.read64(findLeaf(m, m.s2, IPA))).toBe(PAGE | 0x77fn | DBM)
    m.map(m.s1, SHAPE_4K, VA, IPA | S1_PAGE | 0x80n | DBM)
    m.map(m.s2, SHAPE_4K, IPA, PAGE | 0x77fn)
    expect(m.request(VA).allowed).toBe(ACCESS_READ)
    expect(m.memory.read64(findLeaf(m, m.s1, VA))).toBe(IPA | S1_PAGE | 0x80n | DBM)
    m.map(m.s2, SHAPE_4K, IPA, PAGE | 0x77fn | DBM)
    expect(m.request(VA).allowed).toBe(RW)
    expect(m.memory.read64(findLeaf(m, m.s1, VA))).toBe(IPA | S1_PAGE | DBM)
    expect(m.memory.read64(findLeaf(m, m.s2, IPA))).toBe(PAGE | S2_PAGE | DBM)
  })

  it("are updated in stage 2 alone where stage 1 is skipped", () => {
    const m = new Ats()
    m.nested({ S1CDMax: 4n, S1DSS: 1n, S2HA: 1n, S2HD: 1n })
    m.map(m.s2, SHAPE_4K, IPA, PAGE | 0x37fn | DBM)
    expect(m.request(IPA, ACCESS_READ).allowed).toBe(ACCESS_READ)
    expect(m.memory.read64(findLeaf(m, m.s2, IPA))).toBe(PAGE | 0x77fn | DBM)
    expect(m.request(IPA).allowed).toBe(RW)
    expect(m.memory.read64(findLeaf(m, m.s2, IPA))).toBe(PAGE | S2_PAGE | DBM)
  })
})

describe("a translated transaction", () => {
  it("passes without ATSCHK up to the output size, whatever the STE says", () => {
    const m = new Ats()
    m.ste(1, { V: 0n })
    expect(m.translated(PAGE + 5n)).toBe(PAGE + 5n)
    expect(m.translated(1n << 52n)).toBeNull()
    expect(m.model.atsFault).toMatchObject({ reason: "ABORT", record: null })
    expect(m.events()).toEqual([])
  })

  it("is forbidden while SMMUEN is 0", () => {
    const m = new Ats()
    m.write("CR0", reg.CR0_EVENTQEN)
    expect(m.translated(PAGE + 5n, ACCESS_WRITE)).toBeNull()
    expect(m.events()).toEqual([[0x1_0000_0007n, 0n, PAGE + 5n, 0n]])
  })

  it("with ATSCHK needs STE.EATS", () => {
    const m = new Ats()
    m.write("CR0", ENABLED | reg.CR0_ATSCHK)
    m.stage1()
    expect(m.translated(PAGE)).toBe(PAGE)
    expect(m.translated(1n << 52n)).toBeNull()
    const record = [0x1_0000_0007n, 1n << 35n, PAGE, 0n]
    m.stage1({ EATS: 0n })
    expect(m.translated(PAGE)).toBeNull()
    expect(m.model.atsFault).toMatchObject({ reason: "F_TRANSL_FORBIDDEN", record })
    m.ste(1, { Config: 4n, EATS: FULL })
    expect(m.translated(PAGE)).toBeNull()
    m.ste(1, { Config: 0n, EATS: FULL })
    expect(m.translated(PAGE)).toBeNull()
    expect(m.events()).toEqual([record, record])
  })

  it("with ATSCHK is aborted for a bad STE, recorded with REC_CFG_ATS alone and whatever RECINVSID says", () => {
    const m = new Ats()
    m.recreate(ENABLED | reg.CR0_ATSCHK, reg.CR2_RECINVSID)
    m.stage1({ V: 0n })
    expect(m.translated(PAGE)).toBeNull()
    expect(m.translated(PAGE, ACCESS_READ, 256)).toBeNull()
    expect(m.events()).toEqual([])
    m.recreate(ENABLED | reg.CR0_ATSCHK, reg.CR2_REC_CFG_ATS)
    m.translated(PAGE)
    m.translated(PAGE, ACCESS_READ, 256)
    expect(m.events().map(e => e[0])).toEqual([0x1_0000_0004n, 0x100_0000_0002n])
  })
})

describe("split-stage ATS", () => {
  function split(id: Partial<IdRegisters> = {}): Ats {
    const m = new Ats(id)
    m.write("CR0", ENABLED | reg.CR0_ATSCHK)
    m.nested({ EATS: SPLIT })
    m.map(m.s1, SHAPE_4K, VA, IPA | S1_PAGE)
    m.map(m.s2, SHAPE_4K, IPA, PAGE | S2_PAGE)
    return m
  }

  it("answers with the IPA, with the permissions of both stages, and translates it when it comes back", () => {
    const m = split()
    expect(m.request(VA + 5n)).toEqual({ status: ATS_SUCCESS, address: IPA, size: 12, allowed: RW })
    expect(m.translated(IPA + 5n)).toBe(PAGE + 5n)
    m.map(m.s2, SHAPE_4K, IPA, PAGE | (S2_PAGE & ~0x80n))
    expect(m.request(VA).allowed).toBe(ACCESS_READ)
    expect(m.translated(IPA, ACCESS_WRITE)).toBeNull()
    expect(m.events()).toEqual([[0x1_0000_0013n, 0x280_0000_0000n, IPA, IPA]])
  })

  it("records faults of stage 2 as an ordinary transaction does", () => {
    const m = split()
    expect(m.translated(IPA + 0x1000n)).toBeNull()
    expect(m.translated(1n << 52n)).toBeNull()
    expect(m.events()).toEqual([
      [0x1_0000_0010n, 0x288_0000_0000n, IPA + 0x1000n, IPA + 0x1000n],
      [0x1_0000_0011n, 0x208_0000_0000n, 1n << 52n, 0n],
    ])
  })

  it("answers a skipped stage 1 with the address itself and the size of stage 2", () => {
    const m = split()
    m.nested({ EATS: SPLIT, S1CDMax: 4n, S1DSS: 1n })
    expect(m.request(IPA)).toEqual({ status: ATS_SUCCESS, address: IPA, size: 12, allowed: RW })
  })

  it("counts as off without ATSCHK, and is ILLEGAL with NS1ATS or one stage", () => {
    const m = split()
    m.write("CR0", ENABLED)
    expect(m.request(VA).status).toBe(ATS_UNSUPPORTED_REQUEST)
    expect(m.model.atsFault?.reason).toBe("F_BAD_ATS_TREQ")
    m.write("CR0", ENABLED | reg.CR0_ATSCHK)
    m.stage1({ EATS: SPLIT })
    expect(m.request(VA).status).toBe(ATS_COMPLETER_ABORT)
    const without = split({ IDR0: EVERYTHING.IDR0 | (1 << 11) })
    expect(without.fault(1, VA).detail).toContain("NS1ATS")
  })
})

describe("CMD_ATC_INV", () => {
  /** As words, §4.5.1. */
  const invalidate = (flags: bigint, pasid: bigint, address: bigint): bigint[] => [
    0x40n | flags | (pasid << 12n) | (1n << 32n),
    address,
  ]
  const SSV = 1n << 11n
  const GLOBAL = 1n << 9n
  const SYNC = [0x46n, 0n]

  function connected(answers = true): { m: Ats; calls: unknown[][] } {
    const m = new Ats()
    const calls: unknown[][] = []
    const device: AtsDevice = {
      invalidate: (...args) => {
        calls.push(args)
        return answers
      },
      pageGroupResponse: () => {},
    }
    m.model.connect(1, device)
    return { m, calls }
  }

  it("reaches the device with an address aligned to its size", () => {
    const { m, calls } = connected()
    m.command(
      invalidate(0n, 0n, 0x1_2345_6000n),
      invalidate(0n, 0n, 0x1_2345_6009n),
      invalidate(SSV, 0x1_2345n, 52n),
      invalidate(SSV | GLOBAL, 3n, 0xffff_ffff_ffff_f000n),
      invalidate(GLOBAL, 3n, 0n),
      [0x40n | (2n << 32n), 52n],
    )
    expect(calls).toEqual([
      [0x1_2345_6000n, 12, null, false],
      [0x1_2340_0000n, 21, null, false],
      [0n, 64, 0x1_2345, false],
      [0xffff_ffff_ffff_f000n, 12, 3, true],
      [0n, 12, null, false],
    ])
    expect(m.read("CMDQ_CONS")).toBe(6)
  })

  it("is ignored while SMMUEN is 0", () => {
    const { m, calls } = connected()
    m.write("CR0", reg.CR0_CMDQEN)
    m.command(invalidate(0n, 0n, 52n))
    expect([calls.length, m.read("CMDQ_CONS")]).toEqual([0, 1])
  })

  it("that times out fails the next CMD_SYNC once", () => {
    const { m } = connected(false)
    m.command(invalidate(0n, 0n, 52n), [0x30n, 0n], SYNC, SYNC)
    expect(m.read("CMDQ_CONS")).toBe((3 << 24) | 2)
    expect(m.read("GERROR")).toBe(1)
    m.write("GERRORN", 1)
    expect(m.read("CMDQ_CONS") & 0xf_ffff).toBe(4)
  })
})

describe("translation requests with caches", () => {
  const TLBI_ALL = [0x30n, 0n]
  const CFGI_ALL = [0x04n, 31n]

  it("may be answered from them, and see a change once software invalidated", () => {
    const m = new Ats({}, "hoard")
    m.nested()
    m.map(m.s1, SHAPE_4K, VA, IPA | S1_PAGE)
    m.map(m.s2, SHAPE_4K, IPA, PAGE | S2_PAGE)
    expect(m.access(1, VA).ok).toBe(true)
    expect(m.request(VA)).toEqual({ status: ATS_SUCCESS, address: PAGE, size: 12, allowed: RW })
    m.map(m.s1, SHAPE_4K, VA, (IPA + 0x2000n) | S1_PAGE)
    m.map(m.s2, SHAPE_4K, IPA + 0x2000n, (PAGE + 0x3000n) | (S2_PAGE & ~0x80n))
    m.command(TLBI_ALL, [0x46n, 0n])
    expect(m.request(VA)).toMatchObject({ address: PAGE + 0x3000n, allowed: ACCESS_READ })
    m.stage1({ EATS: 0n })
    m.command(CFGI_ALL, [0x46n, 0n])
    expect(m.request(VA).status).toBe(ATS_UNSUPPORTED_REQUEST)
  })

  it("mark a page dirty that the TLB holds as clean", () => {
    const m = new Ats({}, "hoard")
    m.stage1({}, { HA: 1n, HD: 1n })
    m.map(m.s1, SHAPE_4K, VA, PAGE | S1_PAGE | 0x80n | (1n << 51n))
    expect(m.access(1, VA).ok).toBe(true)
    expect(m.request(VA).allowed).toBe(RW)
    expect(m.memory.read64(findLeaf(m, m.s1, VA)) & 0x80n).toBe(0n)
  })

  it("do not disturb the transactions of other streams", () => {
    const m = new Ats({}, "exact")
    m.nested()
    m.map(m.s1, SHAPE_4K, VA, IPA | S1_PAGE)
    m.map(m.s2, SHAPE_4K, IPA, PAGE | S2_PAGE)
    const other = m.alloc()
    m.map(other, SHAPE_4K, VA, (PAGE + 0x1000n) | S1_PAGE)
    m.ste(2, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(other), ASID: 2n }) >> 6n })
    for (let pass = 0; pass < 3; pass++) {
      expect(m.access(2, VA)).toMatchObject({ ok: true, pa: PAGE + 0x1000n })
      expect(m.request(VA)).toMatchObject({ status: ATS_SUCCESS, address: PAGE })
      expect(m.request(VA + 0x5000n)).toMatchObject({ status: ATS_SUCCESS, allowed: 0 })
      expect(m.access(2, VA + 8n)).toMatchObject({ ok: true, pa: PAGE + 0x1008n })
      expect(m.access(1, VA)).toMatchObject({ ok: true, pa: PAGE })
    }
  })
})

describe("an endpoint with an ATC", () => {
  it("does DMA through one translation until it is invalidated", () => {
    const m = new Ats()
    m.write("CR0", ENABLED | reg.CR0_ATSCHK)
    m.stage1()
    m.map(m.s1, SHAPE_4K, VA, PAGE | S1_PAGE)
    const endpoint = new Endpoint({ model: m.model, memory: m.memory, device: 1, ats: true })
    expect(endpoint.write(VA + 4n, Uint8Array.of(1, 2))).toEqual({ kind: "done" })
    expect([...m.memory.read(PAGE + 4n, 2)]).toEqual([1, 2])
    // The page moves, but the ATC does not know yet.
    m.map(m.s1, SHAPE_4K, VA, (PAGE + 0x1000n) | S1_PAGE)
    m.command([0x30n, 0n], [0x46n, 0n])
    endpoint.write(VA, Uint8Array.of(9))
    expect([...m.memory.read(PAGE, 1)]).toEqual([9])
    m.command([0x40n | (1n << 32n), VA], [0x46n, 0n])
    endpoint.write(VA, Uint8Array.of(8))
    expect([...m.memory.read(PAGE, 1), ...m.memory.read(PAGE + 0x1000n, 1)]).toEqual([9, 8])
    // Taking ATS away stops what the ATC still holds.
    m.stage1({ EATS: 0n })
    m.command([0x04n, 31n], [0x46n, 0n])
    expect(endpoint.write(VA, Uint8Array.of(7))).toMatchObject({
      kind: "refused",
      fault: { reason: "F_TRANSL_FORBIDDEN" },
    })
  })

  it("reaches memory through stage 2 with split-stage ATS", () => {
    const m = new Ats()
    m.write("CR0", ENABLED | reg.CR0_ATSCHK)
    m.nested({ EATS: SPLIT })
    m.map(m.s1, SHAPE_4K, VA, IPA | S1_PAGE)
    m.map(m.s2, SHAPE_4K, IPA, PAGE | S2_PAGE)
    const endpoint = new Endpoint({ model: m.model, memory: m.memory, device: 1, ats: true })
    expect(endpoint.write(VA + 4n, Uint8Array.of(5))).toEqual({ kind: "done" })
    expect([...m.memory.read(PAGE + 4n, 1)]).toEqual([5])
    // The host moves the page and invalidates stage 2: no ATC involved.
    m.map(m.s2, SHAPE_4K, IPA, (PAGE + 0x1000n) | S2_PAGE)
    m.command([0x30n, 0n], [0x46n, 0n])
    endpoint.write(VA + 4n, Uint8Array.of(6))
    expect([...m.memory.read(PAGE + 0x1004n, 1)]).toEqual([6])
  })
})

/** Address of the level 3 descriptor, or of the block above it. */
function findLeaf(m: Machine, root: bigint, address: bigint): bigint {
  let table = root
  for (let level = 0; ; level++) {
    const at = table + 8n * ((address >> BigInt(39 - 9 * level)) & 511n)
    const entry = m.memory.read64(at)
    if (level === 3 || (entry & 3n) !== 3n) return at
    table = entry & 0xffff_ffff_f000n
  }
}
