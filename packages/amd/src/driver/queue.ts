/**
 * The command buffer as software writes it, and the logs as software reads them. AMD 48882 rev 3.10, §2.4 (commands),
 * §2.5.1, §2.6 (logs), §3.4 (registers).
 */
import { hex64, IommuError, type IommuPlatform, PAGE_SIZE } from "@iommu/core"
import { COMMAND_BYTES, COMMAND_BYTES_LG2, COMPLETION_WAIT, OPCODE } from "../spec/commands.ts"
import { EVENT_BYTES } from "../spec/events.ts"
import * as reg from "../spec/registers.ts"

/** One page: the 256 entries that are the least the book allows (Len 8), and no page boundary inside. */
const BUFFER_BYTES = PAGE_SIZE
const BUFFER_LEN = BigInt(Math.log2(BUFFER_BYTES) - COMMAND_BYTES_LG2)

const CMDBUF_BASE = reg.REGISTERS.CMDBUF_BASE[0]
const CONTROL = reg.REGISTERS.CONTROL[0]
const CMD_HEAD = reg.REGISTERS.CMD_HEAD[0]
const CMD_TAIL = reg.REGISTERS.CMD_TAIL[0]
const STATUS = reg.REGISTERS.STATUS[0]

export class CommandQueue {
  readonly #platform: IommuPlatform
  readonly #buffer: number
  /** Where COMPLETION_WAIT stores its sequence number. */
  readonly #semaphore: number
  readonly #pollLimit: number
  #head = 0
  #tail = 0
  #sequence = 0n

  /**
   * @param buffer, semaphore addresses of a zeroed page each
   * @param pollLimit how often a condition is read before a call gives up with ETIMEDOUT
   */
  constructor(platform: IommuPlatform, buffer: number, semaphore: number, pollLimit: number) {
    this.#platform = platform
    this.#buffer = buffer
    this.#semaphore = semaphore
    this.#pollLimit = pollLimit
  }

  /** Tells the hardware where the buffer is; CONTROL.CmdBufEn must be 0. */
  program(): void {
    const { mmio } = this.#platform
    mmio.write64(CMDBUF_BASE, BigInt(this.#buffer) | (BUFFER_LEN << 56n))
    mmio.write64(CMD_HEAD, 0n)
    mmio.write64(CMD_TAIL, 0n)
    this.#head = 0
    this.#tail = 0
  }

  /**
   * Puts one command into the buffer. The hardware sees it with the next {@link sync}, or when the buffer is full.
   * @throws ETIMEDOUT, EIO as {@link sync}
   */
  push(command: readonly bigint[]): void {
    this.#makeRoom()
    this.#put(command)
  }

  /**
   * Waits until everything pushed so far has been carried out.
   * @throws EIO when the hardware halted on a command (the buffer is then empty and runs again), ETIMEDOUT
   */
  sync(): void {
    this.#makeRoom()
    // The number is taken when its slot is: numbers that enter the buffer out of order make a waiter see a later
    // store as its own missing (CVE-2026-43220).
    this.#sequence += 1n
    const sequence = this.#sequence
    this.#put(
      COMPLETION_WAIT.encode({
        S: 1n,
        StoreAddress: BigInt(this.#semaphore) >> 3n,
        Opcode: BigInt(OPCODE.COMPLETION_WAIT),
        StoreData: sequence,
      }),
    )
    this.#ring()
    const { memory } = this.#platform
    this.#poll("COMPLETION_WAIT", () => memory.read64(this.#semaphore) >= sequence)
  }

  #put(command: readonly bigint[]): void {
    const { memory } = this.#platform
    memory.write64(this.#buffer + this.#tail, command[0])
    memory.write64(this.#buffer + this.#tail + 8, command[1])
    this.#tail = (this.#tail + COMMAND_BYTES) % BUFFER_BYTES
  }

  #ring(): void {
    this.#platform.mmio.write64(CMD_TAIL, BigInt(this.#tail))
  }

  /** Head equal to tail means empty, so one entry stays unused. */
  #makeRoom(): void {
    const next = (this.#tail + COMMAND_BYTES) % BUFFER_BYTES
    if (next !== this.#head) return
    this.#ring()
    this.#poll("a free command buffer entry", () => {
      this.#head = this.#platform.mmio.read32(CMD_HEAD) & reg.POINTER_MASK
      return next !== this.#head
    })
  }

  #poll(what: string, done: () => boolean): void {
    for (let reads = 0; reads < this.#pollLimit; reads++) {
      if (done()) return
      if ((this.#platform.mmio.read32(STATUS) & reg.STATUS_CmdBufRun) === 0) throw this.#restart()
    }
    throw new IommuError("ETIMEDOUT", `the hardware did not finish ${what} in ${this.#pollLimit} reads`)
  }

  /** §2.4: a bad command clears CmdBufRun, and only CmdBufEn from 0 to 1 sets it again. */
  #restart(): IommuError {
    const { mmio, memory } = this.#platform
    const head = mmio.read32(CMD_HEAD) & reg.POINTER_MASK
    const command = memory.read64(this.#buffer + (head % BUFFER_BYTES))
    const control = mmio.read64(CONTROL)
    mmio.write64(CONTROL, control & ~BigInt(reg.CONTROL_CmdBufEn))
    this.program()
    mmio.write64(CONTROL, control | BigInt(reg.CONTROL_CmdBufEn))
    return new IommuError("EIO", `the hardware halted at the command ${hex64(command)} at offset ${head}`)
  }
}

/** The event log or the PPR log, both of 16-byte entries, which the hardware fills. */
export class LogReader {
  readonly #platform: IommuPlatform
  readonly #base: number
  readonly #bytes: number
  readonly #head: number
  readonly #tail: number

  /**
   * @param base, bytes where the log lies; a power of two of bytes
   * @param head, tail offsets of the pointer registers
   */
  constructor(platform: IommuPlatform, base: number, bytes: number, head: number, tail: number) {
    this.#platform = platform
    this.#base = base
    this.#bytes = bytes
    this.#head = head
    this.#tail = tail
  }

  /**
   * Empties the log: copies what is there now, and gives the room back before anybody looks at the copies. So a call
   * ends, however fast entries come in.
   * @returns the 64-bit words of each entry, oldest first
   */
  take(): readonly (readonly bigint[])[] {
    const { mmio, memory } = this.#platform
    const pointer = (register: number): number => (mmio.read32(register) & reg.POINTER_MASK) % this.#bytes
    const head = pointer(this.#head)
    const count = ((pointer(this.#tail) - head + this.#bytes) % this.#bytes) / EVENT_BYTES
    const records = Array.from({ length: count }, (_, n) => {
      const at = this.#base + ((head + n * EVENT_BYTES) % this.#bytes)
      return [memory.read64(at), memory.read64(at + 8)]
    })
    if (count > 0) mmio.write64(this.#head, BigInt((head + count * EVENT_BYTES) % this.#bytes))
    return records
  }
}
