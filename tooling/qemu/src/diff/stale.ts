/**
 * Tables that change while caches hold what they said: a case before and after, and an invalidation between them that
 * is missing, of another page or tag, exact, or of everything. The book leaves open what a cache has kept, so QEMU's
 * answer has to be one that the model gives when it keeps everything it may, or nothing, of structures and of
 * translations.
 */
import type { CachePolicies, CachePolicy } from "@iommu/core"
import fc from "fast-check"
import { type Difference, sameAnswer } from "./compare.ts"
import type { Observation, RegisterWrite, Script, Subject, Words } from "./script.ts"
import type { VendorDiff, World } from "./vendor-diff.ts"

const INVALIDATIONS = ["none", "other page", "other tag", "exact", "everything"] as const
export type Invalidation = (typeof INVALIDATIONS)[number]

/** Commands, put into the queue behind those of the set-up, and the registers that announce them. */
export interface QueuedCommands {
  readonly stores: Words
  readonly writes: readonly RegisterWrite[]
}

/** What a vendor brings to it. */
export interface StaleDiff<Case> {
  /** Cases without damage, of one round. */
  readonly cases: (world: World) => fc.Arbitrary<Case>
  /** The same case with its first leaf elsewhere, or not there at all. */
  readonly changed: (given: Case, isGone: boolean) => Case
  /** @param iova an address of the leaf that changed */
  readonly invalidate: (world: World, kind: Invalidation, iova: bigint) => QueuedCommands
}

export interface StaleCase<Case> {
  readonly before: Case
  readonly isGone: boolean
  readonly invalidation: Invalidation
}

const POLICIES: readonly CachePolicy[] = ["none", "hoard"]
/** What a model may keep: everything or nothing, of either kind. */
export const CACHES: readonly CachePolicies[] = POLICIES.flatMap(structures =>
  POLICIES.map(translations => ({ structures, translations })),
)

export function staleCases<Case>(stale: StaleDiff<Case>, world: World): fc.Arbitrary<StaleCase<Case>> {
  return fc.record({
    before: stale.cases(world),
    isGone: fc.boolean(),
    invalidation: fc.constantFrom(...INVALIDATIONS),
  })
}

export function staleScript<Case>(
  vendor: VendorDiff<Case>,
  stale: StaleDiff<Case>,
  world: World,
  { before, isGone, invalidation }: StaleCase<Case>,
): Script {
  const script = vendor.script(world, before)
  const after = vendor.script(world, stale.changed(before, isGone))
  const [round] = script.rounds
  const { stores, writes } = stale.invalidate(world, invalidation, round.accesses[0].iova)
  const changes = [...after.memory].filter(([address, value]) => script.memory.get(address) !== value)
  return {
    ...script,
    rounds: [round, { ...round, stores: new Map([...changes, ...stores]), writes }],
  }
}

/** What each model sees of a script. */
export async function observations(models: readonly Subject[], script: Script): Promise<Observation[]> {
  const seen: Observation[] = []
  for (const model of models) seen.push(await model.run(script))
  return seen
}

/** Accesses of QEMU that no way of caching explains. @param possible what models with different caches see */
export function staleDifferences(
  { rounds }: Script,
  possible: readonly Observation[],
  found: Observation,
): Difference[] {
  return rounds.flatMap(({ accesses }, round) =>
    accesses.flatMap((access, index): Difference[] => {
      const theirs = found.rounds[round].answers[index]
      const ours = possible.map(seen => seen.rounds[round].answers[index])
      if (ours.some(answer => sameAnswer(answer, theirs))) return []
      return [
        {
          kind: "access",
          round,
          access,
          ours: { answer: ours[0], records: [] },
          fault: possible[0].rounds[round].faults?.[index] ?? null,
          theirs: { answer: theirs, records: [] },
        },
      ]
    }),
  )
}
