/** A capture checked row by row against its vendor's model. */
import type { Capture } from "../capture/load.ts"
import { explain } from "./explained.ts"
import type { Comparison } from "./finding.ts"
import { Machine } from "./machine.ts"
import { checkReplay } from "./replay.ts"
import { checkFault, checkTranslation, checkUnmapped } from "./rows.ts"
import { checkVariant } from "./variants.ts"

export const TABLES = ["translations", "unmapped", "faults", "variants", "ops"] as const
export type Table = (typeof TABLES)[number]

export interface Count {
  checked: number
  agree: number
  /** Differs, by entries of the ledger alone. */
  explained: number
  differ: number
}

export interface Difference {
  readonly table: Table
  /** The row, in words. */
  readonly row: string
  readonly differences: readonly string[]
  /** Ids of ledger entries; null when not explained. */
  readonly explainedBy: readonly string[] | null
}

export interface CaptureReport {
  readonly name: string
  readonly vendor: string
  readonly counts: { readonly [T in Table]: Count }
  readonly details: readonly Difference[]
  readonly unknownRegisters: readonly string[]
}

/** @param progress called before each table */
export function verifyCapture(capture: Capture, progress: (table: Table) => void = () => {}): CaptureReport {
  const machine = new Machine(capture)
  const { vendor } = capture
  const details: Difference[] = []

  function checkRows<Row>(
    table: Exclude<Table, "ops">,
    rows: readonly Row[],
    check: (row: Row) => Comparison,
    text: (row: Row) => string,
  ): Count {
    progress(table)
    const count: Count = { checked: rows.length, agree: 0, explained: 0, differ: 0 }
    for (const [index, row] of rows.entries()) {
      const comparison = check(row)
      if (comparison.differences.length === 0) {
        count.agree++
        continue
      }
      const explainedBy = explain(vendor, comparison)
      if (explainedBy === null) count.differ++
      else count.explained++
      details.push({
        table,
        row: `${table}[${index}] ${text(row)}`,
        differences: comparison.differences,
        explainedBy,
      })
    }
    return count
  }

  const place = (row: { readonly device: number; readonly iova: bigint }): string =>
    `device 0x${row.device.toString(16)}, iova 0x${row.iova.toString(16)}`
  const translations = checkRows(
    "translations",
    capture.translations,
    row => checkTranslation(machine, row),
    place,
  )
  const unmapped = checkRows("unmapped", capture.unmapped, row => checkUnmapped(machine, vendor, row), place)
  const faults = checkRows(
    "faults",
    capture.faults,
    row => checkFault(machine, vendor, row),
    row => `${place(row)}, ${row.access}, ${row.reason ?? row.event ?? "refused"}`,
  )
  const variants = checkRows(
    "variants",
    capture.variants,
    row => checkVariant(machine, row),
    row =>
      `${place({ device: row.sid, iova: row.iova })}, ${row.write ? "write" : "read"}, ${row.name ?? "patched"}`,
  )
  progress("ops")
  const replay = checkReplay(capture, machine)
  details.push(...replay.details)
  return {
    name: capture.name,
    vendor,
    counts: { translations, unmapped, faults, variants, ops: replay.count },
    details,
    unknownRegisters: machine.unknownRegisters,
  }
}

/** True when nothing differs without an explanation. */
export function isClean(report: CaptureReport): boolean {
  return TABLES.every(table => report.counts[table].differ === 0)
}
