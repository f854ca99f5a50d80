/** Differences that follow from how QEMU reads memory or addresses: the model is asked about what QEMU read. */
import { type Reading, readingsOf } from "../ledger/explain.ts"
import type { Vendor } from "../machine/recipe.ts"
import { compare } from "./compare.ts"
import type { Observation, Script, Subject } from "./script.ts"
import type { VendorDiff, World } from "./vendor-diff.ts"
import { judge, type Verdict } from "./verdict.ts"

/**
 * Whether QEMU did what our model does when the case says what QEMU takes it to say: by one entry of the ledger, or
 * by two, where different accesses meet different ones.
 * @returns the verdict, or null when no entry leads to agreement
 */
export async function judgeByReadings<Case>(
  vendor: VendorDiff<Case>,
  name: Vendor,
  world: World,
  script: Script,
  ours: Subject,
  found: Observation,
): Promise<Verdict | null> {
  const readings = readingsOf(name, { world, script })
  const sets = [
    ...readings.map(reading => [reading]),
    ...readings.flatMap((first, index) => readings.slice(index + 1).map(second => [first, second])),
  ]
  for (const set of sets) {
    const reread = rereadBy(set, world, script)
    if (reread === null) continue
    const differences = compare(vendor, world, reread, await ours.run(reread), found).filter(
      difference =>
        difference.kind !== "table" ||
        reread.memory.get(difference.address) === script.memory.get(difference.address),
    )
    const { rows, unexplained } = judge(name, differences, { world, script: reread })
    if (unexplained.length === 0) return { rows: [...set.map(({ id }) => id), ...rows], unexplained }
  }
  return null
}

/** @returns null when one of the readings has nothing to say to this case */
function rereadBy(readings: readonly Reading[], world: World, script: Script): Script | null {
  let reread = script
  for (const { reads, addressOf } of readings) {
    const memory = new Map([...reread.memory, ...reads(world, reread.memory)])
    const rounds =
      addressOf === undefined
        ? reread.rounds
        : reread.rounds.map(round => ({
            ...round,
            accesses: round.accesses.map(access => ({
              ...access,
              iova: addressOf(world, reread.memory, access.iova),
            })),
          }))
    const isSame =
      [...memory].every(([address, value]) => reread.memory.get(address) === value) &&
      rounds.every((round, index) =>
        round.accesses.every(({ iova }, place) => iova === reread.rounds[index].accesses[place].iova),
      )
    if (isSame) return null
    reread = { ...reread, memory, rounds }
  }
  return reread
}
