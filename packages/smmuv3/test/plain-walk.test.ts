/**
 * Most translations take a short way that knows plain tables alone. While somebody listens, every walk is the complete
 * one: whatever the structures and tables are, both give the same answer, fault, event and flags.
 */
import { Random } from "@iommu/conformance"
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  type CachePolicies,
  NO_PASID,
} from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { IDR3 } from "../src/spec/registers.ts"
import {
  type CdFields,
  HIGH_RAM,
  Machine,
  plainCd,
  plainStage2,
  RAM,
  S1_PAGE,
  S2_PAGE,
  SHAPE_4K,
  type SteFields,
} from "./model-machine.ts"

const WORLDS = 400
const REQUESTS = 32
const PLACES = 8
const RAM_BYTES = 0x4_0000n
const PAGE_WORDS = 1024
/** An address that is in memory, but not within 44 bits. */
const FAR_HI = 0x2000
const DBM_HI = 1 << 19
/** Bits 63:32, DDI 0487 §D8.3: PXN, UXN or XN, contiguous; of tables PXNTable, XNTable, APTable, NSTable. */
const LIMITS_HI = [1 << 21, 1 << 22, 1 << 20, 1 << 27, 1 << 28, 1 << 29, 1 << 30, 1 << 31]
const ODD_HI = [...LIMITS_HI, FAR_HI, ...Array.from({ length: 8 }, () => DBM_HI)]
/** A table, and as a page: AP 01, AF. Then read-only, privileged, both, without AF, block, not global, invalid. */
const STAGE1 = { plain: 0x743, odd: [0x7c3, 0x7c3, 0x7c3, 0x703, 0x783, 0x343, 0x741, 0xf43, 0x7c1, 0x742] }
/** S2AP 11, AF, write-back. Then read-only, write-only, none, without AF, block, Device memory, invalid. */
const STAGE2 = { plain: 0x7ff, odd: [0x77f, 0x7bf, 0x73f, 0x3ff, 0x7fd, 0x7c3, 0x77d, 0x7fe] }
const ACCESSES = [
  ACCESS_READ,
  ACCESS_WRITE,
  ACCESS_READ | ACCESS_WRITE,
  ACCESS_READ | ACCESS_EXEC,
  ACCESS_READ | ACCESS_PRIV,
  ACCESS_WRITE | ACCESS_PRIV,
  ACCESS_READ | ACCESS_EXEC | ACCESS_PRIV,
  0,
]

/** Bits 63:32 and 11:0 of a descriptor, now and then out of the ordinary. */
function flags(random: Random, { plain, odd }: typeof STAGE1, oneIn: number): [lo: number, hi: number] {
  const isOdd = random.below(oneIn) === 0
  const hasOddHi = random.below(isOdd ? 3 : 32) === 0
  return [isOdd ? random.pick(odd) : plain, hasOddHi ? random.pick(ODD_HI) : 0]
}

/** Tables of stage 1 that lead to each other, so that a walk gets somewhere with any address. */
function fillStage1(m: Machine, random: Random, tables: readonly bigint[]): void {
  for (const table of tables) {
    const first = m.memory.find(0, Number(table))
    for (let at = first; at < first + PAGE_WORDS; at += 2) {
      const [lo, hi] = flags(random, STAGE1, 8)
      m.memory.words[at] = Number(random.pick(tables)) | lo
      m.memory.words[at + 1] = hi
    }
  }
}

/** Stage 2 exchanges the pages, and leaves the context descriptor where it is; or it is one block. */
function fillStage2(
  m: Machine,
  random: Random,
  shape: Shape,
  pages: readonly bigint[],
  context: bigint,
): bigint {
  const root = m.alloc(0x2000n, 0x2000n)
  const isBlock = random.below(4) === 0
  for (const page of [context, ...pages]) {
    const [lo, hi] = page === context ? [STAGE2.plain, 0] : flags(random, STAGE2, 4)
    const to = isBlock ? RAM : page === context ? context : random.pick(pages)
    const leaf = to | BigInt(isBlock ? lo & ~2 : lo) | (BigInt(hi >>> 0) << 32n)
    m.map(root, { ...SHAPE_4K, ...shape.map, leafLevel: isBlock ? 2 : 3 }, page, leaf)
  }
  if (random.below(6) === 0) spoil(m, random, root, shape)
  return root
}

/** Changes a bit of one of the descriptors that all addresses in RAM pass. */
function spoil(m: Machine, random: Random, root: bigint, { map }: Shape): void {
  let table = root
  for (let level = map.startLevel; level < 3; level++) {
    const at = table + 8n * ((RAM >> BigInt(39 - 9 * level)) & 0x1ffn)
    const entry = m.memory.read64(at)
    if (level === 2 || random.below(3) === 0) {
      m.memory.write64(at, entry ^ random.pick([1n, 2n, 1n << 31n, BigInt(FAR_HI) << 32n]))
      return
    }
    table = entry & 0xffff_ffff_f000n
  }
}

interface Shape {
  readonly map: { readonly inputBits: number; readonly startLevel: number }
  readonly ste: SteFields
}

/** S2T0SZ with S2SL0: four levels, four with a short root, three, three from a root of two tables. */
const STAGE2_SHAPES: readonly Shape[] = [
  { map: { inputBits: 48, startLevel: 0 }, ste: { S2T0SZ: 16n, S2SL0: 2n } },
  { map: { inputBits: 44, startLevel: 0 }, ste: { S2T0SZ: 20n, S2SL0: 2n } },
  { map: { inputBits: 39, startLevel: 1 }, ste: { S2T0SZ: 25n, S2SL0: 1n } },
  { map: { inputBits: 40, startLevel: 1 }, ste: { S2T0SZ: 24n, S2SL0: 1n } },
]

interface World {
  readonly seed: number
  readonly ste: SteFields
  readonly cd: CdFields
  readonly shape: Shape
}

/** The same machine for the same world. */
function machineOf({ seed, ste, cd, shape }: World, caches: CachePolicies | "none"): Machine {
  const random = new Random(seed)
  const m = new Machine({}, RAM_BYTES, caches)
  const tables = Array.from({ length: 6 }, () => m.alloc())
  const context = m.alloc()
  fillStage1(m, random, tables)
  const stage2 = fillStage2(m, random, shape, tables, context)
  const [root] = tables as [bigint]
  m.cd({ ...plainCd(root), TTB1: root >> 4n, ...cd }, context)
  m.ste(1, { ...plainStage2(stage2), S1ContextPtr: context >> 6n, ...shape.ste, ...ste })
  return m
}

const often = (chance: number): fc.Arbitrary<bigint> => fc.nat(chance).map(n => (n === 0 ? 1n : 0n))
const size = fc.constantFrom(16n, 20n, 25n, 28n, 32n)

const ste: fc.Arbitrary<SteFields> = fc.record({
  Config: fc.constantFrom(5n, 6n, 7n),
  PRIVCFG: fc.constantFrom(0n, 0n, 0n, 2n, 3n),
  INSTCFG: fc.constantFrom(0n, 0n, 0n, 2n, 3n),
  S2PS: fc.constantFrom(5n, 4n),
  S2AFFD: often(4),
  S2PTW: often(2),
  S2FWB: often(4),
  S2HA: often(1),
})
const cd: fc.Arbitrary<CdFields> = fc.record({
  T0SZ: size,
  T1SZ: size,
  TG1: fc.constant(2n),
  EPD0: often(12),
  EPD1: often(3),
  TBI0: often(3),
  TBI1: often(3),
  E0PD0: often(8),
  E0PD1: often(8),
  HAD0: often(4),
  HAD1: often(4),
  IPS: fc.constantFrom(5n, 5n, 4n),
  AFFD: often(4),
  WXN: often(4),
  PAN: often(4),
  EPAN: often(2),
  HA: often(1),
})
const world: fc.Arbitrary<World> = fc
  .record({ seed: fc.integer(), ste, cd, shape: fc.constantFrom(...STAGE2_SHAPES), dirty: often(1) })
  .map(({ dirty, ...w }) => ({
    ...w,
    // HD needs HA.
    ste: { ...w.ste, S2HD: dirty & (w.ste.S2HA as bigint) },
    cd: { ...w.cd, HD: dirty & (w.cd.HA as bigint) },
  }))

interface Request {
  readonly hi: number
  readonly lo: number
  readonly access: number
}

/** Within the ranges of T0SZ and T1SZ, and now and then beyond. */
function placeOf(random: Random): { readonly hi: number; readonly lo: number } {
  if (random.below(3) === 0) return { hi: 0, lo: Number(RAM) | random.below(Number(RAM_BYTES)) }
  const hi = random.below(0x1_0000_0000) & random.pick([0, 0, 0x3, 0x7f, 0xffff, 0xff_ffff])
  const lo = random.pick([Number(RAM), 0]) | random.below(0x8000_0000)
  if (random.below(4) === 0) return { hi: ~hi, lo }
  return { hi: random.below(8) === 0 ? hi | 0x5500_0000 : hi, lo }
}

function answerOf({ model }: Machine, { hi, lo, access }: Request) {
  const { result } = model
  const status = model.translate(1, NO_PASID, hi, lo, access)
  if (status !== 0) return { status, fault: result.fault }
  const { paHi, paLo, ipaHi, ipaLo, allowed, attributes, sizeLg2, stage1SizeLg2, stage2SizeLg2 } = result
  return { status, paHi, paLo, ipaHi, ipaLo, allowed, attributes, sizeLg2, stage1SizeLg2, stage2SizeLg2 }
}

const bytesOf = ({ memory }: Machine): Buffer => Buffer.from(memory.words.buffer)

const POLICIES = new Map<string, CachePolicies | "none">([
  ["nothing", "none"],
  ["structures", { structures: "exact", walks: "none", translations: "none" }],
  ["tables and pages of stage 2", { structures: "exact", walks: "exact", translations: "none" }],
  ["pages alone", { structures: "exact", walks: "none", translations: "exact" }],
  ["everything", { structures: "hoard", walks: "hoard", translations: "hoard" }],
])

describe("the short ways through plain tables", () => {
  for (const [what, caches] of POLICIES) {
    it(`answer as the complete walks do, ${what} cached`, () => {
      let allowed = 0
      fc.assert(
        fc.property(world, w => {
          const short = machineOf(w, caches)
          const complete = machineOf(w, caches)
          complete.model.trace = () => {}
          const random = new Random(w.seed ^ 0x5a5a)
          const places = Array.from({ length: PLACES }, () => placeOf(random))
          for (let n = 0; n < REQUESTS; n++) {
            // Near each other, so that caches have something to give.
            const { hi, lo } = random.pick(places)
            const request = { hi, lo: (lo ^ random.below(0x4000)) >>> 0, access: random.pick(ACCESSES) }
            const answer = answerOf(short, request)
            expect(answer).toEqual(answerOf(complete, request))
            if (answer.status === 0) allowed++
          }
          expect(bytesOf(short).equals(bytesOf(complete))).toBe(true)
        }),
        { seed: 20261129, numRuns: WORLDS },
      )
      expect(allowed).toBeGreaterThan((WORLDS * REQUESTS) / 6)
    })
  }
})

/** Stream 1 has a page of stage 1 at 0x5000 that nothing is odd about. */
const VA = 0x5000n
const STRUCTURES: CachePolicies = { structures: "exact", walks: "none", translations: "none" }

const WALKS: CachePolicies = { structures: "exact", walks: "exact", translations: "none" }

function plainMachine(caches: CachePolicies | "none") {
  const m = new Machine({}, RAM_BYTES, caches)
  const root = m.alloc()
  const page = m.alloc()
  m.map(root, SHAPE_4K, VA, page | S1_PAGE)
  const context = m.cd(plainCd(root))
  m.ste(1, { Config: 5n, S1ContextPtr: context >> 6n })
  expect(m.access(1, VA)).toMatchObject({ ok: true, pa: page })
  return { m, root, page, context }
}

describe("a plain walk of stage 1", () => {
  it("is for the stream and substream that were looked up alone", () => {
    const { m, page } = plainMachine(STRUCTURES)
    const root = m.alloc()
    const other = m.alloc()
    m.map(root, SHAPE_4K, VA, other | S1_PAGE)
    m.ste(2, { Config: 5n, S1ContextPtr: m.cd(plainCd(root)) >> 6n })
    for (let n = 0; n < 2; n++) {
      expect(m.access(1, VA)).toMatchObject({ ok: true, pa: page })
      expect(m.access(1, VA, ACCESS_READ, 3)).toMatchObject({ ok: false })
      expect(m.access(1, VA)).toMatchObject({ ok: true, pa: page })
      expect(m.access(2, VA)).toMatchObject({ ok: true, pa: other })
    }
  })

  it("is not for a range that a new CD turns off", () => {
    const { m, root, context } = plainMachine("none")
    m.cd({ ...plainCd(root), EPD0: 1n }, context)
    expect(m.access(1, VA)).toMatchObject({ ok: false, fault: { reason: "F_TRANSLATION" } })
  })

  it("forgets the fault before it", () => {
    const { m, page } = plainMachine(STRUCTURES)
    expect(m.access(1, VA, ACCESS_READ)).toMatchObject({ ok: true, pa: page })
    expect(m.access(1, 0x6000n)).toMatchObject({ ok: false })
    expect(m.access(1, VA)).toMatchObject({ ok: true, pa: page })
    expect(m.model.result.fault).toBeNull()
  })

  it("finds tables in another piece of memory than the one found last", () => {
    const { m, root, page } = plainMachine(STRUCTURES)
    const far = HIGH_RAM + 0x1000n
    const address = VA + (1n << 21n)
    m.map(root, { ...SHAPE_4K, leafLevel: 2 }, address, far | 3n)
    m.memory.write64(far + 8n * (VA >> 12n), page | S1_PAGE)
    for (let n = 0; n < 3; n++) {
      expect(m.access(1, address)).toMatchObject({ ok: true, pa: page })
      expect(m.access(1, VA)).toMatchObject({ ok: true, pa: page })
    }
  })

  it.each([STRUCTURES, WALKS])("leaves nothing of stage 2, or of leaves without shareability", caches => {
    const { m, page, context, root } = plainMachine(caches)
    m.cd({ ...plainCd(root), MAIR0: 0xffn }, context)
    const stage2 = m.alloc()
    m.map(stage2, SHAPE_4K, VA, page | S2_PAGE)
    m.ste(2, { Config: 6n, ...plainStage2(stage2) })
    const wide = m.alloc()
    m.map(wide, SHAPE_4K, VA, page | (S1_PAGE & ~0x300n))
    m.ste(3, {
      Config: 5n,
      S1ContextPtr: m.cd({ ...plainCd(wide), ASID: 3n, DS: 1n, SH0: 2n, MAIR0: 0xffn }) >> 6n,
    })
    m.ste(4, { Config: 5n, S1ContextPtr: context >> 6n })
    for (const other of [2, 3]) {
      expect(m.access(4, VA)).toMatchObject({ ok: true, stage2Size: 0n })
      expect(m.model.result.attributes).toBe(0x3ff)
      expect(m.access(other, VA)).toMatchObject({ ok: true, pa: page })
    }
    expect(m.access(4, VA)).toMatchObject({ ok: true, stage2Size: 0n })
    expect(m.access(4, VA)).toMatchObject({ ok: true, stage2Size: 0n })
    expect(m.model.result.attributes).toBe(0x3ff)
  })

  it("tells EL2, which has one privilege, from EL1", () => {
    const m = new Machine({}, RAM_BYTES, STRUCTURES)
    const root = m.alloc()
    // With WXN, executable to who may not write it: to nobody in EL2.
    m.map(root, SHAPE_4K, VA, m.alloc() | (S1_PAGE & ~0x40n))
    const context = m.cd({ ...plainCd(root), WXN: 1n })
    m.ste(1, { Config: 5n, S1ContextPtr: context >> 6n })
    m.ste(2, { Config: 5n, S1ContextPtr: context >> 6n, STRW: 2n })
    for (let n = 0; n < 2; n++) {
      expect(m.access(1, VA, ACCESS_EXEC).ok).toBe(true)
      expect(m.access(2, VA, ACCESS_EXEC).ok).toBe(false)
    }
  })

  it("tells an SMMU with XNX from one without", () => {
    for (const XNX of [1n, 0n]) {
      const m = new Machine({ IDR3: Number(IDR3.encode({ XNX })[0]) }, RAM_BYTES, STRUCTURES)
      const root = m.alloc()
      // XN[1:0] 3: privileged alone; without XNX nobody.
      m.map(root, SHAPE_4K, VA, m.alloc() | S2_PAGE | (3n << 53n))
      m.ste(1, { Config: 6n, ...plainStage2(root) })
      expect(m.access(1, VA, ACCESS_EXEC).ok).toBe(false)
      expect(m.access(1, VA, ACCESS_EXEC | ACCESS_PRIV).ok).toBe(XNX === 1n)
    }
  })

  it("tells PAN from PAN with EPAN", () => {
    const m = new Machine({}, RAM_BYTES, STRUCTURES)
    const root = m.alloc()
    // Privileged alone, and executable to all.
    m.map(root, SHAPE_4K, VA, m.alloc() | (S1_PAGE & ~0x40n))
    m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(root), PAN: 1n }) >> 6n })
    m.ste(2, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(root), PAN: 1n, EPAN: 1n }) >> 6n })
    for (let n = 0; n < 2; n++) {
      expect(m.access(1, VA, ACCESS_READ | ACCESS_PRIV).ok).toBe(true)
      expect(m.access(2, VA, ACCESS_READ | ACCESS_PRIV).ok).toBe(false)
    }
  })
})

/** Behind a gap above RAM; and 4 GiB above RAM, where bits 31:0 are the same. */
const BEHIND = { base: RAM + RAM_BYTES + 0x1000n, size: 0x3000n }
const ABOVE = { base: RAM + (1n << 32n), size: RAM_BYTES }
/** Four tables of a tree that lead to each other, and what the last of them maps. */
type Pages = readonly (readonly [from: bigint, to: bigint])[]

function plant(m: Machine, tables: readonly bigint[], pages: Pages, leaf: bigint): bigint {
  const [root, ...below] = tables as [bigint, ...bigint[]]
  const [first] = pages[0] ?? [VA]
  let table = root
  below.forEach((next, level) => {
    m.memory.write64(table + 8n * ((first >> BigInt(39 - 9 * level)) & 0x1ffn), next | 3n)
    table = next
  })
  for (const [from, to] of pages) m.memory.write64(table + 8n * ((from >> 12n) & 0x1ffn), to | leaf)
  return root
}

/** Each level's table where a comparison that is left out would find another one in its place. */
const PLACES_OF_TABLES = [1, 2, 3].flatMap(level => [
  { level, what: "behind a gap", table: BEHIND.base, decoy: BEHIND.base + 0x1000n },
  { level, what: "4 GiB above", table: ABOVE.base + 0x3_0000n, decoy: RAM + 0x3_0000n },
])

describe("tables in pieces of memory that are easily confused", () => {
  for (const { level, what, table, decoy } of PLACES_OF_TABLES) {
    const machine = () => new Machine({}, RAM_BYTES, STRUCTURES, [BEHIND, ABOVE])
    const treesOf = (m: Machine) => {
      const real = [0, 1, 2, 3].map(n => (n === level ? table : m.alloc()))
      const decoys = [0, 1, 2, 3].map(n =>
        n === level ? decoy : n < level ? (real[n] as bigint) : m.alloc(),
      )
      return { real, decoys }
    }

    it(`level ${level} ${what}, one stage`, () => {
      for (const leaf of [S1_PAGE, S2_PAGE]) {
        const m = machine()
        const { real, decoys } = treesOf(m)
        const [page, other] = [m.alloc(), m.alloc()]
        plant(m, decoys, [[VA, other]], leaf)
        const root = plant(m, real, [[VA, page]], leaf)
        const context = m.cd(plainCd(root))
        m.ste(1, { Config: leaf === S1_PAGE ? 5n : 6n, ...plainStage2(root), S1ContextPtr: context >> 6n })
        for (let n = 0; n < 3; n++) {
          // Whoever looks for the root leaves the piece of memory that has it as the one found last.
          m.memory.find(0, Number(root))
          expect(m.access(1, VA)).toMatchObject({ ok: true, pa: page })
        }
      }
    })

    it(`level ${level} ${what}, below tables of stage 1`, () => {
      const m = machine()
      const { real, decoys } = treesOf(m)
      const [page, other] = [m.alloc(), m.alloc()]
      const stage1 = [0, 1, 2, 3].map(() => m.alloc())
      const shadow = [0, 1, 2, 3].map(() => m.alloc())
      const context = m.cd(plainCd(stage1[0] as bigint))
      const same = [...stage1, page, other, context].map(at => [at, at] as const)
      plant(m, decoys, [...same, ...stage1.map((at, n) => [at, shadow[n] as bigint] as const)], S2_PAGE)
      const root = plant(m, real, same, S2_PAGE)
      plant(m, stage1, [[VA, page]], S1_PAGE)
      // As the stage 1 tables, but for the page.
      for (const [n, at] of stage1.entries()) m.memory.write(shadow[n] as bigint, m.memory.read(at, 0x1000))
      m.memory.write64((shadow[3] as bigint) + 8n * (VA >> 12n), other | S1_PAGE)
      m.ste(1, { Config: 7n, ...plainStage2(root), S1ContextPtr: context >> 6n })
      for (let n = 0; n < 3; n++) {
        m.memory.find(0, Number(root))
        expect(m.access(1, VA)).toMatchObject({ ok: true, pa: page })
      }
    })
  }

  it.each(PLACES_OF_TABLES.slice(0, 2))("a table of stage 1 $what, by its physical address", place => {
    const m = new Machine({}, RAM_BYTES, STRUCTURES, [BEHIND, ABOVE])
    const [page, other] = [m.alloc(), m.alloc()]
    const stage1 = [m.alloc(), m.alloc(), m.alloc(), m.alloc()]
    const context = m.cd(plainCd(stage1[0] as bigint))
    const last = stage1[3] as bigint
    const same = [...stage1.slice(0, 3), page, other, context].map(at => [at, at] as const)
    const root = plant(
      m,
      [m.alloc(), m.alloc(), m.alloc(), m.alloc()],
      [...same, [last, place.table]],
      S2_PAGE,
    )
    plant(m, stage1, [], S1_PAGE)
    m.memory.write64(place.table + 8n * (VA >> 12n), page | S1_PAGE)
    m.memory.write64(place.decoy + 8n * (VA >> 12n), other | S1_PAGE)
    m.ste(1, { Config: 7n, ...plainStage2(root), S1ContextPtr: context >> 6n })
    for (let n = 0; n < 3; n++) {
      m.memory.find(0, Number(root))
      expect(m.access(1, VA)).toMatchObject({ ok: true, pa: page })
    }
  })
})
