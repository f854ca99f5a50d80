/** What a vendor brings to the comparison: cases, their scripts, and how its records are read. */
import type { CachePolicies, IommuModel, PhysicalMemory } from "@iommu/core"
import type fc from "fast-check"
import type { CommandsDiff } from "./commands.ts"
import type { Places } from "./places.ts"
import type { Observation, RegisterRead, RegisterWrite, Script } from "./script.ts"
import type { StaleDiff } from "./stale.ts"

/** The machine that cases are made for. */
export interface World {
  /** Release of the other subject, where it is a QEMU: `10.0`. */
  readonly release: string
  /** What the IOMMU is set up to do: a recipe's variant. */
  readonly variant: string
  /** One of {@link VendorDiff.profiles}. */
  readonly profile: string
  readonly places: Places
  /** Requester ids of the machine's devices: {@link VendorDiff.devices}, and as many that repeat their accesses, or none. */
  readonly deviceIds: readonly number[]
  /** Values of {@link VendorDiff.identity}, by name. */
  readonly identity: Readonly<Record<string, bigint>>
}

/** Records of one round, by the requester id that they name. */
export type Records = ReadonlyMap<number, readonly (readonly bigint[])[]>

export interface VendorDiff<Case> {
  /** Devices that a machine needs, at most 16: the accesses that a round can have. */
  readonly devices: number
  /** Kinds of cases that do not mix in one run of a machine: what one leaves behind would show in the other. */
  readonly profiles: readonly string[]
  /** Registers that say what the hardware can do. */
  readonly identity: readonly RegisterRead[]
  readonly bypass: readonly RegisterWrite[]
  cases(world: World): fc.Arbitrary<Case>
  script(world: World, given: Case): Script
  /** Records that the hardware left, by round. */
  records(world: World, script: Script, observation: Observation): readonly Records[]
  /** Registers that are compared as they are, by the names of the rounds' reads. */
  readonly compared: readonly string[]
  /** Those that follow from the records alone: where an access differs, they may. */
  readonly derived: readonly string[]
  /** A model of hardware with the same identity, after reset. @param caches what it keeps, `exact` when left out */
  model(world: World, memory: PhysicalMemory, caches?: CachePolicies): IommuModel
  /** Cases of tables that change while caches hold them. */
  readonly stale: StaleDiff<Case>
  /** Cases of commands in the queue. */
  readonly commands: CommandsDiff
}
