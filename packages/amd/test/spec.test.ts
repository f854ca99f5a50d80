import { defineLayouts, defineMasks } from "@iommu/conformance"
import type { BitLayout, FieldSpecs } from "@iommu/core"
import { describe, expect, it } from "vitest"
import * as cmd from "../src/spec/commands.ts"
import * as dte from "../src/spec/device-table.ts"
import * as evt from "../src/spec/events.ts"
import * as pte from "../src/spec/page-tables.ts"
import * as gcr3 from "../src/spec/pasid-table.ts"
import * as reg from "../src/spec/registers.ts"
import { COMMANDS } from "./vectors/commands.ts"
import { LINUX_NVME, LINUX_UNUSED } from "./vectors/device-table.ts"
import { EVENTS } from "./vectors/events.ts"
import * as positions from "./vectors/positions.ts"
import { LINUX_QEMU, LINUX_QEMU_FEATURES, OFFSETS, STATUS_RW1C } from "./vectors/registers.ts"

/** All bits of a field, in place, with the word they stand in. */
function fieldMask(layout: BitLayout<FieldSpecs>, field: string): [word: number, mask: bigint] {
  const [msb, lsb] = layout.fields[field] as readonly [number, number, string]
  return [lsb >> 6, ((1n << BigInt(msb - lsb + 1)) - 1n) << BigInt(lsb & 63)]
}

/** A field's mask within its 32-bit dword, as hot code has it. */
function dwordMask(layout: BitLayout<FieldSpecs>, field: string): number {
  const [, mask] = fieldMask(layout, field)
  return Number(mask > 0xffff_ffffn ? mask >> 32n : mask)
}

defineLayouts(
  { describe, it },
  [dte, gcr3, pte, cmd, evt, reg],
  [
    ...positions.TABLES,
    ...positions.COMMAND_LAYOUTS,
    ...positions.EVENT_LAYOUTS,
    ...positions.REGISTER_LAYOUTS,
  ],
)
defineMasks({ describe, it }, [reg], positions.REGISTER_MASKS)
defineMasks({ describe, it }, [pte], positions.PAGE_MASKS)

describe("device table entry", () => {
  it("keeps HAD as one field of two bits (bits 8:7)", () => {
    expect(dte.fieldsDTE.HAD.slice(0, 2)).toEqual([8, 7])
    expect([dte.HAD_SHIFT, dte.HAD_MASK]).toEqual([7, 3])
  })

  it("reads entries that Linux wrote", () => {
    expect(dte.DTE.decode(LINUX_NVME.words)).toMatchObject(LINUX_NVME.fields)
    expect(dte.DTE.encode(LINUX_NVME.fields)).toEqual(LINUX_NVME.words)
    expect(dte.DTE.decode(LINUX_UNUSED.words)).toMatchObject({
      V: 1n,
      TV: 1n,
      Mode: 0n,
      IR: 0n,
      IW: 0n,
      IV: 1n,
    })
  })

  it("assembles the GCR3 root of its three pieces", () => {
    const words = dte.DTE.encode(dte.gcr3RootFields(0xf_edcb_a987_6000n))
    expect(dte.gcr3RootOf(words)).toBe(0xf_edcb_a987_6000n)
    // Linux: bits 14:12 at 58, bits 30:15 at 16 of word 1, bits 51:31 at 43 of word 1.
    const root = 0xf_edcb_a987_6000n
    expect(words[0]).toBe(((root >> 12n) & 7n) << 58n)
    expect(words[1]).toBe((((root >> 15n) & 0xffffn) << 16n) | (((root >> 31n) & 0x1f_ffffn) << 43n))
  })

  it("has masks that agree with the layout", () => {
    const masks = {
      V: dte.V,
      TV: dte.TV,
      PPR: dte.PPR,
      GPRP: dte.GPRP,
      GIOV: dte.GIOV,
      GV: dte.GV,
      IR: dte.IR,
      IW: dte.IW,
      I: dte.I,
      SE: dte.SE,
      SA: dte.SA,
      Cache: dte.CACHE,
      SD: dte.SD,
      EX: dte.EX,
      SATS: dte.SATS,
      IV: dte.IV,
      IG: dte.IG,
    }
    for (const [field, mask] of Object.entries(masks))
      expect([field, mask >>> 0]).toEqual([field, dwordMask(dte.DTE, field)])
    const shifted = {
      Mode: dte.MODE_MASK << dte.MODE_SHIFT,
      HAD: dte.HAD_MASK << dte.HAD_SHIFT,
      GLX: dte.GLX_MASK << dte.GLX_SHIFT,
      GCR3_14_12: dte.GCR3_14_12_MASK << dte.GCR3_14_12_SHIFT,
      IoCtl: dte.IOCTL_MASK << dte.IOCTL_SHIFT,
      SysMgt: dte.SYSMGT_MASK << dte.SYSMGT_SHIFT,
      GuestPagingMode: dte.GUEST_PAGING_MODE_MASK << dte.GUEST_PAGING_MODE_SHIFT,
      IntCtl: dte.INTCTL_MASK << dte.INTCTL_SHIFT,
    }
    for (const [field, mask] of Object.entries(shifted))
      expect([field, mask >>> 0]).toEqual([field, dwordMask(dte.DTE, field)])
  })

  it("names exactly the bits that no field covers as reserved", () => {
    const reserved = dte.DTE.reserved.flatMap(word => [Number(word & 0xffff_ffffn), Number(word >> 32n)])
    expect([dte.RESERVED_0, dte.RESERVED_1]).toEqual(reserved.slice(0, 2))
    expect([dte.RESERVED_6, dte.RESERVED_7]).toEqual(reserved.slice(6))
  })
})

describe("GCR3 table", () => {
  it("has V at bit 0 and the address at bits 51:12", () => {
    expect(gcr3.GCR3.encode({ V: 1n, Address: 0x12_3456_7890n })).toEqual([0x1_2345_6789_0001n])
    expect(gcr3.GCR3.reserved[0]).toBe((BigInt(gcr3.RESERVED_HI) << 32n) | BigInt(gcr3.RESERVED_LO))
  })

  it("indexes nine bits of PASID a level, twenty at most", () => {
    expect([0, 1, 2].map(gcr3.gcr3PasidBits)).toEqual([9, 18, 20])
  })
})

const COMMAND_LAYOUTS = {
  COMPLETION_WAIT: cmd.COMPLETION_WAIT,
  INVALIDATE_DEVTAB_ENTRY: cmd.INVALIDATE_DEVTAB_ENTRY,
  INVALIDATE_IOMMU_PAGES: cmd.INVALIDATE_IOMMU_PAGES,
  INVALIDATE_IOTLB_PAGES: cmd.INVALIDATE_IOTLB_PAGES,
  INVALIDATE_INTERRUPT_TABLE: cmd.INVALIDATE_INTERRUPT_TABLE,
  COMPLETE_PPR_REQUEST: cmd.COMPLETE_PPR_REQUEST,
  INVALIDATE_IOMMU_ALL: cmd.INVALIDATE_IOMMU_ALL,
}

describe("commands", () => {
  it.each(COMMANDS)("reads $name as drivers write it", ({ name, words, fields }) => {
    const layout: BitLayout<FieldSpecs> = COMMAND_LAYOUTS[name]
    expect(Number((words[0] as bigint) >> 60n)).toBe(cmd.OPCODE[name])
    expect(layout.decode(words)).toMatchObject(fields)
    expect(layout.encode({ ...fields, Opcode: BigInt(cmd.OPCODE[name]) })).toEqual(words)
  })

  it("encodes the size in the address (§2.4.3)", () => {
    expect(cmd.encodeInvalidateRange(0x5000n, 0x5fffn)).toEqual({ Address: 0x5n, S: 0n })
    expect(cmd.encodeInvalidateRange(0x4000n, 0x5fffn)).toEqual({ Address: 0x4n, S: 1n })
    expect(cmd.encodeInvalidateRange(0x20_0000n, 0x3f_ffffn)).toEqual({ Address: 0x2ffn, S: 1n })
    expect(cmd.encodeInvalidateRange(0n, (1n << 64n) - 1n)).toEqual({ Address: 0x7_ffff_ffff_ffffn, S: 1n })
  })

  it("decodes what it encodes to a range that covers the wish", () => {
    for (const [first, last] of [
      [0x1000n, 0x2fffn],
      [0x7fff_f000n, 0x8000_0fffn],
      [0n, 0xf_ffff_ffff_ffffn],
      [0xffff_8000_0000_0000n, 0xffff_8000_001f_ffffn],
    ] as const) {
      const { Address, S } = cmd.encodeInvalidateRange(first, last)
      const range = cmd.decodeInvalidateRange(Address, S)
      expect(range.first <= first && range.last >= last).toBe(true)
    }
    expect(cmd.decodeInvalidateRange(0xf_ffff_ffff_ffffn, 1n)).toEqual({ first: 0n, last: (1n << 64n) - 1n })
  })
})

const EVENT_LAYOUTS = {
  IO_PAGE_FAULT: evt.IO_PAGE_FAULT,
  ILLEGAL_DEV_TABLE_ENTRY: evt.ILLEGAL_DEV_TABLE_ENTRY,
  DEV_TAB_HARDWARE_ERROR: evt.DEV_TAB_HARDWARE_ERROR,
  PAGE_TAB_HARDWARE_ERROR: evt.PAGE_TAB_HARDWARE_ERROR,
  ILLEGAL_COMMAND_ERROR: evt.ILLEGAL_COMMAND_ERROR,
  COMMAND_HARDWARE_ERROR: evt.COMMAND_HARDWARE_ERROR,
  IOTLB_INV_TIMEOUT: evt.IOTLB_INV_TIMEOUT,
  INVALID_DEVICE_REQUEST: evt.INVALID_DEVICE_REQUEST,
  INVALID_PPR_REQUEST: evt.INVALID_PPR_REQUEST,
  PAGE_SERVICE_REQUEST: evt.PAGE_SERVICE_REQUEST,
}

const codeOf = (name: keyof typeof EVENT_LAYOUTS): number =>
  name === "PAGE_SERVICE_REQUEST" ? evt.PPR_PAGE_SERVICE_REQUEST : evt.EVENT[name]

describe("events", () => {
  it.each(EVENTS)("reads $name word for word", ({ name, words, fields }) => {
    const layout: BitLayout<FieldSpecs> = EVENT_LAYOUTS[name]
    expect(Number((words[0] as bigint) >> 60n)).toBe(codeOf(name))
    expect(layout.decode(words)).toMatchObject(fields)
    expect(layout.encode({ ...fields, Code: BigInt(codeOf(name)) })).toEqual(words)
  })

  it("has flag masks that agree with the layout", () => {
    const masks = {
      GN: evt.GN,
      NX: evt.NX,
      US: evt.US,
      I: evt.I,
      PR: evt.PR,
      RW: evt.RW,
      PE: evt.PE,
      RZ: evt.RZ,
      TR: evt.TR,
    }
    for (const [field, mask] of Object.entries(masks)) {
      expect([field, mask]).toEqual([field, dwordMask(evt.IO_PAGE_FAULT, field)])
    }
  })
})

describe("registers", () => {
  it("lie where the book's map has them", () => {
    for (const [name, offset] of Object.entries(OFFSETS)) {
      expect([name, reg.REGISTERS[name as reg.RegisterName][0]]).toEqual([name, offset])
    }
  })

  it("does not shift EXT_FEATURES from bit 31 on", () => {
    expect(reg.EXT_FEATURES.decode([LINUX_QEMU.EXT_FEATURES])).toMatchObject(LINUX_QEMU_FEATURES)
    const high = {
      USSup: reg.EFR_USSup_HI,
      GIoSup: reg.EFR_GIoSup_HI,
      HASup: reg.EFR_HASup_HI,
      HDSup: reg.EFR_HDSup_HI,
    }
    for (const [field, mask] of Object.entries(high)) expect(dwordMask(reg.EXT_FEATURES, field)).toBe(mask)
  })

  it("has CONTROL and STATUS bits in their places", () => {
    expect(BigInt(reg.STATUS_RW1C)).toBe(STATUS_RW1C)
    const low = {
      IommuEn: reg.CONTROL_IommuEn,
      EventLogEn: reg.CONTROL_EventLogEn,
      CmdBufEn: reg.CONTROL_CmdBufEn,
      GTEn: reg.CONTROL_GTEn,
      GCR3TRPMode: reg.CONTROL_GCR3TRPMode_HI,
      GDUpdateDis: reg.CONTROL_GDUpdateDis_HI,
      GAUpdateDis: reg.CONTROL_GAUpdateDis_HI,
      XTEn: reg.CONTROL_XTEn_HI,
      IntCapXTEn: reg.CONTROL_IntCapXTEn_HI,
    }
    for (const [field, mask] of Object.entries(low))
      expect([field, mask]).toEqual([field, dwordMask(reg.CONTROL, field)])
    expect(reg.CONTROL.decode([LINUX_QEMU.CONTROL])).toMatchObject({
      IommuEn: 1n,
      HtTunEn: 1n,
      EventLogEn: 1n,
      EventIntEn: 1n,
      CmdBufEn: 1n,
      GTEn: 1n,
      GAEn: 1n,
    })
  })
})

describe("v1 and v2 entries", () => {
  it("have masks that agree with the layouts", () => {
    const v1 = {
      PR: pte.V1_PR,
      A: pte.V1_A,
      D: pte.V1_D,
      NextLevel: pte.V1_NEXT_LEVEL,
      U: pte.V1_U_HI,
      FC: pte.V1_FC_HI,
      IR: pte.V1_IR_HI,
      IW: pte.V1_IW_HI,
    }
    for (const [field, mask] of Object.entries(v1))
      expect([field, mask]).toEqual([field, dwordMask(pte.V1Pte, field)])
    const v2 = {
      P: pte.V2_P,
      RW: pte.V2_RW,
      US: pte.V2_US,
      A: pte.V2_A,
      D: pte.V2_D,
      PS: pte.V2_PS,
      NX: pte.V2_NX_HI,
    }
    for (const [field, mask] of Object.entries(v2))
      expect([field, mask]).toEqual([field, dwordMask(pte.V2Large, field)])
  })
})
