/** A PCI function on bus 0 with one BAR: what devices that do DMA have in common. */
import { hex } from "../process/qtest.ts"
import type { MachineLayout } from "./layout.ts"

const BAR_BYTES = 0x10_0000
const CONFIG_ADDRESS = 0xcf8
const CONFIG_DATA = 0xcfc
const CONFIG_ENABLE = 0x8000_0000
const COMMAND_MEMORY_AND_MASTER = 6

/** Lines of qtest that set one function up. */
export class PciFunction {
  /** Device number on bus 0. */
  readonly slot: number
  /** Requester id: bus 0, device, function 0. */
  readonly id: number
  protected readonly bar: number
  readonly #configuration: (register: number, value: number) => string[]

  /** @param index of the device, from 0: where its BAR goes */
  constructor(slot: number, index: number, layout: MachineLayout) {
    this.slot = slot
    this.id = slot << 3
    this.bar = layout.bars + index * BAR_BYTES
    const { ecam } = layout
    this.#configuration =
      ecam === null
        ? (register, value) => [
            `outl ${hex(CONFIG_ADDRESS)} ${hex((CONFIG_ENABLE | (this.id << 8) | register) >>> 0)}`,
            `outl ${hex(CONFIG_DATA)} ${hex(value)}`,
          ]
        : (register, value) => [`writel ${hex(ecam + this.id * 4096 + register)} ${hex(value)}`]
  }

  /** Gives it its BAR and lets it master the bus. */
  enable(): string[] {
    return [...this.#configuration(0x10, this.bar), ...this.#configuration(0x04, COMMAND_MEMORY_AND_MASTER)]
  }
}
