/**
 * Two runs side by side. Ratios to a yardstick of the same run carry over between machines, and so do bytes;
 * nanoseconds do not.
 */
import type { Report } from "./report.ts"

export interface Comparison {
  /** An operation, or a quantity with its unit. */
  readonly operation: string
  readonly subject: string
  readonly before: number
  readonly after: number
}

/** @throws Error when the text is no report of this program */
export function readReport(text: string): Report {
  const value: unknown = JSON.parse(text)
  if (!isReport(value)) throw new Error("not a report that --json of this program printed (schema 2)")
  return value
}

function isReport(value: unknown): value is Report {
  if (typeof value !== "object" || value === null) return false
  const { schema, results, quantities } = value as Readonly<Record<string, unknown>>
  return (
    schema === 2 &&
    areRows(results, ["operation", "subject"], "ratio") &&
    areRows(quantities, ["what", "unit", "subject"], "value")
  )
}

/** A list of objects with the given texts, and a number. */
function areRows(rows: unknown, texts: readonly string[], number: string): boolean {
  return (
    Array.isArray(rows) &&
    rows.every(
      row => texts.every(text => typeof row?.[text] === "string") && typeof row?.[number] === "number",
    )
  )
}

/** What both runs have. */
export function compare(before: Report, after: Report): Comparison[] {
  const earlier = new Map(
    figures(before).map(({ operation, subject, value }) => [`${operation}/${subject}`, value]),
  )
  return figures(after).flatMap(({ operation, subject, value }) => {
    const then = earlier.get(`${operation}/${subject}`)
    return then === undefined ? [] : [{ operation, subject, before: then, after: value }]
  })
}

interface Figure {
  readonly operation: string
  readonly subject: string
  readonly value: number
}

function figures({ results, quantities }: Report): Figure[] {
  return [
    ...results.map(({ operation, subject, ratio }) => ({ operation, subject, value: ratio })),
    ...quantities.map(({ what, unit, subject, value }) => ({
      operation: `${what}, ${unit}`,
      subject,
      value,
    })),
  ]
}
