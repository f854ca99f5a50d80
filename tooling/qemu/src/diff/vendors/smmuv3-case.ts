/** Random cases for an SMMUv3. Arm IHI 0070 G.b; tables as in DDI 0487 J.a §D8. */
import fc from "fast-check"
import type { World } from "../vendor-diff.ts"
import { type AccessCase, accessCases, type Damage, damages, type LeafCase, leafCases } from "./case-parts.ts"

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

export function smmuCases(world: World): fc.Arbitrary<SmmuCase> {
  return fc.record({
    config: fc.oneof({ weight: 12, arbitrary: fc.constantFrom(...translating(world)) }, fc.nat(7)),
    stage1: stage(1),
    stage2: stage(2),
    damage: damages({ STE: STE_BITS, CD: CD_BITS }, ["stage 1", "stage 2"]),
    highTables: fc.boolean(),
    streamTableLg2: fc.constantFrom(8, 8, 6, 10),
    twoLevel: fc.constant(world.profile === "two-level"),
    accesses: accessCases(MAX_ACCESSES),
  })
}

/** Values of Config that switch on the stages that this hardware has. */
function translating({ identity }: World): number[] {
  const IDR0 = identity["IDR0"]
  const hasS1 = (IDR0 & 2n) !== 0n
  const hasS2 = (IDR0 & 1n) !== 0n
  return [...(hasS1 ? [5] : []), ...(hasS2 ? [6] : []), ...(hasS1 && hasS2 ? [7, 7] : [])]
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
