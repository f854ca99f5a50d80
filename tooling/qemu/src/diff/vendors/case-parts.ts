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
}

/** A frame of 64 KiB. */
const PAGES_OF_A_FRAME = 16

/** Leaves of which the first leads to the next page of its frame. */
export function withFirstPageMoved(leaves: readonly LeafCase[]): LeafCase[] {
  return leaves.map((leaf, index) =>
    index === 0 ? { ...leaf, page: (leaf.page + 1) % PAGES_OF_A_FRAME } : leaf,
  )
}

/** In place of a bit: the whole structure is zero, as where nobody has written one. */
export const ABSENT = -1

/** One bit of a structure that is not as it should be, counted through all of the structure's words, or {@link ABSENT}. */
interface StructureDamage<Structure extends string> {
  readonly at: Structure
  readonly bit: number
}

/** In place of a depth: the entry that ends the walk. */
export const LAST = -1

/** One bit of an entry on the way to a leaf: `depth` counts from the root, or is {@link LAST}. */
export interface EntryDamage {
  readonly at: "stage 1" | "stage 2"
  readonly leaf: number
  readonly depth: number
  readonly bit: number
}

/**
 * What is wrong in a case, if anything is: one bit, so that one rule decides what comes of it. Every bit of every
 * structure and of entries of every level gets its turn.
 */
export type Damage<Structure extends string> = StructureDamage<Structure> | EntryDamage | null

export interface AccessCase {
  readonly leaf: number
  /** Byte in the leaf's frame. */
  readonly offset: number
  readonly write: boolean
  /** A bit of the address that is not as the leaf has it, or null. */
  readonly flip: number | null
}

/** Bits on which implementations are known to slip: they get their turn more often than by chance. */
export interface Notable<Structure extends string> {
  readonly structures: readonly StructureDamage<Structure>[]
  readonly entries: readonly (Pick<EntryDamage, "at" | "bit"> & { readonly of: "leaf" | "table" })[]
}

const DEEPEST = 6
/** Stage 2 under stage 1 has as many blocks: for the frames, the structures and the tables. */
const MOST_LEAVES = 5

export function leafCases(levels: readonly number[]): fc.Arbitrary<LeafCase> {
  return fc.record({
    indices: fc.array(fc.constantFrom(0, 1, 2, -1, -1), { minLength: DEEPEST, maxLength: DEEPEST }),
    level: fc.constantFrom(...levels),
    frame: fc.nat(2),
    page: fc.nat(15),
  })
}

/** @param bits of each structure */
export function damages<Structure extends string>(
  bits: Readonly<Record<Structure, number>>,
  stages: readonly EntryDamage["at"][],
  notable: Notable<Structure>,
): fc.Arbitrary<Damage<Structure>> {
  const structures = (Object.keys(bits) as Structure[]).map(at =>
    fc.record({ at: fc.constant(at), bit: fc.integer({ min: ABSENT, max: bits[at] - 1 }) }),
  )
  const entry = fc.record({
    at: fc.constantFrom(...stages),
    leaf: fc.nat(MOST_LEAVES - 1),
    depth: fc.nat(DEEPEST - 1),
    bit: fc.nat(63),
  })
  const { length } = structures
  return fc.oneof(
    // Whatever is wrong shrinks to nothing where that does.
    { withCrossShrink: true },
    { weight: 2 * length, arbitrary: fc.constant(null) },
    { weight: 2 * length, arbitrary: entry },
    ...structures,
    { weight: 2 * length, arbitrary: notableDamages(notable, stages) },
  )
}

function notableDamages<Structure extends string>(
  { structures, entries }: Notable<Structure>,
  stages: readonly EntryDamage["at"][],
): fc.Arbitrary<Damage<Structure>> {
  return fc.oneof(
    ...structures.map(damage => fc.constant(damage)),
    ...entries
      .filter(({ at }) => stages.includes(at))
      .map(({ at, bit, of }) =>
        fc.record({
          at: fc.constant(at),
          leaf: fc.nat(MOST_LEAVES - 1),
          depth: of === "leaf" ? fc.constant(LAST) : fc.nat(DEEPEST - 1),
          bit: fc.constant(bit),
        }),
      ),
  )
}

export function accessCases(maxLength: number): fc.Arbitrary<AccessCase[]> {
  const access = fc.record({
    leaf: fc.nat(3),
    // Half of them in the first page, where accesses meet what earlier ones have left in a cache.
    offset: fc.oneof(fc.nat(3), fc.nat(0x3fff)).map(word => word * 4),
    write: fc.boolean(),
    flip: fc.oneof(
      { weight: 14, arbitrary: fc.constant(null) },
      fc.integer({ min: 2, max: 63 }),
      // Mostly another entry of a table that is there.
      { weight: 2, arbitrary: fc.integer({ min: 12, max: 30 }) },
    ),
  })
  return fc.array(access, { minLength: 1, maxLength })
}
