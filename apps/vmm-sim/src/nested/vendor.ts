import type {
  CacheInvalidateData,
  CachePolicy,
  DomainUserData,
  DriverEventOptions,
  HwptPaging,
  Invalidation,
  IommuModel,
  IommuOps,
  IommuPlatform,
  Mmio,
  PhysicalMemory,
} from "@iommu/core"

/** What a guest has set up for one of its devices. */
export type GuestEntry =
  | { readonly kind: "blocked" }
  /** Stage 1 is off: guest physical addresses come out of the device. */
  | { readonly kind: "bypass" }
  | { readonly kind: "translated"; readonly data: DomainUserData }

/** What a command in the guest's queue asks of the virtual machine monitor. */
export type GuestCommand =
  /** An entry changed: of one device, by the guest's number, or of all. */
  | { readonly kind: "entry"; readonly device: number | "all" }
  | { readonly kind: "cache"; readonly data: CacheInvalidateData }
  /** Nothing that the host has to do: waits, prefetches. */
  | { readonly kind: "none" }

/** How a VMM nests where it does so on a virtual IOMMU of the host. */
interface ViommuNesting {
  /** A `ViommuType`. */
  readonly type: number
  readonly events: {
    /** A `VeventqType`. */
    readonly type: number
    /** Bytes of one. */
    readonly size: number
    /** Puts an event into the guest's own log, as its hardware would. */
    deliver(front: IommuModel, memory: PhysicalMemory, event: Uint8Array): void
  }
}

/** All that the nested machine needs to know of a vendor. */
export interface NestedVendor {
  readonly name: string
  /** IOPTE formats of stage 1 and stage 2, for people. */
  readonly formats: { readonly stage1: string; readonly stage2: string }
  hostModel(memory: PhysicalMemory, caches: CachePolicy): IommuModel
  /** The register and queue front of the IOMMU that the guest sees; it never translates. */
  guestModel(memory: PhysicalMemory): IommuModel
  hostDriver(platform: IommuPlatform, options: DriverEventOptions): IommuOps
  /** The same driver, with tables of the size that a guest with few devices needs. */
  guestDriver(platform: IommuPlatform, options: DriverEventOptions): IommuOps
  /** null: nested page tables stand on the nest parent alone, and no events come from the host. */
  readonly viommu: ViommuNesting | null
  /** What the guest's driver asks for when it makes a domain for a device. */
  readonly guestPaging: (HwptPaging & { readonly type: 0x8000_0001 }) | null
  /** Reads the guest's tables from its memory, as its virtual registers point to them. */
  guestEntry(registers: Mmio, memory: PhysicalMemory, device: number): GuestEntry
  guestCommand(command: Invalidation): GuestCommand
}
