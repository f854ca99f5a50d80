/** The MSI capability: one message, 64-bit address, no masks. PCI Local Bus 3.0 §6.8.1. */
import { fromHalves } from "@iommu/core"
import type { ConfigSpace } from "./config-space.ts"

const ID = 0x05
const CONTROL_64BIT = 0x80
const CONTROL_ENABLE = 0x01
/** From the start of the capability. */
const CONTROL = 2
const ADDRESS_LO = 4
const ADDRESS_HI = 8
const DATA = 12

export interface Message {
  readonly address: bigint
  readonly data: number
}

export class MsiCapability {
  readonly #config: ConfigSpace
  readonly #at: number

  constructor(config: ConfigSpace) {
    this.#config = config
    const body = Uint8Array.of(CONTROL_64BIT, 0, ...new Array(10).fill(0))
    const writable = Uint8Array.of(CONTROL_ENABLE | 0x70, 0, 0xfc, ...new Array(7).fill(0xff), 0xff, 0xff)
    this.#at = config.addCapability(ID, body, writable)
  }

  /** Where software finds the capability. */
  get offset(): number {
    return this.#at
  }

  /** The message as software set it up, or null while MSI is off. */
  get message(): Message | null {
    const config = this.#config
    if ((config.read(this.#at + CONTROL, 1) & CONTROL_ENABLE) === 0) return null
    const address = fromHalves(config.read(this.#at + ADDRESS_HI, 4), config.read(this.#at + ADDRESS_LO, 4))
    return { address, data: config.read(this.#at + DATA, 2) }
  }
}
