/** Where two subjects differ after commands. */
import type { CommandsDiff, RegisterValues } from "./commands.ts"
import { type Difference, tableDifferences } from "./compare.ts"
import type { Observation, Script } from "./script.ts"
import { staleDifferences } from "./stale.ts"
import type { World } from "./vendor-diff.ts"

/**
 * What the queue says of itself, what it stored and what it logged are the same whatever caches hold.
 * @param possible what models with different caches see
 */
export function commandsDifferences(
  commands: CommandsDiff,
  world: World,
  script: Script,
  possible: readonly Observation[],
  found: Observation,
): Difference[] {
  const [ours] = possible
  return [
    ...registerDifferences(commands, script, ours, found),
    ...eventDifferences(commands.events(world, script, ours), commands.events(world, script, found)),
    ...memoryDifferences(script, possible, found),
    ...staleDifferences(script, possible, found),
  ]
}

function registerDifferences(
  { determined }: CommandsDiff,
  { rounds }: Script,
  ours: Observation,
  theirs: Observation,
): Difference[] {
  const start = rounds.findIndex(({ reads }) => reads.length > 0)
  return rounds.flatMap(({ reads }, round) => {
    const view = (seen: Observation): RegisterValues => {
      const values = (of: number): RegisterValues =>
        Object.fromEntries(
          rounds[of].reads.map(({ name }, index) => [name, seen.rounds[of].registers[index]]),
        )
      return reads.length === 0 ? {} : determined(values(round), values(start))
    }
    const [a, b] = [view(ours), view(theirs)]
    return reads.flatMap(({ name }): Difference[] =>
      a[name] === b[name] ? [] : [{ kind: "register", round, name, ours: a[name], theirs: b[name] }],
    )
  })
}

/** What waits stored; and devices, whose accesses caches can have let pass. */
function memoryDifferences(
  script: Script,
  possible: readonly Observation[],
  found: Observation,
): Difference[] {
  return tableDifferences(script, possible[0], found).filter(
    difference =>
      difference.kind !== "table" ||
      !possible.some(({ changed }) => (changed.get(difference.address) ?? null) === difference.theirs),
  )
}

/** Events of the same kind stand side by side; one that only one side has, alone. */
function eventDifferences(
  ours: readonly (readonly bigint[])[],
  theirs: readonly (readonly bigint[])[],
): Difference[] {
  const differences: Difference[] = []
  let [a, b] = [0, 0]
  for (let index = 0; a < ours.length || b < theirs.length; index++) {
    const isPair = a < ours.length && b < theirs.length && kindOf(ours[a]) === kindOf(theirs[b])
    const isTheirs =
      !isPair && b < theirs.length && !ours.slice(a).some(event => kindOf(event) === kindOf(theirs[b]))
    const our = isTheirs ? null : (ours[a++] ?? null)
    const their = isPair || our === null ? (theirs[b++] ?? null) : null
    const isSame = our !== null && their !== null && our.every((word, place) => word === their[place])
    if (!isSame) differences.push({ kind: "event", index, ours: our, theirs: their })
  }
  return differences
}

/** In all logs of events that commands are in, the kind stands in these bits of the first word. */
function kindOf([first]: readonly bigint[]): bigint {
  return first >> 60n
}
