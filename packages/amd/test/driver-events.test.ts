/** The event log read by the driver, and whose events they are. AMD 48882 rev 3.10, §2.5. */

import { amdDriver } from "@iommu/amd"
import { iommuDevice, iommuDomainFree, MemoryAccount, type ViommuEvent, ViommuType } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { DTE_GV, DTE_IRW, DTE_TV, expectErrno, guestDte, Host } from "./driver-machine.ts"

const RW = 3
const GUEST_RAM = 0x100_0000n
const GCR3_TABLE = 0x1000n
const VIRTUAL = 0xbeefn
const G_DOM_ID = 0x77n
const IOVA = 0x40_0000n

/** A guest on a virtual IOMMU; stage 1 maps IOVA 0x40_0000 to its page 0x9000, read-only, and the page after to a hole. */
function guest(host = new Host(), id = 5) {
  const device = host.device(id)
  const parent = host.paging(device, { flags: 1 })
  for (let gpa = 0n; gpa < 0x1_0000n; gpa += 0x1000n) parent.map(gpa, GUEST_RAM + gpa, 0x1000n, RW)
  const write = (gpa: bigint, value: bigint) => host.memory.write64(GUEST_RAM + gpa, value)
  write(GCR3_TABLE, 0x2000n | 1n)
  write(0x2000n, 0x3000n | 7n)
  write(0x3000n, 0x4000n | 7n)
  write(0x4000n + 2n * 8n, 0x5000n | 7n)
  write(0x5000n, 0x9000n | 5n)
  write(0x5008n, 0x80_0000n | 7n)
  const viommu = host.ops.viommu?.alloc(device, parent, ViommuType.AMD, new Uint8Array())
  if (viommu?.domainAllocNested === undefined) throw new Error("no virtual IOMMU")
  const events: ViommuEvent[] = []
  viommu.onEvent = event => events.push(event)
  const nested = (dte = guestDte(GCR3_TABLE, G_DOM_ID)) => {
    const domain = viommu.domainAllocNested?.(device, { type: 3, dte })
    if (domain === undefined) throw new Error("no nested domain")
    return domain
  }
  return { host, device, parent, viommu, events, nested, write }
}

/** Both words of an event as a guest gets it. */
function words({ data }: ViommuEvent): bigint[] {
  const view = new DataView(data.buffer)
  return [view.getBigUint64(0, true), view.getBigUint64(8, true)]
}

/** The record that the hardware left, with the guest's DeviceID. */
function renamed(host: Host): bigint[] {
  const [first = 0n, second = 0n] = host.model.result.fault?.record ?? []
  return [(first & ~0xffffn) | VIRTUAL, second]
}

describe("events of a guest", () => {
  it.each([
    ["a page that its tables do not map", IOVA + 0x8000n, 1],
    ["a write that its tables do not allow", IOVA, 2],
  ])("tell of %s, with its own DeviceID", (_, iova, access) => {
    const { host, device, viommu, events, nested } = guest()
    viommu.vdeviceAlloc?.(device, VIRTUAL)
    nested().attachDev(device)
    expect(host.dma(device, iova, access)).toBeNull()
    expect(host.ops.handleInterrupts()).toBe(1)
    expect(events.map(({ type }) => type)).toEqual([0x8000_0003])
    expect(events.map(words)).toEqual([renamed(host)])
    expect(host.events).toEqual([])
  })

  it("tell of what its entry refuses, with its own DomainID", () => {
    const { host, device, viommu, events, nested } = guest()
    viommu.vdeviceAlloc?.(device, VIRTUAL)
    const [word0, word1] = guestDte(GCR3_TABLE, G_DOM_ID)
    nested([word0 & ~DTE_TV, word1, 0n, 0n]).attachDev(device)
    const hostId = ((host.entry(device)[1] as bigint) & 0xffffn) << 32n
    expect(host.dma(device, 0x9000n)).toBeNull()
    host.ops.handleInterrupts()
    const [first = 0n, second] = renamed(host)
    expect((first >> 32n) & 0xffffn).toBe(hostId >> 32n)
    expect(events.map(words)).toEqual([[(first & ~(0xffffn << 32n)) | (G_DOM_ID << 32n), second]])
  })

  it("say nothing of the parent's tables, which are the host's", () => {
    const { host, device, viommu, events, nested } = guest()
    viommu.vdeviceAlloc?.(device, VIRTUAL)
    nested().attachDev(device)
    expect(host.dma(device, IOVA + 0x1000n)).toBeNull()
    expect(host.ops.handleInterrupts()).toBe(1)
    expect(events).toEqual([])
    expect(host.events).toEqual([
      { name: "IO_PAGE_FAULT", device: 5, words: host.model.result.fault?.record },
    ])
  })

  it("tell of requests that its device should not have made", () => {
    const { host, device, viommu, events, nested } = guest()
    viommu.vdeviceAlloc?.(device, VIRTUAL)
    nested().attachDev(device)
    host.model.translatedRequest(5, -1, 0, 0x9000, 1)
    host.ops.handleInterrupts()
    // INVALID_DEVICE_REQUEST, code 8.
    expect(events.map(event => (words(event)[0] as bigint) >> 60n)).toEqual([8n])
  })
})

describe("interrupt messages", () => {
  it("say once that there is something to read, and again after it was read", () => {
    const { memory, pages, model } = new Host()
    const sent: unknown[] = []
    model.onInterrupt = (address, data) => sent.push([address, data])
    const interrupt = { address: 0xfee0_1000n, data: 0x51 }
    const ops = amdDriver({ memory, pages, mmio: model.mmio }, { maxDeviceId: 0xff, interrupt })
    const device = iommuDevice({ id: 5, account: new MemoryAccount("owner"), ats: true })
    ops.probeDevice(device)
    const domain = ops.domainAllocUser(device, null, null)
    domain.pageFaultHandler = () => {}
    domain.attachDev(device)
    for (let round = 1; round <= 2; round++) {
      for (let n = 0; n < 3; n++) model.translate(5, -1, 0, 0x7000, 1)
      expect(sent).toEqual(Array(2 * round - 1).fill([0xfee0_1000n, 0x51]))
      const rights = { read: true, write: false, execute: false, privileged: false }
      model.pageRequest({ ...rights, device: 5, pasid: null, address: 0x7000n, last: true, group: round })
      expect(sent).toHaveLength(2 * round)
      expect(ops.handleInterrupts()).toBe(4)
    }
  })
})

describe("two guests on one parent", () => {
  it("have tags of their own for the same DomainID, and lose their pages together", () => {
    const { host, device, parent, viommu, nested } = guest()
    const second = host.device(6)
    const other = host.ops.viommu?.alloc(second, parent, ViommuType.AMD, new Uint8Array())
    viommu.vdeviceAlloc?.(device, 1n)
    other?.vdeviceAlloc?.(second, 1n)
    nested().attachDev(device)
    const theirs = other?.domainAllocNested?.(second, { type: 3, dte: guestDte(GCR3_TABLE, G_DOM_ID) })
    theirs?.attachDev(second)
    const idOf = (each: typeof device): bigint => (host.entry(each)[1] as bigint) & 0xffffn
    expect(idOf(device)).not.toBe(idOf(second))
    const hasPage = () => [device, second].map(each => host.dma(each, IOVA) !== null)
    expect(hasPage()).toEqual([true, true])
    const tag = (id: bigint) => (3n << 60n) | (id << 32n)
    const commands = host.commands(() => parent.unmap(0x9000n, 0x1000n))
    expect(commands.map(({ words: [first] }) => first)).toEqual([tag(idOf(device)), tag(idOf(second))])
    expect(hasPage()).toEqual([false, false])
  })

  it("reach no more than their own with their commands", () => {
    const { host, device, parent, viommu, nested } = guest()
    const second = host.device(6)
    const other = host.ops.viommu?.alloc(second, parent, ViommuType.AMD, new Uint8Array())
    viommu.vdeviceAlloc?.(device, 1n)
    other?.vdeviceAlloc?.(second, 2n)
    nested().attachDev(device)
    const all = 8n << 60n
    const pages = (3n << 60n) | (G_DOM_ID << 32n)
    const seen = host.commands(() => {
      for (const cmd of [all, pages])
        other?.cacheInvalidate?.({ type: 0x8000_0003, entries: [{ cmd: [cmd, 0n] }] })
    })
    expect(seen).toEqual([])
    const devtab = { type: 0x8000_0003, entries: [{ cmd: [(2n << 60n) | 1n, 0n] }] } as const
    expect(other?.cacheInvalidate?.(devtab)).toMatchObject({ handled: 0, error: { code: "EIO" } })
  })

  it("give their DomainIDs back", () => {
    const { host, device, parent, viommu, nested } = guest()
    for (let round = 0; round < 70_000; round += 7000) {
      const domains = Array.from({ length: 7000 }, (_, i) => nested([0n, BigInt(i), 0n, 0n]))
      for (const domain of domains) iommuDomainFree(domain)
    }
    viommu.free()
    iommuDomainFree(parent)
    expect(host.account.usagePages).toBe(0)
    expectErrno("EINVAL", () => viommu.vdeviceAlloc?.(device, 1n))
  })

  it("may leave a device without a number as long as nothing is translated by guest tables", () => {
    const { host, device, nested } = guest()
    const [word0, word1] = guestDte(GCR3_TABLE, G_DOM_ID)
    expectErrno("ENOENT", () => nested().attachDev(device))
    nested([word0 & ~DTE_GV, word1, 0n, 0n]).attachDev(device)
    expect(host.dma(device, 0x9000n)).toBe(GUEST_RAM + 0x9000n)
    nested([word0 & ~(DTE_GV | DTE_IRW), word1, 0n, 0n]).attachDev(device)
    expect(host.dma(device, 0x9000n)).toBeNull()
  })
})

describe("a hostile guest", () => {
  it("reaches nothing but its own DomainIDs and devices, whatever stands in its commands", () => {
    const { host, device, viommu, nested } = guest()
    viommu.vdeviceAlloc?.(device, VIRTUAL)
    nested().attachDev(device)
    const tag = (host.entry(device)[1] as bigint) & 0xffffn
    const word = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })
    const few = fc.constantFrom(0n, 1n, 7n, 0x7fff_ffff_ffff_f007n)
    const ids = fc.constantFrom(VIRTUAL, 5n, 0n)
    const command = fc.tuple(
      fc.bigInt({ min: 0n, max: 15n }),
      ids,
      fc.constantFrom(G_DOM_ID, tag, 1n),
      fc.oneof(few, word),
    )
    fc.assert(
      fc.property(fc.array(command, { maxLength: 20 }), commands => {
        const entries = commands.map(([opcode, id, domain, high]) => ({
          cmd: [(opcode << 60n) | (domain << 32n) | id, high] as const,
        }))
        const seen = host.commands(() => {
          const result = viommu.cacheInvalidate?.({ type: 0x8000_0003, entries })
          expect(result?.error?.code ?? "EIO").toBe("EIO")
          expect(result?.handled).toBeLessThanOrEqual(entries.length)
        })
        for (const { fields } of seen) {
          if (fields["DomainID"] !== undefined) expect(fields["DomainID"]).toBe(tag)
          if (fields["DeviceID"] !== undefined) expect(fields["DeviceID"]).toBe(5n)
        }
      }),
      { seed: 15, numRuns: 300 },
    )
    expect(host.dma(device, IOVA)).toBe(GUEST_RAM + 0x9000n)
  })
})

describe("the logs of a machine that cannot be trusted", () => {
  const [EVTLOG_BASE, PPR_BASE, EVT_HEAD, EVT_TAIL, PPR_HEAD, PPR_TAIL] = [
    0x10, 0x38, 0x2010, 0x2018, 0x2030, 0x2038,
  ]

  it("are read once around at most, whatever stands in them and in their pointers", () => {
    const host = new Host()
    host.device(5)
    const pointers = new Map<number, number>()
    const { mmio } = host.model
    const hostile = {
      ...host,
      mmio: {
        read32: (offset: number) => pointers.get(offset) ?? mmio.read32(offset),
        read64: (offset: number) => mmio.read64(offset),
        write32: (offset: number, value: number) => mmio.write32(offset, value),
        write64: (offset: number, value: bigint) => mmio.write64(offset, value),
      },
    }
    const { memory, pages } = host
    let events = 0
    const ops = amdDriver(
      { memory, pages, mmio: hostile.mmio },
      { maxDeviceId: 0xff, onEvent: () => events++ },
    )
    const word = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })
    const pointer = fc.nat(0xffff_ffff)
    fc.assert(
      fc.property(
        fc.array(word, { minLength: 16, maxLength: 16 }),
        fc.tuple(pointer, pointer, pointer, pointer),
        (content, at) => {
          for (const register of [EVTLOG_BASE, PPR_BASE]) {
            const base = mmio.read64(register) & 0x000f_ffff_ffff_f000n
            for (let i = 0; i < 1024; i++) memory.write64(base + BigInt(i * 8), content[i % 16] as bigint)
          }
          for (const [i, register] of [EVT_HEAD, EVT_TAIL, PPR_HEAD, PPR_TAIL].entries()) {
            pointers.set(register, at[i] as number)
          }
          expect(ops.handleInterrupts()).toBeLessThan(2 * 512)
        },
      ),
      { seed: 12, numRuns: 200 },
    )
    expect(events).toBeGreaterThan(1000)
  })
})
