/**
 * Fault reasons and fault records. Intel VT-d 5.10 (D51397-018) §7.1.3 (Table 30), §5.1.4.1 (Table 15) and §11.4.7.6. Reasons that
 * only host permission tables and PASIDs in translated requests have (revision 5.0) are left out.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

export interface FaultReason {
  /** The book's condition code; where one fault reason serves several (`LCT.4.1`, `LCT.4.2`), their common part. */
  readonly name: string
  /** Not recorded when an FPD bit was found set on the way. §7.1.1. */
  readonly qualified: boolean
  readonly meaning: string
}

/** Table 15 has no condition codes. Other reasons of interrupts are {@link INTERRUPT_REASONS}; 2Ah and 2Bh are left out. */
export const INTERRUPT_29 = 0x29
export const LRT_1 = 0x08
export const LRT_2 = 0x01
export const LRT_3 = 0x0a
export const LCT_1 = 0x09
export const LCT_2 = 0x02
export const LCT_3 = 0x0b
export const LCT_4 = 0x03
export const LCT_5 = 0x0d
export const LSS_1 = 0x07
export const LSS_2 = 0x0c
export const LGN_1 = 0x04
export const LGN_2 = 0x05
export const LGN_3 = 0x06
export const LGN_4 = 0x0e
export const RTA_1 = 0x30
export const RTA_2 = 0x31
export const RTA_3 = 0x32
export const RTA_4 = 0x33
export const RTA_5 = 0x34
export const SRT_1 = 0x38
export const SRT_2 = 0x39
export const SRT_3 = 0x3a
export const SCT_1 = 0x40
export const SCT_2 = 0x41
export const SCT_3 = 0x42
export const SCT_4 = 0x43
export const SCT_5 = 0x44
export const SCT_6 = 0x45
export const SCT_7 = 0x46
export const SCT_8 = 0x47
export const SCT_9 = 0x48
export const SPD_1 = 0x50
export const SPD_2 = 0x51
export const SPD_3 = 0x52
export const SPT_1 = 0x58
export const SPT_2 = 0x59
export const SPT_3 = 0x5a
export const SPT_4 = 0x5b
export const SPT_5 = 0x5c
export const SPT_6 = 0x5d
export const SFS_1 = 0x70
export const SFS_2 = 0x71
export const SFS_3 = 0x72
export const SFS_4 = 0x73
export const SFS_5 = 0x74
export const SFS_6 = 0x75
export const SFS_7 = 0x76
export const SFS_8 = 0x77
export const SFS_9 = 0x90
export const SFS_10 = 0x91
export const SSS_1 = 0x78
export const SSS_2 = 0x79
export const SSS_3 = 0x7a
export const SSS_4 = 0x7b
export const SSS_5 = 0x7c
export const SSS_6 = 0x7d
export const SGN_1 = 0x80
export const SGN_2 = 0x81
export const SGN_3 = 0x82
export const SGN_4 = 0x83
export const SGN_5 = 0x84
export const SGN_6 = 0x85
export const SGN_7 = 0x86
export const SGN_8 = 0x87
export const SGN_10 = 0x89

function qualified(name: string, meaning: string): FaultReason {
  return { name, qualified: true, meaning }
}

function unqualified(name: string, meaning: string): FaultReason {
  return { name, qualified: false, meaning }
}

export const FAULT_REASONS: ReadonlyMap<number, FaultReason> = new Map([
  [INTERRUPT_29, unqualified("29h", "a request to the interrupt address range that is no interrupt message")],
  [LRT_1, unqualified("LRT.1", "the root entry could not be read")],
  [LRT_2, unqualified("LRT.2", "the root entry is not present")],
  [LRT_3, unqualified("LRT.3", "a reserved bit is set in the root entry")],
  [LCT_1, unqualified("LCT.1", "the context entry could not be read")],
  [LCT_2, qualified("LCT.2", "the context entry is not present")],
  [LCT_3, qualified("LCT.3", "a reserved bit is set in the context entry")],
  [LCT_4, qualified("LCT.4", "the context entry has an unsupported AW or TT, or an unreadable SSPTPTR")],
  [LCT_5, qualified("LCT.5", "the context entry's TT blocks translation and translated requests")],
  [LSS_1, qualified("LSS.1", "a second-stage paging entry could not be read")],
  [LSS_2, qualified("LSS.2", "a reserved bit is set in a second-stage paging entry")],
  [LGN_1, qualified("LGN.1", "the address is beyond the width of the translation")],
  [LGN_2, qualified("LGN.2", "no write permission")],
  [LGN_3, qualified("LGN.3", "no read permission")],
  [LGN_4, qualified("LGN.4", "the output address lies in the interrupt address range")],
  [RTA_1, unqualified("RTA.1", "RTADDR_REG has a translation table mode that is reserved or unsupported")],
  [RTA_2, unqualified("RTA.2", "a request with PASID in legacy mode")],
  [RTA_3, unqualified("RTA.3", "a page request in legacy mode")],
  [RTA_4, unqualified("RTA.4", "abort-DMA mode blocks every request")],
  [RTA_5, unqualified("RTA.5", "an execute request, which this hardware does not serve")],
  [SRT_1, unqualified("SRT.1", "the scalable-mode root entry could not be read")],
  [SRT_2, unqualified("SRT.2", "the half of the scalable-mode root entry is not present")],
  [SRT_3, unqualified("SRT.3", "a reserved bit is set in the scalable-mode root entry")],
  [SCT_1, unqualified("SCT.1", "the scalable-mode context entry could not be read")],
  [SCT_2, qualified("SCT.2", "the scalable-mode context entry is not present")],
  [SCT_3, qualified("SCT.3", "a reserved bit is set in the scalable-mode context entry")],
  [
    SCT_4,
    qualified("SCT.4", "the scalable-mode context entry has PRE without DTE, or RID_PASID beyond PDTS"),
  ],
  [SCT_5, qualified("SCT.5", "DTE is clear in the scalable-mode context entry")],
  [SCT_6, qualified("SCT.6", "PASIDE is clear in the scalable-mode context entry")],
  [SCT_7, qualified("SCT.7", "the PASID is larger than PDTS allows")],
  [SCT_8, qualified("SCT.8", "PRE is clear in the scalable-mode context entry")],
  [SCT_9, qualified("SCT.9", "the PASID of the request is the entry's RID_PASID")],
  [SPD_1, unqualified("SPD.1", "the PASID directory entry could not be read")],
  [SPD_2, qualified("SPD.2", "the PASID directory entry is not present")],
  [SPD_3, qualified("SPD.3", "a reserved bit is set in the PASID directory entry")],
  [SPT_1, unqualified("SPT.1", "the PASID table entry could not be read")],
  [SPT_2, qualified("SPT.2", "the PASID table entry is not present")],
  [SPT_3, qualified("SPT.3", "a reserved bit is set in the PASID table entry")],
  [SPT_4, qualified("SPT.4", "the PASID table entry has an unsupported AW, PGTT, FSPM or FSPTPTR")],
  [SPT_5, qualified("SPT.5", "an execute request, which this hardware does not serve")],
  [SPT_6, qualified("SPT.6", "SRE is clear in the PASID table entry used for a privileged request")],
  [SFS_1, qualified("SFS.1", "a first-stage paging entry could not be read")],
  [SFS_2, qualified("SFS.2", "a first-stage paging entry is not present")],
  [SFS_3, qualified("SFS.3", "a reserved bit is set in a first-stage paging entry")],
  [SFS_4, qualified("SFS.4", "the first-stage paging entry at FSPTPTR could not be read")],
  [SFS_5, qualified("SFS.5", "the address in a first-stage paging entry is beyond the second stage's width")],
  [SFS_6, qualified("SFS.6", "the second stage forbids reading the first-stage paging entry at FSPTPTR")],
  [SFS_7, qualified("SFS.7", "the second stage forbids reading a first-stage paging entry")],
  [SFS_8, qualified("SFS.8", "the second stage forbids the A/D update of a first-stage paging entry")],
  [SFS_9, qualified("SFS.9", "a first-stage A/D update is needed, but page walks do not snoop")],
  [SFS_10, qualified("SFS.10", "the A/D update of a first-stage paging entry failed")],
  [SSS_1, qualified("SSS.1", "a second-stage paging entry could not be read")],
  [SSS_2, qualified("SSS.2", "the second stage grants neither read nor write permission")],
  [SSS_3, qualified("SSS.3", "a reserved bit is set in a second-stage paging entry")],
  [SSS_4, qualified("SSS.4", "the second-stage paging entry at SSPTPTR could not be read")],
  [SSS_5, qualified("SSS.5", "a second-stage A/D update is needed, but page walks do not snoop")],
  [SSS_6, qualified("SSS.6", "the A/D update of a second-stage paging entry failed")],
  [SGN_1, qualified("SGN.1", "the address is not canonical")],
  [SGN_2, qualified("SGN.2", "a user request to a supervisor page")],
  [SGN_3, qualified("SGN.3", "an execute request to an execute-disabled page (earlier revisions only)")],
  [SGN_4, qualified("SGN.4", "the host address is beyond the host address width")],
  [SGN_5, qualified("SGN.5", "the address is beyond the width of the second stage")],
  [SGN_6, qualified("SGN.6", "no write permission")],
  [SGN_7, qualified("SGN.7", "no read permission")],
  [SGN_8, qualified("SGN.8", "the output address lies in the interrupt address range")],
  [SGN_10, qualified("SGN.10", "the PASID is larger than ECAP_REG.PSS allows")],
])

/** Reasons of remapped interrupts, which the model does not have. Table 15; 29h is among the others. */
export const INTERRUPT_REASONS: ReadonlyMap<number, string> = new Map([
  [0x20, "a reserved field is set in an interrupt request of remappable format"],
  [0x21, "the interrupt index is beyond the interrupt remapping table"],
  [0x22, "the interrupt remapping table entry is not present"],
  [0x23, "the interrupt remapping table could not be read"],
  [0x24, "a reserved field is set in the interrupt remapping table entry"],
  [0x25, "interrupt requests of compatibility format are blocked"],
  [0x26, "the requester is not the one that the interrupt remapping table entry names"],
  [0x27, "the posted interrupt descriptor could not be read"],
  [0x28, "a reserved field is set in the posted interrupt descriptor"],
])

/** Translation requests with these faults are answered "Unsupported Request". §7.1.3, Table 30. */
export const UNSUPPORTED_REQUESTS: ReadonlySet<number> = new Set([
  LRT_2,
  LCT_2,
  LCT_5,
  RTA_2,
  RTA_4,
  RTA_5,
  SRT_2,
  SCT_2,
  SCT_5,
  SCT_6,
  SCT_7,
  SCT_9,
  SGN_10,
])

/** Translation requests with these faults are answered "Completer Abort"; with all others, "no permission". */
export const COMPLETER_ABORTS: ReadonlySet<number> = new Set([
  LRT_1,
  LRT_3,
  LCT_1,
  LCT_3,
  LCT_4,
  LSS_1,
  LSS_2,
  LGN_4,
  RTA_1,
  SRT_1,
  SRT_3,
  SCT_1,
  SCT_3,
  SCT_4,
  SPD_1,
  SPD_3,
  SPT_1,
  SPT_3,
  SPT_4,
  SSS_1,
  SSS_3,
  SSS_4,
  SSS_5,
  SSS_6,
  SGN_8,
])

const recordFields = {
  FI: [63, 12, "page address of the request; of a remapped interrupt its index, in bits 63:48"],
  SID: [79, 64, "source-id"],
  T2: [92, 92, "with T1: 00 write, 01 page request, 10 read, 11 AtomicOp"],
  PRIV: [93, 93, "privileged; only with PP"],
  EXE: [94, 94, "execute permission asked for; only with PP, in reads"],
  PP: [95, 95, "the request had a PASID"],
  FR: [103, 96, "fault reason"],
  PV: [123, 104, "PASID; only with PP"],
  AT: [125, 124, "address type: 0 untranslated, 1 translation request, 2 translated"],
  T1: [126, 126, "see T2"],
  F: [127, 127, "fault pending; cleared by writing 1"],
} as const
/** A fault recording register. §11.4.7.6. */
export const FRCD: BitLayout<typeof recordFields> = bitLayout(
  "FRCD_REG",
  "VT-d 5.10 §11.4.7.6",
  128,
  recordFields,
)
export const FRCD_BYTES = 16
/** Bits of FI that hold the index of a remapped interrupt. */
export const FI_INDEX_SHIFT = 36n
/** Bit 127, in the last 32-bit word of the record. */
export const FRCD_F: number = (1 << 31) >>> 0

const pageRequestFields = {
  Type: [7, 0, "1"],
  PP: [8, 8, "the request had a PASID"],
  RID: [31, 16, "requester-id"],
  PASID: [51, 32, "PASID; only with PP"],
  EXR: [52, 52, "execute requested"],
  PMR: [53, 53, "privileged mode requested"],
  RDR: [64, 64, "read requested"],
  WRR: [65, 65, "write requested"],
  LPIG: [66, 66, "last page in group"],
  PRGI: [75, 67, "page request group index"],
  ADDR: [127, 76, "page address"],
} as const
/** An entry of the page request queue. §7.4.1.1. */
export const PAGE_REQ_DSC: BitLayout<typeof pageRequestFields> = bitLayout(
  "page_req_dsc",
  "VT-d 5.10 §7.4.1.1",
  256,
  pageRequestFields,
)
export const PAGE_REQ_BYTES = 32
export const PAGE_REQ_TYPE = 1
/** Bits 31:0, 63:32 and 95:64 of an entry. */
export const PAGE_REQ_PP: number = 1 << 8
export const PAGE_REQ_RID_SHIFT = 16
export const PAGE_REQ_EXR_HI: number = 1 << 20
export const PAGE_REQ_PMR_HI: number = 1 << 21
export const PAGE_REQ_RDR_LO1: number = 1 << 0
export const PAGE_REQ_WRR_LO1: number = 1 << 1
export const PAGE_REQ_LPIG_LO1: number = 1 << 2
export const PAGE_REQ_PRGI_SHIFT_LO1 = 3
