/** What came of a case: what the ledger explains of its differences, and what it does not. */
import type { Setting } from "../ledger/entry.ts"
import { explainDifference, explainTogether } from "../ledger/explain.ts"
import type { Vendor } from "../machine/recipe.ts"
import type { Difference } from "./compare.ts"

export interface Verdict {
  /** Ids of the ledger's entries that explain what differs. */
  readonly rows: readonly string[]
  /** What differs and is in no entry of the ledger. */
  readonly unexplained: readonly Difference[]
}

/** Sorts differences into those that the ledger explains, one by one or together, and the others. */
export function judge(vendor: Vendor, differences: readonly Difference[], setting: Setting): Verdict {
  const rows = new Set<string>()
  let unexplained: Difference[] = []
  for (const difference of differences) {
    const ids = explainDifference(vendor, difference, setting)
    if (ids === null) unexplained.push(difference)
    for (const id of ids ?? []) rows.add(id)
  }
  for (const [id, explained] of explainTogether(vendor, differences, setting)) {
    const left = unexplained.filter(difference => !explained.includes(difference))
    if (left.length < unexplained.length) rows.add(id)
    unexplained = left
  }
  return { rows: [...rows], unexplained }
}
