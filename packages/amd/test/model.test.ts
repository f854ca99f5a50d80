import { amdModel, QEMU_11 } from "@iommu/amd"
import { createMemory, hi32, lo32, NO_PASID } from "@iommu/core"
import { describe, expect, it } from "vitest"
import {
  bit,
  CMD_BUF_EN,
  CMDBUF,
  COM_WAIT_INT_EN,
  DEVTAB,
  DTE_TV,
  DTE_V,
  EVT_INT_EN,
  EVT_LOG_EN,
  EVTLOG,
  faultOf,
  flagsOf,
  IOMMU_EN,
  IR,
  IRW,
  IW,
  Machine,
  ON,
  page,
  pde,
  REG,
  sized,
} from "./machine.ts"

const HOLE = 0x1_0000_0000n

/** Host tables of three levels with one page: 0x1000 → 0x5000. */
function onePage(machine: Machine, rights = IRW): bigint {
  const level1 = machine.table({ 1: page(0x5000n, rights) })
  const level2 = machine.table({ 0: pde(1, level1) })
  return machine.table({ 0: pde(2, level2) })
}

describe("registers", () => {
  it("read back in 32-bit halves what was written in 64, and the other way round", () => {
    const { mmio } = new Machine().model
    mmio.write64(REG.EXCL_LIMIT, 0x000f_edcb_a987_6000n)
    expect([mmio.read32(REG.EXCL_LIMIT), mmio.read32(REG.EXCL_LIMIT + 4)]).toEqual([0xa987_6000, 0x000f_edcb])
    mmio.write32(REG.MSI_LO, 0xfee0_1000)
    mmio.write32(REG.MSI_HI, 0x12)
    expect(mmio.read64(REG.MSI_HI)).toBe(0x12n)
    expect(mmio.read64(REG.MSI_CAP)).toBe(0xfee0_1000_0080_0005n)
  })

  it("reserve the bits and registers of absent features", () => {
    const all = (1n << 64n) - 1n
    const control = (extFeatures: bigint): bigint => {
      const { mmio } = new Machine({ extFeatures, extFeatures2: 0n }).model
      mmio.write64(REG.CONTROL, all)
      return mmio.read64(REG.CONTROL)
    }
    const none = control(0n)
    expect(none).toBe(0x0800_0000_0080_1fffn)
    // PPRSup, GTSup, GASup, USSup, DevTblSegSup, HASup: the bits of §3.4, MMIO Offset 0018h.
    expect(control(1n << 1n) ^ none).toBe(7n << 13n)
    expect(control(1n << 4n) ^ none).toBe(1n << 16n)
    expect(control(1n << 7n) ^ none).toBe((1n << 17n) | (7n << 25n) | (3n << 28n))
    expect(control(1n << 37n) ^ none).toBe(3n << 37n)
    expect(control(3n << 38n) ^ none).toBe(7n << 34n)
    expect(control(1n << 49n) ^ none).toBe(3n << 46n)
    const { mmio } = new Machine({ extFeatures: 0n }).model
    mmio.write64(REG.SEG1, all)
    mmio.write64(REG.PPR_BASE, all)
    expect([mmio.read64(REG.SEG1), mmio.read64(REG.PPR_BASE)]).toEqual([0n, 0n])
  })

  it("store only the bits that the book defines", () => {
    const { mmio } = new Machine().model
    const all = (1n << 64n) - 1n
    for (const [offset, kept] of [
      [REG.DEVTAB_BASE, 0x000f_ffff_ffff_f1ffn],
      [REG.SEG1, 0x000f_ffff_ffff_f0ffn],
      [REG.CMDBUF_BASE, 0x0f0f_ffff_ffff_f000n],
      [REG.EVTLOG_BASE, 0x0f0f_ffff_ffff_f000n],
      [REG.EXCL_BASE, 0x000f_ffff_ffff_f003n],
      [REG.EVT_HEAD, 0x7_fff0n],
    ] as const) {
      mmio.write64(offset, all)
      expect([offset, mmio.read64(offset)]).toEqual([offset, kept])
    }
  })

  it("leave EXT_FEATURES alone and drop accesses where nothing is", () => {
    const { mmio } = new Machine({ extFeatures: QEMU_11 }).model
    mmio.write64(REG.EXT_FEATURES, 0n)
    expect(mmio.read64(REG.EXT_FEATURES)).toBe(0x29d3n)
    for (const offset of [0x58, 0x1000, 0x3ff8, 0x4000, 0x10_0000, -8]) {
      mmio.write64(offset, bit(63))
      expect(mmio.read64(offset)).toBe(0n)
    }
  })

  it("clear STATUS bits by writing 1 and keep the read-only ones", () => {
    const machine = new Machine()
    machine.command(0x1000_0000_0000_0002n, 0n)
    expect(machine.status).toBe(0b1_1100n)
    machine.model.mmio.write64(REG.STATUS, 0b1_1111n)
    expect(machine.status).toBe(0b1_1000n)
  })

  it("zero a buffer's pointers when its base is written", () => {
    const machine = new Machine()
    machine.command(0x8000_0000_0000_0000n, 0n)
    expect(machine.model.mmio.read64(REG.CMD_HEAD)).toBe(16n)
    machine.model.mmio.write64(REG.CMDBUF_BASE, CMDBUF | (8n << 56n))
    expect(machine.model.mmio.read64(REG.CMD_HEAD)).toBe(0n)
    expect(machine.model.mmio.read64(REG.CMD_TAIL)).toBe(0n)
  })

  it("are restored without effects, and unknown names come back", () => {
    const machine = new Machine({}, 0n)
    const seen: string[] = []
    machine.model.onInvalidate = ({ command }) => seen.push(command)
    machine.memory.write64(CMDBUF, 0x8000_0000_0000_0000n)
    const unknown = machine.model.restoreRegisters({
      CONTROL: ON,
      STATUS: 0x18n,
      CMD_HEAD: 0n,
      CMD_TAIL: 16n,
      EXT_FEATURES: 0x29d3n,
      GSTS_REG: 1n,
      constructor: 1n,
    })
    expect(unknown).toEqual(["GSTS_REG", "constructor"])
    expect(seen).toEqual([])
    expect(machine.model.mmio.read64(REG.EXT_FEATURES)).toBe(0x29d3n)
    machine.model.mmio.write64(REG.CMD_TAIL, 16n)
    expect(seen).toEqual(["INVALIDATE_IOMMU_ALL"])
  })
})

describe("commands", () => {
  it("store on COMPLETION_WAIT and move the head", () => {
    const machine = new Machine()
    machine.command(0x1000_0000_0000_8001n, 0x1122_3344_5566_7788n)
    expect(machine.memory.read64(0x8000n)).toBe(0x1122_3344_5566_7788n)
    expect(machine.model.mmio.read64(REG.CMD_HEAD)).toBe(16n)
    expect(machine.status & bit(2)).toBe(0n)
  })

  it("set ComWaitInt whether or not its interrupt is enabled", () => {
    const machine = new Machine()
    const sent: bigint[] = []
    machine.model.onInterrupt = address => sent.push(address)
    machine.model.mmio.write32(REG.MSI_CAP, 1 << 16)
    machine.command(0x1000_0000_0000_0002n, 0n)
    expect([machine.status & bit(2), sent]).toEqual([bit(2), []])
  })

  it("send one message when ComWaitInt becomes 1, and the next after it was cleared", () => {
    const machine = new Machine({}, ON | COM_WAIT_INT_EN)
    const sent: [bigint, number][] = []
    machine.model.onInterrupt = (address, data) => sent.push([address, data])
    const { mmio } = machine.model
    mmio.write32(REG.MSI_LO, 0xfee0_3000)
    mmio.write32(REG.MSI_DATA, 0x41)
    mmio.write32(REG.MSI_CAP, 1 << 16)
    machine.command(0x1000_0000_0000_0002n, 0n)
    machine.command(0x1000_0000_0000_0002n, 0n)
    expect(sent).toEqual([[0xfee0_3000n, 0x41]])
    mmio.write64(REG.STATUS, bit(2))
    machine.command(0x1000_0000_0000_0002n, 0n)
    expect(sent.length).toBe(2)
  })

  it("send interrupts by the XT registers when IntCapXTEn is set", () => {
    const machine = new Machine({}, ON | COM_WAIT_INT_EN | bit(50) | bit(51))
    const sent: [bigint, number][] = []
    machine.model.onInterrupt = (address, data) => sent.push([address, data])
    // Destination 0x01_000203 (high byte in bits 63:56, low three in 31:8), vector 0x55, fixed, physical.
    machine.model.mmio.write64(REG.XT_GEN, 0x0100_0055_0002_0300n)
    machine.command(0x1000_0000_0000_0002n, 0n)
    expect(sent).toEqual([[0x0100_0200_fee0_3000n, 0x55]])
  })

  it("send logical and lowest-priority interrupts as the XT registers say", () => {
    const machine = new Machine({}, ON | COM_WAIT_INT_EN | bit(51))
    const sent: [bigint, number][] = []
    machine.model.onInterrupt = (address, data) => sent.push([address, data])
    // DestMode at bit 2, DeliveryMode at bit 40.
    machine.model.mmio.write64(REG.XT_GEN, (0x155n << 32n) | (0x7n << 8n) | 4n)
    machine.command(0x1000_0000_0000_0002n, 0n)
    expect(sent).toEqual([[0xfee0_7004n, 0x155]])
  })

  it("send nothing while the MSI capability is off", () => {
    const machine = new Machine({}, ON | COM_WAIT_INT_EN)
    let sent = 0
    machine.model.onInterrupt = () => sent++
    machine.command(0x1000_0000_0000_0002n, 0n)
    expect(sent).toBe(0)
  })

  it("wrap the head to 0 at the end of the buffer", () => {
    const machine = new Machine()
    let count = 0
    machine.model.onInvalidate = () => count++
    for (let i = 0; i < 256 + 3; i++) machine.command(0x8000_0000_0000_0000n, 0n)
    expect(count).toBe(259)
    expect(machine.model.mmio.read64(REG.CMD_HEAD)).toBe(48n)
  })

  // A buffer of 512 commands whose second page begins at 4 GiB (§3.4, MMIO Offset 0008h: aligned to 4 KiB only).
  it("are fetched across 4 GiB, and wrap back below it", () => {
    const base = 0xffff_f000n
    const memory = createMemory([
      { base: 0n, size: 0x10_0000n },
      { base, size: 0x2000n },
    ])
    const model = amdModel({ memory })
    model.mmio.write64(REG.CMDBUF_BASE, base | (9n << 56n))
    model.mmio.write64(REG.CMD_HEAD, 0xff0n)
    model.mmio.write64(REG.CMD_TAIL, 0xff0n)
    model.mmio.write64(REG.CONTROL, ON)
    // COMPLETION_WAIT, S = 1: each stores the address that it lies at.
    const at = [0xffff_fff0n, 0x1_0000_0000n, 0x1_0000_0ff0n, base]
    for (const [n, address] of at.entries()) {
      memory.write64(address, 0x1000_0000_0000_0001n | BigInt(0x8000 + n * 8))
      memory.write64(address + 8n, address)
    }
    const stored = (): bigint[] => at.map((_, n) => memory.read64(BigInt(0x8000 + n * 8)))
    model.mmio.write64(REG.CMD_TAIL, 0x1010n)
    expect(stored()).toEqual([at[0], at[1], 0n, 0n])
    expect(model.mmio.read64(REG.CMD_HEAD)).toBe(0x1010n)
    // Up to the last one: INVALIDATE_IOMMU_ALL.
    for (let address = 0x1_0000_0010n; address < 0x1_0000_0ff0n; address += 16n) {
      memory.write64(address, 0x8000_0000_0000_0000n)
    }
    model.mmio.write64(REG.CMD_TAIL, 0x10n)
    expect(stored()).toEqual(at)
    expect(model.mmio.read64(REG.CMD_HEAD)).toBe(0x10n)
  })

  it("do not run forever when the tail lies outside the buffer", () => {
    const machine = new Machine()
    machine.memory.write(CMDBUF, new Uint8Array(0x1000))
    for (let i = 0; i < 256; i++) machine.memory.write64(CMDBUF + BigInt(i * 16), 0x8000_0000_0000_0000n)
    machine.model.mmio.write64(REG.CMD_TAIL, 0x7_fff0n)
    expect(machine.model.mmio.read64(REG.CMD_HEAD)).toBe(0xff0n)
  })

  it("are told to the hook with their fields and words", () => {
    const machine = new Machine()
    const seen: unknown[] = []
    machine.model.onInvalidate = invalidation => seen.push(invalidation)
    machine.command(0x3000_000f_000a_bcden, 0x1_2345_7007n)
    expect(seen).toEqual([
      {
        command: "INVALIDATE_IOMMU_PAGES",
        fields: { PASID: 0xabcden, DomainID: 15n, Opcode: 3n, S: 1n, PDE: 1n, GN: 1n, Address: 0x12_3457n },
        words: [0x3000_000f_000a_bcden, 0x1_2345_7007n],
      },
    ])
  })

  it.each([
    ["opcode 0", 0n, 0n],
    ["opcode 11", 0xb000_0000_0000_0000n, 0n],
    ["INSERT_GUEST_EVENT", 0x9000_0000_0000_0000n, 0n],
    ["a reserved bit of COMPLETION_WAIT", 0x1010_0000_0000_8001n, 0n],
    ["a reserved bit of INVALIDATE_DEVTAB_ENTRY", 0x2000_0000_0001_0000n, 0n],
    ["a reserved bit of INVALIDATE_IOMMU_PAGES", 0x3000_0000_0000_0000n, 0x8n],
    ["an operand of INVALIDATE_IOMMU_ALL", 0x8000_0000_0000_0001n, 0n],
  ])("stop at %s with ILLEGAL_COMMAND_ERROR", (_what, low, high) => {
    const machine = new Machine()
    machine.command(0x8000_0000_0000_0000n, 0n)
    machine.command(low, high)
    expect(machine.events()).toEqual([[0x5000_0000_0000_0000n, CMDBUF + 16n]])
    expect(machine.status & bit(4)).toBe(0n)
    expect(machine.model.mmio.read64(REG.CMD_HEAD)).toBe(16n)
    machine.command(0x8000_0000_0000_0000n, 0n)
    expect(machine.model.mmio.read64(REG.CMD_HEAD)).toBe(16n)
  })

  it("start again after software has turned the buffer off and on", () => {
    const machine = new Machine()
    machine.command(0n, 0n)
    const { mmio } = machine.model
    machine.memory.write64(CMDBUF, 0x8000_0000_0000_0000n)
    mmio.write64(REG.CONTROL, ON & ~CMD_BUF_EN)
    mmio.write64(REG.CONTROL, ON)
    expect([machine.status & bit(4), mmio.read64(REG.CMD_HEAD)]).toEqual([bit(4), 16n])
  })

  it("end in COMMAND_HARDWARE_ERROR where the store or the buffer meets no memory", () => {
    const store = new Machine()
    store.command(0x1000_0000_0000_0001n | HOLE, 0n)
    expect(store.events()).toEqual([[0x6200_0000_0000_0000n, HOLE]])
    expect(store.status & bit(4)).toBe(0n)
    const fetch = new Machine({}, 0n)
    fetch.model.mmio.write64(REG.CMDBUF_BASE, HOLE | (8n << 56n))
    fetch.model.mmio.write64(REG.CONTROL, ON)
    fetch.model.mmio.write64(REG.CMD_TAIL, 16n)
    expect(fetch.events()).toEqual([[0x6200_0000_0000_0000n, HOLE]])
    expect(fetch.model.mmio.read64(REG.HWEV_UPPER)).toBe(0x6200_0000_0000_0000n)
    expect(fetch.model.mmio.read64(REG.HWEV_STATUS)).toBe(1n)
  })

  it("need the feature that EXT_FEATURES announces", () => {
    const machine = new Machine({ extFeatures: 0n })
    machine.command(0x8000_0000_0000_0000n, 0n)
    expect(machine.events()).toEqual([[0x5000_0000_0000_0000n, CMDBUF]])
    const guest = new Machine({ extFeatures: 0n })
    guest.command(0x3000_0000_0000_0000n, 0x4n)
    expect(guest.events().length).toBe(1)
  })

  it("wait for IommuEn and CmdBufEn, and for a buffer length that is not reserved", () => {
    const machine = new Machine({}, CMD_BUF_EN)
    expect(machine.status & bit(4)).toBe(0n)
    machine.model.mmio.write64(REG.CONTROL, CMD_BUF_EN | IOMMU_EN)
    expect(machine.status & bit(4)).toBe(bit(4))
    const reserved = new Machine({}, 0n)
    reserved.model.mmio.write64(REG.CMDBUF_BASE, CMDBUF | (7n << 56n))
    reserved.model.mmio.write64(REG.CONTROL, ON)
    expect(reserved.status & bit(4)).toBe(0n)
  })

  it("survive a hook that rings the bell again", () => {
    const machine = new Machine()
    let count = 0
    machine.model.onInvalidate = () => {
      count++
      machine.model.mmio.write64(REG.CMD_TAIL, 32n)
    }
    machine.memory.write64(CMDBUF, 0x8000_0000_0000_0000n)
    machine.memory.write64(CMDBUF + 16n, 0x8000_0000_0000_0000n)
    machine.model.mmio.write64(REG.CMD_TAIL, 16n)
    expect([count, machine.model.mmio.read64(REG.CMD_HEAD)]).toEqual([2, 32n])
  })
})

describe("event log", () => {
  it("overflows when it is full: the event is lost, EventOverflow is set, logging stops", () => {
    const machine = new Machine()
    machine.dte(1, 3n, 0n, 0n)
    for (let i = 0; i < 255; i++) expect(faultOf(machine.read(1, 0n)).record).not.toBeNull()
    expect(machine.status & 0b1001n).toBe(0b1000n)
    expect(faultOf(machine.read(1, 0n)).record).toBeNull()
    expect(machine.status & 0b1001n).toBe(0b0001n)
    machine.model.mmio.write64(REG.EVT_HEAD, 0x100n)
    expect(faultOf(machine.read(1, 0n)).record).toBeNull()
    machine.model.mmio.write64(REG.CONTROL, ON & ~EVT_LOG_EN)
    machine.model.mmio.write64(REG.STATUS, 1n)
    machine.model.mmio.write64(REG.CONTROL, ON)
    expect(faultOf(machine.read(1, 0n)).record).not.toBeNull()
    expect(machine.model.mmio.read64(REG.EVT_TAIL)).toBe(0n)
  })

  it("signals an event once, and an overflow", () => {
    const machine = new Machine({}, ON | EVT_INT_EN)
    let sent = 0
    machine.model.onInterrupt = () => sent++
    machine.model.mmio.write32(REG.MSI_CAP, 1 << 16)
    machine.dte(1, 3n, 0n, 0n)
    machine.read(1, 0n)
    machine.read(1, 0n)
    expect([sent, machine.status & bit(1)]).toEqual([1, bit(1)])
    for (let i = 0; i < 254; i++) machine.read(1, 0n)
    expect(sent).toBe(2)
  })

  it("writes nothing while EventLogEn is 0", () => {
    const machine = new Machine({}, ON & ~EVT_LOG_EN)
    machine.dte(1, 3n, 0n, 0n)
    expect(faultOf(machine.read(1, 0x1000n)).record).toBeNull()
    expect(machine.memory.read64(EVTLOG)).toBe(0n)
  })

  it("does not write where there is no memory", () => {
    const machine = new Machine({}, 0n)
    machine.model.mmio.write64(REG.EVTLOG_BASE, HOLE | (8n << 56n))
    machine.model.mmio.write64(REG.CONTROL, ON)
    machine.dte(1, 3n, 0n, 0n)
    expect(faultOf(machine.read(1, 0x1000n)).record).toBeNull()
  })
})

describe("device table", () => {
  it("passes everything while IommuEn is 0, and from devices whose entry has V = 0", () => {
    const off = new Machine({}, 0n)
    expect(off.write(1, 0xfee0_0000n)).toMatchObject({ ok: true, pa: 0xfee0_0000n, allowed: 3 })
    const on = new Machine()
    expect(on.write(1, 0xffff_ffff_ffff_f123n)).toMatchObject({ ok: true, pa: 0xffff_ffff_ffff_f123n })
  })

  it("refuses a DeviceID beyond its size", () => {
    const machine = new Machine()
    machine.model.mmio.write64(REG.DEVTAB_BASE, DEVTAB)
    expect(machine.read(127, 0x1000n).ok).toBe(true)
    const fault = faultOf(machine.write(128, 0x1000n))
    expect(fault).toMatchObject({
      reason: "IO_PAGE_FAULT",
      stage: 0,
      record: [0x2020_0000_0000_0080n, 0x1000n],
    })
    expect(faultOf(machine.read(0x1_0000, 0n)).reason).toBe("IO_PAGE_FAULT")
    expect(faultOf(machine.read(-5, 0n)).reason).toBe("IO_PAGE_FAULT")
  })

  it("logs DEV_TAB_HARDWARE_ERROR where the entry has no memory, also beyond 4 GiB", () => {
    const machine = new Machine()
    machine.model.mmio.write64(REG.DEVTAB_BASE, 0xffff_f000n | 0x1ffn)
    expect(faultOf(machine.write(130, 0x1000n))).toMatchObject({
      reason: "DEV_TAB_HARDWARE_ERROR",
      code: 3,
      stage: 0,
      record: [0x3220_0000_0000_0082n, 0x1_0000_0040n],
    })
  })

  it("is split into segments by DevTblSegEn", () => {
    const machine = new Machine({}, ON | (1n << 34n))
    machine.model.mmio.write64(REG.SEG1, 0x30_0000n)
    machine.memory.write64(0x30_0000n + 32n, DTE_V | DTE_TV | IR)
    expect(machine.read(0x8001, 0x1000n).ok).toBe(true)
    expect(machine.write(0x8001, 0x1000n).ok).toBe(false)
    expect(machine.read(1, 0x1000n).ok).toBe(true)
    expect(faultOf(machine.read(0x8080, 0n)).reason).toBe("IO_PAGE_FAULT")
  })

  it.each([
    ["bit 2", DTE_V | DTE_TV | bit(2), 0n],
    ["bit 63", DTE_V | DTE_TV | bit(63), 0n],
    ["bit 192", DTE_V | DTE_TV, bit(0)],
    ["bit 245", DTE_V | DTE_TV, bit(53)],
  ])("logs ILLEGAL_DEV_TABLE_ENTRY with RZ for reserved %s", (_what, low, top) => {
    const machine = new Machine()
    machine.dte(7, low, 0n, 0n, top)
    expect(faultOf(machine.write(7, 0x1007n))).toMatchObject({
      reason: "ILLEGAL_DEV_TABLE_ENTRY",
      code: 1,
      stage: 0,
      record: [0x10a0_0000_0000_0007n, 0x1004n],
    })
  })

  it("ignores reserved bits while V is 0", () => {
    const machine = new Machine()
    machine.dte(7, bit(2) | bit(63))
    expect(machine.read(7, 0x1000n).ok).toBe(true)
  })

  it("logs ILLEGAL_DEV_TABLE_ENTRY without RZ for Mode 7 and for more levels than HATS", () => {
    const machine = new Machine()
    machine.hostDevice(1, 7, 0n)
    expect(faultOf(machine.read(1, 0n)).record).toEqual([0x1000_0000_0000_0001n, 0n])
    const four = new Machine({ extFeatures: 0n })
    four.hostDevice(1, 5, four.table())
    expect(faultOf(four.read(1, 0n)).reason).toBe("ILLEGAL_DEV_TABLE_ENTRY")
    four.hostDevice(1, 4, four.table())
    expect(faultOf(four.read(1, 0n)).reason).toBe("IO_PAGE_FAULT")
  })

  it("ends a request in IO_PAGE_FAULT when TV is 0", () => {
    const machine = new Machine()
    machine.dte(1, DTE_V | IRW, 9n)
    expect(faultOf(machine.read(1, 0x2000n))).toMatchObject({
      reason: "IO_PAGE_FAULT",
      stage: 0,
      record: [0x2000_0009_0000_0001n, 0x2000n],
    })
  })

  it("passes by IR and IW alone when Mode is 0", () => {
    const machine = new Machine()
    machine.dte(1, DTE_V | DTE_TV | IR, 5n)
    expect(machine.read(1, 0x1234n)).toMatchObject({ ok: true, pa: 0x1234n, allowed: 1, stage2Size: 0n })
    expect(flagsOf(machine.write(1, 0x1234n))).toBe(0x070n)
  })

  it("refuses a PASID where there are no guest tables", () => {
    const machine = new Machine()
    machine.hostDevice(1, 3, onePage(machine))
    expect(faultOf(machine.read(1, 0x1000n, 0x12345)).record).toEqual([0x2005_2345_0001_0001n, 0x1000n])
  })
})

describe("suppression of page faults", () => {
  it("SA: none is logged", () => {
    const machine = new Machine()
    machine.dte(1, DTE_V | DTE_TV, bit(34))
    expect(faultOf(machine.read(1, 0n)).record).toBeNull()
    expect(machine.events()).toEqual([])
  })

  it("SE: the first is logged, the next after the entry was invalidated", () => {
    const machine = new Machine()
    machine.dte(1, DTE_V | DTE_TV, bit(33))
    machine.dte(2, DTE_V | DTE_TV, bit(33))
    const logged = (): boolean => faultOf(machine.read(1, 0n)).record !== null
    expect([logged(), logged(), logged()]).toEqual([true, false, false])
    expect(faultOf(machine.read(2, 0n)).record).not.toBeNull()
    machine.command(0x2000_0000_0000_0002n, 0n)
    expect(logged()).toBe(false)
    machine.command(0x2000_0000_0000_0001n, 0n)
    expect([logged(), logged()]).toEqual([true, false])
    machine.command(0x8000_0000_0000_0000n, 0n)
    expect(logged()).toBe(true)
  })

  it("does not touch other events", () => {
    const machine = new Machine()
    machine.dte(1, DTE_V | DTE_TV | bit(2), bit(34))
    expect(faultOf(machine.read(1, 0n)).record).not.toBeNull()
  })
})

describe("exclusion range", () => {
  const inside = 0x1_2000n
  const setUp = (base: bigint, ex: bigint): Machine => {
    const machine = new Machine()
    machine.model.mmio.write64(REG.EXCL_BASE, base)
    machine.model.mmio.write64(REG.EXCL_LIMIT, inside)
    machine.dte(1, DTE_V | DTE_TV, ex)
    return machine
  }

  it("lets devices with EX pass, to the end of the limit's page", () => {
    const machine = setUp(0x1_1000n | 1n, bit(39))
    expect(machine.write(1, 0x1_2fffn)).toMatchObject({ ok: true, pa: 0x1_2fffn })
    expect(machine.write(1, 0x1_1000n).ok).toBe(true)
    expect(machine.write(1, 0x1_3000n).ok).toBe(false)
    expect(machine.write(1, 0x1_0fffn).ok).toBe(false)
  })

  it("lets all devices pass with Allow, and none without ExEn", () => {
    expect(setUp(0x1_1000n | 3n, 0n).write(1, inside).ok).toBe(true)
    expect(setUp(0x1_1000n | 1n, 0n).write(1, inside).ok).toBe(false)
    expect(setUp(0x1_1000n | 2n, bit(39)).write(1, inside).ok).toBe(false)
  })
})

describe("interrupt address range", () => {
  const withIntCtl = (control: bigint, iv = 1n): Machine => {
    const machine = new Machine()
    machine.dte(1, DTE_V | DTE_TV | IRW, 5n, (control << 60n) | iv)
    return machine
  }

  it("is not readable", () => {
    expect(faultOf(withIntCtl(1n).read(1, 0xfee0_0000n))).toMatchObject({
      reason: "INVALID_DEVICE_REQUEST",
      record: [0x8000_0000_0000_0001n, 0xfee0_0000n],
    })
  })

  it("passes, blocks, or finds no remapping, by IV and IntCtl", () => {
    expect(withIntCtl(0n, 0n).write(1, 0xfeef_fffcn)).toMatchObject({ ok: true, pa: 0xfeef_fffcn })
    expect(withIntCtl(1n).write(1, 0xfee0_0000n).ok).toBe(true)
    expect(faultOf(withIntCtl(0n).write(1, 0xfee0_0000n)).record?.[0]).toBe(0x8a00_0000_0000_0001n)
    expect(flagsOf(withIntCtl(2n).write(1, 0xfee0_0000n))).toBe(0x028n)
  })

  it("ends at its borders", () => {
    const machine = withIntCtl(2n)
    expect(machine.write(1, 0xfedf_fffcn)).toMatchObject({ ok: true })
    expect(machine.write(1, 0xfef0_0000n)).toMatchObject({ ok: true })
    expect(machine.write(1, 0x1_fee0_0000n)).toMatchObject({ ok: true })
  })
})

describe("result and trace", () => {
  it("reports page, rights and stage sizes", () => {
    const machine = new Machine()
    machine.hostDevice(1, 3, onePage(machine, IW))
    expect(machine.write(1, 0x1234n)).toEqual({
      ok: true,
      pa: 0x5234n,
      size: 0x1000n,
      allowed: 2,
      ipa: 0x1234n,
      stage1Size: 0n,
      stage2Size: 0x1000n,
    })
  })

  it("says what it read, in order", () => {
    const machine = new Machine()
    const root = onePage(machine)
    machine.hostDevice(1, 3, root)
    const steps: string[] = []
    machine.model.trace = step => steps.push(`${step.stage} ${step.what} ${step.index}: ${step.meaning}`)
    machine.read(1, 0x1000n)
    expect(steps).toEqual([
      `0 DTE 1: domain 5, host root at 0x${root.toString(16)}, 3 levels, read, write`,
      "2 level 3 PDE 0: level 2 table at 0x1001000, read, write",
      "2 level 2 PDE 0: level 1 table at 0x1000000, read, write",
      "2 level 1 PTE 1: 4 KiB page at 0x5000, read, write",
    ])
    machine.model.trace = null
    machine.read(1, 0x1000n)
    expect(steps.length).toBe(4)
  })

  it("says of entries that lead nowhere what is wrong with them", () => {
    const machine = new Machine()
    const illegal = machine.table({ 0: 0x000f_ffff_ffff_f000n | (7n << 9n) | 1n | IRW, 1: 0n })
    machine.hostDevice(1, 1, illegal)
    const gcr3 = machine.table()
    const first = DTE_V | DTE_TV | IRW | bit(55) | (((gcr3 >> 12n) & 7n) << 58n)
    machine.dte(2, first, ((gcr3 >> 15n) & 0xffffn) << 16n, 0n, 0n)
    machine.dte(3, 0n, 0n, 0n, 0n)
    machine.dte(4, DTE_V, 0n, 0n, 0n)
    const meanings: string[] = []
    machine.model.trace = step => meanings.push(step.meaning)
    machine.read(1, 0n)
    machine.read(1, 0x1000n)
    machine.read(2, 0n, 9)
    machine.read(3, 0n)
    machine.read(4, 0n)
    expect(meanings.filter(meaning => !meaning.startsWith("domain"))).toEqual([
      "page of an illegal size",
      "not present",
      "not valid",
      "not valid: requests pass untranslated",
      "no translation information",
    ])
  })

  it("names the levels of GCR3 tables, and who may do what with a page", () => {
    const machine = new Machine()
    const level1 = machine.table({
      0: page(0x4000n, 0n),
      1: page(0x5000n, IW),
      2: page(0x6000n, IR),
      4: sized(0x40_0000n, 0x4000n),
    })
    machine.hostDevice(1, 1, level1)
    const gcr3 = machine.table()
    const upper = machine.table({ 1: gcr3 | 1n })
    const second = ((upper >> 15n) & 0xffffn) << 16n
    machine.dte(2, DTE_V | DTE_TV | IRW | bit(55) | bit(56) | (((upper >> 12n) & 7n) << 58n), second, 0n, 0n)
    const steps: string[] = []
    machine.model.trace = step => steps.push(`${step.what}: ${step.meaning}`)
    for (const iova of [0n, 0x1000n, 0x2000n, 0x4000n]) machine.read(1, iova)
    machine.read(2, 0n, 512)
    expect(steps.filter(step => !step.startsWith("DTE"))).toEqual([
      "level 1 PTE: 4 KiB page at 0x4000, no access",
      "level 1 PTE: 4 KiB page at 0x5000, write",
      "level 1 PTE: 4 KiB page at 0x6000, read",
      "level 1 PTE: 16 KiB page at 0x400000, read, write",
      `level 1 GCR3 entry: GCR3 table at 0x${gcr3.toString(16)}`,
      "level 0 GCR3 entry: not valid",
    ])
  })

  it("gives back the hooks that it was given", () => {
    const { model } = new Machine()
    const [trace, onInvalidate, onInterrupt] = [() => {}, () => {}, () => {}]
    Object.assign(model, { trace, onInvalidate, onInterrupt })
    expect([model.trace, model.onInvalidate, model.onInterrupt]).toEqual([trace, onInvalidate, onInterrupt])
  })

  it("restores registers of 32 bits without touching their neighbours", () => {
    const { model } = new Machine()
    model.restoreRegisters({ MSI_ADDR_LO: 0xfee0_0000n, MSI_ADDR_HI: 1n, MSI_DATA: 0x1_0000_0042n })
    expect([model.mmio.read64(REG.MSI_LO), model.mmio.read32(REG.MSI_DATA)]).toEqual([0x1_fee0_0000n, 0x42])
  })

  it("takes signed halves as well", () => {
    const machine = new Machine()
    const { model } = machine
    expect(model.translate(1, NO_PASID, hi32(bit(63)) | 0, lo32(bit(31)) | 0, 1)).toBe(0)
    expect([model.result.paHi, model.result.paLo]).toEqual([0x8000_0000, 0x8000_0000])
  })
})
