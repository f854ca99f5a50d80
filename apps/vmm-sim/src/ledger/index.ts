import type { Vendor } from "../capture/schema.ts"
import { type Comparison, recordOf, sameWords } from "../verify/finding.ts"
import type { LedgerEntry } from "./entry.ts"
import { SMMUV3_SLIPS } from "./smmuv3.ts"
import { VTD_SLIPS } from "./vtd.ts"

export const LEDGER: readonly LedgerEntry[] = [...VTD_SLIPS, ...SMMUV3_SLIPS]

/**
 * Whether a differing row differs only by slips of QEMU.
 * @returns ids of the ledger's entries that explain it, or null when any of the difference is left
 */
export function explain(vendor: Vendor, comparison: Comparison): readonly string[] | null {
  const entries = LEDGER.filter(entry => entry.vendor === vendor)
  const answer = entries.find(({ slip }) => slip.kind === "answer" && slip.explains(comparison.finding))
  if (answer !== undefined && comparison.differences.length === 1) return [answer.id]
  return explainRecords(entries, comparison)
}

/** Every differing record of the row must be the model's with slips; the rest of the row must agree. */
function explainRecords(
  entries: readonly LedgerEntry[],
  { finding, differences }: Comparison,
): string[] | null {
  const pairs: (readonly [expected: readonly bigint[], found: readonly bigint[]])[] = []
  if (finding.table === "variants" && finding.row.events.length === finding.outcomes.length) {
    for (const [index, outcome] of finding.outcomes.entries()) {
      const found = recordOf(outcome)
      if (found !== null) pairs.push([finding.row.events[index], found])
    }
  } else if (finding.table === "faults" && finding.row.words) {
    const found = recordOf(finding.outcome)
    if (found !== null) pairs.push([finding.row.words, found])
  }
  const differing = pairs.filter(([expected, found]) => !sameWords(expected, found))
  // A row whose differences are not all records has something that no record slip covers.
  if (differing.length === 0 || differing.length !== differences.length) return null

  const ids = new Set<string>()
  for (const [expected, found] of differing) {
    const used = slipsBetween(entries, expected, found)
    if (used === null) return null
    for (const id of used) ids.add(id)
  }
  return [...ids]
}

/** The slips that together make QEMU's record of the model's, or null when they do not. */
function slipsBetween(
  entries: readonly LedgerEntry[],
  qemu: readonly bigint[],
  ours: readonly bigint[],
): string[] | null {
  if (qemu.length !== ours.length) return null
  const used: string[] = []
  let record = ours
  for (const { id, slip } of entries) {
    if (slip.kind !== "record") continue
    const slipped = record.map((word, index) => {
      const mask = slip.mask[index] ?? 0n
      return (word & ~mask) | (qemu[index] & mask)
    })
    if (sameWords(slipped, record) || !slip.matches(ours, qemu)) continue
    record = slipped
    used.push(id)
  }
  return sameWords(record, qemu) ? used : null
}
