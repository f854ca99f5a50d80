/** The Event queue read by the driver. Expected records: Arm IHI 0070 G.b §7.2, §7.3; whose they are: Linux 7.1. */
import {
  ACCESS_WRITE,
  IOMMU_READ,
  IOMMU_WRITE,
  iommuDevice,
  MemoryAccount,
  type ViommuEvent,
  ViommuType,
} from "@iommu/core"
import { smmuv3Driver } from "@iommu/smmuv3"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { Host } from "./driver-machine.ts"
import { FakeSmmu, QEMU_IDS } from "./fake-smmu.ts"

const RW = IOMMU_READ | IOMMU_WRITE
/** Guest RAM: 1 MiB at IPA 0x4000_0000, in host memory at 1 MiB. */
const GUEST_BASE = 0x4000_0000n
const HOST_BASE = 0x10_0000n
const VIRTUAL = 0xcafe_0077n
const CD = GUEST_BASE + 0x1000n
/** V, Config 5, S1ContextPtr; S1DSS 2 (SubstreamID 0), caching as Linux has it. */
const STAGE1: readonly [bigint, bigint] = [CD | 0xbn, 0xd6n]

/** A guest with a stage 1 that maps IOVA 0x1000 read-only, 0x2000 to a hole of stage 2, 0x3000 beyond the IPAs. */
function guest() {
  const host = new Host()
  const device = host.device(0x10)
  const parent = host.paging(device, { flags: 1 })
  parent.map(GUEST_BASE, HOST_BASE, 0x10_0000n, RW)
  const put = (gpa: bigint, ...words: bigint[]): void =>
    words.forEach((word, i) => {
      host.memory.write64(HOST_BASE + gpa - GUEST_BASE + BigInt(i * 8), word)
    })
  put(CD, 0x4e204c0003510n, GUEST_BASE + 0x2000n, 0n, 0xfffffffff404ff44n)
  put(GUEST_BASE + 0x2000n, (GUEST_BASE + 0x3000n) | 3n)
  put(GUEST_BASE + 0x3000n, (GUEST_BASE + 0x4000n) | 3n)
  put(GUEST_BASE + 0x4000n, (GUEST_BASE + 0x5000n) | 3n)
  put(
    GUEST_BASE + 0x5008n,
    (GUEST_BASE + 0x8000n) | 0xfc7n,
    0x7000_0000n | 0xf47n,
    (1n << 47n) | 0xf47n,
    (GUEST_BASE + 0x9000n) | 0xb47n,
  )
  const viommu = host.ops.viommu?.alloc(device, parent, ViommuType.ARM_SMMUV3, new Uint8Array())
  if (viommu?.domainAllocNested === undefined) throw new Error("no virtual SMMU")
  viommu.vdeviceAlloc?.(device, VIRTUAL)
  const events: ViommuEvent[] = []
  viommu.onEvent = event => events.push(event)
  const attach = (word0 = STAGE1[0], word1 = STAGE1[1]): void =>
    viommu.domainAllocNested?.(device, { type: 2, ste: [word0, word1] }).attachDev(device)
  return { host, device, parent, viommu, events, put, attach }
}

/** Words of an event as a guest gets it. */
function words({ data }: ViommuEvent): bigint[] {
  const view = new DataView(data.buffer)
  return [0, 8, 16, 24].map(at => view.getBigUint64(at, true))
}

type Guest = ReturnType<typeof guest>

describe("events of a guest's stage 1", () => {
  const withoutCd = (g: Guest): void => {
    g.put(CD, 0n)
    g.attach()
  }
  const cases: readonly [
    name: string,
    number: number,
    set: (g: Guest) => void,
    iova: bigint,
    access: number,
    pasid: number,
  ][] = [
    ["C_BAD_STE", 0x04, g => g.attach(CD | 0xbn | (31n << 59n)), 0x1000n, 1, -1],
    ["F_STREAM_DISABLED", 0x06, g => g.attach(CD | 0xbn | (2n << 59n), 0xd4n), 0x1000n, 1, -1],
    ["C_BAD_SUBSTREAMID", 0x08, g => g.attach(), 0x1000n, 1, 1],
    ["C_BAD_CD", 0x0a, withoutCd, 0x1000n, 1, -1],
    ["F_TRANSLATION", 0x10, g => g.attach(), 0x9000n, 1, -1],
    ["F_ADDR_SIZE", 0x11, g => g.attach(), 0x3000n, 1, -1],
    ["F_ACCESS", 0x12, g => g.attach(), 0x4000n, 1, -1],
    ["F_PERMISSION", 0x13, g => g.attach(), 0x1000n, ACCESS_WRITE, -1],
  ]

  it.each(cases)(
    "%s reach it with its own StreamID and all else as recorded",
    (name, number, set, iova, access, pasid) => {
      const g = guest()
      set(g)
      expect(g.host.fault(g.device, iova, access, pasid)).toBe(name)
      const record = g.host.model.result.fault?.record ?? []
      expect(g.host.ops.handleInterrupts?.()).toBe(1)
      expect(g.host.events).toEqual([])
      expect(g.events.map(({ type }) => type)).toEqual([1])
      const [first = 0n, ...rest] = record
      expect(words(g.events[0] as ViommuEvent)).toEqual([(first & 0xffff_ffffn) | (VIRTUAL << 32n), ...rest])
      expect(first & 0xffn).toBe(BigInt(number))
    },
  )

  it("of stage 2 are the host's", () => {
    const g = guest()
    g.attach()
    expect(g.host.fault(g.device, 0x2000n)).toBe("F_TRANSLATION")
    expect(g.host.ops.handleInterrupts?.()).toBe(1)
    expect(g.events).toEqual([])
    expect(g.host.events).toEqual([
      { name: "F_TRANSLATION", device: 0x10, words: g.host.model.result.fault?.record },
    ])
  })

  it("go to the virtual SMMU that the domain was made on, and to none without one", () => {
    const g = guest()
    const other = g.host.ops.viommu?.alloc(g.device, g.parent, ViommuType.ARM_SMMUV3, new Uint8Array())
    const others: ViommuEvent[] = []
    if (other) other.onEvent = event => others.push(event)
    g.attach()
    g.host.fault(g.device, 0x9000n)
    g.host.ops.handleInterrupts?.()
    expect([g.events.length, others.length]).toEqual([1, 0])
    g.host.nested(g.device, g.parent, ...STAGE1).attachDev(g.device)
    g.host.fault(g.device, 0x9000n)
    g.host.ops.handleInterrupts?.()
    expect([g.events.length, g.host.events.length]).toEqual([1, 1])
  })

  it("are the host's while nobody takes them, or the device has no number", () => {
    const g = guest()
    g.attach()
    g.viommu.vdeviceFree?.(g.device)
    g.host.fault(g.device, 0x9000n)
    g.host.ops.handleInterrupts?.()
    g.viommu.vdeviceAlloc?.(g.device, 1n)
    g.viommu.onEvent = null
    g.host.fault(g.device, 0xa000n)
    g.host.ops.handleInterrupts?.()
    expect([g.events.length, g.host.events.length]).toEqual([0, 2])
  })
})

describe("interrupt messages", () => {
  it("say once that there is something to read, and again after it was read", () => {
    const { memory, pages, model } = new Host()
    const sent: unknown[] = []
    model.onInterrupt = (address, data) => sent.push([address, data])
    const interrupt = { address: 0x8_0000_0040n, data: 0x51 }
    const ops = smmuv3Driver({ memory, pages, mmio: model.mmio }, { interrupt })
    const device = iommuDevice({ id: 0x10, account: new MemoryAccount("owner"), ats: true })
    ops.probeDevice(device)
    const domain = ops.domainAllocUser(device, null, null)
    domain.pageFaultHandler = () => {}
    domain.attachDev(device)
    for (let round = 1; round <= 2; round++) {
      for (let page = 1; page <= 3; page++) model.translate(0x10, -1, 0, page << 12, 1)
      expect(sent).toEqual(Array(2 * round - 1).fill([0x8_0000_0040n, 0x51]))
      const rights = { read: true, write: false, execute: false, privileged: false }
      model.pageRequest({ ...rights, device: 0x10, pasid: null, address: 0x7000n, last: true, group: round })
      expect(sent).toHaveLength(2 * round)
      expect(ops.handleInterrupts()).toBe(4)
    }
  })
})

describe("commands of a guest on a virtual SMMU", () => {
  it("have its VMID and StreamID replaced by the host's", () => {
    const { host, device, viommu, attach, parent } = guest()
    attach()
    const vmid = ((host.ste(device)[2] as bigint) & 0xffffn) << 32n
    const entries = [
      [0x30n, 0n],
      [0x11n | (0x9999n << 32n) | (5n << 48n), 0n],
      [0x05n | (VIRTUAL << 32n), 1n],
    ] as const
    const seen = host.commands(() => {
      const result = viommu.cacheInvalidate?.({ type: 1, entries: entries.map(cmd => ({ cmd })) })
      expect(result).toEqual({ handled: 3, error: null })
    })
    expect(seen.map(({ words }) => words)).toEqual([
      [0x10n | vmid, 0n],
      [0x11n | vmid | (5n << 48n), 0n],
      [0x05n | (0x10n << 32n), 1n],
    ])
    expect(parent.nestParent).toBe(true)
  })

  it("are nine and no others: EIO, the rest of the array left undone", () => {
    const { viommu } = guest()
    const allowed = [0x30, 0x10, 0x11, 0x12, 0x13, 0x40, 0x05, 0x06]
    for (let opcode = 0; opcode < 256; opcode++) {
      const cmd = [BigInt(opcode) | (VIRTUAL << 32n), 0n] as const
      const result = viommu.cacheInvalidate?.({ type: 1, entries: [{ cmd: [0x30n, 0n] }, { cmd }, { cmd }] })
      if (!allowed.includes(opcode)) expect(result).toMatchObject({ handled: 1, error: { code: "EIO" } })
      else expect(result).toEqual({ handled: 3, error: null })
    }
  })
})

describe("a hostile guest", () => {
  it("reaches nothing but its own VMID and streams, whatever stands in its commands", () => {
    const { host, device, viommu, attach } = guest()
    attach()
    const vmid = (host.ste(device)[2] as bigint) & 0xffffn
    const word = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })
    const opcode = fc.constantFrom(0x05n, 0x06n, 0x10n, 0x11n, 0x12n, 0x13n, 0x30n, 0x40n, 0x03n, 0x28n)
    const command = fc.tuple(
      fc.oneof(opcode, fc.nat(255).map(BigInt)),
      fc.constantFrom(VIRTUAL, 0x10n, 7n),
      word,
      word,
    )
    const tlb = new Set(["CMD_TLBI_NH_ALL", "CMD_TLBI_NH_ASID", "CMD_TLBI_NH_VA", "CMD_TLBI_NH_VAA"])
    fc.assert(
      fc.property(fc.array(command, { maxLength: 20 }), commands => {
        const entries = commands.map(([number, stream, low, high]) => ({
          cmd: [(low & 0xffff_ff00n) | number | (stream << 32n), high] as const,
        }))
        const seen = host.commands(() => {
          const result = viommu.cacheInvalidate?.({ type: 1, entries })
          expect(result?.error?.code ?? "EIO").toBe("EIO")
          expect(result?.handled).toBeLessThanOrEqual(entries.length)
        })
        for (const { command: name, fields } of seen) {
          if (tlb.has(name)) expect(fields["VMID"]).toBe(vmid)
          else expect(fields["StreamID"]).toBe(0x10n)
        }
      }),
      { seed: 14, numRuns: 300 },
    )
  })
})

describe("the queues of a machine that cannot be trusted", () => {
  const [EVENTQ_BASE, EVENTQ_PROD, EVENTQ_CONS] = [0xa0, 0x100a8, 0x100ac]
  const [PRIQ_BASE, PRIQ_PROD] = [0xc0, 0x100c8]
  /** PRI, and 2^8 entries of every queue. */
  const IDS = { ...QEMU_IDS, idr0: QEMU_IDS.idr0 | (1 << 16) | (1 << 10), idr1: QEMU_IDS.idr1 | (8 << 11) }

  it("are read once around at most, whatever stands in them and in their indexes", () => {
    const smmu = new FakeSmmu(IDS)
    let events = 0
    const ops = smmuv3Driver(smmu, { onEvent: () => events++ })
    const base = (register: number): bigint => BigInt(smmu.registers.get(register) ?? 0) & ~0x1fn
    const word = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })
    fc.assert(
      fc.property(
        fc.array(word, { minLength: 16, maxLength: 16 }),
        fc.nat(0xffff_ffff),
        fc.nat(0xffff_ffff),
        (content, e, p) => {
          for (const register of [EVENTQ_BASE, PRIQ_BASE]) {
            for (let at = 0; at < 512; at++) {
              smmu.memory.write64(base(register) + BigInt(at * 8), content[at % 16] as bigint)
            }
          }
          smmu.registers.set(EVENTQ_PROD, e).set(PRIQ_PROD, p)
          expect(ops.handleInterrupts?.()).toBeLessThanOrEqual(128 + 256)
          expect(ops.handleInterrupts?.()).toBe(0)
        },
      ),
      { seed: 11, numRuns: 300 },
    )
    expect(events).toBeGreaterThan(1000)
  })

  it("acknowledge an overflow with OVACKFLG, and aborted writes with GERRORN (§7.2.1, §6.3.19)", () => {
    const smmu = new FakeSmmu(IDS)
    const ops = smmuv3Driver(smmu)
    smmu.registers.set(EVENTQ_PROD, 0x8000_0003).set(0x60, 0xd)
    expect(ops.handleInterrupts?.()).toBe(3)
    expect(smmu.registers.get(EVENTQ_CONS)).toBe(0x8000_0003)
    // EVENTQ_ABT_ERR and PRIQ_ABT_ERR; CMDQ_ERR, bit 0, is the Command queue's.
    expect(smmu.registers.get(0x64)).toBe(0xc)
  })
})
