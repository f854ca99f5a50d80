/** Fault records read by the driver, coherency and reserved regions. Intel VT-d 5.10 (D51397-018) §7.2, §7.3, §9.6, §9.8. */
import {
  ACCESS_WRITE,
  IOMMU_READ,
  IOMMU_WRITE,
  iommuDevice,
  iommuDomainFree,
  pagingParameters,
} from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { LEGACY_ONLY, SECOND_STAGE_ONLY, SNOOPED, vtdDriver } from "../src/index.ts"
import { capabilities, machine } from "./driver-machine.ts"

const RW = IOMMU_READ | IOMMU_WRITE
const [FSTS, PQH, PQT, PRS, PQA] = [0x34, 0xc0, 0xc8, 0xdc, 0xd0]
/** CAP.FRO and CAP.NFR, typed from §11.4.2. */
const recordsOf = (cap: bigint) => ({
  at: Number((cap >> 24n) & 0x3ffn) * 16,
  count: Number((cap >> 40n) & 0xffn) + 1,
})

describe("fault records", () => {
  it("are read in the order in which they came, and make room for others (§7.2.1)", () => {
    const m = machine(capabilities({ cap: { NFR: 3n } }))
    const device = m.device(0x0310)
    m.driver.domainAllocUser(device, null, null).attachDev(device)
    for (let round = 0; round < 3; round++) {
      for (const page of [3n, 1n, 2n]) m.dma(device, page << 12n, ACCESS_WRITE)
      expect(m.driver.handleInterrupts()).toBe(3)
      // FI is the page, bits 63:12 of the first word; SID in bits 15:0 of the second.
      expect(
        m.events.splice(0).map(({ words: [fi = 0n, info = 0n] }) => [fi >> 12n, info & 0xffffn]),
      ).toEqual([
        [3n, 0x0310n],
        [1n, 0x0310n],
        [2n, 0x0310n],
      ])
      expect(m.model.mmio.read32(FSTS) & 3).toBe(0)
    }
  })

  it("name reason and device", () => {
    const m = machine()
    const device = m.device(0x0310)
    m.driver.domainAllocUser(device, null, null).attachDev(device)
    m.dma(device, 0x5000n)
    m.driver.handleInterrupts()
    expect(m.events).toMatchObject([{ name: "SFS.2", device: 0x0310 }])
    expect(m.events[0]?.words).toEqual(m.model.result.fault?.record)
  })

  it("that overflowed are acknowledged, and the next are recorded", () => {
    const m = machine(capabilities({ cap: { NFR: 1n } }))
    const device = m.device(0x0310)
    m.driver.domainAllocUser(device, null, null).attachDev(device)
    for (let page = 1n; page < 6n; page++) m.dma(device, page << 12n)
    expect(m.model.mmio.read32(FSTS) & 1).toBe(1)
    expect(m.driver.handleInterrupts()).toBe(2)
    expect(m.model.mmio.read32(FSTS) & 3).toBe(0)
    m.dma(device, 0x9000n)
    expect(m.driver.handleInterrupts()).toBe(1)
  })
})

describe("event messages", () => {
  it("say once that there is something to read, and again after it was read", () => {
    const m = machine(undefined, { interrupt: { address: 0x1_fee0_1000n, data: 0x51 } })
    const sent: unknown[] = []
    m.model.onInterrupt = (address, data) => sent.push([address, data])
    const device = m.device(0x0310, { ats: true })
    const domain = m.driver.domainAllocUser(device, null, null)
    domain.pageFaultHandler = () => {}
    domain.attachDev(device)
    for (let round = 1; round <= 2; round++) {
      for (let page = 1n; page <= 3n; page++) m.dma(device, page << 12n)
      expect(sent).toEqual(Array(2 * round - 1).fill([0x1_fee0_1000n, 0x51]))
      const rights = { read: true, write: false, execute: false, privileged: false }
      m.model.pageRequest({
        ...rights,
        device: 0x0310,
        pasid: null,
        address: 0x7000n,
        last: true,
        group: round,
      })
      expect(sent).toHaveLength(2 * round)
      expect(m.driver.handleInterrupts()).toBe(4)
    }
  })
})

describe("registers of a machine that cannot be trusted", () => {
  it("lead to each record and each entry of the queue once at most", () => {
    const m = machine()
    const { at, count } = recordsOf(m.model.mmio.read64(0x8))
    const hostile = new Map<number, number>()
    const { mmio } = m.model
    const driver = vtdDriver({
      memory: m.memory,
      pages: m.pages,
      mmio: {
        read32: offset => hostile.get(offset) ?? mmio.read32(offset),
        read64: offset => mmio.read64(offset),
        write32: (offset, value) => mmio.write32(offset, value),
        write64: (offset, value) => mmio.write64(offset, value),
      },
    })
    driver.probeDevice(iommuDevice({ id: 0x0300, account: m.owner }))
    const base = mmio.read64(PQA) & ~0xfffn
    const word = fc.nat(0xffff_ffff)
    const content = fc.array(fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), { minLength: 8, maxLength: 8 })
    fc.assert(
      fc.property(content, fc.array(word, { minLength: 5, maxLength: 5 }), (entry, values) => {
        for (let i = 0; i < 512; i++) m.memory.write64(base + BigInt(i * 8), entry[i % 8] as bigint)
        for (const [i, register] of [FSTS, PQH, PQT, PRS].entries())
          hostile.set(register, values[i] as number)
        for (let n = 0; n < count; n++) hostile.set(at + n * 16 + 12, values[4] as number)
        // IQE, ICE and ITE belong to the invalidation queue, which would report them.
        hostile.set(FSTS, (values[0] as number) & ~0x70)
        expect(driver.handleInterrupts()).toBeLessThanOrEqual(count + 127)
      }),
      { seed: 13, numRuns: 200 },
    )
  })
})

describe("coherency", () => {
  const snoops = (m: ReturnType<typeof machine>): boolean =>
    ((m.model.result.attributes ?? 0) & SNOOPED) !== 0

  it.each([
    ["first stage", capabilities({}), 2],
    ["second stage", SECOND_STAGE_ONLY, 1],
    ["legacy mode", LEGACY_ONLY, 1],
  ])("is enforced in %s for all DMA, with devices attached or not", (_, hardware, format) => {
    const withSnoopControl = { ...hardware, ecap: hardware.ecap | (1n << 7n) }
    const m = machine(withSnoopControl)
    const [device, later] = [m.device(0x0310), m.device(0x0318)]
    const domain = m.driver.domainAllocUser(device, null, pagingParameters({ format }))
    domain.attachDev(device)
    expect(domain.enforceCacheCoherency?.()).toBe(true)
    domain.map(0x5000n, 0x5000n, 0x1000n, RW)
    domain.attachDev(later)
    for (const each of [device, later]) {
      expect(m.dma(each, 0x5000n)).toBe(0x5000n)
      expect(snoops(m)).toBe(true)
    }
    expect(m.driver.capable(device, "ENFORCE_CACHE_COHERENCY")).toBe(true)
  })

  it("comes into live entries of scalable mode, nested ones included", () => {
    const m = machine(capabilities({ ecap: { SC: 1n } }))
    const device = m.device(0x0310)
    const parent = m.driver.domainAllocUser(device, null, pagingParameters({ flags: 1 }))
    parent.map(0n, 0n, 0x10_0000n, RW)
    const table = (at: bigint, entry: bigint) => m.memory.write64(at, entry)
    table(0x1000n, 0x2007n)
    table(0x2000n, 0x3007n)
    table(0x3000n, 0x4007n)
    table(0x4000n + 5n * 8n, 0x9007n)
    const data = { type: 1, flags: 0n, pgtblAddr: 0x1000n, addrWidth: 48, __reserved: 0 } as const
    m.driver.domainAllocUser(device, parent, data).attachDev(device)
    expect(m.dma(device, 0x5000n)).toBe(0x9000n)
    expect(snoops(m)).toBe(false)
    expect(parent.enforceCacheCoherency?.()).toBe(true)
    expect(m.dma(device, 0x5000n)).toBe(0x9000n)
    expect(snoops(m)).toBe(true)
  })

  it("is too late for leaves that are there already, in legacy mode", () => {
    const m = machine({ ...LEGACY_ONLY, ecap: LEGACY_ONLY.ecap | (1n << 7n) })
    const device = m.device(0x0310)
    const domain = m.driver.domainAllocUser(device, null, null)
    domain.map(0x5000n, 0x5000n, 0x1000n, RW)
    expect(domain.enforceCacheCoherency?.()).toBe(false)
    domain.unmap(0x5000n, 0x1000n)
    iommuDomainFree(domain)
    expect(m.owner.usagePages).toBe(0)
  })

  it("is not to be had without snoop control (ECAP.SC)", () => {
    const m = machine(capabilities({ ecap: { SC: 0n } }))
    const device = m.device(0x0310)
    expect(m.driver.domainAllocUser(device, null, null).enforceCacheCoherency?.()).toBe(false)
    expect(m.driver.capable(device, "ENFORCE_CACHE_COHERENCY")).toBe(false)
  })
})

describe("reserved regions", () => {
  it("are the interrupt address range, and what the DMAR table reserves for the device", () => {
    const rmrr = { type: "direct", start: 0x9000_0000n, last: 0x9000_ffffn } as const
    const m = machine(undefined, { reservedRegions: [{ ...rmrr, devices: [0x0310] }] })
    const window = { type: "msi", start: 0xfee0_0000n, last: 0xfeef_ffffn }
    expect(m.driver.reservedRegions(m.device(0x0310))).toEqual([window, rmrr])
    expect(m.driver.reservedRegions(m.device(0x0318))).toEqual([window])
  })
})
