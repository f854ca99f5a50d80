/** What a row of a capture says and what the model answered. */
import type { DmaOutcome } from "@iommu/core"
import type { FaultRow, TranslationRow, UnmappedRow, VariantRow } from "../capture/schema.ts"

/** A row with the model's answers, for the ledger to recognise. */
type Finding =
  | {
      readonly table: "translations"
      readonly row: TranslationRow
      readonly read: DmaOutcome
      readonly write: DmaOutcome
    }
  | {
      readonly table: "unmapped"
      readonly row: UnmappedRow
      readonly read: DmaOutcome
      readonly write: DmaOutcome
    }
  | { readonly table: "faults"; readonly row: FaultRow; readonly outcome: DmaOutcome }
  | { readonly table: "variants"; readonly row: VariantRow; readonly outcomes: readonly DmaOutcome[] }

/** A finding, and in words where model and row differ; none when they agree. */
export interface Comparison {
  readonly finding: Finding
  readonly differences: readonly string[]
}

export function recordOf(outcome: DmaOutcome): readonly bigint[] | null {
  return outcome.ok ? null : outcome.fault.record
}

export function sameWords(a: readonly bigint[], b: readonly bigint[]): boolean {
  return a.length === b.length && a.every((word, index) => word === b[index])
}

export function wordsText(words: readonly bigint[] | null): string {
  return words === null ? "no record" : `[${words.map(hex).join(" ")}]`
}

export function outcomeText(outcome: DmaOutcome): string {
  if (outcome.ok) return `allowed, to ${hex(outcome.pa)}`
  const { reason, code, detail } = outcome.fault
  return `refused with ${reason} (code ${hex(BigInt(code))}): ${detail}`
}

export function hex(value: bigint): string {
  return `0x${value.toString(16)}`
}
