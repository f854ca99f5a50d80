import type { Comparison } from "./compare.ts"
import type { Measurement } from "./measure.ts"
import type { Quantity } from "./quantity.ts"
import type { Report } from "./report.ts"

export function resultTable(results: readonly Measurement[]): string {
  return table(
    [
      "operation",
      "subject",
      "ns min",
      "ns median",
      "yardstick",
      "its ns",
      "ratio",
      "its median",
      "limit",
      "",
    ],
    results.map(result => [
      result.operation,
      result.subject,
      result.ns.min.toFixed(2),
      result.ns.median.toFixed(2),
      result.yardstick,
      result.yardstickNs.min.toFixed(2),
      result.ratio.toFixed(2),
      result.ratioMedian.toFixed(2),
      result.limit === null ? "" : String(result.limit),
      result.ok ? "" : "OVER",
    ]),
  )
}

export function quantityTable(quantities: readonly Quantity[]): string {
  return table(
    ["quantity", "subject", "value", "unit", "limit", ""],
    quantities.map(({ what, subject, value, unit, limit, ok }) => [
      what,
      subject,
      value.toFixed(2),
      unit,
      limit === null ? "" : String(limit),
      ok ? "" : "OVER",
    ]),
  )
}

export function comparisonTable(comparisons: readonly Comparison[]): string {
  return table(
    ["operation", "subject", "before", "now", "change"],
    comparisons.map(({ operation, subject, before, after }) => [
      operation,
      subject,
      before.toFixed(2),
      after.toFixed(2),
      before === 0 ? "" : `${after >= before ? "+" : ""}${((after / before - 1) * 100).toFixed(0)} %`,
    ]),
  )
}

/**
 * The tables of docs/performance.md: one row an operation and subject group, cells `ns (ratio to the yardstick)`, least
 * of all rounds.
 */
export function markdownTables({ results, quantities }: Report): string {
  const prices = grid(
    results.map(({ operation, subject, ns, ratio }) => ({
      row: operation,
      column: subject,
      cell: `${ns.min.toFixed(ns.min < 10 ? 2 : 0)} (${ratio.toFixed(1)})`,
    })),
  )
  const sizes = grid(
    quantities.map(({ what, unit, subject, value }) => ({
      row: `${what}, ${unit}`,
      column: subject,
      cell: value.toFixed(value < 10 ? 2 : 0),
    })),
  )
  return [...prices, ...sizes].join("\n")
}

interface Cell {
  readonly row: string
  readonly column: string
  readonly cell: string
}

/** One table for each set of columns that occur together. */
function grid(cells: readonly Cell[]): string[] {
  const rows = new Map<string, Map<string, string>>()
  for (const { row, column, cell } of cells) rows.set(row, (rows.get(row) ?? new Map()).set(column, cell))
  const tables = new Map<string, string[]>()
  for (const [row, byColumn] of rows) {
    const columns = [...byColumn.keys()]
    const lines = tables.get(columns.join()) ?? [
      `| | ${columns.join(" | ")} |`,
      `|---|${columns.map(() => "--:|").join("")}`,
    ]
    tables.set(columns.join(), [...lines, `| ${row} | ${[...byColumn.values()].join(" | ")} |`])
  }
  return [...tables.values()].map(lines => `${lines.join("\n")}\n`)
}

/** Columns as wide as their widest cell; numbers to the right. */
function table(head: readonly string[], rows: readonly string[][]): string {
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map(row => (row[column] ?? "").length)),
  )
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) =>
        /^[-+]?\d/.test(cell) ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0),
      )
      .join("  ")
      .trimEnd()
  return `${[head, widths.map(width => "-".repeat(width)), ...rows].map(line).join("\n")}\n`
}
