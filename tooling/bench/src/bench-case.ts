/** What a package's `bench/` exports, and what measures it. */

/** Work that is timed. A run is about 1,024 operations: one giant loop would measure on-stack replacement instead. */
export interface Work {
  /** Operations in one {@link run}: a price is nanoseconds per operation. */
  readonly operations: number
  /** Puts things into the state that {@link run} needs; not timed. */
  prepare?(): void
  /** @returns something that depends on the work, so that it cannot be left out */
  run(): number
}

/** Work that says what the machine can do just now; a case is judged by its ratio to one. */
export interface Yardstick extends Work {
  readonly name: "fill" | "bare walk"
}

export interface BenchCase extends Work {
  /** What is done: one row of the table per operation and subject. */
  readonly operation: string
  /** On what: a format, or a vendor's model. */
  readonly subject: string
  readonly yardstick: Yardstick
  /** The most that this may cost, as a multiple of the yardstick; null where there is no promise. */
  readonly limit: number | null
}
