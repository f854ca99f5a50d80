/** Checks of `variants`: one word of memory changed, one access, exactly these event records. */
import type { DmaOutcome } from "@iommu/core"
import type { VariantRow } from "../capture/schema.ts"
import { type Comparison, hex, recordOf, sameWords, wordsText } from "./finding.ts"
import type { Machine } from "./machine.ts"

/** A device reads and writes 8 bytes as two bus transactions of 4. */
const TRANSACTION_BYTES = 4n
const TRANSACTIONS = 2

export function checkVariant(machine: Machine, row: VariantRow): Comparison {
  const [address, value] = row.patch
  const before = machine.memory.read64(address)
  machine.memory.write64(address, value)
  machine.restart()
  const outcomes = access(machine, row)
  machine.memory.write64(address, before)
  machine.restart()

  const differences = compareRecords(row, outcomes)
  if (row.was !== undefined && row.was !== before) {
    differences.unshift(`${hex(address)} must hold ${hex(row.was)} before the patch, holds ${hex(before)}`)
  }
  return { finding: { table: "variants", row, outcomes }, differences }
}

/** As many transactions as there are records, and both halves of the access where there is to be none. */
function access(machine: Machine, row: VariantRow): DmaOutcome[] {
  const count = row.events.length === 0 ? TRANSACTIONS : row.events.length
  return Array.from({ length: count }, (_, index) => {
    const iova = BigInt.asUintN(64, row.iova + TRANSACTION_BYTES * BigInt(index))
    return row.write ? machine.write(row.sid, iova) : machine.read(row.sid, iova)
  })
}

function compareRecords(row: VariantRow, outcomes: readonly DmaOutcome[]): string[] {
  return outcomes.flatMap((outcome, index) => {
    const expected = row.events[index] ?? null
    const found = recordOf(outcome)
    if (expected === null && outcome.ok) return []
    if (expected !== null && found !== null && sameWords(expected, found)) return []
    const wanted = expected === null ? "must pass" : `must write ${wordsText(expected)}`
    return [`transaction ${index + 1} ${wanted}, ${outcome.ok ? "passes" : `writes ${wordsText(found)}`}`]
  })
}
