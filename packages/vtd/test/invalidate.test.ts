/** Which invalidations the hardware sees for which change: neither too narrow nor too wide. */
import {
  ACCESS_WRITE,
  type CacheInvalidateData,
  DirtyBitmap,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PageTableFormatId,
  type PagingDomain,
  pagingParameters,
} from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { LEGACY_ONLY } from "../src/index.ts"
import { capabilities, machine, summary, type TestMachine } from "./driver-machine.ts"

const RW = IOMMU_READ | IOMMU_WRITE
const SS = PageTableFormatId.VTD_SECOND_STAGE
const KIB4 = 0x1000n
const MIB2 = 0x20_0000n
const GIB1 = 0x4000_0000n

function paging(m: TestMachine, device: IommuDevice, given: Parameters<typeof pagingParameters>[0] = {}) {
  return m.driver.domainAllocUser(device, null, pagingParameters(given))
}

function nestedOver(m: TestMachine, device: IommuDevice, parent: PagingDomain) {
  const data = { type: 1, flags: 0n, pgtblAddr: 0x1000n, addrWidth: 48, __reserved: 0 } as const
  return m.driver.domainAllocUser(device, parent, data)
}

function attached(m: TestMachine, given = {}, options = {}) {
  const device = m.device(0x0010, options)
  const domain = paging(m, device, given)
  domain.attachDev(device)
  return { device, domain }
}

describe("second stage", () => {
  it("one descriptor for a page that goes, leaf only, with the drains that the hardware has", () => {
    const m = machine()
    const { domain } = attached(m, { format: SS })
    domain.map(GIB1, 0n, KIB4 * 2n, RW)
    const seen = m.during(() => domain.unmap(GIB1, KIB4))
    expect(summary(seen)).toEqual(["iotlb_inv_dsc G=3 DID=2 ADDR=40000 AM=0 IH=1"])
    expect([seen[0]?.fields.DW, seen[0]?.fields.DR]).toEqual([1n, 1n])
  })

  it("a leaf of each size as one block", () => {
    const m = machine()
    const { domain } = attached(m, { format: SS })
    domain.map(GIB1, 0n, MIB2, RW)
    domain.map(GIB1 + MIB2, MIB2, KIB4, RW)
    domain.map(GIB1 * 4n, GIB1, GIB1, RW)
    domain.map(GIB1 * 5n, GIB1, GIB1, RW)
    expect(summary(m.during(() => domain.unmap(GIB1, MIB2)))).toEqual([
      "iotlb_inv_dsc G=3 DID=2 ADDR=40000 AM=9 IH=1",
    ])
    expect(summary(m.during(() => domain.unmap(GIB1 * 4n, GIB1)))).toEqual([
      "iotlb_inv_dsc G=3 DID=2 ADDR=100000 AM=12 IH=1",
    ])
  })

  it("an unaligned range as its aligned blocks, and not as the block around them", () => {
    const m = machine()
    const { domain } = attached(m, { format: SS })
    domain.map(GIB1 + KIB4, KIB4, KIB4 * 8n, RW)
    const seen = m.during(() => domain.unmap(GIB1 + KIB4, KIB4 * 7n))
    expect(summary(seen)).toEqual([
      "iotlb_inv_dsc G=3 DID=2 ADDR=40001 AM=0 IH=1",
      "iotlb_inv_dsc G=3 DID=2 ADDR=40002 AM=1 IH=1",
      "iotlb_inv_dsc G=3 DID=2 ADDR=40004 AM=2 IH=1",
    ])
  })

  it("no leaf-only hint when a table went", () => {
    const m = machine()
    const { domain } = attached(m, { format: SS })
    domain.map(GIB1, 0n, MIB2 / 2n, RW)
    domain.unmap(GIB1, MIB2 / 2n)
    // The emptied table goes when a large leaf takes its place.
    const seen = m.during(() => domain.map(GIB1, MIB2, MIB2, RW))
    expect(summary(seen)).toEqual(["iotlb_inv_dsc G=3 DID=2 ADDR=40000 AM=9 IH=0"])
  })

  it("the whole domain where the hardware cannot name pages", () => {
    const m = machine(capabilities({ cap: { PSI: 0n, MAMV: 0n } }))
    const { domain } = attached(m, { format: SS })
    domain.map(GIB1, 0n, KIB4 * 2n, RW)
    expect(summary(m.during(() => domain.unmap(GIB1, KIB4)))).toEqual([
      "iotlb_inv_dsc G=2 DID=2 ADDR=0 AM=0 IH=0",
    ])
  })

  it("the whole domain when MAMV would cut a large page, or too many blocks are needed", () => {
    const small = machine(capabilities({ cap: { MAMV: 8n } }))
    const one = attached(small, { format: SS }).domain
    one.map(GIB1, 0n, MIB2, RW)
    expect(summary(small.during(() => one.unmap(GIB1, MIB2)))).toEqual([
      "iotlb_inv_dsc G=2 DID=2 ADDR=0 AM=0 IH=0",
    ])
    const m = machine(capabilities({ cap: { MAMV: 18n } }))
    const { domain } = attached(m, { format: SS })
    domain.map(0n, 0n, GIB1 * 33n, RW)
    expect(m.during(() => domain.unmap(0n, GIB1 * 32n))).toHaveLength(32)
    domain.map(0n, 0n, GIB1 * 32n, RW)
    expect(m.during(() => domain.unmap(0n, GIB1 * 33n))).toHaveLength(1)
  })

  it("the whole domain after more than 64 scattered unmaps", () => {
    const m = machine()
    const { domain } = attached(m, { format: SS })
    domain.map(0n, KIB4, KIB4 * 256n, RW)
    for (const [count, descriptors] of [
      [64n, 64],
      [65n, 1],
    ] as const) {
      for (let n = 0n; n < count; n++) domain.unmapFast(n * KIB4 * 2n, KIB4)
      expect(m.during(() => domain.iotlbSync())).toHaveLength(descriptors)
      for (let n = 0n; n < count; n++) domain.map(n * KIB4 * 2n, KIB4, KIB4, RW)
    }
  })

  it("nothing at all for a domain that no device is on", () => {
    const m = machine()
    const { device, domain } = attached(m, { format: SS })
    const other = paging(m, device, { format: SS })
    other.map(GIB1, 0n, MIB2, RW)
    expect(m.during(() => other.unmap(GIB1, MIB2))).toEqual([])
    expect(m.during(() => domain.unmap(GIB1, MIB2))).toEqual([])
    expect(m.during(() => domain.iotlbSync())).toEqual([])
  })

  it("once for several devices, and one wait for several unmaps", () => {
    const m = machine()
    const { domain } = attached(m, { format: SS })
    domain.attachDev(m.device(0x0011))
    domain.map(GIB1, 0n, KIB4 * 16n, RW)
    expect(m.during(() => domain.unmapFast(GIB1, KIB4))).toEqual([])
    domain.unmapFast(GIB1 + KIB4 * 8n, KIB4)
    expect(summary(m.during(() => domain.iotlbSync()))).toEqual([
      "iotlb_inv_dsc G=3 DID=2 ADDR=40000 AM=0 IH=1",
      "iotlb_inv_dsc G=3 DID=2 ADDR=40008 AM=0 IH=1",
    ])
    expect(m.during(() => domain.iotlbSync())).toEqual([])
  })

  it("covers what was unmapped and touches nothing that is left, for random ranges", () => {
    const run = fc.tuple(fc.integer({ min: 0, max: 4095 }), fc.integer({ min: 1, max: 1024 }))
    fc.assert(
      fc.property(
        fc.array(run, { minLength: 1, maxLength: 6 }),
        fc.constantFrom(0, 9, 18, 45),
        (runs, mamv) => {
          const m = machine(capabilities({ cap: { MAMV: BigInt(mamv), SSLPS: mamv === 0 ? 0n : 3n } }))
          const { domain } = attached(m, { format: SS })
          // Pages of 4 KiB only: physical addresses are odd multiples.
          for (let page = 0n; page < 5120n; page++) domain.map(page * KIB4, (page * 2n + 1n) * KIB4, KIB4, RW)
          const gone = new Set<number>()
          const seen = m.during(() => {
            for (const [first, count] of runs) {
              domain.unmapFast(BigInt(first) * KIB4, BigInt(count) * KIB4)
              for (let page = first; page < first + count; page++) gone.add(page)
            }
            domain.iotlbSync()
          })
          const named = new Set<number>()
          for (const { fields } of seen) {
            if (fields.G === 2n) return
            for (let i = 0; i < 2 ** Number(fields.AM); i++) named.add(Number(fields.ADDR) + i)
          }
          expect([...named].sort()).toEqual([...gone].sort())
        },
      ),
      { seed: 7, numRuns: 30 },
    )
  })
})

describe("first stage", () => {
  it("by domain-id and PASID, once for each PASID however many devices send it", () => {
    const m = machine()
    const { device, domain } = attached(m, {}, { pasidBits: 8 })
    const other = m.device(0x0011, { pasidBits: 8 })
    domain.attachDev(other)
    domain.setDevPasid?.(device, 7)
    domain.setDevPasid?.(other, 7)
    domain.setDevPasid?.(other, 9)
    domain.map(GIB1, 0n, KIB4 * 2n, RW)
    expect(summary(m.during(() => domain.unmap(GIB1, KIB4)))).toEqual([
      "p_iotlb_inv_dsc G=3 DID=2 PASID=0 ADDR=40000 AM=0 IH=1",
      "p_iotlb_inv_dsc G=3 DID=2 PASID=7 ADDR=40000 AM=0 IH=1",
      "p_iotlb_inv_dsc G=3 DID=2 PASID=9 ADDR=40000 AM=0 IH=1",
    ])
    expect(summary(m.during(() => domain.flushIotlbAll()))).toEqual([
      "p_iotlb_inv_dsc G=2 DID=2 PASID=0 ADDR=0 AM=0 IH=0",
      "p_iotlb_inv_dsc G=2 DID=2 PASID=7 ADDR=0 AM=0 IH=0",
      "p_iotlb_inv_dsc G=2 DID=2 PASID=9 ADDR=0 AM=0 IH=0",
    ])
  })
})

describe("devices with a TLB of their own", () => {
  it("are told after the IOTLB, by source id, and by PASID where the request had one", () => {
    const m = machine()
    const { device, domain } = attached(m, { format: SS }, { pasidBits: 8, ats: true })
    domain.attachDev(m.device(0x0011))
    domain.setDevPasid?.(device, 7)
    domain.map(GIB1, 0n, KIB4 * 4n, RW)
    expect(summary(m.during(() => domain.unmap(GIB1 + KIB4 * 2n, KIB4 * 2n)))).toEqual([
      "iotlb_inv_dsc G=3 DID=2 ADDR=40002 AM=1 IH=1",
      "dev_tlb_inv_dsc SID=10 ADDR=40002 S=1",
      "p_dev_tlb_inv_dsc PASID=7 SID=10 ADDR=40002 S=1",
    ])
  })

  it("are left alone by hardware without ECAP.DT", () => {
    const m = machine(capabilities({ ecap: { DT: 0n } }))
    const { domain } = attached(m, { format: SS }, { ats: true })
    domain.map(GIB1, 0n, KIB4, RW)
    expect(m.during(() => domain.unmap(GIB1, KIB4))).toHaveLength(1)
  })
})

describe("nested", () => {
  it("a stage-2 unmap empties every nested domain over it, tables and devices included", () => {
    const m = machine()
    const [one, two] = [m.device(0x0010), m.device(0x0011, { ats: true })]
    const parent = paging(m, one, { flags: PAGING_NEST_PARENT })
    const [used, unused] = [nestedOver(m, two, parent), nestedOver(m, two, parent)]
    parent.map(0n, 0n, MIB2, RW)
    used.attachDev(two)
    expect(summary(m.during(() => parent.unmap(0n, KIB4)))).toEqual([
      "iotlb_inv_dsc G=2 DID=3 ADDR=0 AM=0 IH=0",
      "dev_tlb_inv_dsc SID=11 ADDR=7ffffffffffff S=1",
    ])
    expect(unused.type).toBe("nested")
  })

  const request = (entries: object[]): CacheInvalidateData => ({
    type: 0,
    entries: entries.map(entry => ({ addr: 0n, npages: 1n, flags: 0, __reserved: 0, ...entry })),
  })

  it("a guest's invalidations carry the host's domain-id and the PASIDs it is on", () => {
    const m = machine()
    const device = m.device(0x0010, { pasidBits: 4, ats: true })
    const domain = nestedOver(m, device, paging(m, device, { flags: PAGING_NEST_PARENT }))
    domain.setDevPasid?.(device, 3)
    const seen = m.during(() => {
      const all = { addr: 0n, npages: 2n ** 64n - 1n }
      const result = domain.cacheInvalidateUser?.(request([{ addr: 0x7000n, npages: 3n, flags: 1 }, all]))
      expect(result).toEqual({ handled: 2, error: null })
    })
    expect(summary(seen)).toEqual([
      "p_iotlb_inv_dsc G=3 DID=3 PASID=3 ADDR=7 AM=0 IH=1",
      "p_iotlb_inv_dsc G=3 DID=3 PASID=3 ADDR=8 AM=1 IH=1",
      "p_dev_tlb_inv_dsc PASID=3 SID=10 ADDR=7 S=0",
      "p_dev_tlb_inv_dsc PASID=3 SID=10 ADDR=8 S=1",
      "p_iotlb_inv_dsc G=2 DID=3 PASID=3 ADDR=0 AM=0 IH=0",
      "p_dev_tlb_inv_dsc PASID=3 SID=10 ADDR=7ffffffffffff S=1",
    ])
  })

  it.each([
    ["an unknown flag", { flags: 2 }, "EOPNOTSUPP"],
    ["the reserved member", { __reserved: 1 }, "EOPNOTSUPP"],
    ["an address within a page", { addr: 0x800n }, "EINVAL"],
    ["everything, but not from 0", { addr: 0x1000n, npages: 2n ** 64n - 1n }, "EINVAL"],
    ["no page", { npages: 0n }, "EINVAL"],
    ["more pages than there are", { npages: 2n ** 52n + 1n }, "EINVAL"],
    ["a range over the end", { addr: 2n ** 64n - 0x1000n, npages: 2n }, "EINVAL"],
    ["a count whose bytes wrap to few", { npages: 2n ** 63n + 1n }, "EINVAL"],
  ])("%s stops the array there, with what came before done", (_rule, wrong, code) => {
    const m = machine()
    const device = m.device(0x0010)
    const domain = nestedOver(m, device, paging(m, device, { flags: PAGING_NEST_PARENT }))
    domain.attachDev(device)
    const seen = m.during(() => {
      const result = domain.cacheInvalidateUser?.(request([{}, { addr: 0x1000n }, wrong, {}]))
      expect(result?.handled).toBe(2)
      expect(result?.error).toMatchObject({ code })
    })
    expect(seen).toHaveLength(2)
  })

  it("the last page of all is no overflow, and another type is EINVAL", () => {
    const m = machine()
    const device = m.device(0x0010)
    const domain = nestedOver(m, device, paging(m, device, { flags: PAGING_NEST_PARENT }))
    const last = { addr: 2n ** 64n - 0x1000n, npages: 1n }
    expect(domain.cacheInvalidateUser?.(request([last]))).toEqual({ handled: 1, error: null })
    const wrong = domain.cacheInvalidateUser?.({ type: 1, entries: [{ cmd: [0n, 0n] }] })
    expect(wrong).toMatchObject({ handled: 0, error: { code: "EINVAL" } })
  })
})

describe("caching mode", () => {
  const caching = capabilities({ cap: { CM: 1n } })

  it("new second-stage mappings are invalidated, new first-stage ones are not", () => {
    const m = machine(caching)
    const { device, domain } = attached(m, { format: SS })
    expect(summary(m.during(() => domain.map(GIB1, 0n, KIB4 * 2n, RW)))).toEqual([
      "iotlb_inv_dsc G=3 DID=2 ADDR=40000 AM=1 IH=0",
    ])
    const seen = m.during(() => expect(domain.mapPages(0, 0x5000_0000, 0, 0x3000, 1, RW)).toBe(0))
    expect(summary(seen)).toEqual(["iotlb_inv_dsc G=3 DID=2 ADDR=50000 AM=0 IH=0"])
    const first = paging(m, device)
    first.attachDev(device)
    expect(m.during(() => first.map(GIB1, 0n, KIB4, RW))).toEqual([])
  })

  it("new entries are invalidated: context-cache and PASID-cache, then IOTLB", () => {
    const m = machine(caching)
    const device = m.device(0x0010)
    const domain = paging(m, device, { format: SS })
    expect(summary(m.during(() => domain.attachDev(device)))).toEqual([
      "pc_inv_dsc G=1 DID=0 PASID=0",
      "pc_inv_dsc G=1 DID=2 PASID=0",
      "p_iotlb_inv_dsc G=2 DID=2 PASID=0 ADDR=0 AM=0 IH=0",
    ])
    const legacy = machine(caching, { mode: "legacy" })
    const other = legacy.device(0x0010)
    const plain = paging(legacy, other)
    expect(summary(legacy.during(() => plain.attachDev(other)))).toEqual([
      "cc_inv_dsc G=3 DID=0 SID=10",
      "iotlb_inv_dsc G=2 DID=2 ADDR=0 AM=0 IH=0",
    ])
  })

  it("takes a mapping back when the hardware does not answer", () => {
    const m = machine(caching, { maxPolls: 20 })
    const { domain } = attached(m, { format: SS })
    m.model.restoreRegisters({ IQA: 0n })
    const code = expect.stringMatching(/EIO|ETIMEDOUT/)
    expect(() => domain.map(GIB1, 0n, KIB4, RW)).toThrow(expect.objectContaining({ code }))
    expect(domain.iovaToPhys(GIB1)).toBeNull()
    expect(domain.mapPages(0, 0x5000_0000, 0, 0x3000, 1, RW)).toBeGreaterThan(0)
    expect(domain.iovaToPhys(0x5000_0000n)).toBeNull()
  })
})

it("buffered writes are flushed after a map where CAP.RWBF asks for it", () => {
  const m = machine({ ...LEGACY_ONLY, cap: LEGACY_ONLY.cap | 0x10n })
  const { device, domain } = attached(m)
  const writes: number[] = []
  const { write32 } = m.model.mmio
  m.model.mmio.write32 = function (offset, value) {
    if (offset === 0x18) writes.push(value)
    write32.call(this, offset, value)
  }
  domain.map(GIB1, 0x5000n, KIB4, RW)
  expect(writes.map(value => (value >>> 27) & 1)).toEqual([1])
  expect(m.dma(device, GIB1)).toBe(0x5000n)
})

it("dirty flags are read and cleared together with the IOTLB's copies of them", () => {
  const m = machine()
  const { device, domain } = attached(m, { flags: PAGING_DIRTY_TRACKING })
  domain.map(GIB1, 0n, KIB4 * 16n, RW)
  domain.dirty?.setDirtyTracking(true)
  m.dma(device, GIB1 + KIB4 * 5n, ACCESS_WRITE)
  const dirty = new DirtyBitmap(GIB1, KIB4 * 16n, KIB4)
  const seen = m.during(() => domain.dirty?.readAndClearDirty(dirty))
  expect(summary(seen)).toEqual(["iotlb_inv_dsc G=3 DID=2 ADDR=40005 AM=0 IH=1"])
  expect([dirty.count, dirty.has(GIB1 + KIB4 * 5n)]).toEqual([1, true])
})
