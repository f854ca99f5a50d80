/** Checks of one row each: `translations`, `unmapped` and `faults`. */
import type { DmaOutcome } from "@iommu/core"
import type { FaultRow, TranslationRow, UnmappedRow, Vendor } from "../capture/schema.ts"
import { type Comparison, hex, outcomeText, recordOf, sameWords, wordsText } from "./finding.ts"
import type { Machine } from "./machine.ts"
import { refusalKind, refusalKindOfReason } from "./refusal.ts"

export function checkTranslation(machine: Machine, row: TranslationRow): Comparison {
  const read = machine.read(row.device, row.iova)
  const write = machine.write(row.device, row.iova)
  const differences = [
    ...checkAllowed("read", row.read, read),
    ...checkAllowed("write", row.write, write),
    ...checkPlace("read", row, read),
    ...checkPlace("write", row, write),
  ]
  return { finding: { table: "translations", row, read, write }, differences }
}

function checkAllowed(what: string, allowed: boolean, outcome: DmaOutcome): string[] {
  return outcome.ok === allowed
    ? []
    : [`${what} must be ${allowed ? "allowed" : "refused"}, is ${outcomeText(outcome)}`]
}

function checkPlace(what: string, row: TranslationRow, outcome: DmaOutcome): string[] {
  if (!outcome.ok) return []
  const pairs: readonly (readonly [name: string, expected: bigint | undefined, found: bigint])[] = [
    ["pa", row.pa, outcome.pa],
    ["size", row.size, outcome.size],
    ["ipa", row.ipa, outcome.ipa],
    ["s1Size", row.s1Size, outcome.stage1Size],
    ["s2Size", row.s2Size, outcome.stage2Size],
  ]
  return pairs
    .filter(([, expected, found]) => expected !== undefined && expected !== found)
    .map(([name, expected, found]) => `${what}: ${name} must be ${hex(expected ?? 0n)}, is ${hex(found)}`)
}

/** No translation: both accesses are refused, and not by a leaf that is there but does not allow them. */
export function checkUnmapped(machine: Machine, vendor: Vendor, row: UnmappedRow): Comparison {
  const read = machine.read(row.device, row.iova)
  const write = machine.write(row.device, row.iova)
  const outcomes: [what: string, outcome: DmaOutcome][] = [["read", read]]
  if (!isInterruptMessage(vendor, row.iova)) outcomes.push(["write", write])
  const differences = outcomes
    .filter(([, outcome]) => outcome.ok || refusalKind(vendor, outcome.fault) === "permission")
    .map(([what, outcome]) => `${what} must find no translation, is ${outcomeText(outcome)}`)
  return { finding: { table: "unmapped", row, read, write }, differences }
}

/**
 * A write to FEEx_xxxxh is an interrupt on x86, which no table translates: whether it passes says nothing about
 * tables. VT-d 5.10 §3.14, AMD 48882 rev 3.10 §2.1.2.
 */
function isInterruptMessage(vendor: Vendor, iova: bigint): boolean {
  return vendor !== "smmuv3" && iova >> 20n === 0xfeen
}

export function checkFault(machine: Machine, vendor: Vendor, row: FaultRow): Comparison {
  const outcome =
    row.access === "read" ? machine.read(row.device, row.iova) : machine.write(row.device, row.iova)
  const differences = row.qemu === "bypass" ? checkBypass(row, outcome) : checkRefusal(vendor, row, outcome)
  return { finding: { table: "faults", row, outcome }, differences }
}

function checkBypass(row: FaultRow, outcome: DmaOutcome): string[] {
  const passed = outcome.ok && outcome.pa === row.iova
  return passed ? [] : [`must pass untranslated, is ${outcomeText(outcome)}`]
}

function checkRefusal(vendor: Vendor, row: FaultRow, outcome: DmaOutcome): string[] {
  if (outcome.ok) return [`must be refused, is ${outcomeText(outcome)}`]
  const { fault } = outcome
  const differences: string[] = []
  if (row.code !== undefined && row.code !== BigInt(fault.code)) {
    differences.push(`fault reason must be ${hex(row.code)}, is ${hex(BigInt(fault.code))} (${fault.reason})`)
  }
  if (row.event !== undefined && row.event !== null && row.event !== fault.reason) {
    differences.push(`event must be ${row.event}, is ${fault.reason}`)
  }
  if (row.words !== undefined && !sameRecord(row.words, recordOf(outcome))) {
    differences.push(`record must be ${wordsText(row.words)}, is ${wordsText(recordOf(outcome))}`)
  }
  // The reason in words comes from a reading of the tables; where the hardware spoke, its word counts.
  if (row.code === undefined && row.words === undefined && row.reason !== undefined) {
    const expected = refusalKindOfReason(row.reason)
    const found = refusalKind(vendor, fault)
    if (expected !== null && found !== null && expected !== found) {
      differences.push(`must be refused as ${row.reason}, is ${outcomeText(outcome)}`)
    }
  }
  return differences
}

function sameRecord(expected: readonly bigint[] | null, found: readonly bigint[] | null): boolean {
  return expected === null || found === null ? expected === found : sameWords(expected, found)
}
