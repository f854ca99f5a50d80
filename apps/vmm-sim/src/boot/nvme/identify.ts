/** What the controller says of itself. NVM Express 1.4c §5.15 (Identify), §5.14.1.2 (SMART log). */
import type { Disk } from "./disk.ts"
import { MAX_TRANSFER_LG2_PAGES, NAMESPACE } from "./io.ts"
import { PAGE_BYTES, VERSION_1_4 } from "./spec.ts"

/** Numbers that Linux knows nothing of: it has a list of controllers whose identifiers it does not trust. */
export const PCI_VENDOR = 0x1234
export const PCI_DEVICE = 0x4e56
const SUBSYSTEM_NQN = "nqn.2014-08.org.nvmexpress:uuid:6f1c3f6e-2a54-4f0c-9a0a-1c5d0b1f2e3d"
/** EUI-64 and NGUID of the only namespace, in the private range of the IEEE (locally administered). */
const EUI64 = Uint8Array.of(0x02, 0x49, 0x4f, 0x4d, 0x4d, 0x55, 0x00, 0x01)
const NGUID = Uint8Array.of(...new Array(8).fill(0), ...EUI64)
const KELVIN_ROOM = 300
const KELVIN_WARNING = 343
const KELVIN_CRITICAL = 353

/** CNS values, Figure 244. */
const CNS_NAMESPACE = 0x00
const CNS_CONTROLLER = 0x01
const CNS_ACTIVE_NAMESPACES = 0x02
const CNS_NAMESPACE_DESCRIPTORS = 0x03
/** Command-set specific data of the controller and of a namespace, all zero for the NVM command set as it is here. */
const CNS_COMMAND_SET_NAMESPACE = 0x05
const CNS_COMMAND_SET_CONTROLLER = 0x06

/** @returns the 4096 bytes, or null for data that this controller does not have */
export function identify(disk: Disk, cns: number, namespace: number): Uint8Array | null {
  switch (cns) {
    case CNS_CONTROLLER:
      return controller()
    case CNS_NAMESPACE:
      return namespace === NAMESPACE ? namespaceData(disk) : new Uint8Array(PAGE_BYTES)
    case CNS_ACTIVE_NAMESPACES:
      return activeNamespaces(namespace)
    case CNS_NAMESPACE_DESCRIPTORS:
      return namespace === NAMESPACE ? descriptors() : null
    case CNS_COMMAND_SET_NAMESPACE:
    case CNS_COMMAND_SET_CONTROLLER:
      return new Uint8Array(PAGE_BYTES)
    default:
      return null
  }
}

/** Figure 247. */
function controller(): Uint8Array {
  const data = new Uint8Array(PAGE_BYTES)
  const view = new DataView(data.buffer)
  view.setUint16(0, PCI_VENDOR, true)
  view.setUint16(2, PCI_VENDOR, true)
  text(data, 4, 20, "IOMMU0001")
  text(data, 24, 40, "iommu model NVMe controller")
  text(data, 64, 8, "1")
  data[77] = MAX_TRANSFER_LG2_PAGES
  view.setUint16(78, 1, true) // CNTLID
  view.setUint32(80, VERSION_1_4, true)
  data[111] = 1 // CNTRLTYPE: I/O controller
  data[258] = 3 // ACL: four aborts
  data[259] = ASYNC_EVENT_LIMIT - 1
  data[260] = 0x03 // FRMW: one slot, read-only
  view.setUint16(266, KELVIN_WARNING, true)
  view.setUint16(268, KELVIN_CRITICAL, true)
  data[512] = 0x66 // SQES: entries of 64 bytes
  data[513] = 0x44 // CQES: entries of 16 bytes
  view.setUint32(516, 1, true) // NN
  view.setUint16(520, 1 << 3, true) // ONCS: Write Zeroes
  data[525] = 1 // VWC: a volatile write cache is there
  data.set(new TextEncoder().encode(SUBSYSTEM_NQN), 768)
  view.setUint16(2048, 2500, true) // MP of power state 0, in centiwatts
  return data
}

/** Figure 245. */
function namespaceData(disk: Disk): Uint8Array {
  const data = new Uint8Array(PAGE_BYTES)
  const view = new DataView(data.buffer)
  for (const field of [0, 8, 16]) view.setBigUint64(field, BigInt(disk.blocks), true)
  data.set(NGUID, 104)
  data.set(EUI64, 120)
  data[130] = 9 // LBADS of format 0: 512 bytes
  return data
}

function activeNamespaces(after: number): Uint8Array {
  const data = new Uint8Array(PAGE_BYTES)
  if (after < NAMESPACE) data[0] = NAMESPACE
  return data
}

/** Figure 248: type, length, two reserved bytes, value. */
function descriptors(): Uint8Array {
  const data = new Uint8Array(PAGE_BYTES)
  data.set([1, EUI64.length, 0, 0, ...EUI64, 2, NGUID.length, 0, 0, ...NGUID])
  return data
}

/** Asynchronous event requests that may wait at a time. */
export const ASYNC_EVENT_LIMIT = 4

/** Log pages, Figure 191. */
const LOG_ERRORS = 1
const LOG_SMART = 2
const LOG_FIRMWARE_SLOTS = 3

/** @returns the whole page, or null for a page that this controller does not have */
export function logPage(page: number, disk: Disk): Uint8Array | null {
  switch (page) {
    case LOG_ERRORS:
      return new Uint8Array(64)
    case LOG_SMART:
      return smart(disk)
    case LOG_FIRMWARE_SLOTS: {
      const data = new Uint8Array(512)
      data[0] = 1
      text(data, 8, 8, "1")
      return data
    }
    default:
      return null
  }
}

/** Figure 194. */
function smart(disk: Disk): Uint8Array {
  const data = new Uint8Array(512)
  const view = new DataView(data.buffer)
  view.setUint16(1, KELVIN_ROOM, true)
  data[3] = 100 // available spare, percent
  data[4] = 10
  view.setBigUint64(32, BigInt(Math.ceil(disk.counts.bytesRead / 512_000)), true)
  view.setBigUint64(48, BigInt(Math.ceil(disk.counts.bytesWritten / 512_000)), true)
  return data
}

/** ASCII, padded with spaces. */
function text(data: Uint8Array, offset: number, bytes: number, value: string): void {
  data.set(new TextEncoder().encode(value.padEnd(bytes)), offset)
}
