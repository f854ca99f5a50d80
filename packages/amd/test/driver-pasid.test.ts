import { iommuDomainFree, PAGING_PASID } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { DTE_GIOV, DTE_GV, expectErrno, guestDte, Host } from "./driver-machine.ts"

const RW = 3
const PASID = { flags: PAGING_PASID }

function setUp() {
  const host = new Host()
  const device = host.device(5, { pasidBits: 16 })
  const make = (frame: bigint) => {
    const domain = host.paging(device, PASID)
    domain.map(0x1000n, frame, 0x1000n, RW)
    return domain
  }
  return { host, device, make }
}

describe("GCR3 tables", () => {
  it("are as deep as the device's PASIDs need", () => {
    const host = new Host()
    for (const [id, pasidBits, glx, pages] of [
      [1, 0, 0n, 1],
      [2, 9, 0n, 1],
      [3, 10, 1n, 2],
      [4, 18, 1n, 2],
      [5, 20, 2n, 3],
    ] as const) {
      const device = host.device(id, { pasidBits })
      const domain = host.paging(device, PASID)
      const before = host.account.usagePages
      domain.attachDev(device)
      expect(((host.entry(device)[0] as bigint) >> 56n) & 3n).toBe(glx)
      expect(host.account.usagePages - before).toBe(pages)
      domain.detachDev(device)
      expect(host.account.usagePages).toBe(before)
    }
  })

  it("hold a guest table for each PASID, and PASID 0 serves requests without one", () => {
    const { host, device, make } = setUp()
    const [rid, one, far] = [make(0xa000n), make(0xb000n), make(0xc000n)]
    rid.attachDev(device)
    one.setDevPasid?.(device, 1)
    far.setDevPasid?.(device, 0xffff)
    expect(host.dma(device, 0x1000n)).toBe(0xa000n)
    expect(host.dma(device, 0x1000n, 1, 1)).toBe(0xb000n)
    expect(host.dma(device, 0x1000n, 1, 0xffff)).toBe(0xc000n)
    expect(host.dma(device, 0x1000n, 1, 2)).toBeNull()
  })

  it("let PASIDs work next to a RID that is blocked, and one that is not translated", () => {
    const { host, device, make } = setUp()
    const domain = make(0xb000n)
    domain.setDevPasid?.(device, 7)
    expect(host.dma(device, 0x1000n)).toBeNull()
    expect(host.dma(device, 0x1000n, 1, 7)).toBe(0xb000n)
    host.ops.identityDomain.attachDev(device)
    expect(host.dma(device, 0x1234_5000n)).toBe(0x1234_5000n)
    expect(host.dma(device, 0x1000n, 1, 7)).toBe(0xb000n)
    const rid = make(0xa000n)
    rid.attachDev(device)
    expect(host.dma(device, 0x1000n)).toBe(0xa000n)
    rid.detachDev(device)
    expect(host.dma(device, 0x1000n)).toBeNull()
    expect(host.dma(device, 0x1000n, 1, 7)).toBe(0xb000n)
    domain.removeDevPasid?.(device, 7)
    expect((host.entry(device)[0] as bigint) & (DTE_GV | DTE_GIOV)).toBe(0n)
    iommuDomainFree(domain)
    iommuDomainFree(rid)
    expect(host.account.usagePages).toBe(0)
  })

  it("replace a live entry in one store, and drop just that PASID from the caches", () => {
    const { host, device, make } = setUp()
    const [one, two] = [make(0xa000n), make(0xb000n)]
    one.setDevPasid?.(device, 3)
    const id = (host.entry(device)[1] as bigint) & 0xffffn
    const commands = host.commands(() => two.setDevPasid?.(device, 3))
    expect(commands.map(({ words }) => words)).toEqual([
      [(3n << 60n) | (id << 32n) | 3n, 0x7fff_ffff_ffff_f000n | 7n],
    ])
    expect(host.dma(device, 0x1000n, 1, 3)).toBe(0xb000n)
    iommuDomainFree(one)
  })

  it("have a DomainID each, because PASIDs mean different things to different devices", () => {
    const { host, device, make } = setUp()
    const other = host.device(6, { pasidBits: 16 })
    const domain = make(0xa000n)
    domain.attachDev(device)
    domain.attachDev(other)
    const ids = [device, other].map(each => (host.entry(each)[1] as bigint) & 0xffffn)
    expect(ids[0]).not.toBe(ids[1])
    domain.setDevPasid?.(device, 9)
    const commands = host.commands(() => domain.unmap(0x1000n, 0x1000n))
    const tags = commands.map(({ fields }) => [
      fields["DomainID"],
      fields["PASID"],
      fields["GN"],
      fields["Address"],
    ])
    expect(tags).toEqual([
      [ids[0], 0n, 1n, 1n],
      [ids[1], 0n, 1n, 1n],
      [ids[0], 9n, 1n, 1n],
    ])
  })
})

describe("PASIDs that cannot be", () => {
  it("has no verbs on domains that were not made for PASIDs", () => {
    const { host, device } = setUp()
    expect(host.alloc(device).setDevPasid).toBeUndefined()
    expect(host.paging(device, { format: 4 }).setDevPasid).toBeUndefined()
    expect(
      host.nested(device, host.paging(device, { flags: 1 }), [0n, 0n, 0n, 0n]).setDevPasid,
    ).toBeUndefined()
  })

  it("refuses a RID domain under PASIDs that has no room for them: EINVAL", () => {
    const { host, device, make } = setUp()
    const domain = make(0xa000n)
    const parent = host.paging(device, { flags: 1 })
    const nested = host.nested(device, parent, guestDte(0x1000n, 0n))
    domain.setDevPasid?.(device, 1)
    for (const wrong of [host.alloc(device), parent, nested])
      expectErrno("EINVAL", () => wrong.attachDev(device))
    domain.removeDevPasid?.(device, 1)
    for (const wrong of [host.alloc(device), parent, nested]) {
      wrong.attachDev(device)
      expectErrno("EINVAL", () => domain.setDevPasid?.(device, 1))
    }
  })

  it("refuses guest tables of other levels on one device: EINVAL", () => {
    const { host, device } = setUp()
    const five = host.paging(device, { ...PASID, levels: 5 })
    const four = host.paging(device, { ...PASID, levels: 4 })
    five.attachDev(device)
    expectErrno("EINVAL", () => four.setDevPasid?.(device, 1))
    five.setDevPasid?.(device, 1)
    expectErrno("EINVAL", () => four.attachDev(device))
    five.removeDevPasid?.(device, 1)
    four.attachDev(device)
    expect(((host.entry(device)[2] as bigint) >> 54n) & 3n).toBe(0n)
  })

  it("does not release a device with PASIDs in use: EBUSY", () => {
    const { host, device, make } = setUp()
    const domain = make(0xa000n)
    domain.setDevPasid?.(device, 1)
    expectErrno("EBUSY", () => host.ops.releaseDevice(device))
    domain.removeDevPasid?.(device, 1)
    host.ops.releaseDevice(device)
  })

  it("leaves the device where it is when the owner has no page for a GCR3 table: ENOMEM", () => {
    const { host, device, make } = setUp()
    const v1 = host.alloc(device)
    v1.map(0x1000n, 0x5000n, 0x1000n, RW)
    v1.attachDev(device)
    const v2 = make(0xa000n)
    const before = { entry: host.entry(device), pages: host.account.usagePages }
    for (const more of [0, 1]) {
      host.account.limitPages = before.pages + more
      expectErrno("ENOMEM", () => v2.attachDev(device))
      expect({ entry: host.entry(device), pages: host.account.usagePages }).toEqual(before)
    }
    host.account.limitPages = before.pages + 2
    v2.attachDev(device)
    expect(host.dma(device, 0x1000n)).toBe(0xa000n)
  })

  it("drops what was cached through a GCR3 table when it goes, of requests without PASID", () => {
    const { host, device, make } = setUp()
    make(0xa000n).attachDev(device)
    const id = (host.entry(device)[1] as bigint) & 0xffffn
    const pages = host
      .commands(() => host.alloc(device).attachDev(device))
      .filter(({ command }) => command === "INVALIDATE_IOMMU_PAGES")
    const all = 0x7fff_ffff_ffff_f000n
    expect(pages.map(({ words }) => words)).toEqual([
      [(3n << 60n) | (id << 32n), all | 3n],
      [(3n << 60n) | (id << 32n), all | 7n],
    ])
  })

  it("charges the account that the device had when the pages were taken", () => {
    const { host, device, make } = setUp()
    const domain = make(0xa000n)
    const first = host.account
    const pages = first.usagePages
    domain.setDevPasid?.(device, 1)
    const before = first.usagePages
    device.account = new (first.constructor as new (name: string) => typeof first)("next owner")
    domain.setDevPasid?.(device, 0x8000)
    expect(first.usagePages).toBe(before)
    expect(device.account.usagePages).toBe(1)
    domain.removeDevPasid?.(device, 0x8000)
    domain.removeDevPasid?.(device, 1)
    expect(device.account.usagePages).toBe(0)
    expect(first.usagePages).toBe(pages)
  })
})
