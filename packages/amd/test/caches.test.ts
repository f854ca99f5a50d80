/** What the model keeps beside the scopes of commands, which model-caching.ts types from the book. */
import type { AmdModelOptions } from "@iommu/amd"
import type { CachePolicies, CachePolicy, DmaOutcome, WalkStep } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { RangeCache } from "../src/model/tlb.ts"
import { decodeInvalidateRange, invalidateSizeLg2 } from "../src/spec/commands.ts"
import {
  A,
  bit,
  D,
  DTE_GIOV,
  DTE_GV,
  DTE_TV,
  DTE_V,
  flagsOf,
  IOMMU_EN,
  IR,
  IRW,
  IW,
  Machine,
  NX,
  ON,
  P,
  PRWU,
  PS,
  page,
  pde,
  REG,
  RW,
  sized,
  US,
} from "./machine.ts"

const HAD_AD = 3n << 7n
const GCR3_ROOT = (root: bigint): [bigint, bigint] => [
  ((root >> 12n) & 7n) << 58n,
  ((root >> 15n) & 0xffffn) << 16n,
]

class CachingMachine extends Machine {
  constructor(caches: CachePolicy | CachePolicies, more: Omit<AmdModelOptions, "memory"> = {}) {
    super({ caches, ...more })
  }

  /** Device 2 with a GCR3 table of one level; domain 6. */
  guestDevice(gcr3: bigint, host = IRW): void {
    const [low, high] = GCR3_ROOT(gcr3)
    this.dte(2, DTE_V | DTE_TV | DTE_GV | DTE_GIOV | host | low, 6n | high, 0n, 0n)
  }

  invalidateEntry(device: number): void {
    this.command((2n << 60n) | BigInt(device), 0n)
  }

  /** INVALIDATE_IOMMU_PAGES of one page, GN = 0, PDE = 0. */
  invalidatePage(domain: bigint, address: bigint): void {
    this.command((3n << 60n) | (domain << 32n), address)
  }

  invalidateGuestPage(domain: bigint, pasid: bigint, address: bigint): void {
    this.command((3n << 60n) | (domain << 32n) | pasid, address | 4n)
  }

  invalidateAll(): void {
    this.command(8n << 60n, 0n)
  }
}

/** Device 1, domain 5: two levels, one leaf table at IOVA 0. */
function twoLevels(machine: CachingMachine, leaves: Readonly<Record<number, bigint>>, extra = 0n): bigint {
  const leaf = machine.table(leaves)
  machine.hostDevice(1, 2, machine.table({ 0: pde(1, leaf) }), extra)
  return leaf
}

const CACHING = ["exact", "hoard"] as const
const WALKS_ALONE = { structures: "hoard", walks: "hoard", translations: "none" } as const
const where = (outcome: DmaOutcome): bigint | null => (outcome.ok ? outcome.pa : null)

describe.each(CACHING)("A and D with caches: %s", caches => {
  it("sets D at the first write to a page that reads have cached", () => {
    const machine = new CachingMachine(caches)
    const leaf = twoLevels(machine, { 1: page(0x5000n) }, HAD_AD)
    for (let n = 0; n < 3; n++) machine.read(1, 0x1000n)
    expect(machine.entry(leaf, 1) & (A | D)).toBe(A)
    expect(where(machine.write(1, 0x1008n))).toBe(0x5008n)
    expect(machine.entry(leaf, 1) & (A | D)).toBe(A | D)
    expect(where(machine.write(1, 0x1010n))).toBe(0x5010n)
  })

  it("sets D of a guest leaf, and of the host leaf below it, at the first write", () => {
    const machine = new CachingMachine(caches)
    const host = machine.table()
    for (let n = 0; n < 512; n++) machine.set(host, { [n]: page(BigInt(n) << 21n) | (1n << 9n) })
    const hostLeaf = machine.table({ 5: page(0x30_5000n) })
    const hostRoot = machine.table()
    // Identity in pages of 2 MiB, but for the first two megabytes.
    for (let n = 1; n < 32; n++) machine.set(hostRoot, { [n]: page(BigInt(n) << 21n) })
    machine.set(hostRoot, { 0: pde(1, hostLeaf) })
    const guestLeaf = machine.table({ 1: 0x5000n | PRWU })
    const guestRoot = machine.table({
      0: machine.table({ 0: machine.table({ 0: guestLeaf | PRWU }) | PRWU }) | PRWU,
    })
    const [low, high] = GCR3_ROOT(machine.table({ 0: guestRoot | P }))
    const word0 = DTE_V | DTE_TV | DTE_GV | DTE_GIOV | IRW | low | HAD_AD | (2n << 9n) | hostRoot
    machine.dte(2, word0, 6n | high, 0n, 0n)
    for (let n = 0; n < 3; n++) expect(where(machine.read(2, 0x1000n))).toBe(0x30_5000n)
    expect(machine.entry(guestLeaf, 1) & (A | D)).toBe(A)
    expect(machine.entry(hostLeaf, 5) & (A | D)).toBe(A)
    expect(where(machine.write(2, 0x1000n))).toBe(0x30_5000n)
    expect(machine.entry(guestLeaf, 1) & (A | D)).toBe(A | D)
    expect(machine.entry(hostLeaf, 5) & (A | D)).toBe(A | D)
  })

  it("marks pages that were cached before HAD began only after they are invalidated", () => {
    const machine = new CachingMachine(caches)
    const leaf = twoLevels(machine, { 1: page(0x5000n) })
    machine.write(1, 0x1000n)
    machine.dte(1, machine.memory.read64(0x20_0020n) | HAD_AD)
    machine.invalidateEntry(1)
    machine.write(1, 0x1000n)
    expect(machine.entry(leaf, 1) & (A | D)).toBe(0n)
    machine.invalidatePage(5n, 0x1000n)
    machine.write(1, 0x1000n)
    expect(machine.entry(leaf, 1) & (A | D)).toBe(A | D)
  })

  it("does not set D again in a cached page whose D software has cleared", () => {
    const machine = new CachingMachine(caches)
    const leaf = twoLevels(machine, { 1: page(0x5000n) }, HAD_AD)
    machine.write(1, 0x1000n)
    machine.set(leaf, { 1: page(0x5000n) })
    machine.write(1, 0x1000n)
    expect(machine.entry(leaf, 1) & D).toBe(0n)
    machine.invalidatePage(5n, 0x1000n)
    machine.write(1, 0x1000n)
    expect(machine.entry(leaf, 1) & D).toBe(D)
  })
})

describe.each(CACHING)("answers from caches: %s", caches => {
  it("are those of the walk, for pages of all sizes", () => {
    const [fourGiB, eightGiB] = [1n << 32n, 1n << 33n]
    const setUp = (machine: CachingMachine): void => {
      const leaf = machine.table({ 3: page(0x7000n), 16: sized(0x10_0000n, 0x1_0000n) })
      const level3 = machine.table({ 0: pde(2, machine.table({ 0: pde(1, leaf), 1: page(0x4020_0000n) })) })
      for (let n = 0; n < 4; n++) machine.set(level3, { [4 + n]: sized(3n * fourGiB, fourGiB) })
      for (let n = 0; n < 8; n++) machine.set(level3, { [8 + n]: sized(5n * eightGiB, eightGiB, IR) })
      machine.hostDevice(1, 4, machine.table({ 0: pde(3, level3), 1: page(7n << 39n) }))
    }
    const [cached, plain] = [new CachingMachine(caches), new CachingMachine("none")]
    setUp(cached)
    setUp(plain)
    const addresses = [
      0x3abcn,
      0x1_0010n,
      0x2f_f123n,
      fourGiB + 0x1234_5678n,
      eightGiB + 0x1_0000_0123n,
      (1n << 39n) + 0x45_6789_abcdn,
    ]
    for (let n = 0; n < 4; n++) {
      for (const address of addresses) {
        expect(cached.read(1, address)).toEqual(plain.read(1, address))
        expect(cached.write(1, address)).toEqual(plain.write(1, address))
      }
    }
    expect(cached.events()).toEqual(plain.events())
  })

  it("refuse what the tables refused, the guest's first", () => {
    const machine = new CachingMachine(caches)
    const leaf = machine.table({ 1: 0x5000n | P | US, 2: 0x6000n | P | RW, 3: 0x7000n | PRWU | NX })
    const gib = machine.table({ 0: machine.table({ 0: leaf | PRWU }) | PRWU, 1: 0x4000_0000n | P | US | PS })
    machine.guestDevice(machine.table({ 0: machine.table({ 0: gib | PRWU }) | P }))
    const flags = (outcome: DmaOutcome): bigint => flagsOf(outcome) & 0x7ffn
    for (let n = 0; n < 3; n++) {
      expect(where(machine.read(2, 0x1000n))).toBe(0x5000n)
      // GN 0, US 2, PR 4, RW 5, PE 6.
      expect(flags(machine.write(2, 0x1000n))).toBe(bit(0) | bit(2) | bit(4) | bit(5) | bit(6))
      expect(where(machine.write(2, 0x2000n, 0, 8))).toBe(0x6000n)
      expect(flags(machine.read(2, 0x2000n, 0))).toBe(bit(0) | bit(2) | bit(4) | bit(6))
      expect(where(machine.read(2, 0x3000n))).toBe(0x7000n)
      // NX 1.
      expect(flags(machine.read(2, 0x3000n, 0, 4))).toBe(bit(0) | bit(1) | bit(2) | bit(4) | bit(6))
      expect(where(machine.read(2, 0x4123_4567n))).toBe(0x4123_4567n)
      expect(machine.write(2, 0x4123_4567n)).toMatchObject({ fault: { stage: 1, address: 0x4123_4567n } })
    }
  })

  it("are not shared between devices of a domain whose entries grant other rights", () => {
    const machine = new CachingMachine(caches)
    const root = machine.table({ 0: pde(1, machine.table({ 1: page(0x5000n) })) })
    machine.hostDevice(1, 2, root)
    machine.dte(3, DTE_V | DTE_TV | (2n << 9n) | root | IR, 5n, 0n, 0n)
    machine.dte(4, DTE_V | DTE_TV | (2n << 9n) | root | IW, 5n, 0n, 0n)
    for (let n = 0; n < 2; n++) {
      expect(where(machine.write(1, 0x1000n))).toBe(0x5000n)
      expect(where(machine.write(3, 0x1000n))).toBe(null)
      expect(where(machine.read(3, 0x1000n))).toBe(0x5000n)
      expect(where(machine.read(4, 0x1000n))).toBe(null)
      expect(where(machine.write(4, 0x1000n))).toBe(0x5000n)
    }
  })

  it("give way to registers: IommuEn, the exclusion range, GTEn, restored ones", () => {
    const machine = new CachingMachine(caches)
    const { mmio } = machine.model
    twoLevels(machine, { 1: page(0x5000n) })
    for (let n = 0; n < 3; n++) expect(where(machine.read(1, 0x1000n))).toBe(0x5000n)
    mmio.write64(REG.CONTROL, ON & ~IOMMU_EN)
    expect(where(machine.read(1, 0x1000n))).toBe(0x1000n)
    mmio.write64(REG.CONTROL, ON)
    expect(where(machine.read(1, 0x1000n))).toBe(0x5000n)
    mmio.write64(REG.EXCL_LIMIT, 0x1000n)
    mmio.write64(REG.EXCL_BASE, 0x1003n)
    expect(where(machine.read(1, 0x1000n))).toBe(0x1000n)
    mmio.write64(REG.EXCL_BASE, 0n)
    expect(where(machine.read(1, 0x1000n))).toBe(0x5000n)
    machine.model.restoreRegisters({ CONTROL: 0n })
    expect(where(machine.read(1, 0x1000n))).toBe(0x1000n)
  })

  it("read no table, so a trace shows none", () => {
    const machine = new CachingMachine(caches)
    twoLevels(machine, { 1: page(0x5000n) })
    const steps: WalkStep[] = []
    machine.model.trace = step => steps.push(step)
    machine.read(1, 0x1000n)
    expect(steps.map(step => step.what)).toEqual(["DTE", "level 2 PDE", "level 1 PTE"])
    steps.length = 0
    machine.read(1, 0x1000n)
    machine.read(1, 0x1000n)
    expect(steps).toEqual([])
    machine.invalidatePage(5n, 0x1000n)
    machine.read(1, 0x1000n)
    expect(steps.map(step => step.what)).toEqual(["level 1 PTE"])
  })
})

describe("policies", () => {
  const PAGES = 6000
  /** Pages from IOVA 0 on, all asked for once, then moved without a command. */
  const stale = (caches: CachePolicy): number => {
    const machine = new CachingMachine(caches)
    const leaves = Array.from({ length: 12 }, () => machine.table())
    const set = (to: bigint): void => {
      for (let n = 0; n < PAGES; n++) {
        machine.set(leaves[n >> 9] as bigint, { [n & 511]: page(to + (BigInt(n) << 12n)) })
      }
    }
    const level2 = machine.table()
    leaves.forEach((leaf, n) => {
      machine.set(level2, { [n]: pde(1, leaf) })
    })
    machine.hostDevice(1, 2, level2)
    set(0x1000_0000n)
    for (let n = 0n; n < PAGES; n++) machine.read(1, n << 12n)
    set(0x2000_0000n)
    let old = 0
    for (let n = 0n; n < PAGES; n++) if (where(machine.read(1, n << 12n)) === 0x1000_0000n + (n << 12n)) old++
    machine.invalidateAll()
    for (let n = 0n; n < PAGES; n++) expect(where(machine.read(1, n << 12n))).toBe(0x2000_0000n + (n << 12n))
    return old
  }

  it("hoard forgets nothing, exact what does not fit, none everything", () => {
    expect(stale("hoard")).toBe(PAGES)
    expect(stale("none")).toBe(0)
    const exact = stale("exact")
    expect(exact).toBeLessThan(PAGES)
    expect(stale("exact")).toBe(exact)
  })

  it("agree on tables that only change with their invalidation", () => {
    const leafBits = fc.constantFrom(PRWU, P | US, P | RW, PRWU | NX, 0n, PRWU | (bit(12) * 3n))
    const hostRights = fc.constantFrom(IRW, IR, IW)
    const request = fc.record({
      kind: fc.constant("request" as const),
      device: fc.constantFrom(1, 2),
      page: fc.nat(5),
      access: fc.constantFrom(1, 2, 3, 5, 9, 10),
    })
    const guestChange = fc.record({
      kind: fc.constant("guest" as const),
      page: fc.nat(3),
      to: fc.nat(7),
      bits: leafBits,
    })
    const hostChange = fc.record({
      kind: fc.constant("host" as const),
      page: fc.nat(7),
      to: fc.nat(7),
      rights: hostRights,
      present: fc.boolean(),
    })
    const step = fc.oneof({ weight: 6, arbitrary: request }, guestChange, hostChange)
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 10, maxLength: 60 }),
        fc.constantFrom(0n, HAD_AD),
        (steps, had) => {
          const runs = (["none", "exact", "hoard", WALKS_ALONE] as const).map(caches => {
            const machine = new CachingMachine(caches)
            const hostLeaf = machine.table()
            for (let n = 0; n < 8; n++) machine.set(hostLeaf, { [n]: page(0x80_0000n + (BigInt(n) << 12n)) })
            const hostRoot = machine.table({ 0: pde(1, hostLeaf) })
            for (let n = 1; n < 32; n++) machine.set(hostRoot, { [n]: page(BigInt(n) << 21n) })
            const guestLeaf = machine.table()
            for (let n = 0; n < 4; n++) machine.set(guestLeaf, { [n]: (BigInt(n) << 12n) | PRWU })
            const root = machine.table({
              0: machine.table({ 0: machine.table({ 0: guestLeaf | PRWU }) | PRWU }) | PRWU,
            })
            const [low, high] = GCR3_ROOT(machine.table({ 0: root | P }))
            machine.hostDevice(1, 2, hostRoot, had)
            const word0 = DTE_V | DTE_TV | DTE_GV | DTE_GIOV | IRW | low | had | (2n << 9n) | hostRoot
            machine.dte(2, word0, 6n | high, 0n, 0n)
            const answers = steps.map(what => {
              if (what.kind === "request") {
                const iova = BigInt(what.page) << 12n
                const pasid = what.device === 2 ? 0 : -1
                const outcome =
                  (what.access & 2) === 0
                    ? machine.read(what.device, iova, pasid, what.access)
                    : machine.write(what.device, iova, pasid, what.access)
                return outcome.ok ? { ...machine.model.result } : outcome
              }
              if (what.kind === "guest") {
                machine.set(guestLeaf, { [what.page]: (BigInt(what.to) << 12n) | what.bits })
                machine.invalidateGuestPage(6n, 0n, BigInt(what.page) << 12n)
                return null
              }
              const to = 0x80_0000n + (BigInt(what.to) << 12n)
              machine.set(hostLeaf, { [what.page]: what.present ? page(to, what.rights) : 0n })
              machine.invalidatePage(5n, BigInt(what.page) << 12n)
              machine.invalidatePage(6n, BigInt(what.page) << 12n)
              return null
            })
            const marks = [hostLeaf, guestLeaf].map(table =>
              [0, 1, 2, 3, 4, 5, 6, 7].map(n => machine.entry(table, n)),
            )
            return { answers, marks }
          })
          expect(runs[1]).toEqual(runs[0])
          expect(runs[2]).toEqual(runs[0])
          expect(runs[3]).toEqual(runs[0])
        },
      ),
      { seed: 48882, numRuns: 200 },
    )
  })
})

describe("the range of an invalidation (table 14)", () => {
  it.each([
    // Address with S = 1, and log2 of the bytes.
    [0x0n, 13],
    [0x1000n, 14],
    [0xf000n, 17],
    [0xf_f000n, 21],
    [0x1fff_f000n, 30],
    [0x7fff_f000n, 32],
    [0xffff_f000n, 33],
    [0x3_ffff_ffff_f000n, 51],
    [0x7_ffff_ffff_f000n, 64],
    [0x7fff_ffff_ffff_f000n, 64],
    [0xffff_ffff_ffff_f000n, 64],
  ])("0x%s covers 2^%i bytes", (address, lg2) => {
    expect(invalidateSizeLg2(Number(address >> 32n) | 0, Number(address & 0xffff_ffffn) | 0)).toBe(lg2)
    const { first, last } = decodeInvalidateRange(address >> 12n, 1n)
    expect(last - first).toBe((1n << BigInt(lg2)) - 1n)
    expect(first).toBe(lg2 === 64 ? 0n : (address >> BigInt(lg2)) << BigInt(lg2))
  })
})

describe("PREFETCH_IOMMU_PAGES with Inval", () => {
  it("drops guest translations of the device's domain with GN = 1", () => {
    const machine = new CachingMachine("hoard")
    const leaf = machine.table({ 1: 0x5000n | PRWU })
    const root = machine.table({ 0: machine.table({ 0: machine.table({ 0: leaf | PRWU }) | PRWU }) | PRWU })
    machine.guestDevice(machine.table({ 0: root | P }))
    expect(where(machine.read(2, 0x1000n, 0))).toBe(0x5000n)
    machine.set(leaf, { 1: 0x6000n | PRWU })
    machine.command((6n << 60n) | 2n, 0x1004n)
    expect(where(machine.read(2, 0x1000n, 0))).toBe(0x5000n)
    machine.command((6n << 60n) | 2n, 0x1014n)
    expect(where(machine.read(2, 0x1000n, 0))).toBe(0x6000n)
  })
})

describe("ranges of addresses", () => {
  interface Kept {
    readonly sizeLg2: number
    readonly tag: number
    readonly pasid: number
    readonly address: bigint
  }
  const address = fc.bigInt(0n, 0x1f_ffffn).map(low => (low << 12n) % 0x2_0000_0000n)
  const kept: fc.Arbitrary<Kept> = fc.record({
    sizeLg2: fc.constantFrom(12, 12, 13, 14, 16, 21, 30, 39),
    // DomainID, and IR and IW above it.
    tag: fc.integer({ min: 0, max: 7 }).map(n => (n & 1) | ((n >> 1) << 16)),
    pasid: fc.constantFrom(-1, 0, 3),
    address,
  })
  const sizes = fc.constantFrom(12, 13, 14, 15, 21, 33, 52, 64)

  it("drops every record that meets one, and no other", () => {
    fc.assert(
      fc.property(
        fc.array(kept, { maxLength: 40 }),
        address,
        sizes,
        fc.nat(1),
        (records, at, lg2, domain) => {
          const cache = new RangeCache("hoard", 8, 1)
          for (const { sizeLg2, tag, pasid, address } of records) {
            cache.insert(sizeLg2, tag, pasid, Number(address >> 32n), Number(address & 0xffff_ffffn) | 0)
          }
          cache.drop(domain, 3, { hi: Number(at >> 32n), lo: Number(at & 0xffff_ffffn) | 0, sizeLg2: lg2 })
          for (const { sizeLg2, tag, pasid, address } of records) {
            const shift = BigInt(Math.max(sizeLg2, lg2))
            const meets = address >> shift === at >> shift
            const isDropped = (tag & 0xffff) === domain && pasid === 3 && meets
            const [hi, lo] = [Number(address >> 32n), Number(address & 0xffff_ffffn) | 0]
            expect(cache.findSized(sizeLg2, tag, pasid, hi, lo) < 0).toBe(isDropped)
          }
        },
      ),
      { seed: 8, numRuns: 300 },
    )
  })
})

describe("policies apart", () => {
  const walked = (caches: CachePolicies): { machine: CachingMachine; leaf: bigint; root: bigint } => {
    const machine = new CachingMachine(caches)
    const leaf = machine.table({ 1: 0x5000n | PRWU })
    const root = machine.table({ 0: machine.table({ 0: machine.table({ 0: leaf | PRWU }) | PRWU }) | PRWU })
    machine.guestDevice(machine.table({ 0: root | P }))
    for (let n = 0; n < 2; n++) expect(where(machine.read(2, 0x1000n, 0))).toBe(0x5000n)
    return { machine, leaf, root }
  }

  it("with caches for walks alone, the last table's entry is read for each request", () => {
    const { machine, leaf, root } = walked({ structures: "hoard", walks: "hoard", translations: "none" })
    machine.set(root, { 0: 0n })
    machine.set(leaf, { 1: 0x6000n | PRWU })
    expect(where(machine.read(2, 0x1000n, 0))).toBe(0x6000n)
    machine.set(leaf, { 1: 0n })
    expect(machine.read(2, 0x1000n, 0).ok).toBe(false)
  })

  it("in memory that others hold, cached tables are looked for anew", () => {
    const machine = new CachingMachine({ structures: "hoard", walks: "hoard", translations: "none" })
    Object.defineProperty(machine.memory, "isVolatile", { value: true })
    const leaf = machine.table({ 1: 0x5000n | PRWU })
    const root = machine.table({ 0: machine.table({ 0: machine.table({ 0: leaf | PRWU }) | PRWU }) | PRWU })
    machine.guestDevice(machine.table({ 0: root | P }))
    expect(where(machine.read(2, 0x1000n, 0))).toBe(0x5000n)
    machine.set(root, { 0: 0n })
    machine.set(leaf, { 1: 0x6000n | PRWU })
    expect(where(machine.read(2, 0x1000n, 0))).toBe(0x6000n)
  })

  it("with caches for translations alone, walks read all tables", () => {
    const { machine, leaf, root } = walked({ structures: "hoard", walks: "none", translations: "hoard" })
    machine.set(leaf, { 1: 0x6000n | PRWU, 2: 0x7000n | PRWU })
    expect(where(machine.read(2, 0x1000n, 0))).toBe(0x5000n)
    machine.set(root, { 0: 0n })
    expect(machine.read(2, 0x2000n, 0).ok).toBe(false)
  })
})
