/**
 * Address sizes: what exceeds them gives the book's event, never another address. Arm IHI 0070 G.b §3.4, §5.2, §5.4,
 * §6.3.6; DDI 0487 §D8.2. A page beyond the memory of the machine is never read, so any address can be one.
 */
import { ACCESS_READ, createMemory } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { smmuv3Model } from "../src/index.ts"
import { EVERYTHING, type IdRegisters } from "../src/model/options.ts"
import * as reg from "../src/spec/registers.ts"
import {
  Machine,
  type MapShape,
  plainCd,
  plainStage2,
  RAM,
  S1_BLOCK,
  S1_PAGE,
  S2_BLOCK,
  S2_PAGE,
  SHAPE_4K,
} from "./model-machine.ts"

const VA = 0x2_3456_7000n
const BITS = [32, 36, 40, 42, 44, 48, 52]
/** IDR5 with all granules, DS and VAX, as oas says. */
const idr5 = (oas: number): Partial<IdRegisters> => ({ IDR5: (EVERYTHING.IDR5 & ~7) | oas })
/** The last page below 2^bits, and the first beyond. */
const lastPage = (bits: number): bigint => (1n << BigInt(bits)) - 0x1000n

function reason(m: Machine, address: bigint): string {
  const outcome = m.access(1, address)
  return outcome.ok ? "ok" : outcome.fault.reason
}

describe("IDR5.OAS", () => {
  const sizes = BITS.map((bits, oas) => [oas, bits] as const)

  it.each(sizes)("%i: %i bits limit a disabled SMMU and a bypassed stream", (oas, bits) => {
    const m = new Machine(idr5(oas))
    m.ste(1, { Config: 4n })
    for (const enabled of [true, false]) {
      m.write("CR0", enabled ? reg.CR0_SMMUEN | reg.CR0_EVENTQEN : reg.CR0_EVENTQEN)
      expect(m.access(1, lastPage(bits))).toMatchObject({ ok: true, pa: lastPage(bits) })
      const fault = m.fault(1, 1n << BigInt(bits))
      expect(fault.reason).toBe(enabled ? "F_ADDR_SIZE" : "ABORT")
      expect(fault.record === null).toBe(!enabled)
    }
    expect(m.fault(1, 1n << 63n).reason).toBe("ABORT")
  })

  it.each(sizes)("%i caps CD.IPS and STE.S2PS to %i bits", (oas, bits) => {
    for (const size of BITS.keys()) {
      // Without DS 4 KiB pages reach 48 bits, whatever IPS says.
      const reach = Math.min(bits, BITS[size] as number, 48)
      const m = new Machine(idr5(oas))
      const [s1, s2] = [m.alloc(), m.alloc()]
      m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(s1), IPS: BigInt(size) }) >> 6n })
      const iasBits = Math.min(bits, 48)
      const startLevel = iasBits > 39 ? 0 : 1
      const shape: MapShape = { granuleLg2: 12, inputBits: iasBits, startLevel }
      const S2SL0 = BigInt(2 - startLevel)
      m.ste(2, { Config: 6n, ...plainStage2(s2), S2T0SZ: BigInt(64 - iasBits), S2SL0, S2PS: BigInt(size) })
      m.map(s1, SHAPE_4K, VA, lastPage(reach) | S1_PAGE)
      m.map(s2, shape, 0x1234_5000n, lastPage(reach) | S2_PAGE)
      expect(m.access(1, VA)).toMatchObject({ ok: true, pa: lastPage(reach) })
      expect(m.access(2, 0x1234_5000n)).toMatchObject({ ok: true, pa: lastPage(reach) })
      if (reach === 48) continue
      m.map(s1, SHAPE_4K, VA, (1n << BigInt(reach)) | S1_PAGE)
      m.map(s2, shape, 0x1234_5000n, (1n << BigInt(reach)) | S2_PAGE)
      expect(m.fault(1, VA)).toMatchObject({ reason: "F_ADDR_SIZE", stage: 1 })
      expect(m.fault(2, 0x1234_5000n)).toMatchObject({ reason: "F_ADDR_SIZE", stage: 2 })
    }
  })

  it.each(sizes)("%i: tables beyond %i bits are refused before they are read", (oas, bits) => {
    const m = new Machine(idr5(oas))
    const beyond = 1n << BigInt(bits)
    const root = m.alloc()
    if (bits < 52) {
      m.ste(1, { Config: 5n, S1ContextPtr: m.cd(plainCd(beyond)) >> 6n })
      expect(reason(m, VA)).toBe("C_BAD_CD")
      m.ste(1, { Config: 6n, ...plainStage2(beyond), S2T0SZ: 32n, S2SL0: 1n })
      expect(reason(m, 0n)).toBe("C_BAD_STE")
    }
    if (bits < 48) {
      m.ste(1, { Config: 5n, S1ContextPtr: m.cd(plainCd(root)) >> 6n })
      m.map(root, { ...SHAPE_4K, leafLevel: 0 }, VA, beyond | 3n)
      expect(m.fault(1, VA)).toMatchObject({ reason: "F_ADDR_SIZE", stage: 1 })
    }
    m.ste(1, { Config: 5n, S1ContextPtr: beyond >> 6n })
    expect(reason(m, VA)).toBe("C_BAD_STE")
  })

  it("of 56 bits is 52 for VMSAv8-64, and 48 in SMMUv3.0", () => {
    const wide = new Machine({ ...idr5(7) })
    wide.ste(1, { Config: 4n })
    expect([reason(wide, lastPage(52)), reason(wide, 1n << 52n)]).toEqual(["ok", "F_ADDR_SIZE"])
    const old = new Machine({ ...idr5(6), AIDR: 0 })
    old.ste(1, { Config: 4n })
    expect([reason(old, lastPage(48)), reason(old, 1n << 48n)]).toEqual(["ok", "F_ADDR_SIZE"])
  })

  it("limits the Stream table, and truncates queues and messages", () => {
    const m = new Machine(idr5(0))
    m.write("CR0", 0)
    m.write64("STRTAB_BASE", m.streamTable | (1n << 32n))
    m.write64("CMDQ_BASE", m.commandQueue | 8n | (1n << 40n))
    m.write64("EVENTQ_BASE", m.eventQueue | 7n | (1n << 44n))
    m.write("CR0", reg.CR0_SMMUEN | reg.CR0_EVENTQEN | reg.CR0_CMDQEN)
    expect(m.fault(1, 0n)).toMatchObject({
      reason: "F_STE_FETCH",
      record: [0x1_0000_0003n, 0n, 0n, m.streamTable + 64n + (1n << 32n)],
    })
    expect(m.events()).toHaveLength(1)
    const flag = m.alloc()
    m.command([0x46n | (1n << 12n) | (9n << 32n), flag | (1n << 45n)])
    expect(m.memory.read64(flag)).toBe(9n)
  })
})

describe("IAS", () => {
  it("limits what stage 2 alone takes: a recorded Address Size fault of stage 1, then S2T0SZ", () => {
    const m = new Machine(idr5(2))
    m.ste(1, { Config: 6n, ...plainStage2(m.alloc()), S2T0SZ: 28n, S2SL0: 1n })
    expect(m.fault(1, 1n << 40n)).toMatchObject({
      reason: "F_ADDR_SIZE",
      stage: 1,
      record: [0x1_0000_0011n, 0x208_0000_0000n, 1n << 40n, 0n],
    })
    expect(m.fault(1, 1n << 36n)).toMatchObject({ reason: "F_TRANSLATION", stage: 2 })
  })

  it("is 40 bits at least where VMSAv8-32 is implemented", () => {
    const m = new Machine({ ...idr5(0), IDR0: EVERYTHING.IDR0 | 4 })
    const root = m.alloc(0x2000n, 0x2000n)
    const shape = { granuleLg2: 12, inputBits: 40, startLevel: 1 }
    m.map(root, shape, lastPage(40), RAM | S2_PAGE)
    m.ste(1, { Config: 6n, ...plainStage2(root), S2T0SZ: 24n, S2SL0: 1n })
    expect(m.access(1, lastPage(40))).toMatchObject({ ok: true, pa: RAM })
    expect(m.fault(1, 1n << 40n)).toMatchObject({ reason: "F_ADDR_SIZE", stage: 1 })
  })
})

describe("VAX", () => {
  const wide = (shape: object): Partial<IdRegisters> => ({ ...EVERYTHING, ...shape })

  it.each([
    ["64 KiB", { TG0: 1n, T0SZ: 12n }, { granuleLg2: 16, inputBits: 52, startLevel: 1 }],
    ["4 KiB with DS", { TG0: 0n, T0SZ: 12n, DS: 1n }, { granuleLg2: 12, inputBits: 52, startLevel: -1 }],
    ["16 KiB with DS", { TG0: 2n, T0SZ: 12n, DS: 1n }, { granuleLg2: 14, inputBits: 52, startLevel: 0 }],
  ] as const)("gives 52-bit input to %s", (_, fields, shape) => {
    const m = new Machine()
    const root = m.alloc(1n << BigInt(shape.granuleLg2), 1n << BigInt(shape.granuleLg2))
    const address = lastPage(52) & -(1n << BigInt(shape.granuleLg2))
    m.map(root, shape, address, RAM | 0x443n)
    m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(root), IPS: 6n, ...fields }) >> 6n })
    expect(m.access(1, address)).toMatchObject({ ok: true, pa: RAM })
    expect(reason(m, 1n << 52n)).toBe("F_TRANSLATION")
    const without = new Machine(wide({ IDR5: EVERYTHING.IDR5 & ~0xc00 }))
    without.ste(1, { Config: 5n, S1ContextPtr: without.cd({ ...plainCd(RAM), IPS: 6n, ...fields }) >> 6n })
    expect(reason(without, 0n)).toBe("C_BAD_CD")
  })

  it("gives 48 bits to 4 KiB and 16 KiB without DS", () => {
    for (const TG0 of [0n, 2n]) {
      const m = new Machine()
      m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(RAM), TG0, T0SZ: 15n }) >> 6n })
      expect(reason(m, 0n)).toBe("C_BAD_CD")
    }
  })
})

describe("DS", () => {
  it("holds 52-bit outputs of 4 KiB and 16 KiB granules, bits 51:50 in 9:8", () => {
    for (const [TG0, granuleLg2] of [
      [0n, 12],
      [2n, 14],
    ] as const) {
      const m = new Machine()
      const size = 1n << BigInt(granuleLg2)
      const root = m.alloc(size, size)
      const shape = { granuleLg2, inputBits: 48, startLevel: granuleLg2 === 12 ? 0 : 1 }
      const fields = { ...plainCd(root), TG0, IPS: 6n, DS: 1n, T0SZ: granuleLg2 === 12 ? 16n : 17n }
      const shapeDs = { ...shape, inputBits: granuleLg2 === 12 ? 48 : 47 }
      const page = ((1n << 52n) - 1n) & -size
      const leaf = (page & ((1n << 50n) - 1n)) | 0x700n | 0x43n
      m.map(root, shapeDs, VA & -size, leaf)
      m.ste(1, { Config: 5n, S1ContextPtr: m.cd(fields) >> 6n })
      expect(m.access(1, VA & -size)).toMatchObject({ ok: true, pa: page })
      m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...fields, IPS: 5n }) >> 6n })
      expect(reason(m, VA & -size)).toBe("F_ADDR_SIZE")
    }
  })

  it("does not count where IDR5.DS is 0: bits 9:8 are shareability", () => {
    const m = new Machine({ IDR5: EVERYTHING.IDR5 & ~0x80 })
    const root = m.alloc()
    m.map(root, SHAPE_4K, VA, RAM | S1_PAGE)
    m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(root), IPS: 6n, DS: 1n }) >> 6n })
    expect(m.access(1, VA)).toMatchObject({ ok: true, pa: RAM })
    m.ste(1, { Config: 6n, ...plainStage2(root), S2PS: 6n, S2DS: 1n, S2T0SZ: 12n })
    expect(reason(m, VA)).toBe("C_BAD_STE")
  })
})

describe("the 64 KiB granule", () => {
  it("holds bits 51:48 in 15:12 with a 52-bit OAS, and nowhere with a smaller one", () => {
    const shape = { granuleLg2: 16, inputBits: 48, startLevel: 1 }
    for (const [oas, pa] of [
      [6, 0xf_0000_4567_0000n],
      [5, 0x4567_0000n],
    ] as const) {
      const m = new Machine(idr5(oas))
      const root = m.alloc(0x1_0000n, 0x1_0000n)
      m.map(root, shape, 0x1234_0000n, 0x4567_f743n)
      const context = m.cd({ ...plainCd(root), TG0: 1n, IPS: 6n })
      m.ste(1, { Config: 5n, S1ContextPtr: context >> 6n })
      expect(m.access(1, 0x1234_0000n)).toMatchObject({ ok: true, pa })
      if (oas !== 6) continue
      m.cd({ ...plainCd(root), TG0: 1n, IPS: 5n }, context)
      expect(reason(m, 0x1234_0000n)).toBe("F_ADDR_SIZE")
    }
  })
})

describe("granules", () => {
  it.each([
    ["4 KiB", 0n, 0x60],
    ["16 KiB", 2n, 0x50],
    ["64 KiB", 1n, 0x30],
  ])("%s is refused where IDR5 does not have it", (_, tg, granules) => {
    const m = new Machine({ IDR5: (EVERYTHING.IDR5 & ~0x70) | granules })
    m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(RAM), TG0: tg, T0SZ: 24n }) >> 6n })
    expect(m.fault(1, 0n)).toMatchObject({ reason: "C_BAD_CD" })
    m.ste(1, { Config: 6n, ...plainStage2(RAM), S2TG: tg, S2T0SZ: 24n, S2SL0: 1n })
    expect(m.fault(1, 0n)).toMatchObject({ reason: "C_BAD_STE" })
  })

  it("have blocks of their own sizes, and larger ones with 52 bits alone", () => {
    /** [granule, level, input bits, start level, DS], block allowed. */
    const cases: [MapShape, object, boolean][] = [
      [{ ...SHAPE_4K, leafLevel: 1 }, {}, true],
      [{ ...SHAPE_4K, leafLevel: 0 }, {}, false],
      [{ ...SHAPE_4K, leafLevel: 0 }, { DS: 1n, IPS: 6n }, true],
      [{ granuleLg2: 14, inputBits: 47, startLevel: 1, leafLevel: 2 }, { TG0: 2n, T0SZ: 17n }, true],
      [{ granuleLg2: 14, inputBits: 47, startLevel: 1, leafLevel: 1 }, { TG0: 2n, T0SZ: 17n }, false],
      [
        { granuleLg2: 14, inputBits: 47, startLevel: 1, leafLevel: 1 },
        { TG0: 2n, T0SZ: 17n, DS: 1n, IPS: 6n },
        true,
      ],
      [{ granuleLg2: 16, inputBits: 48, startLevel: 1, leafLevel: 2 }, { TG0: 1n }, true],
      [{ granuleLg2: 16, inputBits: 48, startLevel: 1, leafLevel: 1 }, { TG0: 1n }, true],
    ]
    for (const [shape, fields, allowed] of cases) {
      const m = new Machine()
      const root = m.alloc(0x1_0000n, 0x1_0000n)
      m.map(root, shape, 0n, S1_BLOCK & ~0x300n)
      m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(root), ...fields }) >> 6n })
      expect([shape, fields, reason(m, 0x123n)]).toEqual([shape, fields, allowed ? "ok" : "F_TRANSLATION"])
    }
    const narrow = new Machine(idr5(5))
    const root = narrow.alloc(0x1_0000n, 0x1_0000n)
    narrow.map(root, { granuleLg2: 16, inputBits: 48, startLevel: 1, leafLevel: 1 }, 0n, S1_BLOCK)
    narrow.ste(1, { Config: 5n, S1ContextPtr: narrow.cd({ ...plainCd(root), TG0: 1n }) >> 6n })
    expect(reason(narrow, 0n)).toBe("F_TRANSLATION")
  })
})

describe("two stages", () => {
  it("refuse an IPA beyond what stage 2 takes as stage 2's fault, and beyond IPS as stage 1's", () => {
    const m = new Machine()
    const [s1, s2] = [m.alloc(), m.alloc()]
    for (let page = RAM; page < RAM + 0x100_0000n; page += 0x20_0000n) {
      m.map(s2, { granuleLg2: 12, inputBits: 39, startLevel: 1, leafLevel: 2 }, page, page | S2_BLOCK)
    }
    const stage2 = { ...plainStage2(s2), S2T0SZ: 25n, S2SL0: 1n }
    m.map(s1, SHAPE_4K, VA, (1n << 39n) | S1_PAGE)
    m.ste(1, { Config: 7n, S1ContextPtr: m.cd(plainCd(s1)) >> 6n, ...stage2 })
    expect(m.fault(1, VA)).toMatchObject({
      reason: "F_TRANSLATION",
      stage: 2,
      record: [0x1_0000_0010n, 0x288_0000_0000n, VA, 1n << 39n],
    })
    m.ste(1, { Config: 7n, S1ContextPtr: m.cd({ ...plainCd(s1), IPS: 1n }) >> 6n, ...stage2 })
    expect(m.fault(1, VA)).toMatchObject({ reason: "F_ADDR_SIZE", stage: 1 })
  })
})

it("no register makes the model reach beyond its memory", () => {
  const memory = createMemory([{ base: 0, size: 0x1000 }])
  const model = smmuv3Model({ memory })
  model.restoreRegisters({ CR0: 0xdn, STRTAB_BASE: (1n << 56n) - 64n, STRTAB_BASE_CFG: 0x3fn })
  expect(model.translate(0xffff_ffff, -1, 0, 0, ACCESS_READ)).toBe(1)
  expect(model.result.fault?.reason).toBe("F_STE_FETCH")
})
