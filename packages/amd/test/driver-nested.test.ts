import { type CacheInvalidateData, type HwptAmdGuest, iommuDomainFree } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { DTE_GV, DTE_IRW, DTE_TV, DTE_V, expectErrno, guestDte, Host } from "./driver-machine.ts"

const RW = 3
const GUEST_RAM = 0x100_0000n
/** Guest physical pages of the guest's own tables. */
const GCR3_TABLE = 0x1000n
const LEVEL4 = 0x2000n

/** A guest with 64 KiB of memory in 4 KiB leaves, one device, and stage-1 tables that map IOVA 0x40_0000 to its page 0x9000. */
function setUp() {
  const host = new Host()
  const device = host.device(5, { virtualId: 0x18 })
  const parent = host.paging(device, { flags: 1 })
  for (let gpa = 0n; gpa < 0x1_0000n; gpa += 0x1000n) parent.map(gpa, GUEST_RAM + gpa, 0x1000n, RW)
  const write = (gpa: bigint, value: bigint) => host.memory.write64(GUEST_RAM + gpa, value)
  write(GCR3_TABLE, LEVEL4 | 1n)
  write(LEVEL4, 0x3000n | 7n)
  write(0x3000n, 0x4000n | 7n)
  write(0x4000n + 2n * 8n, 0x5000n | 7n)
  write(0x5000n, 0x9000n | 7n)
  const nested = host.nested(device, parent, guestDte(GCR3_TABLE, 0x77n))
  return { host, device, parent, nested, write }
}

const IOVA = 0x40_0000n

describe("a nested domain", () => {
  it("translates through the guest's tables and the parent's", () => {
    const { host, device, nested } = setUp()
    nested.attachDev(device)
    expect(host.dma(device, IOVA)).toBe(GUEST_RAM + 0x9000n)
    expect(host.dma(device, IOVA + 0x1000n)).toBeNull()
  })

  it("has the host's tables and tags in its entry, and the guest's GCR3 pointer", () => {
    const { host, device, parent, nested } = setUp()
    parent.attachDev(device)
    const [host0 = 0n, host1 = 0n] = host.entry(device)
    nested.attachDev(device)
    const [word0 = 0n, word1 = 0n] = host.entry(device)
    const guest = guestDte(GCR3_TABLE, 0n)[0] & ~(DTE_V | DTE_TV | DTE_IRW)
    expect(word0).toBe(host0 | guest)
    expect(word1 & 0xffffn).not.toBe(0x77n)
    expect(word1 & 0xffffn).not.toBe(host1 & 0xffffn)
  })

  it("gives one host DomainID to each of the guest's, and takes it back with the last user", () => {
    const { host, device, parent, nested } = setUp()
    const same = host.nested(device, parent, guestDte(0x8000n, 0x77n))
    const other = host.nested(device, parent, guestDte(0x8000n, 0x78n))
    const idOn = (domain: typeof nested) => {
      domain.attachDev(device)
      return (host.entry(device)[1] as bigint) & 0xffffn
    }
    const [a, b, c] = [idOn(nested), idOn(same), idOn(other)]
    expect(a).toBe(b)
    expect(c).not.toBe(a)
    iommuDomainFree(nested)
    expect(idOn(host.nested(device, parent, guestDte(0x9000n, 0x77n)))).toBe(a)
  })

  it("runs out of DomainIDs with ENOSPC, leaving nothing behind", () => {
    const { host, device, parent } = setUp()
    const made = []
    for (;;) {
      try {
        made.push(host.nested(device, parent, [0n, BigInt(made.length), 0n, 0n]))
      } catch (error) {
        expect(error).toMatchObject({ code: "ENOSPC" })
        break
      }
      if (made.length > 0xffff) throw new Error("the IDs never end")
    }
    for (const domain of made) iommuDomainFree(domain)
    iommuDomainFree(host.nested(device, parent, [0n, 0xffffn, 0n, 0n]))
  })

  it("means what the book says where Linux installs the guest's tables all the same", () => {
    const { host, device, parent, write } = setUp()
    write(0n, 0n)
    const at = (dte: HwptAmdGuest["dte"], access = 1) => {
      host.nested(device, parent, dte).attachDev(device)
      return host.dma(device, 0x9000n, access)
    }
    const full = guestDte(GCR3_TABLE, 0x77n)
    const without = (bits: bigint): HwptAmdGuest["dte"] => [full[0] & ~bits, full[1], 0n, 0n]
    // V = 0: the guest's IOMMU lets requests through, as guest physical addresses.
    expect(at(without(DTE_V))).toBe(GUEST_RAM + 0x9000n)
    // TV = 0: it refuses what would need a translation.
    expect(at(without(DTE_TV))).toBeNull()
    // GV = 0: no stage 1; IR and IW decide.
    expect(at(without(DTE_GV))).toBe(GUEST_RAM + 0x9000n)
    expect(at(without(DTE_GV | (1n << 62n)))).toBe(GUEST_RAM + 0x9000n)
    expect(at(without(DTE_GV | (1n << 62n)), 2)).toBeNull()
    expect(at(without(DTE_GV | DTE_IRW))).toBeNull()
    expect(at(without(DTE_IRW))).toBeNull()
  })

  it("flushes the tags of all its children when the parent loses pages", () => {
    const { host, device, parent, nested } = setUp()
    const second = host.device(6)
    const other = host.nested(second, parent, guestDte(GCR3_TABLE, 0x99n))
    host.nested(second, parent, guestDte(GCR3_TABLE, 0xaan))
    nested.attachDev(device)
    other.attachDev(second)
    const ids = [device, second].map(each => (host.entry(each)[1] as bigint) & 0xffffn)
    const commands = host.commands(() => parent.unmap(0x9000n, 0x1000n))
    expect(commands.map(({ words }) => words)).toEqual(ids.map(id => [(3n << 60n) | (id << 32n), 0x9000n]))
    expect(host.dma(device, IOVA)).toBeNull()
  })

  it("keeps no IOTLB for devices whose PASIDs only the guest knows", () => {
    const { host, parent } = setUp()
    const plain = host.device(7, { ats: true })
    const withPasids = host.device(8, { ats: true, pasidBits: 8 })
    const nested = host.nested(plain, parent, guestDte(GCR3_TABLE, 1n))
    nested.attachDev(plain)
    nested.attachDev(withPasids)
    expect(((host.entry(plain)[1] as bigint) >> 32n) & 1n).toBe(1n)
    expect(((host.entry(withPasids)[1] as bigint) >> 32n) & 1n).toBe(0n)
    const iotlb = host
      .commands(() => parent.unmap(0x9000n, 0x1000n))
      .filter(({ command }) => command === "INVALIDATE_IOTLB_PAGES")
    expect(iotlb.map(({ fields }) => [fields["DeviceID"], fields["Address"]])).toEqual([
      [7n, 0x7_ffff_ffff_ffffn],
    ])
  })

  it("does not go with a parent in use, nor freed twice", () => {
    const { device, parent, nested } = setUp()
    nested.attachDev(device)
    expectErrno("EBUSY", () => iommuDomainFree(nested))
    expectErrno("EBUSY", () => iommuDomainFree(parent))
    nested.detachDev(device)
    iommuDomainFree(nested)
    expectErrno("EINVAL", () => iommuDomainFree(nested))
    expectErrno("EINVAL", () => nested.attachDev(device))
    iommuDomainFree(parent)
  })
})

describe("cacheInvalidateUser", () => {
  const AMD_GUEST = 0x8000_0003
  const request = (...cmds: (readonly [bigint, bigint])[]): CacheInvalidateData => ({
    type: AMD_GUEST,
    entries: cmds.map(cmd => ({ cmd })),
  })

  it("carries out INVALIDATE_IOMMU_PAGES under the host's DomainID", () => {
    const { host, device, nested } = setUp()
    nested.attachDev(device)
    const id = (host.entry(device)[1] as bigint) & 0xffffn
    const commands = host.commands(() => {
      const result = nested.cacheInvalidateUser?.(request([(3n << 60n) | (0x77n << 32n), IOVA | 4n]))
      expect(result).toEqual({ handled: 1, error: null })
    })
    expect(commands.map(({ words }) => words)).toEqual([[(3n << 60n) | (id << 32n), IOVA | 4n]])
  })

  it("never touches a DomainID that the guest has no entry for", () => {
    const { host, device, nested } = setUp()
    nested.attachDev(device)
    for (let gDomID = 0n; gDomID < 8n; gDomID++) {
      const call = () => nested.cacheInvalidateUser?.(request([(3n << 60n) | (gDomID << 32n), 0n]))
      expect(host.commands(call)).toEqual([])
    }
  })

  it("replaces the guest's device number, and answers EIO to one it does not know", () => {
    const { host, device, nested } = setUp()
    nested.attachDev(device)
    const known = request([(2n << 60n) | 0x18n, 0n])
    const [command] = host.commands(() => nested.cacheInvalidateUser?.(known))
    expect(command?.words).toEqual([(2n << 60n) | 5n, 0n])
    for (const opcode of [2n, 4n]) {
      const result = nested.cacheInvalidateUser?.(request([(opcode << 60n) | 5n, 0n]))
      expect(result).toMatchObject({ handled: 0, error: { code: "EIO" } })
    }
  })

  it("drops an IOTLB only of devices that have one, with the queue fields of the host", () => {
    const { host, parent } = setUp()
    const ats = host.device(7, { ats: true, virtualId: 0x20 })
    const nested = host.nested(ats, parent, guestDte(GCR3_TABLE, 1n))
    nested.attachDev(ats)
    const guestQueue = (0xffn << 24n) | (0x1234n << 32n)
    const call = () =>
      nested.cacheInvalidateUser?.(request([(4n << 60n) | guestQueue | 0x20n, IOVA | 0x1000n]))
    const [command] = host.commands(call)
    expect(command?.fields).toMatchObject({ DeviceID: 7n, QueueID: 7n, MaxPend: 1n, Address: 0x401n, GN: 0n })
  })

  it("turns INVALIDATE_IOMMU_ALL into all that is the guest's", () => {
    const { host, device, nested } = setUp()
    nested.attachDev(device)
    const id = (host.entry(device)[1] as bigint) & 0xffffn
    const commands = host.commands(() => nested.cacheInvalidateUser?.(request([8n << 60n, 0n])))
    expect(commands.map(({ words }) => words)).toEqual([
      [(3n << 60n) | (id << 32n), 0x7fff_ffff_ffff_f000n | 3n],
      [(2n << 60n) | 5n, 0n],
    ])
  })

  it("does everything before the first bad entry, and nothing after", () => {
    const { host, device, nested } = setUp()
    nested.attachDev(device)
    const good = [(2n << 60n) | 0x18n, 0n] as const
    const bad = [(1n << 60n) | 0x1000n | 1n, 0x55n] as const
    let result: ReturnType<NonNullable<typeof nested.cacheInvalidateUser>> | undefined
    const commands = host.commands(() => {
      result = nested.cacheInvalidateUser?.(request(good, good, bad, good))
    })
    expect(result).toMatchObject({ handled: 2, error: { code: "EIO" } })
    expect(commands).toHaveLength(2)
  })

  it("answers EINVAL to another type, and 0 to an empty array", () => {
    const { nested } = setUp()
    expect(nested.cacheInvalidateUser?.(request())).toEqual({ handled: 0, error: null })
    expect(nested.cacheInvalidateUser?.({ type: 0, entries: [] })).toMatchObject({
      error: { code: "EINVAL" },
    })
  })
})
