/** Differences that follow from how QEMU takes commands: the model is asked about commands as QEMU takes them. */
import type { Setting } from "../ledger/entry.ts"
import { type Reading, readingsOf } from "../ledger/explain.ts"
import type { Vendor } from "../machine/recipe.ts"
import type { Difference } from "./compare.ts"
import type { Script, Words } from "./script.ts"
import type { World } from "./vendor-diff.ts"
import { judge, type Verdict } from "./verdict.ts"

/**
 * A case has commands of all kinds, and each of QEMU's ways with them can meet one: all that are known of the release
 * are taken together, and then those left out that nothing depends on.
 */
export async function judgeCommands(
  vendor: Vendor,
  setting: Setting,
  differencesOf: (script: Script) => Promise<Difference[]>,
): Promise<Verdict> {
  const { world, script } = setting
  const verdict = judge(vendor, await differencesOf(script), setting)
  if (verdict.unexplained.length === 0) return verdict
  const known = applicableOf(readingsOf(vendor, setting), world, script)
  const judged = async (readings: readonly Reading[]): Promise<Verdict> => {
    const reread = rereadBy(readings, world, script)
    if (reread === null) return verdict
    const differences = await differencesOf(reread)
    const { rows, unexplained } = judge(
      vendor,
      differences.filter(difference => !readings.some(({ leaves }) => leaves?.(difference))),
      { world, script: reread },
    )
    return { rows: [...readings.map(({ id }) => id), ...rows], unexplained }
  }
  let best = await judged(known)
  if (best.unexplained.length > 0) return verdict
  let needed = known
  for (const reading of known) {
    const fewer = needed.filter(other => other !== reading)
    const without = await judged(fewer)
    if (without.unexplained.length > 0) continue
    needed = fewer
    best = without
  }
  return best
}

/** Those that have something to say to this case, once the ones before them have had their say. */
function applicableOf(readings: readonly Reading[], world: World, script: Script): Reading[] {
  let read = script
  return readings.filter(reading => {
    const reread = rereadBy([reading], world, read)
    read = reread ?? read
    return reread !== null
  })
}

/** @returns null when the readings have nothing to say to this case */
function rereadBy(readings: readonly Reading[], world: World, script: Script): Script | null {
  const reread = (words: Words): Words => {
    let read = words
    for (const { reads } of readings) {
      // A round's words are some of the case's: what is not among them is not read.
      const changes = [...reads(world, read)].filter(([address]) => words.has(address))
      if (changes.length > 0) read = new Map([...read, ...changes])
    }
    return read
  }
  const memory = reread(script.memory)
  const rounds = script.rounds.map(round => ({ ...round, stores: reread(round.stores) }))
  const isSame =
    memory === script.memory && rounds.every(({ stores }, index) => stores === script.rounds[index].stores)
  return isSame ? null : { ...script, memory, rounds }
}
