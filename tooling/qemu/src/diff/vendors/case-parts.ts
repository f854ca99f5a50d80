/** What cases of all vendors are made of. Small numbers throughout, so that a case shrinks to few and zeros. */
import fc from "fast-check"

/** A leaf, by the index that its IOVA has at each level of a walk, root first. */
export interface LeafCase {
  /** -1 for the last entry of a table. */
  readonly indices: readonly number[]
  /** 0 for the last level. */
  readonly level: number
  readonly frame: number
  /** 64 KiB frames hold sixteen 4 KiB pages; the page of the frame that the leaf leads to. */
  readonly page: number
  /** Bits that differ from the attributes that allow everything. */
  readonly flips: readonly number[]
}

/** A bit of an entry on the way to a leaf: `depth` counts from the root. */
export interface EntryFlip {
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

const DEEPEST = 6

export function leafCases(levels: readonly number[]): fc.Arbitrary<LeafCase> {
  return fc.record({
    indices: fc.array(fc.constantFrom(0, 1, 2, -1), { minLength: DEEPEST, maxLength: DEEPEST }),
    level: fc.constantFrom(...levels),
    frame: fc.nat(2),
    page: fc.nat(15),
    flips: rarely(fc.nat(63)),
  })
}

export function entryFlips(): fc.Arbitrary<EntryFlip[]> {
  return fc.oneof(
    { weight: 2, arbitrary: fc.constant<EntryFlip[]>([]) },
    fc.array(fc.record({ leaf: fc.nat(3), depth: fc.nat(DEEPEST - 1), bit: fc.nat(63) }), {
      minLength: 1,
      maxLength: 2,
    }),
  )
}

export function accessCases(maxLength: number): fc.Arbitrary<AccessCase[]> {
  const access = fc.record({
    leaf: fc.nat(3),
    offset: fc.nat(0x3fff).map(word => word * 4),
    write: fc.boolean(),
    flip: fc.oneof({ weight: 8, arbitrary: fc.constant(null) }, fc.integer({ min: 2, max: 63 })),
  })
  return fc.array(access, { minLength: 1, maxLength })
}

/** Numbers of bits to flip: usually none, sometimes one or two. */
export function rarely(bit: fc.Arbitrary<number>): fc.Arbitrary<number[]> {
  return fc.oneof(
    { weight: 4, arbitrary: fc.constant<number[]>([]) },
    { weight: 1, arbitrary: fc.array(bit, { minLength: 1, maxLength: 2 }) },
  )
}
