/**
 * What becomes of the entries in the event log. AMD 48882 rev 3.10, §2.5. Which of them are a guest's is decided here:
 * Linux forwards none; hardware with a virtualized IOMMU (vIommuSup) writes a guest its own log.
 */
import { type HardwareEvent, hi32, lo32 } from "@iommu/core"
import * as dte from "../spec/device-table.ts"
import * as evt from "../spec/events.ts"
import type { AmdNestedDomain } from "./nested-domain.ts"
import type { AmdDriver } from "./ops.ts"

const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(evt.EVENT).map(([name, code]) => [code, name]),
)
/** Events that no device caused have something else in the place of a DeviceID. */
const WITHOUT_DEVICE: ReadonlySet<number> = new Set([
  evt.EVENT.ILLEGAL_COMMAND_ERROR,
  evt.EVENT.COMMAND_HARDWARE_ERROR,
  evt.EVENT.EVENT_COUNTER_ZERO,
])
/** In the high half of an entry's second word. */
const IR = BigInt(dte.IR) << 32n
const IW = BigInt(dte.IW) << 32n

/** Reads the log once. @returns entries read */
export function handleEvents(driver: AmdDriver, onEvent: (event: HardwareEvent) => void): number {
  const records = driver.hardware.takeEvents()
  for (const words of records) {
    if (!reportToGuest(driver, words)) onEvent(describe(words))
  }
  return records.length
}

function reportToGuest(driver: AmdDriver, words: readonly bigint[]): boolean {
  if (WITHOUT_DEVICE.has(codeOf(words))) return false
  const state = driver.deviceAt(deviceIdOf(words))
  if (state?.rid.type !== "nested" || !isGuests(state.rid, words)) return false
  const { viommu, plan } = state.rid
  return viommu?.report(state.device, plan.gDomID, words) ?? false
}

/**
 * A guest's are faults in its own tables, what its entry does not allow, and requests that its device should not have
 * made. The host keeps faults of its own tables, and errors whose record holds a system physical address.
 */
function isGuests({ plan }: AmdNestedDomain, words: readonly bigint[]): boolean {
  switch (codeOf(words)) {
    case evt.EVENT.IO_PAGE_FAULT: {
      const fault = evt.IO_PAGE_FAULT.decode(words)
      return fault.GN === 1n || (plan.word0 & (fault.RW === 1n ? IW : IR)) === 0n
    }
    case evt.EVENT.INVALID_DEVICE_REQUEST:
    case evt.EVENT.INVALID_PPR_REQUEST:
      return true
    default:
      return false
  }
}

/** The entry's 16 bytes with the guest's DeviceID, and its DomainID where the entry names one. */
export function guestEvent(words: readonly bigint[], virtualId: number, gDomID: number): Uint8Array {
  const isFault = codeOf(words) === evt.EVENT.IO_PAGE_FAULT
  const namesDomain = isFault && evt.IO_PAGE_FAULT.get(words, "GN") === 0n
  const [word0, word1] = words as [bigint, bigint]
  const renamed = (word0 & ~0xffffn) | BigInt(virtualId)
  const first = namesDomain ? (renamed & ~(0xffffn << 32n)) | (BigInt(gDomID) << 32n) : renamed
  const data = new Uint8Array(evt.EVENT_BYTES)
  const view = new DataView(data.buffer)
  ;[first, word1].forEach((word, i) => {
    view.setUint32(8 * i, lo32(word), true)
    view.setUint32(8 * i + 4, hi32(word), true)
  })
  return data
}

function describe(words: readonly bigint[]): HardwareEvent {
  const code = codeOf(words)
  const device = WITHOUT_DEVICE.has(code) ? null : deviceIdOf(words)
  return { name: NAMES.get(code) ?? `event ${code}`, device, words }
}

function codeOf(words: readonly bigint[]): number {
  return Number(evt.IO_PAGE_FAULT.get(words, "Code"))
}

function deviceIdOf(words: readonly bigint[]): number {
  return Number(evt.IO_PAGE_FAULT.get(words, "DeviceID"))
}
