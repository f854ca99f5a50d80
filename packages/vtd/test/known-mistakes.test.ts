/**
 * Mistakes that others made in IOMMU models, drivers and page tables between 2020 and 2026, as far as they can be made
 * with Intel VT-d: each has a test by its name. The threads are named as repository#number or CVE.
 * CVE-2026-45894 and CVE-2026-45944 (entries torn down while present) are in attach.test.ts, for every kind of entry.
 */
import {
  ACCESS_READ,
  ACCESS_WRITE,
  DirtyBitmap,
  Endpoint,
  IOMMU_READ,
  IOMMU_WRITE,
  NO_PASID,
  PAGING_DIRTY_TRACKING,
  PageTableFormatId,
  pagingParameters,
} from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { EVERYTHING, LEGACY_ONLY, type VtdCapabilities } from "../src/model/options.ts"
import { ECAP } from "../src/spec/registers.ts"
import { capabilities, machine, type TestMachine } from "./driver-machine.ts"
import { CONTEXT, GCMD, PASID_TABLE, SCALABLE, TE, Unit } from "./unit.ts"

const RW = IOMMU_READ | IOMMU_WRITE
const SS = PageTableFormatId.VTD_SECOND_STAGE
const FS = PageTableFormatId.X86_64_FIRST_STAGE
const IOVA = 0x1234_5678_9000n
const PAGE = 0x7f_5000n
const OTHER = 0x7e_5000n
const AW4 = 2n << 2n
const SECOND = 2n << 6n
const QUEUE = 0x1_0000n
const STATUS = 0x2_0000n
const FSTS = 0x34
const IQT = 0x88
const QIE = 1 << 26

function enableQueue(unit: Unit): void {
  const { mmio } = unit.model
  mmio.write64(0x90, QUEUE | 0x800n)
  mmio.write32(GCMD, ((mmio.read32(0x1c) & TE) | QIE) >>> 0)
}

function submit(unit: Unit, ...descriptors: readonly (readonly bigint[])[]): void {
  let tail = unit.model.mmio.read64(IQT)
  for (const words of descriptors) {
    unit.put(QUEUE + tail, ...[0, 1, 2, 3].map(i => words[i] ?? 0n))
    tail += 32n
  }
  unit.model.mmio.write64(IQT, tail)
}

/** Scalable mode behind a second stage, with caches that forget nothing by themselves; domain 5. */
function hoarding(caps: VtdCapabilities = EVERYTHING): { unit: Unit; root: bigint; leaf: bigint } {
  const unit = new Unit(caps, 52, "hoard")
  const root = unit.page()
  const leaf = unit.mapSecond(root, 4, IOVA, PAGE | 3n)[3] as bigint
  unit.scalable(root | 1n | AW4 | SECOND, 5n)
  enableQueue(unit)
  return { unit, root, leaf }
}

function withCap(bits: bigint): VtdCapabilities {
  return { ...EVERYTHING, cap: EVERYTHING.cap | bits }
}

/** CAP.CM. */
const CM = 1n << 7n
const IOTLB_GLOBAL: readonly bigint[] = [2n | (1n << 4n)]

describe("the model's registers and queue", () => {
  it("openvmm#3697: the interrupt flag of a wait is bit 4, not bit 7", () => {
    const { unit } = hoarding()
    submit(unit, [5n | (1n << 7n)])
    expect(unit.model.mmio.read32(0x9c)).toBe(0)
    submit(unit, [5n | (1n << 4n)])
    expect(unit.model.mmio.read32(0x9c)).toBe(1)
  })

  it("openvmm#3873: PT and SC are advertised, and work, where everything is", () => {
    expect([ECAP.get([EVERYTHING.ecap], "PT"), ECAP.get([EVERYTHING.ecap], "SC")]).toEqual([1n, 1n])
    const unit = new Unit()
    unit.scalable(1n | AW4 | (4n << 6n), 5n | (1n << 24n))
    expect(unit.code(IOVA)).toBe(0)
  })

  it("qemu, August 2025: status write and interrupt flag in one wait are both served", () => {
    const { unit } = hoarding()
    submit(unit, [5n | (3n << 4n) | (0x77n << 32n), STATUS])
    expect([unit.get(STATUS), unit.model.mmio.read32(0x9c)]).toEqual([0x77n, 1])
  })

  it("qemu, June 2026, and pKVM-IA#91: accesses of 8 bytes to any offset, with any value, do no harm", () => {
    const { mmio } = new Unit().model
    for (let offset = 0; offset < 0x1008; offset++) {
      for (const value of [0n, 0xffff_ffff_ffff_ffffn]) {
        mmio.write64(offset, value)
        mmio.read64(offset)
      }
    }
    expect(mmio.read64(8)).toBe(EVERYTHING.cap)
  })

  it("asterinas#3920: ESRTPS = 0 keeps what was cached under the old root table, ESRTPS = 1 drops it", () => {
    const esrtps = 1n << 63n
    for (const [caps, reached] of [
      [{ ...EVERYTHING, cap: EVERYTHING.cap & ~esrtps }, PAGE],
      [EVERYTHING, null],
    ] as const) {
      const { unit } = hoarding(caps)
      expect(unit.dma(IOVA)).toMatchObject({ ok: true, pa: PAGE })
      const empty = unit.page()
      unit.model.mmio.write64(0x20, empty | SCALABLE)
      unit.model.mmio.write32(GCMD, ((1 << 30) | QIE | TE) >>> 0)
      const outcome = unit.dma(IOVA)
      expect(outcome.ok ? outcome.pa : null).toBe(reached)
    }
  })
})

describe("fault records", () => {
  it("qemu, July 2024: a PASID in the record destroys nothing beside it", () => {
    const unit = new Unit()
    unit.scalable(0n)
    unit.set(CONTEXT, 8n | (7n << 9n))
    expect(unit.code(0xffff_ffff_ffff_f123n, ACCESS_READ, 0xfffff, 0x0000)).not.toBe(0)
    const [low, high] = [unit.model.mmio.read64(0x220), unit.model.mmio.read64(0x228)]
    expect(low).toBe(0x01ff_ffff_ffff_f000n)
    // F, T1, PV 0xfffff, SPD.2, PP; nothing else.
    expect(high).toBe(0xcfff_ff51_8000_0000n)
  })

  it("qemu, May 2026: a request without PASID has none in its record, whatever RID_PASID is", () => {
    const unit = new Unit()
    unit.scalable(0n)
    unit.put(CONTEXT + 8n, 0x15n)
    expect(unit.code(IOVA)).toBe(0x59)
    expect(unit.model.mmio.read64(0x228)).toBe(0xc000_0059_0000_0000n)
    const fault = unit.model.result.fault
    expect(fault?.pasid).toBeNull()
  })

  it("genode#5002: the reason tells a wrong AW from a table that is missing", () => {
    const unit = new Unit(LEGACY_ONLY)
    const root = unit.page()
    unit.mapSecond(root, 3, 0x1000n, PAGE | 3n)
    unit.legacy(root | 1n, 1n)
    expect(unit.dma(0x1000n)).toMatchObject({ ok: true, pa: PAGE })
    // The same 3-level tables called 4-level ones, and an AW that SAGAW lacks.
    unit.legacy(root | 1n, 2n)
    expect(unit.dma(0x1000n)).toMatchObject({ ok: false })
    unit.legacy(root | 1n, 3n)
    expect(unit.dma(0x1000n)).toMatchObject({ ok: false, fault: { reason: "LCT.4" } })
  })
})

describe("caches: what an invalidation drops, and what it does not", () => {
  it("qemu, October 2025: PASID entries are cached until a PASID-cache invalidation", () => {
    const { unit } = hoarding()
    expect(unit.code(IOVA)).toBe(0)
    unit.put(PASID_TABLE, 0n)
    submit(unit, IOTLB_GLOBAL)
    expect(unit.code(IOVA)).toBe(0)
    // PASID 0 within domain 5, then the IOTLB (§6.5.2.2).
    submit(unit, [7n | (1n << 4n) | (5n << 16n)], IOTLB_GLOBAL)
    expect(unit.code(IOVA)).toBe(0x59)
  })

  it("qemu, 2021: a page-selective invalidation drops 2^AM pages, no fewer and no more", () => {
    for (let am = 0n; am < 4n; am++) {
      const { unit, root } = hoarding()
      const pages = Array.from({ length: 24 }, (_, n) => 0x4000_0000n + BigInt(n) * 0x1000n)
      const leaves = pages.map(iova => unit.mapSecond(root, 4, iova, PAGE | 3n)[3] as bigint)
      for (const iova of pages) unit.dma(iova)
      for (const leaf of leaves) unit.put(leaf, OTHER | 3n)
      submit(unit, [2n | (3n << 4n) | (5n << 16n), 0x4000_8000n | am])
      const dropped = pages.map(iova => unit.dma(iova)).map(found => found.ok && found.pa === OTHER)
      expect(dropped).toEqual(pages.map((_, n) => n >= 8 && n < 8 + 2 ** Number(am)))
    }
  })

  it("seL4#1729, asterinas#3920: in caching mode what was not present stays so until it is invalidated", () => {
    for (const caching of [true, false]) {
      const { unit, leaf } = hoarding(caching ? withCap(CM) : EVERYTHING)
      unit.put(leaf, 0n)
      expect(unit.code(IOVA)).toBe(0x79)
      unit.put(leaf, PAGE | 3n)
      expect(unit.code(IOVA)).toBe(caching ? 0x79 : 0)
      submit(unit, [2n | (3n << 4n) | (5n << 16n), IOVA])
      expect(unit.code(IOVA)).toBe(0)
    }
  })

  it("seL4#1729: unmapping without an invalidation leaves the page to the device", () => {
    const { unit, leaf } = hoarding()
    expect(unit.code(IOVA)).toBe(0)
    unit.put(leaf, 0n)
    expect(unit.code(IOVA)).toBe(0)
    submit(unit, [2n | (3n << 4n) | (5n << 16n), IOVA])
    expect(unit.code(IOVA)).toBe(0x79)
  })

  it('"Flush piotlb for SVM and Nested domain": first-stage translations want a domain or PASID, not a page', () => {
    const unit = new Unit(EVERYTHING, 52, "hoard")
    const root = unit.page()
    const leaf = unit.mapFirst(root, 4, IOVA, PAGE | 0x67n)[3] as bigint
    unit.scalable(1n | (1n << 6n), 5n | (1n << 23n), root)
    enableQueue(unit)
    expect(unit.code(IOVA)).toBe(0)
    unit.put(leaf, 0n)
    // A device-granular flush of the context-cache evicts no PASID-tagged translation.
    submit(unit, [1n | (3n << 4n)])
    expect(unit.code(IOVA)).toBe(0)
    submit(unit, [6n | (2n << 4n) | (5n << 16n)])
    expect(unit.code(IOVA)).toBe(0x71)
  })
})

function attached(m: TestMachine, format: number, options: Parameters<TestMachine["device"]>[1] = {}) {
  const device = m.device(0x0010, options)
  const domain = m.driver.domainAllocUser(device, null, pagingParameters({ format }))
  domain.attachDev(device)
  return { device, domain }
}

describe("the driver, against caches that forget nothing", () => {
  it.each([
    ["second stage", SS],
    ["first stage", FS],
  ])("CVE-2026-31735, %s: unmapping inside a large mapping flushes no less than it unmaps", (_, format) => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 511 }), fc.integer({ min: 1, max: 512 }), (first, count) => {
        const m = machine()
        const { device, domain } = attached(m, format)
        domain.map(0x4000_0000n, 0x40_0000n, 0x20_0000n, RW)
        for (let n = 0n; n < 512n; n += 7n) m.dma(device, 0x4000_0000n + (n << 12n))
        const length = BigInt(Math.min(count, 512 - first)) << 12n
        const unmapped = domain.unmap(0x4000_0000n + (BigInt(first) << 12n), length)
        const present = Array.from({ length: 512 }, (_, n) =>
          m.dma(device, 0x4000_0000n + (BigInt(n) << 12n)),
        )
        expect(present.filter(pa => pa !== null)).toHaveLength(512 - Number(unmapped >> 12n))
      }),
      { seed: 31735, numRuns: 20 },
    )
  })

  it.each([
    ["second stage", SS],
    ["first stage", FS],
  ])("CVE-2025-71202, %s: no walk goes through the pages of tables that were freed", (_, format) => {
    const m = machine()
    const { device, domain } = attached(m, format)
    domain.map(0x4000_0000n, 0x40_0000n, 0x1000n, RW)
    expect(m.dma(device, 0x4000_0000n)).toBe(0x40_0000n)
    domain.unmap(0x4000_0000n, 0x1000n)
    domain.map(0x4000_0000n, 0x80_0000n, 0x20_0000n, RW)
    expect(m.dma(device, 0x4000_1000n)).toBe(0x80_1000n)
    expect(m.dma(device, 0x4000_0000n)).toBe(0x80_0000n)
  })

  it("CVE-2026-43130: an invalidation for a device that is gone ends in an errno, not in a lock-up", () => {
    const m = machine()
    const { device, domain } = attached(m, SS, { ats: true })
    const endpoint = new Endpoint({ model: m.model, memory: m.memory, device: device.id, ats: true })
    domain.map(0x4000_0000n, 0x40_0000n, 0x2000n, RW)
    expect(endpoint.write(0x4000_0000n, Uint8Array.of(1))).toEqual({ kind: "done" })
    endpoint.answersInvalidations = false
    expect(() => domain.unmap(0x4000_0000n, 0x1000n)).toThrow(expect.objectContaining({ code: "EIO" }))
    expect(m.model.mmio.read32(FSTS) & 0x70).toBe(0)
    endpoint.answersInvalidations = true
    expect(domain.unmap(0x4000_1000n, 0x1000n)).toBe(0x1000n)
  })

  it("pKVM-IA#84: ATS that is on when the device attaches is flushed when pages go", () => {
    const m = machine()
    const { device, domain } = attached(m, SS, { ats: true })
    const endpoint = new Endpoint({ model: m.model, memory: m.memory, device: device.id, ats: true })
    domain.map(0x4000_0000n, 0x40_0000n, 0x1000n, RW)
    endpoint.write(0x4000_0000n, Uint8Array.of(1))
    expect(endpoint.cached).toBe(1)
    domain.unmap(0x4000_0000n, 0x1000n)
    expect(endpoint.cached).toBe(0)
    expect(endpoint.write(0x4000_0000n, Uint8Array.of(2)).kind).toBe("refused")
  })

  it("asterinas#1963: tables have the levels that SAGAW has", () => {
    const m = machine(capabilities({ cap: { SAGAW: 0b00100n } }), { mode: "legacy" })
    const { device, domain } = attached(m, SS)
    domain.map(0x4000_0000n, 0x40_0000n, 0x1000n, RW)
    expect(m.dma(device, 0x4000_0000n)).toBe(0x40_0000n)
  })

  it("asterinas#2090: an RMRR is named for whom it concerns, and the display's device reaches it one to one", () => {
    const rmrr = { type: "direct", start: 0x80_0000n, last: 0x80_ffffn } as const
    const m = machine(EVERYTHING, { reservedRegions: [{ ...rmrr, devices: [0x0010] }] })
    const { device, domain } = attached(m, SS)
    const regions = m.driver.reservedRegions(device).filter(({ type }) => type === "direct")
    expect(regions).toEqual([rmrr])
    expect(m.driver.reservedRegions(m.device(0x0018)).some(({ type }) => type === "direct")).toBe(false)
    expect(m.dma(device, rmrr.start)).toBeNull()
    for (const { start, last } of regions) domain.map(start, start, last + 1n - start, RW)
    expect([m.dma(device, rmrr.start), m.dma(device, rmrr.last)]).toEqual([rmrr.start, rmrr.last])
  })

  it("asterinas#3920: IQE is looked at before it is cleared", () => {
    const m = machine()
    const { device, domain } = attached(m, SS)
    domain.map(0x4000_0000n, 0x40_0000n, 0x2000n, RW)
    m.dma(device, 0x4000_0000n)
    // The next descriptor is destroyed in memory after it was written, before the hardware reads it.
    const { write32 } = m.model.mmio
    const base = m.model.mmio.read64(0x90) & ~0xfffn
    let spoils = true
    m.model.mmio.write32 = function (offset, value) {
      if (offset === IQT && spoils) {
        spoils = false
        m.memory.write64(base + (m.model.mmio.read64(0x80) & 0xfffffn), 0xfn)
      }
      write32.call(this, offset, value)
    }
    expect(() => domain.unmap(0x4000_0000n, 0x1000n)).toThrow(expect.objectContaining({ code: "EIO" }))
    expect(m.model.mmio.read32(FSTS) & 0x10).toBe(0)
  })

  it("cloud-hypervisor#8567: a mapping that is made after tracking began is in the dirty log", () => {
    const m = machine()
    const device = m.device(0x0010)
    const domain = m.driver.domainAllocUser(
      device,
      null,
      pagingParameters({ format: SS, flags: PAGING_DIRTY_TRACKING }),
    )
    domain.attachDev(device)
    domain.dirty?.setDirtyTracking(true)
    domain.map(0x4000_0000n, 0x40_0000n, 0x4000n, RW)
    m.dma(device, 0x4000_2000n, ACCESS_WRITE)
    const dirty = new DirtyBitmap(0x4000_0000n, 0x4000n, 0x1000n)
    domain.dirty?.readAndClearDirty(dirty)
    expect([dirty.count, dirty.has(0x4000_2000n)]).toEqual([1, true])
  })

  it("cloud-hypervisor#6284: two devices on one domain, and one domain after another, see what is theirs", () => {
    const m = machine()
    const { device, domain } = attached(m, SS)
    const other = m.device(0x0018)
    domain.attachDev(other)
    domain.map(0x4000_0000n, 0x40_0000n, 0x1000n, RW)
    expect([m.dma(device, 0x4000_0000n), m.dma(other, 0x4000_0000n)]).toEqual([0x40_0000n, 0x40_0000n])
    const second = m.driver.domainAllocUser(other, null, pagingParameters({ format: SS }))
    second.attachDev(other)
    expect([
      m.dma(device, 0x4000_0000n, ACCESS_WRITE),
      m.dma(other, 0x4000_0000n, ACCESS_READ, NO_PASID),
    ]).toEqual([0x40_0000n, null])
  })
})
