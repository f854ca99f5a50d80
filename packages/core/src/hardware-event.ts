import type { IommuOps } from "./ops.ts"

/** A record of the hardware that neither a virtual IOMMU nor a page fault handler took: the host's to look at. */
export interface HardwareEvent {
  /** The book's name: `F_TRANSLATION`, `IO_PAGE_FAULT`, for VT-d the fault reason (`SFS.2`). */
  readonly name: string
  /** Source id, StreamID or DeviceID; null when the record names none. */
  readonly device: number | null
  /** The record's 64-bit words as the hardware wrote them. */
  readonly words: readonly bigint[]
}

/** An interrupt message: a write of `data` to `address`. */
export interface InterruptMessage {
  readonly address: bigint
  readonly data: number
}

/** What every driver takes beside what its hardware needs. */
export interface DriverEventOptions {
  /**
   * What the hardware is to send when {@link IommuOps.handleInterrupts} has something to do. Default: it sends nothing,
   * and somebody has to look.
   */
  readonly interrupt?: InterruptMessage
  /** Sees records that nobody else takes, while interrupts are handled. Default: they are dropped. */
  readonly onEvent?: (event: HardwareEvent) => void
}
