/** Decoded records, as a document and as text. */
import { type FaultExplanation, type LinuxRelease, type PageRequest, requesterName } from "@iommu/core"
import type { FoundRecord } from "./input.ts"

export interface RecordReport {
  readonly vendor: string
  readonly times: number
  /** Where it came first, from 1. */
  readonly line: number
  /** Values of the record; addresses and the like as hexadecimal text. */
  readonly record: Readonly<Record<string, unknown>>
  readonly explanation: FaultExplanation
  readonly linux: { readonly release: LinuxRelease; readonly lines: readonly string[] }
  /** Fields that the log does not tell. */
  readonly untold: readonly string[]
}

export function reportOf(
  { decoder, words, times, line, untold, segment, iommu, device }: FoundRecord,
  release: LinuxRelease,
  deviceName: string | null,
): RecordReport {
  const record = decoder.decode(words)
  const context = { release, segment, iommu, device: deviceName ?? device }
  return {
    vendor: decoder.vendor,
    times,
    line: line + 1,
    record: plain(record),
    explanation: decoder.explain(record),
    linux: { release, lines: decoder.linuxLines(record, context) },
    untold,
  }
}

/** A document has no bigint. */
export function plain(record: object): Record<string, unknown> {
  const value = (of: unknown): unknown => {
    if (typeof of === "bigint") return `0x${of.toString(16)}`
    if (Array.isArray(of)) return of.map(word => wordText(word as bigint))
    return typeof of === "object" && of !== null ? plain(of) : of
  }
  return Object.fromEntries(Object.entries(record).map(([name, of]) => [name, value(of)]))
}

function wordText(word: bigint): string {
  return `0x${word.toString(16).padStart(16, "0")}`
}

export function recordText({
  vendor,
  times,
  line,
  record,
  explanation,
  linux,
  untold,
}: RecordReport): string {
  const { name, words, kind, ...values } = record
  const often = times === 1 ? "" : `, ${times} times`
  const rows: [string, readonly string[]][] = [
    ["happened", [explanation.happened]],
    ["where", [explanation.where]],
    ["often because", explanation.causes],
    ["book", [explanation.section]],
    ["record", [(words as string[]).join(" "), valuesText(values, vendor !== "smmuv3")]],
    ...(untold.length === 0 ? [] : [["not in the log", [untold.join(", ")]] satisfies [string, string[]]]),
    [`Linux ${linux.release}`, linux.lines],
  ]
  return [
    `${vendor}: ${name as string} (${kind as string}), line ${line}${often}`,
    ...rows.map(rowText),
  ].join("\n")
}

/**
 * What the record says, without what it does not have.
 * @param hasRequesterIds devices have bus, slot and function; StreamIDs are what firmware makes of them
 */
function valuesText(values: Readonly<Record<string, unknown>>, hasRequesterIds: boolean): string {
  const valueText = (name: string, value: unknown): string => {
    if (typeof value !== "number") return String(value)
    const hex = `0x${value.toString(16)}`
    return name === "device" && hasRequesterIds ? `${hex} (${requesterName(value)})` : hex
  }
  return Object.entries(values)
    .filter(([, value]) => value !== null && value !== false && typeof value !== "object")
    .map(([name, value]) => (value === true ? name : `${name}=${valueText(name, value)}`))
    .join(" ")
}

const LABEL = 16

function rowText([label, lines]: readonly [string, readonly string[]]): string {
  return lines.map((line, n) => `  ${(n === 0 ? label : "").padEnd(LABEL)}${line}`).join("\n")
}

/** A page request in one line. */
export function requestText(vendor: string, request: PageRequest): string {
  return `${vendor}: page request ${valuesText(plain(request), vendor !== "smmuv3")}`
}
