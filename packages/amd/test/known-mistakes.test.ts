/**
 * Mistakes that others made in IOMMU models, drivers and page tables between 2020 and 2026, as far as they can be made
 * with an AMD IOMMU: each has a test by its name. The threads are named as repository#number or CVE.
 */
import { deviceTable, events, QEMU_11, registers } from "@iommu/amd"
import { Endpoint, hi32, lo32, NO_PASID } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { Host } from "./driver-machine.ts"
import {
  bit,
  CMDBUF,
  DTE_TV,
  DTE_V,
  DTE1_I,
  faultOf,
  flagsOf,
  IRW,
  Machine,
  ON,
  page,
  pde,
  REG,
  sized,
} from "./machine.ts"

const EVENT_OVERFLOW = bit(0)
const COM_WAIT_INT = bit(2)
const EVENT_LOG_RUN = bit(3)
const CMD_BUF_RUN = bit(4)
const COMPLETION_WAIT = 1n << 60n
const INVALIDATE_DEVTAB_ENTRY = 2n << 60n
const INVALIDATE_IOTLB_PAGES = 4n << 60n
const READ_WRITE = 3

/** Device 1 behind host tables of two levels. */
function mapped(
  leaves: Readonly<Record<number, bigint>>,
  control = ON,
): { machine: Machine; level1: bigint } {
  const machine = new Machine({}, control)
  const level1 = machine.table(leaves)
  const root = machine.table({ 0: pde(1, level1) })
  machine.dte(1, DTE_V | DTE_TV | (2n << 9n) | root | IRW, 5n | DTE1_I, 0n, 0n)
  return { machine, level1 }
}

describe("bit layouts", () => {
  it("openvmm#3660: EXT_FEATURES shifted from bit 31 on", () => {
    const { fields } = registers.EXT_FEATURES
    const places = {
      SATSSup: 31,
      PASmax: 32,
      USSup: 37,
      DevTblSegSup: 38,
      MsiCapMmioSup: 46,
      HASup: 49,
      SNPSup: 63,
    }
    for (const [field, lsb] of Object.entries(places))
      expect([field, fields[field as keyof typeof fields][1]]).toEqual([field, lsb])
  })

  it("openvmm#3660: DTE.HAD split in two", () => {
    expect(deviceTable.DTE.fields.HAD.slice(0, 2)).toEqual([8, 7])
  })

  it("openvmm#3660: fields of the DTE missing, so that all after them were shifted", () => {
    const { fields } = deviceTable.DTE
    const places = {
      Mode: 9,
      GV: 55,
      IR: 61,
      DomainID: 64,
      I: 96,
      SysMgt: 104,
      SATS: 106,
      IV: 128,
      IntCtl: 188,
    }
    for (const [field, lsb] of Object.entries(places))
      expect([field, fields[field as keyof typeof fields][1]]).toEqual([field, lsb])
  })

  it("qemu 2025: the interrupt table's address in the DTE masked to other bits", () => {
    const { fields } = deviceTable.DTE
    // 64-byte aligned, 52 bits: bits 51:6 of the third word.
    expect(fields.IntTabRootPtr.slice(0, 2)).toEqual([179, 134])
    expect(fields.IntTabLen.slice(0, 2)).toEqual([132, 129])
    const words = [0n, 0n, 0xf_ffff_ffff_ffc0n, 0n]
    expect(deviceTable.DTE.getInPlace(words, "IntTabRootPtr")).toBe(0xf_ffff_ffff_ffc0n)
  })

  it("openvmm#3697: the interrupt bit of a wait command at another place", () => {
    const machine = new Machine()
    machine.command(COMPLETION_WAIT | bit(1), 0n)
    expect(machine.status & COM_WAIT_INT).toBe(COM_WAIT_INT)
    for (let n = 3; n < 52; n++) {
      const other = new Machine()
      other.command(COMPLETION_WAIT | bit(n), 0n)
      expect(other.status & COM_WAIT_INT).toBe(0n)
    }
  })

  it("qemu 2025: IO_PAGE_FAULT without address and domain", () => {
    const { machine } = mapped({})
    machine.write(1, 0x12_3456n)
    expect(machine.events()).toEqual([[0x2020_0005_0000_0001n, 0x12_3456n]])
  })

  it("qemu July 2024: a sign extension destroys the record of a request with a PASID", () => {
    const machine = new Machine()
    machine.dte(1, DTE_V | DTE_TV | IRW, 5n, 0n, 0n)
    const outcome = machine.read(1, 0xffff_8000_dead_b000n, 0xfffff)
    expect(faultOf(outcome).record).toEqual([0x2005_ffff_000f_0001n, 0xffff_8000_dead_b000n])
  })
})

describe("status, logs and interrupts", () => {
  it("openvmm#3660: ComWaitInt set only when its interrupt is enabled", () => {
    const machine = new Machine({}, ON)
    machine.command(COMPLETION_WAIT | bit(1), 0n)
    expect(machine.status & COM_WAIT_INT).toBe(COM_WAIT_INT)
  })

  it("openvmm#3660: an overflow of the event log neither signalled nor honoured", () => {
    const { machine } = mapped({})
    for (let n = 0; n < 255; n++) machine.read(1, 0x1000n)
    expect(machine.status & (EVENT_OVERFLOW | EVENT_LOG_RUN)).toBe(EVENT_LOG_RUN)
    const outcome = machine.read(1, 0x1000n)
    expect(machine.status & (EVENT_OVERFLOW | EVENT_LOG_RUN)).toBe(EVENT_OVERFLOW)
    expect(faultOf(outcome).record).toBeNull()
    machine.model.mmio.write64(REG.EVT_HEAD, machine.model.mmio.read64(REG.EVT_TAIL))
    machine.read(1, 0x1000n)
    expect(machine.events()).toEqual([])
  })

  it("openvmm#4275: a device faults for ever and nobody is told", () => {
    const { machine } = mapped({}, ON | bit(3))
    const messages: number[] = []
    machine.model.onInterrupt = (_, data) => messages.push(data)
    machine.model.mmio.write32(REG.MSI_CAP, 1 << 16)
    machine.model.mmio.write32(REG.MSI_DATA, 0x22)
    for (let n = 0; n < 300; n++) machine.read(1, 0x1000n)
    expect(messages).toEqual([0x22, 0x22])
  })

  it("qemu 2025: writes of the status register clear what they should not", () => {
    const { machine } = mapped({})
    machine.read(1, 0x1000n)
    machine.command(COMPLETION_WAIT | bit(1), 0n)
    machine.model.mmio.write64(REG.STATUS, COM_WAIT_INT | CMD_BUF_RUN | EVENT_LOG_RUN)
    expect(machine.status).toBe(CMD_BUF_RUN | EVENT_LOG_RUN | bit(1))
  })

  it("openvmm#3697: a test that reads the log before the DMA sees nothing", () => {
    const { machine } = mapped({})
    expect(machine.events()).toEqual([])
    machine.read(1, 0x1000n)
    expect(machine.events().length).toBe(1)
  })
})

describe("commands", () => {
  it("cloud-hypervisor#8805: an unknown opcode passed over in silence", () => {
    for (const opcode of [0n, 9n, 10n, 11n, 15n]) {
      const machine = new Machine()
      machine.command(opcode << 60n, 0n)
      expect(machine.events()).toEqual([[BigInt(events.EVENT.ILLEGAL_COMMAND_ERROR) << 60n, CMDBUF]])
      expect(machine.status & CMD_BUF_RUN).toBe(0n)
    }
  })

  it("qemu 2026: the command head does not wrap to 0, and a tail outside the buffer loops for ever", () => {
    const machine = new Machine()
    for (let n = 0; n < 256; n++) machine.command(INVALIDATE_DEVTAB_ENTRY | 1n, 0n)
    expect(machine.model.mmio.read64(REG.CMD_HEAD)).toBe(0n)
    machine.model.mmio.write64(REG.CMD_TAIL, 0x7_fff0n)
    expect(machine.model.mmio.read64(REG.CMD_HEAD)).toBeLessThan(0x1000n)
  })

  it("qemu 2026: an 8-byte access that a guest makes anywhere aborts the machine", () => {
    const { mmio } = new Machine().model
    for (let offset = 0; offset < 0x4000; offset += 4) {
      expect(() => mmio.write64(offset, (1n << 64n) - 1n)).not.toThrow()
      expect(() => mmio.read64(offset)).not.toThrow()
    }
  })

  it("qemu 2020-2021: invalidations of another range than the command names", () => {
    const { machine } = mapped({ 4: page(0x30_0000n), 5: page(0x31_0000n), 8: page(0x32_0000n) })
    const { model, memory } = machine
    const endpoint = new Endpoint({ model, memory, device: 1, ats: true })
    for (const iova of [0x4000n, 0x5000n, 0x8000n]) endpoint.read(iova, new Uint8Array(1))
    machine.command(INVALIDATE_IOTLB_PAGES | 1n, 0x6000n)
    expect(endpoint.cached).toBe(3)
    machine.command(INVALIDATE_IOTLB_PAGES | 1n, 0x5000n | 1n)
    expect(endpoint.cached).toBe(1)
  })

  it("pKVM-IA#84: an ATC that is never flushed goes on with the old page", () => {
    const { machine, level1 } = mapped({ 4: page(0x30_0000n) })
    const { model, memory } = machine
    const endpoint = new Endpoint({ model, memory, device: 1, ats: true })
    endpoint.write(0x4000n, Uint8Array.of(1))
    machine.set(level1, { 4: 0n })
    machine.command((3n << 60n) | (5n << 32n), 0x4000n)
    expect(endpoint.write(0x4000n, Uint8Array.of(2)).kind).toBe("done")
    machine.command(INVALIDATE_IOTLB_PAGES | 1n, 0x4000n)
    expect(endpoint.write(0x4000n, Uint8Array.of(3)).kind).toBe("refused")
    expect(memory.read(0x30_0000n, 1)).toEqual(Uint8Array.of(2))
  })

  it("CVE-2026-43130: an invalidation for a device that is gone locks the machine up", () => {
    const { machine } = mapped({}, ON | (1n << 5n))
    const { model, memory } = machine
    const endpoint = new Endpoint({ model, memory, device: 1, ats: true })
    endpoint.answersInvalidations = false
    machine.command(INVALIDATE_IOTLB_PAGES | 1n, 0x4000n)
    machine.command(COMPLETION_WAIT | 1n | 0x8000n, 0x5an)
    expect(memory.read64(0x8000n)).toBe(0x5an)
    expect(machine.events()).toEqual([[0x7000_0000_0000_0001n, CMDBUF]])
  })
})

describe("tables", () => {
  it("qemu 2025: widths of addresses in miscellaneous information register 0 in each other's place", () => {
    // GVAsize 010b at bit 5, PAsize at bit 8, VAsize at bit 15.
    const { mmio } = new Machine().model
    expect(mmio.read32(0x150)).toBe((2 << 5) | (52 << 8) | (64 << 15))
    expect(new Machine({ extFeatures: 0n }).model.mmio.read32(0x150)).toBe((52 << 8) | (48 << 15))
  })

  it("qemu 2025: devices on another bus than 0 looked up under the wrong number", () => {
    const { machine } = mapped({ 4: page(0x30_0000n) })
    machine.dte(0xff01, DTE_V | DTE_TV | IRW, 9n, 0n, 0n)
    expect(machine.read(1, 0x4000n)).toMatchObject({ ok: true, pa: 0x30_0000n })
    expect(machine.read(0xff01, 0x4000n)).toMatchObject({ ok: true, pa: 0x4000n })
    machine.dte(0x0101, DTE_V | DTE_TV, 7n, 0n, 0n)
    expect(faultOf(machine.read(0x0101, 0x4000n)).record).toEqual([0x2050_0007_0000_0101n, 0x4000n])
  })

  it("qemu 2025: addresses of 64 bits cut to fewer in a look-up", () => {
    const { machine } = mapped({ 4: page(0x30_0000n) })
    for (const high of [bit(32), bit(36), bit(52), bit(63)]) {
      expect(machine.read(1, 0x4000n).ok).toBe(true)
      expect(machine.read(1, high | 0x4000n).ok).toBe(false)
    }
  })

  it("genode#5002, asterinas#1963: tables of other levels than the hardware has", () => {
    const machine = new Machine({ extFeatures: QEMU_11 & ~(3n << 10n) })
    machine.hostDevice(1, 5, machine.table())
    expect(faultOf(machine.read(1, 0n)).reason).toBe("ILLEGAL_DEV_TABLE_ENTRY")
  })

  it("Xen: improper large page mappings: a replicated page is one page wherever it is entered", () => {
    const entry = sized(0x40_0000n, 0x1_0000n)
    const { machine } = mapped(Object.fromEntries(Array.from({ length: 16 }, (_, n) => [n, entry])))
    for (let n = 0n; n < 16n; n++) {
      expect(machine.read(1, (n << 12n) | 0x10n)).toMatchObject({
        ok: true,
        pa: 0x40_0000n | (n << 12n) | 0x10n,
        size: 0x1_0000n,
      })
    }
  })

  it("zephyr#107274: a permission fault that cannot be told from a page that is not there", () => {
    const { machine } = mapped({ 4: page(0x30_0000n, bit(61)) })
    expect([flagsOf(machine.write(1, 0x4000n)), flagsOf(machine.write(1, 0x5000n))]).toEqual([0x070n, 0x020n])
  })

  it("dmar_fault_dump_ptes, 2024: a missing table of the device reported as a missing page", () => {
    const machine = new Machine()
    machine.dte(1, DTE_V, 5n, 0n, 0n)
    const fault = faultOf(machine.read(1, 0x4000n))
    expect([fault.stage, fault.detail]).toEqual([0, expect.stringContaining("no translation")])
  })
})

describe("drivers", () => {
  it("CVE-2026-31735: unmapping inside a large mapping flushes less than it unmaps", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 511 }), fc.integer({ min: 1, max: 512 }), (first, count) => {
        const host = new Host()
        const device = host.device(5)
        const domain = host.alloc(device)
        domain.attachDev(device)
        domain.map(0x20_0000n, 0x40_0000n, 0x20_0000n, READ_WRITE)
        for (let n = 0n; n < 512n; n++) host.dma(device, 0x20_0000n + (n << 12n))
        const unmapped = domain.unmap(
          0x20_0000n + BigInt(first) * 0x1000n,
          BigInt(Math.min(count, 512 - first)) * 0x1000n,
        )
        const answers = Array.from({ length: 512 }, (_, n) =>
          host.dma(device, 0x20_0000n + (BigInt(n) << 12n)),
        )
        const present = answers.filter(pa => pa !== null).length
        expect(present).toBe(512 - Number(unmapped >> 12n))
      }),
      { seed: 31735, numRuns: 30 },
    )
  })

  it("CVE-2026-45894, CVE-2026-45944: an entry torn down while the hardware may use it", () => {
    const host = new Host()
    const device = host.device(5)
    const domain = host.alloc(device)
    const before = host.entry(device)
    domain.attachDev(device)
    const attached = host.entry(device)
    const states = host.entryStates(device, () => host.ops.blockedDomain?.attachDev(device))
    const legal = [before, attached].map(words => words.slice(0, 2).join())
    const refusing = (words: bigint[]): boolean => ((words[0] as bigint) & (3n << 61n)) === 0n
    for (const words of states) {
      expect((words[0] as bigint) & (DTE_V | DTE_TV)).toBe(DTE_V | DTE_TV)
      expect(refusing(words) || legal.includes(words.slice(0, 2).join())).toBe(true)
    }
  })

  it("CVE-2025-71202: stale translations after the pages of tables were freed", () => {
    const host = new Host()
    const device = host.device(5)
    const domain = host.alloc(device)
    domain.attachDev(device)
    domain.map(0x4000_0000n, 0x40_0000n, 0x1000n, READ_WRITE)
    expect(host.dma(device, 0x4000_0000n)).toBe(0x40_0000n)
    domain.unmap(0x4000_0000n, 0x1000n)
    domain.map(0x4000_0000n, 0x80_0000n, 0x20_0000n, READ_WRITE)
    expect(host.dma(device, 0x4000_0000n)).toBe(0x80_0000n)
  })

  it("CVE-2026-43220: completion numbers out of the order of the buffer", () => {
    const host = new Host()
    const stores: bigint[] = []
    const write64 = host.memory.write64.bind(host.memory)
    const base = host.model.mmio.read64(REG.CMDBUF_BASE) & 0x000f_ffff_ffff_f000n
    host.memory.write64 = (address, value) => {
      write64(address, value)
      const offset = BigInt(address) - base
      const isWait = offset >= 8n && offset < 0x2000n && offset % 16n === 8n
      if (isWait && host.memory.read64(BigInt(address) - 8n) >> 60n === 1n) stores.push(BigInt(value))
    }
    const devices = [5, 6, 7].map(id => host.device(id))
    for (const device of devices) host.alloc(device).attachDev(device)
    expect(stores.length).toBeGreaterThan(2)
    expect(stores).toEqual([...stores].sort((a, b) => (a < b ? -1 : 1)))
  })

  it("XSA-442, vtd 2026: a device moves to another domain and the old translation stays", () => {
    const host = new Host()
    const device = host.device(5)
    const [old, next] = [host.alloc(device), host.alloc(device)]
    old.map(0x1000n, 0x40_0000n, 0x1000n, READ_WRITE)
    next.map(0x1000n, 0x41_0000n, 0x1000n, READ_WRITE)
    old.attachDev(device)
    expect(host.dma(device, 0x1000n)).toBe(0x40_0000n)
    next.attachDev(device)
    expect(host.dma(device, 0x1000n)).toBe(0x41_0000n)
  })

  it("seL4#1729, asterinas#3920: a page that was not there is mapped, and the refusal stays cached", () => {
    const host = new Host()
    const device = host.device(5)
    const domain = host.alloc(device)
    domain.attachDev(device)
    expect(host.dma(device, 0x7000n)).toBeNull()
    domain.map(0x7000n, 0x40_0000n, 0x1000n, READ_WRITE)
    expect(host.dma(device, 0x7000n)).toBe(0x40_0000n)
  })

  it("pKVM-IA#86: a device with ATS whose unmaps do not reach its cache", () => {
    const host = new Host()
    const device = host.device(5, { ats: true })
    const domain = host.alloc(device)
    domain.attachDev(device)
    domain.map(0x7000n, 0x40_0000n, 0x1000n, READ_WRITE)
    const { model, memory } = host
    const endpoint = new Endpoint({ model, memory, device: 5, ats: true })
    endpoint.write(0x7000n, Uint8Array.of(1))
    expect(endpoint.cached).toBe(1)
    domain.unmap(0x7000n, 0x1000n)
    expect(endpoint.cached).toBe(0)
    expect(endpoint.write(0x7000n, Uint8Array.of(1)).kind).toBe("refused")
  })

  it("pKVM-IA#91: MMIO writes of anything at all keep the model in order", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(0x3fff), fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }))),
        writes => {
          const { machine } = mapped({ 4: page(0x30_0000n) })
          for (const [offset, value] of writes) machine.model.mmio.write64(offset & ~7, value)
          const status = machine.model.translate(1, NO_PASID, hi32(0x4000n), lo32(0x4000n), 1)
          if (status !== 0) expect(machine.model.result.fault?.detail.length).toBeGreaterThan(0)
        },
      ),
      { seed: 91, numRuns: 100 },
    )
  })
})
