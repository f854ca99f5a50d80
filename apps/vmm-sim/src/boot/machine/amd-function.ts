/**
 * The PCI function as which an AMD IOMMU stands on its bus: the capability block through which software knows it, and
 * the MSI capability, whose registers the model has at MMIO Offset 0158h. AMD 48882 rev 3.10, §3.2, §3.4.
 */

import { registers } from "@iommu/amd"
import type { Mmio } from "@iommu/core"
import { ConfigSpace, FIRST_CAPABILITY } from "../pci/config-space.ts"
import type { PciFunction } from "../pci/function.ts"
import { MsiCapability } from "../pci/msi.ts"

const VENDOR = 0x1022
const DEVICE = 0x1451
/** Base system peripheral, IOMMU. */
const CLASS = 0x080600
const SECURE_DEVICE = 0x0f
/** Bits 31:16 of the capability header: CapType 3, CapRev 1, EFRSup. */
const CAPABILITY_HEADER = 3 | (1 << 3) | (1 << 11)
const CAPABILITY_BYTES = 0x18
const ENABLED = 1

export class AmdFunction implements PciFunction {
  readonly name = "amd-iommu"
  readonly barBytes = 0
  /** Where software finds the capability block: it is the first one. */
  static readonly CAPABILITY: number = FIRST_CAPABILITY
  readonly #config = new ConfigSpace({ vendor: VENDOR, device: DEVICE, classCode: CLASS })
  readonly #msi: MsiCapability
  readonly #mmio: Mmio

  constructor(mmio: Mmio, registerBase: number) {
    this.#mmio = mmio
    const body = new DataView(new ArrayBuffer(CAPABILITY_BYTES - 2))
    body.setUint16(0, CAPABILITY_HEADER, true)
    body.setUint32(2, (registerBase | ENABLED) >>> 0, true)
    const bytes = new Uint8Array(body.buffer)
    this.#config.addCapability(SECURE_DEVICE, bytes, new Uint8Array(bytes.length))
    this.#msi = new MsiCapability(this.#config)
    this.#config.onWrite = () => this.#followMsi()
  }

  readConfig(offset: number, bytes: number): number {
    return this.#config.read(offset, bytes)
  }

  writeConfig(offset: number, bytes: number, value: number): void {
    this.#config.write(offset, bytes, value)
  }

  readBar(): bigint {
    return 0n
  }

  writeBar(): void {}

  reset(): void {}

  /** One set of registers, seen in two places. */
  #followMsi(): void {
    const { REGISTERS } = registers
    const { message } = this.#msi
    if (message !== null) {
      this.#mmio.write32(REGISTERS.MSI_ADDR_LO[0], Number(message.address & 0xffff_ffffn))
      this.#mmio.write32(REGISTERS.MSI_ADDR_HI[0], Number(message.address >> 32n))
      this.#mmio.write32(REGISTERS.MSI_DATA[0], message.data)
    }
    this.#mmio.write32(REGISTERS.MSI_CAP_HEADER[0], message === null ? 0 : registers.MSI_MsiEn)
  }
}
