/** Page requests and the PPR log: AMD 48882 rev 3.10, §2.6, INVALID_PPR_REQUEST in §2.5.10, registers in §3.4. */
import { EVERYTHING } from "@iommu/amd"
import {
  type AtsDevice,
  Endpoint,
  type PageRequest,
  PRI_INVALID_REQUEST,
  PRI_RESPONSE_FAILURE,
  PRI_SUCCESS,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import {
  bit,
  DTE_GPRP,
  DTE_GV,
  DTE_PPR,
  DTE_TV,
  DTE_V,
  DTE1_I,
  faultOf,
  flagsOf,
  IRW,
  Machine,
  ON,
  PRWU,
  page,
  pde,
  REG,
} from "./machine.ts"

const PPRLOG = 0x4000n
const PPR_LOG_EN = bit(13)
const PPR_INT_EN = bit(14)
const PPR_EN = bit(15)
const EPH_EN = bit(45)
const PPR_ON = ON | PPR_LOG_EN | PPR_EN | EPH_EN
const AUTO_RSP_EN = bit(39)
const AUTO_RSP_AON = bit(42)
const GUEST = DTE_V | DTE_TV | IRW | DTE_GV | DTE_PPR
const STATUS = { overflow: bit(5), int: bit(6), run: bit(7), early: bit(18) }
/** Entries that a log of 256 holds before it is full. */
const CAPACITY = 255

class Device implements AtsDevice {
  readonly responses: [group: number, pasid: number | null, code: number][] = []
  invalidate(): boolean {
    return true
  }
  pageGroupResponse(...response: [number, number | null, number]): void {
    this.responses.push(response)
  }
}

function setUp(first = GUEST, control = PPR_ON, options = {}): { machine: Machine; device: Device } {
  const machine = new Machine(options)
  const { mmio } = machine.model
  mmio.write64(REG.PPR_BASE, PPRLOG | (8n << 56n))
  mmio.write64(REG.CONTROL, control)
  machine.dte(0x42, first, 5n | DTE1_I, 0n, 0n)
  const device = new Device()
  machine.model.connect(0x42, device)
  return { machine, device }
}

function request(more: Partial<PageRequest> = {}): PageRequest {
  return {
    device: 0x42,
    pasid: 0xabcde,
    address: 0x7fff_1234_5678n,
    read: true,
    write: true,
    execute: false,
    privileged: false,
    last: true,
    group: 0x155,
    ...more,
  }
}

function logged({ model, memory }: Machine): bigint[][] {
  const words: bigint[][] = []
  const { mmio } = model
  for (let at = mmio.read64(REG.PPR_HEAD); at !== mmio.read64(REG.PPR_TAIL); at = (at + 16n) % 0x1000n) {
    words.push([memory.read64(PPRLOG + at), memory.read64(PPRLOG + at + 8n)])
  }
  return words
}

function fill(machine: Machine, count: number): void {
  for (let n = 0; n < count; n++) machine.model.pageRequest(request({ last: false }))
}

describe("the PPR log", () => {
  it("records a request with a PASID as Linux decodes it", () => {
    const { machine } = setUp()
    machine.model.pageRequest(request())
    // pasid=0xabcde flags=0x0164 (GN, user, write, read) tag=0x355 (group 0x155, last), page address only.
    expect(logged(machine)).toEqual([[0x1164_2b55_bcde_0042n, 0x7fff_1234_5000n]])
    expect(machine.status & (STATUS.int | STATUS.run)).toBe(STATUS.int | STATUS.run)
  })

  it("records a request without PASID, and one of a supervisor for execution", () => {
    const { machine } = setUp()
    machine.model.pageRequest(request({ pasid: null, write: false, last: false, group: 1 }))
    machine.model.pageRequest(request({ pasid: 5, execute: true, privileged: true, write: false, group: 2 }))
    expect(logged(machine)).toEqual([
      [0x1004_0001_0000_0042n, 0x7fff_1234_5000n],
      [0x1106_0202_0005_0042n, 0x7fff_1234_5000n],
    ])
  })

  it("interrupts when PPRInt becomes 1, and not again before it is cleared", () => {
    const { machine } = setUp(GUEST, PPR_ON | PPR_INT_EN)
    const { model } = machine
    const messages: [bigint, number][] = []
    model.onInterrupt = (address, data) => messages.push([address, data])
    model.mmio.write32(REG.MSI_LO, 0xfee0_1000)
    model.mmio.write32(REG.MSI_DATA, 0x31)
    model.mmio.write32(REG.MSI_CAP, 1 << 16)
    fill(machine, 2)
    expect(messages).toEqual([[0xfee0_1000n, 0x31]])
    model.mmio.write64(REG.STATUS, STATUS.int)
    expect(machine.status & STATUS.int).toBe(0n)
    fill(machine, 1)
    expect(messages.length).toBe(2)
  })

  it("sends its interrupt by the XT PPR register in x2APIC mode", () => {
    const { machine } = setUp(GUEST, PPR_ON | PPR_INT_EN | bit(51))
    const messages: [bigint, number][] = []
    machine.model.onInterrupt = (address, data) => messages.push([address, data])
    machine.model.mmio.write64(0x178, (0x44n << 32n) | (7n << 8n))
    fill(machine, 1)
    expect(messages).toEqual([[0xfee0_7000n, 0x44]])
  })

  it("keeps its tail from software while it runs", () => {
    const { machine } = setUp()
    fill(machine, 3)
    machine.model.mmio.write64(REG.PPR_TAIL, 0n)
    expect(machine.model.mmio.read64(REG.PPR_TAIL)).toBe(0x30n)
  })

  it("wraps, and takes what software makes room for", () => {
    const { machine } = setUp()
    for (let n = 0; n < 300; n++) {
      fill(machine, 1)
      machine.model.mmio.write64(REG.PPR_HEAD, machine.model.mmio.read64(REG.PPR_TAIL))
    }
    expect(machine.model.mmio.read64(REG.PPR_TAIL)).toBe(BigInt((300 % 256) * 16))
    expect(machine.status & STATUS.overflow).toBe(0n)
  })

  it("stops with PprOverflow when it is full, and starts anew when PPRLogEn is turned off and on", () => {
    const { machine, device } = setUp()
    fill(machine, CAPACITY)
    expect(machine.status & (STATUS.overflow | STATUS.run)).toBe(STATUS.run)
    machine.model.pageRequest(request())
    expect(machine.status & (STATUS.overflow | STATUS.run)).toBe(STATUS.overflow)
    machine.model.mmio.write64(REG.PPR_HEAD, machine.model.mmio.read64(REG.PPR_TAIL))
    machine.model.pageRequest(request())
    expect([logged(machine), device.responses]).toEqual([[], []])
    machine.model.mmio.write64(REG.CONTROL, PPR_ON & ~PPR_LOG_EN)
    machine.model.mmio.write64(REG.STATUS, STATUS.overflow)
    machine.model.mmio.write64(REG.CONTROL, PPR_ON)
    machine.model.pageRequest(request())
    expect(logged(machine).length).toBe(1)
    expect(machine.status & (STATUS.overflow | STATUS.run)).toBe(STATUS.run)
  })

  it("does not run with a reserved length", () => {
    const { machine } = setUp(GUEST, ON)
    machine.model.mmio.write64(REG.PPR_BASE, PPRLOG | (7n << 56n))
    machine.model.mmio.write64(REG.CONTROL, PPR_ON)
    machine.model.pageRequest(request())
    expect([machine.status & STATUS.run, machine.model.mmio.read64(REG.PPR_TAIL)]).toEqual([0n, 0n])
  })

  it("survives a base where no memory is", () => {
    const { machine } = setUp(GUEST, ON)
    machine.model.mmio.write64(REG.PPR_BASE, 0xf_0000_0000n | (8n << 56n))
    machine.model.mmio.write64(REG.CONTROL, PPR_ON)
    machine.model.pageRequest(request())
    expect(machine.model.mmio.read64(REG.PPR_TAIL)).toBe(0x10n)
  })

  it("warns at the threshold of PPR_OVERFLOW_EARLY, with an interrupt of its own", () => {
    const { machine } = setUp()
    const messages: bigint[] = []
    machine.model.onInterrupt = address => messages.push(address)
    machine.model.mmio.write32(REG.MSI_CAP, 1 << 16)
    machine.model.mmio.write64(REG.PPR_OVERFLOW_EARLY, bit(31) | bit(30) | 200n)
    fill(machine, 199)
    expect(machine.status & STATUS.early).toBe(0n)
    fill(machine, 2)
    expect([machine.status & STATUS.early, messages.length]).toEqual([STATUS.early, 1])
    machine.model.mmio.write64(REG.STATUS, STATUS.early)
    expect(machine.status & STATUS.early).toBe(0n)
  })

  it("does not warn where EXT_FEATURES has no PprOvrflwEarlySup", () => {
    const { machine } = setUp(GUEST, PPR_ON, { extFeatures: 0x13n | bit(33) | bit(34) | bit(50) })
    machine.model.mmio.write64(REG.PPR_OVERFLOW_EARLY, bit(31))
    machine.model.pageRequest(request({ pasid: 1 }))
    expect([machine.status & STATUS.early, logged(machine).length]).toEqual([0n, 1])
  })
})

describe("automatic responses", () => {
  const full = (extra: bigint, first = GUEST | DTE_GPRP): { machine: Machine; device: Device } => {
    const both = setUp(first, PPR_ON | extra)
    both.machine.model.mmio.write64(REG.PPR_AUTO_RESPONSE, 0xfn)
    fill(both.machine, CAPACITY + 1)
    return both
  }

  it("answer the last request of a group that the full log loses", () => {
    const { machine, device } = full(AUTO_RSP_EN)
    expect(device.responses).toEqual([])
    machine.model.pageRequest(request())
    expect(device.responses).toEqual([[0x155, 0xabcde, PRI_RESPONSE_FAILURE]])
  })

  it("carry the PASID only with DTE.GPRP and without PprAutoRespMaskGn", () => {
    const { machine, device } = full(AUTO_RSP_EN, GUEST)
    machine.model.pageRequest(request())
    const masked = full(AUTO_RSP_EN)
    masked.machine.model.mmio.write64(REG.PPR_AUTO_RESPONSE, 0x11n)
    masked.machine.model.pageRequest(request())
    expect([...device.responses, ...masked.device.responses]).toEqual([
      [0x155, null, PRI_RESPONSE_FAILURE],
      [0x155, null, PRI_INVALID_REQUEST],
    ])
  })

  it("answer everything, and log nothing, with PprAutoRspAon", () => {
    const { machine, device } = setUp(GUEST, PPR_ON | AUTO_RSP_AON)
    machine.model.pageRequest(request())
    expect([device.responses, logged(machine)]).toEqual([[[0x155, null, PRI_SUCCESS]], []])
  })
})

describe("requests that may not be made", () => {
  it.each([
    ["DTE.PPR = 0", DTE_V | DTE_TV | IRW | DTE_GV, PPR_ON],
    ["V = 0", 0n, PPR_ON],
    ["TV = 0", DTE_V | DTE_PPR, PPR_ON],
    ["GV = 0", DTE_V | DTE_TV | IRW | DTE_PPR, PPR_ON],
    ["PPREn = 0", GUEST, PPR_ON & ~PPR_EN],
  ])("%s: INVALID_PPR_REQUEST, and the device is told so", (_, first, control) => {
    const { machine, device } = setUp(first, control)
    machine.model.pageRequest(request())
    expect(machine.events()).toEqual([[0x9164_2b55_bcde_0042n, 0x7fff_1234_5678n]])
    expect([device.responses, logged(machine)]).toEqual([[[0x155, 0xabcde, PRI_INVALID_REQUEST]], []])
  })

  it("are those of a unit without PPRSup, too", () => {
    const { machine, device } = setUp(GUEST, PPR_ON, { extFeatures: EVERYTHING & ~bit(1) })
    machine.model.pageRequest(request())
    expect([device.responses, logged(machine)]).toEqual([[[0x155, 0xabcde, PRI_INVALID_REQUEST]], []])
  })

  it("are answered with the last of their group only", () => {
    const { machine, device } = setUp(0n)
    machine.model.pageRequest(request({ last: false }))
    expect([device.responses.length, machine.events().length]).toEqual([0, 1])
  })
})

describe("without enhanced page requests (EPHSup, EPHEn)", () => {
  const WITHOUT = { extFeatures: EVERYTHING & ~bit(50) }
  const PLAIN = DTE_V | DTE_TV | IRW | DTE_GV
  const off = (first: bigint, options = {}): Machine => setUp(first, PPR_ON & ~EPH_EN, options).machine

  it("PPR is a reserved bit: the entry and event of a laptop whose firmware had not set EPHEn", () => {
    // Linux, commit ef75966abf95: "ILLEGAL_DEV_TABLE_ENTRY device=0000:06:00.0 pasid=0x00000 address=0x135300000
    // flags=0x0080", then the three words below.
    const words = [0x7d90_0000_0000_0003n, 0x0000_1001_03fc_0009n, 0x2000_0001_1784_0013n, 0n] as const
    const machine = off(0n)
    machine.dte(0x600, ...words)
    const outcome = machine.read(0x600, 0x1_3530_0000n)
    expect([faultOf(outcome).reason, flagsOf(outcome)]).toEqual(["ILLEGAL_DEV_TABLE_ENTRY", 0x080n])
    expect(machine.events()).toEqual([[0x1080_0000_0000_0600n, 0x1_3530_0000n]])
    machine.dte(0x600, words[0] & ~DTE_PPR, ...words.slice(1))
    expect(machine.read(0x600, 0x1_3530_0000n)).toMatchObject({ ok: true, pa: 0x1_3530_0000n })
    machine.dte(0x600, ...words)
    machine.model.mmio.write64(REG.CONTROL, PPR_ON)
    expect(machine.read(0x600, 0x1_3530_0000n)).toMatchObject({ ok: true, pa: 0x1_3530_0000n })
  })

  // VirtualBox has bits 53:52 as valid with EPHSup only; QEMU, which does not announce it, refuses them.
  it.each([
    ["PPR", DTE_PPR],
    ["GPRP", DTE_GPRP],
  ])("%s is a reserved bit, and EPHEn too, of a unit that does not announce them", (_, requests) => {
    const { machine } = setUp(DTE_V | DTE_TV | IRW | requests, PPR_ON, WITHOUT)
    expect(machine.model.mmio.read64(REG.CONTROL)).toBe(PPR_ON & ~EPH_EN)
    expect(flagsOf(machine.read(0x42, 0x1000n))).toBe(0x080n)
    const announced = setUp(DTE_V | DTE_TV | IRW | requests)
    expect(announced.machine.read(0x42, 0x1000n)).toMatchObject({ ok: true })
  })

  it.each([
    ["not announced", WITHOUT],
    ["off", {}],
  ])(
    "%s: PPREn alone lets requests in, as on the machines that Linux's amd_iommu_v2 served",
    (_, options) => {
      const machine = off(PLAIN, options)
      machine.model.pageRequest(request())
      expect([logged(machine).length, machine.events()]).toEqual([1, []])
    },
  )

  it("automatic responses carry no PASID: there is no GPRP to ask for it", () => {
    const { machine, device } = setUp(PLAIN, (PPR_ON & ~EPH_EN) | AUTO_RSP_AON)
    machine.model.pageRequest(request())
    expect(device.responses).toEqual([[0x155, null, PRI_SUCCESS]])
  })

  it("a request of a device whose entry has PPR set is refused as its DMA is", () => {
    const { machine, device } = setUp(GUEST, PPR_ON & ~EPH_EN)
    machine.model.pageRequest(request())
    expect([device.responses, logged(machine)]).toEqual([[[0x155, 0xabcde, PRI_INVALID_REQUEST]], []])
  })
})

describe("COMPLETE_PPR_REQUEST", () => {
  it("answers the group: tag in bits 8:0, code in bits 15:12, PASID with GN", () => {
    const { machine, device } = setUp()
    machine.command((7n << 60n) | (0xabcden << 32n) | 0x42n, (0x1155n << 32n) | bit(2))
    machine.command((7n << 60n) | 0x42n, 0x0002n << 32n)
    machine.command((7n << 60n) | 0x43n, 0n)
    expect(device.responses).toEqual([
      [0x155, 0xabcde, PRI_INVALID_REQUEST],
      [2, null, PRI_SUCCESS],
    ])
  })
})

it("a device asks for a page, software maps and answers, and the DMA goes through", () => {
  const machine = new Machine()
  const { model, memory } = machine
  model.mmio.write64(REG.PPR_BASE, PPRLOG | (8n << 56n))
  model.mmio.write64(REG.CONTROL, PPR_ON)
  const level1 = machine.table({ 0: page(0n) })
  const root = machine.table({ 0: pde(1, level1) })
  machine.dte(7, DTE_V | DTE_TV | (2n << 9n) | root | IRW | DTE_PPR, 5n | DTE1_I, 0n, 0n)
  const endpoint = new Endpoint({ model, memory, device: 7, ats: true, pri: true })
  const bytes = Uint8Array.of(9, 8, 7)
  const first = endpoint.write(0x8010n, bytes)
  expect(first).toEqual({ kind: "page-requested", group: 0 })
  // Write only, last, group 0, no PASID.
  expect(logged(machine)).toEqual([[0x1020_0200_0000_0007n, 0x8000n]])
  machine.set(level1, { 8: page(0x30_0000n) })
  machine.command((7n << 60n) | 7n, 0n)
  expect(endpoint.mayRetry(0)).toBe(true)
  expect(endpoint.write(0x8010n, bytes)).toEqual({ kind: "done" })
  expect(memory.read(0x30_0010n, 3)).toEqual(bytes)
  expect(machine.events()).toEqual([])
})

it("a guest's page arrives through nested tables after a request with a PASID", () => {
  const machine = new Machine()
  const { model, memory } = machine
  model.mmio.write64(REG.PPR_BASE, PPRLOG | (8n << 56n))
  model.mmio.write64(REG.CONTROL, PPR_ON)
  const guestLevel1 = machine.table()
  const guestLevel2 = machine.table({ 0: guestLevel1 | PRWU })
  const guestLevel3 = machine.table({ 0: guestLevel2 | PRWU })
  const guestRoot = machine.table({ 0: guestLevel3 | PRWU })
  const gcr3 = machine.table({ 3: guestRoot | 1n })
  const large = machine.table(
    Object.fromEntries(Array.from({ length: 32 }, (_, n) => [n, page(BigInt(n) << 21n)])),
  )
  const hostRoot = machine.table({ 0: pde(2, large) })
  const first = GUEST | (3n << 9n) | hostRoot | (((gcr3 >> 12n) & 7n) << 58n)
  machine.dte(7, first, 5n | DTE1_I | (((gcr3 >> 15n) & 0xffffn) << 16n), 0n, 0n)
  const endpoint = new Endpoint({ model, memory, device: 7, ats: true, pri: true })
  expect(endpoint.read(0x5000n, new Uint8Array(1), 3).kind).toBe("page-requested")
  expect(logged(machine)).toEqual([[0x1144_0200_0003_0007n, 0x5000n]])
  machine.set(guestLevel1, { 5: 0x30_0000n | PRWU })
  machine.command((7n << 60n) | (3n << 32n) | 7n, bit(2))
  expect(endpoint.read(0x5000n, new Uint8Array(1), 3).kind).toBe("done")
})
