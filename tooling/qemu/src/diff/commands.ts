/**
 * Commands in the queue of an IOMMU, well formed or not: a leaf moves, commands are put into the queue in batches, each
 * followed by what the book has software do after an error, registers are written, and the devices access memory. What
 * the queue says of itself afterwards has to be the same; of accesses, QEMU's answer has to be one that the model gives.
 */
import fc from "fast-check"
import type { Observation, RegisterCopy, RegisterRead, RegisterWrite, Script, Words } from "./script.ts"
import type { StaleDiff } from "./stale.ts"
import type { World } from "./vendor-diff.ts"

/** A command for the queue, or a write of a register. */
export interface Command {
  /** One of {@link CommandsDiff.commands}, or of {@link CommandsDiff.registers}. */
  readonly name: string
  /** Chooses values of its fields. */
  readonly operands: number
  /** A bit that is turned over, or null. */
  readonly flip: number | null
}

/** Where a queue lies: in memory, nowhere, or beginning in the last page of a piece of memory that it leaves. */
export type QueuePlace = "memory" | "nowhere" | "edge"

export interface CommandsCase<Case> {
  /** The tables, and the accesses. */
  readonly before: Case
  /** The first leaf goes, or moves. */
  readonly isGone: boolean
  readonly place: QueuePlace
  /** Entries between the first command and the end of the queue, or of its memory; 0 for the first entry of all. */
  readonly fromEnd: number
  readonly batches: readonly (readonly Command[])[]
  /** Writes of registers after the last batch, one after the other, with the queue on or off. */
  readonly registers: { readonly isOn: boolean; readonly writes: readonly Command[] }
}

/** Register writes, of which some depend on what the hardware says. */
interface Preparation {
  readonly writes: readonly RegisterWrite[]
  readonly copies: readonly RegisterCopy[]
}

/** A queue that a case uses. Entries are counted on beyond its end; the vendor wraps. */
export interface Queue {
  readonly base: number
  readonly entryBytes: number
  readonly entries: number
  /** Of those, the ones in memory. */
  readonly present: number
  /** Moves the hardware to this queue, with commands to come at an entry. */
  arrange(first: number): readonly RegisterWrite[]
  /** Announces commands up to an entry. */
  announce(end: number): readonly RegisterWrite[]
  /**
   * What goes on after an error, up to an entry: by then no command is wrong any more.
   * @returns null when nothing helps, and the hardware has to be reset
   */
  recover(
    end: number,
  ): { readonly copies: readonly RegisterCopy[]; readonly writes: readonly RegisterWrite[] } | null
}

/** By the names of {@link CommandsDiff.reads}. */
export type RegisterValues = Readonly<Record<string, bigint>>

/** What a vendor brings to it. */
export interface CommandsDiff {
  readonly commands: readonly string[]
  /** Registers to write while the queue is on, and while it is off. */
  readonly registers: { readonly on: readonly string[]; readonly off: readonly string[] }
  readonly places: readonly QueuePlace[]
  queue(world: World, place: QueuePlace): Queue
  /** Before anything else: nothing of an earlier case is left in registers that are compared. */
  clear(world: World): Preparation
  /**
   * The words of an entry, its bit turned over.
   * @param iova an address of the leaf that changes
   */
  encode(world: World, command: Command, iova: bigint): readonly bigint[]
  /** A command without any effect that could be seen. */
  harmless(world: World): readonly bigint[]
  /** Words that commands can store to, beside others: zero at first, and compared at the end. */
  stored(world: World): readonly number[]
  /**
   * A register to write.
   * @param entry up to which commands are announced
   */
  write(world: World, command: Command, iova: bigint, entry: number): readonly RegisterWrite[]
  /** Before them, the queue off or on. */
  turn(isOn: boolean): readonly RegisterWrite[]
  /** After them, and before the last accesses: the queue is in order again, and nothing is logged. */
  settle(world: World): Preparation
  /** Compared after every step. */
  reads(world: World): readonly RegisterRead[]
  /**
   * Of what they say, what the book determines.
   * @param start what they said before the first command
   */
  determined(values: RegisterValues, start: RegisterValues): RegisterValues
  /** Records of the log that an observation has seen, oldest first. */
  events(world: World, script: Script, observation: Observation): readonly (readonly bigint[])[]
}

const MOST_COMMANDS = 5
const MOST_BATCHES = 2
const MOST_WRITES = 3
const MOST_FROM_END = 4

export function commandsCases<Case>(
  stale: StaleDiff<Case>,
  vendor: CommandsDiff,
  world: World,
): fc.Arbitrary<CommandsCase<Case>> {
  const { entryBytes } = vendor.queue(world, "memory")
  const command = (names: readonly string[], bits: number): fc.Arbitrary<Command> =>
    fc.record({
      name: fc.constantFrom(...names),
      operands: fc.nat(0xffff),
      flip: fc.oneof({ weight: 3, arbitrary: fc.constant(null) }, fc.nat(bits - 1)),
    })
  return fc.record({
    before: stale.cases(world),
    isGone: fc.boolean(),
    place: fc.oneof(
      { weight: 50, arbitrary: fc.constant<QueuePlace>("memory") },
      fc.constantFrom(...vendor.places),
    ),
    fromEnd: fc.nat(MOST_FROM_END),
    batches: fc.array(
      fc.array(command(vendor.commands, entryBytes * 8), { minLength: 1, maxLength: MOST_COMMANDS }),
      { maxLength: MOST_BATCHES },
    ),
    registers: fc.oneof(
      fc.constant({ isOn: true, writes: [] }),
      registerWrites(command(vendor.registers.on, 64), true),
      registerWrites(command(vendor.registers.off, 64), false),
    ),
  })
}

function registerWrites(
  write: fc.Arbitrary<Command>,
  isOn: boolean,
): fc.Arbitrary<CommandsCase<unknown>["registers"]> {
  return fc.record({
    isOn: fc.constant(isOn),
    writes: fc.array(write, { minLength: 1, maxLength: MOST_WRITES }),
  })
}

/** An entry with the bit of its command turned over. */
export function turnedOver(words: readonly bigint[], flip: number | null): readonly bigint[] {
  return words.map((word, index) =>
    flip !== null && flip >> 6 === index ? word ^ (1n << BigInt(flip & 63)) : word,
  )
}

/** A queue full of one command. */
export function queueWords(queue: Queue, command: readonly bigint[]): Words {
  return entryWords(queue, 0, Array<readonly bigint[]>(queue.present).fill(command))
}

/** Commands from an entry on, as far as the queue is in memory. */
export function entryWords(
  { base, entryBytes, entries, present }: Queue,
  first: number,
  commands: readonly (readonly bigint[])[],
): Words {
  const words = new Map<number, bigint>()
  for (const [index, command] of commands.entries()) {
    const entry = (first + index) % entries
    if (entry >= present) continue
    for (const [place, word] of command.entries()) words.set(base + entry * entryBytes + place * 8, word)
  }
  return words
}
