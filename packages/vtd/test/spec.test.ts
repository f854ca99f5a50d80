import { defineLayouts, defineMasks } from "@iommu/conformance"
import type { BitLayout, FieldSpecs, RegisterSpecs } from "@iommu/core"
import { describe, expect, it } from "vitest"
import * as cmd from "../src/spec/commands.ts"
import * as ctx from "../src/spec/device-table.ts"
import * as events from "../src/spec/events.ts"
import * as pages from "../src/spec/page-tables.ts"
import * as pt from "../src/spec/pasid-table.ts"
import * as reg from "../src/spec/registers.ts"
import { DESCRIPTOR_VECTORS } from "./vectors/descriptors.ts"
import {
  DESCRIPTORS,
  MASKS,
  REASON_VECTORS,
  REGISTER_VECTORS,
  REGISTERS,
  STRUCTURES,
} from "./vectors/layouts.ts"

const FILES = [cmd, ctx, events, pages, pt, reg]
defineLayouts({ describe, it }, FILES, [...STRUCTURES, ...DESCRIPTORS, ...REGISTERS])
defineMasks({ describe, it }, FILES, MASKS)

const LAYOUTS = new Map<string, BitLayout<FieldSpecs>>(
  [cmd, ctx, events, pt, reg].flatMap(module =>
    Object.values(module)
      .filter((value): value is BitLayout<FieldSpecs> => typeof value === "object" && "fields" in value)
      .map(layout => [layout.name, layout] as const),
  ),
)

/** Bits of a field within one 32-bit half of its structure. */
function halfOf(layout: BitLayout<FieldSpecs>, field: string, half: number): number {
  const [msb, lsb] = layout.fields[field] as readonly [number, number, string]
  let mask = 0
  for (let bit = lsb; bit <= msb; bit++) if (bit >> 5 === half) mask |= 1 << (bit & 31)
  return mask >>> 0
}

function reservedHalf(layout: BitLayout<FieldSpecs>, half: number): number {
  return Number(((layout.reserved[half >> 1] as bigint) >> BigInt(32 * (half & 1))) & 0xffffffffn)
}

describe("words of real guests", () => {
  it.each(DESCRIPTOR_VECTORS)("$layout reads as Linux wrote it: $words.0", ({ layout, words, fields }) => {
    const descriptor = LAYOUTS.get(layout) as BitLayout<FieldSpecs>
    expect(descriptor.decode(words)).toEqual(fields)
    expect(descriptor.encode(fields).slice(0, words.length)).toEqual(words)
  })

  it("reads the PASID and context entries of the captures", () => {
    const first = pt.PASID_ENTRY.decode([0x49n, 2n, 0x145c6c000n, 0n, 0n, 0n, 0n, 0n])
    expect(first).toMatchObject({ P: 1n, PGTT: 1n, AW: 2n, DID: 2n, FSPTPTR: 0x145c6cn, FSPM: 0n })
    const second = pt.PASID_ENTRY.decode([0x140ea1089n, 2n, 0n, 0n, 0n, 0n, 0n, 0n])
    expect(second).toMatchObject({ P: 1n, PGTT: 2n, AW: 2n, SSPTPTR: 0x140ea1n })
    const context = ctx.SCALABLE_CONTEXT.decode([0x145c50401n, 0n, 0n, 0n])
    expect(context).toMatchObject({ P: 1n, PDTS: 2n, PASIDDIRPTR: 0x145c50n, RID_PASID: 0n })
    expect(ctx.CONTEXT.decode([0x140edb001n, 0x202n])).toMatchObject({ P: 1n, TT: 0n, AW: 2n, DID: 2n })
  })
})

describe("masks agree with layouts", () => {
  const masks: readonly (readonly [string, number, number])[] = [
    ["ROOT_P", ctx.ROOT_P, halfOf(ctx.ROOT, "P", 0)],
    ["ROOT_RSVD_LO", ctx.ROOT_RSVD_LO, reservedHalf(ctx.ROOT, 0)],
    ["CONTEXT_P", ctx.CONTEXT_P, halfOf(ctx.CONTEXT, "P", 0)],
    ["CONTEXT_FPD", ctx.CONTEXT_FPD, halfOf(ctx.CONTEXT, "FPD", 0)],
    ["CONTEXT_TT", ctx.CONTEXT_TT_MASK << ctx.CONTEXT_TT_SHIFT, halfOf(ctx.CONTEXT, "TT", 0)],
    ["CONTEXT_RSVD_LO", ctx.CONTEXT_RSVD_LO, reservedHalf(ctx.CONTEXT, 0)],
    ["CONTEXT_AW_MASK_LO1", ctx.CONTEXT_AW_MASK_LO1, halfOf(ctx.CONTEXT, "AW", 2)],
    ["CONTEXT_DID", 0xffff << ctx.CONTEXT_DID_SHIFT_LO1, halfOf(ctx.CONTEXT, "DID", 2)],
    ["CONTEXT_RSVD_LO1", ctx.CONTEXT_RSVD_LO1, reservedHalf(ctx.CONTEXT, 2)],
    ["CONTEXT_RSVD_HI1", ctx.CONTEXT_RSVD_HI1, reservedHalf(ctx.CONTEXT, 3)],
    ["DTE", ctx.DTE, halfOf(ctx.SCALABLE_CONTEXT, "DTE", 0)],
    ["PASIDE", ctx.PASIDE, halfOf(ctx.SCALABLE_CONTEXT, "PASIDE", 0)],
    ["PRE", ctx.PRE, halfOf(ctx.SCALABLE_CONTEXT, "PRE", 0)],
    ["PDTS", ctx.PDTS_MASK << ctx.PDTS_SHIFT, halfOf(ctx.SCALABLE_CONTEXT, "PDTS", 0)],
    ["SCALABLE_CONTEXT_RSVD_LO", ctx.SCALABLE_CONTEXT_RSVD_LO, reservedHalf(ctx.SCALABLE_CONTEXT, 0)],
    ["RID_PASID_MASK_LO1", ctx.RID_PASID_MASK_LO1, halfOf(ctx.SCALABLE_CONTEXT, "RID_PASID", 2)],
    ["RID_PRIV_LO1", ctx.RID_PRIV_LO1, halfOf(ctx.SCALABLE_CONTEXT, "RID_PRIV", 2)],
    ["SCALABLE_CONTEXT_RSVD_LO1", ctx.SCALABLE_CONTEXT_RSVD_LO1, reservedHalf(ctx.SCALABLE_CONTEXT, 2)],
    ["PDE_P", pt.PDE_P, halfOf(pt.PASID_DIRECTORY, "P", 0)],
    ["PDE_FPD", pt.PDE_FPD, halfOf(pt.PASID_DIRECTORY, "FPD", 0)],
    ["PDE_RSVD_LO", pt.PDE_RSVD_LO, reservedHalf(pt.PASID_DIRECTORY, 0)],
    ["PE_FPD", pt.PE_FPD, halfOf(pt.PASID_ENTRY, "FPD", 0)],
    ["PE_AW", pt.PE_AW_MASK << pt.PE_AW_SHIFT, halfOf(pt.PASID_ENTRY, "AW", 0)],
    ["PE_PGTT", pt.PE_PGTT_MASK << pt.PE_PGTT_SHIFT, halfOf(pt.PASID_ENTRY, "PGTT", 0)],
    ["PE_SSADE", pt.PE_SSADE, halfOf(pt.PASID_ENTRY, "SSADE", 0)],
    ["PE_RSVD_LO", pt.PE_RSVD_LO, reservedHalf(pt.PASID_ENTRY, 0)],
    ["PE_DID_MASK_LO1", pt.PE_DID_MASK_LO1, halfOf(pt.PASID_ENTRY, "DID", 2)],
    ["PE_PWSNP_LO1", pt.PE_PWSNP_LO1, halfOf(pt.PASID_ENTRY, "PWSNP", 2)],
    ["PE_PGSNP_LO1", pt.PE_PGSNP_LO1, halfOf(pt.PASID_ENTRY, "PGSNP", 2)],
    ["PE_CD_LO1", pt.PE_CD_LO1, halfOf(pt.PASID_ENTRY, "CD", 2)],
    ["PE_EMTE_LO1", pt.PE_EMTE_LO1, halfOf(pt.PASID_ENTRY, "EMTE", 2)],
    ["PE_RSVD_LO1", pt.PE_RSVD_LO1, reservedHalf(pt.PASID_ENTRY, 2)],
    ["PE_SRE_LO2", pt.PE_SRE_LO2, halfOf(pt.PASID_ENTRY, "SRE", 4)],
    ["PE_FSPM", pt.PE_FSPM_MASK << pt.PE_FSPM_SHIFT_LO2, halfOf(pt.PASID_ENTRY, "FSPM", 4)],
    ["PE_WPE_LO2", pt.PE_WPE_LO2, halfOf(pt.PASID_ENTRY, "WPE", 4)],
    ["PE_EAFE_LO2", pt.PE_EAFE_LO2, halfOf(pt.PASID_ENTRY, "EAFE", 4)],
    ["PE_RSVD_LO2", pt.PE_RSVD_LO2, reservedHalf(pt.PASID_ENTRY, 4)],
    ["CCMD_ICC_HI", reg.CCMD_ICC_HI, halfOf(reg.CCMD, "ICC", 1)],
    ["IOTLB_IVT_HI", reg.IOTLB_IVT_HI, halfOf(reg.IOTLB, "IVT", 1)],
    ["IQA_DW", reg.IQA_DW, halfOf(reg.IQA, "DW", 0)],
    ["IQA_QS_MASK", reg.IQA_QS_MASK, halfOf(reg.IQA, "QS", 0)],
    ["TTM", reg.TTM_MASK << reg.TTM_SHIFT, halfOf(reg.RTADDR, "TTM", 0)],
    ["G", cmd.G_MASK << cmd.G_SHIFT, halfOf(cmd.IOTLB_INV_DSC, "G", 0)],
    ["DID", cmd.DID_MASK << cmd.DID_SHIFT, halfOf(cmd.IOTLB_INV_DSC, "DID", 0)],
    ["PASID_MASK_HI", cmd.PASID_MASK_HI, halfOf(cmd.P_IOTLB_INV_DSC, "PASID", 1)],
    ["AM_MASK_LO1", cmd.AM_MASK_LO1, halfOf(cmd.IOTLB_INV_DSC, "AM", 2)],
    ["IH_LO1", cmd.IH_LO1, halfOf(cmd.P_IOTLB_INV_DSC, "IH", 2)],
    ["PFSID_LO_MASK", cmd.PFSID_LO_MASK, halfOf(cmd.P_DEV_TLB_INV_DSC, "PFSIDLo", 0)],
    ["PFSID_HI_MASK_HI", cmd.PFSID_HI_MASK_HI, halfOf(cmd.DEV_TLB_INV_DSC, "PFSIDHi", 1)],
    ["WAIT_IF", cmd.WAIT_IF, halfOf(cmd.INV_WAIT_DSC, "IF", 0)],
    ["WAIT_SW", cmd.WAIT_SW, halfOf(cmd.INV_WAIT_DSC, "SW", 0)],
    ["WAIT_PD", cmd.WAIT_PD, halfOf(cmd.INV_WAIT_DSC, "PD", 0)],
    ["DEV_TLB_S_LO1", cmd.DEV_TLB_S_LO1, halfOf(cmd.DEV_TLB_INV_DSC, "S", 2)],
    ["P_DEV_TLB_GI_LO1", cmd.P_DEV_TLB_GI_LO1, halfOf(cmd.P_DEV_TLB_INV_DSC, "GI", 2)],
    ["P_DEV_TLB_S_LO1", cmd.P_DEV_TLB_S_LO1, halfOf(cmd.P_DEV_TLB_INV_DSC, "S", 2)],
    ["PAGE_GRP_PP", cmd.PAGE_GRP_PP, halfOf(cmd.PAGE_GRP_RESP_DSC, "PP", 0)],
    ["PAGE_GRP_RC", cmd.PAGE_GRP_RC_MASK << cmd.PAGE_GRP_RC_SHIFT, halfOf(cmd.PAGE_GRP_RESP_DSC, "RC", 0)],
    ["PAGE_GRP_RID", 0xffff << cmd.PAGE_GRP_RID_SHIFT, halfOf(cmd.PAGE_GRP_RESP_DSC, "RID", 0)],
    [
      "PAGE_GRP_PRGI",
      cmd.PAGE_GRP_PRGI_MASK_LO1 << cmd.PAGE_GRP_PRGI_SHIFT_LO1,
      halfOf(cmd.PAGE_GRP_RESP_DSC, "PRGI", 2),
    ],
    ["PAGE_REQ_PP", events.PAGE_REQ_PP, halfOf(events.PAGE_REQ_DSC, "PP", 0)],
    ["PAGE_REQ_RID", 0xffff << events.PAGE_REQ_RID_SHIFT, halfOf(events.PAGE_REQ_DSC, "RID", 0)],
    ["PAGE_REQ_EXR_HI", events.PAGE_REQ_EXR_HI, halfOf(events.PAGE_REQ_DSC, "EXR", 1)],
    ["PAGE_REQ_PMR_HI", events.PAGE_REQ_PMR_HI, halfOf(events.PAGE_REQ_DSC, "PMR", 1)],
    ["PAGE_REQ_RDR_LO1", events.PAGE_REQ_RDR_LO1, halfOf(events.PAGE_REQ_DSC, "RDR", 2)],
    ["PAGE_REQ_WRR_LO1", events.PAGE_REQ_WRR_LO1, halfOf(events.PAGE_REQ_DSC, "WRR", 2)],
    ["PAGE_REQ_LPIG_LO1", events.PAGE_REQ_LPIG_LO1, halfOf(events.PAGE_REQ_DSC, "LPIG", 2)],
    ["PAGE_REQ_PRGI", 0x1ff << events.PAGE_REQ_PRGI_SHIFT_LO1, halfOf(events.PAGE_REQ_DSC, "PRGI", 2)],
    ["FRCD_F", events.FRCD_F, halfOf(events.FRCD, "F", 3)],
  ]
  it.each(masks)("%s", (_, mask, expected) => {
    expect(mask >>> 0).toBe(expected)
  })
})

describe("registers", () => {
  it.each(REGISTER_VECTORS)("%s", (name, offset) => {
    expect((reg.REGISTERS as RegisterSpecs)[name]?.[0]).toBe(offset)
  })

  it("do not overlap", () => {
    const taken = new Set<number>()
    for (const [offset, bytes] of Object.values(reg.REGISTERS)) {
      expect(offset % bytes).toBe(0)
      for (let byte = offset; byte < offset + bytes; byte++) {
        expect(taken.has(byte)).toBe(false)
        taken.add(byte)
      }
    }
  })

  it("moves with FRO, NFR and IRO, as in QEMU's capability registers", () => {
    expect(reg.faultRecordOffset(0xd2008c22260206n)).toBe(0x220)
    expect(reg.faultRecordCount(0xd2008c22260206n)).toBe(1)
    expect(reg.ivaOffset(0xf00f4an)).toBe(0xf0)
  })

  it("has the command and status bits of Linux's DMA_GCMD_* and DMA_FSTS_*", () => {
    const commands = [reg.TE, reg.SRTP, reg.SFL, reg.EAFL, reg.WBF, reg.QIE, reg.IRE, reg.SIRTP, reg.CFI]
    expect(commands).toEqual([31, 30, 29, 28, 27, 26, 25, 24, 23].map(bit => 2 ** bit))
    const status = [reg.PFO, reg.PPF, reg.IQE, reg.ICE, reg.ITE]
    expect(status).toEqual([0, 1, 4, 5, 6].map(bit => 2 ** bit))
  })
})

describe("fault reasons", () => {
  it.each(REASON_VECTORS)("%s", (name, code, qualified) => {
    expect(events.FAULT_REASONS.get(code)).toMatchObject({ name, qualified })
  })

  it("answer translation requests as two columns of Table 30 say", () => {
    const named = (reasons: ReadonlySet<number>): string[] =>
      [...reasons].map(code => events.FAULT_REASONS.get(code)?.name ?? `${code}`).sort()
    expect(named(events.UNSUPPORTED_REQUESTS).join(" ")).toBe(
      "LCT.2 LCT.5 LRT.2 RTA.2 RTA.4 RTA.5 SCT.2 SCT.5 SCT.6 SCT.7 SCT.9 SGN.10 SRT.2",
    )
    expect(named(events.COMPLETER_ABORTS).join(" ")).toBe(
      "LCT.1 LCT.3 LCT.4 LGN.4 LRT.1 LRT.3 LSS.1 LSS.2 RTA.1 SCT.1 SCT.3 SCT.4 SGN.8 SPD.1 SPD.3 SPT.1 SPT.3 " +
        "SPT.4 SRT.1 SRT.3 SSS.1 SSS.3 SSS.4 SSS.5 SSS.6",
    )
  })

  it("are all in the book's table", () => {
    expect([...events.FAULT_REASONS.keys()].sort((a, b) => a - b)).toEqual(
      REASON_VECTORS.map(([, code]) => code).sort((a, b) => a - b),
    )
  })
})
