import { ACCESS_EXEC, ACCESS_PRIV, ACCESS_READ, ACCESS_WRITE } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { EVERYTHING, type IdRegisters } from "../src/model/options.ts"
import {
  HIGH_RAM,
  Machine,
  plainCd,
  plainStage2,
  RAM,
  RAM_BYTES,
  S1_BLOCK,
  S1_PAGE,
  S2_BLOCK,
  S2_PAGE,
  SHAPE_4K,
} from "./model-machine.ts"
import { type Access, type Reached, reach, type Tree } from "./walk-reference.ts"

const PAGE = RAM + 0xf0_0000n
/** Memory of a machine that lives for one case. */
const SMALL = 0x40_0000n

/** A small generator of its own, so that one number describes a case. */
class Dice {
  #state: number
  constructor(seed: number) {
    this.#state = seed | 1
  }
  next(): number {
    this.#state ^= this.#state << 13
    this.#state ^= this.#state >>> 17
    this.#state ^= this.#state << 5
    return this.#state >>> 0
  }
  below(n: number): number {
    return this.next() % n
  }
  one(n: number): boolean {
    return this.below(n) === 0
  }
  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]
  }
  bits(n: number): bigint {
    return (
      ((((BigInt(this.next()) << 32n) | BigInt(this.next())) << 32n) | BigInt(this.next())) &
      ((1n << BigInt(n)) - 1n)
    )
  }
}

function startLevels(stage: 1 | 2, granuleLg2: number, inputBits: number, ds: boolean): number[] {
  const stride = granuleLg2 - 3
  const resolves = (level: number): number => granuleLg2 + (4 - level) * stride
  if (stage === 1) {
    for (let level = 3; level >= -1; level--) if (inputBits <= resolves(level)) return [level]
    return []
  }
  const top = granuleLg2 === 12 ? (ds ? -1 : 0) : granuleLg2 === 14 ? (ds ? 0 : 1) : 1
  return [-1, 0, 1, 2, 3].filter(level => {
    const within = inputBits > resolves(level + 1) || (level === 3 && inputBits > granuleLg2)
    return level >= top && within && inputBits <= resolves(level) + 4
  })
}

function randomTree(m: Machine, dice: Dice, stage: 1 | 2, oasBits: number, leastBits = 16): Tree | null {
  const granuleLg2 = dice.pick([12, 14, 16])
  const ds = granuleLg2 !== 16 && dice.one(3)
  const most = granuleLg2 === 16 || ds ? 52 : 48
  const least = Math.max(leastBits, granuleLg2 === 16 ? 17 : 16)
  const inputBits = Math.min(least + dice.below(53 - least), most, stage === 2 ? oasBits : 52)
  const startLevel = dice.pick(startLevels(stage, granuleLg2, inputBits, ds))
  if (startLevel === undefined) return null
  const rootShift = granuleLg2 + (3 - startLevel) * (granuleLg2 - 3)
  const rootBytes = BigInt(Math.max(64, 8 * 2 ** (inputBits - rootShift)))
  return {
    stage,
    granuleLg2,
    inputBits,
    startLevel,
    ds,
    oasBits,
    outputBits: Math.min(dice.pick([40, 44, 48, 52]), oasBits),
    root: m.alloc(rootBytes, rootBytes),
    bigEndian: dice.one(6),
    accessFaultsOff: dice.one(5),
    updateAccess: dice.one(4),
    updateDirty: dice.one(2),
    noHierarchy: dice.one(3),
    wxn: dice.one(5),
    pan: dice.one(5),
    xnx: true,
  }
}

const PS: Record<number, bigint> = { 32: 0n, 36: 1n, 40: 2n, 42: 3n, 44: 4n, 48: 5n, 52: 6n }
const TG0: Record<number, bigint> = { 12: 0n, 14: 2n, 16: 1n }
const SL: Record<number, Record<number, bigint>> = {
  12: { 2: 0n, 1: 1n, 0: 2n, 3: 3n, [-1]: 4n },
  14: { 3: 0n, 2: 1n, 1: 2n, 0: 3n },
  16: { 3: 0n, 2: 1n, 1: 2n },
}

function cdOf(tree: Tree): Parameters<Machine["cd"]>[0] {
  const flag = (on: boolean): bigint => (on ? 1n : 0n)
  return {
    ...plainCd(tree.root),
    T0SZ: BigInt(64 - tree.inputBits),
    TG0: TG0[tree.granuleLg2],
    ENDI: flag(tree.bigEndian),
    IPS: PS[tree.outputBits],
    AFFD: flag(tree.accessFaultsOff),
    HA: flag(tree.updateAccess),
    HD: flag(tree.updateDirty),
    HAD0: flag(tree.noHierarchy),
    WXN: flag(tree.wxn),
    PAN: flag(tree.pan),
    DS: flag(tree.ds),
  }
}

function steOf(tree: Tree): Parameters<Machine["ste"]>[1] {
  const flag = (on: boolean): bigint => (on ? 1n : 0n)
  const sl = SL[tree.granuleLg2][tree.startLevel]
  return {
    ...plainStage2(tree.root),
    S2T0SZ: BigInt(64 - tree.inputBits),
    S2SL0: sl & 3n,
    S2SL0_2: sl >> 2n,
    S2TG: TG0[tree.granuleLg2],
    S2PS: PS[tree.outputBits],
    S2ENDI: flag(tree.bigEndian),
    S2AFFD: flag(tree.accessFaultsOff),
    S2HA: flag(tree.updateAccess),
    S2HD: flag(tree.updateDirty),
    S2DS: flag(tree.ds),
  }
}

function swap(value: bigint): bigint {
  let out = 0n
  for (let byte = 0n; byte < 8n; byte++) out = (out << 8n) | ((value >> (8n * byte)) & 0xffn)
  return out
}

/** An address in the form the tree's descriptors have. */
function placed(tree: Tree, address: bigint): bigint {
  if (tree.granuleLg2 === 16 && tree.oasBits === 52)
    return (address & 0xffff_ffff_0000n) | ((address >> 36n) & 0xf000n)
  if (tree.ds) return (address & 0x3_ffff_ffff_f000n) | ((address >> 42n) & 0x300n)
  return address & 0xffff_ffff_f000n
}

/**
 * Descriptors along the way of one address: mostly tables, at each level a chance of everything else.
 * `place` gives the address that a table's physical page has for whoever walks.
 */
function grow(
  m: Machine,
  dice: Dice,
  tree: Tree,
  address: bigint,
  targetBits: readonly number[],
  place: (pa: bigint) => bigint,
): void {
  const stride = BigInt(tree.granuleLg2 - 3)
  let table = tree.root
  let physical = unplaced.get(m)?.get(table) ?? table
  for (let level = tree.startLevel; level <= 3; level++) {
    const shift = BigInt(tree.granuleLg2) + BigInt(3 - level) * stride
    const bits = level === tree.startLevel ? BigInt(tree.inputBits) - shift : stride
    const at = physical + 8n * ((address >> shift) & ((1n << bits) - 1n))
    const attributes = dice.bits(64) & 0xfff8_0000_0000_0cfcn
    const leaf = dice.one(8) || level === 3
    let entry: bigint
    if (dice.one(25)) entry = dice.bits(64)
    else if (leaf) {
      const target = placed(tree, dice.bits(dice.pick(targetBits)))
      entry = (attributes & ~(dice.one(2) ? 0n : 0x7f_8000_0000_0000_00n)) | target | (level === 3 ? 3n : 1n)
      if (!dice.one(4)) entry |= 0x440n
    } else {
      const size = 1n << BigInt(tree.granuleLg2)
      const next = m.alloc(size, size)
      const outside = dice.one(20) ? dice.pick([1n << 37n, 1n << 42n, 1n << 46n]) : place(next)
      entry = placed(tree, outside) | 3n | (dice.one(3) ? attributes & 0x7800_0000_0000_0000n : 0n)
      physical = next
      table = outside
    }
    m.memory.write64(at, tree.bigEndian ? swap(entry) : entry)
    if (leaf || table !== place(physical)) return
  }
}

const unplaced = new Map<Machine, Map<bigint, bigint>>()

function randomAccess(dice: Dice): { bits: number; access: Access } {
  const privileged = dice.one(3)
  const kind = dice.pick(["read", "write", "both", "execute"])
  const read = kind !== "write"
  const write = kind === "write" || kind === "both"
  const execute = kind === "execute"
  const bits =
    (read ? ACCESS_READ : 0) |
    (write ? ACCESS_WRITE : 0) |
    (execute ? ACCESS_EXEC : 0) |
    (privileged ? ACCESS_PRIV : 0)
  return { bits, access: { read, write, execute, privileged } }
}

const ids = (oasBits: number): Partial<IdRegisters> => ({
  IDR5: (EVERYTHING.IDR5 & ~7) | Number(PS[oasBits]),
})

/** What the model answers, in the reference's words. */
function answered(m: Machine, address: bigint, bits: number): unknown {
  const outcome = m.access(1, address, bits)
  if (!outcome.ok) {
    const { reason, stage, record } = outcome.fault
    const word = record?.[1] ?? 0n
    const cls = ["CD", "TT", "IN"][Number((word >> 40n) & 3n)]
    const s2 = (word >> 39n) & 1n
    return { event: reason, stage, cls, s2, ipa: stage === 2 ? (record?.[3] ?? 0n) : 0n }
  }
  const allowed = outcome.allowed & (ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC)
  return { pa: outcome.pa, size: outcome.size, allowed, ipa: outcome.ipa }
}

function wanted(expected: Reached, ipa: bigint): unknown {
  if (!expected.ok) {
    const inStage2 = expected.stage === 2
    const { event, stage, cls } = expected
    const recordsIpa = inStage2 && event !== "F_WALK_EABT"
    const address = recordsIpa ? expected.ipa & ~0xfffn : expect.anything()
    return { event, stage, cls, s2: inStage2 ? 1n : 0n, ipa: inStage2 ? address : 0n }
  }
  const { read, write, execute } = expected.allowed
  const allowed = (read ? ACCESS_READ : 0) | (write ? ACCESS_WRITE : 0) | (execute ? ACCESS_EXEC : 0)
  return { pa: expected.pa, size: 1n << BigInt(expected.sizeLg2), allowed, ipa }
}

/** Words that were allocated to tables and queues. */
function tables(m: Machine): Uint32Array {
  return m.memory.words.subarray(0, Number(m.allocated - RAM) / 4)
}

/** Runs the model's short and complete ways; both must say and write the same. Updates are undone in between. */
function bothWays(m: Machine, address: bigint, bits: number): unknown {
  m.write("CR0", 0)
  m.write("EVENTQ_PROD", 0)
  m.write("CR0", 0xd)
  const before = tables(m).slice()
  const quick = answered(m, address, bits)
  const after = tables(m).slice()
  tables(m).set(before)
  m.write("CR0", 0)
  m.write("EVENTQ_PROD", 0)
  m.write("CR0", 0xd)
  m.model.trace = () => {}
  const complete = answered(m, address, bits)
  m.model.trace = null
  expect(quick).toEqual(complete)
  expect(Buffer.compare(new Uint8Array(tables(m).slice().buffer), new Uint8Array(after.buffer))).toBe(0)
  tables(m).set(before)
  return quick
}

describe("a single stage agrees with the reference", () => {
  it.each([1, 2] as const)("stage %i, every granule, size and level", stage => {
    let leaves = 0
    const events = new Set<string>()
    fc.assert(
      fc.property(fc.integer(), seed => {
        const dice = new Dice(seed)
        const oasBits = dice.pick([44, 48, 52])
        const m = new Machine(ids(oasBits), SMALL)
        const tree = randomTree(m, dice, stage, oasBits)
        if (tree === null) return
        if (stage === 1) m.ste(1, { Config: 5n, S1ContextPtr: m.cd(cdOf(tree)) >> 6n })
        else m.ste(1, { Config: 6n, ...steOf(tree) })
        const address = dice.bits(tree.inputBits)
        grow(m, dice, tree, address, [40, 44, 48, 52], pa => pa)
        for (const probe of [address, address ^ 0x1000n, dice.bits(tree.inputBits), address | (1n << 52n)]) {
          // Beyond the input address size stage 1 refuses a bypassed address before stage 2 sees it.
          if (stage === 2 && probe >> BigInt(oasBits) !== 0n) continue
          const { bits, access } = randomAccess(dice)
          const expected = reach(m.memory, tree, probe, access)
          expect(bothWays(m, probe, bits)).toEqual(
            wanted(expected, expected.ok && stage === 1 ? expected.pa : probe),
          )
          if (expected.ok) leaves++
          else events.add(expected.event)
        }
      }),
      { seed: 71, numRuns: 1500 },
    )
    expect(leaves).toBeGreaterThan(200)
    expect([...events].sort()).toEqual([
      "F_ACCESS",
      "F_ADDR_SIZE",
      "F_PERMISSION",
      "F_TRANSLATION",
      "F_WALK_EABT",
    ])
  })
})

describe("both stages agree with the composition of the references", () => {
  /** Stage 1 tables lie here for stage 1, elsewhere for memory. */
  const SHIFT = 0x8_0000_0000n

  it("faults name the stage and the class that a single stage would blame", () => {
    let leaves = 0
    const blamed = new Set<string>()
    fc.assert(
      fc.property(fc.integer(), seed => {
        const dice = new Dice(seed)
        const m = new Machine(ids(48), SMALL)
        const tree = randomTree(m, dice, 1, 48)
        const stage2 = randomTree(m, dice, 2, 48, 40)
        if (tree === null || stage2 === null) return
        const s1: Tree = { ...tree, root: tree.root + SHIFT }
        const s2: Tree = { ...stage2, outputBits: 48 }
        const rootPa = s1.root - SHIFT
        unplaced.set(m, new Map([[s1.root, rootPa]]))
        const context = m.cd(cdOf(s1))
        m.ste(1, { Config: 7n, S1ContextPtr: (context + SHIFT) >> 6n, ...steOf(s2) })
        const address = dice.bits(s1.inputBits)
        grow(m, dice, s1, address, [39, 39, 39, 48], pa => pa + SHIFT)
        unplaced.delete(m)
        mapAll(m, dice, s2, SHIFT)
        const { bits, access } = randomAccess(dice)
        const plain: Access = { read: true, write: false, execute: false, privileged: access.privileged }
        const through = (cls: string) => (ipa: bigint) => {
          const table = reach(m.memory, s2, ipa, plain)
          return table.ok ? table.pa : { ...table, cls, ipa }
        }
        const locatedCd = through("CD")(context + SHIFT)
        let expected: Reached
        let ipa = 0n
        if (typeof locatedCd !== "bigint") expected = locatedCd
        else {
          const first = reach(m.memory, s1, address, access, through("TT"))
          if (first.ok && writesBack(m, s1, first, access)) return
          expected = first
          if (first.ok) {
            ipa = first.pa
            if (!dice.one(4)) mapOne(m, dice, s2, ipa)
            expected = compose(first, reach(m.memory, s2, first.pa, access))
          }
        }
        expect(bothWays(m, address, bits)).toEqual(wanted(expected, ipa))
        if (expected.ok) leaves++
        else blamed.add(`${expected.event} ${expected.stage} ${expected.cls}`)
      }),
      { seed: 72, numRuns: 1500 },
    )
    expect(leaves).toBeGreaterThan(40)
    for (const cls of ["CD", "TT", "IN"]) {
      for (const event of ["F_TRANSLATION", "F_PERMISSION", "F_ACCESS"]) {
        expect(blamed).toContain(`${event} 2 ${cls}`)
      }
    }
    expect(blamed).toContain("F_TRANSLATION 1 IN")
  })

  /** A hardware update of a stage 1 descriptor asks stage 2 for a write; tested apart. */
  function writesBack(_m: Machine, tree: Tree, _first: Reached, _access: Access): boolean {
    return tree.updateAccess
  }

  function compose(first: Extract<Reached, { ok: true }>, second: Reached): Reached {
    if (!second.ok) return second
    return {
      ok: true,
      pa: second.pa,
      sizeLg2: Math.min(first.sizeLg2, second.sizeLg2),
      allowed: {
        read: first.allowed.read && second.allowed.read,
        write: first.allowed.write && second.allowed.write,
        execute: first.allowed.execute && second.allowed.execute,
        privileged: first.allowed.privileged,
      },
    }
  }

  /** Stage 2 for all of RAM at the shifted addresses; a page now and then is missing or refuses. */
  function mapAll(m: Machine, dice: Dice, s2: Tree, shift: bigint): void {
    const size = 1n << BigInt(s2.granuleLg2)
    const flaw = dice.pick([0n, 0n, 0n, 1n, 2n, 3n])
    const end = m.allocated
    for (let pa = RAM & ~(size - 1n); pa < end; pa += size) {
      let leaf = placed(s2, pa) | 0x4c3n
      if (flaw !== 0n && dice.one(12)) leaf = flaw === 1n ? 0n : flaw === 2n ? leaf & ~0x40n : leaf & ~0x400n
      mapTo(m, s2, pa + shift, leaf)
    }
  }

  function mapOne(m: Machine, dice: Dice, s2: Tree, ipa: bigint): void {
    if (ipa >> BigInt(s2.inputBits) !== 0n) return
    const target = placed(s2, dice.bits(44) & ~((1n << BigInt(s2.granuleLg2)) - 1n))
    const accessed = dice.one(6) ? 0n : 0x400n
    mapTo(m, s2, ipa, target | (dice.bits(64) & 0x0060_0000_0000_00c0n) | accessed | 3n)
  }

  function mapTo(m: Machine, s2: Tree, ipa: bigint, leaf: bigint): void {
    const stride = BigInt(s2.granuleLg2 - 3)
    let table = s2.root
    for (let level = s2.startLevel; level <= 3; level++) {
      const shift = BigInt(s2.granuleLg2) + BigInt(3 - level) * stride
      const bits = level === s2.startLevel ? BigInt(s2.inputBits) - shift : stride
      const at = table + 8n * ((ipa >> shift) & ((1n << bits) - 1n))
      const read = (): bigint => (s2.bigEndian ? swap(m.memory.read64(at)) : m.memory.read64(at))
      const write = (value: bigint): void => m.memory.write64(at, s2.bigEndian ? swap(value) : value)
      if (level === 3) write(leaf)
      else {
        if ((read() & 3n) !== 3n) {
          const bytes = 1n << BigInt(s2.granuleLg2)
          write(placed(s2, m.alloc(bytes, bytes)) | 3n)
        }
        table = s2.ds ? read() & 0x3_ffff_ffff_f000n : read() & 0xffff_ffff_f000n
      }
    }
  }
})

describe("an identity stage 2 drops out", () => {
  it("for addresses, sizes and permissions", () => {
    const m = new Machine()
    const root = m.alloc()
    m.map(root, SHAPE_4K, 0x1234_5000n, PAGE | S1_PAGE)
    m.map(root, { ...SHAPE_4K, leafLevel: 2 }, 0x4000_0000n, 0x5000_0000n | S1_BLOCK | 0x80n)
    const context = m.cd(plainCd(root))
    const identity = m.alloc()
    for (let gib = 0n; gib < 8n; gib++) {
      m.map(identity, { ...SHAPE_4K, leafLevel: 1 }, gib << 30n, (gib << 30n) | S2_BLOCK)
    }
    m.ste(1, { Config: 5n, S1ContextPtr: context >> 6n })
    m.ste(2, { Config: 7n, S1ContextPtr: context >> 6n, ...plainStage2(identity) })
    for (const address of [0x1234_5678n, 0x4000_1234n]) {
      const alone = m.access(1, address)
      const nested = m.access(2, address)
      if (!alone.ok || !nested.ok) throw new Error("both succeed")
      const { pa, size, allowed, stage1Size } = nested
      expect({ pa, size, allowed, stage1Size }).toEqual({
        pa: alone.pa,
        size: alone.size,
        allowed: alone.allowed,
        stage1Size: alone.stage1Size,
      })
      expect(nested.stage2Size).toBe(1n << 30n)
    }
  })
})

describe("the upper range", () => {
  const HIGH = 0xffff_8000_1234_5000n

  function upper(fields: object, id: Partial<IdRegisters> = {}): Machine {
    const m = new Machine(id)
    const [low, high] = [m.alloc(), m.alloc()]
    m.map(low, SHAPE_4K, 0x1234_5000n, PAGE | S1_PAGE)
    m.map(high, SHAPE_4K, HIGH & 0xffff_ffff_ffffn, (PAGE + 0x1000n) | S1_PAGE)
    const context = m.cd({ ...plainCd(low), EPD1: 0n, T1SZ: 16n, TG1: 2n, TTB1: high >> 4n, ...fields })
    m.ste(1, { Config: 5n, S1ContextPtr: context >> 6n })
    return m
  }

  it("starts where bit 55 is set, with its own granule encoding", () => {
    const m = upper({})
    expect(m.access(1, HIGH | 8n)).toMatchObject({ ok: true, pa: PAGE + 0x1008n })
    expect(m.access(1, 0x1234_5008n)).toMatchObject({ ok: true, pa: PAGE + 8n })
    expect(m.fault(1, HIGH & ~(1n << 60n)).reason).toBe("F_TRANSLATION")
    expect(m.fault(1, 1n << 48n).reason).toBe("F_TRANSLATION")
    expect(m.fault(1, 0xfffe_8000_1234_5000n).reason).toBe("F_TRANSLATION")
  })

  it("ignores the top byte with TBI, and records it", () => {
    const m = upper({ TBI0: 1n, TBI1: 1n })
    const tagged = HIGH & ~(0xffn << 56n)
    expect(m.access(1, tagged)).toMatchObject({ ok: true, pa: PAGE + 0x1000n })
    expect(m.access(1, 0x5a00_0000_1234_5000n)).toMatchObject({ ok: true, pa: PAGE })
    const missing = 0x5a00_0000_0000_1000n
    expect(m.fault(1, missing).record?.[2]).toBe(missing)
  })

  it("is a Translation fault with EPD1", () => {
    expect(upper({ EPD1: 1n }).fault(1, HIGH)).toMatchObject({ reason: "F_TRANSLATION", stage: 1 })
  })

  it("does not exist for EL2, where everything is privileged", () => {
    const m = upper({ EPD0: 1n })
    const context = m.memory.read64(m.streamTable + 64n) & 0xff_ffff_ffff_ffc0n
    m.ste(1, { Config: 5n, S1ContextPtr: context >> 6n, STRW: 2n })
    expect(m.access(1, 0x1234_5000n)).toMatchObject({ ok: true, pa: PAGE })
    expect(m.fault(1, HIGH).reason).toBe("F_TRANSLATION")
    m.ste(1, { Config: 5n, S1ContextPtr: context >> 6n, STRW: 1n })
    expect(m.fault(1, HIGH).detail).toContain("STRW")
  })

  it("refuses unprivileged accesses with E0PD1", () => {
    const m = upper({ E0PD1: 1n })
    expect(m.fault(1, HIGH).reason).toBe("F_TRANSLATION")
    expect(m.access(1, 0x1234_5000n).ok).toBe(true)
    expect(m.access(1, HIGH, ACCESS_READ | ACCESS_PRIV).ok).toBe(true)
  })
})

describe("hardware updates", () => {
  /** A clean, old, writable page: AF 0, AP[2] 1, DBM 1; in stage 2 S2AP 01. */
  const OLD1 = (1n << 51n) | PAGE | 0xc3n
  const OLD2 = (1n << 51n) | PAGE | 0x43n
  const VA = 0x1234_5000n

  function leafOf(m: Machine, root: bigint): bigint {
    let table = root
    for (const shift of [39n, 30n, 21n])
      table = m.memory.read64(table + 8n * ((VA >> shift) & 511n)) & 0xffff_ffff_f000n
    return table + 8n * ((VA >> 12n) & 511n)
  }

  it("set AF on a read, clear AP[2] on a write", () => {
    const m = new Machine()
    const root = m.alloc()
    m.map(root, SHAPE_4K, VA, OLD1)
    m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(root), HA: 1n, HD: 1n }) >> 6n })
    const at = leafOf(m, root)
    expect(m.access(1, VA)).toMatchObject({ ok: true, allowed: ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC })
    expect(m.memory.read64(at)).toBe(OLD1 | 0x400n)
    m.access(1, VA, ACCESS_WRITE)
    expect(m.memory.read64(at)).toBe((OLD1 | 0x400n) & ~0x80n)
  })

  it("set AF on a read, S2AP[1] on a write, in stage 2", () => {
    const m = new Machine()
    const root = m.alloc()
    m.map(root, SHAPE_4K, VA, OLD2)
    m.ste(1, { Config: 6n, ...plainStage2(root), S2HA: 1n, S2HD: 1n })
    m.access(1, VA)
    expect(m.memory.read64(leafOf(m, root))).toBe(OLD2 | 0x400n)
    m.access(1, VA, ACCESS_WRITE)
    expect(m.memory.read64(leafOf(m, root))).toBe(OLD2 | 0x480n)
  })

  it("do not happen on a fault, nor without HD", () => {
    const m = new Machine()
    const root = m.alloc()
    m.map(root, SHAPE_4K, VA, OLD1)
    const at = leafOf(m, root)
    m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(root), HA: 1n }) >> 6n })
    expect(m.fault(1, VA, ACCESS_WRITE).reason).toBe("F_PERMISSION")
    expect(m.memory.read64(at)).toBe(OLD1)
    m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(root), HD: 1n }) >> 6n })
    expect(m.fault(1, VA).reason).toBe("F_ACCESS")
  })

  it("of stage 1 need stage 2 to let the table be written: CLASS TT, TTRnW 0", () => {
    const m = new Machine()
    const [s1, s2] = [m.alloc(), m.alloc()]
    m.map(s1, SHAPE_4K, VA, OLD1)
    const context = m.cd({ ...plainCd(s1), HA: 1n })
    for (let page = RAM; page < RAM + RAM_BYTES; page += 0x1000n) m.map(s2, SHAPE_4K, page, page | S2_PAGE)
    const at = leafOf(m, s1)
    const tablePage = at & ~0xfffn
    m.map(s2, SHAPE_4K, tablePage, tablePage | (S2_PAGE & ~0x80n))
    m.ste(1, { Config: 7n, S1ContextPtr: context >> 6n, ...plainStage2(s2) })
    expect(m.fault(1, VA)).toMatchObject({
      reason: "F_PERMISSION",
      stage: 2,
      record: [0x1_0000_0013n, 0x188_0000_0000n, VA, tablePage],
    })
    m.map(s2, SHAPE_4K, tablePage, tablePage | (S2_PAGE & ~0xc0n))
    expect(m.fault(1, VA).record?.[1]).toBe(0x1188_0000_0000n)
    m.map(s2, SHAPE_4K, tablePage, tablePage | S2_PAGE)
    expect(m.access(1, VA).ok).toBe(true)
    expect(m.memory.read64(at)).toBe(OLD1 | 0x400n)
  })
})

describe("roots", () => {
  it("are aligned to their size, and to 64 bytes where 52-bit outputs are possible", () => {
    // 31 bits from level 1 leave one index bit: 16 bytes.
    const shape = { granuleLg2: 12, inputBits: 31, startLevel: 1 }
    for (const [ips, crooked, found] of [
      [5n, 0x30n, false],
      [6n, 0x30n, true],
    ] as const) {
      const m = new Machine()
      const root = m.alloc()
      m.map(root, shape, 0x4000_5000n, PAGE | S1_PAGE)
      m.ste(1, {
        Config: 5n,
        S1ContextPtr: m.cd({ ...plainCd(root), T0SZ: 33n, IPS: ips, TTB0: (root | crooked) >> 4n }) >> 6n,
      })
      expect(m.access(1, 0x4000_5000n).ok).toBe(found)
    }
  })

  it("of 16 concatenated stage 2 tables are aligned to all of them", () => {
    const m = new Machine()
    const root = m.alloc(0x1_0000n, 0x1_0000n)
    const shape = { granuleLg2: 12, inputBits: 43, startLevel: 1 }
    m.map(root, shape, 0x7ff_ffff_f000n, PAGE | S2_PAGE)
    m.ste(1, { Config: 6n, ...plainStage2(root), S2T0SZ: 21n, S2SL0: 1n, S2TTB: (root | 0xf000n) >> 4n })
    expect(m.access(1, 0x7ff_ffff_f123n)).toMatchObject({ ok: true, pa: PAGE + 0x123n })
    expect(m.fault(1, 1n << 43n)).toMatchObject({ reason: "F_TRANSLATION", stage: 2 })
  })
})

describe("output sizes", () => {
  it.each([1, 2] as const)("bound tables and pages of every level, even where memory is, stage %i", stage => {
    // Levels 0 to 2 lead to HIGH_RAM in turn; the fourth case has the page itself there.
    for (let beyond = 0; beyond < 4; beyond++) {
      const m = new Machine()
      const tables = [m.alloc(), m.alloc(), m.alloc(), m.alloc(), PAGE]
      tables[beyond + 1] = HIGH_RAM
      for (let level = 0; level < 4; level++) {
        const attributes = level < 3 ? 3n : stage === 1 ? S1_PAGE : S2_PAGE
        m.memory.write64(tables[level], tables[level + 1] | attributes)
      }
      const root = tables[0]
      const size = (ps: bigint): void => {
        if (stage === 1) m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(root), IPS: ps }) >> 6n })
        else m.ste(1, { Config: 6n, ...plainStage2(root), S2PS: ps })
      }
      size(5n)
      expect(m.access(1, 0x10n)).toMatchObject({ ok: true, pa: tables[4] + 0x10n })
      size(4n)
      expect(m.fault(1, 0x10n)).toMatchObject({ reason: "F_ADDR_SIZE", stage })
    }
  })
})

describe("S2PTW", () => {
  it("refuses tables in Device memory", () => {
    const m = new Machine()
    const [s1, s2] = [m.alloc(), m.alloc()]
    m.map(s1, SHAPE_4K, 0x1000n, PAGE | S1_PAGE)
    const context = m.cd(plainCd(s1))
    for (let page = RAM; page < RAM + RAM_BYTES; page += 0x1000n) m.map(s2, SHAPE_4K, page, page | S2_PAGE)
    m.ste(1, { Config: 7n, S1ContextPtr: context >> 6n, ...plainStage2(s2), S2PTW: 1n })
    expect(m.access(1, 0x1000n).ok).toBe(true)
    m.map(s2, SHAPE_4K, s1, s1 | (S2_PAGE & ~0x3cn))
    expect(m.fault(1, 0x1000n)).toMatchObject({
      reason: "F_PERMISSION",
      record: [0x1_0000_0013n, 0x1188_0000_0000n, 0x1000n, s1],
    })
    m.map(s2, SHAPE_4K, s1, s1 | S2_PAGE)
    m.map(s2, SHAPE_4K, context, context | (S2_PAGE & ~0x3cn))
    expect(m.fault(1, 0x1000n).record).toEqual([0x1_0000_0013n, 0x88_0000_0000n, 0x1000n, context])
  })
})
