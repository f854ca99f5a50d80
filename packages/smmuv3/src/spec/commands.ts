/**
 * Command queue entries. Arm IHI 0070 G.b chapter 4.
 *
 * An entry is four 32-bit words. Masks are for one of them; the layouts count bits through all words.
 */
import { type BitLayout, bitLayout, type FieldSpec, type FieldSpecs } from "@iommu/core"

export const COMMAND_BYTES = 16

/** Opcodes, §4.1.1. */
export const CMD_PREFETCH_CONFIG = 0x01
export const CMD_PREFETCH_ADDR = 0x02
export const CMD_CFGI_STE = 0x03
/** With Range 31 the book calls it CMD_CFGI_ALL. */
export const CMD_CFGI_STE_RANGE = 0x04
export const CMD_CFGI_CD = 0x05
export const CMD_CFGI_CD_ALL = 0x06
export const CMD_CFGI_VMS_PIDM = 0x07
export const CMD_TLBI_NH_ALL = 0x10
export const CMD_TLBI_NH_ASID = 0x11
export const CMD_TLBI_NH_VA = 0x12
export const CMD_TLBI_NH_VAA = 0x13
export const CMD_TLBI_EL2_ALL = 0x20
export const CMD_TLBI_EL2_ASID = 0x21
export const CMD_TLBI_EL2_VA = 0x22
export const CMD_TLBI_EL2_VAA = 0x23
export const CMD_TLBI_S12_VMALL = 0x28
export const CMD_TLBI_S2_IPA = 0x2a
export const CMD_TLBI_NSNH_ALL = 0x30
export const CMD_ATC_INV = 0x40
export const CMD_PRI_RESP = 0x41
export const CMD_RESUME = 0x44
export const CMD_STALL_TERM = 0x45
export const CMD_SYNC = 0x46

/** Word 0. */
export const OPCODE = 0xff
export const SSEC: number = 1 << 10
export const SSV: number = 1 << 11
export const SUBSTREAMID_SHIFT = 12
export const ATC_INV_GLOBAL: number = 1 << 9
export const TLBI_NUM_SHIFT = 12
export const TLBI_NUM: number = 0x1f << 12
export const TLBI_SCALE_SHIFT = 20
export const TLBI_SCALE: number = 0x3f << 20
export const RESUME_AC_RETRY: number = 1 << 12
export const RESUME_AB_ABORT: number = 1 << 13
export const SYNC_CS_SHIFT = 12
export const SYNC_CS: number = 0x3 << 12
export const SYNC_MSH_SHIFT = 22
export const SYNC_MSIATTR_SHIFT = 24
/** Word 1: StreamID fills it in commands that have one; CMD_SYNC has its MSIData there. */
export const TLBI_VMID = 0xffff
export const TLBI_ASID_SHIFT = 16
/** Word 2. */
export const LEAF: number = 1 << 0
/** CMD_PREFETCH_ADDR. */
export const PREFETCH_SIZE = 0x1f
export const PREFETCH_STRIDE_SHIFT = 5
export const PREFETCH_STRIDE: number = 0x1f << 5
export const CFGI_RANGE = 0x1f
export const CFGI_RANGE_ALL = 31
export const TLBI_TTL128: number = 1 << 7
export const TLBI_TTL_SHIFT = 8
export const TLBI_TTL: number = 0x3 << 8
export const TLBI_TG_SHIFT = 10
export const TLBI_TG: number = 0x3 << 10
export const ADDRESS_LO = 0xffff_f000
/** Word 3 of CMD_TLBI_S2_IPA. */
export const IPA_HI = 0x00ff_ffff
export const ATC_INV_SIZE = 0x3f
/** Size of CMD_ATC_INV that covers all 2^64 bytes. */
export const ATC_INV_SIZE_ALL = 52
export const PRI_RESP_PRGINDEX = 0x1ff
export const PRI_RESP_RESP_SHIFT = 12
export const PRI_RESP_RESP: number = 0x3 << 12
export const SYNC_MSIADDRESS_LO = 0xffff_fffc
/** Word 3. */
export const SYNC_MSIADDRESS_HI = 0x00ff_ffff

/** CMD_SYNC completion signals, §4.7.3. */
export const SIG_NONE = 0
export const SIG_IRQ = 1
export const SIG_SEV = 2

/** TG of a TLB invalidation, §4.4.1.1; not the encoding of CD.TG0 nor of CD.TG1. */
export const TLBI_TG_ANY = 0
export const TLBI_TG_4KB = 1
export const TLBI_TG_16KB = 2
export const TLBI_TG_64KB = 3

const Opcode = [7, 0, "opcode"] as const
const SSec = [10, 10, "the StreamID is Secure"] as const
const StreamID = [63, 32, "StreamID"] as const
const SubstreamID = [31, 12, "SubstreamID"] as const
const Ssv = [11, 11, "SubstreamID is valid"] as const
const Leaf = [64, 64, "only the last level"] as const
const VMID = [47, 32, "VMID"] as const
const ASID = [63, 48, "ASID"] as const
const Address = [127, 76, "virtual address, bits 63:12"] as const
const range = {
  NUM: [16, 12, "range in granules is (NUM + 1) * 2^SCALE"],
  SCALE: [25, 20, "range in granules is (NUM + 1) * 2^SCALE"],
  TTL128: [71, 71, "TTL counts levels of 128-bit descriptors"],
  TTL: [73, 72, "level of the leaf, 0 any"],
  TG: [75, 74, "granule: 0 any and no range, 1 4 KiB, 2 16 KiB, 3 64 KiB"],
} as const

const fieldsPrefetchConfig = { Opcode, SSec, SSV: Ssv, SubstreamID, StreamID } as const
const fieldsPrefetchAddr = {
  ...fieldsPrefetchConfig,
  Size: [68, 64, "log2 of the bytes, in units of 4096"],
  Stride: [73, 69, "log2 of the stride, in units of 4096"],
  Address,
} as const
const fieldsCfgiSte = { Opcode, SSec, StreamID, Leaf } as const
const fieldsCfgiSteRange = { Opcode, SSec, StreamID, Range: [68, 64, "2^(Range+1) StreamIDs"] } as const
const fieldsCfgiCd = { Opcode, SSec, SubstreamID, StreamID, Leaf } as const
const fieldsCfgiCdAll = { Opcode, SSec, StreamID } as const
const fieldsCfgiVmsPidm = { Opcode, SSec, VMID } as const
const fieldsTlbiAll = { Opcode } as const
const fieldsTlbiVmid = { Opcode, VMID } as const
const fieldsTlbiNhAsid = { Opcode, VMID, ASID } as const
const fieldsTlbiNhVa = { Opcode, ...range, VMID, ASID, Leaf, Address } as const
const fieldsTlbiNhVaa = { Opcode, ...range, VMID, Leaf, Address } as const
const fieldsTlbiEl2Asid = { Opcode, ASID } as const
const fieldsTlbiEl2Va = { Opcode, ...range, ASID, Leaf, Address } as const
const fieldsTlbiEl2Vaa = { Opcode, ...range, Leaf, Address } as const
const fieldsTlbiS2Ipa = {
  Opcode,
  ...range,
  VMID,
  Leaf,
  Address: [119, 76, "intermediate physical address, bits 55:12"],
} as const
const fieldsAtcInv = {
  Opcode,
  Global: [9, 9, "all PASIDs"],
  SSec,
  SSV: Ssv,
  SubstreamID,
  StreamID,
  Size: [69, 64, "2^Size pages of 4096 bytes; 52 everything"],
  Address,
} as const
const fieldsPriResp = {
  Opcode,
  SSec,
  SSV: Ssv,
  SubstreamID,
  StreamID,
  PRGIndex: [72, 64, "page request group"],
  Resp: [77, 76, "0 failure, 1 invalid request, 2 success"],
} as const
const fieldsResume = {
  Opcode,
  SSec,
  Ac: [12, 12, "0 terminate, 1 retry"],
  Ab: [13, 13, "terminate with an abort"],
  StreamID,
  STAG: [79, 64, "which transaction"],
} as const
const fieldsStallTerm = { Opcode, SSec, StreamID } as const
const fieldsSync = {
  Opcode,
  CS: [13, 12, "0 no signal, 1 interrupt, 2 event"],
  MSH: [23, 22, "shareability of the message"],
  MSIAttr: [27, 24, "memory type of the message"],
  MSIData: [63, 32, "message"],
  MSIAddress: [119, 66, "physical address of the message, bits 55:2"],
} as const

type RangeField = keyof typeof range

/** Layout of a command with the given fields. */
export type CommandLayout<Fields extends string> = BitLayout<Readonly<Record<Fields, FieldSpec>>>

const layout = <const F extends FieldSpecs>(name: string, section: string, fields: F): BitLayout<F> =>
  bitLayout(name, `IHI 0070 G.b §${section}`, 128, fields)

export const PREFETCH_CONFIG: CommandLayout<"Opcode" | "SSec" | "SSV" | "SubstreamID" | "StreamID"> = layout(
  "CMD_PREFETCH_CONFIG",
  "4.2.1",
  fieldsPrefetchConfig,
)
export const PREFETCH_ADDR: CommandLayout<
  "Opcode" | "SSec" | "SSV" | "SubstreamID" | "StreamID" | "Size" | "Stride" | "Address"
> = layout("CMD_PREFETCH_ADDR", "4.2.2", fieldsPrefetchAddr)
export const CFGI_STE: CommandLayout<"Opcode" | "SSec" | "StreamID" | "Leaf"> = layout(
  "CMD_CFGI_STE",
  "4.3.1",
  fieldsCfgiSte,
)
export const CFGI_STE_RANGE: CommandLayout<"Opcode" | "SSec" | "StreamID" | "Range"> = layout(
  "CMD_CFGI_STE_RANGE",
  "4.3.2",
  fieldsCfgiSteRange,
)
export const CFGI_CD: CommandLayout<"Opcode" | "SSec" | "SubstreamID" | "StreamID" | "Leaf"> = layout(
  "CMD_CFGI_CD",
  "4.3.3",
  fieldsCfgiCd,
)
export const CFGI_CD_ALL: CommandLayout<"Opcode" | "SSec" | "StreamID"> = layout(
  "CMD_CFGI_CD_ALL",
  "4.3.4",
  fieldsCfgiCdAll,
)
export const CFGI_VMS_PIDM: CommandLayout<"Opcode" | "SSec" | "VMID"> = layout(
  "CMD_CFGI_VMS_PIDM",
  "4.3.5",
  fieldsCfgiVmsPidm,
)
export const TLBI_NH_ALL: CommandLayout<"Opcode" | "VMID"> = layout(
  "CMD_TLBI_NH_ALL",
  "4.4.2.1",
  fieldsTlbiVmid,
)
export const TLBI_NH_ASID: CommandLayout<"Opcode" | "VMID" | "ASID"> = layout(
  "CMD_TLBI_NH_ASID",
  "4.4.2.2",
  fieldsTlbiNhAsid,
)
export const TLBI_NH_VAA: CommandLayout<"Opcode" | RangeField | "VMID" | "Leaf" | "Address"> = layout(
  "CMD_TLBI_NH_VAA",
  "4.4.2.3",
  fieldsTlbiNhVaa,
)
export const TLBI_NH_VA: CommandLayout<"Opcode" | RangeField | "VMID" | "ASID" | "Leaf" | "Address"> = layout(
  "CMD_TLBI_NH_VA",
  "4.4.2.4",
  fieldsTlbiNhVa,
)
export const TLBI_EL2_ALL: CommandLayout<"Opcode"> = layout("CMD_TLBI_EL2_ALL", "4.4.2.7", fieldsTlbiAll)
export const TLBI_EL2_VA: CommandLayout<"Opcode" | RangeField | "ASID" | "Leaf" | "Address"> = layout(
  "CMD_TLBI_EL2_VA",
  "4.4.2.8",
  fieldsTlbiEl2Va,
)
export const TLBI_EL2_VAA: CommandLayout<"Opcode" | RangeField | "Leaf" | "Address"> = layout(
  "CMD_TLBI_EL2_VAA",
  "4.4.2.9",
  fieldsTlbiEl2Vaa,
)
export const TLBI_EL2_ASID: CommandLayout<"Opcode" | "ASID"> = layout(
  "CMD_TLBI_EL2_ASID",
  "4.4.2.10",
  fieldsTlbiEl2Asid,
)
export const TLBI_S2_IPA: CommandLayout<"Opcode" | RangeField | "VMID" | "Leaf" | "Address"> = layout(
  "CMD_TLBI_S2_IPA",
  "4.4.3.1",
  fieldsTlbiS2Ipa,
)
export const TLBI_S12_VMALL: CommandLayout<"Opcode" | "VMID"> = layout(
  "CMD_TLBI_S12_VMALL",
  "4.4.3.2",
  fieldsTlbiVmid,
)
export const TLBI_NSNH_ALL: CommandLayout<"Opcode"> = layout("CMD_TLBI_NSNH_ALL", "4.4.4.1", fieldsTlbiAll)
export const ATC_INV: CommandLayout<
  "Opcode" | "Global" | "SSec" | "SSV" | "SubstreamID" | "StreamID" | "Size" | "Address"
> = layout("CMD_ATC_INV", "4.5.1", fieldsAtcInv)
export const PRI_RESP: CommandLayout<
  "Opcode" | "SSec" | "SSV" | "SubstreamID" | "StreamID" | "PRGIndex" | "Resp"
> = layout("CMD_PRI_RESP", "4.5.2", fieldsPriResp)
export const RESUME: CommandLayout<"Opcode" | "SSec" | "Ac" | "Ab" | "StreamID" | "STAG"> = layout(
  "CMD_RESUME",
  "4.7.1",
  fieldsResume,
)
export const STALL_TERM: CommandLayout<"Opcode" | "SSec" | "StreamID"> = layout(
  "CMD_STALL_TERM",
  "4.7.2",
  fieldsStallTerm,
)
export const SYNC: CommandLayout<"Opcode" | "CS" | "MSH" | "MSIAttr" | "MSIData" | "MSIAddress"> = layout(
  "CMD_SYNC",
  "4.7.3",
  fieldsSync,
)

/** The layout of each opcode of the Non-secure Command queue. */
export const COMMANDS: ReadonlyMap<number, BitLayout<FieldSpecs>> = new Map<number, BitLayout<FieldSpecs>>([
  [CMD_PREFETCH_CONFIG, PREFETCH_CONFIG],
  [CMD_PREFETCH_ADDR, PREFETCH_ADDR],
  [CMD_CFGI_STE, CFGI_STE],
  [CMD_CFGI_STE_RANGE, CFGI_STE_RANGE],
  [CMD_CFGI_CD, CFGI_CD],
  [CMD_CFGI_CD_ALL, CFGI_CD_ALL],
  [CMD_CFGI_VMS_PIDM, CFGI_VMS_PIDM],
  [CMD_TLBI_NH_ALL, TLBI_NH_ALL],
  [CMD_TLBI_NH_ASID, TLBI_NH_ASID],
  [CMD_TLBI_NH_VA, TLBI_NH_VA],
  [CMD_TLBI_NH_VAA, TLBI_NH_VAA],
  [CMD_TLBI_EL2_ALL, TLBI_EL2_ALL],
  [CMD_TLBI_EL2_ASID, TLBI_EL2_ASID],
  [CMD_TLBI_EL2_VA, TLBI_EL2_VA],
  [CMD_TLBI_EL2_VAA, TLBI_EL2_VAA],
  [CMD_TLBI_S12_VMALL, TLBI_S12_VMALL],
  [CMD_TLBI_S2_IPA, TLBI_S2_IPA],
  [CMD_TLBI_NSNH_ALL, TLBI_NSNH_ALL],
  [CMD_ATC_INV, ATC_INV],
  [CMD_PRI_RESP, PRI_RESP],
  [CMD_RESUME, RESUME],
  [CMD_STALL_TERM, STALL_TERM],
  [CMD_SYNC, SYNC],
])
