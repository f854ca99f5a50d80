/** What one vendor's IOMMU needs to be found and driven by an unmodified kernel. */
import type {
  CachePolicy,
  DecodedRecord,
  FaultDecoder,
  IommuModel,
  Mmio,
  PhysicalMemory,
  RegisterSpecs,
} from "@iommu/core"
import type { GuestKernel } from "./guest/kernels.ts"
import type { Board } from "./machine/boards.ts"
import type { Firmware } from "./machine/firmware.ts"
import type { PciFunction } from "./pci/function.ts"
import type { FeatureLines, FeatureSwitch } from "./watch/features.ts"
import type { CommandQueueWatch } from "./watch/transcript.ts"

/** One way of booting: a set of capabilities and the kernel's options for it. */
export interface BootMode {
  readonly description: string
  /** Added to the kernel's command line. */
  readonly append: string
  createModel(memory: PhysicalMemory, caches: CachePolicy): IommuModel
}

/** Debian releases whose kernels are booted. */
export type Release = "bookworm" | "trixie"

export interface BootPlatform {
  /** The vendor's name on the command line. */
  readonly name: string
  readonly board: Board
  readonly registers: {
    readonly base: number
    /** Bytes that the register trap takes, a power of two. */
    readonly bytes: number
    readonly specs: RegisterSpecs
  }
  readonly commandQueue: CommandQueueWatch
  /** For comparing drivers by what they write. */
  readonly bringUp: {
    /** Registers that hold an address beside flags. */
    readonly addressRegisters: readonly string[]
    /** Commands with which software waits for those before. */
    readonly waits: readonly string[]
  }
  readonly kernels: Readonly<Record<Release, GuestKernel>>
  readonly firmware: Firmware
  /** A PCI function that the IOMMU has beside its registers. */
  companion?(mmio: Mmio): PciFunction
  /** Lines of the kernel's log that belong to this vendor's driver. */
  readonly driverLines: RegExp
  /** Knows the records that the model writes, and what the driver prints of them. */
  readonly decoder: FaultDecoder<DecodedRecord>
  /** Driver and name of the IOMMU in the kernel's log; null: VT-d's has none there. */
  readonly iommuName: string | null
  /** Feature registers in lines of the driver. */
  readonly linuxFeatures?: FeatureLines
  readonly switches?: readonly FeatureSwitch[]
  /** By name; the first is the default. */
  readonly modes: Readonly<Record<string, BootMode>>
}
