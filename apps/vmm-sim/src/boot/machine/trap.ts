/**
 * A PCI function whose only purpose is to stand where the machine has no IOMMU: its BAR 0 is the register page. Once
 * the BAR is placed the function hides: it answers configuration reads with ones, as an empty slot does, so neither
 * firmware nor kernel finds or moves it, while the machine goes on decoding its BAR.
 */
import type { Mmio } from "@iommu/core"
import { ConfigSpace } from "../pci/config-space.ts"
import type { PciFunction } from "../pci/function.ts"

const VENDOR = 0x1b36
const DEVICE = 0x00fe
/** Base system peripheral, other. */
const CLASS = 0x088000

export class RegisterTrap implements PciFunction {
  readonly name = "registers"
  readonly barBytes: number
  readonly #mmio: Mmio
  readonly #config: ConfigSpace
  #isHidden = false
  /** Accesses of a width that the registers do not take; they read as zero, and writes are dropped. */
  oddAccesses = 0

  /** @param bytes of the register page, a power of two */
  constructor(mmio: Mmio, bytes: number) {
    this.#mmio = mmio
    this.barBytes = bytes
    this.#config = new ConfigSpace({ vendor: VENDOR, device: DEVICE, classCode: CLASS, barBytes: bytes })
  }

  /** From now on the slot looks empty. */
  hide(): void {
    this.#isHidden = true
  }

  readConfig(offset: number, bytes: number): number {
    return this.#isHidden ? 2 ** (8 * bytes) - 1 : this.#config.read(offset, bytes)
  }

  writeConfig(offset: number, bytes: number, value: number): void {
    if (!this.#isHidden) this.#config.write(offset, bytes, value)
  }

  readBar(offset: number, bytes: number): bigint {
    if (bytes === 4) return BigInt(this.#mmio.read32(offset))
    if (bytes === 8) return this.#mmio.read64(offset)
    this.oddAccesses++
    return 0n
  }

  writeBar(offset: number, bytes: number, value: bigint): void {
    if (bytes === 4) this.#mmio.write32(offset, Number(BigInt.asUintN(32, value)))
    else if (bytes === 8) this.#mmio.write64(offset, value)
    else this.oddAccesses++
  }

  /** The bus is reset when the machine starts; an IOMMU's registers belong to the platform. */
  reset(): void {}
}
