/**
 * The message of an event: fault, invalidation completion, page request. Three sets of registers of one form, with one
 * rule for masking. Intel VT-d 5.10 (D51397-018) §6.5.2.10, §7.3, §11.4.7.2 to §11.4.7.5.
 */
import { fromHalves } from "@iommu/core"
import { IM, IP } from "../spec/registers.ts"
import type { Registers } from "./registers.ts"

export class EventInterrupt {
  readonly #registers: Registers
  readonly #event: "FE" | "IE" | "PE"
  send: ((address: bigint, data: number) => void) | null = null

  constructor(registers: Registers, event: "FE" | "IE" | "PE") {
    this.#registers = registers
    this.#event = event
  }

  /** A new interrupt condition: the message is pending until it can be sent. */
  raise(): void {
    const r = this.#registers
    r.set(`${this.#event}CTL`, (r.get(`${this.#event}CTL`) | IP) >>> 0)
    this.deliver()
  }

  /** Sends the message that is pending and not masked; also when software clears IM. */
  deliver(): void {
    const r = this.#registers
    const control = r.get(`${this.#event}CTL`)
    if ((control & IP) === 0 || (control & IM) !== 0) return
    r.set(`${this.#event}CTL`, control & ~IP)
    const address = fromHalves(r.get(`${this.#event}UADDR`), r.get(`${this.#event}ADDR`))
    this.send?.(address, r.get(`${this.#event}DATA`))
  }

  /** Software served every condition before the message could be sent. */
  served(): void {
    const r = this.#registers
    r.set(`${this.#event}CTL`, r.get(`${this.#event}CTL`) & ~IP)
  }
}
