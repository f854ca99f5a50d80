/** Attach, replace and detach: where DMA lands, and in which order a live entry changes. */
import {
  ACCESS_WRITE,
  hi32,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  iommuDevice,
  iommuDomainFree,
  lo32,
  MemoryAccount,
  type NestedDomain,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PageTableFormatId,
  type PagingDomain,
  pagingParameters,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import { EVERYTHING, FIRST_STAGE_ONLY, LEGACY_ONLY } from "../src/index.ts"
import { capabilities, machine, summary, type TestMachine } from "./driver-machine.ts"

const RW = IOMMU_READ | IOMMU_WRITE
const SS = PageTableFormatId.VTD_SECOND_STAGE
const FS = PageTableFormatId.X86_64_FIRST_STAGE

function paging(m: TestMachine, device: IommuDevice, given: Parameters<typeof pagingParameters>[0] = {}) {
  return m.driver.domainAllocUser(device, null, pagingParameters(given))
}

/** A domain that maps one page at 0x4000_0000. */
function mapped(m: TestMachine, device: IommuDevice, pa: bigint, given = {}): PagingDomain {
  const domain = paging(m, device, given)
  domain.map(IOVA, pa, 0x1000n, RW)
  return domain
}

const IOVA = 0x4000_0000n

function nested(m: TestMachine, device: IommuDevice, parent: PagingDomain, change = {}): NestedDomain {
  const data = { type: 1, flags: 0n, pgtblAddr: 0n, addrWidth: 48, __reserved: 0, ...change } as const
  return m.driver.domainAllocUser(device, parent, data)
}

/** Address of the entry that decides about a device's requests: by hand from RTADDR down. §3.4. */
function entryAddress(m: TestMachine, id: number, pasid = 0): bigint {
  const rtaddr = m.model.mmio.read64(0x20)
  const isScalable = ((rtaddr >> 10n) & 3n) === 1n
  const page = (entry: bigint): bigint => entry & ~0xfffn
  const root = page(rtaddr) + BigInt(id >> 8) * 16n
  if (!isScalable) return page(m.memory.read64(root)) + BigInt(id & 0xff) * 16n
  const context = page(m.memory.read64(root + (id & 0x80 ? 8n : 0n))) + BigInt(id & 0x7f) * 32n
  const directory = page(m.memory.read64(context))
  return page(m.memory.read64(directory + BigInt(pasid >> 6) * 8n)) + BigInt(pasid & 63) * 64n
}

function words(m: TestMachine, address: bigint, count: number): bigint[] {
  return Array.from({ length: count }, (_, i) => m.memory.read64(address + BigInt(i) * 8n))
}

/** The entry as it was at each invalidation. */
function watch(m: TestMachine, address: bigint, count: number, run: () => void) {
  const states: { command: string; entry: bigint[] }[] = []
  m.model.onInvalidate = ({ command }) => states.push({ command, entry: words(m, address, count) })
  run()
  m.model.onInvalidate = null
  return states
}

describe.each([
  ["legacy", LEGACY_ONLY, { mode: "legacy" }, {}],
  ["scalable, second stage", EVERYTHING, {}, { format: SS }],
  ["scalable, first stage", EVERYTHING, {}, { format: FS }],
  ["scalable hardware with first stage only", FIRST_STAGE_ONLY, {}, {}],
] as const)("%s", (_name, capabilitiesOf, options, given) => {
  it("blocks from probe on, translates when attached, blocks again when detached", () => {
    const m = machine(capabilitiesOf, options)
    const device = m.device(0x0310)
    expect(m.dma(device, IOVA)).toBeNull()
    const domain = mapped(m, device, 0x5000n, given)
    domain.attachDev(device)
    expect(m.dma(device, IOVA + 0x123n, ACCESS_WRITE)).toBe(0x5123n)
    expect(m.dma(device, IOVA + 0x1000n)).toBeNull()
    domain.detachDev(device)
    expect(m.dma(device, IOVA)).toBeNull()
    iommuDomainFree(domain)
    expect(m.owner.usagePages).toBe(0)
  })

  it("serves devices of all corners of the source-id space", () => {
    const m = machine(capabilitiesOf, options)
    const devices = [0, 0x7f, 0x80, 0xff, 0x100, 0xff7f, 0xff80, 0xffff].map(id => m.device(id))
    const domains = devices.map((device, i) => mapped(m, device, 0x1000n * BigInt(i + 1), given))
    devices.forEach((device, i) => {
      domains[i]?.attachDev(device)
    })
    devices.forEach((device, i) => {
      expect(m.dma(device, IOVA)).toBe(0x1000n * BigInt(i + 1))
    })
  })

  it("never tears an entry down while it is present (CVE-2026-45894, CVE-2026-45944)", () => {
    const m = machine(capabilitiesOf, options)
    const device = m.device(0x0310)
    const domain = mapped(m, device, 0x5000n, given)
    domain.attachDev(device)
    const at = entryAddress(m, 0x0310)
    const count = m.driver.capabilities.pasidBits > 0 || at % 64n === 0n ? 8 : 2
    const live = words(m, at, count)
    expect((live[0] as bigint) & 1n).toBe(1n)
    const states = watch(m, at, count, () => domain.detachDev(device))
    expect(states.length).toBeGreaterThan(1)
    for (const { entry } of states) {
      // Only P differs from the live entry until every cache is clean.
      expect(entry).toEqual([(live[0] as bigint) & ~1n, ...live.slice(1)])
    }
    expect(words(m, at, count)).toEqual(Array(count).fill(0n))
  })

  it("replaces an entry by making it not present, invalidating, and only then writing the new one", () => {
    const m = machine(capabilitiesOf, options)
    const device = m.device(0x0310)
    const [first, second] = [mapped(m, device, 0x5000n, given), mapped(m, device, 0x6000n, given)]
    first.attachDev(device)
    const at = entryAddress(m, 0x0310)
    const live = words(m, at, 2)
    const states = watch(m, at, 2, () => second.attachDev(device))
    for (const { entry } of states) expect(entry).toEqual([(live[0] as bigint) & ~1n, live[1]])
    expect(m.dma(device, IOVA)).toBe(0x6000n)
    iommuDomainFree(first)
  })

  it("leaves the device where it is when the hardware fails on the way", () => {
    const m = machine(capabilitiesOf, { ...options, maxPolls: 20 })
    const device = m.device(0x0310)
    const [first, second] = [mapped(m, device, 0x5000n, given), mapped(m, device, 0x6000n, given)]
    first.attachDev(device)
    m.model.onInvalidate = () => m.model.restoreRegisters({ IQA: 0n })
    expect(() => second.attachDev(device)).toThrow(
      expect.objectContaining({ code: expect.stringMatching(/EIO|ETIMEDOUT/) }),
    )
    m.model.onInvalidate = null
    expect(m.dma(device, IOVA)).toBe(0x5000n)
    expect(() => iommuDomainFree(first)).toThrow(expect.objectContaining({ code: "EBUSY" }))
    iommuDomainFree(second)
  })
})

describe("what an entry says", () => {
  it("legacy, second stage: like the captures of Linux", () => {
    const m = machine(LEGACY_ONLY)
    const device = m.device(0x0010)
    const domain = mapped(m, device, 0x5000n)
    domain.attachDev(device)
    const [lo, hi] = words(m, entryAddress(m, 0x0010), 2)
    expect((lo as bigint) & 0xfffn).toBe(1n)
    // DID 2, AW 2: four levels.
    expect(hi).toBe(0x202n)
  })

  it("scalable, first stage: PGTT 1, table pointer in the third word", () => {
    const m = machine(FIRST_STAGE_ONLY)
    const device = m.device(0x0010)
    const domain = mapped(m, device, 0x5000n)
    domain.attachDev(device)
    const entry = words(m, entryAddress(m, 0x0010), 8)
    // What Linux writes: AW is reserved where there is no second stage (§9.6), but no hardware has seen it clear.
    expect(entry[0]).toBe(0x49n)
    expect(entry[1]).toBe(2n)
    expect((entry[2] as bigint) & 0xfffn).toBe(0n)
    expect(entry.slice(3)).toEqual([0n, 0n, 0n, 0n, 0n])
  })

  it("scalable, nested: both pointers, the host's domain-id, the guest's flags", () => {
    const m = machine()
    const device = m.device(0x0010)
    const parent = paging(m, device, { flags: PAGING_NEST_PARENT, levels: 4 })
    const domain = nested(m, device, parent, { pgtblAddr: 0x12_3000n, flags: 7n, addrWidth: 57 })
    domain.attachDev(device)
    const entry = words(m, entryAddress(m, 0x0010), 8)
    // P, AW 2, PGTT 3; DID 3 and PWSNP; SRE, FSPM 1, WPE, EAFE.
    expect((entry[0] as bigint) & 0xfffn).toBe(0xc9n)
    expect(entry[1]).toBe(0x80_0003n)
    expect(entry[2]).toBe(0x12_3095n)
  })

  it("context entries enable what device and hardware have", () => {
    const m = machine()
    m.device(0x0010, { pasidBits: 20, ats: true })
    m.device(0x0011)
    const root = m.memory.read64(m.model.mmio.read64(0x20) & ~0xfffn) & ~0xfffn
    // PDTS 7: 2^14 directory entries; PASIDE, DTE, P.
    expect(m.memory.read64(root + 0x200n) & 0xfffn).toBe(0xe0dn)
    expect(m.memory.read64(root + 0x220n) & 0xfffn).toBe(9n)
  })
})

describe("PASIDs", () => {
  it("are removed and replaced in the same order as everything else", () => {
    const m = machine()
    const device = m.device(0x0010, { pasidBits: 16 })
    const [first, second] = [mapped(m, device, 0x5000n), mapped(m, device, 0x6000n, { format: SS })]
    first.setDevPasid?.(device, 700)
    expect(m.dma(device, IOVA, 1, 700)).toBe(0x5000n)
    const at = entryAddress(m, 0x0010, 700)
    const live = words(m, at, 8)
    const states = watch(m, at, 8, () => second.setDevPasid?.(device, 700))
    expect(states.map(({ command }) => command)).toEqual(["pc_inv_dsc", "p_iotlb_inv_dsc"])
    for (const { entry } of states) expect(entry).toEqual([(live[0] as bigint) & ~1n, ...live.slice(1)])
    expect(m.dma(device, IOVA, 1, 700)).toBe(0x6000n)
    const removed = m.during(() => second.removeDevPasid?.(device, 700))
    expect(summary(removed)).toEqual([
      "pc_inv_dsc G=1 DID=3 PASID=2bc",
      "iotlb_inv_dsc G=2 DID=3 ADDR=0 AM=0 IH=0",
      "pc_inv_dsc G=3 DID=0 PASID=0",
    ])
    expect(m.dma(device, IOVA, 1, 700)).toBeNull()
  })

  it("charge the owner for the tables that they cause, and give them back", () => {
    const m = machine()
    const device = m.device(0x0010, { pasidBits: 20 })
    const domain = mapped(m, device, 0x5000n)
    const before = m.owner.usagePages
    for (const pasid of [1, 63]) domain.setDevPasid?.(device, pasid)
    expect(m.owner.usagePages).toBe(before)
    for (const pasid of [64, 127, 0xfffff]) domain.setDevPasid?.(device, pasid)
    expect(m.owner.usagePages).toBe(before + 2)
    // The account that paid gets it back, whoever owns the device by then.
    device.account = new MemoryAccount("next owner")
    for (const pasid of [1, 63, 64, 127, 0xfffff]) domain.removeDevPasid?.(device, pasid)
    expect(m.owner.usagePages).toBe(before)
    expect(device.account.usagePages).toBe(0)
  })

  it("ENOMEM for a table that the owner cannot pay, with nothing changed", () => {
    const m = machine()
    const device = m.device(0x0010, { pasidBits: 20 })
    const domain = mapped(m, device, 0x5000n)
    m.owner.limitPages = m.owner.usagePages
    expect(() => domain.setDevPasid?.(device, 64)).toThrow(expect.objectContaining({ code: "ENOMEM" }))
    domain.setDevPasid?.(device, 1)
    domain.removeDevPasid?.(device, 1)
    iommuDomainFree(domain)
    expect(m.owner.usagePages).toBe(0)
  })

  it("go on the identity and the blocked domain, too", () => {
    const m = machine()
    const device = m.device(0x0010, { pasidBits: 8 })
    const domain = mapped(m, device, 0x5000n)
    domain.setDevPasid?.(device, 5)
    m.driver.identityDomain?.setDevPasid?.(device, 5)
    expect(m.dma(device, 0x9000n, 1, 5)).toBe(0x9000n)
    m.driver.blockedDomain.setDevPasid?.(device, 5)
    expect(m.dma(device, 0x9000n, 1, 5)).toBeNull()
    m.driver.blockedDomain.setDevPasid?.(device, 5)
    iommuDomainFree(domain)
  })

  it("are not there in legacy mode, and EOPNOTSUPP for a device without", () => {
    const legacy = machine(LEGACY_ONLY)
    expect(paging(legacy, legacy.device(1)).setDevPasid).toBeUndefined()
    const m = machine()
    const device = m.device(0x0010)
    const domain = mapped(m, device, 0x5000n)
    expect(() => domain.setDevPasid?.(device, 1)).toThrow(expect.objectContaining({ code: "EOPNOTSUPP" }))
  })
})

describe("nested domains", () => {
  it.each([
    ["39 bits", {}, { addrWidth: 39 }],
    ["57 bits without FS5LP", { cap: { FS5LP: 0n } }, { addrWidth: 57 }],
    ["SRE without ECAP.SRS", { ecap: { SRS: 0n } }, { flags: 1n }],
    ["EAFE without ECAP.EAFS", { ecap: { EAFS: 0n } }, { flags: 2n }],
    ["an unknown flag", {}, { flags: 8n }],
    ["the reserved member", {}, { __reserved: 1 }],
  ])("%s: accepted at allocation, EINVAL at attach, and the device stays where it is", (_rule, has, data) => {
    const m = machine(capabilities(has))
    const device = m.device(0x0010, { pasidBits: 4 })
    const parent = mapped(m, device, 0x5000n, { flags: PAGING_NEST_PARENT })
    parent.attachDev(device)
    const domain = nested(m, device, parent, data)
    const seen = m.during(() => {
      expect(() => domain.attachDev(device)).toThrow(expect.objectContaining({ code: "EINVAL" }))
      expect(() => domain.setDevPasid?.(device, 1)).toThrow(expect.objectContaining({ code: "EINVAL" }))
    })
    expect(seen).toEqual([])
    expect(m.dma(device, IOVA)).toBe(0x5000n)
    iommuDomainFree(domain)
  })

  it("translate through both stages, with the guest's tables in guest memory", () => {
    const m = machine()
    const device = m.device(0x0010)
    const parent = paging(m, device, { flags: PAGING_NEST_PARENT })
    // Guest-physical 0 to 1 MiB lies at 8 MiB; the guest's tables are its pages 1 to 4.
    parent.map(0n, 0x80_0000n, 0x10_0000n, RW)
    const entries = [0x2007n, 0x3007n, 0x4007n, 0x7067n]
    entries.forEach((entry, i) => {
      m.memory.write64(0x80_1000n + BigInt(i) * 0x1000n, entry)
    })
    const domain = nested(m, device, parent, { pgtblAddr: 0x1000n })
    domain.attachDev(device)
    expect(m.dma(device, 0x123n, ACCESS_WRITE)).toBe(0x80_7123n)
    parent.unmap(0x7000n, 0x1000n)
    expect(m.dma(device, 0x123n)).toBeNull()
    expect(() => iommuDomainFree(parent)).toThrow(expect.objectContaining({ code: "EBUSY" }))
    expect(() => iommuDomainFree(domain)).toThrow(expect.objectContaining({ code: "EBUSY" }))
    domain.detachDev(device)
    iommuDomainFree(domain)
    iommuDomainFree(parent)
    expect(m.owner.usagePages).toBe(0)
  })

  it("EINVAL for a parent that is none, EOPNOTSUPP for other data", () => {
    const m = machine()
    const device = m.device(0x0010)
    const parent = paging(m, device, { flags: PAGING_NEST_PARENT })
    const code = (run: () => unknown) => {
      try {
        run()
        return "no error"
      } catch (error) {
        return (error as { code: string }).code
      }
    }
    expect(code(() => nested(m, device, paging(m, device)))).toBe("EINVAL")
    expect(code(() => nested(m, device, paging(m, device, { format: SS })))).toBe("EINVAL")
    expect(code(() => nested(machine(), device, parent))).toBe("ENODEV")
    const other = machine()
    expect(code(() => nested(other, other.device(1), parent))).toBe("EINVAL")
    expect(code(() => m.driver.domainAllocUser(device, parent, null))).toBe("EOPNOTSUPP")
    expect(code(() => m.driver.domainAllocUser(device, parent, pagingParameters({})))).toBe("EOPNOTSUPP")
    expect(code(() => m.driver.domainAllocUser(device, null, { type: 2, ste: [0n, 0n] }))).toBe("EOPNOTSUPP")
    iommuDomainFree(parent)
    expect(code(() => nested(m, device, parent))).toBe("EINVAL")
  })
})

describe("dirty tracking", () => {
  it("switches SSADE in the live entries of the domain and of nested ones over it", () => {
    const m = machine()
    const [one, two] = [m.device(0x0010, { pasidBits: 8 }), m.device(0x0011)]
    const parent = paging(m, one, { flags: PAGING_NEST_PARENT | PAGING_DIRTY_TRACKING })
    const domain = nested(m, one, parent)
    parent.attachDev(one)
    domain.attachDev(two)
    const ssade = () =>
      [entryAddress(m, 0x0010), entryAddress(m, 0x0011)].map(at => (m.memory.read64(at) >> 9n) & 1n)
    expect(ssade()).toEqual([0n, 0n])
    const seen = m.during(() => parent.dirty?.setDirtyTracking(true))
    expect(summary(seen)).toEqual([
      "pc_inv_dsc G=1 DID=2 PASID=0",
      "pc_inv_dsc G=1 DID=3 PASID=0",
      "iotlb_inv_dsc G=2 DID=2 ADDR=0 AM=0 IH=0",
      "iotlb_inv_dsc G=2 DID=3 ADDR=0 AM=0 IH=0",
    ])
    expect(ssade()).toEqual([1n, 1n])
    // An entry written while tracking is on has it from the start.
    parent.setDevPasid?.(one, 9)
    expect((m.memory.read64(entryAddress(m, 0x0010, 9)) >> 9n) & 1n).toBe(1n)
    parent.dirty?.setDirtyTracking(false)
    expect(ssade()).toEqual([0n, 0n])
  })
})

describe("devices", () => {
  it("cost the driver, not the owner, until they are released", () => {
    const m = machine()
    m.driver.releaseDevice(m.device(0x0010, { pasidBits: 20 }))
    const before = m.pages.pagesInUse
    const device = m.device(0x0010, { pasidBits: 20 })
    // A directory of 2^14 entries and one table.
    expect(m.pages.pagesInUse).toBe(before + 33)
    expect(m.owner.usagePages).toBe(0)
    m.driver.identityDomain?.attachDev(device)
    m.driver.releaseDevice(device)
    expect(m.pages.pagesInUse).toBe(before)
    expect(m.dma(device, 0n)).toBeNull()
  })

  it("with ATS have their own TLB invalidated whenever they leave a domain", () => {
    const m = machine()
    const device = m.device(0x0010, { ats: true, pasidBits: 8 })
    const domain = mapped(m, device, 0x5000n)
    domain.attachDev(device)
    domain.setDevPasid?.(device, 3)
    const left = m.during(() => {
      domain.removeDevPasid?.(device, 3)
      domain.detachDev(device)
    })
    expect(summary(left)).toEqual([
      "pc_inv_dsc G=1 DID=2 PASID=3",
      "p_iotlb_inv_dsc G=2 DID=2 PASID=3 ADDR=0 AM=0 IH=0",
      "p_dev_tlb_inv_dsc PASID=3 SID=10 ADDR=7ffffffffffff S=1",
      "pc_inv_dsc G=1 DID=2 PASID=0",
      "p_iotlb_inv_dsc G=2 DID=2 PASID=0 ADDR=0 AM=0 IH=0",
      "dev_tlb_inv_dsc SID=10 ADDR=7ffffffffffff S=1",
    ])
  })

  it("ENODEV for a number that no source id has, or another object with the same number", () => {
    const m = machine()
    expect(() => m.device(0x1_0000)).toThrow(expect.objectContaining({ code: "ENODEV" }))
    expect(() => m.device(-1)).toThrow(expect.objectContaining({ code: "ENODEV" }))
    m.device(0x0010)
    const twin = iommuDevice({ id: 0x0010, account: m.owner })
    expect(() => m.driver.releaseDevice(twin)).toThrow(expect.objectContaining({ code: "ENODEV" }))
  })

  it("ENOSPC when domain-ids run out, and not after one is freed", () => {
    const m = machine(capabilities({ cap: { ND: 0n } }))
    const device = m.device(0x0010)
    const domains = Array.from({ length: 14 }, () => paging(m, device))
    const before = m.owner.usagePages
    expect(() => paging(m, device)).toThrow(expect.objectContaining({ code: "ENOSPC" }))
    expect(m.owner.usagePages).toBe(before)
    iommuDomainFree(domains[5] as PagingDomain)
    paging(m, device)
  })
})

it("halves and bigints agree", () => {
  const m = machine()
  const domain = paging(m, m.device(0x0010))
  expect(domain.mapPages(hi32(IOVA), lo32(IOVA), 0, 0x7000, 1, RW)).toBe(0)
  expect(domain.iovaToPhys(IOVA + 1n)).toBe(0x7001n)
  expect(domain.iovaToPhysHalves(hi32(IOVA), lo32(IOVA) + 2)).toBe(0)
  expect([domain.physHi, domain.physLo]).toEqual([0, 0x7002])
})
