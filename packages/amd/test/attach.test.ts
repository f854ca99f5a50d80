import { iommuDomainFree, PAGING_PASID } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { DTE_I, DTE_IRW, DTE_TV, DTE_V, expectErrno, guestDte, Host } from "./driver-machine.ts"

const RW = 3
const HOST_MODE = (levels: number): bigint => BigInt(levels) << 9n
const ADDRESS = 0x000f_ffff_ffff_f000n

describe("device table entries", () => {
  it("refuse from bring-up on: V and TV, no tables, neither IR nor IW", () => {
    const host = new Host()
    const base = host.model.mmio.read64(0) & ADDRESS
    for (let id = 0n; id < 256n; id++) expect(host.memory.read64(base + id * 32n)).toBe(DTE_V | DTE_TV)
    expect(host.dma(host.device(5), 0x1000n)).toBeNull()
  })

  it("say identity as IR and IW without tables", () => {
    const host = new Host()
    const device = host.device(5)
    host.ops.identityDomain.attachDev(device)
    expect(host.entry(device)[0]).toBe(DTE_V | DTE_TV | DTE_IRW)
    expect(host.dma(device, 0x12_3000n)).toBe(0x12_3000n)
  })

  it("name levels and root of a v1 domain, and an own DomainID", () => {
    const host = new Host()
    const [one, two] = [host.device(5), host.device(6)]
    const [a, b] = [host.alloc(one), host.alloc(one)]
    a.attachDev(one)
    b.attachDev(two)
    const [word0 = 0n, word1 = 0n] = host.entry(one)
    expect(word0 & ~ADDRESS).toBe(DTE_V | DTE_TV | DTE_IRW | HOST_MODE(3))
    expect(word0 & ADDRESS).not.toBe(0n)
    expect(word1 & 0xffffn).not.toBe((host.entry(two)[1] as bigint) & 0xffffn)
  })

  it("let an IOTLB be for devices with ATS", () => {
    const host = new Host()
    const device = host.device(5, { ats: true })
    expect((host.entry(device)[1] as bigint) & DTE_I).toBe(DTE_I)
    host.alloc(device).attachDev(device)
    expect((host.entry(device)[1] as bigint) & DTE_I).toBe(DTE_I)
  })

  it("keep the fields of interrupt remapping when the DMA part changes", () => {
    const host = new Host()
    const device = host.device(5)
    const base = (host.model.mmio.read64(0) & ADDRESS) + 5n * 32n
    const remap = (2n << 60n) | 0x4_5678_9000n | (9n << 1n) | 1n
    host.memory.write64(base + 16n, remap)
    host.paging(device, { flags: PAGING_PASID }).attachDev(device)
    expect((host.entry(device)[2] as bigint) & ~(3n << 54n)).toBe(remap)
    host.ops.blockedDomain.attachDev(device)
    expect(host.entry(device)[2]).toBe(remap)
  })
})

describe("changing a live entry", () => {
  /** Every entry that the hardware could have read must be the old one, the new one, or one that refuses. */
  function expectSafe(host: Host, device: Parameters<Host["entry"]>[0], change: () => void): void {
    const before = host.entry(device)
    const states = host.entryStates(device, change)
    const after = host.entry(device)
    expect(states.length).toBeGreaterThan(0)
    for (const state of states) {
      const refuses = state[0] === (DTE_V | DTE_TV)
      const whole = [before, after].some(entry => entry.every((word, i) => word === state[i]))
      expect(refuses || whole, state.map(word => word.toString(16)).join(" ")).toBe(true)
    }
  }

  it("never shows the hardware a mixture, nor V = 0", () => {
    const host = new Host()
    const device = host.device(5, { pasidBits: 16 })
    const parent = host.paging(device, { flags: 1 })
    const domains = [
      host.alloc(device),
      host.alloc(device),
      host.paging(device, { flags: PAGING_PASID }),
      host.ops.identityDomain,
      parent,
      host.nested(device, parent, guestDte(0x1000n, 1n)),
      host.nested(device, parent, [0n, 2n, 0n, 0n]),
      host.nested(device, parent, guestDte(0x7_1234_5000n, 3n)),
      host.ops.blockedDomain,
    ]
    for (const from of domains) {
      for (const to of domains) {
        if (from === to) continue
        from?.attachDev(device)
        expectSafe(host, device, () => to?.attachDev(device))
      }
    }
  })

  it("refuses first, waits until that has reached the caches, then writes the new entry", () => {
    const host = new Host()
    const device = host.device(5)
    const [old, next] = [host.alloc(device), host.alloc(device)]
    old.attachDev(device)
    const entryAtInvalidation: unknown[] = []
    host.model.onInvalidate = ({ command }) => {
      if (command === "INVALIDATE_DEVTAB_ENTRY") entryAtInvalidation.push(host.entry(device))
    }
    next.attachDev(device)
    const [refusing, final] = entryAtInvalidation as bigint[][]
    expect(refusing?.[0]).toBe(DTE_V | DTE_TV)
    expect(final).toEqual(host.entry(device))
    expect(entryAtInvalidation).toHaveLength(2)
  })

  it("changes an entry that refuses without a detour", () => {
    const host = new Host()
    const device = host.device(5)
    const domain = host.alloc(device)
    const commands = host.commands(() => domain.attachDev(device))
    expect(commands.map(({ command }) => command)).toEqual(["INVALIDATE_DEVTAB_ENTRY"])
  })

  it("drops what was translated through the entry with each change, not only the entry (XSA-442)", () => {
    const host = new Host()
    const [one, two] = [host.device(5), host.device(6)]
    const domain = host.alloc(one)
    domain.attachDev(one)
    domain.attachDev(two)
    const id = (host.entry(one)[1] as bigint) & 0xffffn
    for (const device of [one, two]) {
      const commands = host.commands(() => domain.detachDev(device))
      expect(commands.map(({ words }) => words)).toEqual([
        [(2n << 60n) | BigInt(device.id), 0n],
        [(3n << 60n) | (id << 32n), 0x7fff_ffff_ffff_f003n],
        [(2n << 60n) | BigInt(device.id), 0n],
      ])
    }
  })

  it("drops the device's own IOTLB when it has one", () => {
    const host = new Host()
    const device = host.device(5, { ats: true })
    const domain = host.alloc(device)
    domain.attachDev(device)
    const iotlb = host
      .commands(() => domain.detachDev(device))
      .find(({ command }) => command.includes("IOTLB"))
    expect(iotlb?.fields).toMatchObject({ DeviceID: 5n, S: 1n, Address: 0x7_ffff_ffff_ffffn })
  })
})

describe("a root that grows", () => {
  it("reaches the entries of all devices on the domain, in one store each", () => {
    const host = new Host()
    const [one, two] = [host.device(5), host.device(6)]
    const domain = host.alloc(one)
    domain.map(0x1000n, 0x5000n, 0x1000n, RW)
    domain.attachDev(one)
    domain.attachDev(two)
    const states = host.entryStates(one, () => domain.map(1n << 40n, 0x6000n, 0x1000n, RW))
    expect(states).toHaveLength(1)
    for (const device of [one, two]) {
      expect((host.entry(device)[0] as bigint) & HOST_MODE(7)).toBe(HOST_MODE(4))
      expect(host.dma(device, 0x1000n)).toBe(0x5000n)
      expect(host.dma(device, 1n << 40n)).toBe(0x6000n)
    }
    domain.map(1n << 63n, 0x7000n, 0x1000n, RW)
    expect(host.dma(two, 1n << 63n)).toBe(0x7000n)
    expect((host.entry(two)[0] as bigint) & HOST_MODE(7)).toBe(HOST_MODE(6))
  })

  it("does so through the number API, and under nested domains", () => {
    const host = new Host()
    const device = host.device(5)
    const parent = host.paging(device, { flags: 1 })
    const nested = host.nested(device, parent, [0n, 0n, 0n, 0n])
    nested.attachDev(device)
    expect(parent.mapPages(0x100, 0, 0, 0x6000, 1, RW)).toBe(0)
    expect((host.entry(device)[0] as bigint) & HOST_MODE(7)).toBe(HOST_MODE(4))
    expect(host.dma(device, 0x100_0000_0000n)).toBe(0x6000n)
  })
})

describe("a hardware that fails", () => {
  /** Makes the command buffer halt at the n-th time that it is set off, as after a bad command. */
  function breakQueue(host: Host, nth: number): () => void {
    const { mmio } = host.model
    const write64 = mmio.write64.bind(mmio)
    let runs = 0
    mmio.write64 = (offset, value) => {
      if (offset === 0x2008 && ++runs >= nth && value !== 0n) {
        host.memory.write64((mmio.read64(0x8) & ADDRESS) + mmio.read64(0x2000), 0xfn << 60n)
      }
      write64(offset, value)
    }
    return () => {
      mmio.write64 = write64
    }
  }

  it("leaves the device on its old domain, wherever it fails: EIO, entry and accounting as before", () => {
    const host = new Host()
    const device = host.device(5, { pasidBits: 12 })
    const old = host.alloc(device)
    const next = host.paging(device, { flags: PAGING_PASID })
    old.map(0x1000n, 0x5000n, 0x1000n, RW)
    old.attachDev(device)
    const before = { entry: host.entry(device), pages: host.account.usagePages }
    let failures = 0
    for (let nth = 1; ; nth++) {
      const repair = breakQueue(host, nth)
      try {
        next.attachDev(device)
        repair()
        break
      } catch (error) {
        repair()
        expect(error).toMatchObject({ code: "EIO" })
      }
      failures++
      expect({ entry: host.entry(device), pages: host.account.usagePages }).toEqual(before)
      expect(host.dma(device, 0x1000n)).toBe(0x5000n)
      expectErrno("EBUSY", () => iommuDomainFree(old))
    }
    // The entry that refuses, and the new one.
    expect(failures).toBe(2)
    iommuDomainFree(old)
    next.detachDev(device)
  })

  it("leaves each PASID on its old domain, too", () => {
    const host = new Host()
    const device = host.device(5, { pasidBits: 12 })
    const [old, next] = [0x5000n, 0x6000n].map(frame => {
      const domain = host.paging(device, { flags: PAGING_PASID })
      domain.map(0x1000n, frame, 0x1000n, RW)
      return domain
    })
    old?.setDevPasid?.(device, 1)
    for (const [nth, verb] of [
      [1, () => next?.setDevPasid?.(device, 1)],
      [1, () => old?.removeDevPasid?.(device, 1)],
      [2, () => old?.removeDevPasid?.(device, 1)],
      [3, () => old?.removeDevPasid?.(device, 1)],
    ] as const) {
      const repair = breakQueue(host, nth)
      expectErrno("EIO", verb)
      repair()
      expect(host.dma(device, 0x1000n, 1, 1)).toBe(0x5000n)
    }
    next?.setDevPasid?.(device, 1)
    expect(host.dma(device, 0x1000n, 1, 1)).toBe(0x6000n)
  })

  it("maps nothing when the entries cannot follow the root", () => {
    const host = new Host()
    const device = host.device(5)
    const domain = host.alloc(device)
    domain.attachDev(device)
    const repair = breakQueue(host, 1)
    expectErrno("EIO", () => domain.map(1n << 40n, 0x6000n, 0x1000n, RW))
    expect(domain.mapPages(0x100, 0, 0, 0x6000, 1, RW)).toBe(5)
    repair()
    expect(domain.iovaToPhys(1n << 40n)).toBeNull()
    domain.map(1n << 40n, 0x6000n, 0x1000n, RW)
    expect(host.dma(device, 1n << 40n)).toBe(0x6000n)
  })
})

describe("probe and release", () => {
  it("knows devices by number and by identity", () => {
    const host = new Host()
    const device = host.device(5)
    expectErrno("EEXIST", () => host.device(5))
    expectErrno("ENODEV", () => host.device(0x100))
    const domain = host.alloc(device)
    const twin = { ...device }
    expectErrno("ENODEV", () => domain.attachDev(twin))
    domain.attachDev(device)
    expectErrno("EBUSY", () => host.ops.releaseDevice(device))
    domain.detachDev(device)
    host.ops.releaseDevice(device)
    expectErrno("ENODEV", () => domain.attachDev(device))
    expectErrno("ENODEV", () => host.ops.releaseDevice(device))
  })

  it("takes a device off the identity domain at release", () => {
    const host = new Host()
    const device = host.device(5)
    host.ops.identityDomain.attachDev(device)
    host.ops.releaseDevice(device)
    expect(host.dma(device, 0x1000n)).toBeNull()
  })
})
