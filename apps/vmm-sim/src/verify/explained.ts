/** Rows that differ from the model, put to the ledger of QEMU's slips. */
import { explainAccess, explainRecord } from "@iommu/qemu"
import type { Vendor } from "../capture/schema.ts"
import { type Comparison, recordOf, sameWords } from "./finding.ts"

/**
 * Whether a differing row differs only by slips of QEMU.
 * @returns ids of the ledger's entries that explain it, or null when any of the difference is left
 */
export function explain(vendor: Vendor, comparison: Comparison): readonly string[] | null {
  switch (comparison.finding.table) {
    case "faults":
      return explainFault(vendor, comparison)
    case "variants":
      return explainVariant(vendor, comparison)
    case "translations":
    case "unmapped":
      return null
  }
}

function explainFault(vendor: Vendor, { finding, differences }: Comparison): readonly string[] | null {
  // A row with more than one difference has something beside QEMU's answer, which is one thing.
  if (finding.table !== "faults" || finding.outcome.ok || differences.length !== 1) return null
  const { row, outcome } = finding
  // A row that does not say what QEMU recorded says nothing that a slip could be seen in.
  if (row.words === undefined && row.code === undefined) return null
  return explainAccess(vendor, {
    write: row.access === "write",
    fault: outcome.fault,
    ourRecord: outcome.fault.record,
    theirRecord: row.words ?? null,
    theirRecords: row.words ? [row.words] : [],
    theirCode: row.code ?? null,
    theyRefused: true,
  })
}

/** Every differing record of the row must be the model's with slips; the rest of the row must agree. */
function explainVariant(vendor: Vendor, { finding, differences }: Comparison): readonly string[] | null {
  if (finding.table !== "variants" || finding.row.events.length !== finding.outcomes.length) return null
  const ids = new Set<string>()
  let differing = 0
  for (const [index, outcome] of finding.outcomes.entries()) {
    const ours = recordOf(outcome)
    const theirs = finding.row.events[index]
    if (ours === null || sameWords(ours, theirs)) continue
    const used = explainRecord(vendor, ours, theirs)
    if (used === null) return null
    differing++
    for (const id of used) ids.add(id)
  }
  return differing > 0 && differing === differences.length ? [...ids] : null
}
