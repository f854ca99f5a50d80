/** What has no price to compare with a yardstick's: bytes, milliseconds from a standing start, rates, growth. */
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { keepsLimit } from "./measure.ts"

export interface QuantityCase {
  readonly what: string
  readonly subject: string
  readonly unit: string
  /** The most that is allowed; null where there is no promise. */
  readonly limit: number | null
  /** True for what is set against a yardstick's time: two runs of it differ as ratios do. */
  readonly isRatio?: boolean
  measure(): number
}

export interface Quantity {
  readonly what: string
  readonly subject: string
  readonly value: number
  readonly unit: string
  readonly limit: number | null
  /** True when there is no limit, or the value keeps it. */
  readonly ok: boolean
}

export function measureQuantity({ what, subject, unit, limit, isRatio, measure }: QuantityCase): Quantity {
  const value = measure()
  const ok = isRatio === true ? keepsLimit(value, limit) : limit === null || value <= limit
  return { what, subject, value, unit, limit, ok }
}

const ALLOCATION_ROUNDS = 5

/**
 * Bytes that the heap grows by while something runs, without a collection between: the least of some rounds, for V8
 * allocates, too, when it compiles.
 */
export function allocatedBy(run: () => void): number {
  const rounds = Array.from({ length: ALLOCATION_ROUNDS }, () => {
    collectGarbage()
    const before = process.memoryUsage().heapUsed
    run()
    return process.memoryUsage().heapUsed - before
  })
  return Math.max(0, Math.min(...rounds))
}

/** Bytes alive, on the heap and in buffers. */
export function bytesAlive(): { readonly heap: number; readonly buffers: number } {
  collectGarbage()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return { heap: heapUsed, buffers: arrayBuffers }
}

let collect: (() => void) | null = null

function collectGarbage(): void {
  if (collect === null) {
    setFlagsFromString("--expose-gc")
    collect = runInNewContext("gc") as () => void
  }
  // Buffers are counted as freed when the next collection begins.
  collect()
  collect()
}
