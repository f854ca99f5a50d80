import { ACCESS_EXEC, ACCESS_PRIV, ACCESS_READ, ACCESS_WRITE, type Invalidation } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { smmuv3Model } from "../src/index.ts"
import { EVERYTHING, QEMU_NESTED, QEMU_STAGE2 } from "../src/model/options.ts"
import * as cmd from "../src/spec/commands.ts"
import * as cd from "../src/spec/pasid-table.ts"
import * as reg from "../src/spec/registers.ts"
import { Machine, plainCd, plainStage2, RAM, S1_PAGE, S2_PAGE, SHAPE_4K } from "./model-machine.ts"

const VA = 0x12_3456_7000n
const PAGE = RAM + 0xf0_0000n

/** Stream 1: stage 1 with one page, read and write, unprivileged. */
function stage1Machine(id = EVERYTHING): Machine {
  const m = new Machine(id)
  const root = m.alloc()
  m.map(root, SHAPE_4K, VA, PAGE | S1_PAGE)
  m.ste(1, { Config: 5n, S1ContextPtr: m.cd(plainCd(root)) >> 6n })
  return m
}

/** IDR0, §6.3.1: STALL_MODEL in bits 25:24, 2 where stalls are forced; HTTU in bits 7:6, 1 for the Access flag alone. */
const FORCED_STALLS = { IDR0: (EVERYTHING.IDR0 & ~(3 << 24)) | (2 << 24) }
const ACCESS_FLAG_ALONE = { IDR0: (EVERYTHING.IDR0 & ~(3 << 6)) | (1 << 6) }

describe("registers", () => {
  it("identify what the options say, and do not change", () => {
    const m = new Machine(QEMU_NESTED)
    expect(m.read("IDR0")).toBe(0x0d44_101b)
    m.write("IDR0", 0)
    expect(m.read("IDR0")).toBe(0x0d44_101b)
    expect(m.read("AIDR")).toBe(1)
  })

  it("acknowledge CR0 and IRQ_CTRL, without reserved bits", () => {
    const m = new Machine(QEMU_NESTED)
    m.write("CR0", 0xffff_ffff)
    // No PRI, ATS or VMW: SMMUEN, EVENTQEN and CMDQEN are left.
    expect([m.read("CR0"), m.read("CR0ACK")]).toEqual([0xd, 0xd])
    m.write("IRQ_CTRL", 0xffff_ffff)
    expect([m.read("IRQ_CTRL"), m.read("IRQ_CTRLACK")]).toEqual([5, 5])
  })

  it("ignore writes while their guard holds", () => {
    const m = new Machine()
    m.write64("STRTAB_BASE", 0x1234_0000n)
    m.write64("CMDQ_BASE", 0x1234_0000n)
    m.write("CMDQ_CONS", 5)
    m.write("EVENTQ_PROD", 5)
    m.write("CR2", 0)
    expect(m.model.mmio.read64(reg.offsetOf("STRTAB_BASE"))).toBe(m.streamTable)
    expect(m.model.mmio.read64(reg.offsetOf("CMDQ_BASE"))).toBe(m.commandQueue | 8n)
    expect([m.read("CMDQ_CONS"), m.read("EVENTQ_PROD"), m.read("CR2")]).toEqual([0, 0, 2])
    m.write("CR0", 0)
    m.write("CMDQ_CONS", 5)
    m.write("EVENTQ_PROD", 0x8000_0005)
    expect([m.read("CMDQ_CONS"), m.read("EVENTQ_PROD")]).toEqual([5, 0x8000_0005])
  })

  it("take GBPA only with Update, and clear Update", () => {
    const m = new Machine()
    m.write("CR0", 0)
    m.write("GBPA", reg.GBPA_ABORT)
    expect(m.access(0, 0x1000n).ok).toBe(true)
    m.write("GBPA", reg.GBPA_UPDATE + reg.GBPA_ABORT)
    expect(m.read("GBPA")).toBe(reg.GBPA_ABORT)
    expect(m.fault(0, 0x1000n)).toMatchObject({ reason: "ABORT", code: 0, record: null })
  })

  it("answer 0 outside the map and to crooked offsets", () => {
    const { mmio } = smmuv3Model({ memory: new Machine().memory })
    for (const offset of [0x3c, 0x1000, 0x1_0000, 0x2_0000, -4, 1, 0.5, Number.NaN, 1e12]) {
      mmio.write32(offset, 0xffff_ffff)
      expect(mmio.read32(offset)).toBe(0)
    }
    expect(mmio.read64(0x84)).toBe(0n)
  })

  it("are restored as a dump has them, and name what is unknown", () => {
    const m = new Machine()
    const unknown = m.model.restoreRegisters({
      IDR0: 0x0d44_101bn,
      CR0: 0xdn,
      STRTAB_BASE: 1n << 62n,
      NOSUCH: 1n,
    })
    expect(unknown).toEqual(["NOSUCH"])
    expect([m.read("IDR0"), m.read("CR0"), m.read("CR0ACK")]).toEqual([0x0d44_101b, 0xd, 0xd])
    expect(m.model.mmio.read64(reg.offsetOf("STRTAB_BASE"))).toBe(1n << 62n)
  })
})

describe("streams", () => {
  it("bypass up to the output size while SMMUEN is 0, and record nothing", () => {
    const m = new Machine()
    m.write("CR0", reg.CR0_EVENTQEN)
    expect(m.access(7, 0xf_ffff_ffff_ffffn)).toMatchObject({ ok: true, pa: 0xf_ffff_ffff_ffffn })
    expect(m.fault(7, 1n << 52n).record).toBeNull()
    expect(m.read("EVENTQ_PROD")).toBe(0)
  })

  it("abort without record with Config 0 to 3", () => {
    const m = new Machine()
    for (const Config of [0n, 1n, 2n, 3n]) {
      m.ste(1, { Config })
      expect(m.fault(1, 0n)).toMatchObject({ reason: "ABORT", record: null })
    }
  })

  it("bypass with Config 4; beyond the output size that is F_ADDR_SIZE of stage 1", () => {
    const m = new Machine()
    m.ste(1, { Config: 4n })
    expect(m.access(1, 0x123n)).toMatchObject({ ok: true, pa: 0x123n, stage1Size: 0n, stage2Size: 0n })
    expect(m.fault(1, 1n << 52n)).toMatchObject({
      reason: "F_ADDR_SIZE",
      stage: 1,
      record: [0x1_0000_0011n, 0x208_0000_0000n, 1n << 52n, 0n],
    })
  })

  it("out of the table are C_BAD_STREAMID, recorded with RECINVSID alone", () => {
    const m = new Machine()
    expect(m.fault(256, 0n)).toMatchObject({
      reason: "C_BAD_STREAMID",
      record: [0x100_0000_0002n, 0n, 0n, 0n],
    })
    m.write("CR0", 0)
    m.write("CR2", 0)
    m.write("CR0", reg.CR0_SMMUEN | reg.CR0_EVENTQEN)
    expect(m.fault(256, 0n)).toMatchObject({ reason: "C_BAD_STREAMID", record: null })
  })

  it("with invalid or ILLEGAL STE are C_BAD_STE and say why", () => {
    const m = new Machine()
    m.ste(1, { V: 0n, Config: 4n })
    expect(m.fault(1, 0n)).toMatchObject({
      reason: "C_BAD_STE",
      record: [0x1_0000_0004n, 0n, 0n, 0n],
      stage: 0,
    })
    m.ste(1, { Config: 5n, S1CDMax: 21n })
    expect(m.fault(1, 0n).detail).toContain("S1CDMax")
    const root = m.alloc()
    const wrong: [string, object][] = [
      ["S2AA64", { S2AA64: 0n }],
      ["S2TG", { S2TG: 3n }],
      ["S2T0SZ", { S2T0SZ: 15n }],
      ["S2T0SZ", { S2T0SZ: 49n }],
      ["S2SL0", { S2SL0: 0n }],
      ["S2TTB", { S2PS: 0n, S2TTB: 0x1_0000_0000n >> 4n }],
    ]
    for (const [field, fields] of wrong) {
      m.ste(1, { Config: 6n, ...plainStage2(root), ...fields })
      expect(m.fault(1, 0n)).toMatchObject({ reason: "C_BAD_STE" })
      expect(m.fault(1, 0n).detail).toContain(field)
    }
  })

  it("need the stalls and the flag updates that IDR0 has", () => {
    const wrong: [string, object, Partial<typeof EVERYTHING>][] = [
      ["S2S is 0", {}, FORCED_STALLS],
      ["S2S is 1", { S2S: 1n, S2R: 0n }, QEMU_NESTED],
      ["S2HA or S2HD", { S2HA: 1n }, QEMU_NESTED],
      ["S2HD is 1", { S2HA: 1n, S2HD: 1n }, ACCESS_FLAG_ALONE],
    ]
    for (const [reason, fields, id] of wrong) {
      const m = new Machine(id)
      m.ste(1, { Config: 6n, ...plainStage2(m.alloc()), S2PS: 4n, ...fields })
      expect(m.fault(1, 0n)).toMatchObject({ reason: "C_BAD_STE" })
      expect(m.fault(1, 0n).detail).toContain(reason)
    }
  })

  it("need the endianness that IDR0 has", () => {
    for (const [ttendian, S2ENDI] of [
      [2, 1n],
      [3, 0n],
    ] as const) {
      const m = new Machine({ IDR0: EVERYTHING.IDR0 | (ttendian << 21) })
      m.ste(1, { Config: 6n, ...plainStage2(m.alloc()), S2ENDI })
      expect(m.fault(1, 0n).detail).toContain("S2ENDI")
    }
  })

  it("need the stages that IDR0 has", () => {
    const m = new Machine(QEMU_STAGE2)
    m.ste(1, { Config: 5n })
    expect(m.fault(1, 0n)).toMatchObject({ reason: "C_BAD_STE" })
    expect(m.fault(1, 0n).detail).toContain("S1P")
  })

  it("in two-level tables obey every SPLIT and Span", () => {
    for (const split of [6, 8, 10]) {
      const m = new Machine()
      const level1 = m.alloc()
      const level2 = m.alloc(0x1_0000n, 0x1_0000n)
      m.write("CR0", 0)
      m.write64("STRTAB_BASE", level1)
      m.write("STRTAB_BASE_CFG", (1 << 16) | (split << 6) | 12)
      m.write("CR0", reg.CR0_SMMUEN | reg.CR0_EVENTQEN)
      // The third L1STD has 2^(split-1) STEs, half of what it could.
      m.memory.write64(level1 + 16n, level2 | BigInt(split))
      const first = 2 << split
      const last = first + (1 << (split - 1)) - 1
      m.store(level2 + 64n * BigInt(last - first), [0x9n, 0n, 0n, 0n, 0n, 0n, 0n, 0n])
      expect(m.access(last, 0x5000n)).toMatchObject({ ok: true, pa: 0x5000n })
      expect(m.fault(last + 1, 0n).reason).toBe("C_BAD_STREAMID")
      expect(m.fault(0, 0n).reason).toBe("C_BAD_STREAMID")
      m.memory.write64(level1 + 16n, level2 | BigInt(split + 2))
      expect(m.fault(last, 0n).reason).toBe("C_BAD_STREAMID")
      m.memory.write64(level1 + 16n, 0x10_0000_0000n | BigInt(split + 1))
      expect(m.fault(last, 0n)).toMatchObject({
        reason: "F_STE_FETCH",
        record: [expect.anything(), 0n, 0n, 0x10_0000_0000n + 64n * BigInt(last - first)],
      })
    }
  })
})

describe("substreams", () => {
  function withCds(s1Fmt: bigint, s1CdMax: bigint, s1Dss: bigint): { m: Machine; table: bigint } {
    const m = new Machine()
    const table = m.alloc(0x1_0000n, 0x1_0000n)
    m.ste(1, { Config: 5n, S1Fmt: s1Fmt, S1ContextPtr: table >> 6n, S1CDMax: s1CdMax, S1DSS: s1Dss })
    return { m, table }
  }

  function mapped(m: Machine, page: bigint): bigint[] {
    const root = m.alloc()
    m.map(root, SHAPE_4K, VA, page | S1_PAGE)
    return cd.CD.encode(plainCd(root))
  }

  it("index a linear table", () => {
    const { m, table } = withCds(0n, 4n, 2n)
    m.store(table, mapped(m, PAGE))
    m.store(table + 15n * 64n, mapped(m, PAGE + 0x1000n))
    expect(m.access(1, VA)).toMatchObject({ ok: true, pa: PAGE })
    expect(m.access(1, VA, ACCESS_READ, 15)).toMatchObject({ ok: true, pa: PAGE + 0x1000n })
    expect(m.fault(1, VA, ACCESS_READ, 16)).toMatchObject({
      reason: "C_BAD_SUBSTREAMID",
      pasid: 16,
      record: [0x1_0001_0008n, 0n, 0n, 0n],
    })
    // CD 0 belongs to transactions without SubstreamID.
    expect(m.fault(1, VA, ACCESS_READ, 0)).toMatchObject({
      reason: "F_STREAM_DISABLED",
      record: [0x1_0000_0006n, 0n, 0n, 0n],
    })
    expect(m.fault(1, VA, ACCESS_READ, 3)).toMatchObject({
      reason: "C_BAD_CD",
      record: [0x1_0000_380an, 0n, 0n, 0n],
    })
  })

  it.each([
    [1n, 6],
    [2n, 10],
  ])("index two levels, S1Fmt %i", (fmt, leafLg2) => {
    const { m, table } = withCds(fmt, 16n, 0n)
    const leaf = m.alloc(1n << BigInt(leafLg2 + 6), 1n << BigInt(leafLg2 + 6))
    const pasid = (3 << leafLg2) + 5
    m.memory.write64(table + 24n, leaf | 1n)
    m.store(leaf + 5n * 64n, mapped(m, PAGE))
    expect(m.access(1, VA, ACCESS_READ, pasid)).toMatchObject({ ok: true, pa: PAGE })
    expect(m.fault(1, VA, ACCESS_READ, pasid - (1 << leafLg2)).reason).toBe("C_BAD_SUBSTREAMID")
    // Bits of S1ContextPtr below the table's size count as zero.
    const crooked = (1n << BigInt(16 - leafLg2 + 3)) - 64n
    m.ste(1, { Config: 5n, S1Fmt: fmt, S1ContextPtr: (table | crooked) >> 6n, S1CDMax: 16n })
    expect(m.access(1, VA, ACCESS_READ, pasid)).toMatchObject({ ok: true, pa: PAGE })
    m.memory.write64(table + 24n, (1n << 53n) | 1n)
    expect(m.fault(1, VA, ACCESS_READ, pasid).reason).toBe("C_BAD_SUBSTREAMID")
    m.memory.write64(table + 24n, 0x10_0000_0001n)
    expect(m.fault(1, VA, ACCESS_READ, pasid)).toMatchObject({
      reason: "F_CD_FETCH",
      record: [expect.anything(), 0n, 0n, 0x10_0000_0000n + 5n * 64n],
    })
  })

  it("decide about transactions without one by S1DSS", () => {
    for (const [dss, reason] of [
      [0n, "F_STREAM_DISABLED"],
      [3n, "F_STREAM_DISABLED"],
    ] as const) {
      const { m } = withCds(0n, 4n, dss)
      expect(m.fault(1, VA).reason).toBe(reason)
    }
    const { m } = withCds(0n, 4n, 1n)
    expect(m.access(1, VA)).toMatchObject({ ok: true, pa: VA, stage1Size: 0n })
    expect(m.fault(1, 1n << 52n)).toMatchObject({ reason: "F_ADDR_SIZE", stage: 1 })
  })

  it("are refused where stage 1 or substreams are off", () => {
    const m = new Machine()
    m.ste(1, { Config: 4n })
    expect(m.fault(1, 0n, ACCESS_READ, 0).reason).toBe("C_BAD_SUBSTREAMID")
    m.ste(1, { Config: 5n, S1ContextPtr: m.alloc() >> 6n })
    expect(m.fault(1, 0n, ACCESS_READ, 0).reason).toBe("C_BAD_SUBSTREAMID")
  })
})

describe("context descriptors", () => {
  it("are checked as §5.4.2 says, and say why", () => {
    const wrong: [string, object, Partial<typeof EVERYTHING>][] = [
      ["V is 0", { V: 0n }, {}],
      ["AA64", { AA64: 0n }, {}],
      ["T0SZ", { T0SZ: 15n }, {}],
      ["T0SZ", { T0SZ: 49n }, {}],
      ["T0SZ", { T0SZ: 40n }, { IDR3: 0x404 }],
      ["TG0", { TG0: 3n }, {}],
      ["TG0", { TG0: 1n }, { IDR5: 0x15 }],
      ["TTB0", { IPS: 0n, TTB0: 0x1_0000_0000n >> 4n }, {}],
      ["TTB0", { IPS: 6n, TTB0: (1n << 48n) >> 4n }, {}],
      ["T1SZ", { EPD1: 0n, T1SZ: 0n }, {}],
      ["TG1", { EPD1: 0n, T1SZ: 16n, TG1: 0n }, {}],
      ["ENDI", { ENDI: 1n }, { IDR0: EVERYTHING.IDR0 | (2 << 21) }],
      ["A is 0", { A: 0n }, QEMU_NESTED],
      ["S is 1", { S: 1n }, QEMU_NESTED],
      ["HA or HD", { HA: 1n }, QEMU_NESTED],
      ["S is 0", {}, FORCED_STALLS],
      ["HD is 1", { HA: 1n, HD: 1n }, ACCESS_FLAG_ALONE],
      ["ASID", { ASID: 0x100n }, { IDR0: EVERYTHING.IDR0 & ~(1 << 12) }],
    ]
    for (const [reason, fields, id] of wrong) {
      const m = new Machine(id)
      const at = m.cd({ ...plainCd(m.alloc()), IPS: 4n, ...fields })
      m.ste(1, { Config: 5n, S1ContextPtr: at >> 6n })
      const fault = m.fault(1, 0n)
      expect(fault).toMatchObject({ reason: "C_BAD_CD", record: [0x1_0000_000an, 0n, 0n, 0n], stage: 0 })
      expect(fault.detail).toContain(reason)
    }
  })

  it("are not checked where EPD disables a range", () => {
    const m = new Machine()
    const at = m.cd({ ...plainCd(m.alloc()), EPD0: 1n, T0SZ: 0n, TG0: 3n, TTB0: (1n << 52n) - 1n })
    m.ste(1, { Config: 5n, S1ContextPtr: at >> 6n })
    expect(m.fault(1, 0n)).toMatchObject({ reason: "F_TRANSLATION", stage: 1 })
  })

  it("suppress records without R, and change at once", () => {
    const m = stage1Machine()
    const at = m.cd({ ...plainCd(m.alloc()), R: 0n })
    m.ste(2, { Config: 5n, S1ContextPtr: at >> 6n })
    expect(m.fault(2, 0n)).toMatchObject({ reason: "F_TRANSLATION", record: null })
    m.cd({ ...plainCd(m.alloc()), R: 1n }, at)
    expect(m.fault(2, 0n).record).not.toBeNull()
  })

  it("of a stream without A read as zero", () => {
    const m = new Machine()
    m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(m.alloc()), A: 0n }) >> 6n })
    expect(m.fault(1, 0n).detail).toContain("reads as zero")
  })
})

describe("attributes of a transaction", () => {
  it("are recorded, with writes as data", () => {
    const m = stage1Machine()
    const of = (access: number): bigint => m.fault(1, 0x1000n, access).record?.[1] ?? 0n
    const base = 0x200_0000_0000n
    expect(of(ACCESS_READ)).toBe(base | (1n << 35n))
    expect(of(ACCESS_WRITE)).toBe(base)
    expect(of(ACCESS_READ | ACCESS_PRIV)).toBe(base | (1n << 35n) | (1n << 33n))
    expect(of(ACCESS_READ | ACCESS_EXEC)).toBe(base | (1n << 35n) | (1n << 34n))
    expect(of(ACCESS_WRITE | ACCESS_EXEC)).toBe(base)
  })

  it("are replaced by PRIVCFG and INSTCFG where IDR1 lets them", () => {
    const m = new Machine()
    const context = m.cd(plainCd(m.alloc())) >> 6n
    m.ste(1, { Config: 5n, S1ContextPtr: context, PRIVCFG: 3n, INSTCFG: 3n })
    expect(m.fault(1, 0n).record?.[1]).toBe(0x20e_0000_0000n)
    expect(m.fault(1, 0n, ACCESS_WRITE).record?.[1]).toBe(0x202_0000_0000n)
    m.ste(1, { Config: 5n, S1ContextPtr: context, PRIVCFG: 2n, INSTCFG: 2n })
    expect(m.fault(1, 0n, ACCESS_READ | ACCESS_EXEC | ACCESS_PRIV).record?.[1]).toBe(0x208_0000_0000n)
    const q = new Machine(QEMU_NESTED)
    q.ste(1, { Config: 5n, S1ContextPtr: q.cd({ ...plainCd(q.alloc()), IPS: 4n }) >> 6n, PRIVCFG: 3n })
    expect(q.fault(1, 0n).record?.[1]).toBe(0x208_0000_0000n)
  })
})

describe("event queue", () => {
  it("holds each record where PROD points, and wraps", () => {
    const m = stage1Machine()
    const records = Array.from({ length: 3 }, (_, i) => m.fault(1, BigInt(i) << 12n).record)
    expect(m.events()).toEqual(records)
    m.write("EVENTQ_CONS", 3)
    for (let i = 0; i < 125; i++) m.fault(1, 0n)
    expect(m.read("EVENTQ_PROD")).toBe(0x80)
  })

  it("loses records when full, with OVFLG toggled once until acknowledged", () => {
    const m = stage1Machine()
    for (let i = 0; i < 128; i++) m.fault(1, 0n)
    expect(m.read("EVENTQ_PROD")).toBe(0x80)
    const first = m.events()
    m.fault(1, 0x5000n)
    m.fault(1, 0x6000n)
    expect(m.read("EVENTQ_PROD")).toBe(0x8000_0080)
    expect(m.events()).toEqual(first)
    m.write("EVENTQ_CONS", 0x8000_0002)
    m.fault(1, 0x7000n)
    expect(m.read("EVENTQ_PROD")).toBe(0x8000_0081)
    m.fault(1, 0x8000n)
    m.fault(1, 0x9000n)
    expect(m.read("EVENTQ_PROD")).toBe(0x82)
  })

  it("records nothing while EVENTQEN is 0, and no overflow either", () => {
    const m = stage1Machine()
    m.write("CR0", reg.CR0_SMMUEN)
    expect(m.fault(1, 0n).record).toBeNull()
    expect(m.read("EVENTQ_PROD")).toBe(0)
  })

  it("without memory raises EVENTQ_ABT_ERR and stops until it is acknowledged", () => {
    const m = stage1Machine()
    m.write("CR0", 0)
    m.write64("EVENTQ_BASE", 0x1000_0000_0000n | 7n)
    m.write("CR0", reg.CR0_SMMUEN | reg.CR0_EVENTQEN)
    m.fault(1, 0n)
    expect(m.read("GERROR")).toBe(reg.GERROR_EVENTQ_ABT_ERR)
    expect(m.read("EVENTQ_PROD")).toBe(0)
    m.fault(1, 0n)
    expect(m.read("GERROR")).toBe(reg.GERROR_EVENTQ_ABT_ERR)
    m.write("GERRORN", reg.GERROR_EVENTQ_ABT_ERR)
    m.fault(1, 0n)
    expect(m.read("GERROR")).toBe(0)
  })

  it("sends its message when it stops being empty", () => {
    const m = stage1Machine()
    const sent: [bigint, number][] = []
    m.model.onInterrupt = (address, data) => sent.push([address, data])
    m.write64("EVENTQ_IRQ_CFG0", 0x8090_0040n)
    m.write("EVENTQ_IRQ_CFG1", 33)
    m.write("IRQ_CTRL", reg.IRQ_CTRL_EVENTQ_IRQEN)
    m.fault(1, 0n)
    m.fault(1, 0n)
    expect(sent).toEqual([[0x8090_0040n, 33]])
    m.write64("EVENTQ_IRQ_CFG0", 0x1000n)
    m.write("EVENTQ_CONS", 2)
    m.fault(1, 0n)
    expect(sent).toHaveLength(2)
    expect(sent[1]).toEqual([0x8090_0040n, 33])
  })
})

describe("stalls", () => {
  function stalling(): Machine {
    const m = new Machine()
    m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(m.alloc()), S: 1n, R: 0n }) >> 6n })
    return m
  }

  it("record Stall and a STAG of their own, whatever R says", () => {
    const m = stalling()
    const stag = (): bigint => m.fault(1, 0n).record?.[1] ?? 0n
    expect([stag(), stag()]).toEqual([0x208_8000_0000n, 0x208_8000_0001n])
    m.command(cmd.RESUME.encode({ Opcode: 0x44n, Ab: 1n, StreamID: 1n, STAG: 0n }))
    expect(stag()).toBe(0x208_8000_0000n)
    // Another stream's tag stays.
    m.command(cmd.RESUME.encode({ Opcode: 0x44n, StreamID: 2n, STAG: 0n }))
    expect(stag()).toBe(0x208_8000_0002n)
    m.command(cmd.STALL_TERM.encode({ Opcode: 0x45n, StreamID: 1n }))
    expect(stag()).toBe(0x208_8000_0000n)
  })

  it("end with SMMUEN", () => {
    const m = stalling()
    m.fault(1, 0n)
    m.write("CR0", reg.CR0_EVENTQEN)
    m.write("CR0", reg.CR0_SMMUEN | reg.CR0_EVENTQEN)
    expect(m.fault(1, 0n).record?.[1]).toBe(0x208_8000_0000n)
  })

  it("wait unrecorded, without overflow, when there is no room", () => {
    const m = stalling()
    for (let i = 0; i < 64; i++) m.fault(1, 0n)
    expect(m.fault(1, 0n)).toMatchObject({ reason: "F_TRANSLATION", record: null })
    m.command(cmd.STALL_TERM.encode({ Opcode: 0x45n, StreamID: 1n }))
    for (let i = 0; i < 64; i++) m.fault(1, 0n)
    m.command(cmd.STALL_TERM.encode({ Opcode: 0x45n, StreamID: 1n }))
    expect(m.fault(1, 0n).record).toBeNull()
    expect(m.read("EVENTQ_PROD")).toBe(0x80)
  })
})

describe("command queue", () => {
  const run = (id: Partial<typeof EVERYTHING>, words: readonly bigint[]): Machine => {
    const m = new Machine(id)
    m.command(words)
    return m
  }
  const error = (m: Machine): number => (m.read("CMDQ_CONS") >>> 24) & 0x7f

  it("consumes invalidations and reports them decoded", () => {
    const m = new Machine()
    const seen: Invalidation[] = []
    m.model.onInvalidate = invalidation => seen.push(invalidation)
    m.command(
      cmd.CFGI_STE.encode({ Opcode: 3n, StreamID: 0x123n, Leaf: 1n }),
      cmd.TLBI_NH_VA.encode({ Opcode: 0x12n, VMID: 1n, ASID: 2n, Leaf: 1n, Address: 0x1234n }),
      cmd.TLBI_NSNH_ALL.encode({ Opcode: 0x30n }),
      cmd.SYNC.encode({ Opcode: 0x46n }),
    )
    expect(m.read("CMDQ_CONS")).toBe(4)
    expect(seen.map(s => s.command)).toEqual(["CMD_CFGI_STE", "CMD_TLBI_NH_VA", "CMD_TLBI_NSNH_ALL"])
    expect(seen[0]?.fields).toMatchObject({ StreamID: 0x123n, Leaf: 1n })
    expect(seen[1]?.fields).toMatchObject({ VMID: 1n, ASID: 2n, Address: 0x1234n })
    expect(seen[2]?.words).toEqual([0x30n, 0n])
  })

  it.each([
    ["a Reserved opcode", EVERYTHING, [0x00n, 0n]],
    ["a Secure opcode", EVERYTHING, [0x60n, 0n]],
    ["an EL3 opcode", EVERYTHING, [0x18n, 0n]],
    ["SSec", EVERYTHING, [0x403n, 0n]],
    ["CMD_SYNC with CS 3", EVERYTHING, [0x3046n, 0n]],
    ["CMD_CFGI_CD without stage 1", QEMU_STAGE2, [0x05n, 0n]],
    ["CMD_TLBI_NH_ALL without stage 1", QEMU_STAGE2, [0x10n, 0n]],
    ["CMD_TLBI_S12_VMALL without stage 2", { IDR0: EVERYTHING.IDR0 & ~1 }, [0x28n, 0n]],
    ["CMD_TLBI_EL2_ALL without Hyp", QEMU_NESTED, [0x20n, 0n]],
    ["CMD_ATC_INV without ATS", QEMU_NESTED, [0x40n, 0n]],
    ["CMD_ATC_INV beyond everything", EVERYTHING, [0x40n, 53n]],
    ["CMD_PRI_RESP with response 3", EVERYTHING, [0x41n, 3n << 12n]],
    ["CMD_RESUME without stalls", QEMU_NESTED, [0x44n, 0n]],
    ["CMD_CFGI_VMS_PIDM without MPAM", EVERYTHING, [0x07n, 0n]],
    ["a granule without range or level", EVERYTHING, [0x12n, 1n << 10n]],
    ["a 16 KiB granule of level 1 without DS", QEMU_NESTED, [0x12n, (2n << 10n) | (1n << 8n)]],
  ] as const)("stops with CERROR_ILL at %s", (_, id, words) => {
    const m = run(id, words)
    expect([error(m), m.read("CMDQ_CONS") & 0xf_ffff, m.read("GERROR")]).toEqual([reg.CERROR_ILL, 0, 1])
  })

  it.each([
    ["a single page of the 4 KiB granule by level", [0x12n, (1n << 10n) | (3n << 8n)]],
    ["a range", [0x12n | (3n << 12n), 1n << 10n]],
    ["CMD_ATC_INV of everything", [0x40n, 52n]],
    ["CMD_CFGI_ALL", [0x04n, 31n]],
    ["prefetches", [0x01n, 0n]],
  ] as const)("takes %s", (_, words) => {
    const m = run(EVERYTHING, words)
    expect([m.read("CMDQ_CONS"), m.read("GERROR")]).toEqual([1, 0])
  })

  it("goes on behind a repaired command once the error is acknowledged", () => {
    const m = new Machine()
    m.command([0x30n, 0n], [0xffn, 0n], [0x30n, 0n])
    expect([error(m), m.read("CMDQ_CONS") & 0xf_ffff]).toEqual([reg.CERROR_ILL, 1])
    m.command([0x30n, 0n])
    expect(m.read("CMDQ_CONS") & 0xf_ffff).toBe(1)
    m.store(m.commandQueue + 16n, [0x46n, 0n])
    m.write("GERRORN", 1)
    expect([m.read("CMDQ_CONS"), m.read("GERROR")]).toEqual([4, 1])
  })

  it("without memory stops with CERROR_ABT", () => {
    const m = new Machine()
    m.write("CR0", 0)
    m.write64("CMDQ_BASE", 0x1000_0000_0000n | 8n)
    m.write("CR0", reg.CR0_CMDQEN)
    m.write("CMDQ_PROD", 1)
    expect([error(m), m.read("GERROR")]).toEqual([reg.CERROR_ABT, 1])
  })

  it("does nothing while disabled or while the indexes contradict each other", () => {
    const m = new Machine()
    m.write("CR0", 0)
    m.command([0x30n, 0n])
    expect(m.read("CMDQ_CONS")).toBe(0)
    m.write("CMDQ_PROD", 0x101)
    m.write("CR0", reg.CR0_CMDQEN)
    expect(m.read("CMDQ_CONS")).toBe(0)
    m.write("CMDQ_PROD", 1)
    expect(m.read("CMDQ_CONS")).toBe(1)
  })

  it("signals CMD_SYNC by a message into memory or to a doorbell, after consuming it", () => {
    const m = new Machine()
    const seen: [bigint, number, number][] = []
    m.model.onInterrupt = (address, data) => seen.push([address, data, m.read("CMDQ_CONS")])
    const flag = m.alloc()
    m.command(
      cmd.SYNC.encode({ Opcode: 0x46n, CS: 1n, MSIData: 0xdead_beefn, MSIAddress: flag >> 2n }),
      cmd.SYNC.encode({ Opcode: 0x46n, CS: 1n, MSIData: 5n, MSIAddress: 0x808_0040n >> 2n }),
      cmd.SYNC.encode({ Opcode: 0x46n, CS: 1n, MSIData: 6n }),
      cmd.SYNC.encode({ Opcode: 0x46n, CS: 2n, MSIData: 7n, MSIAddress: 0x808_0040n >> 2n }),
    )
    expect(m.memory.read64(flag)).toBe(0xdead_beefn)
    expect(seen).toEqual([
      [flag, 0xdead_beef, 1],
      [0x808_0040n, 5, 2],
    ])
    expect(m.read("CMDQ_CONS")).toBe(4)
  })

  it("wakes processors with SIG_SEV, after consuming it, and with nothing else", () => {
    const m = new Machine()
    const consumed: number[] = []
    m.model.onEvent = () => consumed.push(m.read("CMDQ_CONS"))
    expect(m.model.onEvent).not.toBeNull()
    const sync = (signal: bigint): bigint[] => [0x46n | (signal << 12n), 0n]
    m.command(sync(0n), sync(2n), sync(1n), sync(2n), [0x30n, 0n])
    expect(consumed).toEqual([2, 4])
  })

  it("wakes processors when it is full no longer, §4.1.2", () => {
    const m = new Machine()
    let events = 0
    m.model.onEvent = () => events++
    m.write("CR0", 0)
    for (let n = 0; n < 255; n++) m.command([0x30n, 0n])
    m.write("CR0", reg.CR0_CMDQEN)
    expect([m.read("CMDQ_CONS"), events]).toEqual([255, 0])
    m.write("CR0", 0)
    for (let n = 0; n < 256; n++) m.command([0x30n, 0n])
    expect(events).toBe(0)
    m.write("CR0", reg.CR0_CMDQEN)
    expect([m.read("CMDQ_CONS"), events]).toEqual([511, 1])
    // Full, and stuck: no command is consumed.
    m.write("CR0", 0)
    for (let n = 0; n < 256; n++) m.command([0xffn, 0n])
    m.write("CR0", reg.CR0_CMDQEN)
    expect([m.read("CMDQ_CONS") & 0xf_ffff, events]).toEqual([511, 1])
  })

  it("wakes nobody without IDR0.SEV, where SIG_SEV is no signal", () => {
    const m = new Machine({ IDR0: EVERYTHING.IDR0 & ~(1 << 14) })
    let events = 0
    m.model.onEvent = () => events++
    m.command([0x46n | (2n << 12n), 0n])
    expect([m.read("CMDQ_CONS"), m.read("GERROR"), events]).toEqual([1, 0, 0])
  })

  it("signals its error by the GERROR message", () => {
    const m = new Machine()
    const seen: [bigint, number][] = []
    m.model.onInterrupt = (address, data) => seen.push([address, data])
    m.write64("GERROR_IRQ_CFG0", 0x808_0040n)
    m.write("GERROR_IRQ_CFG1", 9)
    m.write("IRQ_CTRL", reg.IRQ_CTRL_GERROR_IRQEN)
    m.command([0xffn, 0n])
    expect(seen).toEqual([[0x808_0040n, 9]])
  })
})

describe("trace", () => {
  it("tells every read of a nested translation in order", () => {
    const m = new Machine()
    const s2 = m.alloc()
    const s1 = m.alloc()
    m.map(s1, SHAPE_4K, VA, PAGE | S1_PAGE)
    const context = m.cd(plainCd(s1))
    for (let page = RAM; page < RAM + 0x100_0000n; page += 0x1000n) m.map(s2, SHAPE_4K, page, page | S2_PAGE)
    m.ste(1, { Config: 7n, S1ContextPtr: context >> 6n, ...plainStage2(s2) })
    const steps: string[] = []
    m.model.trace = step => steps.push(`${step.stage} ${step.what}: ${step.meaning}`)
    expect(m.access(1, VA)).toMatchObject({ ok: true, pa: PAGE })
    m.model.trace = null
    const count = (prefix: string): number => steps.filter(s => s.startsWith(prefix)).length
    expect([count("0 STE"), count("0 CD"), count("1 "), count("2 ")]).toEqual([1, 1, 4, 24])
    expect(steps[0]).toContain("stage 1 and 2")
    expect(steps.at(-1)).toBe(`2 level 3 descriptor: 4 KiB page at 0x${PAGE.toString(16)}, read, write`)
    expect(m.access(1, VA).ok).toBe(true)
    expect(steps).toHaveLength(30)
  })

  /** "what: meaning" of each step of an access. */
  function told(m: Machine, address: bigint, stream = 1, pasid?: number): string[] {
    const steps: string[] = []
    m.model.trace = step => steps.push(`${step.what} ${step.index}: ${step.meaning}`)
    m.access(stream, address, ACCESS_READ, pasid)
    m.model.trace = null
    return steps
  }

  it("tells first levels of Stream tables and CD tables", () => {
    const m = new Machine()
    const [level1, level2, cds, leaf] = [m.alloc(), m.alloc(), m.alloc(), m.alloc()]
    m.write("CR0", 0)
    m.write64("STRTAB_BASE", level1)
    m.write("STRTAB_BASE_CFG", (1 << 16) | (6 << 6) | 8)
    m.write("CR0", reg.CR0_SMMUEN)
    expect(told(m, VA, 65)).toEqual(["L1STD 1: no Stream table entries"])
    m.memory.write64(level1 + 8n, level2 | 3n)
    const at = level2.toString(16)
    expect(told(m, VA, 65)).toEqual([`L1STD 1: 4 Stream table entries at 0x${at}`, "STE 1: not valid"])
    // V, Config 5, S1Fmt 1, S1CDMax 7.
    m.store(level2 + 64n, [cds | 0x1bn | (7n << 59n), 2n, 0n, 0n])
    const told1 = told(m, VA, 65, 65)
    expect(told1.slice(1)).toEqual([`STE 1: stage 1, CDs at 0x${cds.toString(16)}`, "L1CD 1: not valid"])
    m.memory.write64(cds + 8n, leaf | 1n)
    expect(told(m, VA, 65, 65).slice(2)).toEqual([`L1CD 1: CDs at 0x${leaf.toString(16)}`, "CD 1: not valid"])
  })

  it("tells what every kind of descriptor says", () => {
    const m = new Machine()
    const root = m.alloc()
    m.ste(1, { Config: 5n, S1ContextPtr: m.cd(plainCd(root)) >> 6n })
    const last = (): string | undefined => told(m, VA).at(-1)
    m.map(root, SHAPE_4K, VA, 0n)
    expect(last()).toBe("level 3 descriptor 359: not valid")
    m.map(root, SHAPE_4K, VA, PAGE | 0x741n)
    expect(last()).toBe("level 3 descriptor 359: Reserved at this level")
    m.map(root, SHAPE_4K, VA, PAGE | 0x383n | (3n << 51n))
    expect(last()).toContain(
      "4 KiB page at 0x40f00000, read-only, privileged, Access flag clear, DBM, contiguous",
    )
    m.map(root, { ...SHAPE_4K, leafLevel: 2 }, VA, 0x4020_0000n | 0x741n)
    expect(last()).toBe("level 2 descriptor 418: 2 MiB block at 0x40200000, read, write")
    m.ste(1, { Config: 6n, ...plainStage2(root) })
    const stage2 = ["no access", "read-only", "write-only", "read, write"]
    for (const [access, text] of stage2.entries()) {
      m.map(root, { ...SHAPE_4K, leafLevel: 2 }, VA, 0x4020_0000n | 0x73dn | (BigInt(access) << 6n))
      expect(last()).toBe(`level 2 descriptor 418: 2 MiB block at 0x40200000, ${text}`)
    }
  })

  it("and the other listeners can be asked for", () => {
    const { model } = new Machine()
    const listener = (): void => {}
    model.trace = listener
    model.onInvalidate = listener
    model.onInterrupt = listener
    model.onRelease = listener
    expect([model.trace, model.onInvalidate, model.onInterrupt, model.onRelease]).toEqual(
      new Array(4).fill(listener),
    )
  })
})
