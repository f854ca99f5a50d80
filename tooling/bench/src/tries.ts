/**
 * Further tries for what breaks its limit. Where the pages of a table happen to lie, and what neighbours do to the
 * caches they share, makes the same code cost half as much again from one process to the next: a limit is for the code.
 */
import type { BenchCase } from "./bench-case.ts"
import { type Measurement, type MeasureOptions, measure, sample } from "./measure.ts"

/** Of each case, the first included. */
const TRIES = 3
/** CPU time in which V8 sees the new memory before anything is measured. */
const WARM_UP_MS = 8

/**
 * @param freshCases the same cases on memory of their own
 * @returns the results, of each case the best
 */
export function withFurtherTries(
  results: readonly Measurement[],
  options: MeasureOptions,
  freshCases: () => readonly BenchCase[],
): readonly Measurement[] {
  let best = results
  for (let tries = 1; tries < TRIES && best.some(({ ok }) => !ok); tries++) {
    const cases = freshCases()
    best = best.map(result => (result.ok ? result : better(result, again(result, cases, options))))
  }
  return best
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

function better(one: Measurement, other: Measurement): Measurement {
  return other.ratio < one.ratio ? other : one
}
