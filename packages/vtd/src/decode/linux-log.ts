/**
 * Fault records from lines of Linux's log. The forms, by release:
 *
 * | Since | Form |
 * |---|---|
 * | 4.9 | `[DMA Write] Request device [00:12.0] fault addr 0 [fault reason 05]`: reason in decimal; earlier on a line of its own |
 * | 5.0 | the same with `PASID ffffffff` before the address: none |
 * | 5.13 | `[DMA Read NO_PASID]`, `[DMA Read PASID 0x2]`, reason in hexadecimal with 0x |
 * | 7.2 | the device with its segment |
 */
import { type LoggedRecord, requesterId } from "@iommu/core"
import { FI_INDEX_SHIFT, FRCD } from "../spec/events.ts"
import { isInterruptLine } from "./linux-text.ts"

const DMA =
  /\[DMA (Read|Write)(?: (NO_PASID|PASID 0x[\da-f]{1,5}))?\] Request device \[([\da-fx:.]{5,16})\](?: PASID ([\da-f]{1,8}))? fault addr (?:0x)?([\da-f]{1,16})\b/i
const INTERRUPT = /\[INTR-REMAP\] Request device \[+([\da-fx:.]{5,16})\] fault index (?:0x)?([\da-f]{1,4})\b/i
const REASON = /\[fault reason (?:0x([\da-f]{1,2})|(\d{1,3}))\]/i
/** Lines that may come between a fault and its reason, where they are two. */
const REASON_WITHIN = 3
const NO_PASID = 0xffff_ffff

export function readLinuxLog(lines: readonly string[]): LoggedRecord[] {
  return lines.flatMap((text, line) => {
    const dma = DMA.exec(text)
    if (dma !== null) return dmaRecord(dma, reasonAt(lines, line), line) ?? []
    const interrupt = INTERRUPT.exec(text)
    return interrupt === null ? [] : (interruptRecord(interrupt, reasonAt(lines, line), line) ?? [])
  })
}

/** In the line itself, or in a following one that tells of no other fault. */
function reasonAt(lines: readonly string[], line: number): number | null {
  for (let at = line; at <= line + REASON_WITHIN; at++) {
    const text = lines[at] ?? ""
    if (at > line && (DMA.test(text) || INTERRUPT.test(text))) return null
    const match = REASON.exec(text)
    if (match !== null) return (match[1] ? Number.parseInt(match[1], 16) : Number(match[2])) & 0xff
  }
  return null
}

function dmaRecord(match: RegExpExecArray, reason: number | null, line: number): LoggedRecord | null {
  const [, access, newPasid, name = "", oldPasid, address = ""] = match
  const device = requesterId(name)
  if (device === null || reason === null || isInterruptLine(reason)) return null
  const pasid = pasidOf(newPasid, oldPasid)
  const words = FRCD.encode({
    FI: BigInt(`0x${address}`) >> 12n,
    SID: BigInt(device),
    FR: BigInt(reason),
    T1: access?.toLowerCase() === "read" ? 1n : 0n,
    PP: pasid === null ? 0n : 1n,
    PV: BigInt(pasid ?? 0),
    F: 1n,
  })
  const isPasidTold = newPasid !== undefined || oldPasid !== undefined
  const untold = ["T2", "PRIV", "EXE", "AT", ...(isPasidTold ? [] : ["PP", "PV"])]
  return logged(words, untold, name, line)
}

function interruptRecord(match: RegExpExecArray, reason: number | null, line: number): LoggedRecord | null {
  const [, name = "", index = ""] = match
  const device = requesterId(name)
  if (device === null || reason === null || !isInterruptLine(reason)) return null
  const words = FRCD.encode({
    FI: BigInt(`0x${index}`) << FI_INDEX_SHIFT,
    SID: BigInt(device),
    FR: BigInt(reason),
    F: 1n,
  })
  return logged(words, ["T1", "T2", "PP", "PV", "PRIV", "EXE", "AT"], name, line)
}

/** `NO_PASID`, `PASID 0x2`, or the old `ffffffff` and `2`. */
function pasidOf(now: string | undefined, before: string | undefined): number | null {
  const digits = now === undefined ? before : /0x([\da-f]+)/i.exec(now)?.[1]
  if (digits === undefined) return null
  const value = Number.parseInt(digits, 16)
  return value === NO_PASID ? null : value & 0xf_ffff
}

function logged(
  words: readonly bigint[],
  untold: readonly string[],
  name: string,
  line: number,
): LoggedRecord {
  const segment = /^([\da-f]{4}):/i.exec(name)?.[1] ?? "0"
  return { words, untold, segment: Number.parseInt(segment, 16), iommu: null, device: null, line }
}
