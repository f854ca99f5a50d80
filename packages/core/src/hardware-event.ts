/** A record of the hardware that neither a virtual IOMMU nor a page fault handler took: the host's to look at. */
export interface HardwareEvent {
  /** The book's name: `F_TRANSLATION`, `IO_PAGE_FAULT`, for VT-d the fault reason (`SFS.2`). */
  readonly name: string
  /** Source id, StreamID or DeviceID; null when the record names none. */
  readonly device: number | null
  /** The record's 64-bit words as the hardware wrote them. */
  readonly words: readonly bigint[]
}

/** What every driver takes beside what its hardware needs. */
export interface DriverEventOptions {
  /** Sees records that nobody else takes, while interrupts are handled. Default: they are dropped. */
  readonly onEvent?: (event: HardwareEvent) => void
}
