/** Page requests. Expected values: Intel VT-d 5.10 (D51397-018) §7.4 to §7.6, Tables 30 and 31, §11.4.11. */
import { type AtsDevice, Endpoint, type PageRequest, PRI_INVALID_REQUEST, PRI_SUCCESS } from "@iommu/core"
import { beforeEach, describe, expect, it } from "vitest"
import { EVERYTHING, LEGACY_ONLY } from "../src/model/options.ts"
import { CONTEXT, DIRECTORY, GCMD, HOLE, PASID_TABLE, ROOT, SCALABLE, TE, Unit } from "./unit.ts"

const IOVA = 0x1234_5678_9000n
const PAGE = 0x7f_5000n
const FIRST = 1n << 6n
const PWSNP = 1n << 23n
/** DTE, PASIDE, PRE. */
const ENABLED = 0x1cn
const QUEUE = 0x1_0000n
const COMMANDS = 0x3_0000n
const STATUS = 0x3_8000n
const [FSTS, IQA, IQT, PQH, PQT, PQA, PRS, PECTL, PEDATA, PEADDR] = [
  0x34, 0x90, 0x88, 0xc0, 0xc8, 0xd0, 0xdc, 0xe0, 0xe4, 0xe8,
] as const

class Device implements AtsDevice {
  readonly answers: [number, number | null, number][] = []

  invalidate(): boolean {
    return true
  }

  pageGroupResponse(group: number, pasid: number | null, code: number): void {
    this.answers.push([group, pasid, code])
  }
}

function request(fields: Partial<PageRequest> = {}): PageRequest {
  return {
    device: 0,
    pasid: null,
    address: IOVA,
    read: true,
    write: false,
    execute: false,
    privileged: false,
    last: true,
    group: 3,
    ...fields,
  }
}

describe("page requests", () => {
  let unit: Unit
  let device: Device
  let messages: [bigint, number][]
  beforeEach(() => {
    unit = new Unit()
    const root = unit.page()
    unit.scalable(1n | FIRST, 5n | PWSNP, root)
    unit.put(PASID_TABLE + 64n, 1n | FIRST, 5n | PWSNP, root)
    unit.set(CONTEXT, ENABLED)
    device = new Device()
    unit.model.connect(0, device)
    messages = []
    unit.model.onInterrupt = (address, data) => messages.push([address, data])
    const { mmio } = unit.model
    mmio.write64(PQA, QUEUE)
    mmio.write32(PEDATA, 0x51)
    mmio.write32(PEADDR, 0xfee0_1000)
    mmio.write32(PECTL, 0)
  })
  const entry = (n: number): bigint[] => [0n, 8n, 16n, 24n].map(i => unit.get(QUEUE + BigInt(n) * 32n + i))
  const status = (): number => unit.model.mmio.read32(PRS)

  it("go into the queue word by word as §7.4.1.1 has them, and nobody is answered", () => {
    unit.model.pageRequest(request({ write: true, group: 0x155 }))
    unit.model.pageRequest(
      request({ pasid: 0x1, execute: true, privileged: true, last: false, address: 0xffff_8000_0000_1000n }),
    )
    expect(entry(0)).toEqual([0x1n, IOVA | 3n | 4n | (0x155n << 3n), 0n, 0n])
    // PP bit 8, PASID, EXR bit 52, PMR bit 53; RDR and group 3.
    expect(entry(1)).toEqual([
      0x101n | (1n << 32n) | (1n << 52n) | (1n << 53n),
      0xffff_8000_0000_1001n | (3n << 3n),
      0n,
      0n,
    ])
    expect(unit.model.mmio.read64(PQT)).toBe(64n)
    expect(device.answers).toEqual([])
    expect(unit.model.mmio.read32(FSTS)).toBe(0)
  })

  it("say who asks", () => {
    unit.put(ROOT + 0x30n, CONTEXT | 1n, CONTEXT | 1n)
    unit.model.pageRequest(request({ device: 0x0300 }))
    expect(entry(0)[0]).toBe(0x0300_0001n)
  })

  it("set PPR and send one event until software has served it (§7.5)", () => {
    unit.model.pageRequest(request())
    expect([status(), messages]).toEqual([1, [[0xfee0_1000n, 0x51]]])
    unit.model.pageRequest(request())
    expect(messages).toHaveLength(1)
    unit.model.mmio.write32(PRS, 1)
    expect(status()).toBe(0)
    unit.model.pageRequest(request())
    expect(messages).toHaveLength(2)
  })

  it("hold the event while masked; unmasking sends it, serving drops it", () => {
    const { mmio } = unit.model
    mmio.write32(PECTL, 0x8000_0000)
    unit.model.pageRequest(request())
    expect([mmio.read32(PECTL), messages]).toEqual([0xc000_0000, []])
    mmio.write32(PECTL, 0)
    expect([mmio.read32(PECTL), messages.length]).toEqual([0, 1])
    mmio.write32(PRS, 1)
    mmio.write32(PECTL, 0x8000_0000)
    unit.model.pageRequest(request())
    mmio.write32(PRS, 1)
    expect(mmio.read32(PECTL)).toBe(0x8000_0000)
    mmio.write32(PECTL, 0)
    expect(messages).toHaveLength(1)
  })

  it("keep the event pending until both PPR and PRO are served", () => {
    const { mmio } = unit.model
    mmio.write32(PECTL, 0x8000_0000)
    for (let n = 0; n < 128; n++) unit.model.pageRequest(request())
    expect(status()).toBe(3)
    mmio.write32(PRS, 1)
    expect(mmio.read32(PECTL)).toBe(0xc000_0000)
    mmio.write32(PRS, 2)
    expect(mmio.read32(PECTL)).toBe(0x8000_0000)
  })

  it("wrap, in queues of 2^PQS pages", () => {
    const { mmio } = unit.model
    mmio.write64(PQA, QUEUE | 1n)
    mmio.write64(PQH, 0x1fe0n)
    mmio.write64(PQT, 0x1fe0n)
    unit.model.pageRequest(request())
    expect(mmio.read64(PQT)).toBe(0n)
    expect(unit.get(QUEUE + 0x1fe0n)).toBe(1n)
  })

  it("overflow at N-1 entries: PRO, an event, and Success for the last of a group (Table 31)", () => {
    for (let n = 0; n < 127; n++) unit.model.pageRequest(request())
    expect([status(), device.answers]).toEqual([1, []])
    unit.model.mmio.write32(PRS, 1)
    unit.model.pageRequest(request({ last: false }))
    expect([status(), device.answers, messages.length]).toEqual([2, [], 2])
    unit.model.pageRequest(request({ group: 9, pasid: 1 }))
    expect(device.answers).toEqual([[9, 1, PRI_SUCCESS]])
    expect(unit.model.mmio.read64(PQT)).toBe(127n * 32n)

    // Room alone does not help: PRO has to be cleared.
    unit.model.mmio.write64(PQH, 64n)
    unit.model.pageRequest(request({ group: 10 }))
    expect(device.answers).toHaveLength(2)
    unit.model.mmio.write32(PRS, 2)
    unit.model.pageRequest(request({ group: 11 }))
    expect([status(), device.answers.length]).toEqual([1, 2])
    expect(unit.model.mmio.read64(PQT)).toBe(0n)
  })

  const refused: readonly [string, number, Partial<PageRequest>, (unit: Unit) => void][] = [
    ["SCT.8 without PRE", 0x47, {}, u => u.put(CONTEXT, DIRECTORY | 0xdn)],
    ["SCT.4.1 PRE without DTE", 0x43, {}, u => u.put(CONTEXT, DIRECTORY | 0x11n)],
    ["SCT.6 without PASIDE", 0x45, { pasid: 1 }, u => u.put(CONTEXT, DIRECTORY | 0x15n)],
    ["SCT.7 beyond PDTS", 0x46, { pasid: 0x2000 }, () => {}],
    ["SCT.9 for RID_PASID", 0x48, { pasid: 0 }, () => {}],
    ["SRT.1", 0x38, {}, u => u.enable(HOLE | SCALABLE)],
    ["SRT.2", 0x39, {}, u => u.put(ROOT, 0n)],
    ["SCT.2", 0x41, {}, u => u.put(CONTEXT, DIRECTORY)],
    ["SPD.2", 0x51, {}, u => u.put(DIRECTORY, 0n)],
    ["SPD.3", 0x52, {}, u => u.set(DIRECTORY, 4n)],
    ["SPT.2", 0x59, { pasid: 1 }, u => u.put(PASID_TABLE + 64n, 0n)],
    ["SPT.3", 0x5a, {}, u => u.set(PASID_TABLE, 32n)],
    ["SPT.4", 0x5b, {}, u => u.put(PASID_TABLE, 1n)],
    ["RTA.4", 0x33, {}, u => u.enable(ROOT | (3n << 10n))],
    ["RTA.1", 0x30, {}, u => u.enable(ROOT | (2n << 10n))],
    ["RTA.3 in legacy mode", 0x32, {}, u => u.legacy(5n, 2n)],
    ["RTA.3 in legacy mode with PASID", 0x32, { pasid: 1 }, u => u.legacy(5n, 2n)],
  ]
  it.each(refused)("%s: logged, Invalid Request, not queued", (_, code, fields, spoil) => {
    spoil(unit)
    unit.model.pageRequest(request(fields))
    expect(unit.model.atsFault?.code).toBe(code)
    expect(device.answers).toEqual([[3, fields.pasid ?? null, PRI_INVALID_REQUEST]])
    expect(unit.model.mmio.read64(PQT)).toBe(0n)
    const record = unit.model.mmio.read64(0x228)
    // FR; T1, T2 = 01b: a page request.
    expect(Number((record >> 32n) & 0xffn)).toBe(code)
    expect([(record >> 62n) & 1n, (record >> 28n) & 1n]).toEqual([0n, 1n])
  })

  it("that are not the last of a group, and stop markers, are dropped: logged, not answered", () => {
    unit.put(CONTEXT, DIRECTORY | 0xdn)
    unit.model.pageRequest(request({ last: false }))
    unit.model.pageRequest(request({ read: false, pasid: 1 }))
    expect(unit.model.mmio.read32(FSTS) & 2).toBe(2)
    expect(device.answers).toEqual([])
  })

  it("ask for no more than a PASID entry that is right: privilege, execute and PSS are not judged", () => {
    unit.model.pageRequest(request({ pasid: 1, privileged: true, execute: true }))
    expect(unit.model.atsFault).toBeNull()
    expect(unit.model.mmio.read64(PQT)).toBe(32n)
  })

  it("are answered Invalid Request, without a record, with remapping off and without PRS", () => {
    unit.model.mmio.write32(GCMD, 0)
    unit.model.pageRequest(request())
    const old = new Unit(LEGACY_ONLY)
    const other = new Device()
    old.model.connect(0, other)
    old.legacy(1n, 2n)
    old.model.pageRequest(request())
    for (const { answers } of [device, other]) expect(answers).toEqual([[3, null, PRI_INVALID_REQUEST]])
    expect(unit.model.mmio.read32(FSTS) | old.model.mmio.read32(FSTS)).toBe(0)
    old.model.mmio.write64(PQA, QUEUE)
    expect(old.model.mmio.read64(PQA)).toBe(0n)
  })

  it("to a queue without memory are lost, and nothing else happens", () => {
    unit.model.mmio.write64(PQA, HOLE)
    unit.model.pageRequest(request())
    expect(unit.model.mmio.read64(PQT)).toBe(32n)
  })
})

describe("implicit invalidation, §6.5.3.1", () => {
  const SECOND = 2n << 6n
  const NESTED = 3n << 6n
  it.each([
    ["first stage", FIRST],
    ["second stage", SECOND],
    ["nested", NESTED],
  ])("%s: a page request drops what is cached of its page", (_, pgtt) => {
    const unit = new Unit(EVERYTHING, 52, "hoard")
    const [fsRoot, ssRoot] = [unit.page(), unit.page()]
    // The second stage of the nested case maps its first GiB to itself.
    if (pgtt === NESTED) unit.mapSecond(ssRoot, 4, 0n, 0x83n, 3)
    const leaves =
      pgtt === SECOND
        ? [IOVA, IOVA + 0x1000n].map(iova => unit.mapSecond(ssRoot, 4, iova, PAGE | 1n)[3] as bigint)
        : [IOVA, IOVA + 0x1000n].map(iova => unit.mapFirst(fsRoot, 4, iova, PAGE | 5n)[3] as bigint)
    unit.scalable(1n | (pgtt === FIRST ? 0n : ssRoot | 8n) | pgtt, 5n | PWSNP, pgtt === SECOND ? 0n : fsRoot)
    unit.set(CONTEXT, ENABLED)
    unit.model.mmio.write64(PQA, QUEUE)
    expect([unit.code(IOVA), unit.code(IOVA + 0x1000n)]).toEqual([0, 0])
    // Gone from the tables, still in the IOTLB.
    for (const leaf of leaves) unit.put(leaf, 0n)
    expect([unit.code(IOVA), unit.code(IOVA + 0x1000n)]).toEqual([0, 0])
    unit.model.pageRequest(request({ device: 0 }))
    expect(unit.model.mmio.read64(PQT)).toBe(32n)
    expect(unit.code(IOVA)).not.toBe(0)
    // Nested: the whole domain goes (Table 27).
    if (pgtt === NESTED) expect(unit.code(IOVA + 0x1000n)).not.toBe(0)
    else expect(unit.code(IOVA + 0x1000n)).toBe(0)
  })
})

describe("an endpoint with PRI", () => {
  it("asks for a page, waits for the group response and goes on", () => {
    const unit = new Unit(EVERYTHING)
    const { mmio } = unit.model
    const root = unit.page()
    const entries = unit.mapFirst(root, 4, IOVA, 0n)
    unit.scalable(1n | FIRST, 5n | PWSNP, root)
    unit.set(CONTEXT, ENABLED)
    mmio.write64(PQA, QUEUE)
    mmio.write64(IQA, COMMANDS | 0x800n)
    mmio.write32(GCMD, (TE | (1 << 26)) >>> 0)
    const endpoint = new Endpoint({ model: unit.model, memory: unit.memory, device: 0, ats: true, pri: true })

    const first = endpoint.write(IOVA, Uint8Array.of(1, 2))
    expect(first).toMatchObject({ kind: "page-requested" })
    if (first.kind !== "page-requested") return
    expect(endpoint.mayRetry(first.group)).toBe(false)

    // Software reads the request, maps the page, and answers (§7.6); Linux sends the same three descriptors.
    const [who, what] = [unit.get(QUEUE), unit.get(QUEUE + 8n)]
    expect(what & ~0xfffn).toBe(IOVA)
    unit.put(entries[3] as bigint, PAGE | 7n)
    unit.put(COMMANDS, 9n | (who & 0xffff_0000n), what & (0x1ffn << 3n), 0n, 0n)
    unit.put(COMMANDS + 32n, 5n | (1n << 5n) | (1n << 7n) | (1n << 32n), STATUS, 0n, 0n)
    mmio.write64(IQT, 64n)
    mmio.write64(PQH, mmio.read64(PQT))
    expect(unit.get(STATUS)).toBe(1n)
    expect(endpoint.mayRetry(first.group)).toBe(true)
    expect(endpoint.write(IOVA, Uint8Array.of(1, 2))).toEqual({ kind: "done" })
    expect([...unit.memory.read(PAGE, 2)]).toEqual([1, 2])
  })
})
