import Table from "cli-table3"
import type { TracedWalk } from "./endpoint.ts"
import type { NestedReport } from "./scenario.ts"

/** The reports of all vendors side by side, a row for each thing that a reader compares. */
export function reportTable(reports: readonly NestedReport[]): string {
  const table = new Table({
    head: ["", ...reports.map(report => report.vendor)],
    style: { head: [], border: [] },
  })
  const row = (title: string, cell: (report: NestedReport) => string | number): void => {
    table.push([title, ...reports.map(report => String(cell(report)))])
  }
  row("stage 1, built by the guest", report => report.formats.stage1)
  row("stage 2, built by the host", report => report.formats.stage2)
  row("longest walk", report => `${report.walkLength} reads`)
  row("DMAs", report => report.dmas)
  row("bytes checked", report => report.bytesChecked)
  row("guest commands carried out", report => report.guestCommands)
  row("system calls of the VMM", report => report.systemCalls)
  row("events that reached the guest", report => report.guestEvents)
  for (const cause of causes(reports)) row(cause, report => faultCell(report, cause))
  row("pages charged at peak", report => report.pagesCharged.peak)
  row("pages charged at end", report => report.pagesCharged.end)
  row("verdict", report => (report.problems.length === 0 ? "ok" : `${report.problems.length} problems`))
  return table.toString()
}

function causes(reports: readonly NestedReport[]): string[] {
  return [...new Set(reports.flatMap(report => report.faults.map(fault => fault.cause)))]
}

function faultCell(report: NestedReport, cause: string): string {
  const fault = report.faults.find(line => line.cause === cause)
  return fault ? `${fault.reason} (0x${fault.code.toString(16)}), stage ${fault.stage}` : "none"
}

/** One walk, a line for each table read: which table, which entry, its bits, what they say. */
export function walkLines(walk: TracedWalk): string[] {
  const stages = ["config ", "stage 1", "stage 2"] as const
  const lines = walk.steps.map(step => {
    const entry = step.entry.map(word => `0x${word.toString(16).padStart(16, "0")}`).join(" ")
    const place = `0x${step.table.toString(16)}[${step.index}]`
    return `  ${stages[step.stage]}  ${step.what.padEnd(28)} ${place.padEnd(20)} ${entry}  ${step.meaning}`
  })
  return [walk.title, ...lines, `  -> ${walk.outcome}`]
}
