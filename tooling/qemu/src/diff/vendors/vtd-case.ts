/** Random cases for a VT-d unit. Intel VT-d 5.10 (D51397-018). */
import fc from "fast-check"
import type { World } from "../vendor-diff.ts"
import {
  ABSENT,
  type AccessCase,
  accessCases,
  type Damage,
  damages,
  type LeafCase,
  leafCases,
  type Notable,
} from "./case-parts.ts"

/** What leads to the tables, root first. */
type VtdStructure = "root" | "context" | "PASID directory" | "PASID entry"

const LEGACY_BITS = { root: 128, context: 128 }
const SCALABLE_BITS = { root: 128, context: 256, "PASID directory": 64, "PASID entry": 512 }

export interface VtdCase {
  /** 3 or 4 for a second stage; a first stage has 4. */
  readonly levels: number
  /** Legacy TT (0 translate, 2 pass-through); in scalable mode a 2 stands for PGTT 4. */
  readonly type: number
  readonly leaves: readonly LeafCase[]
  readonly damage: Damage<VtdStructure>
  /** All accesses at once, of which one fault is recorded, or one after the other with the record cleared. */
  readonly together: boolean
  readonly accesses: readonly AccessCase[]
}

export const MAX_ACCESSES = 4

/** W, R of second-stage entries and SNP (§9.8); P, U/S of first-stage entries (§9.7). */
const NOTABLE_ENTRIES: Notable<VtdStructure>["entries"] = [
  { at: "stage 2", bit: 0, of: "leaf" },
  { at: "stage 2", bit: 1, of: "table" },
  { at: "stage 2", bit: 11, of: "leaf" },
  { at: "stage 1", bit: 0, of: "leaf" },
  { at: "stage 1", bit: 2, of: "table" },
]
/** Reserved bits of a root entry's other half, PASID entries that nobody wrote, PWSNP, AW, a first stage's high bits (§9.6). */
const NOTABLE_SCALABLE: Notable<VtdStructure> = {
  structures: [
    { at: "root", bit: 65 },
    { at: "PASID entry", bit: ABSENT },
    { at: "PASID entry", bit: 2 },
    { at: "PASID entry", bit: 87 },
    { at: "PASID entry", bit: 178 },
    { at: "PASID directory", bit: 50 },
  ],
  entries: NOTABLE_ENTRIES,
}
const NOTABLE_LEGACY: Notable<keyof typeof LEGACY_BITS> = { structures: [], entries: NOTABLE_ENTRIES }

export function vtdCases({ variant }: World): fc.Arbitrary<VtdCase> {
  const stage = variant === "scalable-first" ? "stage 1" : "stage 2"
  const damage: fc.Arbitrary<Damage<VtdStructure>> =
    variant === "legacy"
      ? damages(LEGACY_BITS, [stage], NOTABLE_LEGACY)
      : damages(SCALABLE_BITS, [stage], NOTABLE_SCALABLE)
  return fc.record({
    levels: variant === "scalable-first" ? fc.constant(4) : fc.constantFrom(4, 3),
    type: fc.oneof({ weight: 12, arbitrary: fc.constant(0) }, fc.constant(2)),
    leaves: fc.array(leafCases([0, 0, 0, 1, 1, 2]), { minLength: 1, maxLength: 3 }),
    damage,
    together: fc.boolean(),
    accesses: accessCases(MAX_ACCESSES),
  })
}
