/**
 * MMIO registers. AMD I/O Virtualization Technology (IOMMU) Specification 48882, rev 3.10, §3.4.
 *
 * The book names registers in words and tells them apart by offset ("MMIO Offset 0018h"); the short names here
 * are those that dumps use. Bits are in 32-bit halves:
 * a constant that ends in `_HI` belongs to bits 63:32 and is shifted down by 32.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

/** Bytes of the register region with everything that this project knows; §3.2.2 aligns its base to it. */
export const MMIO_BYTES = 0x4000

/** `[offset, bytes, access, meaning]`; access is the register's main one, single bits differ (see the layouts). */
export const REGISTERS = {
  DEVTAB_BASE: [0x0000, 8, "RW", "Device Table Base Address"],
  CMDBUF_BASE: [0x0008, 8, "RW", "Command Buffer Base Address"],
  EVTLOG_BASE: [0x0010, 8, "RW", "Event Log Base Address"],
  CONTROL: [0x0018, 8, "RW", "IOMMU Control"],
  EXCL_BASE: [0x0020, 8, "RW", "Exclusion Range Base / Completion Store Base"],
  EXCL_LIMIT: [0x0028, 8, "RW", "Exclusion Range Limit / Completion Store Limit"],
  EXT_FEATURES: [0x0030, 8, "RO", "Extended Feature"],
  PPR_BASE: [0x0038, 8, "RW", "PPR Log Base Address"],
  HWEV_UPPER: [0x0040, 8, "RW", "Hardware Event Upper"],
  HWEV_LOWER: [0x0048, 8, "RW", "Hardware Event Lower"],
  HWEV_STATUS: [0x0050, 8, "RW1C", "Hardware Event Status"],
  GALOG_BASE: [0x00e0, 8, "RW", "Guest Virtual APIC Log Base Address"],
  GALOG_TAIL_ADDR: [0x00e8, 8, "RW", "Guest Virtual APIC Log Tail Address"],
  PPRB_BASE: [0x00f0, 8, "RW", "PPR Log B Base Address"],
  EVTLOGB_BASE: [0x00f8, 8, "RW", "Event Log B Base Address"],
  DEVTAB_SEG1_BASE: [0x0100, 8, "RW", "Device Table Segment 1 Base Address"],
  DEVTAB_SEG2_BASE: [0x0108, 8, "RW", "Device Table Segment 2 Base Address"],
  DEVTAB_SEG3_BASE: [0x0110, 8, "RW", "Device Table Segment 3 Base Address"],
  DEVTAB_SEG4_BASE: [0x0118, 8, "RW", "Device Table Segment 4 Base Address"],
  DEVTAB_SEG5_BASE: [0x0120, 8, "RW", "Device Table Segment 5 Base Address"],
  DEVTAB_SEG6_BASE: [0x0128, 8, "RW", "Device Table Segment 6 Base Address"],
  DEVTAB_SEG7_BASE: [0x0130, 8, "RW", "Device Table Segment 7 Base Address"],
  DSFX: [0x0138, 8, "RO", "Device-Specific Feature Extension"],
  DSCX: [0x0140, 8, "RW", "Device-Specific Control Extension"],
  DSSX: [0x0148, 8, "RO", "Device-Specific Status Extension"],
  MSI_VECTOR_0: [0x0150, 4, "RO", "MSI Vector 0"],
  MSI_VECTOR_1: [0x0154, 4, "RO", "MSI Vector 1"],
  MSI_CAP_HEADER: [0x0158, 4, "RW", "MSI Capability Header"],
  MSI_ADDR_LO: [0x015c, 4, "RW", "MSI Address Low"],
  MSI_ADDR_HI: [0x0160, 4, "RW", "MSI Address High"],
  MSI_DATA: [0x0164, 4, "RW", "MSI Data"],
  MSI_MAPPING_CAP: [0x0168, 4, "RO", "MSI Mapping Capability Header"],
  PERF_OPT_CONTROL: [0x016c, 4, "RW", "Performance Optimization Control"],
  XT_GEN_INT_CONTROL: [0x0170, 8, "RW", "XT IOMMU General Interrupt Control"],
  XT_PPR_INT_CONTROL: [0x0178, 8, "RW", "XT IOMMU PPR Interrupt Control"],
  XT_GA_INT_CONTROL: [0x0180, 8, "RW", "XT IOMMU GA Log Interrupt Control"],
  VIOMMU_STATUS: [0x0190, 8, "RO", "vIOMMU Status"],
  EXT_FEATURES2: [0x01a0, 8, "RO", "Extended Feature 2"],
  CMD_HEAD: [0x2000, 8, "RW", "Command Buffer Head Pointer"],
  CMD_TAIL: [0x2008, 8, "RW", "Command Buffer Tail Pointer"],
  EVT_HEAD: [0x2010, 8, "RW", "Event Log Head Pointer"],
  EVT_TAIL: [0x2018, 8, "RW", "Event Log Tail Pointer"],
  STATUS: [0x2020, 8, "RW1C", "IOMMU Status"],
  PPR_HEAD: [0x2030, 8, "RW", "PPR Log Head Pointer"],
  PPR_TAIL: [0x2038, 8, "RW", "PPR Log Tail Pointer"],
  GALOG_HEAD: [0x2040, 8, "RW", "Guest Virtual APIC Log Head Pointer"],
  GALOG_TAIL: [0x2048, 8, "RW", "Guest Virtual APIC Log Tail Pointer"],
  PPRB_HEAD: [0x2050, 8, "RW", "PPR Log B Head Pointer"],
  PPRB_TAIL: [0x2058, 8, "RW", "PPR Log B Tail Pointer"],
  EVTB_HEAD: [0x2070, 8, "RW", "Event Log B Head Pointer"],
  EVTB_TAIL: [0x2078, 8, "RW", "Event Log B Tail Pointer"],
  PPR_AUTO_RESPONSE: [0x2080, 8, "RW", "PPR Log Auto Response"],
  PPR_OVERFLOW_EARLY: [0x2088, 8, "RW", "PPR Log Overflow Early Indicator"],
  PPRB_OVERFLOW_EARLY: [0x2090, 8, "RW", "PPR Log B Overflow Early Indicator"],
} as const

export type RegisterName = keyof typeof REGISTERS

/** The base registers of the device table segments; segment 0 is DEVTAB_BASE. */
export const DEVTAB_SEGMENTS = [
  "DEVTAB_BASE",
  "DEVTAB_SEG1_BASE",
  "DEVTAB_SEG2_BASE",
  "DEVTAB_SEG3_BASE",
  "DEVTAB_SEG4_BASE",
  "DEVTAB_SEG5_BASE",
  "DEVTAB_SEG6_BASE",
  "DEVTAB_SEG7_BASE",
] as const

// DEVTAB_BASE: bytes of the table = (Size + 1) * 4096.
export const DEVTAB_SIZE = 0x1ff
/** Segments 1 to 7 have a Size of eight bits. */
export const DEVTAB_SEG_SIZE = 0xff
/** Address bits 31:12 of any base register. */
export const BASE_LO = 0xffff_f000
/** Address bits 51:32 of any base register. */
export const BASE_HI = 0x000f_ffff

// CMDBUF_BASE, EVTLOG_BASE, PPR_BASE: entries = 2 ** Len, 8 to 15; others are reserved.
export const BUFFER_LEN_HI_SHIFT = 24
export const BUFFER_LEN_MASK = 0xf
export const BUFFER_LEN_MIN = 8
/** Head and tail pointers count bytes, in entries of 16: bits 18:4. */
export const POINTER_MASK = 0x7_fff0

// CONTROL, low half.
export const CONTROL_IommuEn: number = 1 << 0
export const CONTROL_HtTunEn: number = 1 << 1
export const CONTROL_EventLogEn: number = 1 << 2
export const CONTROL_EventIntEn: number = 1 << 3
export const CONTROL_ComWaitIntEn: number = 1 << 4
export const CONTROL_InvTimeOut_SHIFT = 5
export const CONTROL_InvTimeOut_MASK = 7
export const CONTROL_PassPW: number = 1 << 8
export const CONTROL_ResPassPW: number = 1 << 9
export const CONTROL_Coherent: number = 1 << 10
export const CONTROL_Isoc: number = 1 << 11
export const CONTROL_CmdBufEn: number = 1 << 12
export const CONTROL_PPRLogEn: number = 1 << 13
export const CONTROL_PPRIntEn: number = 1 << 14
export const CONTROL_PPREn: number = 1 << 15
export const CONTROL_GTEn: number = 1 << 16
export const CONTROL_GAEn: number = 1 << 17
// CONTROL, high half.
export const CONTROL_DevTblSegEn_HI_SHIFT = 2
export const CONTROL_DevTblSegEn_MASK = 7
export const CONTROL_PrivAbrtEn_HI_SHIFT = 5
export const CONTROL_PrivAbrtEn_MASK = 3
export const CONTROL_PprAutoRspEn_HI: number = 1 << 7
export const CONTROL_PprAutoRspAon_HI: number = 1 << 10
export const CONTROL_EPHEn_HI: number = 1 << 13
export const CONTROL_HADUpdate_HI_SHIFT = 14
export const CONTROL_HADUpdate_MASK = 3
export const CONTROL_GDUpdateDis_HI: number = 1 << 16
export const CONTROL_XTEn_HI: number = 1 << 18
export const CONTROL_IntCapXTEn_HI: number = 1 << 19
export const CONTROL_GAUpdateDis_HI: number = 1 << 22
export const CONTROL_GCR3TRPMode_HI: number = 1 << 26

export const fieldsCONTROL = {
  IommuEn: [0, 0, "translate and check; 0: pass everything through"],
  HtTunEn: [1, 1, "HyperTransport tunnel translation"],
  EventLogEn: [2, 2, "log events"],
  EventIntEn: [3, 3, "interrupt when EventLogInt becomes 1"],
  ComWaitIntEn: [4, 4, "interrupt when ComWaitInt becomes 1"],
  InvTimeOut: [7, 5, "time to wait for an IOTLB invalidation: 0 none, then 1 ms to 100 s by tens"],
  PassPW: [8, 8, "HyperTransport PassPW of requests"],
  ResPassPW: [9, 9, "HyperTransport ResPassPW of requests"],
  Coherent: [10, 10, "device table reads snoop processor caches"],
  Isoc: [11, 11, "HyperTransport Isoc of requests"],
  CmdBufEn: [12, 12, "fetch commands"],
  PPRLogEn: [13, 13, "log peripheral page requests"],
  PPRIntEn: [14, 14, "interrupt when PPRInt becomes 1"],
  PPREn: [15, 15, "process peripheral page requests"],
  GTEn: [16, 16, "guest translation"],
  GAEn: [17, 17, "guest virtual APIC: 128-bit interrupt table entries"],
  CRW: [21, 18, "to be zero"],
  SmiFEn: [22, 22, "SMI filter"],
  SlfWBDis: [23, 23, "self write-back disable"],
  SmiFLogEn: [24, 24, "SMI filter logging"],
  GAMEn: [27, 25, "guest virtual APIC mode"],
  GALogEn: [28, 28, "guest virtual APIC log"],
  GAIntEn: [29, 29, "guest virtual APIC log interrupt"],
  DualPprLogEn: [31, 30, "two PPR logs"],
  DualEventLogEn: [33, 32, "two event logs"],
  DevTblSegEn: [36, 34, "device table in 2 ** n segments, n up to 3"],
  PrivAbrtEn: [38, 37, "abort privileged requests"],
  PprAutoRspEn: [39, 39, "automatic response when the PPR log overflows"],
  MarcEn: [40, 40, "memory access routing and control"],
  BlkStopMrkEn: [41, 41, "block StopMark messages"],
  PprAutoRspAon: [42, 42, "always respond automatically"],
  NumIntRemapMode: [44, 43, "interrupts per function: 512 or 2048"],
  EPHEn: [45, 45, "enhanced PPR handling"],
  HADUpdate: [47, 46, "who updates A and D of host tables"],
  GDUpdateDis: [48, 48, "do not update D in guest tables"],
  XTEn: [50, 50, "x2APIC"],
  IntCapXTEn: [51, 51, "own interrupts by the XT registers"],
  vCmdEn: [52, 52, "virtualized command buffer"],
  vIommuEn: [53, 53, "virtualized IOMMU"],
  GAUpdateDis: [54, 54, "do not update A in guest tables"],
  GAPPIEn: [55, 55, "guest APIC physical processor interrupt"],
  TMPMEn: [56, 56, "tiered memory page migration"],
  GCR3TRPMode: [58, 58, "the GCR3 table root pointer is a guest physical address"],
  IRTCacheDis: [59, 59, "do not cache interrupt table entries"],
  GstBufferTRPMode: [60, 60, "guest buffer root pointers are guest physical addresses"],
  SNPAVICEn: [63, 61, "SNP AVIC mode"],
} as const
export const CONTROL: BitLayout<typeof fieldsCONTROL> = bitLayout(
  "CONTROL",
  "AMD 48882 §3.4, MMIO Offset 0018h",
  64,
  fieldsCONTROL,
)

// EXT_FEATURES, low half.
export const EFR_PreFSup: number = 1 << 0
export const EFR_PPRSup: number = 1 << 1
export const EFR_XTSup: number = 1 << 2
export const EFR_NXSup: number = 1 << 3
export const EFR_GTSup: number = 1 << 4
export const EFR_IASup: number = 1 << 6
export const EFR_GASup: number = 1 << 7
export const EFR_HESup: number = 1 << 8
export const EFR_HATS_SHIFT = 10
export const EFR_GATS_SHIFT = 12
export const EFR_GLXSup_SHIFT = 14
// EXT_FEATURES, high half.
export const EFR_PASmax_HI_SHIFT = 0
export const EFR_PASmax_MASK = 0x1f
export const EFR_USSup_HI: number = 1 << 5
export const EFR_DevTblSegSup_HI_SHIFT = 6
export const EFR_PprOvrflwEarlySup_HI: number = 1 << 8
export const EFR_PprAutoRspSup_HI: number = 1 << 9
export const EFR_GIoSup_HI: number = 1 << 16
export const EFR_HASup_HI: number = 1 << 17
export const EFR_EPHSup_HI: number = 1 << 18
export const EFR_HDSup_HI: number = 1 << 20

export const fieldsEXT_FEATURES = {
  PreFSup: [0, 0, "PREFETCH_IOMMU_PAGES"],
  PPRSup: [1, 1, "peripheral page requests"],
  XTSup: [2, 2, "x2APIC"],
  NXSup: [3, 3, "no-execute and privilege levels in guest tables"],
  GTSup: [4, 4, "guest translation"],
  GAPPISup: [5, 5, "guest APIC physical processor interrupt"],
  IASup: [6, 6, "INVALIDATE_IOMMU_ALL"],
  GASup: [7, 7, "guest virtual APIC"],
  HESup: [8, 8, "hardware error registers"],
  PCSup: [9, 9, "performance counters"],
  HATS: [11, 10, "host levels: 0 four, 1 five, 2 six, 3 none"],
  GATS: [13, 12, "guest levels: 0 four, 1 five, 2 six"],
  GLXSup: [15, 14, "levels of the GCR3 table: 0 one, 1 two, 2 three"],
  SmiFSup: [17, 16, "SMI filter"],
  SmiFRC: [20, 18, "SMI filter registers"],
  GAMSup: [23, 21, "guest virtual APIC modes"],
  DualPprLogSup: [25, 24, "two PPR logs"],
  DualEventLogSup: [29, 28, "two event logs"],
  SATSSup: [31, 31, "secure ATS"],
  PASmax: [36, 32, "PASIDs have PASmax + 1 bits"],
  USSup: [37, 37, "user/supervisor protection"],
  DevTblSegSup: [39, 38, "device table in up to 2 ** n segments"],
  PprOvrflwEarlySup: [40, 40, "early warning of PPR log overflow"],
  PprAutoRspSup: [41, 41, "automatic PPR response"],
  MarcSup: [43, 42, "memory access routing and control"],
  BlkStopMrkSup: [44, 44, "block StopMark messages"],
  PerfOptSup: [45, 45, "performance optimization"],
  MsiCapMmioSup: [46, 46, "MSI capability through MMIO"],
  SnoopAttrSup: [47, 47, "snoop attributes"],
  GIoSup: [48, 48, "guest I/O protection: PASID 0 for requests without one"],
  HASup: [49, 49, "hardware sets A in host tables"],
  EPHSup: [50, 50, "enhanced PPR handling"],
  AttrFWSup: [51, 51, "attribute forwarding"],
  HDSup: [52, 52, "hardware sets D in host tables"],
  V2HDDisSup: [53, 53, "dirty update of guest tables can be disabled"],
  InvIotlbTypeSup: [54, 54, "type of IOTLB invalidation"],
  vIommuSup: [55, 55, "virtualized IOMMU"],
  VmGuardIoSup: [56, 56, "VMGuard I/O"],
  GAUpdateDisSup: [61, 61, "accessed update of guest tables can be disabled"],
  ForcePhyDestSup: [62, 62, "force physical destination of remapped interrupts"],
  SNPSup: [63, 63, "secure nested paging"],
} as const
export const EXT_FEATURES: BitLayout<typeof fieldsEXT_FEATURES> = bitLayout(
  "EXT_FEATURES",
  "AMD 48882 §3.4, MMIO Offset 0030h",
  64,
  fieldsEXT_FEATURES,
)

export const fieldsMISC_INFO_0 = {
  MsiNum: [4, 0, "number of the general interrupt message"],
  GVAsize: [7, 5, "guest virtual address: 010b 48 bits"],
  PAsize: [14, 8, "bits of a physical address"],
  VAsize: [21, 15, "bits of a device virtual address: 32, 40, 48 or 64"],
  HtAtsResv: [22, 22, "the ATS response range of HyperTransport is reserved"],
  MsiNumPPR: [31, 27, "number of the PPR interrupt message"],
} as const
/** What the book calls MSI Vector Register 0 here, and Miscellaneous Information Register 0 in the PCI capability. */
export const MISC_INFO_0: BitLayout<typeof fieldsMISC_INFO_0> = bitLayout(
  "MISC_INFO_0",
  "AMD 48882 §3.4, MMIO Offset 0150h",
  32,
  fieldsMISC_INFO_0,
)

/** EXT_FEATURES2, low half: the GCR3 table may be addressed by guest physical addresses. */
export const EFR2_GCR3TRPModeSup: number = 1 << 3

export const fieldsEXT_FEATURES2 = {
  SEVSNPIOSup: [1, 1, "SEV-SNP trusted I/O"],
  TMPMSup: [2, 2, "tiered memory page migration"],
  GCR3TRPModeSup: [3, 3, "CONTROL.GCR3TRPMode"],
  GAPPIDisSup: [4, 4, "guest APIC physical processor interrupts can be disabled per entry"],
  SNPAVICSup: [7, 5, "SNP AVIC modes"],
} as const
export const EXT_FEATURES2: BitLayout<typeof fieldsEXT_FEATURES2> = bitLayout(
  "EXT_FEATURES2",
  "AMD 48882 §3.4, MMIO Offset 01A0h",
  64,
  fieldsEXT_FEATURES2,
)

// STATUS, low half. Bits marked RW1C are cleared by writing 1, the others are RO.
export const STATUS_EventOverflow: number = 1 << 0
export const STATUS_EventLogInt: number = 1 << 1
export const STATUS_ComWaitInt: number = 1 << 2
export const STATUS_EventLogRun: number = 1 << 3
export const STATUS_CmdBufRun: number = 1 << 4
export const STATUS_PprOverflow: number = 1 << 5
export const STATUS_PprInt: number = 1 << 6
export const STATUS_PprLogRun: number = 1 << 7
export const STATUS_PprOvrflwEarly: number = 1 << 18
export const STATUS_RW1C = 0x0006_8e67

export const fieldsSTATUS = {
  EventOverflow: [0, 0, "RW1C: an event was lost, logging has stopped"],
  EventLogInt: [1, 1, "RW1C: an event was logged"],
  ComWaitInt: [2, 2, "RW1C: a COMPLETION_WAIT with I = 1 completed"],
  EventLogRun: [3, 3, "RO: events are being logged"],
  CmdBufRun: [4, 4, "RO: commands are being fetched"],
  PprOverflow: [5, 5, "RW1C: a PPR was lost"],
  PprInt: [6, 6, "RW1C: a PPR was logged"],
  PprLogRun: [7, 7, "RO: PPRs are being logged"],
  GALogRun: [8, 8, "RO: the guest virtual APIC log runs"],
  GALOverflow: [9, 9, "RW1C: the guest virtual APIC log overflowed"],
  GAInt: [10, 10, "RW1C: guest virtual APIC log interrupt"],
  PprOvrflwB: [11, 11, "RW1C: PPR log B overflowed"],
  PprLogActive: [12, 12, "RO: 0 log A, 1 log B"],
  EvtOvrflwB: [15, 15, "RW1C: event log B overflowed"],
  EvtLogActive: [16, 16, "RO: 0 log A, 1 log B"],
  PprOvrflwEarlyB: [17, 17, "RW1C: PPR log B is nearly full"],
  PprOvrflwEarly: [18, 18, "RW1C: the PPR log is nearly full"],
} as const
export const STATUS: BitLayout<typeof fieldsSTATUS> = bitLayout(
  "STATUS",
  "AMD 48882 §3.4, MMIO Offset 2020h",
  64,
  fieldsSTATUS,
)

// PPR_AUTO_RESPONSE, MMIO Offset 2080h.
export const AUTO_PprAutoRespCode = 0xf
export const AUTO_PprAutoRespMaskGn: number = 1 << 4

export const fieldsPPR_AUTO_RESPONSE = {
  PprAutoRespCode: [3, 0, "response code of automatic answers"],
  PprAutoRespMaskGn: [4, 4, "automatic answers carry no PASID"],
} as const
export const PPR_AUTO_RESPONSE: BitLayout<typeof fieldsPPR_AUTO_RESPONSE> = bitLayout(
  "PPR_AUTO_RESPONSE",
  "AMD 48882 §3.4, MMIO Offset 2080h",
  64,
  fieldsPPR_AUTO_RESPONSE,
)

// PPR_OVERFLOW_EARLY, MMIO Offset 2088h.
export const EARLY_Threshold = 0x7fff
export const EARLY_IntEn: number = 1 << 30
export const EARLY_En: number = 1 << 31

export const fieldsPPR_OVERFLOW_EARLY = {
  PprOvrflwEarlyThreshold: [14, 0, "entries in the log that make it nearly full"],
  PprOvrflwEarlyIntEn: [30, 30, "interrupt when STATUS.PprOvrflwEarly becomes 1"],
  PprOvrflwEarlyEn: [31, 31, "set STATUS.PprOvrflwEarly at the threshold"],
} as const
export const PPR_OVERFLOW_EARLY: BitLayout<typeof fieldsPPR_OVERFLOW_EARLY> = bitLayout(
  "PPR_OVERFLOW_EARLY",
  "AMD 48882 §3.4, MMIO Offset 2088h",
  64,
  fieldsPPR_OVERFLOW_EARLY,
)

// EXCL_BASE; EXCL_LIMIT holds bits 51:12 of the last page.
export const EXCL_ExEn: number = 1 << 0
export const EXCL_Allow: number = 1 << 1

// MSI_CAP_HEADER: messages are sent while MsiEn is 1.
export const MSI_MsiEn: number = 1 << 16

// XT_GEN_INT_CONTROL, MMIO Offset 0170h.
export const XT_DestMode: number = 1 << 2
export const XT_DestinationLo_SHIFT = 8
export const XT_Vector_HI_MASK = 0xff
export const XT_DeliveryMode_HI: number = 1 << 8
export const XT_DestinationHi_HI_SHIFT = 24
