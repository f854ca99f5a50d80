/** Memory types and snooping. Expected values: Intel VT-d 5.10 (D51397-018), Tables 6, 7 and 9, §3.11.1. */
import { ACCESS_PRIV, ACCESS_READ, ACCESS_WRITE, NO_PASID } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { EVERYTHING, type VtdCapabilities } from "../src/model/options.ts"
import { ECAP } from "../src/spec/registers.ts"
import { CONTEXT, GUEST_OFFSET, PASID_TABLE, Unit } from "./unit.ts"

const IOVA = 0x1234_5678_9000n
const PAGE = 0x7f_5000n
const GUEST_PAGE = 0x7_0000n
const AW4 = 2n << 2n
const FIRST = 1n << 6n
const SECOND = 2n << 6n
const NESTED = 3n << 6n
const PASS_THROUGH = 4n << 6n
const PWSNP = 1n << 23n
const PGSNP = 1n << 24n
const CD = 1n << 25n
const EMTE = 1n << 26n
const SNP = 1n << 11n
const IPAT = 1n << 6n

const [UC, WC, WT, WP, WB, UC_MINUS] = [0n, 1n, 4n, 5n, 6n, 7n] as const
/** PA0 to PA7, four bits each: WB, WT, UC-, UC, WP, WC, WB, WT. */
const PAT = 0x4615_0746n << 32n

function memoryTypes(mts: bigint, sc = 1n): VtdCapabilities {
  const ecap = { ...ECAP.decode([EVERYTHING.ecap]), MTS: mts, SC: sc }
  return { ...EVERYTHING, ecap: ECAP.encode(ecap)[0] as bigint }
}

/** The memory type of a page whose tables a test made, and whether the access snoops whatever the request says. */
function attributes(unit: Unit, iova = IOVA): { type: bigint; snooped: boolean } {
  expect(unit.code(iova)).toBe(0)
  const value = unit.model.result.attributes
  return { type: BigInt(value & 7), snooped: (value & 8) !== 0 }
}

function first(leaf: bigint, word1: bigint, level = 1, caps = memoryTypes(1n)): Unit {
  const unit = new Unit(caps)
  const root = unit.page()
  unit.mapFirst(root, 4, IOVA, leaf, level)
  unit.scalable(1n | FIRST, 5n | PWSNP | word1, root)
  return unit
}

function second(leaf: bigint, word1: bigint, caps = memoryTypes(1n)): Unit {
  const unit = new Unit(caps)
  const root = unit.page()
  unit.mapSecond(root, 4, IOVA, leaf)
  unit.scalable(root | 1n | AW4 | SECOND, 5n | word1)
  return unit
}

function nested(fsLeaf: bigint, ssLeaf: bigint, word1: bigint): Unit {
  const unit = new Unit(memoryTypes(1n))
  const [ssRoot, fsRoot] = [unit.page(), 0x5000n]
  const fs = unit.mapGuest(fsRoot, 4, IOVA, GUEST_PAGE | 0x67n | fsLeaf)
  for (const entry of fs) {
    const gpa = (entry - GUEST_OFFSET) & ~0xfffn
    unit.mapSecond(ssRoot, 4, gpa, (gpa + GUEST_OFFSET) | 3n)
  }
  unit.mapSecond(ssRoot, 4, GUEST_PAGE, PAGE | 3n | ssLeaf)
  unit.scalable(ssRoot | 1n | AW4 | NESTED, 5n | PWSNP | word1, fsRoot)
  return unit
}

describe("memory type of the page, Table 9", () => {
  it.each([
    ["PA0 of no bits", 0n, WB],
    ["PA1 of PWT", 0x08n, WT],
    ["PA2 of PCD", 0x10n, UC],
    ["PA3 of PCD and PWT", 0x18n, UC],
    ["PA4 of PAT", 0x80n, WP],
    ["PA5 of PAT and PWT", 0x88n, WC],
    ["PA6 of PAT and PCD", 0x90n, WB],
    ["PA7 of all", 0x98n, WT],
  ])("first stage: %s", (_, bits, type) => {
    expect(attributes(first(PAGE | 0x67n | bits, PAT)).type).toBe(type)
  })

  it("first stage, large page: PAT is bit 12", () => {
    expect(attributes(first(0x60_00e7n | (1n << 12n), PAT, 2)).type).toBe(WP)
    expect(attributes(first(0x60_00e7n, PAT, 2)).type).toBe(WB)
  })

  it("CD makes everything uncacheable", () => {
    expect(attributes(first(PAGE | 0x67n, PAT | CD)).type).toBe(UC)
    expect(attributes(second(PAGE | 3n | (WB << 3n), EMTE | CD)).type).toBe(UC)
  })

  it("second stage: write-back without EMTE, EMT with it", () => {
    expect(attributes(second(PAGE | 3n | (WC << 3n), 0n)).type).toBe(WB)
    for (const type of [UC, WC, WT, WP, WB]) {
      expect(attributes(second(PAGE | 3n | (type << 3n), EMTE)).type).toBe(type)
    }
  })

  it("nested without EMTE: the first stage's PAT", () => {
    expect(attributes(nested(0x08n, WC << 3n, PAT)).type).toBe(WT)
  })

  it("nested with EMTE and IPAT: EMT", () => {
    expect(attributes(nested(0x18n, (WP << 3n) | IPAT, PAT | EMTE)).type).toBe(WP)
  })

  /** Table 7, typed row by row: MTRR or EMT type, PAT type, effective type. */
  const combined: readonly (readonly [bigint, readonly (readonly [bigint, bigint])[]])[] = [
    [
      UC,
      [
        [UC, UC],
        [UC_MINUS, UC],
        [WC, WC],
        [WT, UC],
        [WB, UC],
        [WP, UC],
      ],
    ],
    [
      WC,
      [
        [UC, UC],
        [UC_MINUS, WC],
        [WC, WC],
        [WT, UC],
        [WB, WC],
        [WP, UC],
      ],
    ],
    [
      WT,
      [
        [UC, UC],
        [UC_MINUS, UC],
        [WC, WC],
        [WT, WT],
        [WB, WT],
        [WP, WP],
      ],
    ],
    [
      WB,
      [
        [UC, UC],
        [UC_MINUS, UC],
        [WC, WC],
        [WT, WT],
        [WB, WB],
        [WP, WP],
      ],
    ],
    [
      WP,
      [
        [UC, UC],
        [UC_MINUS, WC],
        [WC, WC],
        [WT, WT],
        [WB, WP],
        [WP, WP],
      ],
    ],
  ]
  it.each(combined)("nested with EMTE: EMT %s combines with PAT by Table 7", (emt, rows) => {
    for (const [pat, effective] of rows) {
      expect(attributes(nested(0n, emt << 3n, (pat << 32n) | EMTE)).type).toBe(effective)
    }
  })

  it("pass-through and legacy mode: write-back", () => {
    const through = new Unit(memoryTypes(1n))
    through.scalable(1n | AW4 | PASS_THROUGH, 5n)
    expect(attributes(through)).toEqual({ type: WB, snooped: false })
    const legacy = new Unit(memoryTypes(1n))
    const root = legacy.page()
    legacy.mapSecond(root, 4, IOVA, PAGE | 3n)
    legacy.legacy(root | 1n, 2n)
    expect(attributes(legacy)).toEqual({ type: WB, snooped: false })
    expect(attributes(new Unit())).toEqual({ type: WB, snooped: false })
  })

  it("has no meaning without MTS: write-back", () => {
    expect(attributes(first(PAGE | 0x67n | 0x18n, 0n, 1, memoryTypes(0n))).type).toBe(WB)
  })
})

describe("snooping of the page, Table 6", () => {
  it.each([
    ["second stage, SNP", second(PAGE | 3n | SNP, 0n), true],
    ["second stage, PGSNP", second(PAGE | 3n, PGSNP), true],
    ["second stage, neither", second(PAGE | 3n, 0n), false],
    ["first stage, PGSNP", first(PAGE | 0x67n, PGSNP), true],
    ["first stage, bit 11 is ignored", first(PAGE | 0x67n | SNP, 0n), false],
    ["nested, SNP of the page", nested(0n, SNP, 0n), true],
    ["nested, neither", nested(0n, 0n, 0n), false],
  ])("%s", (_, unit, snooped) => {
    expect(attributes(unit).snooped).toBe(snooped)
  })

  it("legacy: SNP; pass-through: PGSNP", () => {
    const legacy = new Unit(memoryTypes(0n))
    const root = legacy.page()
    legacy.mapSecond(root, 4, IOVA, PAGE | 3n | SNP)
    legacy.legacy(root | 1n, 2n)
    expect(attributes(legacy).snooped).toBe(true)
    const through = new Unit(memoryTypes(0n))
    through.scalable(1n | AW4 | PASS_THROUGH, 5n | PGSNP)
    expect(attributes(through).snooped).toBe(true)
  })

  it("PGSNP and SNP are reserved without SC, CD, EMTE and PAT without MTS", () => {
    const bare = memoryTypes(0n, 0n)
    expect(second(PAGE | 3n | SNP, 0n, bare).code(IOVA)).toBe(0x7a)
    expect(second(PAGE | 3n, PGSNP, bare).code(IOVA)).toBe(0x5a)
    for (const bits of [CD, EMTE, 1n << 32n]) expect(second(PAGE | 3n, bits, bare).code(IOVA)).toBe(0x5a)
  })
})

describe("privilege, §3.6.1, §9.4, §9.6", () => {
  const SRE = 1n
  const WPE = 1n << 4n
  function supervisor(word2: bigint, ridPriv = false, leaf = PAGE | 0x63n): Unit {
    const unit = new Unit()
    const root = unit.page()
    unit.mapFirst(root, 4, IOVA, leaf)
    unit.scalable(1n | FIRST, 5n | PWSNP, root | word2)
    unit.put(PASID_TABLE + 64n, 1n | FIRST, 5n | PWSNP, root | word2)
    unit.set(CONTEXT, 1n << 3n)
    if (ridPriv) unit.set(CONTEXT + 8n, 1n << 20n)
    return unit
  }
  const privileged = ACCESS_READ | ACCESS_PRIV

  it("user requests stop at supervisor pages (SGN.2), supervisors go on with SRE (else SPT.6)", () => {
    expect(supervisor(SRE).code(IOVA, ACCESS_READ, 1)).toBe(0x81)
    expect(supervisor(SRE).code(IOVA, privileged, 1)).toBe(0)
    expect(supervisor(0n).code(IOVA, privileged, 1)).toBe(0x5d)
  })

  it("PR counts with PASID only; RID_PRIV is the privilege of requests without", () => {
    expect(supervisor(SRE).code(IOVA, privileged)).toBe(0x81)
    expect(supervisor(SRE, true).code(IOVA, ACCESS_READ)).toBe(0)
    expect(supervisor(SRE, true).code(IOVA, ACCESS_READ, 1)).toBe(0x81)
    expect(supervisor(0n, true).code(IOVA, ACCESS_READ)).toBe(0x5d)
  })

  it("supervisors write read-only pages unless WPE", () => {
    const readOnly = PAGE | 0x61n
    expect(supervisor(SRE, true, readOnly).code(IOVA, ACCESS_WRITE)).toBe(0)
    expect(supervisor(SRE | WPE, true, readOnly).code(IOVA, ACCESS_WRITE)).toBe(0x85)
  })

  it("a read says so: writes are allowed to supervisors unless WPE, and to users not at all", () => {
    const readOnly = PAGE | 0x65n
    const READ_WRITE = ACCESS_READ | ACCESS_WRITE
    expect(supervisor(SRE, true, readOnly).dma(IOVA)).toMatchObject({ ok: true, allowed: READ_WRITE })
    expect(supervisor(SRE | WPE, true, readOnly).dma(IOVA)).toMatchObject({ ok: true, allowed: ACCESS_READ })
    expect(supervisor(SRE, false, readOnly).dma(IOVA)).toMatchObject({ ok: true, allowed: ACCESS_READ })
  })

  it("SRE, RID_PRIV and EAFE are reserved where the unit lacks them", () => {
    const without = (name: "SRS" | "RPRIVS" | "EAFS"): VtdCapabilities => {
      const ecap = { ...ECAP.decode([EVERYTHING.ecap]), [name]: 0n }
      return { ...EVERYTHING, ecap: ECAP.encode(ecap)[0] as bigint }
    }
    const code = (caps: VtdCapabilities, word2: bigint, ridPriv: bigint): number => {
      const unit = new Unit(caps)
      const root = unit.page()
      unit.mapFirst(root, 4, IOVA, PAGE | 0x467n)
      unit.scalable(1n | FIRST, 5n | PWSNP, root | word2)
      unit.set(CONTEXT + 8n, ridPriv)
      return unit.code(IOVA, ACCESS_READ, NO_PASID)
    }
    expect(code(without("SRS"), SRE, 0n)).toBe(0x5a)
    expect(code(without("EAFS"), 1n << 7n, 0n)).toBe(0x5a)
    expect(code(without("RPRIVS"), SRE, 1n << 20n)).toBe(0x42)
    expect(code(EVERYTHING, SRE | (1n << 7n), 1n << 20n)).toBe(0)
  })
})
