/** Two runs side by side. Ratios to a yardstick of the same run carry over between machines; nanoseconds do not. */
import type { Report } from "./report.ts"

export interface Comparison {
  readonly operation: string
  readonly subject: string
  readonly before: number
  readonly after: number
}

/** @throws Error when the text is no report of this program */
export function readReport(text: string): Report {
  const value: unknown = JSON.parse(text)
  if (!isReport(value)) throw new Error("not a report that --json of this program printed (schema 1)")
  return value
}

function isReport(value: unknown): value is Report {
  if (typeof value !== "object" || value === null) return false
  const { schema, results } = value as { schema?: unknown; results?: unknown }
  return (
    schema === 1 &&
    Array.isArray(results) &&
    results.every(
      result =>
        typeof result?.operation === "string" &&
        typeof result.subject === "string" &&
        typeof result.ratio === "number",
    )
  )
}

/** Cases that both runs have. */
export function compare(before: Report, after: Report): Comparison[] {
  const earlier = new Map(
    before.results.map(result => [`${result.operation}/${result.subject}`, result.ratio]),
  )
  return after.results.flatMap(({ operation, subject, ratio }) => {
    const then = earlier.get(`${operation}/${subject}`)
    return then === undefined ? [] : [{ operation, subject, before: then, after: ratio }]
  })
}
