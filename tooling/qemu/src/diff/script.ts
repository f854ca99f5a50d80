/**
 * What a case does to a machine with an IOMMU, and what is seen of it: the door for implementations under
 * comparison. Nothing here knows a vendor, a model or QEMU.
 */
import type { Fault } from "@iommu/core"

/** A store to a register, `offset` bytes from the start of the IOMMU's registers. */
export interface RegisterWrite {
  readonly offset: number
  readonly bytes: 4 | 8
  readonly value: bigint
}

export interface RegisterRead {
  /** The book's name. */
  readonly name: string
  readonly offset: number
  readonly bytes: 4 | 8
}

/** A register that software writes as another one reads. */
export interface RegisterCopy {
  readonly from: number
  readonly to: number
  readonly bytes: 4 | 8
}

/** Four bytes that a device reads or writes. */
export interface Access {
  /** Which of the machine's devices, from 0. In one round no device has two accesses. */
  readonly device: number
  readonly iova: bigint
  readonly write: boolean
  /** What is to be found out: where it lands or what it reads, or no more than whether it is let through. */
  readonly asks: "place" | "passage"
}

/** 64-bit words of memory by physical address. */
export type Words = ReadonlyMap<number, bigint>

/** Bytes of memory to look at, in one page. */
interface MemoryArea {
  readonly address: number
  readonly bytes: number
}

/** A part of a case: memory changes, the hardware is told, devices access, and what came of it is looked at. */
export interface Round {
  readonly stores: Words
  readonly writes: readonly RegisterWrite[]
  /** After {@link writes}. */
  readonly copies?: readonly RegisterCopy[]
  /** All are under way before the first one's result is looked at; the hardware sees them in this order. */
  readonly accesses: readonly Access[]
  readonly reads: readonly RegisterRead[]
  readonly areas: readonly MemoryArea[]
  /** After the reads: what makes room for the next round's records. */
  readonly acknowledge: readonly RegisterWrite[]
}

export interface Script {
  /** Memory before the first round; other memory of earlier scripts is zero again. */
  readonly memory: Words
  /** Pages to be zero at the start that {@link memory} does not name: queues and logs. */
  readonly zeroed: readonly number[]
  readonly rounds: readonly Round[]
  /** Turns translation off, so that addresses of devices are physical. */
  readonly bypass: readonly RegisterWrite[]
  /** It leaves the hardware in a state that its registers do not lead out of: a reset follows. */
  readonly needsReset?: boolean
}

/** What became of an access. */
export type Answer =
  | { readonly kind: "refused" }
  /** It reached this physical address of the data frames. */
  | { readonly kind: "landed"; readonly address: number }
  /** It read this, which stands in no data frame. */
  | { readonly kind: "elsewhere"; readonly value: number }
  /** It was let through, to wherever. */
  | { readonly kind: "passed" }
  /** It was translated to where there is no RAM: what a device sees there is no matter of the IOMMU. */
  | { readonly kind: "outside" }

export interface RoundObservation {
  readonly answers: readonly Answer[]
  readonly registers: readonly bigint[]
  readonly areas: readonly Uint8Array[]
  /** The fault of each access, from an implementation that says why it refused. */
  readonly faults?: readonly (Fault | null)[]
}

export interface Observation {
  readonly rounds: readonly RoundObservation[]
  /** Words of {@link Script.memory} that the hardware changed, Access and dirty flags. */
  readonly changed: ReadonlyMap<number, bigint>
}

/** An implementation did not live through a script; the message is its last words. */
export class SubjectDied extends Error {}

/** An implementation of an IOMMU in a machine: a model, QEMU, hardware on a bench. */
export interface Subject {
  readonly name: string
  /** @throws SubjectDied when the script ended the implementation: it is of no use after that */
  run(script: Script): Promise<Observation>
  close(): Promise<void>
}
