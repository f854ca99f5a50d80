/**
 * The remapping hardware's registers. Intel VT-d 5.10 (D51397-018), chapter 11; what revision 5.0 added over 4.1
 * (host permission tables, second-stage I/O permissions, PASIDs in translated requests) is left out. The book's
 * `XXX_REG` is `XXX` here.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

/** Bytes of the register page that the fixed registers and the default record registers need. */
export const REGISTER_PAGE_BYTES = 0x1000

const registers = {
  VER: [0x000, 4, "RO", "Version, §11.4.1"],
  CAP: [0x008, 8, "RO", "Capability, §11.4.2"],
  ECAP: [0x010, 8, "RO", "Extended Capability, §11.4.3"],
  GCMD: [0x018, 4, "WO", "Global Command, §11.4.4.1"],
  GSTS: [0x01c, 4, "RO", "Global Status, §11.4.4.2"],
  RTADDR: [0x020, 8, "RW", "Root Table Address, §11.4.5"],
  CCMD: [0x028, 8, "RW", "Context Command, §11.4.6.1"],
  FSTS: [0x034, 4, "RW1C", "Fault Status, §11.4.7.1"],
  FECTL: [0x038, 4, "RW", "Fault Event Control, §11.4.7.2"],
  FEDATA: [0x03c, 4, "RW", "Fault Event Data, §11.4.7.3"],
  FEADDR: [0x040, 4, "RW", "Fault Event Address, §11.4.7.4"],
  FEUADDR: [0x044, 4, "RW", "Fault Event Upper Address, §11.4.7.5"],
  AFLOG: [0x058, 8, "RO", "Advanced Fault Log, §11.4.7.7"],
  PMEN: [0x064, 4, "RW", "Protected Memory Enable, §11.4.8.1"],
  PLMBASE: [0x068, 4, "RW", "Protected Low-Memory Base, §11.4.8.2"],
  PLMLIMIT: [0x06c, 4, "RW", "Protected Low-Memory Limit, §11.4.8.3"],
  PHMBASE: [0x070, 8, "RW", "Protected High-Memory Base, §11.4.8.4"],
  PHMLIMIT: [0x078, 8, "RW", "Protected High-Memory Limit, §11.4.8.5"],
  IQH: [0x080, 8, "RO", "Invalidation Queue Head, §11.4.9.1"],
  IQT: [0x088, 8, "RW", "Invalidation Queue Tail, §11.4.9.2"],
  IQA: [0x090, 8, "RW", "Invalidation Queue Address, §11.4.9.3"],
  ICS: [0x09c, 4, "RW1C", "Invalidation Completion Status, §11.4.9.4"],
  IECTL: [0x0a0, 4, "RW", "Invalidation Event Control, §11.4.9.5"],
  IEDATA: [0x0a4, 4, "RW", "Invalidation Event Data, §11.4.9.6"],
  IEADDR: [0x0a8, 4, "RW", "Invalidation Event Address, §11.4.9.7"],
  IEUADDR: [0x0ac, 4, "RW", "Invalidation Event Upper Address, §11.4.9.8"],
  IQERCD: [0x0b0, 8, "RO", "Invalidation Queue Error Record, §11.4.9.9"],
  IRTA: [0x0b8, 8, "RW", "Interrupt Remapping Table Address, §11.4.10"],
  PQH: [0x0c0, 8, "RW", "Page Request Queue Head, §11.4.11.1"],
  PQT: [0x0c8, 8, "RW", "Page Request Queue Tail, §11.4.11.2"],
  PQA: [0x0d0, 8, "RW", "Page Request Queue Address, §11.4.11.3"],
  PRS: [0x0dc, 4, "RW1C", "Page Request Status, §11.4.11.4"],
  PECTL: [0x0e0, 4, "RW", "Page Request Event Control, §11.4.11.5"],
  PEDATA: [0x0e4, 4, "RW", "Page Request Event Data, §11.4.11.6"],
  PEADDR: [0x0e8, 4, "RW", "Page Request Event Address, §11.4.11.7"],
  PEUADDR: [0x0ec, 4, "RW", "Page Request Event Upper Address, §11.4.11.8"],
} as const
/** The registers at fixed offsets. IVA, IOTLB and FRCD move: see {@link ivaOffset} and {@link faultRecordOffset}. */
export const REGISTERS: typeof registers = registers

export type RegisterName = keyof typeof REGISTERS

const capFields = {
  ND: [2, 0, "domain-ids: 4 + 2 * ND bits"],
  AFL: [3, 3, "advanced fault logging; reserved since revision 5.0"],
  RWBF: [4, 4, "write buffers need flushing"],
  PLMR: [5, 5, "protected low-memory region"],
  PHMR: [6, 6, "protected high-memory region"],
  CM: [7, 7, "caching mode: not-present entries may be cached"],
  SAGAW: [12, 8, "second-stage widths: bit 1 39 (3 levels), bit 2 48 (4), bit 3 57 (5)"],
  MGAW: [21, 16, "maximum guest address width - 1"],
  ZLR: [22, 22, "zero-length reads of write-only pages"],
  FRO: [33, 24, "offset of the fault recording registers / 16"],
  SSLPS: [37, 34, "second-stage large pages: bit 0 2 MiB, bit 1 1 GiB"],
  PSI: [39, 39, "page-selective invalidation"],
  NFR: [47, 40, "fault recording registers - 1"],
  MAMV: [53, 48, "largest address mask of a page-selective invalidation"],
  DWD: [54, 54, "drains writes"],
  DRD: [55, 55, "drains reads"],
  FS1GP: [56, 56, "first-stage 1 GiB pages"],
  PI: [59, 59, "posted interrupts"],
  FS5LP: [60, 60, "first-stage 5-level paging"],
  ECMDS: [61, 61, "enhanced commands"],
  ESIRTPS: [62, 62, "SIRTP invalidates the interrupt entry cache"],
  ESRTPS: [63, 63, "SRTP invalidates context, PASID and IOTLB caches"],
} as const
/** §11.4.2. */
export const CAP: BitLayout<typeof capFields> = bitLayout("CAP_REG", "VT-d 5.10 §11.4.2", 64, capFields)

const ecapFields = {
  C: [0, 0, "page walks in legacy mode are coherent"],
  QI: [1, 1, "queued invalidation"],
  DT: [2, 2, "device-TLBs"],
  IR: [3, 3, "interrupt remapping"],
  EIM: [4, 4, "extended interrupt mode"],
  PT: [6, 6, "pass-through"],
  SC: [7, 7, "snoop control"],
  IRO: [17, 8, "offset of IVA and IOTLB / 16"],
  MHMV: [23, 20, "largest handle mask"],
  MTS: [25, 25, "memory types"],
  NEST: [26, 26, "nested translation"],
  PRS: [29, 29, "page requests"],
  ERS: [30, 30, "execute requests"],
  SRS: [31, 31, "supervisor requests"],
  NWFS: [33, 33, "no-write flag"],
  EAFS: [34, 34, "extended accessed flag"],
  PSS: [39, 35, "PASID bits - 1"],
  PASID: [40, 40, "requests with PASID"],
  DIT: [41, 41, "device-TLB invalidation throttle"],
  PDS: [42, 42, "page-request drain"],
  SMTS: [43, 43, "scalable mode"],
  VCS: [44, 44, "virtual commands"],
  SSADS: [45, 45, "second-stage accessed and dirty flags"],
  SSTS: [46, 46, "second-stage translation in scalable mode"],
  FSTS: [47, 47, "first-stage translation"],
  SMPWCS: [48, 48, "page-walk snooping can be chosen in scalable mode"],
  RPS: [49, 49, "RID_PASID"],
  PMS: [51, 51, "performance monitoring"],
  ADMS: [52, 52, "abort-DMA mode"],
  RPRIVS: [53, 53, "RID_PRIV"],
  SMS: [58, 58, "stop markers"],
} as const
/** §11.4.3. */
export const ECAP: BitLayout<typeof ecapFields> = bitLayout("ECAP_REG", "VT-d 5.10 §11.4.3", 64, ecapFields)

/** Bits of GCMD (§11.4.4.1) and, in the same places, of GSTS (§11.4.4.2). */
export const TE: number = (1 << 31) >>> 0
export const SRTP: number = 1 << 30
export const SFL: number = 1 << 29
export const EAFL: number = 1 << 28
export const WBF: number = 1 << 27
export const QIE: number = 1 << 26
export const IRE: number = 1 << 25
export const SIRTP: number = 1 << 24
export const CFI: number = 1 << 23
/** Commands that stay in force until written as 0; the others take effect once, when written as 1. */
export const GCMD_STICKY: number = (TE | EAFL | QIE | IRE | CFI) >>> 0

const rtaddrFields = {
  TTM: [11, 10, "translation table mode: 0 legacy, 1 scalable, 3 abort DMA"],
  RTA: [63, 12, "root table address"],
} as const
/** §11.4.5. */
export const RTADDR: BitLayout<typeof rtaddrFields> = bitLayout(
  "RTADDR_REG",
  "VT-d 5.10 §11.4.5",
  64,
  rtaddrFields,
)
export const TTM_SHIFT = 10
export const TTM_MASK = 3
export const TTM_LEGACY = 0
export const TTM_SCALABLE = 1
export const TTM_ABORT = 3

const ccmdFields = {
  DID: [15, 0, "domain-id"],
  SID: [31, 16, "source-id"],
  FM: [33, 32, "function mask: how many low bits of the source-id's function are ignored, from bit 2"],
  CAIG: [60, 59, "granularity that was done: 0 none, 1 global, 2 domain, 3 device"],
  CIRG: [62, 61, "granularity asked for: 1 global, 2 domain, 3 device"],
  ICC: [63, 63, "invalidate the context-cache; cleared when done"],
} as const
/** §11.4.6.1. */
export const CCMD: BitLayout<typeof ccmdFields> = bitLayout("CCMD_REG", "VT-d 5.10 §11.4.6.1", 64, ccmdFields)
/** Bit 63, in the upper half. */
export const CCMD_ICC_HI: number = (1 << 31) >>> 0

const iotlbFields = {
  DID: [47, 32, "domain-id"],
  DW: [48, 48, "drain writes"],
  DR: [49, 49, "drain reads"],
  IAIG: [58, 57, "granularity that was done: 0 none, 1 global, 2 domain, 3 page"],
  IIRG: [61, 60, "granularity asked for: 1 global, 2 domain, 3 page"],
  IVT: [63, 63, "invalidate the IOTLB; cleared when done"],
} as const
/** §11.4.6.3, 8 bytes after IVA. */
export const IOTLB: BitLayout<typeof iotlbFields> = bitLayout(
  "IOTLB_REG",
  "VT-d 5.10 §11.4.6.3",
  64,
  iotlbFields,
)
/** Bit 63, in the upper half. */
export const IOTLB_IVT_HI: number = (1 << 31) >>> 0

const ivaFields = {
  AM: [5, 0, "log2 of the pages to invalidate"],
  IH: [6, 6, "only the leaf entry changed"],
  ADDR: [63, 12, "page address"],
} as const
/** §11.4.6.4. */
export const IVA: BitLayout<typeof ivaFields> = bitLayout("IVA_REG", "VT-d 5.10 §11.4.6.4", 64, ivaFields)

/** FSTS, §11.4.7.1. */
export const PFO: number = 1 << 0
export const PPF: number = 1 << 1
export const AFO: number = 1 << 2
export const APF: number = 1 << 3
export const IQE: number = 1 << 4
export const ICE: number = 1 << 5
export const ITE: number = 1 << 6
export const FRI_SHIFT = 8
export const FRI_MASK = 0xff

/** FECTL, IECTL and PECTL: interrupt mask and interrupt pending. */
export const IM: number = (1 << 31) >>> 0
export const IP: number = 1 << 30

/** PMEN, §11.4.8.1. */
export const EPM: number = (1 << 31) >>> 0
export const PMEN_PRS: number = 1 << 0

/** ICS, §11.4.9.4. */
export const IWC: number = 1 << 0

/** IQH and IQT: the offset within the queue, bits 18:4; bit 4 is reserved with 256-bit descriptors. */
export const QUEUE_OFFSET_MASK = 0x7fff0

const iqaFields = {
  QS: [2, 0, "queue size: 2^QS pages"],
  DW: [11, 11, "descriptors of 256 bits instead of 128"],
  IQA: [63, 12, "queue address"],
} as const
/** §11.4.9.3. */
export const IQA: BitLayout<typeof iqaFields> = bitLayout("IQA_REG", "VT-d 5.10 §11.4.9.3", 64, iqaFields)
export const IQA_QS_MASK = 7
export const IQA_DW: number = 1 << 11

const iqercdFields = {
  IQEI: [3, 0, "what was wrong with the descriptor: IQEI_*"],
  ITESID: [47, 32, "source-id whose device-TLB invalidation timed out"],
  ICESID: [63, 48, "source-id of the unexpected completion"],
} as const
/** §11.4.9.9. */
export const IQERCD: BitLayout<typeof iqercdFields> = bitLayout(
  "IQERCD_REG",
  "VT-d 5.10 §11.4.9.9",
  64,
  iqercdFields,
)
/** Bits 63:32. */
export const ITESID_MASK_HI = 0xffff
export const ICESID_SHIFT_HI = 16
/** Values of IQEI. */
export const IQEI_TAIL = 1
export const IQEI_FETCH = 2
export const IQEI_TYPE = 3
export const IQEI_RESERVED = 4
export const IQEI_WIDTH = 5
export const IQEI_TAIL_ALIGN = 6
export const IQEI_TTM = 7

/** PRS, §11.4.11.4. */
export const PPR: number = 1 << 0
export const PRO: number = 1 << 1
/** PQA, §11.4.11.3: 2^PQS pages of 4 KiB. */
export const PQA_PQS_MASK = 7

const irtaFields = {
  S: [3, 0, "2^(S+1) entries"],
  EIME: [11, 11, "extended interrupt mode"],
  IRTA: [63, 12, "interrupt remapping table address"],
} as const
/** §11.4.10. */
export const IRTA: BitLayout<typeof irtaFields> = bitLayout("IRTA_REG", "VT-d 5.10 §11.4.10", 64, irtaFields)

/** Bytes from the page's start to IVA; IOTLB follows it. §11.4.6.2. */
export function ivaOffset(ecap: bigint): number {
  return Number(ECAP.get([ecap], "IRO")) * 16
}

/** Bytes from the page's start to the first fault recording register. §11.4.7.6. */
export function faultRecordOffset(cap: bigint): number {
  return Number(CAP.get([cap], "FRO")) * 16
}

/** How many fault recording registers there are. §11.4.7.6. */
export function faultRecordCount(cap: bigint): number {
  return Number(CAP.get([cap], "NFR")) + 1
}
