/**
 * What becomes of the records in the Event queue. Arm IHI 0070 G.b §7.2, §7.3; which of them are a guest's: Linux's
 * `arm_smmu_handle_event`.
 */
import { type HardwareEvent, hi32, lo32 } from "@iommu/core"
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
const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(ev.EVENTS).map(([name, number]) => [number, name]),
)

/** Reads the queue once. @returns records read */
export function handleEvents(
  driver: SmmuV3Driver,
  queue: RecordQueue,
  onEvent: (event: HardwareEvent) => void,
): number {
  const { records } = queue.take()
  for (const words of records) {
    if (isStalled(words)) driver.pageRequests.stalled(words)
    else if (!reportToGuest(driver, words)) onEvent(describe(words))
  }
  return records.length
}

/** Fields of F_TRANSLATION stand at the same bits in all records that can stall or name a stage, §7.3.13 to §7.3.16. */
function isStalled(words: readonly bigint[]): boolean {
  const number = numberOf(words)
  const canStall = number >= ev.EVENTS.F_TRANSLATION && number <= ev.EVENTS.F_PERMISSION
  return canStall && ev.F_TRANSLATION.get(words, "Stall") === 1n
}

/** Stage 2 is the host's, and so is what went wrong there. */
function reportToGuest(driver: SmmuV3Driver, words: readonly bigint[]): boolean {
  if (!GUEST_EVENTS.has(numberOf(words)) || ev.F_TRANSLATION.get(words, "S2") === 1n) return false
  const state = driver.deviceAt(streamIdOf(words))
  if (state?.rid.type !== "nested") return false
  return state.rid.viommu?.report(state.device, words) ?? false
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

function describe(words: readonly bigint[]): HardwareEvent {
  const number = numberOf(words)
  return { name: NAMES.get(number) ?? `event 0x${number.toString(16)}`, device: streamIdOf(words), words }
}

function numberOf(words: readonly bigint[]): number {
  return Number(ev.F_TRANSLATION.get(words, "EventNumber"))
}

function streamIdOf(words: readonly bigint[]): number {
  return Number(ev.F_TRANSLATION.get(words, "StreamID"))
}
