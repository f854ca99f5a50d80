/**
 * What becomes of the records in the Event queue. Arm IHI 0070 G.b §7.2, §7.3; which of them are a guest's: Linux's
 * `arm_smmu_handle_event`.
 */
import { type HardwareEvent, hi32, lo32 } from "@iommu/core"
import { decodeRecord, type SmmuV3Record } from "../decode/record.ts"
import * as ev from "../spec/events.ts"
import type { SmmuV3Driver } from "./ops.ts"
import type { RecordQueue } from "./queue.ts"

/** What a guest has done wrong in its own tables, or what its stage 1 does not allow. */
const GUEST_EVENTS: ReadonlySet<number> = new Set([
  ev.EVENTS.C_BAD_STE,
  ev.EVENTS.F_STREAM_DISABLED,
  ev.EVENTS.C_BAD_SUBSTREAMID,
  ev.EVENTS.C_BAD_CD,
  ev.EVENTS.F_TRANSLATION,
  ev.EVENTS.F_ADDR_SIZE,
  ev.EVENTS.F_ACCESS,
  ev.EVENTS.F_PERMISSION,
])

/** Reads the queue once. @returns records read */
export function handleEvents(
  driver: SmmuV3Driver,
  queue: RecordQueue,
  onEvent: (event: HardwareEvent) => void,
): number {
  const { records } = queue.take()
  for (const record of records.map(decodeRecord)) {
    if (record.kind === "translation" && record.stalled !== null)
      driver.pageRequests.stalled(record, record.stalled)
    else if (!reportToGuest(driver, record)) onEvent(describe(record))
  }
  return records.length
}

/** Stage 2 is the host's, and so is what went wrong there. */
function reportToGuest(driver: SmmuV3Driver, record: SmmuV3Record): boolean {
  if (!GUEST_EVENTS.has(record.event)) return false
  if (record.kind === "translation" && record.stage === 2) return false
  const state = driver.deviceAt(record.device)
  if (state?.rid.type !== "nested") return false
  return state.rid.viommu?.report(state.device, record.words) ?? false
}

/** The record's 32 bytes with the guest's StreamID. */
export function guestEvent(words: readonly bigint[], virtualId: number): Uint8Array {
  const data = new Uint8Array(ev.EVENT_BYTES)
  const view = new DataView(data.buffer)
  words.forEach((word, i) => {
    view.setUint32(8 * i, lo32(word), true)
    view.setUint32(8 * i + 4, i === 0 ? virtualId : hi32(word), true)
  })
  return data
}

function describe({ name, device, words }: SmmuV3Record): HardwareEvent {
  return { name, device, words }
}
