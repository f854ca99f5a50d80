/**
 * Event log entries, AMD 48882 rev 3.10, §2.5, and PPR log entries, §2.6: 128 bits, code in bits 63:60.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

export const EVENT_BYTES = 16
export const EVENT_BYTES_LG2 = 4
/** In dword 1. */
export const CODE_SHIFT = 28

/** Event codes by the book's names. */
export const EVENT = {
  ILLEGAL_DEV_TABLE_ENTRY: 1,
  IO_PAGE_FAULT: 2,
  DEV_TAB_HARDWARE_ERROR: 3,
  PAGE_TAB_HARDWARE_ERROR: 4,
  ILLEGAL_COMMAND_ERROR: 5,
  COMMAND_HARDWARE_ERROR: 6,
  IOTLB_INV_TIMEOUT: 7,
  INVALID_DEVICE_REQUEST: 8,
  INVALID_PPR_REQUEST: 9,
  EVENT_COUNTER_ZERO: 10,
  GUEST_EVENT_FAULT: 11,
  VIOMMU_HARDWARE_ERROR: 12,
  RMP_PAGE_FAULT: 13,
  RMP_HARDWARE_ERROR: 14,
} as const
export type EventName = keyof typeof EVENT

/** Flags in dword 1, as in IO_PAGE_FAULT; other events use a subset at the same places. */
export const GN: number = 1 << 16
export const NX: number = 1 << 17
export const US: number = 1 << 18
export const I: number = 1 << 19
export const PR: number = 1 << 20
export const RW: number = 1 << 21
export const PE: number = 1 << 22
export const RZ: number = 1 << 23
export const TR: number = 1 << 24

/** Type of DEV_TAB_, PAGE_TAB_ and COMMAND_HARDWARE_ERROR, in dword 1. */
export const HARDWARE_ERROR_TYPE_SHIFT = 25
export const MASTER_ABORT = 1
export const TARGET_ABORT = 2
export const DATA_ERROR = 3

/** Type of INVALID_DEVICE_REQUEST without TR. */
export const INVALID_READ_OF_INTERRUPT_RANGE = 0
/** DTE.I = 0 or V = 0. */
export const TRANSLATED_NOT_ALLOWED = 1
/** DTE.IoCtl = 0. */
export const PORT_IO_NOT_ALLOWED = 2
/** A write that DTE.SysMgt does not let through. */
export const SYSTEM_MANAGEMENT_NOT_ALLOWED = 3
export const INVALID_READ_OF_SYSTEM_MANAGEMENT = 4
export const INTERRUPT_NOT_ALLOWED = 5
/** DTE.SysMgt = 3, TV = 0. */
export const SYSTEM_MANAGEMENT_NOT_TRANSLATED = 7
/** Type of INVALID_DEVICE_REQUEST with TR: DTE.I = 0, V = 0, or TV = 0. */
export const TRANSLATION_NOT_ALLOWED = 0
/** With TR: an address that is never translated. */
export const TRANSLATION_OF_RESERVED_RANGE = 1

export const fieldsILLEGAL_DEV_TABLE_ENTRY = {
  DeviceID: [15, 0, "who asked"],
  PASID_19_16: [19, 16, "PASID bits 19:16"],
  PASID_15_0: [47, 32, "PASID bits 15:0"],
  GN: [48, 48, "PASID is valid"],
  I: [51, 51, "interrupt request"],
  RW: [53, 53, "write"],
  RZ: [55, 55, "a reserved bit is set; 0: a field has an illegal value"],
  TR: [56, 56, "translation request"],
  Code: [63, 60, "1"],
  Address: [127, 66, "device virtual address, bits 63:2"],
} as const
export const ILLEGAL_DEV_TABLE_ENTRY: BitLayout<typeof fieldsILLEGAL_DEV_TABLE_ENTRY> = bitLayout(
  "ILLEGAL_DEV_TABLE_ENTRY",
  "AMD 48882 §2.5.2",
  128,
  fieldsILLEGAL_DEV_TABLE_ENTRY,
)

export const fieldsIO_PAGE_FAULT = {
  DeviceID: [15, 0, "who asked"],
  PASID_19_16: [19, 16, "with GN = 1: PASID bits 19:16"],
  DomainID: [47, 32, "with GN = 1: PASID bits 15:0"],
  GN: [48, 48, "Address is guest virtual; 0: guest physical"],
  NX: [49, 49, "the request asked for execution"],
  US: [50, 50, "user privileges"],
  I: [51, 51, "interrupt request"],
  PR: [52, 52, "the page or interrupt is present"],
  RW: [53, 53, "write"],
  PE: [54, 54, "no permission"],
  RZ: [55, 55, "a reserved bit is set; 0: illegal level"],
  TR: [56, 56, "translation request"],
  Code: [63, 60, "2"],
  Address: [127, 64, "address of the request"],
} as const
export const IO_PAGE_FAULT: BitLayout<typeof fieldsIO_PAGE_FAULT> = bitLayout(
  "IO_PAGE_FAULT",
  "AMD 48882 §2.5.3",
  128,
  fieldsIO_PAGE_FAULT,
)

export const fieldsDEV_TAB_HARDWARE_ERROR = {
  DeviceID: [15, 0, "who asked"],
  I: [51, 51, "interrupt request"],
  RW: [53, 53, "write"],
  TR: [56, 56, "translation request"],
  Type: [58, 57, "1 master abort, 2 target abort, 3 data error"],
  Code: [63, 60, "3"],
  Address: [127, 68, "system physical address of the failed access, bits 63:4"],
} as const
export const DEV_TAB_HARDWARE_ERROR: BitLayout<typeof fieldsDEV_TAB_HARDWARE_ERROR> = bitLayout(
  "DEV_TAB_HARDWARE_ERROR",
  "AMD 48882 §2.5.4",
  128,
  fieldsDEV_TAB_HARDWARE_ERROR,
)

export const fieldsPAGE_TAB_HARDWARE_ERROR = {
  DeviceID: [15, 0, "who asked"],
  PASID_19_16: [19, 16, "with GN = 1: PASID bits 19:16"],
  DomainID: [47, 32, "with GN = 1: PASID bits 15:0"],
  GN: [48, 48, "a guest table; 0: a host table"],
  I: [51, 51, "interrupt request"],
  RW: [53, 53, "write"],
  TR: [56, 56, "translation request"],
  Type: [58, 57, "1 master abort, 2 target abort, 3 data error"],
  Code: [63, 60, "4"],
  Address: [127, 67, "system physical address of the table entry, bits 63:3"],
} as const
export const PAGE_TAB_HARDWARE_ERROR: BitLayout<typeof fieldsPAGE_TAB_HARDWARE_ERROR> = bitLayout(
  "PAGE_TAB_HARDWARE_ERROR",
  "AMD 48882 §2.5.5",
  128,
  fieldsPAGE_TAB_HARDWARE_ERROR,
)

export const fieldsILLEGAL_COMMAND_ERROR = {
  Code: [63, 60, "5"],
  Address: [127, 68, "system physical address of the command, bits 63:4"],
} as const
export const ILLEGAL_COMMAND_ERROR: BitLayout<typeof fieldsILLEGAL_COMMAND_ERROR> = bitLayout(
  "ILLEGAL_COMMAND_ERROR",
  "AMD 48882 §2.5.6",
  128,
  fieldsILLEGAL_COMMAND_ERROR,
)

export const fieldsCOMMAND_HARDWARE_ERROR = {
  Type: [58, 57, "1 master abort, 2 target abort, 3 data error"],
  Code: [63, 60, "6"],
  Address: [127, 68, "system physical address of the failed access, bits 63:4"],
} as const
export const COMMAND_HARDWARE_ERROR: BitLayout<typeof fieldsCOMMAND_HARDWARE_ERROR> = bitLayout(
  "COMMAND_HARDWARE_ERROR",
  "AMD 48882 §2.5.7",
  128,
  fieldsCOMMAND_HARDWARE_ERROR,
)

export const fieldsIOTLB_INV_TIMEOUT = {
  DeviceID: [15, 0, "who did not answer"],
  Code: [63, 60, "7"],
  Address: [127, 68, "system physical address of the command, bits 63:4"],
} as const
export const IOTLB_INV_TIMEOUT: BitLayout<typeof fieldsIOTLB_INV_TIMEOUT> = bitLayout(
  "IOTLB_INV_TIMEOUT",
  "AMD 48882 §2.5.8",
  128,
  fieldsIOTLB_INV_TIMEOUT,
)

export const fieldsINVALID_DEVICE_REQUEST = {
  DeviceID: [15, 0, "who asked"],
  PASID_19_16: [19, 16, "PASID bits 19:16"],
  PASID_15_0: [47, 32, "PASID bits 15:0"],
  GN: [48, 48, "PASID is valid"],
  NX: [49, 49, "the request asked for execution"],
  US: [50, 50, "user privileges"],
  TR: [56, 56, "translation request"],
  Type: [59, 57, "why, by TR"],
  Code: [63, 60, "8"],
  Address: [127, 64, "address of the request"],
} as const
export const INVALID_DEVICE_REQUEST: BitLayout<typeof fieldsINVALID_DEVICE_REQUEST> = bitLayout(
  "INVALID_DEVICE_REQUEST",
  "AMD 48882 §2.5.9",
  128,
  fieldsINVALID_DEVICE_REQUEST,
)

/** What a PPR log entry and INVALID_PPR_REQUEST have in common: the request as the device sent it. */
const pageRequest = {
  DeviceID: [15, 0, "who asked"],
  PASID_15_0: [31, 16, "with GN = 1: PASID bits 15:0"],
  Tag: [40, 32, "page request group index"],
  Last: [41, 41, "last request of its group"],
  PASID_19_16: [45, 42, "with GN = 1: PASID bits 19:16"],
  EX: [49, 49, "execution asked for"],
  RD: [50, 50, "read asked for"],
  WR: [53, 53, "write asked for"],
  US: [54, 54, "user privileges"],
  RZ: [55, 55, "a reserved bit of the request is set"],
  GN: [56, 56, "Address is guest virtual, PASID is valid; 0: guest physical"],
} as const

const fieldsINVALID_PPR_REQUEST = {
  Code: [63, 60, "9"],
  Address: [127, 64, "address of the request"],
} as const
export const INVALID_PPR_REQUEST: BitLayout<typeof pageRequest & typeof fieldsINVALID_PPR_REQUEST> =
  bitLayout("INVALID_PPR_REQUEST", "AMD 48882 §2.5.10", 128, { ...pageRequest, ...fieldsINVALID_PPR_REQUEST })

/** PPR log: code of {@link PAGE_SERVICE_REQUEST}. */
export const PPR_PAGE_SERVICE_REQUEST = 1

const fieldsPAGE_SERVICE_REQUEST = {
  Code: [63, 60, "1"],
  Address: [127, 76, "page of the request, bits 63:12"],
} as const
export const PAGE_SERVICE_REQUEST: BitLayout<typeof pageRequest & typeof fieldsPAGE_SERVICE_REQUEST> =
  bitLayout("PAGE_SERVICE_REQUEST", "AMD 48882 §2.6", 128, {
    ...pageRequest,
    ...fieldsPAGE_SERVICE_REQUEST,
  })
