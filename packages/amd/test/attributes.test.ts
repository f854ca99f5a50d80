/** What tables say beside addresses: AMD 48882 rev 3.10, §2.2.2.1 (SD), §2.2.3 (FC, U, HAD), §2.2.6 (v2 entries). */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  ATS_SUCCESS,
  ATS_UNSUPPORTED_REQUEST,
  type CachePolicy,
  hi32,
  lo32,
  NO_PASID,
} from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  A,
  bit,
  D,
  DTE_GV,
  DTE_TV,
  DTE_V,
  DTE1_I,
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

interface GuestOptions {
  readonly level?: 1 | 2
  readonly hostFlags?: bigint
  readonly caches?: CachePolicy
}

/** A guest leaf at level 1 or 2 for PASID 1, over host tables of 2 MiB pages. */
function guestDevice(
  leaf: bigint,
  { level = 1, hostFlags = 0n, caches = "none" }: GuestOptions = {},
): { machine: Machine; leafTable: bigint } {
  const machine = new Machine({ caches })
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

  it("are none where no guest CR3 is, or the host tables do not have the page", () => {
    const nothing = { forceCoherent: false, patIndex: null, global: false, allowed: 0 }
    expect(guestDevice(0x30_0000n | PRWU | G).machine.model.attributesOf(1, 2, 0n)).toMatchObject(nothing)
    expect(guestDevice(0x4000_0000n | PRWU | G).machine.model.attributesOf(1, 1, 0n)).toMatchObject(nothing)
  })

  it("give no right to a page that the host tables give none to", () => {
    const { machine } = guestDevice(0x2e_0000n | PRWU | PCD)
    const host = machine.entry(0x20_0020n, 0) & 0xf_ffff_ffff_f000n
    machine.set(host, { 1: 0x20_0000n | 1n })
    expect(machine.model.attributesOf(1, 1, 0n, ACCESS_PRIV)).toMatchObject({ allowed: 0, patIndex: 2 })
  })

  it("are looked up without a mark in any table", () => {
    const { machine, leafTable } = guestDevice(0x30_0000n | PRWU)
    machine.model.attributesOf(1, 1, 0n)
    expect(machine.entry(leafTable, 0) & (A | D)).toBe(0n)
    machine.write(1, 0n, 1)
    expect(machine.entry(leafTable, 0) & (A | D)).toBe(A | D)
  })
})

describe("attributes of a translation's result", () => {
  const word = (machine: Machine, pasid: number, iova = 0n): number | null =>
    machine.read(1, iova, pasid).ok ? machine.model.result.attributes : null

  it.each(["none", "exact", "hoard"] as const)("with caches %s: U, FC, PAT index, G", caches => {
    const { machine } = guestDevice(0x30_0000n | PRWU | G | PCD | PWT, { hostFlags: FC, caches })
    // FC; PAT index 3; G; guest tables.
    const expected = 0b110_1110
    expect([word(machine, 1), word(machine, 1), word(machine, 1)]).toEqual([expected, expected, expected])
  })

  it.each(["none", "exact", "hoard"] as const)(
    "with caches %s: of host pages, also behind another guest page",
    caches => {
      const { machine, leafTable } = guestDevice(0x30_0000n | PRWU | PAT, { hostFlags: FC | U, caches })
      machine.set(leafTable, { 1: 0x30_1000n | PRWU })
      expect([word(machine, 1, 0n), word(machine, 1, 0x1000n)]).toEqual([0b101_0011, 0b100_0011])
      expect([word(machine, NO_PASID, 0x20_0000n), word(machine, NO_PASID, 0x20_0000n)]).toEqual([3, 3])
    },
  )

  it("is 0 for a request that passes", () => {
    const { machine } = guestDevice(0x30_0000n | PRWU, { hostFlags: FC })
    word(machine, 1)
    machine.dte(1, 0n, 0n, 0n, 0n)
    expect(word(machine, NO_PASID)).toBe(0)
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

describe("addresses that are not memory (table 3)", () => {
  const SYSTEM_MANAGEMENT = [0xfd_f910_0000n, 0xfd_f91f_fffcn]
  const PORT_IO = [0xfd_fc00_0000n, 0xfd_fdff_fffcn]
  const AROUND = [
    0xfd_f90f_fffcn,
    0xfd_f920_0000n,
    0xfd_fbff_fffcn,
    0xfd_fe00_0000n,
    0xfc_fc00_0000n,
    0xfe_fc00_0000n,
  ]

  /** Device 1 with host tables that map nothing of these, and the given SysMgt and IoCtl. */
  function setUp(sysMgt: bigint, ioCtl: bigint, first = DTE_V | DTE_TV): Machine {
    const machine = new Machine()
    const second = 5n | DTE1_I | (ioCtl << 35n) | (sysMgt << 40n)
    machine.dte(1, first | (4n << 9n) | machine.table() | IRW, second, 0n, 0n)
    return machine
  }
  const TYPES = {
    portIo: 0x8400n,
    blocked: 0x8600n,
    read: 0x8800n,
    untranslated: 0x8e00n,
    notPresent: 0x2020n,
  }
  const first = (type: bigint): bigint => (type << 48n) | 1n

  it.each([
    [0n, TYPES.blocked, TYPES.read],
    [1n, null, TYPES.read],
    [2n, TYPES.blocked, TYPES.read],
    [3n, TYPES.notPresent, 0x2000n],
  ])("SysMgt %s: system management messages", (sysMgt, write, read) => {
    for (const address of SYSTEM_MANAGEMENT) {
      const machine = setUp(sysMgt, 0n)
      const outcome = machine.write(1, address)
      if (write === null) expect(outcome).toMatchObject({ ok: true, pa: address })
      machine.read(1, address)
      const domain = sysMgt === 3n ? 5n << 32n : 0n
      const expected = [write, read]
        .filter(type => type !== null)
        .map(type => [first(type) | domain, address])
      expect(machine.events()).toEqual(expected)
    }
  })

  it("SysMgt 3 with TV = 0 is an event of its own", () => {
    const machine = setUp(3n, 0n, DTE_V)
    machine.write(1, SYSTEM_MANAGEMENT[0] as bigint)
    expect(machine.events()).toEqual([[first(TYPES.untranslated), SYSTEM_MANAGEMENT[0]]])
  })

  it.each([
    [0n, first(TYPES.portIo)],
    [1n, null],
    [2n, first(TYPES.notPresent) | (5n << 32n)],
    [3n, first(0x1020n)],
  ])("IoCtl %s: port I/O", (ioCtl, record) => {
    for (const address of PORT_IO) {
      const machine = setUp(0n, ioCtl)
      const outcome = machine.write(1, address)
      if (record === null) expect(outcome).toMatchObject({ ok: true, pa: address })
      else expect(machine.events()).toEqual([[record, address]])
    }
  })

  it("end at their borders, and are ordinary addresses of a PASID", () => {
    for (const address of AROUND) {
      const machine = setUp(0n, 0n)
      machine.write(1, address)
      expect(machine.events()).toEqual([[first(TYPES.notPresent) | (5n << 32n), address]])
    }
    const machine = setUp(0n, 0n)
    machine.write(1, PORT_IO[0] as bigint, 3)
    expect(machine.events()[0]?.[0]).toBe((0x2025n << 48n) | (3n << 32n) | 1n)
  })

  it("are not translated for an ATC unless they go through tables", () => {
    const ask = (machine: Machine, address: bigint): number =>
      machine.model.translationRequest(1, NO_PASID, hi32(address), lo32(address), READ_WRITE)
    for (const address of [...SYSTEM_MANAGEMENT, ...PORT_IO]) {
      const forwarded = setUp(1n, 1n)
      expect(ask(forwarded, address)).toBe(ATS_UNSUPPORTED_REQUEST)
      expect(forwarded.events()).toEqual([[first(0x8300n), address]])
      expect(ask(setUp(3n, 2n), address)).toBe(ATS_SUCCESS)
    }
  })
})
