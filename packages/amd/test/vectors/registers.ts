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

/** Bits 18, 17, 15, 11, 10, 9, 6, 5, 2, 1 and 0: those that NOVA marks "rw1c". */
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
