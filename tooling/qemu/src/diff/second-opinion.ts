/** Devices that repeat what others have done, as writes, and say themselves whether they were let through. */
import type { Round, Script } from "./script.ts"

/**
 * Appends each round of accesses once more, by devices that ask for their passage alone.
 * @param first number of the first such device: the one behind those that have accesses in a script
 */
export function withSecondOpinion(script: Script, first: number): Script {
  // Earlier rounds were in another memory.
  const since = script.rounds.findLastIndex(({ stores, writes }) => stores.size > 0 || writes.length > 0)
  const repeated = script.rounds.slice(Math.max(0, since)).map(
    (round): Round => ({
      ...round,
      stores: new Map(),
      writes: [],
      accesses: round.accesses.map(access => ({
        ...access,
        device: first + access.device,
        write: true,
        asks: "passage",
      })),
    }),
  )
  return { ...script, rounds: [...script.rounds, ...repeated] }
}
