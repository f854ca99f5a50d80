import {
  DirtyBitmap,
  type Invalidation,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  type PagingDomain,
} from "@iommu/core"
import { SMMUV3_EVERYTHING, SMMUV3_QEMU_NESTED } from "@iommu/smmuv3"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { expectErrno, Host } from "./driver-machine.ts"

const RW = IOMMU_READ | IOMMU_WRITE
const RIL = 1 << 10
/** The model with everything but range invalidation. */
const NO_RIL = { IDR3: SMMUV3_EVERYTHING.IDR3 & ~RIL }

interface SetUp {
  readonly host: Host
  readonly device: IommuDevice
  readonly domain: PagingDomain
}

function attached(
  id: Parameters<typeof Host.prototype.device>[1] & { ril?: boolean; format?: number } = {},
): SetUp {
  const host = new Host(id.ril === false ? NO_RIL : {})
  const device = host.device(0x10, id)
  const domain = host.paging(device, { format: id.format ?? 5 })
  domain.attachDev(device)
  return { host, device, domain }
}

/** Bytes that a command with TG, NUM and SCALE covers, §4.4.1.1; one page of 4 KiB without TG. */
function reach({ fields }: Invalidation): [first: bigint, end: bigint] {
  const { TG = 0n, NUM = 0n, SCALE = 0n, Address = 0n } = fields
  const first = Address << 12n
  const granule = TG === 0n ? 0x1000n : 1n << (10n + 2n * TG)
  return [first, first + (TG === 0n ? granule : (NUM + 1n) * (granule << SCALE))]
}

describe("unmapping from stage 1", () => {
  it("invalidates one page by its address, ASID and level", () => {
    const { host, domain } = attached()
    domain.map(0x20_3000n, 0x8000n, 0x2000n, RW)
    const commands = host.commands(() => domain.unmap(0x20_3000n, 0x1000n))
    expect(commands).toHaveLength(1)
    expect(commands[0]).toMatchObject({
      command: "CMD_TLBI_NH_VA",
      fields: { ASID: 1n, VMID: 0n, Leaf: 1n, TG: 1n, NUM: 0n, SCALE: 0n, TTL: 3n, Address: 0x203n },
    })
  })

  it("names the level of blocks", () => {
    const { host, domain } = attached()
    domain.map(0x4000_0000n, 0x4000_0000n, 0x4000_0000n, RW)
    domain.map(0x20_0000n, 0x20_0000n, 0x60_0000n, RW)
    expect(host.commands(() => domain.unmap(0x4000_0000n, 0x4000_0000n))[0]?.fields.TTL).toBe(1n)
    const [blocks] = host.commands(() => domain.unmap(0x20_0000n, 0x60_0000n))
    expect(blocks?.fields.TTL).toBe(2n)
    expect(blocks && reach(blocks)).toEqual([0x20_0000n, 0x80_0000n])
  })

  it("waits with unmapFast until iotlbSync", () => {
    const { host, domain } = attached()
    domain.map(0x1000n, 0x8000n, 0x4000n, RW)
    expect(host.commandNames(() => domain.unmapFast(0x1000n, 0x1000n))).toEqual([])
    expect(host.commandNames(() => domain.unmapFast(0x4000n, 0x1000n))).toEqual([])
    expect(host.commandNames(() => domain.iotlbSync())).toEqual(["CMD_TLBI_NH_VA", "CMD_TLBI_NH_VA"])
    expect(host.commandNames(() => domain.iotlbSync())).toEqual([])
  })

  it("drops walk caches, not only leaves, where tables went", () => {
    const { host, domain } = attached()
    domain.map(0x1_0000_0000n, 0x8000n, 0x1000n, RW)
    domain.map(0x1_0000_1000n, 0x20_0000n, 0x1f_f000n, RW)
    const tables = host.account.usagePages
    const commands = host.commands(() => domain.unmap(0x1_0000_0000n, 0x20_0000n))
    if (host.account.usagePages < tables)
      expect(commands.every(({ fields }) => fields.Leaf === 0n)).toBe(true)
    domain.map(0x1_0000_0000n, 0x20_0000n, 0x20_0000n, RW)
    expect(host.account.usagePages).toBeLessThan(tables)
    expect(domain.iovaToPhys(0x1_0000_1234n)).toBe(0x20_1234n)
  })

  it("covers exactly what went, with any holes and lengths", () => {
    const pages = 96
    fc.assert(
      fc.property(fc.uint8Array({ minLength: pages, maxLength: pages }), fc.boolean(), (random, ril) => {
        const { host, domain } = attached({ ril })
        const base = 0x7f_ff00_0000n
        const at = (page: number): bigint => base + BigInt(page) * 0x1000n
        for (let page = 0; page < pages; page++) domain.map(at(page), at(page), 0x1000n, RW)
        const gone = new Set<bigint>()
        for (let page = 0; page < pages; page++) {
          if ((random[page] as number) < 100) continue
          domain.unmapFast(at(page), 0x1000n)
          gone.add(at(page))
        }
        const named = new Set<bigint>()
        for (const command of host.commands(() => domain.iotlbSync())) {
          const [first, end] = reach(command)
          for (let address = first; address < end; address += 0x1000n) {
            expect(named.has(address)).toBe(false)
            named.add(address)
          }
        }
        expect([...named].sort()).toEqual([...gone].sort())
      }),
      { seed: 7, numRuns: 25 },
    )
  })

  it("needs few commands for any length with range invalidation", () => {
    const { host, domain } = attached()
    for (const pages of [31n, 33n, 0x3ffn, 0x12345n]) {
      domain.map(0x1000n, 0x1000n, pages * 0x1000n, RW)
      const commands = host.commands(() => domain.unmap(0x1000n, pages * 0x1000n))
      expect(commands.length).toBeLessThan(16)
      for (const { fields } of commands) {
        // NUM = 0, SCALE = 0, TTL = 0 with a granule is reserved.
        expect(fields.TG !== 0n && fields.NUM === 0n && fields.SCALE === 0n && fields.TTL === 0n).toBe(false)
      }
    }
  })

  it("goes leaf by leaf without range invalidation, and by ASID above 512 leaves", () => {
    const { host, domain } = attached({ ril: false })
    domain.map(0x20_0000n, 0x20_0000n, 0x60_0000n, RW)
    const commands = host.commands(() => domain.unmap(0x20_0000n, 0x60_0000n))
    expect(commands.map(({ command, fields }) => [command, fields.Address, fields.TG, fields.TTL])).toEqual(
      [0x200n, 0x400n, 0x600n].map(page => ["CMD_TLBI_NH_VA", page, 0n, 0n]),
    )
    domain.map(0x1000n, 0x8000n, 0x1f_f000n, RW)
    domain.map(0x20_0000n, 0x8000n, 0x3000n, RW)
    expect(host.commandNames(() => domain.unmap(0x1000n, 0x20_2000n))).toEqual(["CMD_TLBI_NH_ASID"])
  })

  it("tells nobody when nothing is attached, since that was flushed at the last detach", () => {
    const { host, device, domain } = attached()
    domain.map(0x1000n, 0x8000n, 0x4000n, RW)
    const detach = host.commandNames(() => domain.detachDev(device))
    expect(detach).toEqual(["CMD_CFGI_STE", "CMD_CFGI_STE", "CMD_TLBI_NH_ASID"])
    expect(host.commandNames(() => domain.unmap(0x1000n, 0x4000n))).toEqual([])
    expect(host.commandNames(() => domain.flushIotlbAll())).toEqual([])
  })

  it("keeps what is gathered when the hardware hangs, for a later iotlbSync", () => {
    const { host, domain } = attached()
    domain.map(0x1000n, 0x8000n, 0x1000n, RW)
    host.hung = true
    expectErrno("ETIMEDOUT", () => domain.unmap(0x1000n, 0x1000n))
    host.hung = false
    expect(host.commandNames(() => domain.iotlbSync())).toContain("CMD_TLBI_NH_VA")
  })
})

describe("unmapping from stage 2", () => {
  it("invalidates by IPA and VMID", () => {
    const { host, domain } = attached({ format: 6 })
    domain.map(0x5000n, 0x8000n, 0x3000n, RW)
    const commands = host.commands(() => domain.unmap(0x5000n, 0x3000n))
    expect(commands.map(({ command, fields }) => [command, fields.VMID])).toEqual([["CMD_TLBI_S2_IPA", 1n]])
    expect(reach(commands[0] as Invalidation)).toEqual([0x5000n, 0x8000n])
  })

  it("takes combined entries along while a nested domain is attached, and only then", () => {
    const host = new Host()
    const device = host.device(0x10)
    const parent = host.paging(device, { flags: PAGING_NEST_PARENT })
    parent.map(0x5000n, 0x8000n, 0x8000n, RW)
    parent.attachDev(device)
    expect(host.commandNames(() => parent.unmap(0x5000n, 0x1000n))).toEqual(["CMD_TLBI_S2_IPA"])
    const nested = host.nested(device, parent, 0x10000bn, 0xd6n)
    nested.attachDev(device)
    expect(host.commandNames(() => parent.unmap(0x6000n, 0x1000n))).toEqual([
      "CMD_TLBI_S2_IPA",
      "CMD_TLBI_NH_ALL",
    ])
    expect(host.commandNames(() => nested.detachDev(device))).toContain("CMD_TLBI_S12_VMALL")
    expect(host.commandNames(() => parent.unmap(0x7000n, 0x1000n))).toEqual([])
  })

  it("drops a guest's own tags when the last device leaves its nested domain", () => {
    const host = new Host()
    const [one, two] = [host.device(0x10), host.device(0x11)]
    const parent = host.paging(one, { flags: PAGING_NEST_PARENT })
    const nested = host.nested(one, parent, 0x10000bn, 0xd6n)
    parent.attachDev(two)
    nested.attachDev(one)
    expect(host.commandNames(() => nested.detachDev(one))).toContain("CMD_TLBI_NH_ALL")
  })
})

describe("devices with ATS", () => {
  it("have their ATC invalidated after the TLBs, by PASID", () => {
    const { host, device, domain } = attached({ ats: true, pasidBits: 4 })
    expect(((host.ste(device)[1] as bigint) >> 28n) & 3n).toBe(1n)
    domain.setDevPasid?.(device, 3)
    domain.map(0x1000n, 0x8000n, 0x4000n, RW)
    const commands = host.commands(() => domain.unmap(0x1000n, 0x4000n))
    expect(commands.map(({ command }) => command)).toEqual(["CMD_TLBI_NH_VA", "CMD_ATC_INV", "CMD_ATC_INV"])
    const [, rid, pasid] = commands
    // Pages 1 to 4: the smallest power of two around them is pages 0 to 7.
    expect(rid?.fields).toMatchObject({ StreamID: 0x10n, SSV: 0n, Size: 3n, Address: 0n })
    expect(pasid?.fields).toMatchObject({ StreamID: 0x10n, SSV: 1n, SubstreamID: 3n, Size: 3n })
  })

  it("forget everything when they move", () => {
    const { host, device, domain } = attached({ ats: true })
    const commands = host.commands(() => domain.detachDev(device))
    expect(commands.at(-1)).toMatchObject({ command: "CMD_ATC_INV", fields: { StreamID: 0x10n, Size: 52n } })
  })

  it("use ATS in a nested domain only when the guest does", () => {
    const host = new Host()
    const device = host.device(0x10, { ats: true })
    const parent = host.paging(device, { flags: PAGING_NEST_PARENT })
    const eats = (): bigint => ((host.ste(device)[1] as bigint) >> 28n) & 3n
    host.nested(device, parent, 0x10000bn, 0xd6n).attachDev(device)
    expect(eats()).toBe(0n)
    const nested = host.nested(device, parent, 0x10000bn, 0x1000_00d6n)
    nested.attachDev(device)
    expect(eats()).toBe(1n)
    parent.map(0x1000n, 0x8000n, 0x1000n, RW)
    const commands = host.commands(() => parent.unmap(0x1000n, 0x1000n))
    expect(commands.at(-1)).toMatchObject({ command: "CMD_ATC_INV", fields: { Size: 52n } })
  })

  it("do without on an SMMU that has no ATS", () => {
    const host = new Host(SMMUV3_QEMU_NESTED)
    const device = host.device(0x10, { ats: true })
    const domain = host.alloc(device)
    domain.attachDev(device)
    expect(host.ste(device)[1]).toBe(0xd6n)
  })
})

describe("dirty tracking", () => {
  it("invalidates what it made clean, and nothing when nothing was dirty", () => {
    const host = new Host()
    const device = host.device(0x10)
    const domain = host.paging(device, { flags: PAGING_DIRTY_TRACKING })
    domain.map(0x1000n, 0x8000n, 0x4000n, RW)
    domain.attachDev(device)
    domain.dirty?.setDirtyTracking(true)
    // CD.HA and CD.HD, §5.4.
    expect(((host.cd(device)[0] as bigint) >> 42n) & 3n).toBe(3n)
    host.dma(device, 0x3000n, IOMMU_WRITE)
    const dirty = (): DirtyBitmap => new DirtyBitmap(0x1000n, 0x4000n, 0x1000n)
    expect(host.commandNames(() => domain.dirty?.readDirty(dirty()))).toEqual([])
    const commands = host.commands(() => domain.dirty?.readAndClearDirty(dirty()))
    expect(commands.map(reach)).toEqual([[0x3000n, 0x4000n]])
    expect(host.commandNames(() => domain.dirty?.readAndClearDirty(dirty()))).toEqual([])
  })
})
