/**
 * QEMU's teaching device `edu`, a PCI function that copies between memory and a buffer of its own: the device that
 * does DMA behind the IOMMU. docs/specs/edu of QEMU.
 *
 * An access to be translated is of four bytes, aligned: a wider one that the IOMMU refuses reaches it in two pieces
 * and leaves two records.
 */
import { hex } from "../process/qtest.ts"
import { PciFunction } from "./pci-function.ts"

const REG_SOURCE = 0x80
const REG_DESTINATION = 0x88
const REG_COUNT = 0x90
const REG_COMMAND = 0x98
const COMMAND_TO_DEVICE = 1
const COMMAND_FROM_DEVICE = 3
/** Bit of the command register while a transfer runs. */
export const RUNNING = 1n
const BUFFER = 0x4_0000

/** Bytes of the device's buffer. */
export const EDU_BUFFER_BYTES = 4096

/** Lines of qtest that drive one device. */
export class Edu extends PciFunction {
  /** QEMU's argument for a device at this slot. */
  static argument(slot: number): string {
    return `edu,addr=${slot.toString(16)}.0,dma_mask=0xffffffffffffffff`
  }

  /** Starts copying memory into the buffer. */
  load(iova: bigint, offset: number, bytes: number): string[] {
    return this.#start(iova, BigInt(BUFFER + offset), bytes, COMMAND_TO_DEVICE)
  }

  /** Starts copying the buffer into memory. */
  store(iova: bigint, offset: number, bytes: number): string[] {
    return this.#start(BigInt(BUFFER + offset), iova, bytes, COMMAND_FROM_DEVICE)
  }

  /** Reads the command register: {@link RUNNING} is set until the transfer is done. */
  poll(): string {
    return `readq ${hex(this.bar + REG_COMMAND)}`
  }

  #start(source: bigint, destination: bigint, bytes: number, command: number): string[] {
    return [
      `writeq ${hex(this.bar + REG_SOURCE)} ${hex(source)}`,
      `writeq ${hex(this.bar + REG_DESTINATION)} ${hex(destination)}`,
      `writeq ${hex(this.bar + REG_COUNT)} ${hex(bytes)}`,
      `writeq ${hex(this.bar + REG_COMMAND)} ${hex(command)}`,
    ]
  }
}
