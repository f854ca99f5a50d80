import { EVERYTHING } from "@iommu/amd"
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  cachePolicies,
  hi32,
  lo32,
  NO_PASID,
} from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it, vi } from "vitest"
import type { AmdTranslationResult } from "../src/model/attributes.ts"
import { Caches } from "../src/model/caches.ts"
import { PlainWalk } from "../src/model/plain-walk.ts"
import { Transaction } from "../src/model/transaction.ts"
import { GuestWalk } from "../src/model/walk-stage1.ts"
import { HostWalk, READ, WRITE } from "../src/model/walk-stage2.ts"
import { EFR_NXSup } from "../src/spec/registers.ts"
import { GuestMachine } from "./guest-machine.ts"
import {
  A,
  bit,
  D,
  DTE_GIOV,
  GCR3_TRP_MODE,
  IR,
  IRW,
  IW,
  Machine,
  ON,
  PR,
  PRWU,
  page,
  pde,
  REG,
} from "./machine.ts"

interface RandomEntry {
  readonly table: number
  /** NextLevel of an odd entry; null for one that suits its level. */
  readonly next: bigint | null
  readonly rights: bigint
  readonly extra: bigint
}

const randomEntry = fc.record({
  table: fc.nat(1),
  next: fc.oneof({ weight: 16, arbitrary: fc.constant(null) }, fc.constantFrom(0n, 1n, 2n, 4n, 7n)),
  rights: fc.oneof({ weight: 6, arbitrary: fc.constant(IRW) }, fc.constantFrom(IR, IW, 0n)),
  extra: fc.oneof(
    { weight: 12, arbitrary: fc.constantFrom(PR, PR | A | D, PR | A | D) },
    fc.constantFrom(0n, PR | A, PR | D, PR | A | D, PR | bit(52), PR | bit(57), PR | bit(60)),
    fc.constantFrom(PR | 0x1000n, PR | 0x3000n, PR | 0x1f_f000n, PR | 0xff_f000n),
  ),
})

/** Host tables of four levels, two of each and four entries in each; level n is at 2 * (n - 1). */
function randomTables(machine: Machine, entries: readonly RandomEntry[]): bigint[] {
  const tables = Array.from({ length: 8 }, () => machine.table())
  for (const [i, { table, next, rights, extra }] of entries.entries()) {
    const level = (i >> 3) + 1
    const below = level === 1 ? 0x20_0000n : (tables[2 * (level - 2) + table] as bigint)
    const suits = BigInt(level - 1)
    machine.set(tables[i >> 2] as bigint, { [i % 4]: below | ((next ?? suits) << 9n) | rights | extra })
  }
  return tables
}

/** A walk of random tables, and all that can be seen of it. */
class World {
  readonly machine: Machine = new Machine()
  readonly walk: HostWalk
  readonly plain: PlainWalk
  readonly tables: readonly bigint[]
  readonly result: AmdTranslationResult = this.machine.model.result

  constructor(entries: readonly RandomEntry[], mode: number, had: bigint) {
    const { memory } = this.machine
    const caches = new Caches(cachePolicies("none"))
    this.tables = randomTables(this.machine, entries)
    this.walk = new HostWalk(memory, caches)
    this.plain = new PlainWalk(memory, this.walk, new GuestWalk(memory, this.walk, new Transaction(), caches))
    this.walk.accessedBit = (had & 1n) === 0n ? 0 : Number(A)
    this.walk.dirtyBit = (had & 2n) === 0n ? 0 : Number(D)
    const root = this.tables[2 * (mode - 1)] as bigint
    this.walk.setRoot(mode, hi32(root), lo32(root), READ | WRITE)
  }

  get words(): readonly bigint[] {
    return this.tables.flatMap(table => [0, 1, 2, 3].map(i => this.machine.entry(table, i)))
  }
}

/** The result that the checked walk has in its fields. */
function asResult(walk: HostWalk, hi: number, lo: number): AmdTranslationResult {
  return {
    paHi: walk.paHi,
    paLo: walk.paLo >>> 0,
    sizeLg2: walk.sizeLg2,
    allowed: (walk.permissions >>> 29) & 3,
    ipaHi: hi >>> 0,
    ipaLo: lo >>> 0,
    stage1SizeLg2: 0,
    stage2SizeLg2: walk.sizeLg2,
    attributes: (walk.permissions >>> 27) & 3,
    fault: null,
  }
}

describe("the plain host walk", () => {
  it("answers as the checked one on random tables, and always where that marks nothing", () => {
    let plain = 0
    let translated = 0
    fc.assert(
      fc.property(
        fc.array(randomEntry, { minLength: 32, maxLength: 32 }),
        fc.constantFrom(2, 3, 4),
        fc.array(fc.nat(3), { minLength: 5, maxLength: 5 }),
        fc.constantFrom(0n, 1n, 3n),
        fc.constantFrom(ACCESS_READ, ACCESS_WRITE, ACCESS_READ | ACCESS_WRITE),
        (entries, mode, index, had, access) => {
          const iova = index.reduce((sum, i, level) => sum | (BigInt(i) << BigInt(12 + 9 * level)), 0x120n)
          const [hi, lo] = [hi32(iova % bit(12 + 9 * mode)), lo32(iova % bit(12 + 9 * mode))]
          const world = new World(entries, mode, had)
          const before = world.words
          const isPlain = world.plain.stage2(hi, lo, access, world.result)
          expect(world.words).toEqual(before)
          const status = world.walk.walkChecked(hi, lo, access << 29)
          const marks = world.words.some((word, n) => word !== before[n])
          const isOrdinary = mode !== 2 && status === 0 && !marks
          // An entry may skip levels, which is not plain.
          if (isPlain || entries.every(({ next }) => next === null)) expect(isPlain).toBe(isOrdinary)
          if (isPlain) expect(world.result).toEqual(asResult(world.walk, hi, lo))
          plain += Number(isPlain)
          translated += Number(status === 0)
        },
      ),
      { seed: 48882, numRuns: 300 },
    )
    expect(plain).toBeGreaterThan(50)
    expect(translated).toBeGreaterThan(plain)
  })

  it("finds for the hardware's own reads what the checked one finds", () => {
    let found = 0
    fc.assert(
      fc.property(
        fc.array(randomEntry, { minLength: 32, maxLength: 32 }),
        fc.constantFrom(2, 3, 4),
        fc.array(fc.nat(3), { minLength: 5, maxLength: 5 }),
        fc.constantFrom(0n, 1n, 3n),
        (entries, mode, index, had) => {
          const iova = index.reduce((sum, i, level) => sum | (BigInt(i) << BigInt(12 + 9 * level)), 0x120n)
          const [hi, lo] = [hi32(iova % bit(12 + 9 * mode)), lo32(iova % bit(12 + 9 * mode))]
          const [quick, checked] = [new World(entries, mode, had), new World(entries, mode, had)]
          const at = quick.walk.fetch(hi, lo)
          const status = checked.walk.walkChecked(hi, lo, READ)
          const { paHi, paLo, memory } = checked.walk
          expect(at).toBe(status === 0 ? memory.find(paHi, paLo) : -1)
          expect(quick.words).toEqual(checked.words)
          found += Number(at >= 0)
        },
      ),
      { seed: 48882, numRuns: 200 },
    )
    expect(found).toBeGreaterThan(40)
  })

  /** Level n is at 2 * (n - 1); one page of one table each. */
  const oneOfEach = Array.from({ length: 32 }, () => ({ table: 0, next: null, rights: IRW, extra: PR }))
  const NOWHERE = 0xf_0000_0000n

  it.each([
    [3, 3],
    [3, 2],
    [4, 4],
    [4, 3],
    [4, 2],
  ])("of %i levels leaves to the checked one that a table of level %i leads to no memory", (mode, level) => {
    const world = new World(oneOfEach, mode, 0n)
    const { machine, plain, tables, walk, result } = world
    machine.set(tables[2 * (level - 1)] as bigint, { 0: (BigInt(level - 1) << 9n) | PR | IRW | NOWHERE })
    // What one would come to by index -1 looks like an entry that suits: of the second page, table or leaf.
    const below = level === 2 ? 0x20_0000n : (tables[2 * (level - 3)] as bigint)
    const entry = below | (BigInt(level - 2) << 9n) | PR | IRW
    machine.memory.words[1] = lo32(entry)
    machine.memory.words[2] = hi32(entry)
    const iova = 1n << BigInt(12 + 9 * (level - 2))
    expect(plain.stage2(hi32(iova), lo32(iova), ACCESS_READ, result)).toBe(false)
    expect(walk.fetch(hi32(iova), lo32(iova))).toBe(-1)
  })

  it.each([3, 4])("needs no help for the hardware's own reads of %i levels whose marks are set", mode => {
    const world = new World(
      oneOfEach.map(entry => ({ ...entry, extra: PR | A })),
      mode,
      1n,
    )
    const checked = vi.spyOn(world.walk, "walkChecked")
    expect(world.walk.fetch(0, 0)).toBeGreaterThanOrEqual(0)
    expect(checked).not.toHaveBeenCalled()
  })

  it("leaves to the checked one that the root is in no memory; a page may be", () => {
    const { machine, plain, tables, walk, result } = new World(oneOfEach, 3, 0n)
    machine.set(tables[0] as bigint, { 0: PR | IRW | NOWHERE })
    expect(plain.stage2(0, 0, ACCESS_READ, result)).toBe(true)
    expect(walk.fetch(0, 0)).toBe(-1)
    walk.setRoot(3, hi32(NOWHERE), lo32(NOWHERE), READ | WRITE)
    expect(plain.stage2(0, 0, ACCESS_READ, result)).toBe(false)
    expect(walk.fetch(0, 0)).toBe(-1)
  })
})

/** A device with guest tables, all flags set, and where the entries are that lead to a page. */
function nested(levels: 4 | 5, extFeatures: bigint, caches: "none" | typeof NO_IOTLB) {
  const machine = new GuestMachine(3, ON | GCR3_TRP_MODE, { extFeatures, caches })
  machine.device(DTE_GIOV, 0n, BigInt(levels - 4))
  const flags = PRWU | A
  const tables = machine.guest(0, machine.table({ 0: 0x30_0000n | flags | D }), levels, flags)
  return { machine, entries: [...tables, machine.host] }
}

const NO_IOTLB = { structures: "exact", walks: "none", translations: "none" } as const
const ACCESSES = [
  ACCESS_READ,
  ACCESS_WRITE,
  ACCESS_READ | ACCESS_EXEC,
  ACCESS_READ | ACCESS_PRIV,
  ACCESS_WRITE | ACCESS_PRIV,
]

/** What comes of each kind of access, the flags in the entries included, which are put back; as text, to compare fast. */
function outcomes({ machine, entries }: ReturnType<typeof nested>, iova: bigint): string[] {
  return ACCESSES.map(access => {
    const before = entries.map(table => machine.entry(table, 0))
    const outcome = machine.read(1, iova, NO_PASID, access)
    const after = entries.map(table => machine.entry(table, 0))
    for (const [n, table] of entries.entries()) machine.set(table, { 0: before[n] as bigint })
    const { attributes } = machine.model.result
    return JSON.stringify([outcome, attributes, after], (_key, value) =>
      typeof value === "bigint" ? `${value}` : value,
    )
  })
}

describe.each([
  ["of 4 levels", 4, EVERYTHING],
  ["of 5 levels", 5, EVERYTHING],
  ["of 4 levels without NX", 4, EVERYTHING & ~BigInt(EFR_NXSup)],
] as const)("a plain walk of guest tables %s", (_what, levels, extFeatures) => {
  it.each([["none"], [NO_IOTLB]] as const)(
    "answers as the book with any bit of any entry or of the address flipped, caches %o",
    caches => {
      const plain = nested(levels, extFeatures, caches)
      const complete = nested(levels, extFeatures, caches)
      complete.machine.model.trace = () => undefined
      for (let n = 0n; n < 64n; n++) {
        expect(outcomes(plain, 0x123n ^ bit(Number(n))), `bit ${n} of the address`).toEqual(
          outcomes(complete, 0x123n ^ bit(Number(n))),
        )
      }
      for (const [index, table] of plain.entries.entries()) {
        for (let n = 0; n < 64; n++) {
          const value = plain.machine.entry(table, 0)
          for (const { machine } of [plain, complete]) machine.set(table, { 0: value ^ bit(n) })
          expect(outcomes(plain, 0x123n), `bit ${n} of entry ${index}`).toEqual(outcomes(complete, 0x123n))
          for (const { machine } of [plain, complete]) machine.set(table, { 0: value })
        }
      }
    },
  )
})

it.each(["none", NO_IOTLB, "exact"] as const)(
  "no device goes through another's tables, caches %o",
  caches => {
    const machine = new Machine({ caches })
    const level1 = machine.table({ 0: page(0x5000n) })
    machine.hostDevice(1, 3, machine.table({ 0: pde(2, machine.table({ 0: pde(1, level1) })) }))
    const ask = (device: number, pasid: number = NO_PASID): number =>
      machine.model.translate(device, pasid, 0, 0, ACCESS_READ)
    expect(ask(-1)).not.toBe(0)
    expect([ask(1), ask(1), ask(1)]).toEqual([0, 0, 0])
    machine.model.mmio.write64(REG.CONTROL, machine.model.mmio.read64(REG.CONTROL))
    for (const pasid of [NO_PASID, 0]) expect(ask(-1, pasid)).not.toBe(0)
  },
)
