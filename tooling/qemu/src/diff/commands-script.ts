/** A case of queue commands as memory and register writes. */
import {
  type Command,
  type CommandsCase,
  type CommandsDiff,
  entryWords,
  type Queue,
  queueWords,
} from "./commands.ts"
import type { Round, Script } from "./script.ts"
import type { StaleDiff } from "./stale.ts"
import type { VendorDiff, World } from "./vendor-diff.ts"

/** What a round is when nothing happens in it. */
const NOTHING: Round = { stores: new Map(), writes: [], accesses: [], reads: [], areas: [], acknowledge: [] }

/**
 * The set-up with accesses that fill caches; the queue of the case; a round for each batch and one for what follows
 * errors in it; a round for each register that is written; accesses.
 */
export function commandsScript<Case>(
  vendor: Pick<VendorDiff<Case>, "script">,
  stale: StaleDiff<Case>,
  commands: CommandsDiff,
  world: World,
  given: CommandsCase<Case>,
): Script {
  const script = vendor.script(world, given.before)
  const after = vendor.script(world, stale.changed(given.before, given.isGone))
  const [setUp] = script.rounds
  const { iova } = setUp.accesses[0]
  const queue = commands.queue(world, given.place)
  const first = firstEntry(given, queue)
  const encode = (command: Command): readonly bigint[] => commands.encode(world, command, iova)
  const batches = batchesOf(given).map(batch => batch.map(encode))
  const harmless = commands.harmless(world)
  const moved = [...after.memory].filter(([address, value]) => script.memory.get(address) !== value)
  const seen = { ...NOTHING, reads: commands.reads(world), areas: setUp.areas }
  const cleared = commands.clear(world)
  const rounds = batchRounds(queue, first, batches, harmless, seen)
  const last = first + batches.reduce((sum, batch) => sum + batch.length + 1, 0)
  const needsReset = queue.recover(0) === null
  const writes = given.registers.writes.map(
    (command): Round => ({ ...seen, writes: commands.write(world, command, iova, last) }),
  )
  const turned =
    writes.length === 0 ? [] : [{ ...NOTHING, writes: commands.turn(given.registers.isOn) }, ...writes]
  return {
    ...script,
    memory: new Map([
      ...script.memory,
      ...queueWords(commands.queue(world, "memory"), harmless),
      ...queueWords(queue, harmless),
      ...commands.stored(world).map((address): [number, bigint] => [address, 0n]),
    ]),
    rounds: [
      { ...setUp, reads: [], areas: [] },
      { ...seen, ...cleared, stores: new Map(moved), writes: [...cleared.writes, ...queue.arrange(first)] },
      ...rounds,
      ...(needsReset ? [] : turned),
      { ...NOTHING, ...(needsReset ? {} : commands.settle(world)), accesses: setUp.accesses },
    ],
    needsReset,
  }
}

/** Where the queue is not all there, one batch says all: what follows it, if anything, is in another queue. */
function batchesOf<Case>({ place, batches }: CommandsCase<Case>): readonly (readonly Command[])[] {
  return place === "memory" ? batches : batches.slice(0, 1)
}

function firstEntry<Case>({ place, fromEnd }: CommandsCase<Case>, { entries, present }: Queue): number {
  switch (place) {
    case "memory":
      return (entries - fromEnd) % entries
    case "edge":
      return present - fromEnd
    case "nowhere":
      return 0
  }
}

function batchRounds(
  queue: Queue,
  first: number,
  batches: readonly (readonly (readonly bigint[])[])[],
  harmless: readonly bigint[],
  seen: Round,
): Round[] {
  let entry = first
  return batches.flatMap((batch): Round[] => {
    const start = entry
    const end = start + batch.length
    // Behind each batch comes a harmless command, so that one is the last.
    entry = end + 1
    const recovery = queue.recover(entry)
    const batchRound = { ...seen, stores: entryWords(queue, start, batch), writes: queue.announce(end) }
    if (recovery === null) return [batchRound]
    return [
      batchRound,
      {
        ...seen,
        ...recovery,
        stores: entryWords(
          queue,
          start,
          batch.map(() => harmless),
        ),
      },
    ]
  })
}
