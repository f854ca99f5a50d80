/** Registers of a Linux 6.12 guest on QEMU 11.1, and bit positions typed from the book's register tables. */
export const LINUX_QEMU = {
  DEVTAB_BASE: 0x1000007n,
  CMDBUF_BASE: 0x9000001401fe000n,
  EVTLOG_BASE: 0x900000145c72000n,
  CONTROL: 0x3148fn,
  EXT_FEATURES: 0x29d3n,
  STATUS: 0x18n,
} as const

/** What Linux printed of EXT_FEATURES 0x29d3 on that machine: "PreF PPR GT IA GA HE". */
export const LINUX_QEMU_FEATURES = {
  PreFSup: 1n,
  PPRSup: 1n,
  XTSup: 0n,
  NXSup: 0n,
  GTSup: 1n,
  IASup: 1n,
  GASup: 1n,
  HESup: 1n,
  PCSup: 0n,
  HATS: 2n,
  GATS: 2n,
  GLXSup: 0n,
  PASmax: 0n,
} as const

/** Fields above bit 31 moved in other people's code: the whole upper half, typed out. */
export const EXT_FEATURES_UPPER = {
  SATSSup: 0x0000_0000_8000_0000n,
  PASmax: 0x0000_001f_0000_0000n,
  USSup: 0x0000_0020_0000_0000n,
  DevTblSegSup: 0x0000_00c0_0000_0000n,
  PprOvrflwEarlySup: 0x0000_0100_0000_0000n,
  PprAutoRspSup: 0x0000_0200_0000_0000n,
  MarcSup: 0x0000_0c00_0000_0000n,
  BlkStopMrkSup: 0x0000_1000_0000_0000n,
  PerfOptSup: 0x0000_2000_0000_0000n,
  MsiCapMmioSup: 0x0000_4000_0000_0000n,
  SnoopAttrSup: 0x0000_8000_0000_0000n,
  GIoSup: 0x0001_0000_0000_0000n,
  HASup: 0x0002_0000_0000_0000n,
  EPHSup: 0x0004_0000_0000_0000n,
  AttrFWSup: 0x0008_0000_0000_0000n,
  HDSup: 0x0010_0000_0000_0000n,
  V2HDDisSup: 0x0020_0000_0000_0000n,
  InvIotlbTypeSup: 0x0040_0000_0000_0000n,
  vIommuSup: 0x0080_0000_0000_0000n,
  VmGuardIoSup: 0x0100_0000_0000_0000n,
  GAUpdateDisSup: 0x2000_0000_0000_0000n,
  ForcePhyDestSup: 0x4000_0000_0000_0000n,
  SNPSup: 0x8000_0000_0000_0000n,
} as const

export const CONTROL_BITS = {
  IommuEn: 0x1n,
  EventLogEn: 0x4n,
  EventIntEn: 0x8n,
  ComWaitIntEn: 0x10n,
  InvTimeOut: 0xe0n,
  Coherent: 0x400n,
  CmdBufEn: 0x1000n,
  GTEn: 0x1_0000n,
  GAEn: 0x2_0000n,
  DevTblSegEn: 0x1c_0000_0000n,
  PrivAbrtEn: 0x60_0000_0000n,
  HADUpdate: 0xc000_0000_0000n,
  GDUpdateDis: 0x1_0000_0000_0000n,
  XTEn: 0x4_0000_0000_0000n,
  IntCapXTEn: 0x8_0000_0000_0000n,
  GAUpdateDis: 0x40_0000_0000_0000n,
  GCR3TRPMode: 0x400_0000_0000_0000n,
} as const

/** STATUS by the names that two other drivers give the bits; the RW1C ones together. */
export const STATUS_BITS = {
  EventOverflow: 0x1n,
  EventLogInt: 0x2n,
  ComWaitInt: 0x4n,
  EventLogRun: 0x8n,
  CmdBufRun: 0x10n,
  PprOverflow: 0x20n,
  PprInt: 0x40n,
  PprLogRun: 0x80n,
  GALogRun: 0x100n,
  GALOverflow: 0x200n,
  GAInt: 0x400n,
} as const
export const STATUS_RW1C = 0x6_8e67n

/** Offsets, from the book's register map. */
export const OFFSETS = {
  DEVTAB_BASE: 0x0000,
  CMDBUF_BASE: 0x0008,
  EVTLOG_BASE: 0x0010,
  CONTROL: 0x0018,
  EXCL_BASE: 0x0020,
  EXCL_LIMIT: 0x0028,
  EXT_FEATURES: 0x0030,
  PPR_BASE: 0x0038,
  DEVTAB_SEG1_BASE: 0x0100,
  DEVTAB_SEG7_BASE: 0x0130,
  MSI_ADDR_LO: 0x015c,
  MSI_ADDR_HI: 0x0160,
  MSI_DATA: 0x0164,
  XT_GEN_INT_CONTROL: 0x0170,
  XT_PPR_INT_CONTROL: 0x0178,
  XT_GA_INT_CONTROL: 0x0180,
  EXT_FEATURES2: 0x01a0,
  CMD_HEAD: 0x2000,
  CMD_TAIL: 0x2008,
  EVT_HEAD: 0x2010,
  EVT_TAIL: 0x2018,
  STATUS: 0x2020,
  PPR_HEAD: 0x2030,
  PPR_TAIL: 0x2038,
  EVTB_HEAD: 0x2070,
} as const
