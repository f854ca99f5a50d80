/** Random cases for an SMMUv3. Arm IHI 0070 G.b; tables as in DDI 0487 J.a §D8. */
import fc from "fast-check"
import type { World } from "../vendor-diff.ts"
import {
  type AccessCase,
  accessCases,
  type Damage,
  damages,
  type EntryDamage,
  type LeafCase,
  leafCases,
  type Notable,
} from "./case-parts.ts"

export interface StageCase {
  readonly granuleLg2: number
  readonly inputBits: number
  /** T0SZ where it is not what the tables have: a value that is ILLEGAL; else null. */
  readonly wrongSize: number | null
  /** CD.IPS or STE.S2PS. */
  readonly outputSize: number
  /** log2 of the tables that the root of stage 2 is made of. */
  readonly concatenatedLg2: number
  readonly leaves: readonly LeafCase[]
}

export interface SmmuCase {
  /** STE.Config. */
  readonly config: number
  readonly stage1: StageCase
  readonly stage2: StageCase
  readonly damage: Damage<"STE" | "CD">
  /** Stage 1 tables above 4 GiB and those of stage 2 below, or the other way round. */
  readonly highTables: boolean
  /** log2 of the linear Stream table, or of SPLIT when it has two levels. */
  readonly streamTableLg2: number
  readonly twoLevel: boolean
  /** log2 of how much shorter the arrays of the second level are than SPLIT lets them be. */
  readonly shorterLg2: number
  readonly accesses: readonly AccessCase[]
}

const GRANULES = [12, 14, 16]
/** Encoded as IDR5.OAS: mostly all of QEMU's 44 bits, sometimes fewer, seldom more. */
const OUTPUT_SIZES = [4, 4, 4, 4, 4, 4, 5, 3, 2, 1, 0]
/** T0SZ and S2T0SZ are 16 to 39 here. */
const ILLEGAL_SIZES = [0, 1, 8, 14, 15, 40, 41, 48, 63]
const STE_BITS = 512
const CD_BITS = 512
export const MAX_ACCESSES = 8
/**
 * §5.2: address bits 42, 44 and 52 of S1ContextPtr, S1CDMax, S1STALLD, S2AA64, S2HD, address bit 48 of S2TTB. §5.4: EPD0, address
 * bit 48 of TTB0. Stage 1: AP[1], AP[2], AF, APTable; stage 2: Valid, S2AP, AF. DDI 0487 J.a §D8.3.
 */
const NOTABLE: Notable<"STE" | "CD"> = {
  structures: [
    { at: "STE", bit: 42 },
    { at: "STE", bit: 44 },
    { at: "STE", bit: 52 },
    { at: "STE", bit: 59 },
    { at: "STE", bit: 91 },
    { at: "STE", bit: 179 },
    { at: "STE", bit: 183 },
    { at: "STE", bit: 240 },
    { at: "CD", bit: 14 },
    { at: "CD", bit: 112 },
  ],
  // Twice what a cache forgets, or shows when something else is there, too.
  entries: [
    { at: "stage 1", bit: 6, of: "leaf" },
    { at: "stage 1", bit: 7, of: "leaf" },
    { at: "stage 1", bit: 10, of: "leaf" },
    { at: "stage 1", bit: 61, of: "table" },
    { at: "stage 1", bit: 62, of: "table" },
    { at: "stage 1", bit: 62, of: "table" },
    { at: "stage 2", bit: 0, of: "leaf" },
    { at: "stage 2", bit: 0, of: "leaf" },
    { at: "stage 2", bit: 0, of: "leaf" },
    { at: "stage 2", bit: 0, of: "leaf" },
    { at: "stage 2", bit: 6, of: "leaf" },
    { at: "stage 2", bit: 6, of: "leaf" },
    { at: "stage 2", bit: 7, of: "leaf" },
    { at: "stage 2", bit: 7, of: "leaf" },
    { at: "stage 2", bit: 10, of: "leaf" },
  ],
}

export function smmuCases(world: World): fc.Arbitrary<SmmuCase> {
  return fc.record({
    config: fc.oneof({ weight: 12, arbitrary: fc.constantFrom(...translating(world)) }, fc.nat(7)),
    stage1: stage(1),
    stage2: stage(2),
    damage: damages({ STE: STE_BITS, CD: CD_BITS }, stagesOf(world), NOTABLE),
    highTables: fc.boolean(),
    streamTableLg2: fc.constantFrom(8, 8, 6, 10),
    twoLevel: fc.constant(world.profile === "two-level"),
    shorterLg2: fc.oneof({ weight: 15, arbitrary: fc.constant(0) }, fc.constantFrom(1, 2, 3)),
    accesses: accessCases(MAX_ACCESSES),
  })
}

/** IDR0.S1P and S2P. */
function has({ identity }: World): { readonly hasS1: boolean; readonly hasS2: boolean } {
  return { hasS1: (identity["IDR0"] & 2n) !== 0n, hasS2: (identity["IDR0"] & 1n) !== 0n }
}

function stagesOf(world: World): EntryDamage["at"][] {
  const { hasS1, hasS2 } = has(world)
  return [...(hasS1 ? ["stage 1" as const] : []), ...(hasS2 ? ["stage 2" as const] : [])]
}

/** Values of Config that switch on the stages that this hardware has. */
function translating(world: World): number[] {
  const { hasS1, hasS2 } = has(world)
  return [...(hasS1 ? [5] : []), ...(hasS2 ? [6] : []), ...(hasS1 && hasS2 ? [7, 7, 7, 7] : [])]
}

function stage(which: 1 | 2): fc.Arbitrary<StageCase> {
  return fc.record({
    granuleLg2: fc.constantFrom(...GRANULES),
    inputBits:
      which === 1
        ? fc.integer({ min: 25, max: 48 })
        : fc.oneof(
            { weight: 9, arbitrary: fc.integer({ min: 40, max: 44 }) },
            fc.integer({ min: 33, max: 48 }),
          ),
    wrongSize: fc.oneof({ weight: 40, arbitrary: fc.constant(null) }, fc.constantFrom(...ILLEGAL_SIZES)),
    outputSize: fc.oneof({ weight: 200, arbitrary: fc.constantFrom(...OUTPUT_SIZES) }, fc.constantFrom(6, 7)),
    concatenatedLg2: fc.nat(4),
    leaves: fc.array(leafCases([0, 0, 0, 1, 1, 2]), { minLength: 1, maxLength: 4 }),
  })
}
