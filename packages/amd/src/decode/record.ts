/** Event log entries in values. AMD 48882 rev 3.10, §2.5. */
import type { DecodedRecord, PageRequest } from "@iommu/core"
import * as evt from "../spec/events.ts"
import { decodeRequest } from "./page-request.ts"

interface CommonRecord extends Omit<DecodedRecord, "device" | "address"> {
  readonly code: number
}

interface Transaction {
  /** DeviceID. */
  readonly device: number
  readonly address: bigint
  /** An interrupt message that was to be remapped. */
  readonly interrupt: boolean
  readonly translationRequest: boolean
}

/** §2.5.3. */
export interface AmdPageFaultRecord extends CommonRecord, Transaction {
  readonly kind: "page fault"
  readonly name: "IO_PAGE_FAULT"
  /** GN: the address is guest virtual, guest tables refused; else it is the host tables that did. */
  readonly guest: boolean
  /** Of the device table entry; null with `guest`. */
  readonly domain: number | null
  /** PR: what was found was present. */
  readonly present: boolean
  /** PE: what was found does not permit the access. */
  readonly permission: boolean
  /** RZ: a reserved bit is set in what was found. */
  readonly reservedBit: boolean
  readonly execute: boolean
  readonly user: boolean
}

/** §2.5.2. */
export interface AmdIllegalEntryRecord extends CommonRecord, Transaction {
  readonly kind: "illegal entry"
  readonly name: "ILLEGAL_DEV_TABLE_ENTRY"
  /** RZ: a reserved bit is set; else a field has an illegal value. */
  readonly reservedBit: boolean
}

export type AmdErrorType = "reserved" | "master abort" | "target abort" | "data error"

/** §2.5.4, §2.5.5, §2.5.7. The address is a system physical one: of what could not be read. */
export interface AmdHardwareErrorRecord extends CommonRecord {
  readonly kind: "hardware error"
  readonly name: "DEV_TAB_HARDWARE_ERROR" | "PAGE_TAB_HARDWARE_ERROR" | "COMMAND_HARDWARE_ERROR"
  readonly device: number | null
  readonly address: bigint
  readonly type: AmdErrorType
}

/** §2.5.6, §2.5.8. The address is a system physical one: of the command. */
export interface AmdCommandRecord extends CommonRecord {
  readonly kind: "command"
  readonly name: "ILLEGAL_COMMAND_ERROR" | "IOTLB_INV_TIMEOUT"
  readonly device: number | null
  readonly address: bigint
}

/** §2.5.9. */
export interface AmdInvalidRequestRecord extends CommonRecord, Omit<Transaction, "interrupt"> {
  readonly kind: "invalid request"
  readonly name: "INVALID_DEVICE_REQUEST"
  /** The book's Type: why, by `translationRequest`. */
  readonly type: number
  readonly execute: boolean
  readonly user: boolean
}

/** §2.5.10. */
export interface AmdInvalidPageRequestRecord extends CommonRecord {
  readonly kind: "invalid page request"
  readonly name: "INVALID_PPR_REQUEST"
  readonly device: number
  readonly address: bigint
  readonly request: PageRequest
}

/** Events of which only the code is decoded, and codes that the book does not have. */
export interface AmdOtherRecord extends CommonRecord {
  readonly kind: "other"
  readonly device: number | null
  readonly address: bigint
}

export type AmdRecord =
  | AmdPageFaultRecord
  | AmdIllegalEntryRecord
  | AmdHardwareErrorRecord
  | AmdCommandRecord
  | AmdInvalidRequestRecord
  | AmdInvalidPageRequestRecord
  | AmdOtherRecord

const NAMES: ReadonlyMap<number, evt.EventName> = new Map(
  Object.entries(evt.EVENT).map(([name, code]) => [code, name as evt.EventName]),
)
const ERROR_TYPES = ["reserved", "master abort", "target abort", "data error"] as const

export function decodeRecord(words: readonly bigint[]): AmdRecord {
  const { Code, DeviceID, Address: address } = evt.IO_PAGE_FAULT.decode(words)
  const code = Number(Code)
  const device = Number(DeviceID)
  const name = NAMES.get(code)
  const common = { code, words, pasid: null, access: null }
  switch (name) {
    case "IO_PAGE_FAULT":
      return { kind: "page fault", name, ...common, ...pageFault(words) }
    case "ILLEGAL_DEV_TABLE_ENTRY":
      return { kind: "illegal entry", name, ...common, ...illegalEntry(words) }
    case "DEV_TAB_HARDWARE_ERROR":
    case "PAGE_TAB_HARDWARE_ERROR":
    case "COMMAND_HARDWARE_ERROR": {
      const type = ERROR_TYPES[Number(evt.COMMAND_HARDWARE_ERROR.get(words, "Type"))] as AmdErrorType
      return { kind: "hardware error", name, ...common, ...hardwareError(words, name), type }
    }
    case "ILLEGAL_COMMAND_ERROR":
      return { kind: "command", name, ...common, device: null, address: commandAddress(words) }
    case "IOTLB_INV_TIMEOUT":
      return { kind: "command", name, ...common, device, address: commandAddress(words) }
    case "INVALID_DEVICE_REQUEST":
      return { kind: "invalid request", name, ...common, ...invalidRequest(words) }
    case "INVALID_PPR_REQUEST": {
      const request = decodeRequest(evt.INVALID_PPR_REQUEST.decode(words), address)
      const { pasid } = request
      return {
        kind: "invalid page request",
        name,
        ...common,
        device,
        pasid,
        address,
        access: "page request",
        request,
      }
    }
    case "EVENT_COUNTER_ZERO":
      return { kind: "other", name, ...common, device: null, address }
    case "GUEST_EVENT_FAULT":
    case "VIOMMU_HARDWARE_ERROR":
    case "RMP_PAGE_FAULT":
    case "RMP_HARDWARE_ERROR":
    case undefined:
      return { kind: "other", name: name ?? `event ${code}`, ...common, device, address }
  }
}

type Parts<R extends AmdRecord> = Omit<R, "kind" | "name" | "code" | "words">

function pageFault(words: readonly bigint[]): Parts<AmdPageFaultRecord> {
  const fault = evt.IO_PAGE_FAULT.decode(words)
  const guest = fault.GN === 1n
  return {
    device: Number(fault.DeviceID),
    address: fault.Address,
    guest,
    domain: guest ? null : Number(fault.DomainID),
    pasid: guest ? Number((fault.PASID_19_16 << 16n) | fault.DomainID) : null,
    access: accessOf(fault),
    interrupt: fault.I === 1n,
    translationRequest: fault.TR === 1n,
    present: fault.PR === 1n,
    permission: fault.PE === 1n,
    reservedBit: fault.RZ === 1n,
    execute: fault.NX === 1n,
    user: fault.US === 1n,
  }
}

function illegalEntry(words: readonly bigint[]): Parts<AmdIllegalEntryRecord> {
  const event = evt.ILLEGAL_DEV_TABLE_ENTRY.decode(words)
  return {
    device: Number(event.DeviceID),
    address: event.Address << 2n,
    pasid: event.GN === 1n ? Number((event.PASID_19_16 << 16n) | event.PASID_15_0) : null,
    access: accessOf(event),
    interrupt: event.I === 1n,
    translationRequest: event.TR === 1n,
    reservedBit: event.RZ === 1n,
  }
}

type HardwareErrorParts = Omit<Parts<AmdHardwareErrorRecord>, "type">

function hardwareError(words: readonly bigint[], name: AmdHardwareErrorRecord["name"]): HardwareErrorParts {
  switch (name) {
    case "DEV_TAB_HARDWARE_ERROR": {
      const error = evt.DEV_TAB_HARDWARE_ERROR.decode(words)
      return {
        device: Number(error.DeviceID),
        pasid: null,
        access: accessOf(error),
        address: error.Address << 4n,
      }
    }
    case "PAGE_TAB_HARDWARE_ERROR": {
      const error = evt.PAGE_TAB_HARDWARE_ERROR.decode(words)
      const pasid = error.GN === 1n ? Number((error.PASID_19_16 << 16n) | error.DomainID) : null
      return { device: Number(error.DeviceID), pasid, access: accessOf(error), address: error.Address << 3n }
    }
    case "COMMAND_HARDWARE_ERROR":
      return { device: null, pasid: null, access: null, address: commandAddress(words) }
  }
}

function invalidRequest(words: readonly bigint[]): Parts<AmdInvalidRequestRecord> {
  const event = evt.INVALID_DEVICE_REQUEST.decode(words)
  return {
    device: Number(event.DeviceID),
    address: event.Address,
    pasid: event.GN === 1n ? Number((event.PASID_19_16 << 16n) | event.PASID_15_0) : null,
    // The record has no bit for it.
    access: null,
    translationRequest: event.TR === 1n,
    type: Number(event.Type),
    execute: event.NX === 1n,
    user: event.US === 1n,
  }
}

function commandAddress(words: readonly bigint[]): bigint {
  return evt.ILLEGAL_COMMAND_ERROR.getInPlace(words, "Address")
}

/** A translation request neither reads nor writes: RW has a meaning with TR = 0 only, §2.5.3. */
function accessOf({ RW, TR }: { readonly RW: bigint; readonly TR: bigint }): "read" | "write" | null {
  if (TR === 1n) return null
  return RW === 1n ? "write" : "read"
}
