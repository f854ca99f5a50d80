/**
 * Configuration space of a conventional PCI function: 256 bytes, of which software may change some.
 * PCI Local Bus 3.0 §6.1 (header), §6.2.5.1 (base addresses), §6.8.1 (MSI).
 */

const CONFIG_BYTES = 256

export interface ConfigIdentity {
  readonly vendor: number
  readonly device: number
  /** Base class, sub-class and interface: 0x010802 is an NVM Express controller. */
  readonly classCode: number
  /** Bytes of BAR 0, a power of two of at least 16; 32-bit, memory. */
  readonly barBytes?: number
}

const COMMAND = 0x04
const STATUS = 0x06
const CLASS_REVISION = 0x08
const BAR0 = 0x10
const SUBSYSTEM_VENDOR = 0x2c
const SUBSYSTEM = 0x2e
const CAPABILITIES = 0x34
/** Offset of the first capability that is added. */
export const FIRST_CAPABILITY = 0x40
/** I/O space, memory space, bus master, parity, SERR#, INTx disable. */
const COMMAND_WRITABLE = 0x0547
const STATUS_CAPABILITIES_LIST = 0x10

export class ConfigSpace {
  readonly #bytes = new Uint8Array(CONFIG_BYTES)
  readonly #view = new DataView(this.#bytes.buffer)
  readonly #writable = new Uint8Array(CONFIG_BYTES)
  readonly #barBytes: number
  #lastPointer = CAPABILITIES
  #end = FIRST_CAPABILITY
  /** Called after a write, with the first byte that it may have changed. */
  onWrite: ((offset: number, bytes: number) => void) | null = null

  constructor({ vendor, device, classCode, barBytes = 0 }: ConfigIdentity) {
    this.#barBytes = barBytes
    this.#view.setUint16(0, vendor, true)
    this.#view.setUint16(2, device, true)
    this.#view.setUint32(CLASS_REVISION, classCode * 256, true)
    this.#view.setUint16(SUBSYSTEM_VENDOR, vendor, true)
    this.#view.setUint16(SUBSYSTEM, device, true)
    this.#allow(COMMAND, 2, COMMAND_WRITABLE)
    if (barBytes !== 0) this.#allow(BAR0, 4, -barBytes)
  }

  get barBytes(): number {
    return this.#barBytes
  }

  /**
   * Appends a capability to the list.
   * @param body what follows its number and the pointer to the next one
   * @param writable which bits of the body software may change
   * @returns its offset
   */
  addCapability(id: number, body: Uint8Array, writable: Uint8Array): number {
    const at = this.#end
    if (at + 2 + body.length > CONFIG_BYTES) throw new Error("bug: the configuration space is full")
    this.#bytes[this.#lastPointer] = at
    this.#bytes[at] = id
    this.#bytes.set(body, at + 2)
    this.#writable.set(writable, at + 2)
    this.#view.setUint16(STATUS, STATUS_CAPABILITIES_LIST, true)
    this.#lastPointer = at + 1
    this.#end = (at + 2 + body.length + 3) & ~3
    return at
  }

  /** @param bytes 1, 2 or 4; what lies beyond the space reads as ones */
  read(offset: number, bytes: number): number {
    let value = 0
    for (let n = bytes - 1; n >= 0; n--) value = value * 256 + (this.#bytes[offset + n] ?? 0xff)
    return value
  }

  write(offset: number, bytes: number, value: number): void {
    for (let n = 0; n < bytes && offset + n < CONFIG_BYTES; n++) {
      const writable = this.#writable[offset + n] as number
      const byte = Math.floor(value / 256 ** n) & 0xff
      this.#bytes[offset + n] = ((this.#bytes[offset + n] as number) & ~writable) | (byte & writable)
    }
    this.onWrite?.(offset, bytes)
  }

  /** Puts a value in that software cannot write. */
  put32(offset: number, value: number): void {
    this.#view.setUint32(offset, value, true)
  }

  #allow(offset: number, bytes: number, mask: number): void {
    for (let n = 0; n < bytes; n++) this.#writable[offset + n] = (mask >> (8 * n)) & 0xff
  }
}
