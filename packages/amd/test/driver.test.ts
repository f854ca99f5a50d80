import { amdDriver, amdModel, QEMU_11 } from "@iommu/amd"
import { createMemory, DirtyBitmap, type Mmio, PageAllocator } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { expectErrno, Host } from "./driver-machine.ts"

const CONTROL = 0x18
const CMD_HEAD = 0x2000
const CMD_TAIL = 0x2008
const STATUS = 0x2020
const RW = 3

function parts() {
  const memory = createMemory([{ base: 0, size: 0x100_0000 }])
  const pages = new PageAllocator(memory, { base: 0x80_0000, size: 0x80_0000 })
  const model = amdModel({ memory })
  return { memory, pages, model, mmio: model.mmio }
}

/** The registers with every access written down. */
function recorded(mmio: Mmio): { mmio: Mmio; writes: [number, bigint][] } {
  const writes: [number, bigint][] = []
  return {
    writes,
    mmio: {
      read32: offset => mmio.read32(offset),
      read64: offset => mmio.read64(offset),
      write32: (offset, value) => {
        writes.push([offset, BigInt(value)])
        mmio.write32(offset, value)
      },
      write64: (offset, value) => {
        writes.push([offset, value])
        mmio.write64(offset, value)
      },
    },
  }
}

describe("bring-up", () => {
  it("stops the unit, sets its bases and modes, and enables translation last", () => {
    const { memory, pages, mmio } = parts()
    const { mmio: spied, writes } = recorded(mmio)
    amdDriver({ memory, pages, mmio: spied }, { maxDeviceId: 0x7f })
    const at = (offset: number) => writes.findIndex(([to]) => to === offset)
    const controls = writes.filter(([to]) => to === CONTROL).map(([, value]) => value)
    // GCR3TRPMode, EPHEn, GTEn, PPREn, PPRLogEn, CmdBufEn, Coherent, EventLogEn.
    const modes = [58n, 45n, 16n, 15n, 13n, 12n, 10n, 2n].reduce((bits, n) => bits | (1n << n), 0n)
    expect(controls).toEqual([0n, modes, modes | 1n])
    const enabled = writes.findIndex(([to, value]) => to === CONTROL && (value & 1n) === 1n)
    for (const base of [0x0, 0x8, 0x10, 0x38]) expect(at(base)).toBeLessThan(enabled)
    expect(at(CMD_TAIL)).toBeGreaterThan(at(0x8))
    // One page of table: 128 entries.
    expect((writes[at(0x0)]?.[1] as bigint) & 0xfffn).toBe(0n)
  })

  it("has a table of 2 MiB for all DeviceIDs unless told otherwise", () => {
    const { memory, pages, mmio } = parts()
    const before = pages.pagesInUse
    amdDriver({ memory, pages, mmio })
    expect(mmio.read64(0) & 0x1ffn).toBe(0x1ffn)
    expect(pages.pagesInUse - before).toBeGreaterThan(512)
  })

  it("clears an exclusion range that firmware left", () => {
    const { memory, pages, mmio } = parts()
    mmio.write64(0x20, 0x10_0003n)
    amdDriver({ memory, pages, mmio }, { maxDeviceId: 0 })
    expect(mmio.read64(0x20)).toBe(0n)
  })

  it("empties the caches: INVALIDATE_IOMMU_ALL where there is one, else entry by entry", () => {
    const commandsOf = (extFeatures: bigint) => {
      const { memory, pages } = parts()
      const model = amdModel({ memory, extFeatures })
      const seen = new Map<string, number>()
      model.onInvalidate = ({ command }) => seen.set(command, (seen.get(command) ?? 0) + 1)
      amdDriver({ memory, pages, mmio: model.mmio }, { maxDeviceId: 0x7f })
      return Object.fromEntries(seen)
    }
    expect(commandsOf(1n << 6n)).toEqual({ INVALIDATE_IOMMU_ALL: 1 })
    expect(commandsOf(0n)).toEqual({ INVALIDATE_DEVTAB_ENTRY: 128, INVALIDATE_IOMMU_PAGES: 65536 })
  })

  it("refuses options out of range, and too little memory", () => {
    const { memory, pages, mmio } = parts()
    expectErrno("EINVAL", () => amdDriver({ memory, pages, mmio }, { maxDeviceId: 0x1_0000 }))
    expectErrno("EINVAL", () => amdDriver({ memory, pages, mmio }, { maxDeviceId: -1 }))
    const few = new PageAllocator(memory, { base: 0, size: 0x4000 })
    expectErrno("ENOMEM", () => amdDriver({ memory, pages: few, mmio }))
  })

  it("gives up on hardware that does not answer: ETIMEDOUT", () => {
    const { memory, pages } = parts()
    const dead: Mmio = { read32: () => 0, read64: () => 0n, write32: () => {}, write64: () => {} }
    expectErrno("ETIMEDOUT", () =>
      amdDriver({ memory, pages, mmio: dead }, { maxDeviceId: 0, pollLimit: 10 }),
    )
  })
})

describe("what the driver says of its hardware", () => {
  it("has the registers as they are", () => {
    const host = new Host()
    const { mmio } = host.model
    const info = { type: 4, efr: mmio.read64(0x30), efr2: mmio.read64(0x1a0) }
    expect(host.ops.hwInfo(host.device(5))).toEqual(info)
  })

  it("offers of QEMU's unit what it can do: no GIoSup, so neither guest tables nor nesting", () => {
    const host = new Host({ extFeatures: QEMU_11, extFeatures2: 0n })
    expect(host.ops.capabilities).toEqual({
      nesting: false,
      dirtyTracking: false,
      pasidBits: 0,
      formats: [3],
      userDataTypes: [0x8000_0001],
      invalidateDataTypes: [],
      coherentWalks: true,
    })
    const device = host.device(5)
    const domain = host.alloc(device)
    domain.map(0x1000n, 0x5000n, 0x1000n, RW)
    domain.attachDev(device)
    expect(host.dma(device, 0x1000n)).toBe(0x5000n)
    expectErrno("EOPNOTSUPP", () => host.nested(device, domain, [0n, 0n, 0n, 0n]))
  })
})

describe("the command buffer", () => {
  it("wraps, and never shows head equal to tail while it is full", () => {
    const host = new Host()
    const device = host.device(5)
    const domain = host.alloc(device)
    domain.attachDev(device)
    for (let round = 0; round < 1000; round++) {
      domain.map(0x1000n, 0x5000n, 0x1000n, RW)
      domain.unmap(0x1000n, 0x1000n)
      expect(host.dma(device, 0x1000n)).toBeNull()
    }
    const { mmio } = host.model
    expect(mmio.read64(CMD_HEAD)).toBe(mmio.read64(CMD_TAIL))
  })

  it("takes its completion numbers in the order of the buffer (CVE-2026-43220)", () => {
    const host = new Host()
    const device = host.device(5)
    const domain = host.alloc(device)
    const buffer = host.model.mmio.read64(0x8) & 0x000f_ffff_ffff_f000n
    for (let round = 0; round < 10; round++) {
      domain.attachDev(device)
      domain.detachDev(device)
    }
    const numbers: bigint[] = []
    for (let at = 0n; at < 0x1000n; at += 16n) {
      if (host.memory.read64(buffer + at) >> 60n === 1n) numbers.push(host.memory.read64(buffer + at + 8n))
    }
    expect(numbers.length).toBeGreaterThan(10)
    expect(numbers).toEqual(numbers.map((_, i) => BigInt(i + 1)))
  })

  it("tells a halted buffer from a slow one, and runs again after it: EIO", () => {
    const host = new Host()
    const device = host.device(5)
    const domain = host.alloc(device)
    domain.attachDev(device)
    domain.map(0x1000n, 0x5000n, 0x1000n, RW)
    const { mmio } = host.model
    const buffer = mmio.read64(0x8) & 0x000f_ffff_ffff_f000n
    const write64 = mmio.write64.bind(mmio)
    mmio.write64 = (offset, value) => {
      if (offset === CMD_TAIL) host.memory.write64(buffer + mmio.read64(CMD_HEAD), 0xen << 60n)
      write64(offset, value)
    }
    expectErrno("EIO", () => domain.unmap(0x1000n, 0x1000n))
    mmio.write64 = write64
    expect(mmio.read32(STATUS) & (1 << 4)).toBe(1 << 4)
    // What waited for its invalidation still does.
    const commands = host.commands(() => domain.iotlbSync())
    expect(commands.map(({ command }) => command)).toEqual(["INVALIDATE_IOMMU_PAGES"])
  })

  it("gives up on a buffer that does not move: ETIMEDOUT", () => {
    const host = new Host()
    const device = host.device(5)
    const domain = host.alloc(device)
    const { mmio } = host.model
    const write64 = mmio.write64.bind(mmio)
    mmio.write64 = (offset, value) => {
      if (offset !== CMD_TAIL) write64(offset, value)
    }
    const before = host.entry(device)
    expectErrno("ETIMEDOUT", () => domain.attachDev(device))
    expect(host.entry(device)).toEqual(before)
    mmio.write64 = write64
    domain.attachDev(device)
  })
})

describe("dirty tracking", () => {
  it("switches HAD in the entries of the domain and of nested ones, in one store each", () => {
    const host = new Host()
    const [one, two] = [host.device(5), host.device(6)]
    const parent = host.paging(one, { flags: 1 | 2 })
    const nested = host.nested(one, parent, [0n, 0n, 0n, 0n])
    parent.attachDev(one)
    nested.attachDev(two)
    const had = () => [one, two].map(device => ((host.entry(device)[0] as bigint) >> 7n) & 3n)
    expect(had()).toEqual([0n, 0n])
    const states = host.entryStates(two, () => parent.dirty?.setDirtyTracking(true))
    expect(states).toHaveLength(1)
    expect(had()).toEqual([3n, 3n])
    parent.dirty?.setDirtyTracking(false)
    expect(had()).toEqual([0n, 0n])
  })

  it("drops cached translations of pages that it made clean", () => {
    const host = new Host()
    const device = host.device(5)
    const domain = host.paging(device, { flags: 2 })
    domain.map(0x1000n, 0x5000n, 0x1000n, RW)
    domain.attachDev(device)
    domain.dirty?.setDirtyTracking(true)
    host.dma(device, 0x1000n, 2)
    const dirty = new DirtyBitmap(0n, 0x4000n, 0x1000n)
    const commands = host.commands(() => domain.dirty?.readAndClearDirty(dirty))
    expect([0n, 0x1000n, 0x2000n].map(iova => dirty.has(iova))).toEqual([false, true, false])
    expect(commands.map(({ words }) => words[1])).toEqual([0x1000n])
  })
})
