import { defineLayouts, defineMasks } from "@iommu/conformance"
import type { BitLayout, FieldSpecs, RegisterSpecs } from "@iommu/core"
import { describe, expect, it } from "vitest"
import * as cmd from "../src/spec/commands.ts"
import * as ste from "../src/spec/device-table.ts"
import * as ev from "../src/spec/events.ts"
import * as pt from "../src/spec/page-tables.ts"
import * as cd from "../src/spec/pasid-table.ts"
import * as reg from "../src/spec/registers.ts"
import * as positions from "./vectors/positions.ts"
import { REAL_WORDS } from "./vectors/real-words.ts"

const FILES = [cmd, ste, ev, pt, cd, reg]

defineLayouts({ describe, it }, FILES, [
  ...positions.STRUCTURES,
  ...positions.COMMANDS,
  ...positions.RECORDS,
  ...positions.DESCRIPTORS,
  ...positions.REGISTERS,
])
defineMasks({ describe, it }, FILES, [...positions.REGISTER_MASKS, ...positions.DESCRIPTOR_MASKS])

const REAL_LAYOUTS: Record<string, BitLayout<FieldSpecs>> = {
  STE: ste.STE,
  CD: cd.CD,
  F_TRANSLATION: ev.F_TRANSLATION,
  F_PERMISSION: ev.F_PERMISSION,
  C_BAD_STREAMID: ev.C_BAD_STREAMID,
}

describe("words that Linux and QEMU wrote", () => {
  it.each(REAL_WORDS.map(v => [v.what, v] as const))("%s", (_, { layout, words, fields }) => {
    const decoded = REAL_LAYOUTS[layout].decode(words)
    const set = Object.fromEntries(Object.entries(decoded).filter(([, value]) => value !== 0n))
    const wanted = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== 0n))
    expect(set).toMatchObject(wanted)
    expect(REAL_LAYOUTS[layout].encode(decoded)).toEqual(words)
  })
})

/** `[layout, field, 32-bit word, mask]`: what a mask in the hot files must be. */
type MaskCheck = readonly [layout: BitLayout<FieldSpecs>, field: string, word: number, mask: number]

const MASKS: readonly MaskCheck[] = [
  [ste.L1STD, "Span", 0, ste.L1STD_SPAN],
  [ste.L1STD, "L2Ptr", 0, ste.L1STD_L2PTR_LO],
  [ste.L1STD, "L2Ptr", 1, ste.L1STD_L2PTR_HI],
  [ste.STE, "V", 0, ste.V],
  [ste.STE, "Config", 0, ste.CONFIG],
  [ste.STE, "S1Fmt", 0, ste.S1FMT],
  [ste.STE, "S1ContextPtr", 0, ste.S1CONTEXTPTR_LO],
  [ste.STE, "S1ContextPtr", 1, ste.S1CONTEXTPTR_HI],
  [ste.STE, "S1CDMax", 1, ste.S1CDMAX],
  [ste.STE, "S1DSS", 2, ste.S1DSS],
  [ste.STE, "PPAR", 2, ste.PPAR],
  [ste.STE, "MEV", 2, ste.MEV],
  [ste.STE, "S2FWB", 2, ste.S2FWB],
  [ste.STE, "S1STALLD", 2, ste.S1STALLD],
  [ste.STE, "EATS", 2, ste.EATS],
  [ste.STE, "STRW", 2, ste.STRW],
  [ste.STE, "MemAttr", 3, ste.MEMATTR],
  [ste.STE, "MTCFG", 3, ste.MTCFG],
  [ste.STE, "ALLOCCFG", 3, ste.ALLOCCFG],
  [ste.STE, "SHCFG", 3, ste.SHCFG],
  [ste.STE, "PRIVCFG", 3, ste.PRIVCFG],
  [ste.STE, "INSTCFG", 3, ste.INSTCFG],
  [ste.STE, "S2VMID", 4, ste.S2VMID],
  [ste.STE, "S2T0SZ", 5, ste.S2T0SZ],
  [ste.STE, "S2SL0", 5, ste.S2SL0],
  [ste.STE, "S2SH0", 5, ste.S2SH0],
  [ste.STE, "S2TG", 5, ste.S2TG],
  [ste.STE, "S2PS", 5, ste.S2PS],
  [ste.STE, "S2AA64", 5, ste.S2AA64],
  [ste.STE, "S2ENDI", 5, ste.S2ENDI],
  [ste.STE, "S2AFFD", 5, ste.S2AFFD],
  [ste.STE, "S2PTW", 5, ste.S2PTW],
  [ste.STE, "S2HD", 5, ste.S2HD],
  [ste.STE, "S2HA", 5, ste.S2HA],
  [ste.STE, "S2S", 5, ste.S2S],
  [ste.STE, "S2R", 5, ste.S2R],
  [ste.STE, "S2SL0_2", 6, ste.S2SL0_2],
  [ste.STE, "S2DS", 6, ste.S2DS],
  [ste.STE, "S2TTB", 6, ste.S2TTB_LO],
  [ste.STE, "S2TTB", 7, ste.S2TTB_HI],
  [cd.L1CD, "V", 0, cd.L1CD_V],
  [cd.L1CD, "L2Ptr", 0, cd.L1CD_L2PTR_LO],
  [cd.L1CD, "L2Ptr", 1, cd.L1CD_L2PTR_HI],
  [cd.CD, "T0SZ", 0, cd.T0SZ],
  [cd.CD, "TG0", 0, cd.TG0],
  [cd.CD, "SH0", 0, cd.SH0],
  [cd.CD, "SH1", 0, cd.SH1],
  [cd.CD, "EPD0", 0, cd.EPD0],
  [cd.CD, "ENDI", 0, cd.ENDI],
  [cd.CD, "T1SZ", 0, cd.T1SZ],
  [cd.CD, "TG1", 0, cd.TG1],
  [cd.CD, "EPD1", 0, cd.EPD1],
  [cd.CD, "V", 0, cd.V],
  [cd.CD, "IPS", 1, cd.IPS],
  [cd.CD, "AFFD", 1, cd.AFFD],
  [cd.CD, "WXN", 1, cd.WXN],
  [cd.CD, "UWXN", 1, cd.UWXN],
  [cd.CD, "TBI0", 1, cd.TBI0],
  [cd.CD, "TBI1", 1, cd.TBI1],
  [cd.CD, "PAN", 1, cd.PAN],
  [cd.CD, "AA64", 1, cd.AA64],
  [cd.CD, "HD", 1, cd.HD],
  [cd.CD, "HA", 1, cd.HA],
  [cd.CD, "S", 1, cd.S],
  [cd.CD, "R", 1, cd.R],
  [cd.CD, "A", 1, cd.A],
  [cd.CD, "ASET", 1, cd.ASET],
  [cd.CD, "ASID", 1, cd.ASID],
  [cd.CD, "HAD0", 2, cd.HAD0],
  [cd.CD, "E0PD0", 2, cd.E0PD0],
  [cd.CD, "HAFT", 2, cd.HAFT],
  [cd.CD, "TTB0", 2, cd.TTB0_LO],
  [cd.CD, "TTB0", 3, cd.TTB0_HI],
  [cd.CD, "EPAN", 3, cd.EPAN],
  [cd.CD, "HAD1", 4, cd.HAD1],
  [cd.CD, "E0PD1", 4, cd.E0PD1],
  [cd.CD, "TTB1", 4, cd.TTB1_LO],
  [cd.CD, "TTB1", 5, cd.TTB1_HI],
  [cd.CD, "DS", 5, cd.DS],
  [cmd.CFGI_STE, "Opcode", 0, cmd.OPCODE],
  [cmd.CFGI_STE, "SSec", 0, cmd.SSEC],
  [cmd.CFGI_STE, "Leaf", 2, cmd.LEAF],
  [cmd.CFGI_STE_RANGE, "Range", 2, cmd.CFGI_RANGE],
  [cmd.ATC_INV, "SSV", 0, cmd.SSV],
  [cmd.ATC_INV, "Global", 0, cmd.ATC_INV_GLOBAL],
  [cmd.ATC_INV, "Size", 2, cmd.ATC_INV_SIZE],
  [cmd.ATC_INV, "Address", 2, cmd.ADDRESS_LO],
  [cmd.TLBI_NH_VA, "NUM", 0, cmd.TLBI_NUM],
  [cmd.TLBI_NH_VA, "SCALE", 0, cmd.TLBI_SCALE],
  [cmd.TLBI_NH_VA, "VMID", 1, cmd.TLBI_VMID],
  [cmd.TLBI_NH_VA, "TTL128", 2, cmd.TLBI_TTL128],
  [cmd.TLBI_NH_VA, "TTL", 2, cmd.TLBI_TTL],
  [cmd.TLBI_NH_VA, "TG", 2, cmd.TLBI_TG],
  [cmd.PRI_RESP, "Resp", 2, cmd.PRI_RESP_RESP],
  [cmd.RESUME, "Ac", 0, cmd.RESUME_AC_RETRY],
  [cmd.RESUME, "Ab", 0, cmd.RESUME_AB_ABORT],
  [cmd.SYNC, "CS", 0, cmd.SYNC_CS],
  [cmd.SYNC, "MSIAddress", 2, cmd.SYNC_MSIADDRESS_LO],
  [cmd.SYNC, "MSIAddress", 3, cmd.SYNC_MSIADDRESS_HI],
]

describe("masks of the hot files", () => {
  it.each(MASKS)("$name.%s in word %i", (layout, field, word, mask) => {
    const [msb, lsb] = layout.fields[field]
    let wanted = 0
    for (let bit = lsb; bit <= msb; bit++) if (bit >> 5 === word) wanted |= 1 << (bit & 31)
    expect(mask >>> 0).toBe(wanted >>> 0)
  })
})

describe("registers", () => {
  it("have the offsets that Linux uses, queues of page 1 at 0x10000", () => {
    const map: RegisterSpecs = reg.REGISTERS
    const offsets = Object.fromEntries(Object.entries(map).map(([name, [offset]]) => [name, offset]))
    expect(offsets).toMatchObject({
      IDR0: 0x0,
      IDR1: 0x4,
      IDR3: 0xc,
      IDR5: 0x14,
      IIDR: 0x18,
      CR0: 0x20,
      CR0ACK: 0x24,
      CR1: 0x28,
      CR2: 0x2c,
      GBPA: 0x44,
      IRQ_CTRL: 0x50,
      IRQ_CTRLACK: 0x54,
      GERROR: 0x60,
      GERRORN: 0x64,
      GERROR_IRQ_CFG0: 0x68,
      GERROR_IRQ_CFG1: 0x70,
      GERROR_IRQ_CFG2: 0x74,
      STRTAB_BASE: 0x80,
      STRTAB_BASE_CFG: 0x88,
      CMDQ_BASE: 0x90,
      CMDQ_PROD: 0x98,
      CMDQ_CONS: 0x9c,
      EVENTQ_BASE: 0xa0,
      EVENTQ_PROD: 0x100a8,
      EVENTQ_CONS: 0x100ac,
      EVENTQ_IRQ_CFG0: 0xb0,
      EVENTQ_IRQ_CFG1: 0xb8,
      EVENTQ_IRQ_CFG2: 0xbc,
      PRIQ_BASE: 0xc0,
      PRIQ_PROD: 0x100c8,
      PRIQ_CONS: 0x100cc,
      PRIQ_IRQ_CFG0: 0xd0,
    })
  })

  it("do not overlap", () => {
    const bytes = new Set<number>()
    for (const [offset, size] of Object.values(reg.REGISTERS)) {
      expect(offset % size).toBe(0)
      for (let byte = offset; byte < offset + size; byte++) {
        expect(bytes.has(byte)).toBe(false)
        bytes.add(byte)
      }
    }
  })
})

describe("numbers", () => {
  it("opcodes are those of Linux", () => {
    expect([...cmd.COMMANDS].map(([opcode, { name }]) => [name, opcode])).toEqual([
      ["CMD_PREFETCH_CONFIG", 0x01],
      ["CMD_PREFETCH_ADDR", 0x02],
      ["CMD_CFGI_STE", 0x03],
      ["CMD_CFGI_STE_RANGE", 0x04],
      ["CMD_CFGI_CD", 0x05],
      ["CMD_CFGI_CD_ALL", 0x06],
      ["CMD_CFGI_VMS_PIDM", 0x07],
      ["CMD_TLBI_NH_ALL", 0x10],
      ["CMD_TLBI_NH_ASID", 0x11],
      ["CMD_TLBI_NH_VA", 0x12],
      ["CMD_TLBI_NH_VAA", 0x13],
      ["CMD_TLBI_EL2_ALL", 0x20],
      ["CMD_TLBI_EL2_ASID", 0x21],
      ["CMD_TLBI_EL2_VA", 0x22],
      ["CMD_TLBI_EL2_VAA", 0x23],
      ["CMD_TLBI_S12_VMALL", 0x28],
      ["CMD_TLBI_S2_IPA", 0x2a],
      ["CMD_TLBI_NSNH_ALL", 0x30],
      ["CMD_ATC_INV", 0x40],
      ["CMD_PRI_RESP", 0x41],
      ["CMD_RESUME", 0x44],
      ["CMD_STALL_TERM", 0x45],
      ["CMD_SYNC", 0x46],
    ])
  })

  it("events are those of Linux and L4Re", () => {
    expect(ev.EVENTS).toEqual({
      F_UUT: 1,
      C_BAD_STREAMID: 2,
      F_STE_FETCH: 3,
      C_BAD_STE: 4,
      F_BAD_ATS_TREQ: 5,
      F_STREAM_DISABLED: 6,
      F_TRANSL_FORBIDDEN: 7,
      C_BAD_SUBSTREAMID: 8,
      F_CD_FETCH: 9,
      C_BAD_CD: 0xa,
      F_WALK_EABT: 0xb,
      F_TRANSLATION: 0x10,
      F_ADDR_SIZE: 0x11,
      F_ACCESS: 0x12,
      F_PERMISSION: 0x13,
      F_TLB_CONFLICT: 0x20,
      F_CFG_CONFLICT: 0x21,
      E_PAGE_REQUEST: 0x24,
      F_VMS_FETCH: 0x25,
    })
  })
})
