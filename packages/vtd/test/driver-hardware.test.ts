/** Bring-up and the invalidation queue, on the model and on hardware that misbehaves. */
import { createMemory, type IommuPlatform, MemoryAccount, type Mmio, PageAllocator } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { DeviceTable } from "../src/driver/device-table.ts"
import { Hardware, type VtdDriverOptions } from "../src/driver/hardware.ts"
import { EVERYTHING, LEGACY_ONLY, type VtdCapabilities, vtdModel } from "../src/index.ts"
import * as reg from "../src/spec/registers.ts"

function platform(capabilities: VtdCapabilities = EVERYTHING) {
  const memory = createMemory([{ base: 0n, size: 0x40_0000n }])
  const pages = new PageAllocator(memory, { base: 0x20_0000n, size: 0x20_0000n })
  const model = vtdModel({ memory, capabilities })
  return { model, memory, pages, mmio: model.mmio }
}

/** Every write to a register, by name. */
function recorded(mmio: Mmio, writes: string[]): Mmio {
  const nameOf = (offset: number): string =>
    Object.entries(reg.REGISTERS).find(([, [at]]) => at === offset)?.[0] ?? offset.toString(16)
  return {
    read32: offset => mmio.read32(offset),
    read64: offset => mmio.read64(offset),
    write32: (offset, value) => {
      writes.push(`${nameOf(offset)}=${value.toString(16)}`)
      mmio.write32(offset, value)
    },
    write64: (offset, value) => {
      writes.push(`${nameOf(offset)}=${value.toString(16)}`)
      mmio.write64(offset, value)
    },
  }
}

function start(p: IommuPlatform, options: VtdDriverOptions = {}): Hardware {
  const hardware = new Hardware(p, options)
  hardware.start(BigInt(new DeviceTable(hardware).root))
  return hardware
}

const GSTS = reg.REGISTERS.GSTS[0]

describe("bring-up", () => {
  it("goes by the book: queue, root table, global invalidations, page requests, translation on", () => {
    const p = platform()
    const writes: string[] = []
    const seen: string[] = []
    p.model.onInvalidate = ({ command, fields }) => seen.push(`${command} ${fields.G}`)
    start({ ...p, mmio: recorded(p.mmio, writes) })
    expect(writes.filter(w => !w.startsWith("IQT"))).toEqual([
      "FSTS=70",
      "IQA=200800",
      "GCMD=4000000",
      "RTADDR=203400",
      "GCMD=44000000",
      "PQH=0",
      "PQT=0",
      "PQA=202000",
      "PRS=3",
      "GCMD=84000000",
    ])
    expect(seen).toEqual(["cc_inv_dsc 1", "pc_inv_dsc 3", "iotlb_inv_dsc 1"])
    expect(p.mmio.read32(GSTS)).toBe((reg.TE | reg.QIE | reg.SRTP) >>> 0)
  })

  it("takes legacy mode, with 128-bit descriptors, when there is no other or it is asked for", () => {
    for (const [capabilities, options] of [
      [LEGACY_ONLY, {}],
      [EVERYTHING, { mode: "legacy" }],
    ] as const) {
      const p = platform(capabilities)
      const { features } = start(p, options)
      expect(features.scalable).toBe(false)
      expect(p.mmio.read64(reg.REGISTERS.RTADDR[0])).toBe(0x20_2000n)
      expect(p.mmio.read64(reg.REGISTERS.IQA[0])).toBe(0x20_0000n)
    }
  })

  it("takes over a unit that firmware left on", () => {
    const p = platform()
    start(p)
    const { features } = start(p)
    expect(features.scalable).toBe(true)
    expect(p.mmio.read32(GSTS) & reg.TE).not.toBe(0)
  })

  it("ENODEV without queued invalidation, and for scalable mode on legacy hardware", () => {
    const noQueue = { ...EVERYTHING, ecap: EVERYTHING.ecap & ~2n }
    expect(() => start(platform(noQueue))).toThrow(expect.objectContaining({ code: "ENODEV" }))
    const legacy = platform(LEGACY_ONLY)
    expect(() => start(legacy, { mode: "scalable" })).toThrow(expect.objectContaining({ code: "ENODEV" }))
  })

  it("ETIMEDOUT from hardware that does not answer, and from a queue that stands still", () => {
    const dead = platform()
    const mmio: Mmio = { ...recorded(dead.mmio, []), write32: () => {} }
    expect(() => start({ ...dead, mmio }, { maxPolls: 10 })).toThrow(
      expect.objectContaining({ code: "ETIMEDOUT" }),
    )
    const stuck = platform()
    const noTail: Mmio = {
      ...recorded(stuck.mmio, []),
      write32: (offset, value) => {
        if (offset !== reg.REGISTERS.IQT[0]) stuck.mmio.write32(offset, value)
      },
    }
    expect(() => start({ ...stuck, mmio: noTail }, { maxPolls: 10 })).toThrow(
      expect.objectContaining({ code: "ETIMEDOUT" }),
    )
  })
})

describe("the invalidation queue", () => {
  it("wraps, and waits by itself before it is full", () => {
    const p = platform()
    const { queue } = start(p)
    const seen: bigint[] = []
    p.model.onInvalidate = ({ fields }) => seen.push(fields.DID as bigint)
    const dids = Array.from({ length: 1000 }, (_, i) => i + 2)
    for (const did of dids) queue.iotlbDomain(did)
    queue.sync()
    expect(seen.map(Number)).toEqual(dids)
  })

  it("rings the doorbell once for a batch, and not at all for nothing", () => {
    const p = platform()
    const writes: string[] = []
    const { queue } = start({ ...p, mmio: recorded(p.mmio, writes) })
    writes.length = 0
    queue.sync()
    expect(writes).toEqual([])
    for (let did = 2; did < 12; did++) queue.iotlbDomain(did)
    queue.sync()
    expect(writes).toHaveLength(1)
  })

  it("never overruns a queue that stands still, and works again when it moves", () => {
    const p = platform()
    let isDeaf = false
    const mmio: Mmio = {
      ...recorded(p.mmio, []),
      write32: (offset, value) => {
        if (!isDeaf || offset !== reg.REGISTERS.IQT[0]) p.mmio.write32(offset, value)
      },
    }
    const { queue } = start({ ...p, mmio }, { maxPolls: 3 })
    isDeaf = true
    for (let did = 2; did < 1000; did++) {
      const run = () => {
        queue.iotlbDomain(did)
        queue.sync()
      }
      expect(run).toThrow(expect.objectContaining({ code: "ETIMEDOUT" }))
    }
    isDeaf = false
    const seen: number[] = []
    p.model.onInvalidate = ({ fields }) => seen.push(Number(fields.DID))
    queue.iotlbDomain(1000)
    queue.sync()
    // One turn of the ring: 126 invalidations and waits that were kept, and the new one.
    expect(seen.slice(0, 3)).toEqual([2, 3, 4])
    expect(seen.at(-1)).toBe(1000)
    expect(seen.length).toBeLessThan(128)
  })

  it("EIO for a descriptor that the hardware refuses, and goes on after it", () => {
    const p = platform(LEGACY_ONLY)
    const { queue } = start(p)
    queue.pasidCache(2, 0)
    queue.iotlbDomain(7)
    const seen: bigint[] = []
    p.model.onInvalidate = ({ fields }) => seen.push(fields.DID as bigint)
    expect(() => queue.sync()).toThrow(expect.objectContaining({ code: "EIO" }))
    expect(p.mmio.read32(reg.REGISTERS.FSTS[0]) & reg.IQE).toBe(0)
    queue.iotlbDomain(8)
    queue.sync()
    expect(seen).toEqual([7n, 8n])
  })

  it("encodes page ranges up to the last page, and device-TLB sizes in the address", () => {
    const p = platform()
    const { queue } = start(p)
    const seen: (readonly bigint[])[] = []
    p.model.onInvalidate = ({ words }) => seen.push(words.slice(0, 2))
    queue.iotlbPages(0xabcd, 2 ** 52 - 1, 0, true)
    queue.pasidIotlbPages(3, 0xfffff, 0x12345678_9ab00, 8, false)
    queue.deviceTlb(0x1234, 0x10, 4)
    queue.deviceTlb(0x1234, 0, 52)
    queue.pasidDeviceTlb(0x1234, 0x54321, 0x77, 0)
    queue.sync()
    // Words put together by hand from the tables of §6.5.2.3 to §6.5.2.6.
    expect(seen).toEqual([
      [0x0000_0000_abcd_00f2n, 0xffff_ffff_ffff_f040n],
      [0x000f_ffff_0003_0036n, 0x1234_5678_9ab0_0008n],
      [0x1230_1234_0000_4003n, 0x0000_0000_0001_7001n],
      [0x1230_1234_0000_4003n, 0x7fff_ffff_ffff_f001n],
      [0x1235_4321_1234_4008n, 0x0000_0000_0007_7000n],
    ])
  })
})

it("charges what serves all owners to the driver", () => {
  const p = platform()
  const hardware = start(p)
  expect(hardware.account).toBeInstanceOf(MemoryAccount)
  expect(hardware.account.usagePages).toBe(p.pages.pagesInUse)
})
