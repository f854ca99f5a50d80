import { ACCESS_EXEC, ACCESS_PRIV, ACCESS_READ, ACCESS_WRITE, NO_PASID } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { EVERYTHING, LEGACY_ONLY, type VtdCapabilities } from "../src/model/options.ts"
import { CAP, ECAP } from "../src/spec/registers.ts"
import {
  CONTEXT,
  CONTEXT_UPPER,
  DIRECTORY,
  GUEST_OFFSET,
  HOLE,
  PASID_TABLE,
  ROOT,
  SCALABLE,
  Unit,
} from "./unit.ts"

const IOVA = 0x1234_5678_9000n
const PAGE = 0x7f_5000n
const AW4 = 2n << 2n
const AW3 = 1n << 2n
const AW5 = 3n << 2n
const FIRST = 1n << 6n
const SECOND = 2n << 6n
const NESTED = 3n << 6n
const PASS_THROUGH = 4n << 6n
const SSADE = 1n << 9n
const PWSNP = 1n << 23n

/** Capabilities with some fields changed. */
function capabilities(
  cap: Parameters<typeof CAP.encode>[0],
  ecap: Parameters<typeof ECAP.encode>[0],
): VtdCapabilities {
  return {
    ver: EVERYTHING.ver,
    cap: CAP.encode({ ...CAP.decode([EVERYTHING.cap]), ...cap })[0] as bigint,
    ecap: ECAP.encode({ ...ECAP.decode([EVERYTHING.ecap]), ...ecap })[0] as bigint,
  }
}

/** Legacy mode with a second stage that maps IOVA. */
function legacyUnit(caps: VtdCapabilities = EVERYTHING): { unit: Unit; root: bigint; entries: bigint[] } {
  const unit = new Unit(caps)
  const root = unit.page()
  const entries = unit.mapSecond(root, 4, IOVA, PAGE | 3n)
  unit.legacy(root | 1n, 2n | (7n << 8n))
  return { unit, root, entries }
}

function secondUnit(
  caps: VtdCapabilities = EVERYTHING,
  extra = 0n,
  word1 = 5n,
): { unit: Unit; root: bigint; entries: bigint[] } {
  const unit = new Unit(caps)
  const root = unit.page()
  const entries = unit.mapSecond(root, 4, IOVA, PAGE | 3n)
  unit.scalable(root | 1n | AW4 | SECOND | extra, word1)
  return { unit, root, entries }
}

function firstUnit(
  caps: VtdCapabilities = EVERYTHING,
  word2 = 0n,
  word1 = 5n | PWSNP,
): { unit: Unit; root: bigint; entries: bigint[] } {
  const unit = new Unit(caps)
  const root = unit.page()
  const entries = unit.mapFirst(root, 4, IOVA, PAGE | 0x67n)
  unit.scalable(1n | FIRST, word1, root | word2)
  return { unit, root, entries }
}

/** Guest page of the request; its host page lies GUEST_OFFSET up. */
const GUEST_PAGE = 0x7_3000n

function nestedUnit(
  caps: VtdCapabilities = EVERYTHING,
  extra = 0n,
  word2 = 0n,
  word1 = 5n | PWSNP,
): { unit: Unit; fsRoot: bigint; fs: bigint[]; ssRoot: bigint; ssOf(gpa: bigint): bigint[] } {
  const unit = new Unit(caps)
  const ssRoot = unit.page()
  const fsRoot = 0x5000n
  const fs = unit.mapGuest(fsRoot, 4, IOVA, GUEST_PAGE | 0x67n)
  const mapped = new Map<bigint, bigint[]>()
  const map = (gpa: bigint): bigint[] => {
    const page = gpa & ~0xfffn
    const used = mapped.get(page) ?? unit.mapSecond(ssRoot, 4, page, (page + GUEST_OFFSET) | 3n)
    mapped.set(page, used)
    return used
  }
  for (const entry of fs) map(entry - GUEST_OFFSET)
  map(GUEST_PAGE)
  unit.scalable(ssRoot | 1n | AW4 | NESTED | extra, word1, fsRoot | word2)
  return { unit, fsRoot, fs, ssRoot, ssOf: map }
}

describe("legacy mode", () => {
  it("translates through root, context and four levels", () => {
    const { unit } = legacyUnit()
    expect(unit.dma(IOVA + 0xabcn)).toMatchObject({
      ok: true,
      pa: PAGE + 0xabcn,
      size: 0x1000n,
      allowed: ACCESS_READ | ACCESS_WRITE,
      ipa: IOVA + 0xabcn,
      stage1Size: 0n,
      stage2Size: 0x1000n,
    })
  })

  it.each([
    [1n, 3],
    [2n, 4],
    [3n, 5],
  ])("AW %s walks %s levels", (aw, levels) => {
    const unit = new Unit()
    const root = unit.page()
    const width = BigInt(12 + 9 * levels)
    const top = (1n << width) - 0x1000n
    unit.mapSecond(root, levels, top, PAGE | 3n)
    unit.legacy(root | 1n, aw | (7n << 8n))
    expect(unit.dma(top + 8n)).toMatchObject({ ok: true, pa: PAGE + 8n })
    expect(unit.code(1n << width)).toBe(0x04)
    expect(unit.code(1n << 63n, ACCESS_WRITE)).toBe(0x04)
  })

  it.each([
    [2, 0x20_0000n],
    [3, 0x4000_0000n],
  ])("a leaf at level %s has %s bytes", (level, size) => {
    const unit = new Unit()
    const root = unit.page()
    const output = 0x80_0000_0000n
    unit.mapSecond(root, 4, IOVA & ~(size - 1n), output | 0x83n, level)
    unit.legacy(root | 1n, 2n)
    expect(unit.dma(IOVA)).toMatchObject({ ok: true, pa: output | (IOVA & (size - 1n)), size })
  })

  const cases: readonly [string, number, (u: ReturnType<typeof legacyUnit>) => void][] = [
    ["LRT.1 root table without memory", 0x08, ({ unit }) => unit.enable(HOLE)],
    ["LRT.2 root entry not present", 0x01, ({ unit }) => unit.put(ROOT, CONTEXT)],
    ["LRT.3 reserved bit 1 of the root entry", 0x0a, ({ unit }) => unit.set(ROOT, 2n)],
    ["LRT.3 upper word of the root entry", 0x0a, ({ unit }) => unit.set(ROOT + 8n, 1n << 40n)],
    ["LRT.3 beyond the host address width", 0x0a, ({ unit }) => unit.set(ROOT, 1n << 52n)],
    ["LCT.1 context table without memory", 0x09, ({ unit }) => unit.put(ROOT, HOLE | 1n)],
    ["LCT.2 context entry not present", 0x02, ({ unit, root }) => unit.put(CONTEXT, root)],
    ["LCT.3 reserved bit 4", 0x0b, ({ unit }) => unit.set(CONTEXT, 1n << 4n)],
    ["LCT.3 reserved bit 71", 0x0b, ({ unit }) => unit.set(CONTEXT + 8n, 1n << 7n)],
    ["LCT.3 reserved bit 88", 0x0b, ({ unit }) => unit.set(CONTEXT + 8n, 1n << 24n)],
    ["LCT.3 pointer beyond the host address width", 0x0b, ({ unit }) => unit.set(CONTEXT, 1n << 60n)],
    ["LCT.4.1 AW 0", 0x03, ({ unit }) => unit.put(CONTEXT + 8n, 0n)],
    ["LCT.4.1 AW 4", 0x03, ({ unit }) => unit.put(CONTEXT + 8n, 4n)],
    ["LCT.4.2 TT 3", 0x03, ({ unit }) => unit.set(CONTEXT, 3n << 2n)],
    ["LCT.4.3 SSPTPTR without memory", 0x03, ({ unit }) => unit.put(CONTEXT, HOLE | 1n)],
    ["LSS.1 table without memory", 0x07, ({ unit, entries }) => unit.put(entries[1] as bigint, HOLE | 3n)],
    ["LSS.2 SNP in a table entry", 0x0c, ({ unit, entries }) => unit.set(entries[0] as bigint, 1n << 11n)],
    ["LSS.2 PS at level 4", 0x0c, ({ unit, entries }) => unit.set(entries[0] as bigint, 1n << 7n)],
    ["LSS.2 bit 62", 0x0c, ({ unit, entries }) => unit.set(entries[3] as bigint, 1n << 62n)],
    ["LGN.3 leaf without permissions", 0x06, ({ unit, entries }) => unit.put(entries[3] as bigint, PAGE)],
    ["LGN.3 leaf for writes only", 0x06, ({ unit, entries }) => unit.put(entries[3] as bigint, PAGE | 2n)],
    [
      "LGN.3 table for writes only",
      0x06,
      ({ unit, entries }) => unit.put(entries[1] as bigint, unit.get(entries[1] as bigint) & ~1n),
    ],
    [
      "LGN.4 output among the interrupts",
      0x0e,
      ({ unit, entries }) => unit.put(entries[3] as bigint, 0xfee0_1003n),
    ],
  ]
  it.each(cases)("%s", (_, code, spoil) => {
    const made = legacyUnit()
    spoil(made)
    expect(made.unit.code(IOVA)).toBe(code)
  })

  it("LGN.2 for a write without permission, LGN.2 before LGN.3 for an AtomicOp", () => {
    const { unit, entries } = legacyUnit()
    unit.put(entries[3] as bigint, PAGE | 1n)
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0x05)
    expect(unit.code(IOVA, ACCESS_READ)).toBe(0)
    expect(unit.code(IOVA, ACCESS_READ | ACCESS_WRITE)).toBe(0x05)
    expect(unit.dma(IOVA)).toMatchObject({ allowed: ACCESS_READ })
  })

  it("ignores bits 70:67 of the context entry and the ignored bits of paging entries", () => {
    const { unit, entries } = legacyUnit()
    unit.set(CONTEXT + 8n, 0xfn << 3n)
    for (const entry of entries) unit.set(entry, 0xbff0_0000_0000_077cn)
    unit.set(entries[3] as bigint, 1n << 7n)
    expect(unit.dma(IOVA)).toMatchObject({ ok: true, pa: PAGE })
  })

  it("passes through without a walk, whatever SSPTPTR says", () => {
    const unit = new Unit()
    unit.legacy(0xffff_ffff_ffff_f009n, 2n)
    expect(unit.dma(IOVA, ACCESS_WRITE)).toMatchObject({ ok: true, pa: IOVA, stage2Size: 0n })
    expect(unit.code(1n << 52n)).toBe(0x04)
  })

  it("knows no pass-through without PT, no device-TLB translation without DT", () => {
    const unit = new Unit(capabilities({}, { PT: 0n, DT: 0n }))
    unit.legacy(1n | (2n << 2n), 2n)
    expect(unit.code(IOVA)).toBe(0x03)
    unit.put(CONTEXT, 1n | (1n << 2n))
    expect(unit.code(IOVA)).toBe(0x03)
  })

  it("knows large pages and SNP only with SSLPS and SC", () => {
    const unit = new Unit(capabilities({ SSLPS: 0n }, { SC: 0n }))
    const root = unit.page()
    const entries = unit.mapSecond(root, 4, IOVA, PAGE | 0x803n)
    unit.legacy(root | 1n, 2n)
    expect(unit.code(IOVA)).toBe(0x0c)
    unit.put(entries[3] as bigint, PAGE | 3n)
    expect(unit.code(IOVA)).toBe(0)
    unit.put(entries[2] as bigint, 0x40_0083n)
    expect(unit.code(IOVA)).toBe(0x0c)
  })

  it("reserves the domain-id bits that CAP.ND leaves out", () => {
    const unit = new Unit(capabilities({ ND: 2n }, {}))
    const root = unit.page()
    unit.mapSecond(root, 4, IOVA, PAGE | 3n)
    unit.legacy(root | 1n, 2n | (0xffn << 8n))
    expect(unit.code(IOVA)).toBe(0)
    unit.put(CONTEXT + 8n, 2n | (0x100n << 8n))
    expect(unit.code(IOVA)).toBe(0x0b)
  })

  it("RTA.2 refuses a request with PASID", () => {
    expect(legacyUnit().unit.code(IOVA, ACCESS_READ, 1)).toBe(0x31)
  })

  it("walks to the top of a 39-bit MGAW even with a 48-bit table", () => {
    const unit = new Unit({ ...LEGACY_ONLY, cap: 0x80d2008c22260606n })
    const root = unit.page()
    unit.mapSecond(root, 4, 0x7f_ffff_f000n, PAGE | 3n)
    unit.legacy(root | 1n, 2n)
    expect(unit.code(0x7f_ffff_ffffn)).toBe(0)
    expect(unit.code(0x80_0000_0000n)).toBe(0x04)
  })
})

describe("zero-length reads: requests that name no access, §3.14", () => {
  it("pass on write-only pages with ZLR, and are reads in all else", () => {
    const without = capabilities({ ZLR: 0n }, {})
    for (const [caps, code] of [
      [EVERYTHING, 0],
      [without, 0x86],
    ] as const) {
      const { unit, entries } = secondUnit(caps)
      expect(unit.code(IOVA, 0)).toBe(0)
      unit.put(entries[3] as bigint, PAGE | 2n)
      expect([unit.code(IOVA, 0), unit.code(IOVA)]).toEqual([code, 0x86])
      unit.put(entries[3] as bigint, 0n)
      expect(unit.code(IOVA, 0)).toBe(0x79)
    }
    const legacy = legacyUnit()
    legacy.unit.put(legacy.entries[3] as bigint, PAGE | 2n)
    expect(legacy.unit.dma(IOVA, 0)).toMatchObject({ ok: true, pa: PAGE })
  })

  it("are recorded as reads, and complete in the interrupt range", () => {
    const { unit } = secondUnit()
    expect(unit.code(1n << 40n, 0)).toBe(0x79)
    expect(unit.model.mmio.read32(0x22c) >>> 30).toBe(3)
    expect(unit.code(0xfee0_1000n, 0)).toBe(0)
  })
})

describe("the interrupt address range, §3.15", () => {
  it("takes writes without PASID as messages, past all tables; reads and AtomicOps are wrong (29h)", () => {
    const legacy = legacyUnit()
    legacy.unit.mapSecond(legacy.root, 4, 0xfee0_1000n, PAGE | 3n)
    const scalable = secondUnit()
    for (const { unit } of [legacy, scalable]) {
      const written = unit.dma(0xfee0_1004n, ACCESS_WRITE)
      expect(written).toMatchObject({ ok: true, pa: 0xfee0_1004n, allowed: ACCESS_WRITE, stage2Size: 0n })
      expect(unit.code(0xfee0_1004n)).toBe(0x29)
      expect(unit.code(0xfeef_fffcn, ACCESS_READ | ACCESS_WRITE)).toBe(0x29)
      // One page before and one behind it are addresses as any other.
      expect(unit.dma(0xfedf_f000n, ACCESS_WRITE).ok || unit.dma(0xfef0_0000n, ACCESS_WRITE).ok).toBe(false)
    }
  })

  it("is translated as any other for requests with PASID", () => {
    const { unit, root } = secondUnit()
    unit.set(CONTEXT, 1n << 3n)
    unit.put(PASID_TABLE + 64n, root | 1n | AW4 | SECOND, 5n)
    unit.mapSecond(root, 4, 0xfee0_1000n, PAGE | 3n)
    expect(unit.dma(0xfee0_1004n, ACCESS_READ, 1)).toMatchObject({ ok: true, pa: PAGE + 4n })
  })
})

describe("table modes", () => {
  it("RTA.1 for TTM 2, RTA.4 for abort-DMA", () => {
    const unit = new Unit()
    unit.enable(ROOT | (2n << 10n))
    expect(unit.code(IOVA)).toBe(0x30)
    unit.enable(ROOT | (3n << 10n))
    expect(unit.code(IOVA)).toBe(0x33)
  })

  it("RTA.1 for modes that the hardware lacks", () => {
    const unit = new Unit(LEGACY_ONLY)
    unit.enable(ROOT | SCALABLE)
    expect(unit.code(IOVA)).toBe(0x30)
    unit.enable(ROOT | (3n << 10n))
    expect(unit.code(IOVA)).toBe(0x30)
  })
})

describe("scalable mode entries", () => {
  const cases: readonly [string, number, (u: ReturnType<typeof secondUnit>) => void][] = [
    ["SRT.1 root table without memory", 0x38, ({ unit }) => unit.enable(HOLE | SCALABLE)],
    ["SRT.2 lower half not present", 0x39, ({ unit }) => unit.put(ROOT, CONTEXT)],
    ["SRT.3 reserved bit", 0x3a, ({ unit }) => unit.set(ROOT, 1n << 11n)],
    ["SCT.1 context table without memory", 0x40, ({ unit }) => unit.put(ROOT, HOLE | 1n)],
    ["SCT.2 not present", 0x41, ({ unit }) => unit.put(CONTEXT, DIRECTORY)],
    ["SCT.3 reserved bit 5", 0x42, ({ unit }) => unit.set(CONTEXT, 1n << 5n)],
    ["SCT.3 reserved bit 85", 0x42, ({ unit }) => unit.set(CONTEXT + 8n, 1n << 21n)],
    ["SCT.3 reserved bit 255", 0x42, ({ unit }) => unit.set(CONTEXT + 24n, 1n << 63n)],
    ["SCT.4.1 PRE without DTE", 0x43, ({ unit }) => unit.set(CONTEXT, 1n << 4n)],
    ["SCT.4.2 RID_PASID beyond PDTS", 0x43, ({ unit }) => unit.set(CONTEXT + 8n, 8192n)],
    ["SPD.1 directory without memory", 0x50, ({ unit }) => unit.put(CONTEXT, HOLE | 1n)],
    ["SPD.2 directory entry not present", 0x51, ({ unit }) => unit.put(DIRECTORY, PASID_TABLE)],
    ["SPD.3 reserved bit", 0x52, ({ unit }) => unit.set(DIRECTORY, 4n)],
    ["SPT.1 PASID table without memory", 0x58, ({ unit }) => unit.put(DIRECTORY, HOLE | 1n)],
    ["SPT.2 not present", 0x59, ({ unit }) => unit.put(PASID_TABLE, 0n)],
    ["SPT.3 reserved bit 5", 0x5a, ({ unit }) => unit.set(PASID_TABLE, 1n << 5n)],
    ["SPT.3 reserved bit 80", 0x5a, ({ unit }) => unit.set(PASID_TABLE + 8n, 1n << 16n)],
    ["SPT.3 reserved bit 129", 0x5a, ({ unit }) => unit.set(PASID_TABLE + 16n, 2n)],
    ["SPT.3 reserved bit 511", 0x5a, ({ unit }) => unit.set(PASID_TABLE + 56n, 1n << 63n)],
    ["SPT.4.1 AW 0", 0x5b, ({ unit, root }) => unit.put(PASID_TABLE, root | 1n | SECOND)],
    ["SPT.4.2 PGTT 0", 0x5b, ({ unit, root }) => unit.put(PASID_TABLE, root | 1n | AW4)],
    ["SPT.4.2 PGTT 5", 0x5b, ({ unit, root }) => unit.put(PASID_TABLE, root | 1n | AW4 | (5n << 6n))],
    ["SPT.4.3 FSPM 2", 0x5b, ({ unit }) => unit.put(PASID_TABLE, 1n | FIRST, 5n, 2n << 2n)],
    [
      "SPT.4.4 nested FSPTPTR beyond AW",
      0x5b,
      ({ unit, root }) => unit.put(PASID_TABLE, root | 1n | AW4 | NESTED, 5n, 1n << 48n),
    ],
  ]
  it.each(cases)("%s", (_, code, spoil) => {
    const made = secondUnit()
    spoil(made)
    expect(made.unit.code(IOVA)).toBe(code)
  })

  it("takes the upper half for devices 16 to 31, and only checks that half", () => {
    const { unit } = secondUnit()
    unit.put(ROOT, 0xffen)
    unit.put(CONTEXT_UPPER + 0x7fn * 32n, DIRECTORY | 1n)
    expect(unit.code(IOVA, ACCESS_READ, NO_PASID, 0x00ff)).toBe(0)
    expect(unit.code(IOVA, ACCESS_READ, NO_PASID, 0x007f)).toBe(0x39)
    expect(unit.code(IOVA, ACCESS_READ, NO_PASID, 0x01ff)).toBe(0x39)
  })

  it("serves PASIDs by directory and table", () => {
    const { unit, root } = secondUnit()
    const pasid = (5 << 6) | 9
    unit.set(CONTEXT, 1n << 3n)
    const table = unit.page()
    unit.put(DIRECTORY + 5n * 8n, table | 1n)
    unit.put(table + 9n * 64n, root | 1n | AW4 | SECOND, 6n)
    expect(unit.code(IOVA, ACCESS_READ, pasid)).toBe(0)
    expect(unit.code(IOVA, ACCESS_READ, pasid + 1)).toBe(0x59)
    expect(unit.code(IOVA, ACCESS_READ, 6 << 6)).toBe(0x51)
  })

  it("SCT.6 without PASIDE, SCT.7 beyond PDTS, SCT.9 for RID_PASID, SGN.10 beyond PSS", () => {
    const { unit } = secondUnit(capabilities({}, { PSS: 7n }))
    expect(unit.code(IOVA, ACCESS_READ, 1)).toBe(0x45)
    unit.set(CONTEXT, 1n << 3n)
    expect(unit.code(IOVA, ACCESS_READ, 8192)).toBe(0x46)
    expect(unit.code(IOVA, ACCESS_READ, 0)).toBe(0x48)
    expect(unit.code(IOVA, ACCESS_READ, 256)).toBe(0x89)
    expect(unit.code(IOVA, ACCESS_READ, 255)).toBe(0x51)
  })

  it("takes RID_PASID for requests without PASID", () => {
    const { unit, root } = secondUnit()
    unit.put(CONTEXT + 8n, 3n)
    unit.put(PASID_TABLE, 0n)
    unit.put(PASID_TABLE + 3n * 64n, root | 1n | AW4 | SECOND, 6n)
    expect(unit.code(IOVA)).toBe(0)
  })

  it.each([
    ["DTE without DT", { DT: 0n }, 1n << 2n, 0n],
    ["PASIDE without PASID", { PASID: 0n }, 1n << 3n, 0n],
    ["PRE without PRS", { PRS: 0n }, (1n << 4n) | (1n << 2n), 0n],
    ["RID_PASID without RPS", { RPS: 0n }, 0n, 1n],
    ["RID_PRIV without RPRIVS", { RPRIVS: 0n }, 0n, 1n << 20n],
  ])("SCT.3 for %s", (_, ecap, lo, hi) => {
    const { unit } = secondUnit(capabilities({}, ecap))
    expect(unit.code(IOVA)).toBe(0)
    unit.set(CONTEXT, lo)
    unit.set(CONTEXT + 8n, hi)
    expect(unit.code(IOVA)).toBe(0x42)
  })

  it.each([
    ["SSADE without SSADS", { SSADS: 0n }, 0n, SSADE],
    ["PWSNP without SMPWCS", { SMPWCS: 0n }, 8n, PWSNP],
    ["PGSNP without SC", { SC: 0n }, 8n, 1n << 24n],
    ["SRE without SRS", { SRS: 0n }, 16n, 1n],
    ["EAFE without EAFS", { EAFS: 0n }, 16n, 1n << 7n],
    ["FSPTPTR without FSTS", { FSTS: 0n }, 16n, 0x1000n],
  ])("SPT.3 for %s", (_, ecap, offset, bits) => {
    const { unit } = secondUnit(capabilities({}, ecap))
    expect(unit.code(IOVA)).toBe(0)
    unit.set(PASID_TABLE + offset, bits)
    expect(unit.code(IOVA)).toBe(0x5a)
  })

  it("SPT.4.2 for translation types that the hardware lacks", () => {
    const entry = AW4 | 1n
    const without = (ecap: Parameters<typeof ECAP.encode>[0], pgtt: bigint): number => {
      const { unit, root } = secondUnit(capabilities({}, ecap))
      unit.put(PASID_TABLE, (ecap?.SSTS === 0n ? 0n : root) | entry | pgtt)
      return unit.code(IOVA)
    }
    expect(without({ FSTS: 0n }, FIRST)).toBe(0x5b)
    expect(without({ SSTS: 0n, SSADS: 0n }, SECOND)).toBe(0x5b)
    expect(without({ NEST: 0n }, NESTED)).toBe(0x5b)
    expect(without({ PT: 0n }, PASS_THROUGH)).toBe(0x5b)
  })

  it("SPT.6 for a privileged request without SRE, SPT.5 for an execute request", () => {
    const { unit, root } = secondUnit()
    unit.set(CONTEXT, 1n << 3n)
    unit.put(PASID_TABLE + 64n, root | 1n | AW4 | SECOND, 6n)
    expect(unit.code(IOVA, ACCESS_READ | ACCESS_PRIV, 1)).toBe(0x5d)
    expect(unit.code(IOVA, ACCESS_READ | ACCESS_EXEC, 1)).toBe(0x5c)
    unit.set(PASID_TABLE + 64n + 16n, 1n)
    expect(unit.code(IOVA, ACCESS_READ | ACCESS_PRIV, 1)).toBe(0)
    unit.set(CONTEXT + 8n, 1n << 20n)
    expect(unit.code(IOVA)).toBe(0x5d)
  })

  it("passes through up to the host address width", () => {
    const unit = new Unit(EVERYTHING, 46)
    unit.scalable(1n | PASS_THROUGH, 9n)
    expect(unit.dma(IOVA)).toMatchObject({ ok: true, pa: IOVA })
    expect(unit.code(1n << 46n)).toBe(0x83)
    unit.set(CONTEXT, 1n << 3n)
    unit.put(PASID_TABLE + 64n, 1n | PASS_THROUGH, 9n)
    expect(unit.code(0xfeef_fff8n, ACCESS_READ, 1)).toBe(0x87)
  })
})

describe("second stage in scalable mode", () => {
  const cases: readonly [string, number, (u: ReturnType<typeof secondUnit>) => void][] = [
    ["SSS.1 table without memory", 0x78, ({ unit, entries }) => unit.put(entries[0] as bigint, HOLE | 3n)],
    [
      "SSS.2 nothing granted",
      0x79,
      ({ unit, entries }) => unit.put(entries[2] as bigint, ~3n & ((1n << 64n) - 1n)),
    ],
    [
      "SSS.3 bit 51 with a narrower host",
      0x7a,
      ({ unit, entries }) => unit.set(entries[3] as bigint, 1n << 62n),
    ],
    ["SSS.4 SSPTPTR without memory", 0x7b, ({ unit }) => unit.put(PASID_TABLE, HOLE | 1n | AW4 | SECOND)],
    ["SGN.7 writes only", 0x86, ({ unit, entries }) => unit.put(entries[3] as bigint, PAGE | 2n)],
    ["SGN.8 interrupts", 0x87, ({ unit, entries }) => unit.put(entries[3] as bigint, 0xfeef_f003n)],
  ]
  it.each(cases)("%s", (_, code, spoil) => {
    const made = secondUnit()
    spoil(made)
    expect(made.unit.code(IOVA)).toBe(code)
  })

  it("SSS.2 when no permission is left over all levels", () => {
    const { unit, entries } = secondUnit()
    unit.put(entries[0] as bigint, unit.get(entries[0] as bigint) & ~2n)
    unit.put(entries[3] as bigint, PAGE | 2n)
    expect(unit.code(IOVA)).toBe(0x79)
  })

  it("SGN.5 beyond the width, SGN.6 for a write", () => {
    const { unit, entries } = secondUnit()
    expect(unit.code(1n << 48n)).toBe(0x84)
    unit.put(entries[3] as bigint, PAGE | 1n)
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0x85)
  })

  it.each([
    [AW3, 3],
    [AW5, 5],
  ])("walks %s as %s levels", (aw, levels) => {
    const unit = new Unit()
    const root = unit.page()
    const top = (1n << BigInt(12 + 9 * levels)) - 0x1000n
    unit.mapSecond(root, levels, top, PAGE | 3n)
    unit.scalable(root | 1n | aw | SECOND, 5n)
    expect(unit.dma(top)).toMatchObject({ ok: true, pa: PAGE })
  })

  it("sets A on the way and D in the leaf of a write, with SSADE and PWSNP", () => {
    const { unit, entries } = secondUnit(EVERYTHING, SSADE, 5n | PWSNP)
    expect(unit.code(IOVA)).toBe(0)
    expect(entries.map(entry => unit.get(entry) & 0x300n)).toEqual([0x100n, 0x100n, 0x100n, 0x100n])
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0)
    expect(entries.map(entry => unit.get(entry) & 0x300n)).toEqual([0x100n, 0x100n, 0x100n, 0x300n])
  })

  it("leaves entries alone without SSADE", () => {
    const { unit, entries } = secondUnit(EVERYTHING, 0n, 5n | PWSNP)
    const before = entries.map(entry => unit.get(entry))
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0)
    expect(entries.map(entry => unit.get(entry))).toEqual(before)
  })

  it("SSS.5 when a flag is missing and walks do not snoop", () => {
    const { unit, entries } = secondUnit(EVERYTHING, SSADE, 5n)
    expect(unit.code(IOVA)).toBe(0x7c)
    for (const entry of entries) unit.set(entry, 0x100n)
    expect(unit.code(IOVA)).toBe(0)
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0x7c)
    unit.set(entries[3] as bigint, 0x200n)
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0)
  })
})

describe("first stage", () => {
  const cases: readonly [string, number, (u: ReturnType<typeof firstUnit>) => void][] = [
    ["SFS.1 table without memory", 0x70, ({ unit, entries }) => unit.put(entries[1] as bigint, HOLE | 0x27n)],
    ["SFS.2 not present", 0x71, ({ unit, entries }) => unit.put(entries[3] as bigint, PAGE | 0x66n)],
    ["SFS.3 PS at level 4", 0x72, ({ unit, entries }) => unit.set(entries[0] as bigint, 0x80n)],
    ["SFS.4 FSPTPTR without memory", 0x73, ({ unit }) => unit.put(PASID_TABLE + 16n, HOLE)],
    [
      "SGN.2 supervisor table",
      0x81,
      ({ unit, entries }) => unit.put(entries[1] as bigint, unit.get(entries[1] as bigint) & ~4n),
    ],
    ["SGN.8 interrupts", 0x87, ({ unit, entries }) => unit.put(entries[3] as bigint, 0xfee0_0067n)],
  ]
  it.each(cases)("%s", (_, code, spoil) => {
    const made = firstUnit()
    spoil(made)
    expect(made.unit.code(IOVA)).toBe(code)
  })

  it("translates, and SGN.6 refuses a write to a read-only page", () => {
    const { unit, entries } = firstUnit()
    expect(unit.dma(IOVA + 1n, ACCESS_WRITE)).toMatchObject({
      ok: true,
      pa: PAGE + 1n,
      stage1Size: 0x1000n,
      stage2Size: 0n,
    })
    unit.put(entries[3] as bigint, PAGE | 0x25n)
    expect(unit.dma(IOVA)).toMatchObject({ ok: true, allowed: ACCESS_READ })
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0x85)
  })

  it("reserves address bits at and above the host address width", () => {
    const unit = new Unit(EVERYTHING, 40)
    const root = unit.page()
    const entries = unit.mapFirst(root, 4, IOVA, PAGE | 0x67n)
    unit.scalable(1n | FIRST, 5n | PWSNP, root)
    expect(unit.code(IOVA)).toBe(0)
    unit.set(entries[2] as bigint, 1n << 40n)
    expect(unit.code(IOVA)).toBe(0x72)
  })

  it("ignores bits 62:52, 11:9 and 8 of table entries", () => {
    const { unit, entries } = firstUnit()
    for (const entry of entries) unit.set(entry, 0xfff0_0000_0000_0b00n)
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0)
  })

  it.each([
    [2, 0x20_0000n],
    [3, 0x4000_0000n],
  ])("a leaf at level %s has %s bytes; reserved bits below its address fault", (level, size) => {
    const unit = new Unit()
    const root = unit.page()
    const output = 0x40_0000_0000n
    const entries = unit.mapFirst(root, 4, IOVA & ~(size - 1n), output | 0xe7n, level)
    unit.scalable(1n | FIRST, 5n, root)
    expect(unit.dma(IOVA)).toMatchObject({ ok: true, pa: output | (IOVA & (size - 1n)), size })
    unit.set(entries.at(-1) as bigint, 1n << 12n)
    expect(unit.code(IOVA)).toBe(0)
    unit.set(entries.at(-1) as bigint, 1n << 13n)
    expect(unit.code(IOVA)).toBe(0x72)
  })

  it("knows 1 GiB pages only with FS1GP", () => {
    const unit = new Unit(capabilities({ FS1GP: 0n }, {}))
    const root = unit.page()
    unit.mapFirst(root, 4, 0n, 0xe7n, 3)
    unit.scalable(1n | FIRST, 5n, root)
    expect(unit.code(0x1000n)).toBe(0x72)
  })

  it("SGN.1 for addresses that are not canonical, by the number of levels", () => {
    const { unit, root } = firstUnit()
    expect(unit.code(0x8000_0000_0000n)).toBe(0x80)
    expect(unit.code(0x1_0000_0000_0000n)).toBe(0x80)
    expect(unit.code(0xffff_8000_0000_0000n)).toBe(0x71)
    unit.put(PASID_TABLE + 16n, root | (1n << 2n))
    expect(unit.code(0x8000_0000_0000n)).toBe(0x71)
    expect(unit.code(0x100_0000_0000_0000n)).toBe(0x80)
    expect(unit.code(0xff00_0000_0000_0000n)).toBe(0x71)
  })

  it("walks five levels with FSPM 1", () => {
    const unit = new Unit()
    const root = unit.page()
    const top = 0xff_ffff_ffff_f000n
    unit.mapFirst(root, 5, top, PAGE | 0x67n)
    unit.scalable(1n | FIRST, 5n, root | (1n << 2n))
    expect(unit.dma(top)).toMatchObject({ ok: true, pa: PAGE })
  })

  it("sets A on the way, D on a write, EA with EAFE", () => {
    const { unit, entries } = firstUnit(EVERYTHING, 1n << 7n)
    for (const entry of entries) unit.put(entry, unit.get(entry) & ~0x60n)
    expect(unit.code(IOVA)).toBe(0)
    expect(entries.map(entry => unit.get(entry) & 0x460n)).toEqual([0x420n, 0x420n, 0x420n, 0x420n])
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0)
    expect(entries.map(entry => unit.get(entry) & 0x460n)).toEqual([0x420n, 0x420n, 0x420n, 0x460n])
  })

  it("leaves no flags after a refused write", () => {
    const { unit, entries } = firstUnit()
    for (const entry of entries) unit.put(entry, unit.get(entry) & ~0x62n)
    const before = entries.map(entry => unit.get(entry))
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0x85)
    expect(entries.map(entry => unit.get(entry))).toEqual(before)
  })

  it("SFS.9 when a flag is missing and walks do not snoop", () => {
    const { unit, entries } = firstUnit(EVERYTHING, 0n, 5n)
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0)
    unit.put(entries[3] as bigint, PAGE | 0x27n)
    expect(unit.code(IOVA)).toBe(0)
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0x90)
    unit.put(entries[1] as bigint, unit.get(entries[1] as bigint) & ~0x20n)
    expect(unit.code(IOVA)).toBe(0x90)
  })

  it("lets supervisors into supervisor pages, and write read-only ones unless WPE", () => {
    const { unit, entries, root } = firstUnit()
    unit.set(CONTEXT, 1n << 3n)
    unit.put(PASID_TABLE + 64n, 1n | FIRST, 6n | PWSNP, root | 1n)
    unit.put(entries[3] as bigint, PAGE | 0x61n)
    const write = ACCESS_WRITE | ACCESS_PRIV
    expect(unit.code(IOVA, ACCESS_READ, 1)).toBe(0x81)
    expect(unit.code(IOVA, ACCESS_READ | ACCESS_PRIV, 1)).toBe(0)
    expect(unit.code(IOVA, write, 1)).toBe(0)
    unit.set(PASID_TABLE + 64n + 16n, 1n << 4n)
    expect(unit.code(IOVA, write, 1)).toBe(0x85)
  })

  it("SGN.3 for execute-disabled pages where execute requests are served", () => {
    const { unit, entries, root } = firstUnit(capabilities({}, { ERS: 1n }))
    unit.set(CONTEXT, 1n << 3n)
    unit.put(PASID_TABLE + 64n, 1n | FIRST, 6n | PWSNP, root)
    expect(unit.code(IOVA, ACCESS_READ | ACCESS_EXEC, 1)).toBe(0)
    unit.set(entries[2] as bigint, 1n << 63n)
    expect(unit.code(IOVA, ACCESS_READ | ACCESS_EXEC, 1)).toBe(0x82)
    expect(unit.code(IOVA, ACCESS_READ, 1)).toBe(0)
  })
})

describe("nested", () => {
  it("translates every first-stage fetch and the page through the second stage", () => {
    const { unit } = nestedUnit()
    expect(unit.dma(IOVA + 4n, ACCESS_WRITE)).toMatchObject({
      ok: true,
      ipa: GUEST_PAGE + 4n,
      pa: GUEST_PAGE + GUEST_OFFSET + 4n,
      size: 0x1000n,
      stage1Size: 0x1000n,
      stage2Size: 0x1000n,
    })
  })

  it("says what a read-only page of the first stage allows: writes to supervisors unless WPE", () => {
    const allowed = (word2: bigint, ridPriv: bigint): unknown => {
      const { unit, fs } = nestedUnit(EVERYTHING, 0n, word2)
      unit.put(fs[3] as bigint, GUEST_PAGE | 0x65n)
      unit.set(CONTEXT + 8n, ridPriv)
      const outcome = unit.dma(IOVA)
      return outcome.ok && outcome.allowed
    }
    const [SRE, WPE, RID_PRIV] = [1n, 1n << 4n, 1n << 20n]
    expect(allowed(SRE, RID_PRIV)).toBe(ACCESS_READ | ACCESS_WRITE)
    expect(allowed(SRE | WPE, RID_PRIV)).toBe(ACCESS_READ)
    expect(allowed(SRE, 0n)).toBe(ACCESS_READ)
  })

  it("reads 24 entries, and says so", () => {
    const { unit } = nestedUnit()
    const steps: string[] = []
    unit.model.trace = step => steps.push(`${step.stage} ${step.what}`)
    expect(unit.code(IOVA)).toBe(0)
    const second = ["2 SS-PML4E", "2 SS-PDPE", "2 SS-PDE", "2 SS-PTE"]
    expect(steps).toEqual([
      "0 root entry, lower half",
      "0 scalable-mode context entry",
      "0 PASID directory entry",
      "0 PASID table entry",
      ...["1 FS-PML4E", "1 FS-PDPE", "1 FS-PDE", "1 FS-PTE"].flatMap(step => [...second, step]),
      ...second,
    ])
  })

  it("SSS.2 at each guest table and at the page; the fault is the second stage's", () => {
    for (let index = 0; index < 5; index++) {
      const { unit, fs, ssOf } = nestedUnit()
      const gpa = index < 4 ? (fs[index] as bigint) - GUEST_OFFSET : GUEST_PAGE
      unit.put(ssOf(gpa)[3] as bigint, 0n)
      expect(unit.dma(IOVA)).toMatchObject({ ok: false, fault: { code: 0x79, reason: "SSS.2", stage: 2 } })
    }
  })

  it("SFS.6 at the guest's top table, SFS.7 at later ones, SGN.7 at the page, when only writes are granted", () => {
    const codes = [0x75, 0x76, 0x76, 0x76, 0x86]
    for (const [index, code] of codes.entries()) {
      const { unit, fs, ssOf } = nestedUnit()
      const leaf = ssOf(index < 4 ? (fs[index] as bigint) - GUEST_OFFSET : GUEST_PAGE)[3] as bigint
      unit.put(leaf, unit.get(leaf) & ~1n)
      expect(unit.code(IOVA)).toBe(code)
    }
  })

  it("SFS.8 when A/D of a guest entry cannot be written, SGN.6 when the page cannot", () => {
    const { unit, fs, ssOf } = nestedUnit()
    const leaf = ssOf((fs[3] as bigint) - GUEST_OFFSET)[3] as bigint
    unit.put(leaf, unit.get(leaf) & ~2n)
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0)
    unit.put(fs[3] as bigint, GUEST_PAGE | 0x27n)
    expect(unit.code(IOVA)).toBe(0)
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0x77)
    const page = ssOf(GUEST_PAGE)[3] as bigint
    unit.put(page, unit.get(page) & ~2n)
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0x85)
    expect(unit.dma(IOVA)).toMatchObject({ ok: true, allowed: ACCESS_READ })
  })

  it("SFS.5 when an entry's address is beyond the second stage's width", () => {
    for (let index = 0; index < 4; index++) {
      const { unit, fs } = nestedUnit()
      unit.set(fs[index] as bigint, 1n << 48n)
      expect(unit.dma(IOVA)).toMatchObject({ fault: { code: 0x74, stage: 1 } })
    }
  })

  it("SSS.3, SSS.1 and SSS.4 from inside a guest fetch", () => {
    const { unit, fs, ssOf } = nestedUnit()
    const used = ssOf((fs[1] as bigint) - GUEST_OFFSET)
    unit.set(used[3] as bigint, 1n << 62n)
    expect(unit.code(IOVA)).toBe(0x7a)
    unit.put(used[2] as bigint, HOLE | 3n)
    expect(unit.code(IOVA)).toBe(0x78)
    unit.put(PASID_TABLE, HOLE | 1n | AW4 | NESTED)
    expect(unit.code(IOVA)).toBe(0x7b)
  })

  it("SFS.4 and SFS.1 when the second stage leads to no memory", () => {
    for (const [index, code] of [
      [0, 0x73],
      [2, 0x70],
    ] as const) {
      const { unit, fs, ssOf } = nestedUnit()
      unit.put(ssOf((fs[index] as bigint) - GUEST_OFFSET)[3] as bigint, HOLE | 3n)
      expect(unit.code(IOVA)).toBe(code)
    }
  })

  it("with SSADE, marks guest tables accessed, dirty only where flags were written, and needs W to read them", () => {
    const { unit, fs, ssOf } = nestedUnit(EVERYTHING, SSADE)
    const leafOf = (index: number): bigint => ssOf((fs[index] as bigint) - GUEST_OFFSET)[3] as bigint
    unit.put(fs[3] as bigint, GUEST_PAGE | 0x7n)
    expect(unit.code(IOVA)).toBe(0)
    expect(unit.get(fs[3] as bigint) & 0x60n).toBe(0x20n)
    expect(unit.get(leafOf(3)) & 0x300n).toBe(0x300n)
    const page = ssOf(GUEST_PAGE)[3] as bigint
    expect(unit.get(page) & 0x300n).toBe(0x100n)
    expect(unit.code(IOVA, ACCESS_WRITE)).toBe(0)
    expect(unit.get(page) & 0x300n).toBe(0x300n)
    unit.put(leafOf(1), unit.get(leafOf(1)) & ~2n)
    expect(unit.code(IOVA)).toBe(0x76)
  })

  it.each([
    [3, AW3],
    [5, AW5],
  ])("walks five first-stage levels through a second stage of %i", (levels, aw) => {
    const unit = new Unit()
    const ssRoot = unit.page()
    const fsRoot = 0x5000n
    const iova = 0xab_cdef_1234_5000n
    const fs = unit.mapGuest(fsRoot, 5, iova, GUEST_PAGE | 0x67n)
    const leaves = [...fs.map(entry => entry - GUEST_OFFSET), GUEST_PAGE].map(address => {
      const page = address & ~0xfffn
      return unit.mapSecond(ssRoot, levels, page, (page + GUEST_OFFSET) | 3n)[levels - 1] as bigint
    })
    unit.scalable(ssRoot | 1n | aw | NESTED | SSADE, 5n | PWSNP, fsRoot | (1n << 2n))
    const wanted = { ok: true, ipa: GUEST_PAGE, pa: GUEST_PAGE + GUEST_OFFSET }
    // Once to mark, once with all marks set.
    for (let n = 0; n < 2; n++) expect(unit.dma(iova, ACCESS_WRITE)).toMatchObject(wanted)
    for (const leaf of leaves.slice(0, 5)) expect(unit.get(leaf) & 0x100n).toBe(0x100n)
    unit.put(leaves[2] as bigint, unit.get(leaves[2] as bigint) & ~2n)
    expect(unit.code(iova)).toBe(0x76)
  })

  it("judges pages below a table that is cached as any other", () => {
    const unit = new Unit(EVERYTHING, 52, { structures: "hoard", walks: "hoard", translations: "none" })
    const ssRoot = unit.page()
    const fsRoot = 0x5000n
    const map = (page: bigint, leaf: bigint): unknown => unit.mapSecond(ssRoot, 4, page, leaf)
    const fs = unit.mapGuest(fsRoot, 4, IOVA, GUEST_PAGE | 0x67n)
    for (const entry of fs) map((entry - GUEST_OFFSET) & ~0xfffn, (entry & ~0xfffn) | 3n)
    map(GUEST_PAGE, (GUEST_PAGE + GUEST_OFFSET) | 3n)
    map(0x60_0000n, PAGE | 1n)
    map(0x61_0000n, 0xfee0_0000n | 3n)
    const leaf = fs[3] as bigint
    unit.put(leaf + 8n, (1n << 48n) | 0x67n)
    unit.put(leaf + 16n, 0x60_0067n)
    unit.put(leaf + 24n, 0x61_0067n)
    unit.put(leaf + 32n, 0x62_0067n)
    unit.scalable(ssRoot | 1n | AW4 | NESTED, 5n | PWSNP, fsRoot)
    const at = (page: bigint, access: number): number => unit.code(IOVA + page * 0x1000n, access)
    for (let n = 0; n < 2; n++) {
      const codes = [0n, 1n, 2n, 3n, 4n].map(page => [at(page, ACCESS_READ), at(page, ACCESS_WRITE)])
      expect(codes).toEqual([
        [0, 0],
        [0x74, 0x74],
        [0, 0x85],
        [0x87, 0x87],
        [0x79, 0x79],
      ])
    }
  })

  it("keeps both stages' flags in an entry that is a leaf of both", () => {
    const unit = new Unit()
    const [ssRoot, root, upper, middle] = [unit.page(), unit.page(), unit.page(), unit.page()]
    // A second-stage table that maps itself, and is the first stage's last table, too.
    const table = (unit.mapSecond(ssRoot, 4, root, root | 3n)[3] as bigint) & ~0xfffn
    const index = (table >> 12n) & 511n
    for (const page of [upper, middle]) unit.mapSecond(ssRoot, 4, page, page | 3n)
    unit.put(table + index * 8n, table | 7n)
    unit.put(root, upper | 0x27n)
    unit.put(upper, middle | 0x27n)
    unit.put(middle, table | 0x27n)
    unit.scalable(ssRoot | 1n | AW4 | NESTED | SSADE, 5n | PWSNP, root)
    expect(unit.dma(index << 12n)).toMatchObject({ ok: true, pa: table })
    // A of the first stage, A of the second, and D of the second: A was written through it.
    expect(unit.get(table + index * 8n)).toBe(table | 0x327n)
  })

  it("gives the smaller leaf's size", () => {
    const unit = new Unit()
    const ssRoot = unit.page()
    unit.mapSecond(ssRoot, 4, 0n, GUEST_OFFSET | 0x83n, 2)
    unit.mapSecond(ssRoot, 4, 0x20_0000n, 0x4000_0083n, 2)
    const fsRoot = 0x5000n
    unit.mapGuest(fsRoot, 4, IOVA, 0x1067n)
    unit.mapGuest(fsRoot, 4, 0x4000_0000n, 0xe7n, 3)
    unit.scalable(ssRoot | 1n | AW4 | NESTED, 5n | PWSNP, fsRoot)
    expect(unit.dma(IOVA)).toMatchObject({ size: 0x1000n, stage1Size: 0x1000n, stage2Size: 0x20_0000n })
    expect(unit.dma(0x4020_0010n)).toMatchObject({
      pa: 0x4000_0010n,
      size: 0x20_0000n,
      stage1Size: 0x4000_0000n,
      stage2Size: 0x20_0000n,
    })
  })
})
