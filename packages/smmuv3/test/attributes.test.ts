/**
 * Memory types, shareability, and what else of a page or context decides about a DMA. Arm IHI 0070 G.b chapter 13, §5.4;
 * DDI 0487 §D8. Attributes are written as SMMU_GATOS_PAR has them: shareability, then a MAIR byte.
 */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  type DmaOutcome,
  hi32,
  lo32,
  NO_PASID,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import { EVERYTHING, type IdRegisters } from "../src/model/options.ts"
import * as reg from "../src/spec/registers.ts"
import {
  type CdFields,
  Machine,
  plainCd,
  plainStage2,
  RAM,
  S1_PAGE,
  S2_BLOCK,
  SHAPE_4K,
  type SteFields,
} from "./model-machine.ts"

const VA = 0x12_3456_7000n
const IPA = 0x9_8765_4000n
const PAGE = RAM + 0xf0_0000n
const NSH = 0
const OSH = 2
const ISH = 3

/** Device types and Normal halves of a MAIR byte, DDI 0487 MAIR_EL1. */
const NGNRNE = 0x00
const NGNRE = 0x04
const NGRE = 0x08
const GRE = 0x0c
const NC = 0x44
const WT = 0xbb
const WB = 0xff

const attribute = (sharing: number, type: number): number => (sharing << 8) | type

/** What the model reports after an access that must succeed. */
function attributesOf(m: Machine, address: bigint, stream = 1): number | undefined {
  expect(m.model.translate(stream, NO_PASID, hi32(address), lo32(address), ACCESS_READ)).toBe(0)
  return m.model.result.attributes
}

/** MAIR with `type` at index 3; the leaf picks it. */
const INDEX = 3n << 2n
const mair = (type: number): CdFields => ({ MAIR0: BigInt(type) << 24n })
const shared = (sharing: number): bigint => BigInt(sharing) << 8n
/** S1_PAGE and S2 leaf without shareability and type. */
const S1_LEAF = 0x443n
const S2_LEAF = 0x4c3n

function stage1(type: number, sharing: number, ste: SteFields = {}, cd: CdFields = {}): Machine {
  const m = new Machine()
  const root = m.alloc()
  m.map(root, SHAPE_4K, VA, PAGE | S1_LEAF | INDEX | shared(sharing))
  m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(root), ...mair(type), ...cd }) >> 6n, ...ste })
  return m
}

function stage2(
  memAttr: number,
  sharing: number,
  ste: SteFields = {},
  id: Partial<IdRegisters> = {},
): Machine {
  const m = new Machine(id)
  const root = m.alloc()
  m.map(root, SHAPE_4K, VA, PAGE | S2_LEAF | (BigInt(memAttr) << 2n) | shared(sharing))
  m.ste(1, { Config: 6n, ...plainStage2(root), ...ste })
  return m
}

function nested(type: number, sh1: number, memAttr: number, sh2: number, ste: SteFields = {}): Machine {
  const m = new Machine()
  const [s1, s2] = [m.alloc(), m.alloc()]
  m.map(s1, SHAPE_4K, VA, IPA | S1_LEAF | INDEX | shared(sh1))
  for (let page = RAM; page < RAM + 0x100_0000n; page += 0x20_0000n) {
    m.map(s2, { ...SHAPE_4K, leafLevel: 2 }, page, page | S2_BLOCK)
  }
  m.map(s2, SHAPE_4K, IPA, PAGE | S2_LEAF | (BigInt(memAttr) << 2n) | shared(sh2))
  const context = m.cd({ ...plainCd(s1), ...mair(type) })
  m.ste(1, { Config: 7n, S1ContextPtr: context >> 6n, ...plainStage2(s2), ...ste })
  return m
}

describe("the input of a stream", () => {
  const bypass = (fields: SteFields, id: Partial<IdRegisters> = {}): number | undefined => {
    const m = new Machine(id)
    m.ste(1, { Config: 4n, SHCFG: 1n, ...fields })
    return attributesOf(m, VA)
  }

  it("is Normal write-back, allocating, Non-shareable", () => {
    expect(bypass({})).toBe(attribute(NSH, WB))
  })

  it.each([
    [0x0, attribute(OSH, NGNRNE)],
    [0x1, attribute(OSH, NGNRE)],
    [0x2, attribute(OSH, NGRE)],
    [0x3, attribute(OSH, GRE)],
    [0x5, attribute(OSH, NC)],
    [0x6, attribute(ISH, 0x4b)],
    [0x7, attribute(ISH, 0x4f)],
    [0x9, attribute(ISH, 0xb4)],
    [0xa, attribute(ISH, WT)],
    [0xe, attribute(ISH, 0xfb)],
    [0xf, attribute(ISH, WB)],
    // Reserved: Device-nGnRnE.
    [0x4, attribute(OSH, NGNRNE)],
    [0x8, attribute(OSH, NGNRNE)],
    [0xc, attribute(OSH, NGNRNE)],
  ])("is replaced by MTCFG with MemAttr %i", (memAttr, wanted) => {
    expect(bypass({ MTCFG: 1n, MemAttr: BigInt(memAttr), SHCFG: 3n })).toBe(wanted)
    expect(bypass({ MTCFG: 0n, MemAttr: BigInt(memAttr), SHCFG: 3n })).toBe(attribute(ISH, WB))
  })

  it("takes allocation hints from ALLOCCFG, where memory is cacheable", () => {
    expect(bypass({ ALLOCCFG: 0b1100n })).toBe(attribute(NSH, 0xee))
    expect(bypass({ ALLOCCFG: 0b1111n })).toBe(attribute(NSH, 0x77))
    expect(bypass({ ALLOCCFG: 0b0111n })).toBe(attribute(NSH, WB))
    // Transient without allocation is not transient.
    expect(bypass({ ALLOCCFG: 0b1001n })).toBe(attribute(NSH, 0xcc))
    expect(bypass({ ALLOCCFG: 0b1001n, MTCFG: 1n, MemAttr: 0xan })).toBe(attribute(NSH, 0x88))
    expect(bypass({ ALLOCCFG: 0b1000n, MTCFG: 1n, MemAttr: 0x7n })).toBe(attribute(NSH, 0x4c))
    expect(bypass({ ALLOCCFG: 0b1000n, MTCFG: 1n, MemAttr: 0x1n })).toBe(attribute(OSH, NGNRE))
  })

  it("is not overridden without IDR1.ATTR_TYPES_OVR", () => {
    const id = { IDR1: EVERYTHING.IDR1 & ~(1 << 27) }
    expect(bypass({ MTCFG: 1n, MemAttr: 1n, SHCFG: 2n, ALLOCCFG: 8n }, id)).toBe(attribute(NSH, WB))
  })

  it("comes from GBPA while SMMUEN is 0", () => {
    const m = new Machine()
    m.write("CR0", 0)
    expect(attributesOf(m, VA)).toBe(attribute(NSH, WB))
    // MemAttr 0xa, MTCFG, ALLOCCFG 0b1010, SHCFG Outer Shareable.
    m.write("GBPA", reg.GBPA_UPDATE + 0x2a1a)
    expect(attributesOf(m, VA)).toBe(attribute(OSH, 0x99))
    const fixed = new Machine({ IDR1: EVERYTHING.IDR1 & ~(1 << 27) })
    fixed.write("CR0", 0)
    fixed.write("GBPA", reg.GBPA_UPDATE + 0x2a1a)
    expect(attributesOf(fixed, VA)).toBe(attribute(NSH, WB))
  })
})

describe("stage 1", () => {
  it.each([NGNRNE, NGNRE, NGRE, GRE])("gives Device memory %i, Outer Shareable", type => {
    expect(attributesOf(stage1(type, NSH), VA)).toBe(attribute(OSH, type))
  })

  it.each([
    [WB, ISH, attribute(ISH, WB)],
    [WT, NSH, attribute(NSH, WT)],
    [NC, NSH, attribute(OSH, NC)],
    [0x4f, ISH, attribute(ISH, 0x4f)],
    [0x77, OSH, attribute(OSH, 0x77)],
    // Reserved shareability.
    [WB, 1, attribute(NSH, WB)],
    // One half says it for both: XS and tagged memory.
    [0x40, ISH, attribute(OSH, NC)],
    [0xa0, ISH, attribute(ISH, 0xaa)],
    [0xf0, ISH, attribute(ISH, WB)],
  ])("gives MAIR %i with shareability %i", (type, sharing, wanted) => {
    expect(attributesOf(stage1(type, sharing), VA)).toBe(wanted)
  })

  it("replaces type and shareability of the input, but not its hints", () => {
    const device: SteFields = { MTCFG: 1n, MemAttr: 0n, SHCFG: 2n }
    expect(attributesOf(stage1(WB, ISH, device), VA)).toBe(attribute(ISH, WB))
    const noWrites: SteFields = { ALLOCCFG: 0b1100n }
    expect(attributesOf(stage1(WB, ISH, noWrites), VA)).toBe(attribute(ISH, 0xee))
    expect(attributesOf(stage1(0xdd, ISH, noWrites), VA)).toBe(attribute(ISH, 0xcc))
    expect(attributesOf(stage1(WT, ISH, { ALLOCCFG: 0b1111n }), VA)).toBe(attribute(ISH, 0x33))
    expect(attributesOf(stage1(0x33, ISH, { ALLOCCFG: 0b1000n }), VA)).toBe(attribute(ISH, 0x88))
  })

  it("picks any byte of MAIR0 and MAIR1, as the CD has them now", () => {
    const m = new Machine()
    const root = m.alloc()
    const types = [WB, NC, WT, 0x77, NGRE, GRE, 0x4f, 0xf4]
    const low = types.slice(0, 4).reduceRight((all, t) => (all << 8n) | BigInt(t), 0n)
    const high = types.slice(4).reduceRight((all, t) => (all << 8n) | BigInt(t), 0n)
    const context = m.cd({ ...plainCd(root), MAIR0: low, MAIR1: high })
    m.ste(1, { Config: 5n, S1ContextPtr: context >> 6n })
    for (const [index, type] of types.entries()) {
      m.map(root, SHAPE_4K, VA, PAGE | S1_LEAF | (BigInt(index) << 2n) | shared(OSH))
      expect(attributesOf(m, VA)).toBe(attribute(OSH, type))
    }
    m.cd({ ...plainCd(root), MAIR0: low, MAIR1: BigInt(NC) << 24n }, context)
    expect(attributesOf(m, VA)).toBe(attribute(OSH, NC))
  })

  it("with DS takes shareability from CD.SH0 and SH1, where leaves have address bits", () => {
    const m = new Machine()
    const root = m.alloc()
    const fields = { ...plainCd(root), DS: 1n, IPS: 6n, ...mair(WB) }
    m.map(root, SHAPE_4K, VA, PAGE | S1_LEAF | INDEX)
    for (const sharing of [NSH, OSH, ISH]) {
      m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...fields, SH0: BigInt(sharing) }) >> 6n })
      expect(attributesOf(m, VA)).toBe(attribute(sharing, WB))
    }
    const upper = { T1SZ: 16n, TG1: 2n, EPD1: 0n, EPD0: 1n, SH1: 2n, TTB1: root >> 4n }
    m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...fields, ...upper }) >> 6n })
    expect(attributesOf(m, VA | 0xffff_0000_0000_0000n)).toBe(attribute(OSH, WB))
  })
})

describe("stage 2", () => {
  it("combines with the input where stage 1 is off", () => {
    expect(attributesOf(stage2(0xf, ISH, { SHCFG: 1n }), VA)).toBe(attribute(ISH, WB))
    expect(attributesOf(stage2(0xa, NSH, { SHCFG: 2n }), VA)).toBe(attribute(OSH, WT))
    expect(attributesOf(stage2(0x1, NSH), VA)).toBe(attribute(OSH, NGNRE))
    expect(attributesOf(stage2(0xf, NSH, { MTCFG: 1n, MemAttr: 2n }), VA)).toBe(attribute(OSH, NGRE))
  })

  /** §13.1.5 and figure 13.1: the stronger of both. */
  it.each([
    [WB, ISH, 0xf, NSH, attribute(ISH, WB)],
    [WB, NSH, 0xf, OSH, attribute(OSH, WB)],
    [WB, ISH, 0xf, OSH, attribute(OSH, WB)],
    [WB, ISH, 0xa, ISH, attribute(ISH, WT)],
    [WT, ISH, 0xf, ISH, attribute(ISH, WT)],
    [WB, ISH, 0x5, ISH, attribute(OSH, NC)],
    [NC, ISH, 0xf, ISH, attribute(OSH, NC)],
    [WB, ISH, 0x6, ISH, attribute(ISH, 0x4b)],
    // Hints are stage 1's.
    [0xee, ISH, 0xf, ISH, attribute(ISH, 0xee)],
    [0x77, ISH, 0xa, ISH, attribute(ISH, 0x33)],
    // The book's examples, §13.1.5.1.
    [0x4f, ISH, 0x1, NSH, attribute(OSH, NGNRE)],
    [NGNRE, NSH, 0x0, NSH, attribute(OSH, NGNRNE)],
    [NGNRE, NSH, 0x3, NSH, attribute(OSH, NGNRE)],
    [GRE, NSH, 0xf, ISH, attribute(OSH, GRE)],
    [GRE, NSH, 0x2, ISH, attribute(OSH, NGRE)],
  ])("combines stage 1's %i, %i with MemAttr %i, %i", (type, sh1, memAttr, sh2, wanted) => {
    expect(attributesOf(nested(type, sh1, memAttr, sh2), VA)).toBe(wanted)
  })

  /** DDI 0487 AArch64.S2ApplyFWBMemAttrs(). */
  it.each([
    [WB, ISH, 7, ISH, attribute(ISH, WB)],
    [NGNRE, ISH, 7, ISH, attribute(OSH, NGNRE)],
    [NGNRE, ISH, 6, ISH, attribute(OSH, WB)],
    [NC, ISH, 6, ISH, attribute(OSH, WB)],
    [WT, ISH, 6, ISH, attribute(ISH, WB)],
    [0x33, ISH, 6, ISH, attribute(ISH, 0x77)],
    [0x4a, ISH, 6, NSH, attribute(ISH, 0xfe)],
    [WB, ISH, 5, ISH, attribute(OSH, NC)],
    [NGRE, ISH, 5, ISH, attribute(OSH, NGRE)],
    [WB, ISH, 1, ISH, attribute(OSH, NGNRE)],
    [GRE, ISH, 3, ISH, attribute(OSH, GRE)],
    [WB, ISH, 0, ISH, attribute(OSH, NGNRNE)],
    [NGRE, ISH, 3, ISH, attribute(OSH, NGRE)],
    [GRE, ISH, 1, ISH, attribute(OSH, NGNRE)],
    // MemAttr[3] is RES0.
    [WT, ISH, 0xf, ISH, attribute(ISH, WT)],
    [WB, ISH, 0x9, ISH, attribute(OSH, NGNRE)],
  ])("with S2FWB replaces %i, %i by MemAttr %i, %i", (type, sh1, memAttr, sh2, wanted) => {
    expect(attributesOf(nested(type, sh1, memAttr, sh2, { S2FWB: 1n }), VA)).toBe(wanted)
  })

  it("ignores S2FWB without IDR3.FWB", () => {
    const m = stage2(5, ISH, { S2FWB: 1n }, { IDR3: EVERYTHING.IDR3 & ~(1 << 8) })
    expect(attributesOf(m, VA)).toBe(attribute(OSH, NC))
    // As MemAttr 6 without forcing: outer Non-cacheable, inner write-through.
    const other = stage2(6, ISH, { S2FWB: 1n }, { IDR3: EVERYTHING.IDR3 & ~(1 << 8) })
    expect(attributesOf(other, VA)).toBe(attribute(ISH, 0x4b))
  })

  it("with DS takes shareability from S2SH0", () => {
    const m = new Machine()
    const root = m.alloc()
    m.map(root, SHAPE_4K, VA, PAGE | S2_LEAF | (0xfn << 2n))
    m.ste(1, { Config: 6n, ...plainStage2(root), S2DS: 1n, S2PS: 6n, S2SH0: 3n })
    expect(attributesOf(m, VA)).toBe(attribute(ISH, WB))
  })
})

describe("attributes of a page that a TLB holds", () => {
  it.each(["exact", "hoard"] as const)("are those of its walk: %s", caches => {
    const m = new Machine({}, undefined, caches)
    const [s1, s2] = [m.alloc(), m.alloc()]
    for (let page = RAM; page < RAM + 0x100_0000n; page += 0x20_0000n) {
      m.map(s2, { ...SHAPE_4K, leafLevel: 2 }, page, page | S2_BLOCK)
    }
    m.map(s1, SHAPE_4K, VA, IPA | S1_LEAF | INDEX | shared(NSH))
    m.map(s1, SHAPE_4K, VA + 0x1000n, (IPA + 0x1000n) | S1_LEAF | shared(OSH))
    m.map(s2, SHAPE_4K, IPA, PAGE | S2_LEAF | (0xan << 2n) | shared(ISH))
    m.map(s2, SHAPE_4K, IPA + 0x1000n, PAGE | S2_LEAF | (0xfn << 2n) | shared(ISH))
    const stage1 = { S1ContextPtr: m.cd({ ...plainCd(s1), ...mair(0xee) }) >> 6n }
    m.ste(1, { Config: 7n, ...stage1, ...plainStage2(s2) })
    m.ste(2, { Config: 6n, SHCFG: 2n, ...plainStage2(s2) })
    m.ste(3, { Config: 4n, SHCFG: 1n })
    for (let pass = 0; pass < 3; pass++) {
      expect(attributesOf(m, VA)).toBe(attribute(ISH, 0xaa))
      expect(attributesOf(m, VA + 0x1000n)).toBe(attribute(OSH, NGNRNE))
      expect(attributesOf(m, IPA, 2)).toBe(attribute(OSH, WT))
      expect(attributesOf(m, IPA, 3)).toBe(attribute(NSH, WB))
    }
  })
})

/** A CD of both ranges; leaf at VA of the lower, at UPPER of the upper one. */
class Contexts extends Machine {
  readonly root: bigint
  readonly upperRoot: bigint

  constructor(id: Partial<IdRegisters> = {}) {
    super(id)
    this.root = this.alloc()
    this.upperRoot = this.alloc()
  }

  use(cd: CdFields, ste: SteFields = {}): void {
    const both = { EPD1: 0n, T1SZ: 16n, TG1: 2n, TTB1: this.upperRoot >> 4n }
    const at = this.cd({ ...plainCd(this.root), ...both, ...cd })
    this.ste(1, { Config: 5n, S1ContextPtr: at >> 6n, ...ste })
  }

  reason(address: bigint, access = ACCESS_READ): string {
    const outcome: DmaOutcome = this.access(1, address, access)
    return outcome.ok ? "ok" : outcome.fault.reason
  }
}

describe("ranges of a CD", () => {
  const UPPER = 0xffff_8000_0000_0000n

  it("split the address space by bit 55, each with its own size, and nothing between", () => {
    const m = new Contexts()
    m.map(m.root, SHAPE_4K, 0n, PAGE | S1_PAGE)
    m.map(m.upperRoot, { ...SHAPE_4K, inputBits: 47 }, UPPER, (PAGE + 0x1000n) | S1_PAGE)
    m.use({ T1SZ: 17n })
    expect(m.access(1, 0x123n)).toMatchObject({ pa: PAGE + 0x123n })
    expect(m.access(1, UPPER + 5n)).toMatchObject({ pa: PAGE + 0x1005n })
    for (const hole of [0x1_0000_0000_0000n, 0xffff_7fff_ffff_f000n, 0x00ff_0000_0000_0000n]) {
      expect(m.reason(hole)).toBe("F_TRANSLATION")
    }
  })

  it("may have different granules", () => {
    const m = new Contexts()
    const root = m.alloc(0x1_0000n, 0x1_0000n)
    const shape = { granuleLg2: 16, inputBits: 42, startLevel: 2 }
    m.map(root, shape, 0x123_4567_0000n, (RAM + 0xf0_0000n) | S1_PAGE)
    m.map(m.root, SHAPE_4K, VA, PAGE | S1_PAGE)
    m.use({ TG1: 3n, T1SZ: 22n, TTB1: root >> 4n })
    expect(m.access(1, VA)).toMatchObject({ ok: true, stage1Size: 0x1000n })
    const upper = 0xffff_fc00_0000_0000n | 0x123_4567_89abn
    expect(m.access(1, upper)).toMatchObject({ pa: PAGE + 0x89abn, stage1Size: 0x1_0000n })
  })

  it("are closed by EPD, without a look at their tables", () => {
    const m = new Contexts()
    m.map(m.root, SHAPE_4K, VA, PAGE | S1_PAGE)
    m.map(m.upperRoot, SHAPE_4K, VA, PAGE | S1_PAGE)
    m.use({ EPD0: 1n, TTB0: 0xf_ffff_ffff_ffffn })
    expect([m.reason(VA), m.reason(0xffff_0000_0000_0000n | VA)]).toEqual(["F_TRANSLATION", "ok"])
    m.use({ EPD1: 1n })
    expect([m.reason(VA), m.reason(0xffff_0000_0000_0000n | VA)]).toEqual(["ok", "F_TRANSLATION"])
  })

  it("ignore the top byte by TBI, which the record keeps", () => {
    const m = new Contexts()
    m.map(m.root, SHAPE_4K, VA, PAGE | S1_PAGE)
    m.map(m.upperRoot, SHAPE_4K, UPPER, PAGE | S1_PAGE)
    const tagged = 0xab00_0000_0000_0000n | VA
    const upperTagged = 0x12ff_8000_0000_0000n
    m.use({})
    expect([m.reason(tagged), m.reason(upperTagged)]).toEqual(["F_TRANSLATION", "F_TRANSLATION"])
    m.use({ TBI0: 1n })
    expect([m.reason(tagged), m.reason(upperTagged)]).toEqual(["ok", "F_TRANSLATION"])
    m.use({ TBI1: 1n })
    expect([m.reason(tagged), m.reason(upperTagged)]).toEqual(["F_TRANSLATION", "ok"])
    expect(m.fault(1, tagged).record?.[2]).toBe(tagged)
    // Bits 55 to 48 count all the same.
    m.use({ TBI0: 1n })
    expect(m.reason(0xab40_0000_0000_0000n | VA)).toBe("F_TRANSLATION")
  })

  it("may be small with IDR3.STT: down to 16 address bits", () => {
    const m = new Contexts()
    // 64 - T0SZ = 16 bits: a level 3 table of 16 entries, DDI 0487 §D8.2.
    m.map(m.root, { granuleLg2: 12, inputBits: 16, startLevel: 3 }, 0xf000n, PAGE | S1_PAGE)
    m.use({ T0SZ: 48n })
    expect(m.access(1, 0xf123n)).toMatchObject({ pa: PAGE + 0x123n })
    expect(m.reason(0x1_0000n)).toBe("F_TRANSLATION")
    const without = new Contexts({ IDR3: EVERYTHING.IDR3 & ~(1 << 9) })
    without.use({ T0SZ: 40n })
    expect(without.reason(0n)).toBe("C_BAD_CD")
    without.use({ T0SZ: 39n })
    expect(without.reason(0n)).toBe("F_TRANSLATION")
  })

  it("keep unprivileged accesses out by E0PD", () => {
    const m = new Contexts()
    m.map(m.root, SHAPE_4K, VA, PAGE | S1_PAGE)
    m.map(m.upperRoot, SHAPE_4K, UPPER, PAGE | S1_PAGE)
    m.use({ E0PD0: 1n })
    expect([m.reason(VA), m.reason(UPPER)]).toEqual(["F_TRANSLATION", "ok"])
    expect(m.reason(VA, ACCESS_READ | ACCESS_PRIV)).toBe("ok")
    m.use({ E0PD1: 1n })
    expect([m.reason(VA), m.reason(UPPER)]).toEqual(["ok", "F_TRANSLATION"])
    const without = new Contexts({ IDR3: EVERYTHING.IDR3 & ~(1 << 13) })
    without.map(without.root, SHAPE_4K, VA, PAGE | S1_PAGE)
    without.use({ E0PD0: 1n })
    expect(without.reason(VA)).toBe("ok")
  })
})

describe("permissions by privilege and kind of access", () => {
  const USER = 0x40n
  const READ_ONLY = 0x80n
  const UXN = 1n << 54n
  const PXN = 1n << 53n
  const FETCH = ACCESS_READ | ACCESS_EXEC
  const PRIV = ACCESS_PRIV

  function machine(
    leaf: bigint,
    cd: CdFields = {},
    ste: SteFields = {},
    id: Partial<IdRegisters> = {},
  ): Contexts {
    const m = new Contexts(id)
    m.map(m.root, SHAPE_4K, VA, PAGE | leaf | 0x703n)
    m.use(cd, ste)
    return m
  }

  /** Which of read, write, fetch; then the same with privilege. */
  function rights(m: Contexts): string {
    return [ACCESS_READ, ACCESS_WRITE, FETCH, ACCESS_READ | PRIV, ACCESS_WRITE | PRIV, FETCH | PRIV]
      .map((access, i) => (m.reason(VA, access) === "ok" ? "rwxRWX"[i] : "-"))
      .join("")
  }

  /** DDI 0487 tables D8-63 and following: EL1&0, direct permissions. */
  it.each([
    ["privileged", 0n, "--xRWX"],
    ["all", USER, "rwxRW-"],
    ["privileged, read-only", READ_ONLY, "--xR-X"],
    ["all, read-only", USER | READ_ONLY, "r-xR-X"],
    ["all, no execution without privilege", USER | UXN, "rw-RW-"],
    ["read-only, privileged execution alone", USER | READ_ONLY | UXN, "r--R-X"],
    ["read-only, no privileged execution", USER | READ_ONLY | PXN, "r-xR--"],
    ["privileged, no execution", UXN | PXN, "---RW-"],
  ])("AP, UXN and PXN: %s", (_, leaf, wanted) => {
    expect(rights(machine(leaf))).toBe(wanted)
  })

  it("WXN takes execution from what can be written", () => {
    expect(rights(machine(USER, { WXN: 1n }))).toBe("rw-RW-")
    expect(rights(machine(0n, { WXN: 1n }))).toBe("--xRW-")
    expect(rights(machine(USER | READ_ONLY, { WXN: 1n }))).toBe("r-xR-X")
  })

  it("PAN hides unprivileged data from privileged accesses, EPAN also what is executable alone", () => {
    expect(rights(machine(USER | READ_ONLY, { PAN: 1n }))).toBe("r-x--X")
    expect(rights(machine(0n, { PAN: 1n }))).toBe("--xRWX")
    expect(rights(machine(0n, { PAN: 1n, EPAN: 1n }))).toBe("--x--X")
    expect(rights(machine(UXN, { PAN: 1n, EPAN: 1n }))).toBe("---RWX")
    const without = { IDR3: EVERYTHING.IDR3 & ~(1 << 17) }
    expect(rights(machine(0n, { PAN: 1n, EPAN: 1n }, {}, without))).toBe("--xRWX")
  })

  it("PRIVCFG and INSTCFG say what an access counts as; a write stays data", () => {
    expect(rights(machine(0n, {}, { PRIVCFG: 3n }))).toBe("rwxRWX")
    expect(rights(machine(0n, {}, { PRIVCFG: 2n }))).toBe("--x--X")
    expect(rights(machine(USER | UXN, {}, { INSTCFG: 2n }))).toBe("rwxRWX")
    expect(rights(machine(USER | UXN, {}, { INSTCFG: 3n }))).toBe("-w--W-")
  })

  it("EL2 has one privilege, and PAN does not count", () => {
    const el2 = { STRW: 2n }
    expect(rights(machine(0n, { EPD1: 1n, PAN: 1n }, el2))).toBe("rwxRWX")
    expect(rights(machine(UXN, { EPD1: 1n }, el2))).toBe("rw-RW-")
    expect(rights(machine(READ_ONLY, { EPD1: 1n }, el2))).toBe("r-xR-X")
  })

  it("stage 2 takes XN by privilege with IDR3.XNX, without it for all", () => {
    const reasons = (xn: bigint, id: Partial<IdRegisters>): string => {
      const m = new Machine(id)
      const root = m.alloc()
      m.map(root, SHAPE_4K, VA, PAGE | 0x7ffn | (xn << 53n))
      m.ste(1, { Config: 6n, ...plainStage2(root) })
      return [FETCH, FETCH | PRIV].map(a => (m.access(1, VA, a).ok ? "x" : "-")).join("")
    }
    // XN[1:0] = bits 54:53. DDI 0487 §D8.4.2.
    expect([0n, 1n, 2n, 3n].map(xn => reasons(xn, {}))).toEqual(["xx", "x-", "--", "-x"])
    const without = { IDR3: EVERYTHING.IDR3 & ~(1 << 4) }
    expect([0n, 1n, 2n, 3n].map(xn => reasons(xn, without))).toEqual(["xx", "xx", "--", "--"])
  })
})
