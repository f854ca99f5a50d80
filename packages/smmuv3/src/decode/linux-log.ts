/**
 * Event records from lines of Linux's log. All releases print the four words, each on a line of its own; since 6.16
 * more lines follow, which say less, but name the device.
 */
import type { LoggedRecord } from "@iommu/core"
import { EVENT_BYTES } from "../spec/events.ts"

const EVENT = /(arm-smmu-v3 [^\s:]+(?::[^\s:]+)*): event 0x([\da-f]{2}) received:/i
const WORD = /(arm-smmu-v3 [^\s:]+(?::[^\s:]+)*):\s+0x([\da-f]{16})\s*$/i
const CLIENT = /(arm-smmu-v3 [^\s:]+(?::[^\s:]+)*): event: \S+ client: ([\da-f:.]+|\S+) sid: /i
const RECORD_WORDS = EVENT_BYTES / 8

interface Pending {
  readonly iommu: string
  readonly number: bigint
  readonly line: number
  readonly words: bigint[]
}

/** Lines of several SMMUs, and of others, may stand between those of one record. */
export function readLinuxLog(lines: readonly string[]): LoggedRecord[] {
  const found: LoggedRecord[] = []
  const pending = new Map<string, Pending>()
  /** Index in `found` of the last whole record of an SMMU. */
  const last = new Map<string, number>()
  for (const [line, text] of lines.entries()) {
    const begin = EVENT.exec(text)
    if (begin !== null) {
      const [, iommu = "", number = ""] = begin
      pending.set(iommu, { iommu, number: BigInt(`0x${number}`), line, words: [] })
      last.delete(iommu)
      continue
    }
    const whole = takeWord(text, pending)
    if (whole !== null) {
      last.set(whole.iommu, found.length)
      found.push({
        words: whole.words,
        untold: [],
        segment: 0,
        iommu: whole.iommu,
        device: null,
        line: whole.line,
      })
      continue
    }
    nameDevice(text, found, last)
  }
  return found
}

/** @returns the record that the line completes. Words that contradict the line before them are no record. */
function takeWord(text: string, pending: Map<string, Pending>): Pending | null {
  const match = WORD.exec(text)
  const record = match === null ? undefined : pending.get(match[1] ?? "")
  if (match === null || record === undefined) return null
  record.words.push(BigInt(`0x${match[2]}`))
  if (record.words.length < RECORD_WORDS) return null
  pending.delete(record.iommu)
  return ((record.words[0] ?? 0n) & 0xffn) === record.number ? record : null
}

function nameDevice(text: string, found: LoggedRecord[], last: Map<string, number>): void {
  const match = CLIENT.exec(text)
  const at = match === null ? undefined : last.get(match[1] ?? "")
  const record = at === undefined ? undefined : found[at]
  if (match === null || at === undefined || record === undefined) return
  const [, , client = ""] = match
  if (!client.startsWith("(")) found[at] = { ...record, device: client }
}
