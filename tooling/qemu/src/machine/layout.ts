/** Where things are in a target's machine: RAM, the IOMMU's registers, PCI configuration space and BARs. */
import type { QemuTarget } from "../binary/qemu-binary.ts"
import type { Vendor } from "./recipe.ts"

/** A piece of RAM and where it lies in the RAM file. */
export interface RamPiece {
  readonly base: number
  readonly bytes: number
  readonly fileOffset: number
}

export interface MachineLayout {
  readonly ram: readonly RamPiece[]
  readonly ramBytes: number
  /** Memory that is no RAM and reads as zeros. */
  readonly zeros: readonly { readonly base: number; readonly bytes: number }[]
  /** RAM in which the machine leaves something for a guest at its start. */
  readonly leftovers: readonly { readonly base: number; readonly bytes: number }[]
  /** Configuration space as memory; null where it is reached through ports 0xcf8 and 0xcfc. */
  readonly ecam: number | null
  /** Where BARs may be put. */
  readonly bars: number
}

const MIB = 1024 ** 2
const GIB = 1024 ** 3

/** As {@link Recipe.args} make it: q35 with 32 MiB below 4 GiB, virt with RAM from 1 GiB to beyond 4 GiB. */
export const LAYOUTS: Readonly<Record<QemuTarget, MachineLayout>> = {
  x86_64: {
    ram: [
      { base: 0, bytes: 32 * MIB, fileOffset: 0 },
      { base: 4 * GIB, bytes: 32 * MIB, fileOffset: 32 * MIB },
    ],
    ramBytes: 64 * MIB,
    zeros: [],
    leftovers: [],
    ecam: null,
    bars: 0xe000_0000,
  },
  aarch64: {
    ram: [{ base: GIB, bytes: 3 * GIB + 256 * MIB, fileOffset: 0 }],
    ramBytes: 3 * GIB + 256 * MIB,
    // Flash, behind the firmware.
    zeros: [{ base: MIB, bytes: 127 * MIB }],
    // The device tree.
    leftovers: [{ base: GIB, bytes: 2 * MIB }],
    ecam: 0x40_1000_0000,
    bars: 0x1000_0000,
  },
}

/** Physical address of the IOMMU's registers. */
export const IOMMU_BASE: Readonly<Record<Vendor, number>> = {
  vtd: 0xfed9_0000,
  smmuv3: 0x0905_0000,
  amd: 0xfed8_0000,
}
