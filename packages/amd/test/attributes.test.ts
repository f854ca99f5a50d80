/** What tables say beside addresses: AMD 48882 rev 3.10, §2.2.2.1 (SD), §2.2.3 (FC, U, HAD), §2.2.6 (v2 entries). */
import { ACCESS_EXEC, ACCESS_PRIV, ACCESS_READ, ACCESS_WRITE, NO_PASID } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  A,
  bit,
  D,
  DTE_GV,
  DTE_TV,
  DTE_V,
  DTE1_SD,
  IR,
  IRW,
  IW,
  Machine,
  NX,
  P,
  PRWU,
  PS,
  page,
  pde,
  RW,
  US,
} from "./machine.ts"

const PWT = bit(3)
const PCD = bit(4)
const PAT = bit(7)
const G = bit(8)
const PAT_LARGE = bit(12)
const FC = bit(60)
const U = bit(59)
const READ_WRITE = ACCESS_READ | ACCESS_WRITE

function hostDevice(leaf: bigint, had = 0n): { machine: Machine; level1: bigint; root: bigint } {
  const machine = new Machine()
  const level1 = machine.table({ 0: leaf })
  const root = machine.table({ 0: pde(1, level1) })
  machine.dte(1, DTE_V | DTE_TV | (2n << 9n) | root | IRW | (had << 7n), 5n, 0n, 0n)
  return { machine, level1, root }
}

/** A guest leaf at level 1 or 2 for PASID 1, over host tables of 2 MiB pages. */
function guestDevice(
  leaf: bigint,
  { level = 1, hostFlags = 0n } = {},
): { machine: Machine; leafTable: bigint } {
  const machine = new Machine()
  const leafTable = machine.table({ 0: leaf })
  let root = leafTable
  for (let above = level + 1; above <= 4; above++) root = machine.table({ 0: root | PRWU })
  const gcr3 = machine.table({ 1: root | 1n })
  const host = machine.table(
    Object.fromEntries(Array.from({ length: 32 }, (_, n) => [n, page(BigInt(n) << 21n) | hostFlags])),
  )
  const first = DTE_V | DTE_TV | DTE_GV | IRW | (2n << 9n) | host | (((gcr3 >> 12n) & 7n) << 58n)
  machine.dte(1, first, 5n | DTE1_SD | (((gcr3 >> 15n) & 0xffffn) << 16n), 0n, 0n)
  return { machine, leafTable }
}

describe("attributes of host pages", () => {
  it.each([
    ["none", 0n, false, false],
    ["FC", FC, true, false],
    ["U", U, false, true],
  ])("%s", (_, flags, forceCoherent, untranslatedOnly) => {
    const { machine } = hostDevice(page(0x30_0000n) | flags)
    expect(machine.model.attributesOf(1, NO_PASID, 0x10n)).toEqual({
      forceCoherent,
      tablesNotSnooped: false,
      patIndex: null,
      global: false,
      untranslatedOnly,
      allowed: READ_WRITE,
    })
  })

  it("say what is allowed, and nothing where nothing is", () => {
    expect(hostDevice(page(0n, IR)).machine.model.attributesOf(1, NO_PASID, 0n)?.allowed).toBe(ACCESS_READ)
    expect(hostDevice(page(0n, IW)).machine.model.attributesOf(1, NO_PASID, 0n)?.allowed).toBe(ACCESS_WRITE)
    expect(hostDevice(0n).machine.model.attributesOf(1, NO_PASID, 0n)?.allowed).toBe(0)
  })

  it("are null without translation, or where a table is wrong", () => {
    const { machine } = hostDevice(page(0n) | bit(52))
    expect(machine.model.attributesOf(1, NO_PASID, 0n)).toBeNull()
    expect(machine.model.attributesOf(1, 7, 0n)).toBeNull()
    expect(machine.model.attributesOf(2, NO_PASID, 0n)).toBeNull()
    expect(machine.events()).toEqual([])
  })
})

describe("attributes of guest pages", () => {
  it.each([
    [0n, 0],
    [PWT, 1],
    [PCD, 2],
    [PCD | PWT, 3],
    [PAT, 4],
    [PAT | PWT, 5],
    [PAT | PCD, 6],
    [PAT | PCD | PWT, 7],
  ])("flags %x of a 4 KiB page are PAT index %i (AMD 24593 §7.8.2)", (flags, patIndex) => {
    const { machine } = guestDevice(0x30_0000n | PRWU | flags)
    expect(machine.model.attributesOf(1, 1, 0n)).toMatchObject({ patIndex, tablesNotSnooped: true })
  })

  it("have PAT at bit 12 in a large page", () => {
    const large = 0x20_0000n | PRWU | PS
    const patIndex = (leaf: bigint): number | null | undefined =>
      guestDevice(leaf, { level: 2 }).machine.model.attributesOf(1, 1, 0n)?.patIndex
    expect([patIndex(large), patIndex(large | PAT_LARGE | PWT)]).toEqual([0, 5])
  })

  it("take FC and U from the host leaf, G from the guest's", () => {
    const { machine } = guestDevice(0x30_0000n | PRWU | G, { hostFlags: FC | U })
    const seen = { forceCoherent: true, untranslatedOnly: true, global: true }
    expect(machine.model.attributesOf(1, 1, 0n)).toMatchObject(seen)
  })

  it("tell user, supervisor and execute rights apart", () => {
    const allowed = (leaf: bigint, privilege: number): number | undefined =>
      guestDevice(leaf).machine.model.attributesOf(1, 1, 0n, privilege)?.allowed
    expect(allowed(0x30_0000n | PRWU, 0)).toBe(READ_WRITE | ACCESS_EXEC)
    expect(allowed(0x30_0000n | PRWU | NX, 0)).toBe(READ_WRITE)
    expect(allowed(0x30_0000n | P | US, 0)).toBe(ACCESS_READ | ACCESS_EXEC)
    expect(allowed(0x30_0000n | P | RW, 0)).toBe(0)
    expect(allowed(0x30_0000n | P | RW, ACCESS_PRIV)).toBe(READ_WRITE | ACCESS_EXEC | ACCESS_PRIV)
  })

  it("are looked up without a mark in any table", () => {
    const { machine, leafTable } = guestDevice(0x30_0000n | PRWU)
    machine.model.attributesOf(1, 1, 0n)
    expect(machine.entry(leafTable, 0) & (A | D)).toBe(0n)
    machine.write(1, 0n, 1)
    expect(machine.entry(leafTable, 0) & (A | D)).toBe(A | D)
  })
})

describe("accessed and dirty bits", () => {
  it.each([
    [0n, 0n, 0n],
    [1n, A, A],
    [3n, A, A | D],
  ])("of host pages by HAD %i", (had, afterRead, afterWrite) => {
    const { machine, level1, root } = hostDevice(page(0x30_0000n), had)
    machine.read(1, 0n)
    expect(machine.entry(level1, 0) & (A | D)).toBe(afterRead)
    machine.write(1, 0n)
    expect(machine.entry(level1, 0) & (A | D)).toBe(afterWrite)
    expect(machine.entry(root, 0) & (A | D)).toBe(afterRead)
  })

  it("are only ever set, and nothing else in the entry changes", () => {
    const rights = fc.constantFrom(0n, IR, IW, IRW)
    const software = fc.bigInt({ min: 0n, max: 0xfn })
    const accesses = fc.array(fc.constantFrom(ACCESS_READ, ACCESS_WRITE, READ_WRITE), { maxLength: 8 })
    fc.assert(
      fc.property(
        rights,
        software,
        fc.constantFrom(0n, A, D, A | D),
        accesses,
        (allowed, ignored, marks, kinds) => {
          const leaf = page(0x30_0000n, allowed) | (ignored << 1n) | marks
          const { machine, level1 } = hostDevice(leaf, 3n)
          let before = leaf
          for (const kind of kinds) {
            const granted = (kind & ACCESS_READ) === 0 || (allowed & IR) !== 0n
            const ok = granted && ((kind & ACCESS_WRITE) === 0 || (allowed & IW) !== 0n)
            const set = ok ? A | ((kind & ACCESS_WRITE) === 0 ? 0n : D) : 0n
            expect(machine.model.translate(1, NO_PASID, 0, 0x20, kind) === 0).toBe(ok)
            expect(machine.entry(level1, 0)).toBe(before | set)
            before |= set
          }
        },
      ),
      { seed: 7, numRuns: 200 },
    )
  })
})
