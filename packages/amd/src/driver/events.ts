/**
 * What becomes of the entries in the event log. AMD 48882 rev 3.10, §2.5. Which of them are a guest's is decided here:
 * Linux forwards none; hardware with a virtualized IOMMU (vIommuSup) writes a guest its own log.
 */
import { type HardwareEvent, hi32, lo32 } from "@iommu/core"
import { type AmdRecord, decodeRecord } from "../decode/record.ts"
import * as dte from "../spec/device-table.ts"
import * as evt from "../spec/events.ts"
import type { AmdNestedDomain } from "./nested-domain.ts"
import type { AmdDriver } from "./ops.ts"

/** In the high half of an entry's second word. */
const IR = BigInt(dte.IR) << 32n
const IW = BigInt(dte.IW) << 32n

/** Reads the log once. @returns entries read */
export function handleEvents(driver: AmdDriver, onEvent: (event: HardwareEvent) => void): number {
  const records = driver.hardware.takeEvents()
  for (const record of records.map(decodeRecord)) {
    if (!reportToGuest(driver, record)) onEvent(describe(record))
  }
  return records.length
}

function reportToGuest(driver: AmdDriver, record: AmdRecord): boolean {
  if (record.device === null) return false
  const state = driver.deviceAt(record.device)
  if (state?.rid.type !== "nested" || !isGuests(state.rid, record)) return false
  const { viommu, plan } = state.rid
  return viommu?.report(state.device, plan.gDomID, record.words) ?? false
}

/**
 * A guest's are faults in its own tables, what its entry does not allow, and requests that its device should not have
 * made. The host keeps faults of its own tables, and errors whose record holds a system physical address.
 */
function isGuests({ plan }: AmdNestedDomain, record: AmdRecord): boolean {
  switch (record.kind) {
    case "page fault":
      return record.guest || (plan.word0 & (record.access === "write" ? IW : IR)) === 0n
    case "invalid request":
    case "invalid page request":
      return true
    case "illegal entry":
    case "hardware error":
    case "command":
    case "other":
      return false
  }
}

/** The entry's 16 bytes with the guest's DeviceID, and its DomainID where the entry names one. */
export function guestEvent(words: readonly bigint[], virtualId: number, gDomID: number): Uint8Array {
  const record = decodeRecord(words)
  const namesDomain = record.kind === "page fault" && !record.guest
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

function describe({ name, device, words }: AmdRecord): HardwareEvent {
  return { name, device, words }
}
