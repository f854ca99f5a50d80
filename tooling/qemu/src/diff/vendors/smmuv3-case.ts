/** Random cases for an SMMUv3. Arm IHI 0070 G.b; tables as in DDI 0487 J.a §D8. */
import fc from "fast-check"
import type { World } from "../vendor-diff.ts"

/** A leaf, by the index that its IOVA has at each level of a walk, root first. */
export interface LeafCase {
  readonly indices: readonly number[]
  readonly level: number
  readonly frame: number
  /** 64 KiB frames hold sixteen 4 KiB pages; the page of the frame that the leaf leads to. */
  readonly page: number
  /** Differs from the attributes that allow everything. */
  readonly flips: readonly number[]
}

export interface StageCase {
  readonly granuleLg2: number
  readonly inputBits: number
  /** CD.IPS or STE.S2PS. */
  readonly outputSize: number
  /** log2 of the tables that the root of stage 2 is made of. */
  readonly concatenatedLg2: number
  readonly leaves: readonly LeafCase[]
}

/** Bits of an entry on the way to a leaf: `depth` counts from the root. */
export interface EntryFlip {
  readonly stage: 1 | 2
  readonly leaf: number
  readonly depth: number
  readonly bit: number
}

export interface AccessCase {
  readonly leaf: number
  /** Byte in the leaf's frame. */
  readonly offset: number
  readonly write: boolean
  /** A bit of the address that is not as the leaf has it, or null. */
  readonly flip: number | null
}

export interface SmmuCase {
  /** STE.Config. */
  readonly config: number
  readonly stage1: StageCase
  readonly stage2: StageCase
  /** Bits of the STE and of the CD that are not as they should be. */
  readonly steFlips: readonly number[]
  readonly cdFlips: readonly number[]
  readonly entryFlips: readonly EntryFlip[]
  /** log2 of the linear Stream table, or of SPLIT when it has two levels. */
  readonly streamTableLg2: number
  readonly twoLevel: boolean
  readonly accesses: readonly AccessCase[]
}

const GRANULES = [12, 14, 16]
const STE_BITS = 512
const CD_BITS = 512
const MAX_ACCESSES = 8

export function smmuCases(world: World): fc.Arbitrary<SmmuCase> {
  return fc.record({
    config: fc.oneof({ weight: 12, arbitrary: fc.constantFrom(...translating(world)) }, fc.nat(7)),
    stage1: stage(1),
    stage2: stage(2),
    steFlips: rarely(fc.nat(STE_BITS - 1)),
    cdFlips: rarely(fc.nat(CD_BITS - 1)),
    entryFlips: fc.array(
      fc.record({
        stage: fc.constantFrom<1 | 2>(1, 2),
        leaf: fc.nat(7),
        depth: fc.nat(3),
        bit: fc.nat(63),
      }),
      { maxLength: 2 },
    ),
    streamTableLg2: fc.constantFrom(8, 8, 6, 10),
    twoLevel: fc.constant(world.profile === "two-level"),
    accesses: fc.array(access(), { minLength: 1, maxLength: MAX_ACCESSES }),
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
    inputBits: which === 1 ? fc.integer({ min: 25, max: 48 }) : fc.integer({ min: 33, max: 48 }),
    outputSize: fc.oneof(
      { weight: 200, arbitrary: fc.constantFrom(4, 4, 4, 5, 3, 2, 1, 0) },
      fc.constantFrom(6, 7),
    ),
    concatenatedLg2: fc.nat(4),
    leaves: fc.array(leaf(), { minLength: 1, maxLength: 4 }),
  })
}

function leaf(): fc.Arbitrary<LeafCase> {
  return fc.record({
    indices: fc.array(fc.constantFrom(0, 1, 2, -1), { minLength: 5, maxLength: 5 }),
    level: fc.constantFrom(0, 0, 0, 1, 1, 2),
    frame: fc.nat(2),
    page: fc.nat(15),
    flips: rarely(fc.nat(63)),
  })
}

function access(): fc.Arbitrary<AccessCase> {
  return fc.record({
    leaf: fc.nat(3),
    offset: fc.nat(0x3fff).map(word => word * 4),
    write: fc.boolean(),
    flip: fc.oneof({ weight: 8, arbitrary: fc.constant(null) }, fc.integer({ min: 2, max: 63 })),
  })
}

/** Usually none, sometimes one or two. */
function rarely(bit: fc.Arbitrary<number>): fc.Arbitrary<number[]> {
  return fc.oneof(
    { weight: 4, arbitrary: fc.constant<number[]>([]) },
    { weight: 1, arbitrary: fc.array(bit, { minLength: 1, maxLength: 2 }) },
  )
}
