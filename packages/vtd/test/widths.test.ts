/**
 * Address widths: what exceeds CAP.MGAW, SAGAW, the levels of a table or the host's address width gives a fault of the
 * book, never another page. Expected values: Intel VT-d 5.10 (D51397-018) §3.6, §3.7, Table 30.
 */
import { ACCESS_READ, ACCESS_WRITE } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { EVERYTHING, LEGACY_ONLY, type VtdCapabilities } from "../src/model/options.ts"
import { CAP, ECAP } from "../src/spec/registers.ts"
import { CONTEXT, GUEST_OFFSET, PASID_TABLE, ROOT, SCALABLE, Unit } from "./unit.ts"

const PAGE = 0x7f_5000n
const FIRST = 1n << 6n
const SECOND = 2n << 6n
const NESTED = 3n << 6n
const PASS_THROUGH = 4n << 6n
const PWSNP = 1n << 23n

function capabilities(
  cap: Parameters<typeof CAP.encode>[0],
  ecap: Parameters<typeof ECAP.encode>[0] = {},
): VtdCapabilities {
  return {
    ver: EVERYTHING.ver,
    cap: CAP.encode({ ...CAP.decode([EVERYTHING.cap]), ...cap })[0] as bigint,
    ecap: ECAP.encode({ ...ECAP.decode([EVERYTHING.ecap]), ...ecap })[0] as bigint,
  }
}

/** Every index of the table of the highest level leads to the same tables: only a check can refuse an address. */
function fillTop(unit: Unit, top: bigint, entry: bigint): void {
  for (let n = 0n; n < 512n; n++) unit.put(top + n * 8n, entry)
}

interface Second {
  readonly aw: bigint
  readonly levels: number
  readonly mgaw: number
}

const seconds: readonly Second[] = [
  { aw: 1n, levels: 3, mgaw: 57 },
  { aw: 1n, levels: 3, mgaw: 39 },
  { aw: 1n, levels: 3, mgaw: 36 },
  { aw: 2n, levels: 4, mgaw: 57 },
  { aw: 2n, levels: 4, mgaw: 48 },
  { aw: 2n, levels: 4, mgaw: 39 },
  { aw: 3n, levels: 5, mgaw: 57 },
  { aw: 3n, levels: 5, mgaw: 48 },
  { aw: 3n, levels: 5, mgaw: 52 },
]

describe("second stage: X is the minimum of MGAW and AW", () => {
  const unitOf = ({ levels, mgaw }: Second): { unit: Unit; root: bigint } => {
    const unit = new Unit(capabilities({ MGAW: BigInt(mgaw - 1) }))
    const root = unit.page()
    unit.mapSecond(root, levels, 0n, PAGE | 3n)
    fillTop(unit, root, unit.get(root))
    return { unit, root }
  }
  const limit = ({ levels, mgaw }: Second): bigint => 1n << BigInt(Math.min(mgaw, 9 * levels + 12))
  const addresses = (s: Second): fc.Arbitrary<bigint> =>
    fc.oneof(
      fc.constantFrom(limit(s), limit(s) << 1n, 1n << 63n, 0xffff_ffff_ffff_f000n),
      fc.bigInt({ min: limit(s), max: (1n << 64n) - 1n }),
    )

  it.each(seconds)("AW $aw, MGAW $mgaw: LGN.1.1 and SGN.5 from there on, with room in the tables", s => {
    const { unit, root } = unitOf(s)
    // An address below the limit whose indexes under the top are all 0.
    const last = limit(s) - (1n << BigInt(9 * s.levels + 3 > s.mgaw ? s.mgaw - 1 : 9 * s.levels + 3))
    for (const [mode, code] of [
      ["legacy", 4],
      ["scalable", 0x84],
    ] as const) {
      if (mode === "legacy") unit.legacy(root | 1n, s.aw)
      else unit.scalable(root | 1n | (s.aw << 2n) | SECOND, 5n)
      expect(unit.dma(0x123n)).toMatchObject({ ok: true, pa: PAGE + 0x123n })
      if (s.mgaw > 9 * s.levels + 3) expect(unit.dma(last)).toMatchObject({ ok: true, pa: PAGE })
      fc.assert(
        fc.property(addresses(s), iova => {
          expect(unit.code(iova)).toBe(code)
        }),
        { seed: 20261123, numRuns: 50 },
      )
    }
  })

  it("LCT.4.1, SPT.4.1: AW that SAGAW does not have, however many levels the tables have", () => {
    for (let sagaw = 0n; sagaw < 16n; sagaw += 2n) {
      for (let aw = 0n; aw < 8n; aw++) {
        const unit = new Unit(capabilities({ SAGAW: sagaw }))
        const root = unit.page()
        unit.mapSecond(root, Number(aw) + 2 > 5 ? 5 : Math.max(Number(aw) + 2, 3), 0n, PAGE | 3n)
        const known = aw >= 1n && aw <= 3n && ((sagaw >> aw) & 1n) === 1n
        unit.legacy(root | 1n, aw)
        expect(unit.code(0n)).toBe(known ? 0 : 3)
        unit.scalable(root | 1n | (aw << 2n) | SECOND, 5n)
        expect(unit.code(0n)).toBe(known ? 0 : 0x5b)
      }
    }
  })

  it("bit 64 and beyond do not exist: the record keeps what the largest AGAW has (§11.4.7.6)", () => {
    const unit = new Unit(LEGACY_ONLY)
    unit.legacy(unit.page() | 1n, 1n)
    unit.code(0xffff_f123_4567_8000n)
    expect(unit.model.mmio.read64(0x220)).toBe(0xf123_4567_8000n)
  })
})

describe("first stage: canonical addresses of 48 or 57 bits (SGN.1)", () => {
  const unitOf = (levels: number, caps = EVERYTHING): Unit => {
    const unit = new Unit(caps)
    const root = unit.page()
    unit.mapFirst(root, levels, 0n, PAGE | 0x67n)
    fillTop(unit, root, unit.get(root))
    unit.scalable(1n | FIRST, 5n | PWSNP, root | (levels === 5 ? 4n : 0n))
    return unit
  }

  it.each([
    [4, 48],
    [5, 57],
  ])("%s levels", (levels, width) => {
    const unit = unitOf(levels)
    const sign = 1n << BigInt(width - 1)
    const top = (1n << 64n) - sign
    // The lowest address of the upper half uses index 256 of the top, and 0 below.
    for (const iova of [0n, top]) expect(unit.dma(iova)).toMatchObject({ ok: true, pa: PAGE })
    for (const iova of [sign, top - 0x1000n, 1n << 63n, sign << 1n]) expect(unit.code(iova)).toBe(0x80)
    fc.assert(
      fc.property(fc.bigInt({ min: sign, max: top - 1n }), iova => {
        expect(unit.code(iova)).toBe(0x80)
      }),
      { seed: 20261123, numRuns: 100 },
    )
  })

  it("SPT.4.3: FSPM 1 without FS5LP, FSPM 2 and 3 never", () => {
    const fspm = (value: bigint, caps: VtdCapabilities): number => {
      const unit = new Unit(caps)
      unit.scalable(1n | FIRST, 5n | PWSNP, unit.page() | (value << 2n))
      return unit.code(0n)
    }
    const without = capabilities({ FS5LP: 0n })
    expect([0n, 1n, 2n, 3n].map(value => fspm(value, without))).toEqual([0x71, 0x5b, 0x5b, 0x5b])
    expect([0n, 1n, 2n, 3n].map(value => fspm(value, EVERYTHING))).toEqual([0x71, 0x71, 0x5b, 0x5b])
  })
})

describe("nested: guest addresses up to the second stage's width", () => {
  it("SPT.4.4 for FSPTPTR, SFS.5 for what an entry says, whatever the second stage maps", () => {
    const unit = new Unit(capabilities({ MGAW: 38n }))
    const ssRoot = unit.page()
    unit.mapSecond(ssRoot, 4, 0n, 0x83n, 3)
    const fsRoot = unit.page()
    const fs = unit.mapFirst(fsRoot, 4, 0n, PAGE | 0x67n)
    const words = (pointer: bigint): void =>
      unit.scalable(ssRoot | 1n | (2n << 2n) | NESTED, 5n | PWSNP, pointer)
    words(fsRoot)
    expect(unit.dma(0x10n)).toMatchObject({ ok: true, pa: PAGE + 0x10n })
    words(fsRoot | (1n << 39n))
    expect(unit.code(0n)).toBe(0x5b)
    words(fsRoot)
    for (const entry of fs) {
      const before = unit.get(entry)
      unit.put(entry, before | (1n << 39n))
      expect(unit.code(0n)).toBe(0x74)
      unit.put(entry, before)
    }
    expect(unit.code(0n)).toBe(0)
    expect(GUEST_OFFSET).toBeGreaterThan(PAGE)
  })
})

describe("host address width: 32 to 52 bits", () => {
  const widths = [32, 39, 40, 46, 51, 52] as const

  it.each(widths)("%s bits: bits 51:HAW of paging entries are reserved, bits 63:HAW of all pointers", haw => {
    for (let bit = haw; bit < 64; bit++) {
      const high = 1n << BigInt(bit)
      const unit = new Unit(EVERYTHING, haw)
      const [ssRoot, fsRoot] = [unit.page(), unit.page()]
      const ss = unit.mapSecond(ssRoot, 4, 0n, PAGE | 3n)
      const fs = unit.mapFirst(fsRoot, 4, 0n, PAGE | 0x67n)
      const second = (): void => unit.scalable(ssRoot | 1n | (2n << 2n) | SECOND, 5n)
      const first = (): void => unit.scalable(1n | FIRST, 5n | PWSNP, fsRoot)
      const spoiled = (at: bigint, start: () => void): number => {
        start()
        const before = unit.get(at)
        unit.put(at, before | high)
        const code = unit.code(0n)
        unit.put(at, before)
        return code
      }
      if (bit < 52) {
        for (const entry of ss) expect(spoiled(entry, second)).toBe(0x7a)
        for (const entry of fs) expect(spoiled(entry, first)).toBe(0x72)
      }
      expect(spoiled(PASID_TABLE, second)).toBe(0x5a)
      expect(spoiled(PASID_TABLE + 16n, first)).toBe(0x5a)
      expect(spoiled(CONTEXT, second)).toBe(0x42)
      expect(spoiled(ROOT, second)).toBe(0x3a)
      unit.legacy(ssRoot | 1n, 2n)
      expect(unit.code(0n)).toBe(0)
      unit.set(CONTEXT, high)
      expect(unit.code(0n)).toBe(0xb)
    }
  })

  it.each(widths)("%s bits: pass-through to the last address, LGN.1.3 and SGN.4.2 beyond", haw => {
    const unit = new Unit(EVERYTHING, haw)
    const last = (1n << BigInt(haw)) - 1n
    const past = [last + 1n, 1n << 63n, (1n << 64n) - 1n]
    unit.scalable(1n | (2n << 2n) | PASS_THROUGH, 5n)
    expect(unit.dma(last)).toMatchObject({ ok: true, pa: last })
    for (const iova of past) expect(unit.code(iova, ACCESS_WRITE)).toBe(0x83)
    unit.legacy(1n | (2n << 2n), 2n)
    expect(unit.dma(last)).toMatchObject({ ok: true, pa: last })
    for (const iova of past) expect(unit.code(iova, ACCESS_READ)).toBe(4)
  })

  it("a table pointer of all ones leads to a fault, not to low memory", () => {
    const unit = new Unit()
    unit.enable(0xffff_ffff_ffff_f000n | SCALABLE)
    expect(unit.code(0n)).toBe(0x38)
    unit.enable(0xffff_ffff_ffff_f000n)
    expect(unit.code(0n)).toBe(8)
  })
})
