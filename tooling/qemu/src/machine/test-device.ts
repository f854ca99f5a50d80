/**
 * QEMU's `iommu-testdev`, which writes a word and says what came of it, where `edu` leaves it to the test to find out:
 * a refused write is told from one that went astray. QEMU's docs/specs/iommu-testdev; QEMU 10 and earlier have none.
 *
 * It does not read: what it says of the memory behind a write it has read there without the IOMMU.
 */
import type { QemuBinary } from "../binary/qemu-binary.ts"
import { hex } from "../process/qtest.ts"
import { PciFunction } from "./pci-function.ts"

const DEVICE = "iommu-testdev"
const REG_TRIGGER = 0x00
const REG_IOVA_LO = 0x04
const REG_IOVA_HI = 0x08
const REG_BYTES = 0x0c
const REG_RESULT = 0x10
const REG_DOORBELL = 0x14
const REG_ATTRIBUTES = 0x18
const REG_PHYSICAL_LO = 0x1c
const REG_PHYSICAL_HI = 0x20
const ARM = 1

/** The word that it writes. */
export const TEST_WORD = 0x1234_5678

/** What it says of a write. */
const ARRIVED = 0
const TRANSACTION_FAILED = 0xdead_0002
const READ_BACK_FAILED = 0xdead_0003
const OTHER_DATA = 0xdead_0004

/** `astray`: let through, and not to the address where it was looked for. */
export type TestWrite = "arrived" | "refused" | "astray"

/** What else a transaction says of itself. Bits: secure, Arm's security space, whether that counts. */
const TEST_ATTRIBUTES = {
  plain: 0,
  nonSecure: 0b1010,
  secure: 0b1001,
} as const
export type TestAttributes = keyof typeof TEST_ATTRIBUTES

/** Lines of qtest that drive one device. */
export class TestDevice extends PciFunction {
  /** @returns whether a QEMU has the device */
  static isIn({ devices }: QemuBinary): boolean {
    return devices.has(DEVICE)
  }

  /** QEMU's argument for a device at this slot. */
  static argument(slot: number): string {
    return `${DEVICE},addr=${slot.toString(16)}.0`
  }

  /**
   * Writes one word.
   * @param physical where the device looks for the word afterwards
   * @returns lines of which the last one's answer is for {@link testWriteOf}
   */
  write(iova: bigint, physical: bigint, attributes: TestAttributes = "plain"): string[] {
    return [
      this.#set(REG_IOVA_LO, low(iova)),
      this.#set(REG_IOVA_HI, low(iova >> 32n)),
      this.#set(REG_PHYSICAL_LO, low(physical)),
      this.#set(REG_PHYSICAL_HI, low(physical >> 32n)),
      this.#set(REG_BYTES, 4),
      this.#set(REG_ATTRIBUTES, TEST_ATTRIBUTES[attributes]),
      this.#set(REG_DOORBELL, ARM),
      // The write is done when the read of the trigger is answered.
      this.#get(REG_TRIGGER),
      this.#get(REG_RESULT),
    ]
  }

  #set(register: number, value: number): string {
    return `writel ${hex(this.bar + register)} ${hex(value)}`
  }

  #get(register: number): string {
    return `readl ${hex(this.bar + register)}`
  }
}

/** @throws Error when the device did not understand what it was asked for */
export function testWriteOf(answer: string): TestWrite {
  switch (Number(answer)) {
    case ARRIVED:
      return "arrived"
    case TRANSACTION_FAILED:
      return "refused"
    case READ_BACK_FAILED:
    case OTHER_DATA:
      return "astray"
    default:
      throw new Error(`${DEVICE} says ${answer}`)
  }
}

function low(value: bigint): number {
  return Number(BigInt.asUintN(32, value))
}
