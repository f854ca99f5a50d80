/**
 * Further tries for what breaks its limit. Where the pages of a table happen to lie, and what neighbours do to the
 * caches they share, makes the same code cost half as much again from one process to the next: a limit is for the code.
 */
import type { BenchCase } from "./bench-case.ts"
import { keepsLimit, type Measurement, type MeasureOptions, measure, sample, WARM_UP_MS } from "./measure.ts"

/** Of each case, the first included. */
export const TRIES = 5

/**
 * @param freshCases the same cases on memory of their own
 * @returns the results, of each case the best
 */
export function withFurtherTries(
  results: readonly Measurement[],
  options: MeasureOptions,
  freshCases: () => readonly BenchCase[],
): readonly Measurement[] {
  let tried = results
  for (let tries = 1; tries < TRIES && tried.some(({ ok }) => !ok); tries++) {
    const cases = freshCases()
    tried = tried.map(result => (result.ok ? result : best(result, again(result, cases, options))))
  }
  return tried
}

function again(
  { operation, subject }: Measurement,
  cases: readonly BenchCase[],
  options: MeasureOptions,
): Measurement {
  const bench = cases.find(other => other.operation === operation && other.subject === subject)
  if (bench === undefined) throw new Error(`bug: no case ${operation} of ${subject}`)
  sample(bench, WARM_UP_MS)
  return measure(bench, options)
}

/** The least of both for the work and for its yardstick, so that a slow yardstick makes no good ratio. */
function best(one: Measurement, other: Measurement): Measurement {
  const { ns } = one.ns.min <= other.ns.min ? one : other
  const { yardstickNs } = one.yardstickNs.min <= other.yardstickNs.min ? one : other
  const ratio = ns.min / yardstickNs.min
  const ratioMedian = Math.min(one.ratioMedian, other.ratioMedian)
  return { ...one, ns, yardstickNs, ratio, ratioMedian, ok: keepsLimit(ratio, one.limit) }
}
