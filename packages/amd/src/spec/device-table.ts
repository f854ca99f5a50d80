/**
 * Device table entry. AMD 48882 rev 3.10, §2.2.2.1: 256 bits, four 64-bit words, indexed by DeviceID.
 *
 * Masks are in 32-bit halves of the entry's eight dwords; the number in a name's comment is the dword.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

export const DTE_BYTES = 32
export const DTE_BYTES_LG2 = 5
/** DeviceIDs have 16 bits. */
export const DEVICE_ID_BITS = 16
export const MAX_DEVICES: number = 1 << DEVICE_ID_BITS

// Dword 0.
export const V: number = 1 << 0
export const TV: number = 1 << 1
export const HAD_SHIFT = 7
export const HAD_MASK = 3
/** HAD bit 0: hardware sets A (and D with bit 1) in the host tables. */
export const HAD_A = 1
export const HAD_D = 2
export const MODE_SHIFT = 9
export const MODE_MASK = 7
/** Mode 7 is reserved; 0 means no host tables. */
export const MODE_MAX = 6
export const ROOT_LO = 0xffff_f000
export const RESERVED_0 = 0x0000_000c

// Dword 1.
export const ROOT_HI = 0x000f_ffff
export const PPR: number = 1 << 20
export const GPRP: number = 1 << 21
export const GIOV: number = 1 << 22
export const GV: number = 1 << 23
export const GLX_SHIFT = 24
export const GLX_MASK = 3
/** GLX 3 is reserved. */
export const GLX_MAX = 2
/** GCR3 table root pointer, address bits 14:12. */
export const GCR3_14_12_SHIFT = 26
export const GCR3_14_12_MASK = 7
/** IR and IW stand at the same bits in the high dword of a v1 page table entry. */
export const IR: number = 1 << 29
export const IW: number = 1 << 30
export const RESERVED_1 = 0x8000_0000

// Dword 2.
export const DOMAIN_ID_MASK = 0xffff
/** GCR3 table root pointer, address bits 30:15, in the upper half of the dword. */
export const GCR3_30_15_SHIFT = 16

// Dword 3.
export const I: number = 1 << 0
export const SE: number = 1 << 1
export const SA: number = 1 << 2
export const IOCTL_SHIFT = 3
export const IOCTL_MASK = 3
export const IOCTL_ABORT = 0
export const IOCTL_FORWARD = 1
export const IOCTL_TRANSLATE = 2
export const CACHE: number = 1 << 5
export const SD: number = 1 << 6
export const EX: number = 1 << 7
export const SYSMGT_SHIFT = 8
export const SYSMGT_MASK = 3
/** 0 lets nothing pass, 2 only INTx messages. */
export const SYSMGT_FORWARD = 1
export const SYSMGT_TRANSLATE = 3
export const SATS: number = 1 << 10
/** GCR3 table root pointer, address bits 51:31. */
export const GCR3_51_31_SHIFT = 11

// Dwords 4 and 5: interrupts, and the levels of guest tables.
export const IV: number = 1 << 0
export const IG: number = 1 << 5
export const GUEST_PAGING_MODE_SHIFT = 22
export const GUEST_PAGING_MODE_MASK = 3
export const GUEST_PAGING_4_LEVEL = 0
export const GUEST_PAGING_5_LEVEL = 1
export const INTCTL_SHIFT = 28
export const INTCTL_MASK = 3
export const INTCTL_ABORT = 0
export const INTCTL_FORWARD = 1
export const INTCTL_REMAP = 2

// Dwords 6 and 7.
export const RESERVED_6 = 0x0000_7fff
export const RESERVED_7 = 0x003f_0000

export const fieldsDTE = {
  V: [0, 0, "this entry is valid; 0: requests pass untranslated"],
  TV: [1, 1, "the translation fields are valid"],
  CxlMemAttr: [6, 4, "CXL and memory attributes of translation answers"],
  HAD: [8, 7, "hardware sets A (1) or A and D (3) in host tables"],
  Mode: [11, 9, "levels of host tables, 0 none"],
  HostPageTableRootPtr: [51, 12, "system physical address of the host root table"],
  PPR: [52, 52, "peripheral page requests allowed"],
  GPRP: [53, 53, "PPR responses carry the PASID"],
  GIOV: [54, 54, "requests without PASID use PASID 0"],
  GV: [55, 55, "guest translation"],
  GLX: [57, 56, "levels of the GCR3 table less one"],
  GCR3_14_12: [60, 58, "GCR3 table root pointer, bits 14:12"],
  IR: [61, 61, "reads allowed"],
  IW: [62, 62, "writes allowed"],
  DomainID: [79, 64, "tag of cached translations"],
  GCR3_30_15: [95, 80, "GCR3 table root pointer, bits 30:15"],
  I: [96, 96, "the device may have an IOTLB (ATS)"],
  SE: [97, 97, "log only the first page fault of the device until its entry is invalidated"],
  SA: [98, 98, "log no page fault of the device"],
  IoCtl: [100, 99, "port I/O requests"],
  Cache: [101, 101, "IOTLB cache hint"],
  SD: [102, 102, "table reads do not snoop"],
  EX: [103, 103, "the exclusion range applies to the device"],
  SysMgt: [105, 104, "system management messages"],
  SATS: [106, 106, "secure ATS"],
  GCR3_51_31: [127, 107, "GCR3 table root pointer, bits 51:31"],
  IV: [128, 128, "the interrupt fields are valid"],
  IntTabLen: [132, 129, "entries of the interrupt table, as a power of two"],
  IG: [133, 133, "log no fault of unmapped interrupts"],
  IntTabRootPtr: [179, 134, "system physical address of the interrupt table, bits 51:6"],
  GuestPagingMode: [183, 182, "levels of guest tables: 0 four, 1 five"],
  InitPass: [184, 184, "forward INIT"],
  EIntPass: [185, 185, "forward ExtInt"],
  NMIPass: [186, 186, "forward NMI"],
  HPTMode: [187, 187, "host page table mode (SNP)"],
  IntCtl: [189, 188, "interrupts: 0 abort, 1 forward, 2 remap"],
  Lint0Pass: [190, 190, "forward LINT0"],
  Lint1Pass: [191, 191, "forward LINT1"],
  vImuEn: [207, 207, "the device belongs to a virtualized IOMMU"],
  GDeviceID: [223, 208, "the guest's DeviceID"],
  GuestID: [239, 224, "the guest"],
  AttrV: [246, 246, "SnoopAttribute and Mode0FC are valid"],
  Mode0FC: [247, 247, "FC when Mode is 0"],
  SnoopAttribute: [255, 248, "snoop attribute of requests"],
} as const
export const DTE: BitLayout<typeof fieldsDTE> = bitLayout("DTE", "AMD 48882 §2.2.2.1", 256, fieldsDTE)

/** The GCR3 table root pointer, which the entry holds in three pieces. */
export function gcr3RootOf(words: readonly bigint[]): bigint {
  const low = DTE.get(words, "GCR3_14_12") << 12n
  const middle = DTE.get(words, "GCR3_30_15") << 15n
  return low | middle | (DTE.get(words, "GCR3_51_31") << 31n)
}

/** The three fields that hold a GCR3 table root pointer, for {@link DTE}'s encoder. */
export function gcr3RootFields(root: bigint): {
  GCR3_14_12: bigint
  GCR3_30_15: bigint
  GCR3_51_31: bigint
} {
  return {
    GCR3_14_12: (root >> 12n) & 0x7n,
    GCR3_30_15: (root >> 15n) & 0xffffn,
    GCR3_51_31: (root >> 31n) & 0x1f_ffffn,
  }
}
