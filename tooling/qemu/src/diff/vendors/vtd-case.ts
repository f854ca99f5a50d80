/** Random cases for a VT-d unit. Intel VT-d 5.10 (D51397-018). */
import fc from "fast-check"
import type { World } from "../vendor-diff.ts"
import {
  type AccessCase,
  accessCases,
  type EntryFlip,
  entryFlips,
  type LeafCase,
  leafCases,
  rarely,
} from "./case-parts.ts"

export interface VtdCase {
  /** 3 or 4 for a second stage; a first stage has 4. */
  readonly levels: number
  /** Legacy TT (0 translate, 2 pass-through); in scalable mode a 2 stands for PGTT 4. */
  readonly type: number
  readonly leaves: readonly LeafCase[]
  /** Bits that are not as they should be, of each structure on the way to the tables. */
  readonly rootFlips: readonly number[]
  readonly contextFlips: readonly number[]
  readonly directoryFlips: readonly number[]
  readonly pasidFlips: readonly number[]
  readonly entryFlips: readonly EntryFlip[]
  /** All accesses at once, of which one fault is recorded, or one after the other with the record cleared. */
  readonly together: boolean
  readonly accesses: readonly AccessCase[]
}

export const MAX_ACCESSES = 4

export function vtdCases({ variant }: World): fc.Arbitrary<VtdCase> {
  const scalable = variant !== "legacy"
  const none = fc.constant<number[]>([])
  return fc.record({
    levels: variant === "scalable-first" ? fc.constant(4) : fc.constantFrom(4, 3),
    type: fc.oneof({ weight: 12, arbitrary: fc.constant(0) }, fc.constant(2)),
    leaves: fc.array(leafCases([0, 0, 0, 1, 1, 2]), { minLength: 1, maxLength: 3 }),
    rootFlips: rarely(fc.nat(127)),
    contextFlips: rarely(fc.nat(scalable ? 255 : 127)),
    directoryFlips: scalable ? rarely(fc.nat(63)) : none,
    pasidFlips: scalable ? rarely(fc.nat(511)) : none,
    entryFlips: entryFlips(),
    together: fc.boolean(),
    accesses: accessCases(MAX_ACCESSES),
  })
}
