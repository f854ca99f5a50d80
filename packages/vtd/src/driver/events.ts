/**
 * What becomes of fault records. Intel VT-d 5.10 (D51397-018) §7.2.1, §7.3. They are the host's: a guest nests on the
 * parent alone, as in Linux, and there is nobody to pass them on to.
 */
import type { HardwareEvent } from "@iommu/core"
import { decodeRecord } from "../decode/record.ts"
import type { Hardware } from "./hardware.ts"

/** Reads the fault recording registers once. @returns records read */
export function handleEvents(hardware: Hardware, onEvent: (event: HardwareEvent) => void): number {
  const records = hardware.takeFaults()
  for (const words of records) onEvent(describe(words))
  return records.length
}

function describe(words: readonly bigint[]): HardwareEvent {
  const { name, device } = decodeRecord(words)
  return { name, device, words }
}
