/** Devices that repeat what others have done, as writes, and say themselves whether they were let through. */
import type { Observation, Round, Script } from "./script.ts"

/**
 * Appends each round of accesses once more, by devices that ask for their passage alone. Left out are those that led
 * to other memory than the frames: a write there may change the case.
 * @param first number of the first such device: the one behind those that have accesses in a script
 * @param expected what the model made of the script
 */
export function withSecondOpinion(script: Script, first: number, expected: Observation): Script {
  // Earlier rounds were in another memory.
  const since = script.rounds.findLastIndex(({ stores, writes }) => stores.size > 0 || writes.length > 0)
  const start = Math.max(0, since)
  const repeated = script.rounds.slice(start).map((round, index): Round => {
    const { answers, faults } = expected.rounds[start + index]
    const isHarmless = (at: number): boolean =>
      answers[at].kind === "landed" || answers[at].kind === "outside" || (faults?.[at] ?? null) !== null
    return {
      ...round,
      stores: new Map(),
      writes: [],
      accesses: round.accesses
        .filter((_, at) => isHarmless(at))
        .map(access => ({ ...access, device: first + access.device, write: true, asks: "passage" })),
    }
  })
  return { ...script, rounds: [...script.rounds, ...repeated] }
}
