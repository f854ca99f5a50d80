/** Reports as lines for people and as one document for programs. */
import { type CaptureReport, type Count, isClean, TABLES } from "./verify.ts"

/** `ok` when nothing differs without an explanation. */
export function reportDocument(reports: readonly CaptureReport[]): unknown {
  return {
    captures: reports.map(({ name, vendor, counts }) => ({ name, vendor, ...counts })),
    ok: reports.every(isClean),
  }
}

/** `amd-v1  amd  translations 838/838  …  agrees`: of each table, rows that agree of rows checked. */
export function reportLine(report: CaptureReport, nameWidth: number): string {
  const cells = TABLES.map(table => countText(table, report.counts[table])).filter(cell => cell !== null)
  const verdict = isClean(report) ? "agrees" : "DIFFERS"
  return `${report.name.padEnd(nameWidth)}  ${report.vendor.padEnd(6)}  ${verdict.padEnd(7)}  ${cells.join(", ")}`
}

function countText(table: string, { checked, agree, explained, differ }: Count): string | null {
  if (checked === 0) return null
  const notes = [explained > 0 ? `${explained} explained` : null, differ > 0 ? `${differ} DIFFER` : null]
  const note = notes.filter(text => text !== null).join(", ")
  return `${table} ${agree}/${checked}${note === "" ? "" : ` (${note})`}`
}

/** One line per differing row and one per difference in it. */
export function detailLines(report: CaptureReport): string[] {
  const lines = report.details.flatMap(({ row, differences, explainedBy }) => [
    `  ${explainedBy === null ? "differs  " : "explained"}  ${row}${explainedBy === null ? "" : `: ${explainedBy.join(", ")}`}`,
    ...differences.map(text => `             ${text}`),
  ])
  if (report.unknownRegisters.length > 0) {
    lines.push(`  registers that the model does not have: ${report.unknownRegisters.join(", ")}`)
  }
  return lines
}
