/**
 * Event log entries from lines of Linux's log. The forms, by release:
 *
 * | Since | Form |
 * |---|---|
 * | 4.9 | `AMD-Vi: Event logged [IO_PAGE_FAULT device=05:00.0 domain=0x0012 address=0x00000000ff6101b0 flags=0x0070]`, in some kernels broken after the bracket |
 * | 4.14 | page faults of a device that the kernel knows: `nvme 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=...` |
 * | 5.0 | `pasid=` in other events, and the IOMMU's name before them |
 * | 6.0 | the device with its segment |
 */
import { type LoggedRecord, requesterId } from "@iommu/core"
import { EVENT } from "../spec/events.ts"
import { EVENT_TEXTS } from "./linux-text.ts"

const CODES: ReadonlyMap<string, number> = new Map([...EVENT_TEXTS].map(([code, { name }]) => [name, code]))
const EVENT_LINE = new RegExp(
  `\\b(${[...CODES.keys()].join("|")}) ((?:[a-z_]{3,9}=[\\da-fx:.]{1,18},? ?){1,6})\\]?`,
  "i",
)
const UNKNOWN_LINE =
  /\[UNKNOWN event\[0\]=0x([\da-f]{8}) event\[1\]=0x([\da-f]{8}) event\[2\]=0x([\da-f]{8}) event\[3\]=0x([\da-f]{8})/i
const WHO = /(\S{1,64} \S{1,64}): AMD-Vi: Event logged \[/
const PCI_NAME = /^([\da-f]{4}):[\da-f]{2}:[\da-f]{2}\.[0-7]$/i

type Values = ReadonlyMap<string, string>

export function readLinuxLog(lines: readonly string[]): LoggedRecord[] {
  return lines.flatMap((text, line) => {
    const unknown = UNKNOWN_LINE.exec(text)
    if (unknown !== null) return unknownRecord(unknown, whoIn(text), line)
    const match = EVENT_LINE.exec(text)
    if (match === null) return []
    const [, name = "", list = ""] = match
    return eventRecord(CODES.get(name.toUpperCase()) ?? 0, valuesOf(list), whoIn(text), line) ?? []
  })
}

/** What stands before the message: a device or an IOMMU, with its driver. */
function whoIn(text: string): string | null {
  return WHO.exec(text)?.[1] ?? null
}

function valuesOf(list: string): Values {
  return new Map(list.split(/[ ,]+/).map(pair => pair.split("=") as [string, string]))
}

function eventRecord(code: number, values: Values, who: string | null, line: number): LoggedRecord | null {
  const isDevices = EVENT_TEXTS.get(code)?.isDevices === true
  // A page fault's line begins with the device, those of other events with the IOMMU.
  const device = isDevices ? who : null
  const iommu = isDevices ? null : who
  const namesDevice = EVENT_TEXTS.get(code)?.namesDevice === true
  const deviceName = values.get("device") ?? device?.split(" ").at(-1) ?? ""
  const id = namesDevice ? requesterId(deviceName) : 0
  const words = id === null ? null : eventWords(code, id, values)
  if (words === null) return null
  const segment = Number.parseInt(PCI_NAME.exec(deviceName)?.[1] ?? "0", 16)
  return { words, untold: untoldOf(code, values), segment, iommu, device, line }
}

/** @returns null where a number has more bits than its field, or the address is missing */
function eventWords(code: number, device: number, values: Values): bigint[] | null {
  const number = (label: string): bigint => parsed(values.get(label)) ?? 0n
  const address = parsed(values.get("address") ?? values.get("gpa") ?? values.get("spa"))
  const flags = number("flags")
  const middle = code === EVENT.INVALID_PPR_REQUEST ? requestBits(number) : entryBits(number)
  if (address === null || flags > 0xfffn || middle === null) return null
  const low = BigInt(device) | middle | (flags << 48n) | (BigInt(code) << 60n)
  return [low, address]
}

/** Bits 47:16 of all events but one. */
function entryBits(number: (label: string) => bigint): bigint | null {
  const pasid = number("pasid")
  const [domain, guestTag, ownerFlags] = [number("domain"), number("vmg_tag"), number("flags_rmp")]
  if (pasid > 0xf_ffffn || domain > 0xffffn || guestTag > 0xffffn || ownerFlags > 0xffn) return null
  return ((pasid >> 16n) << 16n) | (ownerFlags << 16n) | (((pasid & 0xffffn) | domain | guestTag) << 32n)
}

/** Bits 47:16 of INVALID_PPR_REQUEST. */
function requestBits(number: (label: string) => bigint): bigint | null {
  const [pasid, tag] = [number("pasid"), number("tag")]
  if (pasid > 0xf_ffffn || tag > 0x3ffn) return null
  return ((pasid & 0xffffn) << 16n) | (tag << 32n) | ((pasid >> 16n) << 42n)
}

function parsed(text: string | undefined): bigint | null {
  return text !== undefined && /^(?:0x)?[\da-f]{1,16}$/i.test(text)
    ? BigInt(`0x${text.replace(/^0x/i, "")}`)
    : null
}

/** GN, lowest of the flags: the DomainID is the lower part of a PASID then. */
function untoldOf(code: number, values: Values): string[] {
  const isGuest = ((parsed(values.get("flags")) ?? 0n) & 1n) !== 0n
  if (code === EVENT.IO_PAGE_FAULT) return isGuest ? ["PASID_19_16"] : []
  const hasPasid = EVENT_TEXTS.get(code)?.fields.some(({ label }) => label === "pasid") === true
  return hasPasid && !values.has("pasid") ? ["PASID"] : []
}

function unknownRecord(match: RegExpExecArray, iommu: string | null, line: number): LoggedRecord {
  const [, low0 = "", high0 = "", low1 = "", high1 = ""] = match
  const words = [BigInt(`0x${high0}${low0}`), BigInt(`0x${high1}${low1}`)]
  return { words, untold: [], segment: 0, iommu, device: null, line }
}
