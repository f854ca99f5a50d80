/** Device-TLBs. Expected values: Intel VT-d 5.10 (D51397-018) chapter 4, Table 30; PCI Express Base 6.0 chapter 10. */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  ATS_COMPLETER_ABORT,
  ATS_SUCCESS,
  ATS_UNSUPPORTED_REQUEST,
  type AtsDevice,
  Endpoint,
  fromHalves,
  hi32,
  lo32,
  NO_PASID,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import { EVERYTHING, type VtdCapabilities } from "../src/model/options.ts"
import { CAP, ECAP } from "../src/spec/registers.ts"
import {
  CONTEXT,
  DIRECTORY,
  GCMD,
  GUEST_OFFSET,
  HOLE,
  PASID_TABLE,
  ROOT,
  SCALABLE,
  TE,
  Unit,
} from "./unit.ts"

const R = ACCESS_READ
const RW = ACCESS_READ | ACCESS_WRITE
const IOVA = 0x1234_5678_9000n
const PAGE = 0x7f_5000n
const AW4 = 2n << 2n
const FIRST = 1n << 6n
const SECOND = 2n << 6n
const NESTED = 3n << 6n
const PASS_THROUGH = 4n << 6n
const DTE = 1n << 2n
const PASIDE = 1n << 3n
const SSADE = 1n << 9n
const PWSNP = 1n << 23n
const PGSNP = 1n << 24n
const FSTS = 0x34
const QUEUE = 0x1_0000n
const QIE = 1 << 26

function capabilities(
  cap: Parameters<typeof CAP.encode>[0],
  ecap: Parameters<typeof ECAP.encode>[0],
): VtdCapabilities {
  return {
    ver: EVERYTHING.ver,
    cap: CAP.encode({ ...CAP.decode([EVERYTHING.cap]), ...cap })[0] as bigint,
    ecap: ECAP.encode({ ...ECAP.decode([EVERYTHING.ecap]), ...ecap })[0] as bigint,
  }
}

/** What a request was answered, with the code of the fault in the log. */
function ask(unit: Unit, iova: bigint, access = RW, pasid = NO_PASID, device = 0) {
  const { model } = unit
  const status = model.translationRequest(device, pasid, hi32(iova), lo32(iova), access)
  const c = model.completion
  const fault = model.atsFault?.code ?? 0
  if (status !== ATS_SUCCESS) return { status, fault }
  const pa = fromHalves(c.addressHi, c.addressLo)
  return { status, fault, pa, lg2: c.sizeLg2, allowed: c.allowed, U: c.untranslatedOnly, N: c.nonSnooped }
}

/** "Success with R=W=U=S=0": the device may ask for the page; nothing is logged. §7.1.2. */
const NO_PERMISSION = { status: ATS_SUCCESS, fault: 0, allowed: 0, U: false, lg2: 12 }

/** Legacy mode, TT 01b. */
function legacyUnit(tt = 1n): { unit: Unit; entries: bigint[]; root: bigint } {
  const unit = new Unit()
  const root = unit.page()
  const entries = unit.mapSecond(root, 4, IOVA, PAGE | 3n)
  unit.legacy(root | 1n | (tt << 2n), 2n | (7n << 8n))
  return { unit, entries, root }
}

/** Scalable mode with DTE and PASIDE; the same second stage for requests without PASID and for PASID 1. */
function secondUnit(
  leaf: bigint = PAGE | 3n,
  {
    caps = EVERYTHING,
    extra = 0n,
    word1 = 5n,
  }: { caps?: VtdCapabilities; extra?: bigint; word1?: bigint } = {},
) {
  const unit = new Unit(caps)
  const root = unit.page()
  const entries = unit.mapSecond(root, 4, IOVA, leaf)
  unit.scalable(root | 1n | AW4 | SECOND | extra, word1)
  unit.set(CONTEXT, DTE | PASIDE)
  unit.put(PASID_TABLE + 64n, root | 1n | AW4 | SECOND | extra, word1)
  return { unit, entries, root }
}

function firstUnit(leaf: bigint, word2 = 0n, word1 = 5n | PWSNP) {
  const unit = new Unit()
  const root = unit.page()
  const entries = unit.mapFirst(root, 4, IOVA, leaf)
  unit.scalable(1n | FIRST, word1, root | word2)
  unit.set(CONTEXT, DTE | PASIDE)
  unit.put(PASID_TABLE + 64n, 1n | FIRST, word1, root | word2)
  return { unit, entries, root }
}

describe("translation requests, §4.2.3", () => {
  it("are answered with page, rights and size; nothing executes, nothing is global", () => {
    const { unit } = secondUnit()
    expect(ask(unit, IOVA + 0x123n)).toEqual({
      status: ATS_SUCCESS,
      fault: 0,
      pa: PAGE,
      lg2: 12,
      allowed: RW,
      U: false,
      N: false,
    })
    expect(unit.model.completion.global).toBe(false)
  })

  it("say large pages with their base", () => {
    const unit = new Unit()
    const root = unit.page()
    unit.mapSecond(root, 4, IOVA, 0x60_0083n, 2)
    unit.mapSecond(root, 4, 1n << 40n, 0xc000_0083n | (1n << 40n), 3)
    unit.legacy(root | 5n, 2n)
    expect(ask(unit, IOVA)).toMatchObject({ pa: 0x60_0000n, lg2: 21 })
    // A page of 1 GiB with the interrupt range in it only matters below 4 GiB.
    expect(ask(unit, (1n << 40n) + 0x123_4567n)).toMatchObject({ pa: (1n << 40n) + 0xc000_0000n, lg2: 30 })
  })

  it("get the effective permission: W only, R only, and R only when NW is set", () => {
    expect(ask(secondUnit(PAGE | 2n).unit, IOVA)).toMatchObject({ allowed: ACCESS_WRITE, fault: 0 })
    expect(ask(secondUnit(PAGE | 1n).unit, IOVA)).toMatchObject({ allowed: R, fault: 0 })
    const nwfs = capabilities({}, { NWFS: 1n })
    expect(ask(secondUnit(PAGE | 3n, { caps: nwfs }).unit, IOVA, R)).toMatchObject({ allowed: R })
    expect(ask(secondUnit(PAGE | 2n, { caps: nwfs }).unit, IOVA, R)).toMatchObject(NO_PERMISSION)
    const without = capabilities({}, { NWFS: 0n })
    expect(ask(secondUnit(PAGE | 3n, { caps: without }).unit, IOVA, R)).toMatchObject({ allowed: RW })
  })

  it("set A, and D where the translation may be written to; with NW no D", () => {
    const caps = capabilities({}, { NWFS: 1n })
    const how = { caps, extra: SSADE, word1: 5n | PWSNP }
    const flags = (entries: bigint[], unit: Unit): bigint[] => entries.map(at => unit.get(at) & 0x300n)
    const written = secondUnit(PAGE | 3n, how)
    ask(written.unit, IOVA)
    expect(flags(written.entries, written.unit)).toEqual([0x100n, 0x100n, 0x100n, 0x300n])
    const read = secondUnit(PAGE | 3n, how)
    ask(read.unit, IOVA, R)
    expect(flags(read.entries, read.unit)).toEqual([0x100n, 0x100n, 0x100n, 0x100n])
    const readOnly = secondUnit(PAGE | 1n, how)
    ask(readOnly.unit, IOVA)
    expect(flags(readOnly.entries, readOnly.unit)).toEqual([0x100n, 0x100n, 0x100n, 0x100n])
    const first = firstUnit(PAGE | 7n, 1n << 7n)
    ask(first.unit, IOVA)
    expect(first.unit.get(first.entries[3] as bigint) & 0x460n).toBe(0x460n)
  })

  it("say PRIV for PR with PASID alone, with the rights of a supervisor", () => {
    const SRE = 1n
    const { unit } = firstUnit(PAGE | 3n, SRE)
    expect(ask(unit, IOVA, RW | ACCESS_PRIV, 1)).toMatchObject({ allowed: RW | ACCESS_PRIV })
    expect(ask(unit, IOVA, RW, 1)).toMatchObject(NO_PERMISSION)
    expect(ask(unit, IOVA, RW | ACCESS_PRIV)).toMatchObject(NO_PERMISSION)
    // SPT.6: without SRE no right, PRIV all the same.
    expect(ask(firstUnit(PAGE | 3n).unit, IOVA, RW | ACCESS_PRIV, 1)).toMatchObject({
      fault: 0,
      allowed: ACCESS_PRIV,
    })
    // RID_PRIV gives the rights, but PRIV stays 0.
    const rid = firstUnit(PAGE | 3n, SRE)
    rid.unit.set(CONTEXT + 8n, 1n << 20n)
    expect(ask(rid.unit, IOVA)).toMatchObject({ allowed: RW })
  })

  it("never get execute permission; RTA.5 on version 8, SPT.5 before", () => {
    const { unit } = firstUnit(PAGE | 7n)
    expect(ask(unit, IOVA, RW | ACCESS_EXEC, 1)).toMatchObject(NO_PERMISSION)
    const newer = secondUnit(PAGE | 3n, { caps: { ...EVERYTHING, ver: 0x80n } })
    expect(ask(newer.unit, IOVA, RW | ACCESS_EXEC, 1)).toEqual({
      status: ATS_UNSUPPORTED_REQUEST,
      fault: 0x34,
    })
    const ers = secondUnit(PAGE | 3n, { caps: capabilities({}, { ERS: 1n }) })
    expect(ask(ers.unit, IOVA, RW | ACCESS_EXEC, 1)).toMatchObject({ allowed: RW })
  })

  it("N from SNP and PGSNP, Table 10", () => {
    const caps = capabilities({}, { SC: 1n })
    expect(ask(secondUnit(PAGE | 3n | (1n << 11n), { caps }).unit, IOVA)).toMatchObject({ N: true })
    expect(ask(secondUnit(PAGE | 3n, { caps, word1: 5n | PGSNP }).unit, IOVA)).toMatchObject({ N: true })
    expect(ask(secondUnit(PAGE | 3n, { caps }).unit, IOVA)).toMatchObject({ N: false })
  })

  it("pass-through: the largest page around the address; beyond the host's width no permission (SGN.4.2)", () => {
    const unit = new Unit(EVERYTHING, 46)
    unit.scalable(1n | AW4 | PASS_THROUGH, 5n)
    unit.set(CONTEXT, DTE)
    expect(ask(unit, 0x1_2345_6789n)).toMatchObject({ pa: 0x1_0000_0000n, lg2: 30, allowed: RW })
    expect(ask(unit, 1n << 46n)).toMatchObject(NO_PERMISSION)
  })

  it("to the interrupt range go untranslated: S.1 W=U=1, S.2 with NW nothing; with PASID as any other", () => {
    const { unit } = secondUnit(PAGE | 3n, { caps: capabilities({}, { NWFS: 1n }) })
    expect(ask(unit, 0xfee0_1000n)).toMatchObject({ allowed: ACCESS_WRITE, U: true, lg2: 12, fault: 0 })
    expect(ask(unit, 0xfeef_f000n, R)).toMatchObject(NO_PERMISSION)
    expect(ask(unit, 0xfee0_1000n, RW, 1)).toMatchObject(NO_PERMISSION)
  })

  it("SGN.8.2: CA when any page of the translation lies in the interrupt range", () => {
    const unit = new Unit()
    const root = unit.page()
    unit.mapSecond(root, 4, 0n, 0xc000_0083n, 3)
    unit.scalable(root | 1n | AW4 | SECOND, 5n)
    unit.set(CONTEXT, DTE)
    expect(ask(unit, 0x1000n)).toEqual({ status: ATS_COMPLETER_ABORT, fault: 0x87 })
  })

  it("nested: the smaller page, both rights", () => {
    const unit = new Unit()
    const [ssRoot, fsRoot] = [unit.page(), 0x5000n]
    const fs = unit.mapGuest(fsRoot, 4, IOVA, 0x60_00e7n, 2)
    for (const entry of fs) {
      const gpa = (entry - GUEST_OFFSET) & ~0xfffn
      unit.mapSecond(ssRoot, 4, gpa, (gpa + GUEST_OFFSET) | 3n)
    }
    unit.mapSecond(ssRoot, 4, 0x60_0000n + (IOVA & 0x1f_f000n), PAGE | 1n)
    unit.scalable(ssRoot | 1n | AW4 | NESTED, 5n | PWSNP, fsRoot)
    unit.set(CONTEXT, DTE)
    expect(ask(unit, IOVA)).toMatchObject({ pa: PAGE, lg2: 12, allowed: R })
  })
})

describe("refused translation requests, Table 30", () => {
  const UR = ATS_UNSUPPORTED_REQUEST
  const CA = ATS_COMPLETER_ABORT
  type Made = ReturnType<typeof secondUnit>
  const legacy: readonly [string, number, number, (made: Made) => void][] = [
    ["LRT.1", CA, 0x8, ({ unit }) => unit.enable(HOLE)],
    ["LRT.2", UR, 0x1, ({ unit }) => unit.put(ROOT, 0n)],
    ["LRT.3", CA, 0xa, ({ unit }) => unit.set(ROOT, 2n)],
    ["LCT.1", CA, 0x9, ({ unit }) => unit.put(ROOT, HOLE | 1n)],
    ["LCT.2", UR, 0x2, ({ unit }) => unit.put(CONTEXT, 4n)],
    ["LCT.3", CA, 0xb, ({ unit }) => unit.set(CONTEXT, 16n)],
    ["LCT.4.1", CA, 0x3, ({ unit }) => unit.put(CONTEXT + 8n, 0n)],
    ["LCT.4.3", CA, 0x3, ({ unit }) => unit.put(CONTEXT, HOLE | 5n)],
    ["LSS.1", CA, 0x7, ({ unit, entries }) => unit.put(entries[0] as bigint, HOLE | 3n)],
    ["LSS.2", CA, 0xc, ({ unit, entries }) => unit.set(entries[0] as bigint, 0x80n)],
    ["LGN.4", CA, 0xe, ({ unit, entries }) => unit.put(entries[3] as bigint, 0xfee0_0003n)],
  ]
  it.each(legacy)("%s", (_, status, fault, spoil) => {
    const made = legacyUnit()
    spoil(made)
    expect(ask(made.unit, IOVA)).toEqual({ status, fault })
  })

  it("LCT.5: TT 00b and 10b block them, UR; with PASID RTA.2", () => {
    for (const tt of [0n, 2n]) expect(ask(legacyUnit(tt).unit, IOVA)).toEqual({ status: UR, fault: 0xd })
    expect(ask(legacyUnit().unit, IOVA, RW, 1)).toEqual({ status: UR, fault: 0x31 })
  })

  it("LGN.1.1, and no permission at all in legacy mode: no permission, no record", () => {
    const { unit, entries } = legacyUnit()
    expect(ask(unit, 1n << 48n)).toMatchObject(NO_PERMISSION)
    unit.put(entries[3] as bigint, PAGE)
    expect(ask(unit, IOVA)).toMatchObject(NO_PERMISSION)
    expect(unit.model.mmio.read32(FSTS)).toBe(0)
  })

  const scalable: readonly [string, number, number, (made: Made) => void][] = [
    ["SRT.1", CA, 0x38, ({ unit }) => unit.enable(HOLE | SCALABLE)],
    ["SRT.2", UR, 0x39, ({ unit }) => unit.put(ROOT, CONTEXT)],
    ["SRT.3", CA, 0x3a, ({ unit }) => unit.set(ROOT, 2n)],
    ["SCT.1", CA, 0x40, ({ unit }) => unit.put(ROOT, HOLE | 1n)],
    ["SCT.2", UR, 0x41, ({ unit }) => unit.put(CONTEXT, DIRECTORY)],
    ["SCT.3", CA, 0x42, ({ unit }) => unit.set(CONTEXT, 32n)],
    ["SCT.4.2", CA, 0x43, ({ unit }) => unit.set(CONTEXT + 8n, 8192n)],
    ["SCT.5", UR, 0x44, ({ unit }) => unit.put(CONTEXT, DIRECTORY | 1n)],
    ["SPD.1", CA, 0x50, ({ unit }) => unit.put(CONTEXT, HOLE | 1n | DTE)],
    ["SPD.3", CA, 0x52, ({ unit }) => unit.set(DIRECTORY, 4n)],
    ["SPT.1", CA, 0x58, ({ unit }) => unit.put(DIRECTORY, HOLE | 1n)],
    ["SPT.3", CA, 0x5a, ({ unit }) => unit.set(PASID_TABLE, 32n)],
    ["SPT.4", CA, 0x5b, ({ unit, root }) => unit.put(PASID_TABLE, root | 1n | SECOND)],
    ["SSS.1", CA, 0x78, ({ unit, entries }) => unit.put(entries[0] as bigint, HOLE | 3n)],
    ["SSS.3", CA, 0x7a, ({ unit, entries }) => unit.set(entries[0] as bigint, 0x80n)],
    ["SSS.4", CA, 0x7b, ({ unit }) => unit.put(PASID_TABLE, HOLE | 1n | AW4 | SECOND)],
    ["SSS.5", CA, 0x7c, ({ unit, root }) => unit.put(PASID_TABLE, root | 1n | AW4 | SECOND | SSADE)],
    ["RTA.4", UR, 0x33, ({ unit }) => unit.enable(ROOT | (3n << 10n))],
    ["RTA.1", CA, 0x30, ({ unit }) => unit.enable(ROOT | (2n << 10n))],
  ]
  it.each(scalable)("%s", (_, status, fault, spoil) => {
    const made = secondUnit()
    spoil(made)
    expect(ask(made.unit, IOVA)).toEqual({ status, fault })
  })

  it.each([
    ["SCT.6 without PASIDE", 0x45, 1, (unit: Unit) => unit.put(CONTEXT, DIRECTORY | 1n | DTE)],
    ["SCT.7 beyond PDTS", 0x46, 8192, () => {}],
    ["SCT.9 for RID_PASID", 0x48, 0, () => {}],
  ])("%s: UR", (_, fault, pasid, spoil) => {
    const { unit } = secondUnit()
    spoil(unit)
    expect(ask(unit, IOVA, RW, pasid)).toEqual({ status: UR, fault })
  })

  const silent: readonly [string, (made: Made) => void][] = [
    ["SPD.2", ({ unit }) => unit.put(DIRECTORY, PASID_TABLE)],
    ["SPT.2", ({ unit }) => unit.put(PASID_TABLE, 0n)],
    ["SSS.2", ({ unit, entries }) => unit.put(entries[2] as bigint, 0n)],
  ]
  it.each(silent)("%s is not logged: no permission", (_, spoil) => {
    const made = secondUnit()
    spoil(made)
    expect(ask(made.unit, IOVA)).toMatchObject(NO_PERMISSION)
    expect(made.unit.model.mmio.read32(FSTS)).toBe(0)
  })

  it.each([
    ["SFS.2 not present", 0n],
    ["SFS.3 reserved bit", 0x27n],
    ["SGN.2 supervisor page", PAGE | 0x23n],
  ])("%s is not logged: no permission", (what, leaf) => {
    const { unit, entries } = firstUnit(leaf)
    if (what.startsWith("SFS.3")) unit.set(entries[0] as bigint, 0x80n)
    expect(ask(unit, IOVA)).toMatchObject(NO_PERMISSION)
  })

  it("SFS.9, SGN.1 and SGN.5 are not logged either", () => {
    expect(ask(firstUnit(PAGE | 7n, 0n, 5n).unit, IOVA)).toMatchObject(NO_PERMISSION)
    expect(ask(firstUnit(PAGE | 7n).unit, 1n << 47n)).toMatchObject(NO_PERMISSION)
    expect(ask(secondUnit().unit, 1n << 48n)).toMatchObject(NO_PERMISSION)
  })

  it("record AT 01b and a read; FPD keeps them out of the log", () => {
    const { unit } = legacyUnit(0n)
    ask(unit, IOVA)
    const high = unit.model.mmio.read64(0x228)
    // F, T1 = 1 (read), AT = 01b, FR = 0xd.
    expect(high >> 32n).toBe(0xd000_000dn)
    expect(unit.model.mmio.read64(0x220)).toBe(IOVA)
    unit.set(CONTEXT, 2n)
    const quiet = legacyUnit(0n)
    quiet.unit.set(CONTEXT, 2n)
    expect(ask(quiet.unit, IOVA)).toEqual({ status: UR, fault: 0xd })
    expect(quiet.unit.model.mmio.read32(FSTS)).toBe(0)
  })

  it("record PASID, privilege and execute of the request, always as a read", () => {
    const { unit } = secondUnit()
    unit.put(CONTEXT, DIRECTORY | 9n)
    expect(ask(unit, IOVA, RW | ACCESS_PRIV | ACCESS_EXEC, 3)).toEqual({ status: UR, fault: 0x44 })
    // F, T1, AT = 01b, PV 3, SCT.5; PP, EXE, PRIV; T2 = 0.
    expect(unit.model.mmio.read64(0x228)).toBe(0xd000_0344_e000_0000n)
    expect(unit.model.atsFault).toMatchObject({ pasid: 3, access: RW | ACCESS_PRIV | ACCESS_EXEC })
  })

  it("UR without a record while remapping is off", () => {
    const { unit } = secondUnit()
    unit.model.mmio.write32(GCMD, 0)
    expect(ask(unit, IOVA)).toEqual({ status: UR, fault: 0 })
    expect(unit.model.translatedRequest(0, NO_PASID, 0, 0x5000, R)).not.toBe(0)
    expect(unit.model.mmio.read32(FSTS)).toBe(0)
  })
})

describe("translated requests, §4.2.5", () => {
  const send = (unit: Unit, pa: bigint, pasid = NO_PASID): number =>
    unit.model.translatedRequest(0, pasid, hi32(pa), lo32(pa), RW)

  it("reach memory without tables: only the context entry counts", () => {
    const { unit } = secondUnit()
    unit.put(PASID_TABLE, 0n)
    expect(send(unit, 0x9_9000n)).toBe(0)
    expect(send(legacyUnit().unit, 0x9_9000n)).toBe(0)
  })

  it("LCT.5, SCT.5: blocked where ATS is not allowed", () => {
    expect(send(legacyUnit(0n).unit, 0x9_9000n)).toBe(0xd)
    const { unit } = secondUnit()
    unit.put(CONTEXT, DIRECTORY | 1n)
    expect(send(unit, 0x9_9000n)).toBe(0x44)
    expect(unit.model.atsFault?.reason).toBe("SCT.5")
    // F, T1 = T2 = 1 (read and write), AT = 10b.
    expect(unit.model.mmio.read64(0x228)).toBe(0xe000_0044_1000_0000n)
  })

  it("LGN.4, SGN.8.3 in the interrupt range; LGN.1.2, SGN.4.1 beyond the host's width", () => {
    expect(send(secondUnit().unit, 0xfee0_0000n)).toBe(0x87)
    expect(send(legacyUnit().unit, 0xfee0_0000n)).toBe(0xe)
    const narrow = new Unit(EVERYTHING, 40)
    narrow.scalable(0n)
    narrow.set(CONTEXT, DTE)
    expect(send(narrow, 1n << 40n)).toBe(0x83)
    narrow.legacy(0x5n, 2n)
    expect(send(narrow, 1n << 40n)).toBe(4)
  })

  it("with PASID are refused always, without a record (§4.2.1)", () => {
    const { unit } = secondUnit()
    expect(send(unit, 0x9_9000n, 1)).not.toBe(0)
    expect(unit.model.atsFault).toBeNull()
    expect(unit.model.mmio.read32(FSTS)).toBe(0)
  })
})

interface Asked {
  readonly address: bigint
  readonly sizeLg2: number
  readonly pasid: number | null
  readonly allPasids: boolean
}

class Device implements AtsDevice {
  readonly asked: Asked[] = []
  readonly answers: [number, number | null, number][] = []
  isAlive = true

  invalidate(address: bigint, sizeLg2: number, pasid: number | null, allPasids: boolean): boolean {
    this.asked.push({ address, sizeLg2, pasid, allPasids })
    return this.isAlive
  }

  pageGroupResponse(group: number, pasid: number | null, code: number): void {
    this.answers.push([group, pasid, code])
  }
}

/** A queue of 256-bit descriptors. */
function enableQueue(unit: Unit): void {
  const { mmio } = unit.model
  mmio.write64(0x90, QUEUE | 0x800n)
  mmio.write32(GCMD, (TE | QIE) >>> 0)
}

function submit(unit: Unit, ...descriptors: readonly (readonly bigint[])[]): void {
  let tail = unit.model.mmio.read64(0x88)
  for (const words of descriptors) {
    unit.put(QUEUE + tail, ...[0, 1, 2, 3].map(i => words[i] ?? 0n))
    tail += 32n
  }
  unit.model.mmio.write64(0x88, tail)
}

/** inv_wait_dsc with SW: writes 1 to STATUS. */
const STATUS = 0x2_0000n
const WAIT: readonly bigint[] = [5n | (1n << 5n) | (1n << 32n), STATUS]

describe("device-TLB invalidations, §6.5.2.5, §6.5.2.6", () => {
  function connected(): { unit: Unit; device: Device } {
    const { unit } = secondUnit()
    enableQueue(unit)
    const device = new Device()
    unit.model.connect(0x0310, device)
    return { unit, device }
  }
  const SID = 0x310n << 32n

  const sizes: readonly [string, bigint, bigint, number][] = [
    ["4 KiB without S", 0x1234_5000n, 0x1234_5000n, 12],
    ["8 KiB", 0x1234_4001n, 0x1234_4000n, 13],
    ["16 KiB", 0x1234_5001n, 0x1234_4000n, 14],
    ["2 MiB", 0x120f_f001n, 0x1200_0000n, 21],
    ["1 GiB", 0x1fff_f001n, 0n, 30],
    ["8 GiB", 0xffff_f001n, 0n, 33],
    ["16 GiB", 0x1_ffff_f001n, 0n, 34],
    ["everything (Table 28)", 0x7fff_ffff_ffff_f001n, 0n, 64],
    ["all ones, which has no meaning in PCIe: everything", 0xffff_ffff_ffff_f001n, 0n, 64],
  ]
  it.each(sizes)("without PASID: %s", (_, word, address, sizeLg2) => {
    const { unit, device } = connected()
    submit(unit, [3n | SID, word], WAIT)
    expect(device.asked).toEqual([{ address, sizeLg2, pasid: null, allPasids: false }])
    expect(unit.get(STATUS)).toBe(1n)
  })

  it("with PASID: S stands in bit 75, GI in bit 64", () => {
    const { unit, device } = connected()
    const head = 8n | (0x310n << 16n) | (5n << 32n)
    submit(unit, [head, 0x5000n], [head, 0x5800n], [head, 0x7fff_ffff_ffff_f801n])
    expect(device.asked).toEqual([
      { address: 0x5000n, sizeLg2: 12, pasid: 5, allPasids: false },
      { address: 0x4000n, sizeLg2: 14, pasid: 5, allPasids: false },
      { address: 0n, sizeLg2: 64, pasid: null, allPasids: true },
    ])
  })

  it("to nobody are done", () => {
    const { unit, device } = connected()
    submit(unit, [3n | (0x111n << 32n), 0x5000n], WAIT)
    expect(device.asked).toEqual([])
    expect(unit.get(STATUS)).toBe(1n)
  })

  it("time out: ITE and ITESID, the wait aborted, no fetch until ITE is cleared (§6.5.2.11)", () => {
    const { unit, device } = connected()
    const { mmio } = unit.model
    const messages: number[] = []
    unit.model.onInterrupt = (_, data) => messages.push(data)
    mmio.write32(0x3c, 0x41)
    mmio.write32(0x38, 0)
    device.isAlive = false
    submit(unit, [3n | SID, 0x5000n], [2n | (1n << 4n)], WAIT, WAIT)
    expect(mmio.read32(FSTS)).toBe(0x40)
    expect((mmio.read64(0xb0) >> 32n) & 0xffffn).toBe(0x310n)
    expect(messages).toEqual([0x41])
    // The head is behind the wait that was aborted: the command to be fetched next, §11.4.9.1.
    expect(mmio.read64(0x80)).toBe(96n)
    submit(unit, WAIT)
    expect(mmio.read64(0x80)).toBe(96n)
    expect(unit.get(STATUS)).toBe(0n)
    device.isAlive = true
    mmio.write32(FSTS, 0x40)
    expect(mmio.read64(0x80)).toBe(160n)
    expect(unit.get(STATUS)).toBe(1n)
  })

  it("time out at the end of the queue without a wait as well; the first device is named", () => {
    const { unit, device } = connected()
    const other = new Device()
    other.isAlive = false
    device.isAlive = false
    unit.model.connect(0x0420, other)
    submit(unit, [3n | (0x420n << 32n), 0x5000n], [3n | SID, 0x5000n])
    expect(unit.model.mmio.read32(FSTS)).toBe(0x40)
    expect((unit.model.mmio.read64(0xb0) >> 32n) & 0xffffn).toBe(0x420n)
    expect(other.asked.length + device.asked.length).toBe(2)
  })

  it("with PASID time out as well, and behind a wrong descriptor", () => {
    const { unit, device } = connected()
    device.isAlive = false
    submit(unit, [8n | (0x310n << 16n) | (5n << 32n), 0x5000n], [0xfn])
    expect(unit.model.mmio.read32(FSTS)).toBe(0x50)
    expect(unit.model.mmio.read64(0xb0)).toBe((0x310n << 32n) | 3n)
    expect(unit.model.mmio.read64(0x80)).toBe(32n)
  })

  it("completed unasked: ICE and ICESID of the first, an event, and the queue goes on (§6.5.2.11)", () => {
    const { unit } = connected()
    const { mmio } = unit.model
    const messages: number[] = []
    unit.model.onInterrupt = (_, data) => messages.push(data)
    mmio.write32(0x3c, 0x41)
    mmio.write32(0x38, 0)
    unit.model.strayCompletion(0x310)
    unit.model.strayCompletion(0x420)
    expect(mmio.read32(FSTS)).toBe(0x20)
    expect(mmio.read64(0xb0)).toBe(0x310n << 48n)
    expect(messages).toEqual([0x41])
    submit(unit, [2n | (1n << 4n)], WAIT)
    expect([mmio.read64(0x80), unit.get(STATUS)]).toEqual([64n, 1n])
    mmio.write32(FSTS, 0x20)
    expect(mmio.read32(FSTS)).toBe(0)
    unit.model.strayCompletion(0x420)
    expect([mmio.read32(FSTS), mmio.read64(0xb0)]).toEqual([0x20, 0x420n << 48n])
    expect(messages).toEqual([0x41, 0x41])
  })

  it("completed unasked and timed out: each source-id has its place", () => {
    const { unit, device } = connected()
    device.isAlive = false
    submit(unit, [3n | SID, 0x5000n], WAIT)
    unit.model.strayCompletion(0x420)
    expect(unit.model.mmio.read32(FSTS)).toBe(0x60)
    expect(unit.model.mmio.read64(0xb0)).toBe((0x420n << 48n) | (0x310n << 32n))
    unit.model.mmio.write32(FSTS, 0x40)
    submit(unit, [3n | SID, 0x5000n], WAIT)
    expect(unit.model.mmio.read64(0xb0)).toBe((0x420n << 48n) | (0x310n << 32n))
  })

  it("completed unasked without device-TLBs is nothing", () => {
    const unit = new Unit(capabilities({}, { DT: 0n, PRS: 0n }))
    unit.model.strayCompletion(0x310)
    expect([unit.model.mmio.read32(FSTS), unit.model.mmio.read64(0xb0)]).toEqual([0, 0n])
  })

  it("page group responses go to the requester (§7.6.1)", () => {
    const { unit, device } = connected()
    const rid = 0x310n << 16n
    submit(unit, [9n | (1n << 12n) | rid, 0x1ffn << 3n], [9n | (1n << 4n) | rid | (7n << 32n), 2n << 3n])
    expect(device.answers).toEqual([
      [0x1ff, null, 1],
      [2, 7, 0],
    ])
  })
})

describe("an endpoint with an ATC", () => {
  it("may complete what nobody asked for", () => {
    const { unit } = secondUnit()
    const endpoint = new Endpoint({ model: unit.model, memory: unit.memory, device: 0x310, ats: true })
    endpoint.completeUnasked()
    expect(unit.model.mmio.read32(FSTS)).toBe(0x20)
  })

  it("asks once, goes to memory translated, and forgets what it is told to", () => {
    const { unit, entries } = secondUnit()
    enableQueue(unit)
    const endpoint = new Endpoint({ model: unit.model, memory: unit.memory, device: 0, ats: true })
    expect(endpoint.write(IOVA + 8n, Uint8Array.of(1, 2, 3))).toEqual({ kind: "done" })
    expect([...unit.memory.read(PAGE + 8n, 3)]).toEqual([1, 2, 3])
    expect(endpoint.cached).toBe(1)

    // Software moves the page; without an invalidation the device goes on to the old one.
    unit.put(entries[3] as bigint, 0x7e_0003n)
    endpoint.write(IOVA, Uint8Array.of(7))
    expect([...unit.memory.read(PAGE, 1)]).toEqual([7])
    // §6.5.2.5: the IOTLB first, then the device-TLB.
    submit(unit, [2n | (1n << 4n)], [3n, IOVA], WAIT)
    expect(endpoint.cached).toBe(0)
    endpoint.write(IOVA, Uint8Array.of(9))
    expect([...unit.memory.read(0x7e_0000n, 1)]).toEqual([9])
  })

  it("gets the old page from the IOTLB again when only the device-TLB was invalidated (§6.5.2.5)", () => {
    const unit = new Unit(EVERYTHING, 52, "hoard")
    const root = unit.page()
    const entries = unit.mapSecond(root, 4, IOVA, PAGE | 3n)
    unit.scalable(root | 1n | AW4 | SECOND, 5n)
    unit.set(CONTEXT, DTE)
    enableQueue(unit)
    const endpoint = new Endpoint({ model: unit.model, memory: unit.memory, device: 0, ats: true })
    endpoint.write(IOVA, Uint8Array.of(1))
    unit.put(entries[3] as bigint, 0x7e_0003n)
    submit(unit, [3n, IOVA], WAIT)
    endpoint.write(IOVA, Uint8Array.of(2))
    expect([...unit.memory.read(PAGE, 1), ...unit.memory.read(0x7e_0000n, 1)]).toEqual([2, 0])
    submit(unit, [2n | (3n << 4n) | (5n << 16n), IOVA], [3n, IOVA], WAIT)
    endpoint.write(IOVA, Uint8Array.of(3))
    expect([...unit.memory.read(PAGE, 1), ...unit.memory.read(0x7e_0000n, 1)]).toEqual([2, 3])
  })

  it("works with PASIDs, translated requests going without", () => {
    const { unit } = firstUnit(PAGE | 7n)
    const endpoint = new Endpoint({ model: unit.model, memory: unit.memory, device: 0, ats: true })
    expect(endpoint.write(IOVA, Uint8Array.of(5), 1)).toEqual({ kind: "done" })
    expect([...unit.memory.read(PAGE, 1)]).toEqual([5])
  })

  it("is refused, with the record, where DTE is clear", () => {
    const { unit } = secondUnit()
    unit.put(CONTEXT, DIRECTORY | 1n)
    const endpoint = new Endpoint({ model: unit.model, memory: unit.memory, device: 0, ats: true })
    expect(endpoint.read(IOVA, new Uint8Array(1))).toMatchObject({
      kind: "refused",
      fault: { reason: "SCT.5" },
    })
  })

  it("sends interrupts untranslated", () => {
    const { unit } = secondUnit()
    const endpoint = new Endpoint({ model: unit.model, memory: unit.memory, device: 0, ats: true })
    // The write goes through; there is no memory at the other end.
    expect(() => endpoint.write(0xfee0_0000n, Uint8Array.of(1))).toThrow(/0xfee00000/)
    expect(endpoint.cached).toBe(0)
  })
})
