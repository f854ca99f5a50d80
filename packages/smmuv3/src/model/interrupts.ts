/**
 * Interrupt messages, and events that wake processors. Arm IHI 0070 G.b §3.18, §4.1.2, §4.7.3. Wired interrupts are
 * not modelled.
 */
import { fromHalves, hi32, lo32, type PhysicalMemory } from "@iommu/core"
import {
  SIG_IRQ,
  SIG_SEV,
  SYNC_CS,
  SYNC_CS_SHIFT,
  SYNC_MSIADDRESS_HI,
  SYNC_MSIADDRESS_LO,
} from "../spec/commands.ts"
import { IRQ_CTRL_EVENTQ_IRQEN, IRQ_CTRL_GERROR_IRQEN, IRQ_CTRL_PRIQ_IRQEN } from "../spec/registers.ts"
import type { Registers } from "./registers.ts"

export class Interrupts {
  onInterrupt: ((address: bigint, data: number) => void) | null = null
  onEvent: (() => void) | null = null
  readonly #memory: PhysicalMemory
  readonly #registers: Registers

  constructor(memory: PhysicalMemory, registers: Registers) {
    this.#memory = memory
    this.#registers = registers
  }

  /** The Event queue went from empty to non-empty. */
  eventQueue(): void {
    const r = this.#registers
    if ((r.get("IRQ_CTRLACK") & IRQ_CTRL_EVENTQ_IRQEN) === 0) return
    this.message(r.get64("EVENTQ_IRQ_CFG0"), r.get("EVENTQ_IRQ_CFG1"))
  }

  /** The PRI queue has something to read, as PRIQ_IRQ_CFG2.LO says. */
  pageRequests(): void {
    const r = this.#registers
    if ((r.get("IRQ_CTRLACK") & IRQ_CTRL_PRIQ_IRQEN) === 0) return
    this.message(r.get64("PRIQ_IRQ_CFG0"), r.get("PRIQ_IRQ_CFG1"))
  }

  /**
   * Activates a global error and signals it. §7.5.
   * @param error a GERROR_* bit that is not active: nothing that can raise it goes on while it is
   */
  globalError(error: number): void {
    const r = this.#registers
    r.set("GERROR", r.get("GERROR") ^ error)
    if ((r.get("IRQ_CTRLACK") & IRQ_CTRL_GERROR_IRQEN) === 0) return
    this.message(r.get64("GERROR_IRQ_CFG0"), r.get("GERROR_IRQ_CFG1"))
  }

  /** The completion signal of a CMD_SYNC, whose four words these are. §4.7.3. */
  completion(entry: Uint32Array): void {
    const signal = (entry[0] & SYNC_CS) >>> SYNC_CS_SHIFT
    if (signal === SIG_SEV) this.event()
    else if (signal === SIG_IRQ) {
      this.message(fromHalves(entry[3] & SYNC_MSIADDRESS_HI, entry[2] & SYNC_MSIADDRESS_LO), entry[1])
    }
  }

  /** As SEV does, where IDR0.SEV has it. */
  event(): void {
    if (this.#registers.features.sev && this.onEvent !== null) this.onEvent()
  }

  /**
   * A 32-bit write to an address that is a doorbell or ordinary memory; none when the address is zero or the
   * implementation has no messages. Doorbells lie outside the memory, so an address without memory is no abort.
   */
  message(address: bigint, data: number): void {
    if (!this.#registers.features.msi || address === 0n) return
    const oas = BigInt(this.#registers.features.oasBits)
    const target = address & ((1n << oas) - 4n)
    const at = this.#memory.find(hi32(target), lo32(target))
    if (at >= 0) this.#memory.words[at] = data
    if (this.onInterrupt !== null) this.onInterrupt(fromHalves(hi32(target), lo32(target)), data >>> 0)
  }
}
