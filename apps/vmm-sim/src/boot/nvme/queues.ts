/** Submission and completion queues: rings in the host's memory. NVM Express 1.4c §4.1, §4.6. */
import type { Dma } from "../pci/dma.ts"
import { CQE_BYTES, type Outcome, SQE_BYTES } from "./spec.ts"

export interface QueueShape {
  readonly base: bigint
  /** Entries. */
  readonly size: number
}

export class CompletionQueue {
  readonly interrupts: boolean
  readonly #shape: QueueShape
  #head = 0
  #tail = 0
  #phase = 1

  constructor(shape: QueueShape, interrupts: boolean) {
    this.#shape = shape
    this.interrupts = interrupts
  }

  get isFull(): boolean {
    return (this.#tail + 1) % this.#shape.size === this.#head
  }

  /** The host has not looked at all entries yet. */
  get hasEntries(): boolean {
    return this.#head !== this.#tail
  }

  /** The host has taken entries up to this one. @returns false for a value outside the queue */
  moveHead(head: number): boolean {
    if (head >= this.#shape.size) return false
    this.#head = head
    return true
  }

  /** @returns false when the entry could not be written */
  post(dma: Dma, queue: number, head: number, commandId: number, outcome: Outcome): boolean {
    const entry = new Uint32Array(CQE_BYTES / 4)
    entry[0] = outcome.result
    entry[2] = head | (queue << 16)
    entry[3] = commandId | (this.#phase << 16) | (outcome.status << 17)
    const at = this.#shape.base + BigInt(this.#tail * CQE_BYTES)
    this.#tail++
    if (this.#tail === this.#shape.size) {
      this.#tail = 0
      this.#phase ^= 1
    }
    return dma.write(at, new Uint8Array(entry.buffer))
  }
}

export class SubmissionQueue {
  readonly id: number
  /** Number of the completion queue. */
  readonly completions: number
  readonly #shape: QueueShape
  #head = 0
  #tail = 0

  constructor(id: number, shape: QueueShape, completions: number) {
    this.id = id
    this.#shape = shape
    this.completions = completions
  }

  get head(): number {
    return this.#head
  }

  get isEmpty(): boolean {
    return this.#head === this.#tail
  }

  /** @returns false for a value outside the queue */
  moveTail(tail: number): boolean {
    if (tail >= this.#shape.size) return false
    this.#tail = tail
    return true
  }

  /** The next entry, or null when it could not be read. */
  take(dma: Dma): Uint8Array | null {
    const entry = new Uint8Array(SQE_BYTES)
    const at = this.#shape.base + BigInt(this.#head * SQE_BYTES)
    this.#head = (this.#head + 1) % this.#shape.size
    return dma.read(at, entry) ? entry : null
  }
}
