import type { BenchCase, Work } from "./bench-case.ts"

/** Prices in nanoseconds of CPU time per operation. */
interface Price {
  readonly min: number
  readonly median: number
}

export interface Measurement {
  readonly operation: string
  readonly subject: string
  readonly ns: Price
  readonly yardstick: string
  readonly yardstickNs: Price
  /** Least price over the yardstick's least: what the code costs on an undisturbed machine. */
  readonly ratio: number
  /** Median over rounds of case / yardstick, both measured in the same round. */
  readonly ratioMedian: number
  readonly limit: number | null
  /** True when there is no limit, or the ratio keeps it. */
  readonly ok: boolean
}

export interface MeasureOptions {
  readonly rounds: number
  /** CPU time of one sample. */
  readonly sampleMs: number
}

/** CPU time of a warm-up, in which V8 sees all formats, or new memory, before anything is measured. */
export const WARM_UP_MS = 8

/** Two runs of the same code differ by this much; a limit is not broken by noise. */
const NOISE = 1.03

export function keepsLimit(ratio: number, limit: number | null): boolean {
  return limit === null || ratio <= limit * NOISE
}

/** Work that was paid for; keeps results alive. */
let sink = 0

/** Measures a case and its yardstick in turn, the order reversed each round. */
export function measure(bench: BenchCase, options: MeasureOptions): Measurement {
  const { yardstick } = bench
  const own: number[] = []
  const other: number[] = []
  sample(bench, options.sampleMs)
  sample(yardstick, options.sampleMs)
  for (let round = 0; round < options.rounds; round++) {
    if (round % 2 === 0) own.push(sample(bench, options.sampleMs))
    other.push(sample(yardstick, options.sampleMs))
    if (round % 2 === 1) own.push(sample(bench, options.sampleMs))
  }
  const ratio = Math.min(...own) / Math.min(...other)
  return {
    operation: bench.operation,
    subject: bench.subject,
    ns: { min: Math.min(...own), median: median(own) },
    yardstick: yardstick.name,
    yardstickNs: { min: Math.min(...other), median: median(other) },
    ratio,
    ratioMedian: median(own.map((ns, round) => ns / (other[round] as number))),
    limit: bench.limit,
    ok: keepsLimit(ratio, bench.limit),
  }
}

/** The clock ticks in microseconds, so work without preparation runs several times between two readings. */
const RUNS_BETWEEN_READINGS = 64

/** Runs until a share of CPU time is used. @returns ns per operation */
export function sample(work: Work, sampleMs: number): number {
  const runs = work.prepare === undefined ? RUNS_BETWEEN_READINGS : 1
  let used = 0
  let operations = 0
  while (used < sampleMs * 1000) {
    work.prepare?.()
    const start = cpuMicroseconds()
    for (let n = 0; n < runs; n++) sink = (sink + work.run()) | 0
    used += cpuMicroseconds() - start
    operations += work.operations * runs
  }
  return (used * 1000) / operations
}

/** CPU time, so that other jobs of the machine do not count. */
function cpuMicroseconds(): number {
  const { user, system } = process.cpuUsage()
  return user + system
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2
}
