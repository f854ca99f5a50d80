/** The queues as software sees them: commands as their producer, records as their consumer. Arm IHI 0070 G.b §3.5, §4, §7. */
import { hi32, IommuError, lo32, type Mmio, type PhysicalMemory } from "@iommu/core"
import { CMD_SYNC, COMMAND_BYTES } from "../spec/commands.ts"
import {
  CERROR_ABT,
  CERROR_ATC_INV_SYNC,
  CMDQ_CONS_ERR,
  CMDQ_CONS_ERR_SHIFT,
  GERROR_CMDQ_ERR,
  offsetOf,
  QUEUE_CONS_OVACKFLG,
  QUEUE_PROD_OVFLG,
} from "../spec/registers.ts"

const CMDQ_PROD = offsetOf("CMDQ_PROD")
const CMDQ_CONS = offsetOf("CMDQ_CONS")
const GERROR = offsetOf("GERROR")
const GERRORN = offsetOf("GERRORN")

/** How often an error that may pass by itself (an aborted fetch, a late answer of an ATC) is retried. */
const RETRIES = 3

export interface QueueOptions {
  readonly memory: PhysicalMemory
  readonly mmio: Mmio
  /** Physical address of the first command. */
  readonly base: number
  /** log2 of the commands it has room for. */
  readonly sizeLg2: number
  /** Reads of CMDQ_CONS without progress after which the hardware counts as hung. */
  readonly pollLimit: number
}

/**
 * Commands are written by {@link push} and reach the hardware at the next {@link sync}, or when the queue is full.
 * Positions count commands since bring-up and do not wrap.
 */
export class CommandQueue {
  readonly #memory: PhysicalMemory
  readonly #mmio: Mmio
  readonly #base: number
  readonly #size: number
  readonly #pollLimit: number
  #written = 0
  #consumed = 0
  #refused = -1
  /** Position of the last hint, and of the last command that a CMD_SYNC has replaced. */
  #hinted = -1
  #replaced = -1
  #retries = 0

  constructor(options: QueueOptions) {
    this.#memory = options.memory
    this.#mmio = options.mmio
    this.#base = options.base
    this.#size = 2 ** options.sizeLg2
    this.#pollLimit = options.pollLimit
  }

  /** Position of the next command. */
  get position(): number {
    return this.#written
  }

  /**
   * Adds one command, given as its four 32-bit words.
   * @throws ETIMEDOUT when the queue is full and the hardware does not consume
   */
  push(word0: number, word1: number, word2: number, word3: number): void {
    if (this.#written - this.#consumed === this.#size) this.#consumeUntil(this.#written - this.#size / 2)
    this.#write(this.#written, word0, word1, word2, word3)
    this.#written++
  }

  /** Hands over a command that nobody waits for, nor for its refusal. It is left out where the queue is full. */
  hint(word0: number, word1: number, word2: number, word3: number): void {
    if (this.#written - this.#consumed === this.#size) return
    this.#hinted = this.#written
    this.push(word0, word1, word2, word3)
    this.#mmio.write32(CMDQ_PROD, this.#register(this.#written))
  }

  /**
   * Waits until every command before it is done.
   * @throws EIO when the hardware refused one, which is then skipped; ETIMEDOUT when it hangs
   */
  sync(): void {
    if (this.trySync() >= 0) throw new IommuError("EIO", "the SMMU refused a command (CMDQ_CONS.ERR)")
  }

  /**
   * As {@link sync}, for commands that may be wrong.
   * @returns the position of the first command that the hardware refused, or -1
   */
  trySync(): number {
    this.push(CMD_SYNC, 0, 0, 0)
    this.#consumeUntil(this.#written)
    const refused = this.#refused
    this.#refused = -1
    this.#retries = 0
    return refused
  }

  /** Index and wrap bit of a position, as PROD and CONS hold them, §3.5.1. */
  #register(position: number): number {
    return position % (2 * this.#size)
  }

  #write(position: number, word0: number, word1: number, word2: number, word3: number): void {
    const at = BigInt(this.#base + (position % this.#size) * COMMAND_BYTES)
    const index = this.#memory.find(hi32(at), lo32(at))
    const { words } = this.#memory
    words[index] = word0
    words[index + 1] = word1
    words[index + 2] = word2
    words[index + 3] = word3
  }

  #consumeUntil(position: number): void {
    this.#mmio.write32(CMDQ_PROD, this.#register(this.#written))
    let polls = 0
    while (this.#consumed < position) {
      const cons = this.#mmio.read32(CMDQ_CONS)
      const progress = this.#progress(cons)
      this.#consumed += progress
      if (this.#consumed >= position) return
      if (((this.#mmio.read32(GERROR) ^ this.#mmio.read32(GERRORN)) & GERROR_CMDQ_ERR) !== 0) {
        this.#recover((cons & CMDQ_CONS_ERR) >>> CMDQ_CONS_ERR_SHIFT)
      } else if (progress === 0 && ++polls > this.#pollLimit) {
        throw new IommuError("ETIMEDOUT", "the SMMU does not consume its Command queue")
      }
    }
  }

  #progress(cons: number): number {
    const span = 2 * this.#size
    const progress = ((cons % span) - this.#register(this.#consumed) + span) % span
    if (progress > this.#written - this.#consumed) {
      throw new IommuError("EIO", "CMDQ_CONS is beyond CMDQ_PROD")
    }
    return progress
  }

  /**
   * The queue stands still until GERRORN acknowledges the error; CONS is at the command in question, §7.1. A
   * command that is no good becomes a CMD_SYNC, so that those behind it are still done.
   */
  #recover(error: number): void {
    const mayPass = error === CERROR_ABT || error === CERROR_ATC_INV_SYNC
    if (mayPass && ++this.#retries > RETRIES) {
      this.#retries = 0
      throw new IommuError("ETIMEDOUT", `the Command queue stays in error ${error} (CMDQ_CONS.ERR)`)
    }
    if (!mayPass) {
      if (this.#replaced === this.#consumed) throw new IommuError("EIO", "the SMMU refuses CMD_SYNC")
      this.#replaced = this.#consumed
      if (this.#refused < 0 && this.#consumed !== this.#hinted) this.#refused = this.#consumed
      this.#write(this.#consumed, CMD_SYNC, 0, 0, 0)
    }
    this.#mmio.write32(GERRORN, this.#mmio.read32(GERRORN) ^ GERROR_CMDQ_ERR)
  }
}

export interface RecordQueueOptions {
  readonly memory: PhysicalMemory
  readonly mmio: Mmio
  /** Physical address of the first record. */
  readonly base: number
  /** log2 of the records it has room for. */
  readonly sizeLg2: number
  readonly recordBytes: number
  /** Offsets of the registers of both indexes. */
  readonly prod: number
  readonly cons: number
}

/** What was in a queue. */
export interface TakenRecords {
  /** 64-bit words of each, oldest first. */
  readonly records: readonly (readonly bigint[])[]
  /** More came than there was room for, after these. */
  readonly lost: boolean
}

/** The Event queue or the PRI queue, which the SMMU fills. §7.2, chapter 8. */
export class RecordQueue {
  readonly #options: RecordQueueOptions
  readonly #size: number
  /** Index and wrap bit of the next record, and the overflow flag as acknowledged. */
  #next = 0
  #acknowledged = 0

  constructor(options: RecordQueueOptions) {
    this.#options = options
    this.#size = 2 ** options.sizeLg2
  }

  /**
   * Empties the queue: copies what is there now, and gives the room back before anybody looks at the copies. So a
   * call ends, however fast records come in.
   */
  take(): TakenRecords {
    const { mmio, prod, cons } = this.#options
    const written = mmio.read32(prod)
    const lost = ((written ^ this.#acknowledged) & QUEUE_PROD_OVFLG) !== 0
    const count = this.#distance(written)
    if (count === 0 && !lost) return { records: [], lost }
    const records = Array.from({ length: count }, (_, n) => this.#read(this.#next + n))
    this.#next = written & (2 * this.#size - 1)
    this.#acknowledged = written & QUEUE_CONS_OVACKFLG
    mmio.write32(cons, (this.#acknowledged | this.#next) >>> 0)
    return { records, lost }
  }

  /** §3.5.1: indexes further apart than the queue is long make no sense, and count as a full queue. */
  #distance(written: number): number {
    const span = 2 * this.#size
    return Math.min((written - this.#next) & (span - 1), this.#size)
  }

  #read(position: number): bigint[] {
    const { memory, base, recordBytes } = this.#options
    const at = base + (position % this.#size) * recordBytes
    return Array.from({ length: recordBytes / 8 }, (_, word) => memory.read64(at + 8 * word))
  }
}
