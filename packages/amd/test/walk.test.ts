import { EVERYTHING, QEMU_11 } from "@iommu/amd"
import { ACCESS_EXEC, ACCESS_PRIV } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { GuestMachine } from "./guest-machine.ts"
import {
  A,
  bit,
  D,
  DTE_GIOV,
  DTE_TV,
  DTE_V,
  faultOf,
  flagsOf,
  GCR3_TRP_MODE,
  IR,
  IRW,
  IW,
  Machine,
  NX,
  ON,
  P,
  PR,
  PRWU,
  PS,
  page,
  pde,
  REG,
  RW,
  sized,
  US,
} from "./machine.ts"

const HOLE = 0x1_0000_0000n

/** Host tables of `mode` levels that lead index 0 down to the given level 1 table. */
function chain(machine: Machine, mode: number, level1: bigint, rights = IRW): bigint {
  let table = level1
  for (let level = 2; level <= mode; level++) table = machine.table({ 0: pde(level - 1, table, rights) })
  return table
}

describe("host tables (v1)", () => {
  it.each([1, 2, 3, 4, 5, 6])("walk %i levels to a 4 KiB page", mode => {
    const machine = new Machine()
    machine.hostDevice(1, mode, chain(machine, mode, machine.table({ 3: page(0xa_bcde_f000n) })))
    expect(machine.write(1, 0x3456n)).toMatchObject({
      ok: true,
      pa: 0xa_bcde_f456n,
      size: 0x1000n,
      allowed: 3,
    })
    expect(flagsOf(machine.read(1, 0x4000n))).toBe(0x000n)
    expect(flagsOf(machine.write(1, 0x4000n))).toBe(0x020n)
  })

  it.each([
    [1, 1n << 21n, "none"],
    [2, 1n << 30n, "none"],
    [3, 1n << 39n, "none"],
    [4, 1n << 48n, "none"],
    [5, 1n << 57n, "none"],
    [3, 1n << 39n, "exact"],
  ] as const)(
    "refuse an address beyond the %i levels of Mode (%i bytes, caches: %s)",
    (mode, end, caches) => {
      const machine = new Machine({ caches })
      // All entries of all tables present, so that only the width can refuse.
      const full = machine.table()
      for (let i = 0; i < 512; i++) machine.set(full, { [i]: page(0x5000n) })
      let root = full
      for (let level = 2; level <= mode; level++) {
        const next = machine.table()
        for (let i = 0; i < 512; i++) machine.set(next, { [i]: pde(level - 1, root) })
        root = next
      }
      machine.hostDevice(1, mode, root)
      expect(machine.read(1, end - 1n).ok).toBe(true)
      expect(faultOf(machine.read(1, end)).record).toEqual([0x2000_0005_0000_0001n, end])
      expect(machine.read(1, bit(63)).ok).toBe(false)
    },
  )

  it("resolve all 64 bits with six levels: the top one has 128 entries, and no pages", () => {
    const machine = new Machine()
    const level5 = machine.table({ 511: page(0x7_0000_0000_0000n) })
    machine.hostDevice(1, 6, machine.table({ 127: pde(5, level5), 126: page(0n) }))
    expect(machine.read(1, 0xffff_ffff_ffff_f123n)).toMatchObject({
      ok: true,
      pa: 0x7_ffff_ffff_f123n,
      size: bit(48),
    })
    expect(flagsOf(machine.read(1, 0xfc00_0000_0000_0000n))).toBe(0x010n)
  })

  it.each([
    [1, 0x1000n],
    [2, 0x20_0000n],
    [3, 0x4000_0000n],
    [4, 0x80_0000_0000n],
    [5, 0x1_0000_0000_0000n],
  ])("have default pages at level %i", (level, size) => {
    const machine = new Machine()
    const pa = level < 5 ? 0x8_0000_0000_0000n : 0x5_0000_0000_0000n
    const leaf = machine.table({ 0: page(pa, IR) })
    machine.hostDevice(1, level, leaf)
    expect(machine.read(1, size - 0x10n)).toMatchObject({ ok: true, pa: pa + size - 0x10n, size, allowed: 1 })
  })

  it.each([13, 14, 15, 16, 17, 18, 19, 20, 22, 25, 29, 31, 32, 33, 38, 40, 47])(
    "have pages of 2^%i bytes",
    lg2 => {
      const machine = new Machine()
      const size = bit(lg2)
      const level = Math.ceil((lg2 - 11) / 9)
      const pa = 0x3_8000_0000_0000n
      const table = machine.table()
      const covered = 2 ** (lg2 - (9 * level + 3))
      for (let i = 0; i < covered; i++) machine.set(table, { [i]: sized(pa, size) })
      machine.hostDevice(1, level, table)
      for (const offset of [0n, size / 2n, size - 8n]) {
        expect(machine.write(1, offset)).toMatchObject({ ok: true, pa: pa + offset, size })
      }
      expect(machine.read(1, size).ok).toBe(false)
    },
  )

  it.each([
    ["a size of the level below", 2, sized(0n, 0x2000n)],
    ["no zero in the address", 1, 0x000f_ffff_ffff_f000n | (7n << 9n) | PR | IRW],
  ])("refuse %s as an illegal size (PR, neither PE nor RZ)", (_what, level, entry) => {
    const machine = new Machine()
    machine.hostDevice(1, level, machine.table({ 0: entry }))
    expect(flagsOf(machine.read(1, 0n))).toBe(0x010n)
  })

  it("refuse 2 MiB in a table of 4 KiB pages: that is the default of the level above", () => {
    const machine = new Machine()
    machine.hostDevice(1, 1, machine.table({ 0: sized(0x20_0000n, 0x20_0000n) }))
    expect(flagsOf(machine.write(1, 0n))).toBe(0x030n)
  })

  it("skip levels where the skipped address bits are zero", () => {
    const machine = new Machine()
    const level1 = machine.table({ 5: page(0x7000n) })
    const root = machine.table({ 0: pde(1, level1), 1: pde(2, machine.table({ 0: page(0x20_0000n) })) })
    machine.hostDevice(1, 4, root)
    expect(machine.read(1, 0x5000n)).toMatchObject({ ok: true, pa: 0x7000n, size: 0x1000n })
    expect(machine.read(1, bit(39) + 0x1000n)).toMatchObject({ ok: true, pa: 0x20_1000n, size: 0x20_0000n })
    expect(flagsOf(machine.read(1, bit(21) + 0x5000n))).toBe(0x010n)
    expect(flagsOf(machine.read(1, bit(30) + 0x5000n))).toBe(0x010n)
    expect(flagsOf(machine.read(1, bit(39) + bit(30)))).toBe(0x010n)
  })

  it.each([
    [1, 1],
    [2, 2],
    [2, 3],
    [3, 6],
    [4, 5],
  ])("refuse an entry of level %i that leads to level %i", (level, next) => {
    const machine = new Machine()
    machine.hostDevice(1, level, machine.table({ 0: pde(next, machine.table()) }))
    expect(flagsOf(machine.write(1, 0n))).toBe(0x030n)
  })

  it.each([52, 53, 56, 57, 58])(
    "refuse reserved bit %i of a leaf with RZ, but only when it is present",
    position => {
      const machine = new Machine()
      machine.hostDevice(
        1,
        3,
        chain(machine, 3, machine.table({ 0: page(0x5000n) | bit(position), 1: bit(position) })),
      )
      expect(flagsOf(machine.write(1, 0n))).toBe(0x0b0n)
      expect(flagsOf(machine.write(1, 0x1000n))).toBe(0x020n)
    },
  )

  it.each([52, 58, 59, 60])("refuse reserved bit %i of a directory entry with RZ", position => {
    const machine = new Machine()
    machine.hostDevice(1, 2, machine.table({ 0: pde(1, machine.table({ 0: page(0n) })) | bit(position) }))
    expect(flagsOf(machine.read(1, 0n))).toBe(0x090n)
  })

  it("ignore the ignored bits, and take U and FC in leaves", () => {
    const machine = new Machine()
    const ignored = bit(1) | bit(2) | bit(3) | bit(4) | bit(7) | bit(8) | bit(63)
    const leaf = machine.table({ 0: page(0x5000n) | ignored | bit(59) | bit(60) })
    machine.hostDevice(1, 2, machine.table({ 0: pde(1, leaf) | ignored | bit(6) }))
    expect(machine.write(1, 0x10n)).toMatchObject({ ok: true, pa: 0x5010n })
  })

  it.each([
    ["the entry of the device", 0],
    ["the root", 3],
    ["the directory", 2],
    ["the leaf", 1],
  ])("AND the rights of all levels: %s takes the write away", (_what, where) => {
    const machine = new Machine()
    const rights = (level: number): bigint => (level === where ? IR : IRW)
    const level1 = machine.table({ 0: page(0x5000n, rights(1)) })
    const level2 = machine.table({ 0: pde(1, level1, rights(2)) })
    const root = machine.table({ 0: pde(2, level2, rights(3)) })
    machine.dte(1, DTE_V | DTE_TV | (3n << 9n) | root | rights(0), 5n)
    expect(machine.read(1, 0n)).toMatchObject({ ok: true, allowed: 1 })
    expect(faultOf(machine.write(1, 8n))).toMatchObject({ stage: 2, record: [0x2070_0005_0000_0001n, 8n] })
  })

  it("report not present before missing rights", () => {
    const machine = new Machine()
    machine.hostDevice(1, 2, machine.table({ 0: pde(1, machine.table(), 0n) }))
    expect(flagsOf(machine.write(1, 0n))).toBe(0x020n)
  })

  it("log PAGE_TAB_HARDWARE_ERROR with the address of the entry where a table has no memory", () => {
    const machine = new Machine()
    machine.hostDevice(1, 3, machine.table({ 0: pde(2, HOLE) }))
    expect(faultOf(machine.write(1, 0x60_0000n))).toMatchObject({
      reason: "PAGE_TAB_HARDWARE_ERROR",
      code: 4,
      record: [0x4220_0005_0000_0001n, HOLE + 3n * 8n],
    })
    machine.hostDevice(2, 3, HOLE)
    expect(faultOf(machine.read(2, 0x4000_0000n)).record).toEqual([0x4200_0005_0000_0002n, HOLE + 8n])
  })

  it("translate to addresses without memory: what lies there is not their business", () => {
    const machine = new Machine()
    machine.hostDevice(1, 3, chain(machine, 3, machine.table({ 0: page(HOLE) })))
    expect(machine.read(1, 0x10n)).toMatchObject({ ok: true, pa: HOLE + 0x10n })
  })
})

describe("host accessed and dirty bits (HAD)", () => {
  const setUp = (had: bigint, features = EVERYTHING): { machine: Machine; tables: bigint[] } => {
    const machine = new Machine({ extFeatures: features })
    const level1 = machine.table({ 0: page(0x5000n) })
    const level2 = machine.table({ 0: pde(1, level1) })
    const root = machine.table({ 0: pde(2, level2) })
    machine.hostDevice(1, 3, root, had << 7n)
    return { machine, tables: [root, level2, level1] }
  }
  const bitsOf = ({ machine, tables }: ReturnType<typeof setUp>): bigint[] =>
    tables.map(table => machine.entry(table, 0) & (A | D))

  it("are not set when HAD is 0 or the feature is absent", () => {
    const off = setUp(0n)
    off.machine.write(1, 0n)
    expect(bitsOf(off)).toEqual([0n, 0n, 0n])
    const absent = setUp(3n, QEMU_11)
    absent.machine.write(1, 0n)
    expect(bitsOf(absent)).toEqual([0n, 0n, 0n])
  })

  it("set A at each level, and D in the leaf of a write when HAD is 3", () => {
    const only = setUp(1n)
    only.machine.write(1, 0n)
    expect(bitsOf(only)).toEqual([A, A, A])
    const both = setUp(3n)
    both.machine.read(1, 0n)
    expect(bitsOf(both)).toEqual([A, A, A])
    both.machine.write(1, 0n)
    expect(bitsOf(both)).toEqual([A, A, A | D])
  })

  it("are not set in a leaf that refuses", () => {
    const refused = setUp(3n)
    refused.machine.set(refused.tables[2] as bigint, { 0: page(0x5000n, IR) })
    expect(refused.machine.write(1, 0n).ok).toBe(false)
    expect(bitsOf(refused)[2]).toBe(0n)
  })
})

describe("guest tables (v2)", () => {
  it.each([0, 3] as const)("walk four levels to a 4 KiB page, over host mode %i", mode => {
    const machine = new GuestMachine(mode)
    machine.guest(7, machine.table({ 2: 0x30_1000n | PRWU }))
    expect(machine.write(1, 0x2345n, 7)).toEqual({
      ok: true,
      pa: 0x30_1345n,
      size: 0x1000n,
      allowed: 7,
      ipa: 0x30_1345n,
      stage1Size: 0x1000n,
      stage2Size: mode === 0 ? 0n : 0x20_0000n,
    })
  })

  it("give the smaller of both page sizes", () => {
    const machine = new GuestMachine()
    const level2 = machine.table({ 0: 0x40_0000n | PS | PRWU })
    const level3 = machine.table({ 0: level2 | PRWU, 1: PS | PRWU })
    machine.set(machine.gcr3, { 0: machine.table({ 0: level3 | PRWU }) | 1n })
    expect(machine.read(1, 0x1234n)).toMatchObject({
      pa: 0x40_1234n,
      size: 0x20_0000n,
      stage1Size: 0x20_0000n,
    })
    expect(machine.read(1, 0x4012_3456n)).toMatchObject({
      pa: 0x12_3456n,
      size: 0x20_0000n,
      stage1Size: 0x4000_0000n,
    })
  })

  it("walk five levels by GuestPagingMode", () => {
    const machine = new GuestMachine()
    machine.guest(0, machine.table({ 0: 0x30_0000n | PRWU }), 5)
    machine.device(DTE_GIOV, 0n, 1n)
    expect(machine.read(1, 0x10n)).toMatchObject({ ok: true, pa: 0x30_0010n })
    expect(flagsOf(machine.read(1, bit(56)))).toBe(0x005n)
    machine.device(DTE_GIOV, 0n, 2n)
    expect(faultOf(machine.read(1, 0x10n)).reason).toBe("ILLEGAL_DEV_TABLE_ENTRY")
  })

  it("refuse five levels where GATS has four", () => {
    const machine = new GuestMachine(3, ON | GCR3_TRP_MODE, { extFeatures: EVERYTHING & ~(3n << 12n) })
    machine.device(DTE_GIOV, 0n, 1n)
    expect(faultOf(machine.read(1, 0x10n)).record?.[0]).toBe(0x1000_0000_0000_0001n)
  })

  it("refuse addresses that are not canonical", () => {
    const machine = new GuestMachine()
    const tables = machine.guest(0, machine.table({ 0: 0x30_0000n | PRWU, 511: 0x31_0000n | PRWU }))
    for (const [level, table] of tables.entries()) {
      if (level > 0) machine.set(table, { 511: (tables[level - 1] as bigint) | PRWU })
    }
    expect(machine.read(1, 0xffff_ffff_ffff_f010n)).toMatchObject({ ok: true, pa: 0x31_0010n })
    for (const iova of [0x0000_8000_0000_0000n, 0x7fff_ffff_ffff_f000n, 0xfffe_ffff_ffff_f000n]) {
      expect(faultOf(machine.read(1, iova)).record).toEqual([0x2005_0000_0000_0001n, iova])
    }
  })

  it("serve requests without PASID only with GIOV", () => {
    const machine = new GuestMachine()
    machine.guest(0, machine.table({ 0: 0x30_0000n | PRWU }))
    expect(machine.read(1, 0x10n)).toMatchObject({ ok: true, pa: 0x30_0010n })
    machine.device(0n)
    expect(machine.read(1, 0x10n)).toMatchObject({ ok: true, pa: 0x10n, stage1Size: 0n })
    expect(machine.read(1, 0x10n, 0)).toMatchObject({ ok: true, pa: 0x30_0010n })
  })

  it("are off while CONTROL.GTEn is 0", () => {
    const machine = new GuestMachine(3, ON & ~bit(16))
    expect(machine.read(1, 0x10n)).toMatchObject({ ok: true, pa: 0x10n, stage1Size: 0n })
    expect(machine.read(1, 0x10n, 1).ok).toBe(false)
  })

  it.each([
    ["not present", 0x30_0000n, 0, 0x005n],
    ["read-only, write", 0x30_0000n | P | US, 2, 0x075n],
    ["supervisor page, user read", 0x30_0000n | P | RW, 1, 0x055n],
    ["supervisor page, supervisor write", 0x30_0000n | P | RW, 2 | ACCESS_PRIV, null],
    ["read-only, supervisor write", 0x30_0000n | P, 2 | ACCESS_PRIV, 0x071n],
    ["no-execute, fetch", 0x30_0000n | PRWU | NX, 1 | ACCESS_EXEC, 0x057n],
    ["executable, fetch", 0x30_0000n | PRWU, 1 | ACCESS_EXEC, null],
  ])("check the rights of a leaf: %s", (_what, entry, access, flags) => {
    const machine = new GuestMachine()
    machine.guest(5, machine.table({ 0: entry }))
    const outcome = (access & 2) !== 0 ? machine.write(1, 0n, 5, access) : machine.read(1, 0n, 5, access)
    if (flags === null) expect(outcome.ok).toBe(true)
    else {
      expect(flagsOf(outcome)).toBe(flags)
      expect(faultOf(outcome)).toMatchObject({ stage: 1, pasid: 5 })
    }
  })

  it("collect rights over all levels", () => {
    const machine = new GuestMachine()
    machine.guest(0, machine.table({ 0: 0x30_0000n | PRWU }), 4, P | US)
    expect(machine.read(1, 0n)).toMatchObject({ ok: true, allowed: 5 })
    expect(flagsOf(machine.write(1, 0n))).toBe(0x075n)
  })

  it("treat all requests as the user's where USSup is 0, and NX as reserved where NXSup is 0", () => {
    const machine = new GuestMachine(3, ON | GCR3_TRP_MODE, { extFeatures: EVERYTHING & ~bit(37) & ~bit(3) })
    machine.guest(0, machine.table({ 0: 0x30_0000n | P | RW, 1: 0x30_0000n | PRWU | NX }))
    expect(flagsOf(machine.read(1, 0n, 0, ACCESS_PRIV))).toBe(0x051n)
    expect(flagsOf(machine.read(1, 0x1000n, 0))).toBe(0x095n)
  })

  it.each([
    ["PS in a PML4E", 4, PS],
    ["bit 13 of a 1 GiB page", 3, PS | bit(13)],
    ["bit 29 of a 1 GiB page", 3, PS | bit(29)],
    ["bit 20 of a 2 MiB page", 2, PS | bit(20)],
  ])("refuse %s with RZ", (_what, level, bits) => {
    const machine = new GuestMachine()
    const tables = machine.guest(0, machine.table())
    machine.set(tables[level - 1] as bigint, { 0: bits | PRWU })
    expect(flagsOf(machine.write(1, 0n))).toBe(0x0b5n)
  })

  it("set A in each entry used and D in the leaf of a write, unless CONTROL disables it", () => {
    const bitsOf = (control: bigint, write: boolean): bigint[] => {
      const machine = new GuestMachine(3, ON | GCR3_TRP_MODE | control)
      const tables = machine.guest(0, machine.table({ 0: 0x30_0000n | PRWU }))
      expect((write ? machine.write(1, 0n) : machine.read(1, 0n)).ok).toBe(true)
      return tables.map(table => machine.entry(table, 0) & (A | D))
    }
    expect(bitsOf(0n, false)).toEqual([A, A, A, A])
    expect(bitsOf(0n, true)).toEqual([A | D, A, A, A])
    expect(bitsOf(bit(48), true)).toEqual([A, A, A, A])
    expect(bitsOf(bit(54), true)).toEqual([D, 0n, 0n, 0n])
  })
})

describe("GCR3 tables", () => {
  it.each([
    [0, 0x1ff],
    [1, 0x3_ffff],
    [2, 0xf_ffff],
  ])("have GLX + 1 levels of nine PASID bits: GLX %i", (glx, lastPasid) => {
    const machine = new GuestMachine()
    machine.guest(0, machine.table({ 0: 0x30_0000n | PRWU }))
    const root = machine.entry(machine.gcr3, 0)
    let table = machine.table({ [lastPasid & 0x1ff]: root })
    for (let level = 1; level <= glx; level++) {
      table = machine.table({ [(lastPasid >> (9 * level)) & 0x1ff]: table | 1n })
    }
    machine.device(DTE_GIOV, BigInt(glx), 0n, table)
    expect(machine.read(1, 0x10n, lastPasid)).toMatchObject({ ok: true, pa: 0x30_0010n })
    expect(machine.read(1, 0x10n, lastPasid - 1).ok).toBe(false)
    const beyond = lastPasid + 1
    expect(faultOf(machine.read(1, 0x10n, beyond))).toMatchObject({ stage: 0, reason: "IO_PAGE_FAULT" })
  })

  it("refuse GLX 3 and more levels than GLXSup", () => {
    const machine = new GuestMachine()
    machine.device(DTE_GIOV, 3n)
    expect(faultOf(machine.read(1, 0n, 1)).record).toEqual([0x1001_0001_0000_0001n, 0n])
    const one = new GuestMachine(3, ON | GCR3_TRP_MODE, { extFeatures: EVERYTHING & ~(3n << 14n) })
    one.device(DTE_GIOV, 1n)
    expect(faultOf(one.read(1, 0n)).reason).toBe("ILLEGAL_DEV_TABLE_ENTRY")
  })

  it("refuse a PASID beyond PASmax", () => {
    const machine = new GuestMachine(3, ON | GCR3_TRP_MODE, {
      extFeatures: (EVERYTHING & ~(0x1fn << 32n)) | (3n << 32n),
    })
    machine.guest(15, machine.table({ 0: 0x30_0000n | PRWU }))
    expect(machine.read(1, 0n, 15).ok).toBe(true)
    expect(faultOf(machine.read(1, 0n, 16)).record?.[0]).toBe(0x2005_0010_0000_0001n)
  })

  it("refuse an entry that is not valid, and one with a reserved bit", () => {
    const machine = new GuestMachine()
    expect(faultOf(machine.read(1, 0x10n, 3))).toMatchObject({
      stage: 0,
      record: [0x2005_0003_0000_0001n, 0x10n],
    })
    machine.set(machine.gcr3, { 3: 0x10_0003n })
    expect(flagsOf(machine.read(1, 0x10n, 3))).toBe(0x095n)
    machine.set(machine.gcr3, { 3: bit(52) | 1n })
    expect(flagsOf(machine.read(1, 0x10n, 3))).toBe(0x095n)
  })

  it("lie in guest physical memory with GCR3TRPMode, in system physical memory without", () => {
    for (const [control, ok] of [
      [ON | GCR3_TRP_MODE, false],
      [ON, true],
    ] as const) {
      const machine = new GuestMachine(3, control)
      machine.guest(0, machine.table({ 0: 0x30_0000n | PRWU }))
      // The GCR3 table moves to the last 2 MiB, which the host tables do not map.
      const moved = 0x3e0_0000n
      machine.set(moved, { 0: machine.entry(machine.gcr3, 0) })
      machine.set(machine.host, { 31: 0n })
      machine.device(DTE_GIOV, 0n, 0n, moved)
      expect(machine.read(1, 0n).ok).toBe(ok)
    }
  })
})

describe("guest tables over host tables", () => {
  it("send each guest table through the host tables", () => {
    // The guest sees its memory 16 MiB lower than it is.
    const machine = new GuestMachine()
    for (let i = 0; i < 24; i++) machine.set(machine.host, { [i]: page(BigInt(i + 8) << 21n) })
    const shift = 0x100_0000n
    const level1 = machine.table({ 0: 0x30_0000n | PRWU })
    const level2 = machine.table({ 0: (level1 - shift) | PRWU })
    const level3 = machine.table({ 0: (level2 - shift) | PRWU })
    const level4 = machine.table({ 0: (level3 - shift) | PRWU })
    machine.set(machine.gcr3, { 0: (level4 - shift) | 1n })
    machine.device(DTE_GIOV, 0n, 0n, machine.gcr3 - shift)
    expect(machine.read(1, 0x40n)).toMatchObject({ ok: true, ipa: 0x30_0040n, pa: 0x130_0040n })
  })

  it("report the guest physical address, GN = 0 and DomainID when the host tables refuse a guest table", () => {
    const machine = new GuestMachine()
    const missing = 0x3e0_0000n
    const level1 = machine.table()
    const level2 = machine.table({ 0: missing | PRWU })
    const level3 = machine.table({ 0: level2 | PRWU })
    machine.set(machine.gcr3, { 4: machine.table({ 0: level3 | PRWU }) | 1n })
    machine.set(machine.host, { 31: 0n })
    expect(level1).not.toBe(missing)
    const fault = faultOf(machine.write(1, 0x3000n, 4))
    expect(fault).toMatchObject({ stage: 2, pasid: 4, address: 0x3000n })
    expect(fault.record).toEqual([0x2000_0009_0000_0001n, missing + 0x18n])
  })

  it("report a refused final access the same way, as the device's write", () => {
    const machine = new GuestMachine()
    machine.guest(4, machine.table({ 0: 0x3e0_0000n | PRWU }))
    machine.set(machine.host, { 31: page(0x3e0_0000n, IR) })
    expect(machine.read(1, 0x10n, 4)).toMatchObject({ ok: true, allowed: 5 })
    expect(faultOf(machine.write(1, 0x10n, 4)).record).toEqual([0x2070_0009_0000_0001n, 0x3e0_0010n])
  })

  it("need write rights in the host tables to set A and D", () => {
    const machine = new GuestMachine()
    const level1 = 0x3e0_0000n
    machine.set(level1, { 0: 0x30_0000n | PRWU })
    machine.guest(0, level1)
    machine.set(machine.host, { 31: page(level1, IR) })
    expect(faultOf(machine.read(1, 0x10n)).record).toEqual([0x2070_0009_0000_0001n, level1])
    machine.set(level1, { 0: 0x30_0000n | PRWU | A })
    expect(machine.read(1, 0x10n).ok).toBe(true)
    expect(machine.write(1, 0x10n).ok).toBe(false)
    machine.set(level1, { 0: 0x30_0000n | PRWU | A | D })
    expect(machine.write(1, 0x10n).ok).toBe(true)
  })

  it("log PAGE_TAB_HARDWARE_ERROR with GN where a guest table has no memory behind the host tables", () => {
    const machine = new GuestMachine()
    machine.guest(4, 0x3e0_0000n)
    machine.set(machine.host, { 31: page(HOLE) })
    expect(faultOf(machine.write(1, 0x3000n, 4))).toMatchObject({
      reason: "PAGE_TAB_HARDWARE_ERROR",
      stage: 1,
      record: [0x4201_0004_0000_0001n, HOLE + 0x18n],
    })
  })

  it("log it the same where the page below it is one of 4 KiB", () => {
    const machine = new GuestMachine()
    machine.guest(4, 0x3ff_f000n)
    const small = machine.table(Object.fromEntries([[511, page(HOLE)]]))
    machine.set(machine.host, { 31: pde(1, small) })
    expect(faultOf(machine.read(1, 0x3000n, 4)).record).toEqual([0x4201_0004_0000_0001n, HOLE + 0x18n])
  })

  it("log it with GN and the system physical address where the GCR3 table has no memory", () => {
    const machine = new GuestMachine(3, ON)
    machine.device(DTE_GIOV, 0n, 0n, HOLE)
    expect(faultOf(machine.read(1, 0x3000n, 4))).toMatchObject({
      reason: "PAGE_TAB_HARDWARE_ERROR",
      stage: 0,
      record: [0x4201_0004_0000_0001n, HOLE + 0x20n],
    })
  })

  it("log it without GN where a host table has none", () => {
    const machine = new GuestMachine()
    machine.guest(4, 0x3e0_0000n)
    machine.set(machine.host, { 31: pde(1, HOLE) })
    expect(faultOf(machine.read(1, 0n, 4))).toMatchObject({
      reason: "PAGE_TAB_HARDWARE_ERROR",
      stage: 2,
      record: [0x4200_0009_0000_0001n, HOLE],
    })
  })

  it("AND the rights of both", () => {
    const machine = new GuestMachine()
    machine.guest(0, machine.table({ 0: 0x3e0_0000n | P | US }))
    machine.set(machine.host, { 31: page(0x3e0_0000n, IW) })
    expect(machine.read(1, 0n).ok).toBe(false)
    expect(machine.write(1, 0n).ok).toBe(false)
  })

  it("show their steps nested", () => {
    const machine = new GuestMachine()
    machine.guest(0, machine.table({ 0: 0x30_0000n | PRWU }))
    const what: string[] = []
    machine.model.trace = step => what.push(`${step.stage} ${step.what}`)
    machine.read(1, 0n)
    const host = ["2 level 3 PDE", "2 level 2 PTE"]
    expect(what).toEqual([
      "0 DTE",
      ...host,
      "0 level 0 GCR3 entry",
      ...["PML4E", "PDPE", "PDE", "PTE"].flatMap(name => [...host, `1 ${name}`, ...host]),
      ...host,
    ])
  })
})

describe("configuration", () => {
  it("follows a device table and CONTROL that change between requests", () => {
    const machine = new Machine()
    machine.hostDevice(1, 1, machine.table({ 0: page(0x5000n) }))
    expect(machine.read(1, 0n)).toMatchObject({ pa: 0x5000n })
    machine.model.mmio.write64(REG.DEVTAB_BASE, 0x30_0000n | 0x1ffn)
    expect(machine.read(1, 0n)).toMatchObject({ pa: 0n })
    machine.model.restoreRegisters({ DEVTAB_BASE: 0x20_01ffn })
    expect(machine.read(1, 0n)).toMatchObject({ pa: 0x5000n })
    machine.model.mmio.write64(REG.CONTROL, 0n)
    expect(machine.read(1, 0x40n)).toMatchObject({ pa: 0x40n })
  })
})
