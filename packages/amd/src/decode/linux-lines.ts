/** Lines of Linux's log for event log entries: `iommu_print_event` and what it calls, from 6.1 to 7.3. */
import { hi32, type LinuxContext, lo32, requesterName } from "@iommu/core"
import { EVENT_TEXTS } from "./linux-text.ts"
import type { AmdRecord } from "./record.ts"

/** As the first IOMMU of a machine is called. */
const USUAL_IOMMU = "iommu ivhd0"

/**
 * ILLEGAL_DEV_TABLE_ENTRY and ILLEGAL_COMMAND_ERROR are followed by lines that dump the entry, or the command, and
 * since 7.2 a register, which no event holds.
 */
export function linuxLines({ code, words }: AmdRecord, context: LinuxContext): string[] {
  const word0 = BigInt.asUintN(64, words[0] ?? 0n)
  const word1 = BigInt.asUintN(64, words[1] ?? 0n)
  const iommu = context.iommu ?? USUAL_IOMMU
  // Linux waits for the code to be written, for some hardware is late, and gives up.
  if (code === 0) return ["AMD-Vi: No event written to event log"]
  const text = EVENT_TEXTS.get(code)
  if (text === undefined) return [`${iommu}: AMD-Vi: Event logged [UNKNOWN ${dwords(word0, word1)}`]

  const known = text.isDevices ? context.device : null
  const fields = text.fields.map(({ label, digits, get }) => `${label}=${hex(get(word0, word1), digits)}`)
  const deviceId = Number(word0 & 0xffffn)
  const device = text.namesDevice && known === null ? [`device=${deviceText(deviceId, context)}`] : []
  const event = `${text.name} ${[...device, ...fields].join(text.separator)}`
  return [`${prefix(text.isDevices ? known : iommu)}AMD-Vi: Event logged [${event}]`]
}

function prefix(name: string | null): string {
  return name === null ? "" : `${name}: `
}

/** Without the closing bracket, which Linux forgets. */
function dwords(word0: bigint, word1: bigint): string {
  return [lo32(word0), hi32(word0), lo32(word1), hi32(word1)]
    .map((dword, n) => `event[${n}]=${hex(BigInt(dword), 8)}`)
    .join(" ")
}

function deviceText(id: number, { segment }: LinuxContext): string {
  return `${segment.toString(16).padStart(4, "0")}:${requesterName(id)}`
}

function hex(value: bigint, digits: number): string {
  return `0x${value.toString(16).padStart(digits, "0")}`
}
