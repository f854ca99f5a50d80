import {
  ACCESS_READ,
  ACCESS_WRITE,
  IOMMU_READ,
  IOMMU_WRITE,
  MemoryAccount,
  PAGING_NEST_PARENT,
  PAGING_PASID,
} from "@iommu/core"
import { SMMUV3_EVERYTHING, SMMUV3_QEMU_NESTED, SMMUV3_QEMU_STAGE2, smmuv3Driver } from "@iommu/smmuv3"
import { describe, expect, it } from "vitest"
import { expectErrno, Host, ids } from "./driver-machine.ts"
import { FakeSmmu, QEMU_IDS } from "./fake-smmu.ts"

const RW = IOMMU_READ | IOMMU_WRITE

describe("bring-up", () => {
  it("leaves the registers as Linux leaves them on QEMU's SMMU", () => {
    const { mmio } = new Host(SMMUV3_QEMU_NESTED).model
    // captures/smmuv3-s1-4k-ops: CR0, CR0ACK, CR1, CR2, STRTAB_BASE_CFG.
    expect([0x20, 0x24, 0x28, 0x2c, 0x88].map(offset => mmio.read32(offset))).toEqual([
      0xd, 0xd, 0xd75, 0x6, 0x10210,
    ])
    expect(mmio.read64(0x80) >> 62n).toBe(1n)
    expect(mmio.read64(0x90) & 0x1fn).toBe(8n)
  })

  it("goes from off to on in the book's order, and forgets all caches before translation starts", () => {
    const smmu = new FakeSmmu({ ...QEMU_IDS, idr0: QEMU_IDS.idr0 | (1 << 10) })
    smmu.registers.set(0x20, 1)
    smmuv3Driver(smmu)
    const written = (offset: number): bigint[] =>
      smmu.writes.filter(write => write.offset === offset).map(write => write.value)
    expect(written(0x20)).toEqual([0x0n, 0x8n, 0xcn, 0x1cn, 0x1dn])
    // The SMMU that was found running aborts before it is switched off (GBPA.ABORT, Update).
    expect(smmu.writes[0]).toEqual({ offset: 0x44, value: 0x8010_0000n })
    expect(smmu.takeCommands().map(({ opcode }) => opcode)).toEqual([0x04, 0x30])
  })

  it("refuses hardware that it cannot drive: ENODEV", () => {
    const cases = [
      { idr0: 0xd441018 }, // neither stage
      { idr0: 0xd441013 }, // VMSAv8-32 tables only
      { idr0: 0xd64101b }, // big-endian tables only
      { idr5: 0x04 }, // no granule
      { idr1: 0x6273_0010 }, // presets
    ]
    for (const changes of cases) {
      const smmu = new FakeSmmu({ ...QEMU_IDS, ...changes })
      expectErrno("ENODEV", () => smmuv3Driver(smmu))
      expect(smmu.pages.pagesInUse).toBe(0)
    }
  })

  it("gives up on hardware that does not answer, and keeps no page: ETIMEDOUT", () => {
    const smmu = new FakeSmmu()
    smmu.registers.set(0x24, 1)
    smmu.hung = true
    expectErrno("ETIMEDOUT", () => smmuv3Driver(smmu, { pollLimit: 50 }))
    expect(smmu.pages.pagesInUse).toBe(0)
  })
})

describe("a device", () => {
  it("aborts until it is attached, through an L2 array made for it", () => {
    const host = new Host()
    expect(host.steAt(0x123)).toBe(null)
    const before = host.pages.pagesInUse
    const device = host.device(0x123)
    expect(host.ste(device)[0]).toBe(0x1n)
    expect(host.dma(device, 0x1000n)).toBe(null)
    expect(host.account.usagePages).toBe(0)
    const neighbour = host.device(0x124)
    host.ops.releaseDevice(device)
    expect(host.steAt(0x123)).not.toBe(null)
    host.ops.releaseDevice(neighbour)
    expect(host.steAt(0x123)).toBe(null)
    expect(host.pages.pagesInUse).toBe(before)
  })

  it("must be within the Stream table: ENODEV", () => {
    const host = new Host(SMMUV3_QEMU_NESTED)
    expectErrno("ENODEV", () => host.device(0x1_0000))
    expectErrno("ENODEV", () => host.device(-1))
  })

  it("works with a linear Stream table too", () => {
    // IDR0.ST_LEVEL = 0, IDR1.SIDSIZE = 6.
    const host = new Host({ ...SMMUV3_QEMU_NESTED, IDR0: 0x0544_101b, IDR1: 0x0273_0006 })
    const device = host.device(0x21)
    expect(host.model.mmio.read32(0x88)).toBe(6)
    const domain = host.alloc(device)
    domain.map(0x1000n, 0x8000n, 0x1000n, RW)
    domain.attachDev(device)
    expect(host.dma(device, 0x1234n)).toBe(0x8234n)
    expectErrno("ENODEV", () => host.device(0x40))
  })

  it("passes untranslated on the identity domain, and aborts again when released", () => {
    const host = new Host()
    const device = host.device(1)
    host.ops.identityDomain?.attachDev(device)
    expect(host.dma(device, 0x12345n)).toBe(0x12345n)
    host.ops.releaseDevice(device)
    expect(host.dma(device, 0x12345n)).toBe(null)
  })
})

describe("a paging domain", () => {
  it("has its stream's configuration prefetched, so that the first request reads no structure", () => {
    const host = new Host(SMMUV3_QEMU_NESTED)
    const device = host.device(0x10)
    const domain = host.alloc(device)
    domain.map(0x1000n, 0x5000n, 0x1000n, RW)
    domain.attachDev(device)
    host.memory.write64(host.steAt(device.id) as bigint, 0n)
    expect(host.dma(device, 0x1000n)).toBe(0x5000n)
  })

  it("on stage 1 has the STE and CD that Linux writes", () => {
    const host = new Host(SMMUV3_QEMU_NESTED)
    const device = host.device(0x10)
    const domain = host.alloc(device)
    domain.attachDev(device)
    const ste = host.ste(device)
    expect((ste[0] as bigint) & 0xf800_0000_0000_003fn).toBe(0xbn)
    expect(ste.slice(1)).toEqual([0xd6n, 0n, 0n, 0n, 0n, 0n, 0n])
    const cd = host.cd(device)
    expect(cd[0]).toBe(0x1e204c0003510n)
    expect(cd.slice(2)).toEqual([0n, 0xfffffffff404ff44n, 0n, 0n, 0n, 0n])
    domain.map(0xffff_f000n, 0x5000n, 0x1000n, RW)
    expect(host.dma(device, 0xffff_f123n, ACCESS_READ | ACCESS_WRITE)).toBe(0x5123n)
  })

  it("on stage 2 has the STE that Linux writes", () => {
    const host = new Host(SMMUV3_QEMU_STAGE2)
    const device = host.device(0x10)
    const domain = host.alloc(device)
    domain.map(0x4000_0000n, 0x5000n, 0x1000n, IOMMU_READ)
    domain.attachDev(device)
    const ste = host.ste(device)
    expect(ste.slice(0, 3)).toEqual([0xdn, 0n, 0x44c359400000001n])
    expect(host.dma(device, 0x4000_0042n)).toBe(0x5042n)
    expect(host.fault(device, 0x4000_0042n, ACCESS_WRITE)).toBe("F_PERMISSION")
  })

  it.each([
    [1, 12, 39],
    [1, 12, 52],
    [1, 14, 47],
    [1, 14, 36],
    [1, 14, 52],
    [1, 16, 42],
    [1, 16, 52],
    [2, 12, 40],
    [2, 12, 48],
    [2, 12, 34],
    [2, 12, 52],
    [2, 14, 48],
    [2, 14, 40],
    [2, 14, 52],
    [2, 16, 48],
    [2, 16, 52],
  ])("translates to its last byte: stage %i, granule 2^%i, %i bits", (stage, granuleLg2, inputBits) => {
    const host = new Host()
    const device = host.device(0x10)
    const domain = host.paging(device, { format: stage + 4, granuleLg2, inputBits })
    const page = 1n << BigInt(granuleLg2)
    const last = (1n << BigInt(inputBits)) - page
    domain.map(0n, page * 2n, page, RW)
    domain.map(last, page * 3n, page, RW)
    domain.attachDev(device)
    expect(host.dma(device, 0x10n)).toBe(page * 2n + 0x10n)
    expect(host.dma(device, last + page - 1n)).toBe(page * 4n - 1n)
    expect(host.dma(device, last - 1n)).toBe(null)
  })

  it("serves two devices, each with a CD table of its own over the same tables and ASID", () => {
    const host = new Host()
    const one = host.device(1)
    const other = host.device(0x201)
    const domain = host.alloc(one)
    domain.map(0x1000n, 0x8000n, 0x1000n, RW)
    domain.attachDev(one)
    domain.attachDev(other)
    expect(host.cd(one)).toEqual(host.cd(other))
    expect(host.ste(one)[0]).not.toBe(host.ste(other)[0])
    domain.detachDev(one)
    expect(host.dma(one, 0x1000n)).toBe(null)
    expect(host.dma(other, 0x1000n)).toBe(0x8000n)
  })

  it("does not give an ASID or a VMID to two domains, and reuses them after free", () => {
    // 8-bit ASIDs: IDR0.ASID16 = 0.
    const host = new Host({ ...SMMUV3_QEMU_NESTED, IDR0: 0x0d44_001b })
    const device = host.device(1)
    const domains = Array.from({ length: 255 }, () => host.alloc(device))
    expectErrno("ENOSPC", () => host.alloc(device))
    domains[100]?.free()
    domains[101]?.free()
    host.alloc(device)
    host.alloc(device)
    expectErrno("ENOSPC", () => host.alloc(device))
  })
})

describe("SMMUs of all kinds", () => {
  const kinds = [0, 1, 2].flatMap(stalls =>
    [0, 1].flatMap(coherent => [0, 1].map(overrides => ({ stalls, coherent, overrides }))),
  )
  it.each(kinds)(
    "take what the driver writes: stall model $stalls, COHACC $coherent, overrides $overrides",
    kind => {
      const { IDR0, IDR1 } = SMMUV3_EVERYTHING
      const host = new Host({
        IDR0: ((IDR0 & ~(0x3 << 24) & ~(1 << 4)) | (kind.stalls << 24) | (kind.coherent << 4)) >>> 0,
        IDR1: ((IDR1 & ~(1 << 27)) | (kind.overrides << 27)) >>> 0,
      })
      const device = host.device(0x10, { ats: true, pasidBits: 4 })
      const domains = [host.alloc(device), host.paging(device, { format: 6 })]
      for (const domain of domains) {
        domain.map(0x1000n, 0x8000n, 0x1000n, RW)
        domain.attachDev(device)
        expect(host.fault(device, 0x1000n)).toBe(null)
      }
      const parent = host.paging(device, { flags: PAGING_NEST_PARENT })
      parent.map(0x1000n, 0x8000n, 0x1000n, RW)
      host.nested(device, parent, 0x9n, 0n).attachDev(device)
      expect(host.dma(device, 0x1000n)).toBe(0x8000n)
      host.ops.identityDomain?.attachDev(device)
      expect(host.dma(device, 0x1000n)).toBe(0x1000n)
      host.paging(device, { flags: PAGING_PASID }).setDevPasid?.(device, 3)
      expect(host.dma(device, 0x1000n)).toBe(0x1000n)
    },
  )
})

describe("replacing a domain", () => {
  it("passes only through states that are the old, the new or not valid", () => {
    const host = new Host()
    const device = host.device(0x10)
    const stage1 = host.alloc(device)
    const stage2 = host.paging(device, { format: 6 })
    const parent = host.paging(device, { flags: PAGING_NEST_PARENT })
    const nested = host.nested(device, parent, 0x10000bn, 0xd6n)
    const stops = [stage1, stage2, nested, parent, host.ops.identityDomain, stage1, nested, stage2, nested]
    const at = host.steAt(0x10) as bigint
    for (const stop of stops) {
      const before = host.ste(device)
      const states = host.states(at, 8, () => stop?.attachDev(device))
      const after = host.ste(device)
      for (const state of states) {
        if (((state[0] as bigint) & 1n) === 0n) continue
        expect([before[0], after[0]]).toContain(state[0])
      }
      expect(states.at(-1)).toEqual(after)
    }
  })

  it("between stage 1 domains changes the CD alone, through V = 0", () => {
    const host = new Host()
    const device = host.device(0x10)
    const [one, two] = [host.alloc(device), host.alloc(device)]
    one.attachDev(device)
    const ste = host.ste(device)
    const at = (ste[0] as bigint) & 0x00ff_ffff_ffff_ffc0n
    const states = host.states(at, 8, () => two.attachDev(device))
    expect(host.ste(device)).toEqual(ste)
    expect(states.some(([word0]) => ((word0 as bigint) & 0x8000_0000n) === 0n)).toBe(true)
    expect(states.at(-1)).toEqual(host.cd(device))
  })

  it("keeps the old one when memory runs out: ENOMEM", () => {
    const host = new Host()
    const account = new MemoryAccount("small", 2)
    const device = host.device(0x10, { account, pasidBits: 20 })
    const stage2 = host.paging(device, { format: 6, inputBits: 39 })
    stage2.attachDev(device)
    const other = new MemoryAccount("other")
    device.account = other
    const stage1 = host.alloc(device)
    device.account = account
    const before = { ste: host.ste(device), pages: host.pages.pagesInUse }
    for (account.limitPages = 1; account.limitPages < 19; account.limitPages++) {
      expectErrno("ENOMEM", () => stage1.attachDev(device))
      expect({ ste: host.ste(device), pages: host.pages.pagesInUse }).toEqual(before)
    }
    account.limitPages = 19
    stage1.attachDev(device)
    stage1.detachDev(device)
    expect(account.usagePages).toBe(1)
  })

  it("keeps the old one when the hardware fails: ETIMEDOUT", () => {
    const host = new Host()
    const device = host.device(0x10)
    const [stage1, stage2] = [host.alloc(device), host.paging(device, { format: 6 })]
    stage1.map(0x1000n, 0x8000n, 0x1000n, RW)
    stage1.attachDev(device)
    const ste = host.ste(device)
    const cd = host.cd(device)
    host.hung = true
    expectErrno("ETIMEDOUT", () => stage2.attachDev(device))
    expectErrno("ETIMEDOUT", () => stage1.detachDev(device))
    expect(host.ste(device)).toEqual(ste)
    host.hung = false
    expect(host.dma(device, 0x1000n)).toBe(0x8000n)
    expectErrno("EBUSY", () => stage1.free())
    stage2.attachDev(device)
    stage1.free()
    expect(cd[0]).not.toBe(0n)
  })

  it("to itself is nothing", () => {
    const host = new Host()
    const device = host.device(0x10)
    const domain = host.alloc(device)
    domain.attachDev(device)
    expect(host.commands(() => domain.attachDev(device))).toEqual([])
  })
})

describe("freeing", () => {
  it("is refused while in use: EBUSY, and a second time: EINVAL", () => {
    const host = new Host()
    const device = host.device(0x10)
    const parent = host.paging(device, { flags: PAGING_NEST_PARENT })
    const nested = host.nested(device, parent, 0x9n, 0n)
    expectErrno("EBUSY", () => parent.free())
    nested.attachDev(device)
    expectErrno("EBUSY", () => nested.free())
    nested.detachDev(device)
    nested.free()
    parent.free()
    expectErrno("EINVAL", () => nested.free())
    expectErrno("EINVAL", () => parent.free())
    expectErrno("EINVAL", () => parent.attachDev(device))
    expectErrno("EINVAL", () => nested.attachDev(device))
    expect(host.account.usagePages).toBe(0)
  })
})

describe("PASIDs", () => {
  function setUp(pasidBits = 6) {
    const host = new Host()
    const device = host.device(0x10, { pasidBits })
    const domain = host.paging(device, { flags: PAGING_PASID })
    domain.map(0x1000n, 0x8000n, 0x1000n, RW)
    return { host, device, domain }
  }

  it("translate through CDs of their own, next to requests without", () => {
    const { host, device, domain } = setUp()
    const rid = host.alloc(device)
    rid.map(0x1000n, 0x9000n, 0x1000n, RW)
    rid.attachDev(device)
    domain.setDevPasid?.(device, 5)
    expect(host.dma(device, 0x1000n)).toBe(0x9000n)
    expect(host.dma(device, 0x1000n, ACCESS_READ, 5)).toBe(0x8000n)
    expect(host.dma(device, 0x1000n, ACCESS_READ, 6)).toBe(null)
    domain.removeDevPasid?.(device, 5)
    expect(host.dma(device, 0x1000n, ACCESS_READ, 5)).toBe(null)
    expect(host.dma(device, 0x1000n)).toBe(0x9000n)
  })

  it.each([
    ["blocked", 0n],
    ["identity", 1n],
  ])("leave requests without %s: S1DSS", (name, s1dss) => {
    const { host, device, domain } = setUp()
    if (name === "identity") host.ops.identityDomain?.attachDev(device)
    domain.setDevPasid?.(device, 1)
    expect((host.ste(device)[1] as bigint) & 3n).toBe(s1dss)
    expect(host.dma(device, 0x1000n)).toBe(name === "identity" ? 0x1000n : null)
    expect(host.dma(device, 0x1000n, ACCESS_READ, 1)).toBe(0x8000n)
    domain.removeDevPasid?.(device, 1)
    expect(host.ste(device)[0]).toBe(name === "identity" ? 0x9n : 0x1n)
  })

  it("of 20 bits have a table of two levels, with leaves made and paid on demand", () => {
    const { host, device, domain } = setUp(20)
    domain.setDevPasid?.(device, 1)
    expect(((host.ste(device)[0] as bigint) >> 4n) & 3n).toBe(2n)
    const before = host.account.usagePages
    domain.setDevPasid?.(device, 0xf_ffff)
    expect(host.account.usagePages).toBe(before + 16)
    expect(host.dma(device, 0x1000n, ACCESS_READ, 0xf_ffff)).toBe(0x8000n)
    expect(host.dma(device, 0x1000n, ACCESS_READ, 0xf_fffe)).toBe(null)
    domain.removeDevPasid?.(device, 1)
    domain.removeDevPasid?.(device, 0xf_ffff)
    expect(host.dma(device, 0x1000n, ACCESS_READ, 1)).toBe(null)
    domain.free()
    expect(host.account.usagePages).toBe(0)
  })

  it("have their errno", () => {
    const { host, device, domain } = setUp()
    expectErrno("EINVAL", () => domain.setDevPasid?.(device, 0))
    expectErrno("EINVAL", () => domain.setDevPasid?.(device, 64))
    expectErrno("EINVAL", () => domain.setDevPasid?.(device, 1.5))
    expectErrno("EINVAL", () => domain.removeDevPasid?.(device, 3))
    expectErrno("EOPNOTSUPP", () => domain.setDevPasid?.(host.device(0x11), 1))
    const stage2 = host.paging(device, { format: 6 })
    expect(stage2.setDevPasid).toBe(undefined)
    domain.setDevPasid?.(device, 3)
    expectErrno("EBUSY", () => stage2.attachDev(device))
    expectErrno("EBUSY", () => host.ops.releaseDevice(device))
    expectErrno("EBUSY", () => domain.free())
    domain.removeDevPasid?.(device, 3)
    stage2.attachDev(device)
    expectErrno("EINVAL", () => domain.setDevPasid?.(device, 3))
    expectErrno("EINVAL", () => domain.detachDev(device))
  })

  it("keep the old domain when a replacement finds no memory: ENOMEM", () => {
    const { host, device, domain } = setUp(20)
    host.account.limitPages = host.account.usagePages + 17
    expectErrno("ENOMEM", () => domain.setDevPasid?.(device, 1))
    host.account.limitPages++
    domain.setDevPasid?.(device, 1)
    expectErrno("ENOMEM", () => domain.setDevPasid?.(device, 5000))
    expect(host.dma(device, 0x1000n, ACCESS_READ, 1)).toBe(0x8000n)
  })

  it("are absent without SubstreamIDs", () => {
    const host = new Host(SMMUV3_QEMU_NESTED)
    expect(host.alloc(host.device(1)).setDevPasid).toBe(undefined)
    expect(host.ops.capabilities.pasidBits).toBe(0)
  })
})

it("reports its registers", () => {
  const host = new Host(ids({ IIDR: 0x43b, AIDR: 2 }))
  expect(host.ops.hwInfo(host.device(1))).toMatchObject({
    type: 2,
    idr: [0, 4, 8, 0xc, 0x10, 0x14].map(offset => host.model.mmio.read32(offset)),
    iidr: 0x43b,
    aidr: 2,
  })
})
