/**
 * The request in flight and what the walk has learnt about it. One object serves all requests: numbers only, so
 * that a successful translation allocates nothing.
 */
import { ACCESS_WRITE, NO_PASID } from "@iommu/core"

/** Why a request ended. 0 is success; the others say which event to log and with which flags (§2.5). */
export const OK = 0
/** IO_PAGE_FAULT, PR = 0: entry not present, address too wide, PASID without tables. */
export const NOT_PRESENT = 1
/** IO_PAGE_FAULT, PR = 1, PE = 1. */
export const NO_PERMISSION = 2
/** IO_PAGE_FAULT, PR = 1, RZ = 1: a reserved bit is set. */
export const RESERVED_BIT = 3
/** IO_PAGE_FAULT, PR = 1: illegal level or page size, or address bits of a skipped level are not zero. */
export const ILLEGAL_LEVEL = 4
/** PAGE_TAB_HARDWARE_ERROR. */
export const TABLE_ERROR = 5
/** ILLEGAL_DEV_TABLE_ENTRY, RZ = 1. */
export const DTE_RESERVED_BIT = 6
/** ILLEGAL_DEV_TABLE_ENTRY, RZ = 0: a field has a value that is reserved or not supported. */
export const DTE_ILLEGAL_VALUE = 7
/** DEV_TAB_HARDWARE_ERROR. */
export const DTE_ERROR = 8
/** IO_PAGE_FAULT, PR = 0: the DeviceID lies beyond the device table. */
export const NO_DTE = 9
/** IO_PAGE_FAULT, PR = 0: DTE.TV = 0. */
export const NO_TRANSLATION = 10
/** INVALID_DEVICE_REQUEST: a read in the interrupt address range. */
export const INTERRUPT_READ = 11
/** INVALID_DEVICE_REQUEST: an interrupt of a device with DTE.IntCtl = 0. */
export const INTERRUPT_BLOCKED = 12
/** IO_PAGE_FAULT, I = 1, PR = 0: an interrupt that no interrupt table entry remaps. */
export const INTERRUPT_UNMAPPED = 13
/** IO_PAGE_FAULT, PR = 0: a request with a PASID of a device without guest translation. */
export const NO_GUEST_TRANSLATION = 14
/** INVALID_DEVICE_REQUEST, TR = 1: a translation request of a device that may make none. */
export const TRANSLATION_REFUSED = 15
/** INVALID_DEVICE_REQUEST, TR = 1: a translation request for interrupts or another address that is not memory. */
export const TRANSLATION_OF_RESERVED_RANGE = 16
/** INVALID_DEVICE_REQUEST: a translated request of a device that may make none. */
export const TRANSLATED_REFUSED = 17
/** INVALID_DEVICE_REQUEST: port I/O of a device with DTE.IoCtl = 0. */
export const PORT_IO_BLOCKED = 18
/** INVALID_DEVICE_REQUEST: a system management message that DTE.SysMgt does not let through. */
export const SYSTEM_MANAGEMENT_BLOCKED = 19
/** INVALID_DEVICE_REQUEST: a read in the system management address range. */
export const SYSTEM_MANAGEMENT_READ = 20
/** INVALID_DEVICE_REQUEST: DTE.SysMgt sends messages through tables, and TV = 0. */
export const SYSTEM_MANAGEMENT_UNTRANSLATED = 21

export class Transaction {
  device = 0
  /** {@link NO_PASID}, or the PASID of the request. */
  pasid: number = NO_PASID
  iovaHi = 0
  iovaLo = 0
  access = 0
  /** 1 while an ATS translation request is in flight: the event's TR. */
  isTranslationRequest = 0

  // From the device table entry.
  domainId = 0
  /** Dword 1 of the entry: PPR, GPRP. */
  dteGuest = 0
  /** Dword 3 of the entry: SE, SA, EX. */
  dteFlags = 0
  /** Dword 4 of the entry: IV, IG. */
  dteInterruptsLo = 0
  /** Dword 5 of the entry: GuestPagingMode, IntCtl. */
  dteInterruptsHi = 0

  /** The stage that refused; 0 for a configuration structure. */
  faultStage: 0 | 1 | 2 = 0
  /** The address that the event reports, as the stage met it: guest virtual or guest physical. */
  faultHi = 0
  faultLo = 0
  /** Non-zero for a write; a table read is a read even for a write of the device. */
  faultIsWrite = 0
  /** 1 while the address of a fault is guest virtual and belongs to a PASID: the event's GN. */
  faultIsGuest = 0
  /** Hardware errors: system physical address of the failed access. */
  errorHi = 0
  errorLo = 0

  begin(device: number, pasid: number, iovaHi: number, iovaLo: number, access: number): void {
    this.device = device
    this.pasid = pasid
    this.iovaHi = iovaHi | 0
    this.iovaLo = iovaLo | 0
    this.access = access
  }

  /** The device table entry refuses. */
  refuseByEntry(): void {
    this.faultStage = 0
    this.faultHi = this.iovaHi
    this.faultLo = this.iovaLo
    this.faultIsWrite = this.access & ACCESS_WRITE
    this.faultIsGuest = this.pasid === NO_PASID ? 0 : 1
  }

  /** Guest tables refuse, or, with stage 0, the way to them does. */
  refuseByGuest(stage: 0 | 1, isWrite: number): void {
    this.faultStage = stage
    this.faultHi = this.iovaHi
    this.faultLo = this.iovaLo
    this.faultIsWrite = isWrite
    this.faultIsGuest = 1
  }

  /** The host tables refuse an access at a guest physical address. */
  refuseByHost(host: HostRefusal, hi: number, lo: number, isWrite: number): void {
    this.faultStage = 2
    this.faultHi = hi
    this.faultLo = lo
    this.faultIsWrite = isWrite
    this.faultIsGuest = 0
    this.errorHi = host.errorHi
    this.errorLo = host.errorLo
  }

  /**
   * A fetch or update of a guest table, or with stage 0 of a GCR3 table, ended: in the host tables, or where they lead
   * to no memory.
   */
  refuseFetch(stage: 0 | 1, host: HostRefusal, hi: number, lo: number, isWrite: number): number {
    if (host.status === OK) return this.refuseRead(stage, host.paHi, host.paLo)
    this.refuseByHost(host, hi, lo, isWrite)
    return host.status
  }

  /** A table lies where no memory answers. */
  refuseRead(stage: 0 | 1, hi: number, lo: number): number {
    this.refuseByGuest(stage, 0)
    this.errorHi = hi
    this.errorLo = lo
    return TABLE_ERROR
  }
}

/** What a walk of the host tables leaves behind when it fails. */
interface HostRefusal {
  readonly status: number
  readonly paHi: number
  readonly paLo: number
  readonly errorHi: number
  readonly errorLo: number
}
