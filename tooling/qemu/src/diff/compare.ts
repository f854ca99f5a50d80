/** Puts what two subjects did side by side, access by access and field by field. */
import type { Fault } from "@iommu/core"
import type { Access, Answer, Observation, Script } from "./script.ts"
import type { VendorDiff, World } from "./vendor-diff.ts"

/** What one subject made of an access. */
export interface Side {
  readonly answer: Answer
  /** Records that name the access's device; one access leaves at most one. */
  readonly records: readonly (readonly bigint[])[]
}

interface AccessDifference {
  readonly kind: "access"
  readonly round: number
  readonly access: Access
  readonly ours: Side
  /** Why our model refused. */
  readonly fault: Fault | null
  readonly theirs: Side
}

interface RegisterDifference {
  readonly kind: "register"
  readonly round: number
  readonly name: string
  readonly ours: bigint
  readonly theirs: bigint
}

/** A word of memory after the case: null where the hardware left it as it was. */
interface TableDifference {
  readonly kind: "table"
  readonly address: number
  readonly before: bigint
  readonly ours: bigint | null
  readonly theirs: bigint | null
}

/** An entry of the log that no access made; null where there is none. */
interface EventDifference {
  readonly kind: "event"
  readonly index: number
  readonly ours: readonly bigint[] | null
  readonly theirs: readonly bigint[] | null
}

/** The other subject did not live through the case. */
interface Death {
  readonly kind: "died"
  readonly words: string
}

/** Where two subjects differ, with what is needed to recognise it. */
export type Difference = AccessDifference | RegisterDifference | TableDifference | EventDifference | Death

export function compare<Case>(
  vendor: VendorDiff<Case>,
  world: World,
  script: Script,
  ours: Observation,
  theirs: Observation,
): Difference[] {
  const accesses = accessDifferences(vendor, world, script, ours, theirs)
  const differing = new Set(accesses.map(({ round }) => round))
  const registers = registerDifferences(vendor, script, ours, theirs).filter(
    ({ name, round }) => !(differing.has(round) && vendor.derived.includes(name)),
  )
  return [...accesses, ...registers, ...tableDifferences(script, ours, theirs)]
}

function accessDifferences<Case>(
  vendor: VendorDiff<Case>,
  world: World,
  script: Script,
  ours: Observation,
  theirs: Observation,
): AccessDifference[] {
  const ourRecords = vendor.records(world, script, ours)
  const theirRecords = vendor.records(world, script, theirs)
  return script.rounds.flatMap(({ accesses }, round) =>
    accesses.flatMap((access, index): AccessDifference[] => {
      const id = world.deviceIds[access.device]
      const ourSide = { answer: ours.rounds[round].answers[index], records: ourRecords[round].get(id) ?? [] }
      const theirSide = {
        answer: theirs.rounds[round].answers[index],
        records: theirRecords[round].get(id) ?? [],
      }
      if (sameAnswer(ourSide.answer, theirSide.answer) && sameRecords(ourSide.records, theirSide.records)) {
        return []
      }
      const fault = ours.rounds[round].faults?.[index] ?? null
      return [{ kind: "access", round, access, ours: ourSide, fault, theirs: theirSide }]
    }),
  )
}

function registerDifferences<Case>(
  { compared }: VendorDiff<Case>,
  script: Script,
  ours: Observation,
  theirs: Observation,
): RegisterDifference[] {
  return script.rounds.flatMap(({ reads }, round) =>
    reads.flatMap(({ name }, index): RegisterDifference[] => {
      const [a, b] = [ours.rounds[round].registers[index], theirs.rounds[round].registers[index]]
      return !compared.includes(name) || a === b
        ? []
        : [{ kind: "register", round, name, ours: a, theirs: b }]
    }),
  )
}

export function tableDifferences(script: Script, ours: Observation, theirs: Observation): Difference[] {
  const addresses = new Set([...ours.changed.keys(), ...theirs.changed.keys()])
  return [...addresses].flatMap((address): Difference[] => {
    const [a, b] = [ours.changed.get(address) ?? null, theirs.changed.get(address) ?? null]
    const before = script.memory.get(address) ?? 0n
    return a === b ? [] : [{ kind: "table", address, before, ours: a, theirs: b }]
  })
}

/** True when a model's answer and what was seen can be of the same translation. */
export function sameAnswer(a: Answer, b: Answer): boolean {
  if (a.kind === "landed") return b.kind === "landed" && a.address === b.address
  if (a.kind === "elsewhere") return b.kind === "elsewhere" && a.value === b.value
  if (a.kind === "outside") return b.kind !== "landed"
  return b.kind === a.kind
}

function sameRecords(a: Side["records"], b: Side["records"]): boolean {
  return (
    a.length === b.length &&
    a.every((record, index) => record.every((word, place) => word === b[index][place]))
  )
}
