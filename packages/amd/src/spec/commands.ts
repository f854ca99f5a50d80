/**
 * Command buffer entries. AMD 48882 rev 3.10, §2.4: 128 bits, opcode in bits 63:60.
 *
 * The pieces of a PASID in INVALIDATE_IOTLB_PAGES and PREFETCH_IOMMU_PAGES stand out of order; they are as the
 * Linux driver writes them to real machines.
 */
import { type BitLayout, bitLayout, hi32, lo32 } from "@iommu/core"

export const COMMAND_BYTES = 16
export const COMMAND_BYTES_LG2 = 4
/** In dword 1. */
export const OPCODE_SHIFT = 28

/** Opcodes by the book's names. */
export const OPCODE = {
  COMPLETION_WAIT: 1,
  INVALIDATE_DEVTAB_ENTRY: 2,
  INVALIDATE_IOMMU_PAGES: 3,
  INVALIDATE_IOTLB_PAGES: 4,
  INVALIDATE_INTERRUPT_TABLE: 5,
  PREFETCH_IOMMU_PAGES: 6,
  COMPLETE_PPR_REQUEST: 7,
  INVALIDATE_IOMMU_ALL: 8,
  INSERT_GUEST_EVENT: 9,
  RESET_VMMIO: 10,
} as const
export type CommandName = keyof typeof OPCODE

// Masks of the four dwords. COMPLETION_WAIT, dwords 0 and 1.
export const STORE: number = 1 << 0
export const INTERRUPT: number = 1 << 1
export const STORE_LO = 0xffff_fff8
export const STORE_HI = 0x000f_ffff
// Invalidations: DeviceID or PASID in dword 0, DomainID in dword 1, flags and Address in dwords 2 and 3.
export const DEVICE_ID_MASK = 0xffff
export const PASID_MASK = 0x000f_ffff
export const DOMAIN_ID_MASK = 0xffff
export const S: number = 1 << 0
export const PDE: number = 1 << 1
export const GN: number = 1 << 2
/** PREFETCH_IOMMU_PAGES. */
export const INVAL: number = 1 << 4
export const ADDRESS_LO = 0xffff_f000

export const fieldsCOMPLETION_WAIT = {
  S: [0, 0, "store StoreData at StoreAddress"],
  I: [1, 1, "set STATUS.ComWaitInt"],
  F: [2, 2, "finish this command before fetching the next"],
  StoreAddress: [51, 3, "system physical address, bits 51:3"],
  Opcode: [63, 60, "1"],
  StoreData: [127, 64, "what to store"],
} as const
export const COMPLETION_WAIT: BitLayout<typeof fieldsCOMPLETION_WAIT> = bitLayout(
  "COMPLETION_WAIT",
  "AMD 48882 §2.4.1",
  128,
  fieldsCOMPLETION_WAIT,
)

export const fieldsINVALIDATE_DEVTAB_ENTRY = {
  DeviceID: [15, 0, "whose entry"],
  Opcode: [63, 60, "2"],
} as const
export const INVALIDATE_DEVTAB_ENTRY: BitLayout<typeof fieldsINVALIDATE_DEVTAB_ENTRY> = bitLayout(
  "INVALIDATE_DEVTAB_ENTRY",
  "AMD 48882 §2.4.2",
  128,
  fieldsINVALIDATE_DEVTAB_ENTRY,
)

export const fieldsINVALIDATE_IOMMU_PAGES = {
  PASID: [19, 0, "with GN = 1: whose guest tables"],
  DomainID: [47, 32, "whose translations"],
  Opcode: [63, 60, "3"],
  S: [64, 64, "Address encodes a size; 0: one 4 KiB page"],
  PDE: [65, 65, "cached directory entries too"],
  GN: [66, 66, "Address is guest virtual of PASID; 0: host translations at Address"],
  Address: [127, 76, "bits 63:12"],
} as const
export const INVALIDATE_IOMMU_PAGES: BitLayout<typeof fieldsINVALIDATE_IOMMU_PAGES> = bitLayout(
  "INVALIDATE_IOMMU_PAGES",
  "AMD 48882 §2.4.3",
  128,
  fieldsINVALIDATE_IOMMU_PAGES,
)

export const fieldsINVALIDATE_IOTLB_PAGES = {
  DeviceID: [15, 0, "whose IOTLB"],
  PASID_15_8: [23, 16, "PASID bits 15:8"],
  MaxPend: [31, 24, "invalidations that the device takes at once"],
  QueueID: [47, 32, "invalidations with the same QueueID share MaxPend"],
  PASID_7_0: [55, 48, "PASID bits 7:0"],
  PASID_19_16: [59, 56, "PASID bits 19:16"],
  Opcode: [63, 60, "4"],
  S: [64, 64, "Address encodes a size; 0: one 4 KiB page"],
  GN: [66, 66, "Address is guest virtual of PASID"],
  Type: [69, 68, "what the request carries (InvIotlbTypeSup)"],
  Address: [127, 76, "bits 63:12"],
} as const
export const INVALIDATE_IOTLB_PAGES: BitLayout<typeof fieldsINVALIDATE_IOTLB_PAGES> = bitLayout(
  "INVALIDATE_IOTLB_PAGES",
  "AMD 48882 §2.4.4",
  128,
  fieldsINVALIDATE_IOTLB_PAGES,
)

export const fieldsINVALIDATE_INTERRUPT_TABLE = {
  DeviceID: [15, 0, "whose interrupt table"],
  Opcode: [63, 60, "5"],
} as const
export const INVALIDATE_INTERRUPT_TABLE: BitLayout<typeof fieldsINVALIDATE_INTERRUPT_TABLE> = bitLayout(
  "INVALIDATE_INTERRUPT_TABLE",
  "AMD 48882 §2.4.5",
  128,
  fieldsINVALIDATE_INTERRUPT_TABLE,
)

export const fieldsPREFETCH_IOMMU_PAGES = {
  DeviceID: [15, 0, "for which device"],
  PASID_15_8: [23, 16, "PASID bits 15:8"],
  PFCount: [31, 24, "pages"],
  PASID_7_0: [55, 48, "PASID bits 7:0"],
  PASID_19_16: [59, 56, "PASID bits 19:16"],
  Opcode: [63, 60, "6"],
  S: [64, 64, "Address encodes a size"],
  GN: [66, 66, "Address is guest virtual of PASID"],
  Inval: [68, 68, "invalidate before the prefetch"],
  Address: [127, 76, "bits 63:12"],
} as const
export const PREFETCH_IOMMU_PAGES: BitLayout<typeof fieldsPREFETCH_IOMMU_PAGES> = bitLayout(
  "PREFETCH_IOMMU_PAGES",
  "AMD 48882 §2.4.6",
  128,
  fieldsPREFETCH_IOMMU_PAGES,
)

export const fieldsCOMPLETE_PPR_REQUEST = {
  DeviceID: [15, 0, "who asked"],
  PASID: [51, 32, "with GN = 1: for which address space"],
  Opcode: [63, 60, "7"],
  GN: [66, 66, "PASID is valid"],
  CompletionTag: [111, 96, "page request group in bits 8:0, response code in bits 15:12"],
} as const
export const COMPLETE_PPR_REQUEST: BitLayout<typeof fieldsCOMPLETE_PPR_REQUEST> = bitLayout(
  "COMPLETE_PPR_REQUEST",
  "AMD 48882 §2.4.7",
  128,
  fieldsCOMPLETE_PPR_REQUEST,
)

export const fieldsINVALIDATE_IOMMU_ALL = { Opcode: [63, 60, "8"] } as const
export const INVALIDATE_IOMMU_ALL: BitLayout<typeof fieldsINVALIDATE_IOMMU_ALL> = bitLayout(
  "INVALIDATE_IOMMU_ALL",
  "AMD 48882 §2.4.8",
  128,
  fieldsINVALIDATE_IOMMU_ALL,
)

/** With S = 1, this address means the whole address space. */
export const ALL_PAGES = 0x7fff_ffff_ffff_f000n

/**
 * Address field of an invalidation that covers at least `[first, last]`, and its S bit: the lowest zero bit of
 * Address at or above bit 12 is the highest bit of the offset in the range (§2.4.3).
 */
export function encodeInvalidateRange(first: bigint, last: bigint): { Address: bigint; S: bigint } {
  const differ = (first ^ last) >> 12n
  if (differ === 0n) return { Address: first >> 12n, S: 0n }
  // The highest bit in which both ends differ is the range's highest offset bit.
  const top = BigInt(differ.toString(2).length - 1) + 12n
  if (top > 51n) return { Address: ALL_PAGES >> 12n, S: 1n }
  const ones = (1n << top) - 1n
  return { Address: ((first | ones) & ~(1n << top)) >> 12n, S: 1n }
}

/** A lowest zero from here on means the whole address space. Table 14. */
const ALL_FROM_BIT = 51

/** log2 of the bytes that Address (in halves, bits 11:0 zero) names with S = 1; 64 for everything. Table 14. */
export function invalidateSizeLg2(hi: number, lo: number): number {
  const zerosLo = ~lo & ADDRESS_LO
  if (zerosLo !== 0) return 32 - Math.clz32(zerosLo & -zerosLo)
  const zerosHi = ~hi
  const lowest = zerosHi === 0 ? 63 : 63 - Math.clz32(zerosHi & -zerosHi)
  return lowest >= ALL_FROM_BIT ? 64 : lowest + 1
}

/** The aligned range that an invalidation's Address field (bits 63:12, shifted down) and S bit name. */
export function decodeInvalidateRange(address: bigint, size: bigint): { first: bigint; last: bigint } {
  const base = address << 12n
  if (size === 0n) return { first: base, last: base | 0xfffn }
  const sizeLg2 = BigInt(invalidateSizeLg2(hi32(base) | 0, lo32(base) | 0))
  const first = (base >> sizeLg2) << sizeLg2
  return { first, last: first | ((1n << sizeLg2) - 1n) }
}
