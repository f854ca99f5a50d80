/**
 * Lines of Linux's log for event records that nobody handles: `arm_smmu_evtq_thread` in 6.1 and 6.12,
 * `arm_smmu_dump_event` in 6.18 and 7.2.
 */
import type { LinuxContext } from "@iommu/core"
import * as ev from "../spec/events.ts"
import { CLASS_TEXTS, eventText } from "./linux-text.ts"
import type { SmmuV3Record, SmmuV3TranslationRecord } from "./record.ts"

/** As the first SMMUv3 of an ACPI machine is called. */
const USUAL_IOMMU = "arm-smmu-v3 arm-smmu-v3.0.auto"
const RECORD_WORDS = ev.EVENT_BYTES / 8
/** Bits of the fourth word that Linux shows: fewer than the book has, addresses of 52 bits. */
const SHOWN_IPA = 0x000f_ffff_ffff_f000n
const SHOWN_FETCH_ADDRESS = 0x000f_ffff_ffff_fff8n

export function linuxLines(record: SmmuV3Record, context: LinuxContext): string[] {
  const lines = [...rawLines(record), ...decodedLines(record, context)]
  return lines.map(line => `${context.iommu ?? USUAL_IOMMU}: ${line}`)
}

function rawLines({ event, words }: SmmuV3Record): string[] {
  const raw = Array.from({ length: RECORD_WORDS }, (_, n) => BigInt.asUintN(64, words[n] ?? 0n))
  const number = event.toString(16).padStart(2, "0")
  return [`event 0x${number} received:`, ...raw.map(word => `\t0x${word.toString(16).padStart(16, "0")}`)]
}

function decodedLines(record: SmmuV3Record, context: LinuxContext): string[] {
  switch (context.release) {
    case "6.1":
    case "6.12":
      return []
    case "6.18":
    case "7.2":
      return eventLines(record, context)
  }
}

function eventLines(record: SmmuV3Record, { device }: LinuxContext): string[] {
  const { StreamID, SSV, SubstreamID } = ev.C_BAD_STE.decode(record.words)
  // The log names devices without their driver here.
  const client = device?.split(" ").at(-1) ?? "(unassigned sid)"
  const ssid = SSV === 1n ? SubstreamID : 0n
  const line = `event: ${eventText(record.event)} client: ${client} sid: ${hex(StreamID)} ssid: ${hex(ssid)}`
  switch (record.kind) {
    case "translation":
      return [
        `${line} iova: ${hex(record.address)} ipa: ${hex((record.words[3] ?? 0n) & SHOWN_IPA)}`,
        translationLine(record),
      ]
    case "fetch":
      return [`${line} fetch_addr: ${hex((record.words[3] ?? 0n) & SHOWN_FETCH_ADDRESS)}`]
    case "walk abort":
    case "configuration":
    case "refusal":
    case "other":
      return [line]
  }
}

function translationLine(record: SmmuV3TranslationRecord): string {
  const { STAG, TTRnW } = ev.F_PERMISSION.decode(record.words)
  const who = [record.privileged ? "priv" : "unpriv", record.instruction ? "inst" : "data", record.access]
  // Shown for every permission fault at a table, also where stage 1 refused.
  const atTable = record.name === "F_PERMISSION" && record.class === "stage 1 table fetch"
  const table = atTable ? (TTRnW === 1n ? " ttd_read" : " ttd_write") : ""
  const stall = record.stalled === null ? "" : " stall"
  return `${who.join(" ")} s${record.stage} "${CLASS_TEXTS[record.class]}"${table}${stall} stag: ${hex(STAG)}`
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`
}
