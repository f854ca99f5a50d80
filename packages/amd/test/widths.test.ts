/**
 * Address and PASID widths: AMD 48882 rev 3.10, §2.2.2.1 (Mode, GLX, GuestPagingMode), §2.2.3, §2.2.6, and HATS, GATS,
 * GLXSup and PASmax in §3.4. What exceeds them gives the book's event, never another address.
 */
import { EVERYTHING, QEMU_11, registers, ZEN, ZEN_2, ZEN_4_SERVER } from "@iommu/amd"
import { ATS_SUCCESS, hi32, lo32, NO_PASID } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  bit,
  DTE_GV,
  DTE_TV,
  DTE_V,
  DTE1_I,
  faultOf,
  flagsOf,
  IRW,
  Machine,
  PRWU,
  PS,
  page,
  pde,
  sized,
} from "./machine.ts"

/** EVERYTHING with other numbers in some of its fields. */
function features({ hats = 2n, gats = 1n, glxSup = 2n, pasMax = 19n }): bigint {
  const cleared = EVERYTHING & ~(0x3fn << 10n) & ~(0x1fn << 32n)
  return cleared | (hats << 10n) | (gats << 12n) | (glxSup << 14n) | (pasMax << 32n)
}

/** Index 0 of each level leads down to a 4 KiB page at 0x300000. */
function hostChain(machine: Machine, mode: number): bigint {
  let table = machine.table({ 0: page(0x30_0000n) })
  for (let level = 2; level <= mode; level++) table = machine.table({ 0: pde(level - 1, table) })
  return table
}

describe("host addresses", () => {
  it.each([
    [1, 21],
    [2, 30],
    [3, 39],
    [4, 48],
    [5, 57],
  ])("with Mode %i have %i bits: each bit above is not present, and none below is", (mode, bits) => {
    const machine = new Machine()
    machine.hostDevice(1, mode, hostChain(machine, mode))
    expect(machine.read(1, 0xfffn)).toMatchObject({ ok: true, pa: 0x30_0fffn })
    for (let n = bits; n < 64; n++) {
      const outcome = machine.write(1, bit(n) | 0x10n)
      expect([n, flagsOf(outcome), faultOf(outcome).record?.[1]]).toEqual([n, 0x020n, bit(n) | 0x10n])
    }
  })

  it("with Mode 6 have all 64", () => {
    const machine = new Machine()
    machine.hostDevice(1, 6, hostChain(machine, 6))
    for (let n = 12; n < 64; n++) expect(flagsOf(machine.read(1, bit(n)))).toBe(0n)
    expect(machine.read(1, 0n)).toMatchObject({ ok: true, pa: 0x30_0000n })
  })

  it.each([
    ["four", 0n, 4],
    ["five", 1n, 5],
    ["six", 2n, 6],
    ["no", 3n, 0],
  ])(
    "go through %s levels at most by HATS: more is ILLEGAL_DEV_TABLE_ENTRY with RZ = 0",
    (_, hats, levels) => {
      const machine = new Machine({ extFeatures: features({ hats }) })
      for (let mode = 0; mode <= 7; mode++) {
        machine.hostDevice(mode, mode, mode === 0 ? 0n : hostChain(machine, Math.min(mode, 6)))
        const outcome = machine.read(mode, 0x10n)
        if (mode <= levels) expect([mode, outcome.ok]).toEqual([mode, true])
        else expect(faultOf(outcome).record?.[0]).toBe((1n << 60n) | BigInt(mode))
      }
    },
  )

  it("become physical addresses of 52 bits at most, whatever is in the leaf", () => {
    const machine = new Machine()
    const level2 = machine.table()
    machine.hostDevice(1, 3, machine.table({ 0: pde(2, level2) }))
    fc.assert(
      fc.property(
        fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
        fc.constantFrom(0n, 7n << 9n),
        fc.bigInt({ min: 0n, max: (1n << 30n) - 1n }),
        (raw, next, iova) => {
          const entry = (raw & ~(0xfffn | (0x7fn << 52n))) | next | 1n | IRW
          machine.set(level2, Object.fromEntries(Array.from({ length: 512 }, (_, n) => [n, entry])))
          machine.command(8n << 60n, 0n)
          const outcome = machine.read(1, iova)
          if (!outcome.ok) return
          expect(outcome.pa >> 52n).toBe(0n)
          expect(outcome.pa & (outcome.size - 1n)).toBe(iova & (outcome.size - 1n))
        },
      ),
      { seed: 52, numRuns: 300 },
    )
  })

  it("of a sized page that reaches past its level are an illegal size, not a larger page", () => {
    const machine = new Machine()
    const level1 = machine.table({
      0: sized(0x4000_0000n, bit(22)),
      1: 0x000f_ffff_ffff_f000n | (7n << 9n) | 1n | IRW,
    })
    machine.hostDevice(1, 2, machine.table({ 0: pde(1, level1) }))
    expect(flagsOf(machine.read(1, 0n))).toBe(0x010n)
    expect(flagsOf(machine.read(1, 0x1000n))).toBe(0x010n)
  })
})

/** Device 1 with guest tables for all PASIDs that lead to 0x300000, with no host tables, or Mode 1 ones. */
function guestDevice(
  machine: Machine,
  { glx = 0n, paging = 0n, hostMode = 0n, hostRoot = 0n, leaf = 0x30_0000n | PRWU },
): void {
  let table = machine.table({ 0: leaf, 511: leaf })
  for (let level = 2; level <= 4 + Number(paging & 1n); level++)
    table = machine.table({ 0: table | PRWU, 511: table | PRWU })
  const all = (target: bigint): Record<number, bigint> =>
    Object.fromEntries(Array.from({ length: 512 }, (_, n) => [n, target | 1n]))
  let gcr3 = machine.table(all(table))
  for (let level = 0n; level < glx && level < 3n; level++) gcr3 = machine.table(all(gcr3))
  const first = DTE_V | DTE_TV | DTE_GV | IRW | (hostMode << 9n) | hostRoot | (glx << 56n)
  const second = 5n | DTE1_I | (((gcr3 >> 15n) & 0xffffn) << 16n)
  machine.dte(1, first | (((gcr3 >> 12n) & 7n) << 58n), second, paging << 54n, 0n)
}

describe("guest addresses", () => {
  it.each([
    [0n, 48],
    [1n, 57],
  ])("with GuestPagingMode %i are canonical in %i bits", (paging, bits) => {
    const machine = new Machine()
    guestDevice(machine, { paging })
    const top = (1n << 64n) - (1n << BigInt(bits - 1))
    expect(machine.read(1, 0n, 1)).toMatchObject({ ok: true, pa: 0x30_0000n })
    expect(machine.read(1, (1n << 64n) - 1n, 1)).toMatchObject({ ok: true, pa: 0x30_0fffn })
    for (const iova of [bit(bits - 1), top - 1n, bit(63), bit(bits)]) {
      const outcome = machine.read(1, iova, 1)
      expect([flagsOf(outcome), faultOf(outcome).record?.[1]]).toEqual([0x005n, iova])
    }
  })

  it.each([
    [0n, [0n]],
    [1n, [0n, 1n]],
    [2n, [0n, 1n]],
  ])(
    "with GATS %i have GuestPagingMode %s; others are ILLEGAL_DEV_TABLE_ENTRY with RZ = 0",
    (gats, legal) => {
      for (const paging of [0n, 1n, 2n, 3n]) {
        const machine = new Machine({ extFeatures: features({ gats }) })
        guestDevice(machine, { paging })
        const outcome = machine.read(1, 0n, 1)
        if (legal.includes(paging)) expect([paging, outcome.ok]).toEqual([paging, true])
        else expect(faultOf(outcome).record?.[0]).toBe(0x1001_0001_0000_0001n)
      }
    },
  )

  it("do not exist in a unit without GTSup, whatever CONTROL.GTEn says", () => {
    const machine = new Machine({ extFeatures: EVERYTHING & ~bit(4) })
    guestDevice(machine, {})
    expect(flagsOf(machine.read(1, 0n, 1))).toBe(0x005n)
    expect(machine.read(1, 0x1234n)).toMatchObject({ ok: true, pa: 0x1234n, stage1Size: 0n })
  })

  it("that become guest physical ones beyond the host's Mode fault there: GN = 0, the address is the page's", () => {
    const machine = new Machine()
    const large = Object.fromEntries(Array.from({ length: 32 }, (_, n) => [n, page(BigInt(n) << 21n)]))
    const hostRoot = machine.table(large)
    guestDevice(machine, { hostMode: 2n, hostRoot, leaf: bit(30) | PRWU })
    const outcome = machine.write(1, 0x123n, 1)
    expect([flagsOf(outcome), faultOf(outcome).record?.[1]]).toEqual([0x020n, bit(30) | 0x123n])
  })

  it("of a 1 GiB page at level 3 and no page above it", () => {
    const machine = new Machine()
    const level4 = machine.table({ 0: 0n | PRWU | PS })
    machine.dte(1, DTE_V | DTE_TV | DTE_GV | bit(54) | IRW, 5n, 0n, 0n)
    const gcr3 = machine.table({ 0: level4 | 1n })
    machine.dte(
      1,
      DTE_V | DTE_TV | DTE_GV | bit(54) | IRW | (((gcr3 >> 12n) & 7n) << 58n),
      5n | (((gcr3 >> 15n) & 0xffffn) << 16n),
      0n,
      0n,
    )
    expect(flagsOf(machine.read(1, 0n))).toBe(0x095n)
  })
})

describe("PASIDs", () => {
  it.each([
    [0n, 19n, 9],
    [1n, 19n, 18],
    [2n, 19n, 20],
    [2n, 15n, 16],
    [1n, 7n, 8],
    [0n, 0n, 1],
  ])("with GLX %i and PASmax %i have %i bits", (glx, pasMax, bits) => {
    const machine = new Machine({ extFeatures: features({ pasMax }) })
    guestDevice(machine, { glx })
    const last = 2 ** bits - 1
    expect(machine.read(1, 0x10n, last)).toMatchObject({ ok: true, pa: 0x30_0010n })
    const outcome = machine.read(1, 0x10n, last + 1)
    expect(flagsOf(outcome)).toBe(0x005n)
    const pasid = BigInt(last + 1)
    const record = (0x2005n << 48n) | ((pasid & 0xffffn) << 32n) | (((pasid >> 16n) & 0xfn) << 16n) | 1n
    expect(faultOf(outcome).record).toEqual([record, 0x10n])
  })

  it.each([
    [0n, [0n]],
    [1n, [0n, 1n]],
    [2n, [0n, 1n, 2n]],
  ])("with GLXSup %i have GLX %s; others are ILLEGAL_DEV_TABLE_ENTRY", (glxSup, legal) => {
    for (const glx of [0n, 1n, 2n, 3n]) {
      const machine = new Machine({ extFeatures: features({ glxSup }) })
      guestDevice(machine, { glx })
      const outcome = machine.read(1, 0n, 1)
      if (legal.includes(glx)) expect([glx, outcome.ok]).toEqual([glx, true])
      else expect(faultOf(outcome).reason).toBe("ILLEGAL_DEV_TABLE_ENTRY")
    }
  })
})

describe("translation requests", () => {
  it("beyond a width complete without rights", () => {
    const machine = new Machine()
    guestDevice(machine, {})
    machine.dte(2, DTE_V | DTE_TV | IRW | (1n << 9n) | hostChain(machine, 1), 5n | DTE1_I, 0n, 0n)
    const cases: [device: number, pasid: number, iova: bigint][] = [
      [1, 1, bit(47)],
      [1, 512, 0n],
      [2, NO_PASID, bit(21)],
      [2, NO_PASID, bit(63)],
    ]
    for (const [device, pasid, iova] of cases) {
      expect(machine.model.translationRequest(device, pasid, hi32(iova), lo32(iova), 3)).toBe(ATS_SUCCESS)
      expect(machine.model.completion.allowed).toBe(0)
    }
  })
})

describe("capabilities of real machines", () => {
  // The names that Linux prints after "Extended features", in the order of bits 0 to 9.
  const LINUX_NAMES = ["PreF", "PPR", "X2APIC", "NX", "GT", "[5]", "IA", "GA", "HE", "PC"]
  const FIELDS = Object.keys(registers.fieldsEXT_FEATURES).slice(0, 10)

  it.each([
    ["QEMU 11", QEMU_11, "PreF PPR GT IA GA HE"],
    ["Zen", ZEN, "PPR NX GT IA GA PC"],
    ["Zen 2", ZEN_2, "PPR NX GT IA PC"],
    ["Zen 4 server", ZEN_4_SERVER, "PPR X2APIC NX GT [5] IA GA PC"],
  ])("%s: what Linux prints, less what is not modelled", (_, value, printed) => {
    const decoded = registers.EXT_FEATURES.decode([value]) as Record<string, bigint>
    const names = LINUX_NAMES.filter((_name, index) => decoded[FIELDS[index] as string] === 1n)
    const notModelled = ["PC", "[5]"]
    expect(names).toEqual(printed.split(" ").filter(name => !notModelled.includes(name)))
  })

  it("run the same tables: four guest levels everywhere, five where GATS says so", () => {
    for (const [extFeatures, five] of [
      [ZEN, false],
      [ZEN_2, false],
      [ZEN_4_SERVER, true],
    ] as const) {
      const machine = new Machine({ extFeatures })
      guestDevice(machine, { paging: 1n })
      expect(machine.read(1, 0n, 1).ok).toBe(five)
      guestDevice(machine, { paging: 0n })
      machine.command(8n << 60n, 0n)
      expect(machine.read(1, 0n, 1).ok).toBe(true)
    }
  })
})
