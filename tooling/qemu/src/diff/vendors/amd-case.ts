/** Random cases for an AMD-Vi unit. AMD 48882 rev 3.10. */
import fc from "fast-check"
import type { World } from "../vendor-diff.ts"
import {
  type AccessCase,
  accessCases,
  type Damage,
  damages,
  type LeafCase,
  leafCases,
  type Notable,
} from "./case-parts.ts"

export interface AmdCase {
  /** DTE.Mode: levels of the host tables. */
  readonly mode: number
  readonly leaves: readonly LeafCase[]
  readonly damage: Damage<"DTE">
  /** Damage may lead a walk back to where it was; seldom, because some QEMUs do not come back from there. */
  readonly mayLoop: boolean
  readonly accesses: readonly AccessCase[]
}

export const MAX_ACCESSES = 8
/** Bits of the entry that say how DMA is translated: interrupts are another matter. §2.2.2.1. */
const DTE_DMA_BITS = 128

/** SE and SA; PR, IR and IW of entries. §2.2.2.1, §2.2.3. */
const NOTABLE: Notable<"DTE"> = {
  structures: [
    { at: "DTE", bit: 97 },
    { at: "DTE", bit: 98 },
  ],
  entries: [
    { at: "stage 2", bit: 0, of: "leaf" },
    { at: "stage 2", bit: 61, of: "table" },
    { at: "stage 2", bit: 62, of: "leaf" },
  ],
}

export function amdCases(_: World): fc.Arbitrary<AmdCase> {
  return fc.record({
    mode: fc.constantFrom(4, 3, 2, 1, 5, 6),
    leaves: fc.array(leafCases([0, 0, 0, 1, 1, 2, 3]), { minLength: 1, maxLength: 3 }),
    damage: damages({ DTE: DTE_DMA_BITS }, ["stage 2"], NOTABLE),
    mayLoop: fc.oneof({ weight: 9, arbitrary: fc.constant(false) }, fc.constant(true)),
    accesses: accessCases(MAX_ACCESSES),
  })
}
