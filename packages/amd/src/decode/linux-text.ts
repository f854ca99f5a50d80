/** Words of Linux's log for event log entries, the same from 6.1 to 7.3: `iommu_print_event`. */
import { EVENT } from "../spec/events.ts"

/** One `label=0x...` of a line: where Linux takes it from, and how many digits it has at least. */
interface TextField {
  readonly label: string
  readonly digits: number
  get(word0: bigint, word1: bigint): bigint
}

interface EventText {
  readonly name: string
  readonly fields: readonly TextField[]
  readonly separator: string
  /** Printed in the device's name where the kernel knows it, without `device=` then. */
  readonly isDevices: boolean
  readonly namesDevice: boolean
}

const address: TextField = { label: "address", digits: 1, get: (_word0, word1) => word1 }
const flags: TextField = { label: "flags", digits: 4, get: word0 => (word0 >> 48n) & 0xfffn }
/** Of IO_PAGE_FAULT, also where it is the lower half of a PASID. */
const domain: TextField = { label: "domain", digits: 4, get: word0 => (word0 >> 32n) & 0xffffn }
const pasid: TextField = {
  label: "pasid",
  digits: 5,
  get: word0 => (word0 & 0xf_0000n) | ((word0 >> 32n) & 0xffffn),
}
const requestPasid: TextField = {
  label: "pasid",
  digits: 5,
  get: word0 => ((word0 >> 16n) & 0xffffn) | (((word0 >> 42n) & 0xfn) << 16n),
}
/** Linux's tag has the bit of the last request as its highest. */
const tag: TextField = { label: "tag", digits: 3, get: word0 => (word0 >> 32n) & 0x3ffn }
const guestTag: TextField = { label: "vmg_tag", digits: 4, get: word0 => (word0 >> 32n) & 0xffffn }
const ownerFlags: TextField = { label: "flags_rmp", digits: 4, get: word0 => (word0 >> 16n) & 0xffn }
const guestAddress: TextField = { ...address, label: "gpa" }
const systemAddress: TextField = { label: "spa", digits: 1, get: (_word0, word1) => word1 & ~7n }

const anyone = { separator: " ", isDevices: false, namesDevice: false }
const ofDevice = { separator: " ", isDevices: false, namesDevice: true }
const byDevice = { separator: " ", isDevices: true, namesDevice: true }
const owners = { separator: ", ", isDevices: true, namesDevice: true }

/** By event code. Codes that are not here are UNKNOWN to Linux. */
export const EVENT_TEXTS: ReadonlyMap<number, EventText> = new Map<number, EventText>([
  [
    EVENT.ILLEGAL_DEV_TABLE_ENTRY,
    { name: "ILLEGAL_DEV_TABLE_ENTRY", fields: [pasid, address, flags], ...ofDevice },
  ],
  [EVENT.IO_PAGE_FAULT, { name: "IO_PAGE_FAULT", fields: [domain, address, flags], ...byDevice }],
  [EVENT.DEV_TAB_HARDWARE_ERROR, { name: "DEV_TAB_HARDWARE_ERROR", fields: [address, flags], ...ofDevice }],
  [
    EVENT.PAGE_TAB_HARDWARE_ERROR,
    { name: "PAGE_TAB_HARDWARE_ERROR", fields: [{ ...pasid, digits: 4 }, address, flags], ...ofDevice },
  ],
  [EVENT.ILLEGAL_COMMAND_ERROR, { name: "ILLEGAL_COMMAND_ERROR", fields: [address], ...anyone }],
  [EVENT.COMMAND_HARDWARE_ERROR, { name: "COMMAND_HARDWARE_ERROR", fields: [address, flags], ...anyone }],
  [EVENT.IOTLB_INV_TIMEOUT, { name: "IOTLB_INV_TIMEOUT", fields: [address], ...ofDevice }],
  [
    EVENT.INVALID_DEVICE_REQUEST,
    { name: "INVALID_DEVICE_REQUEST", fields: [pasid, address, flags], ...ofDevice },
  ],
  [
    EVENT.INVALID_PPR_REQUEST,
    { name: "INVALID_PPR_REQUEST", fields: [requestPasid, address, flags, tag], ...ofDevice },
  ],
  [
    EVENT.RMP_PAGE_FAULT,
    { name: "RMP_PAGE_FAULT", fields: [guestTag, guestAddress, ownerFlags, flags], ...owners },
  ],
  // Not the book's name.
  [EVENT.RMP_HARDWARE_ERROR, { name: "RMP_HW_ERROR", fields: [guestTag, systemAddress, flags], ...owners }],
])
