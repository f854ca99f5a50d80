/** What a device model needs of the machine: memory through the IOMMU, and messages. */
export interface Dma {
  /** Fills `into`. @returns false when the IOMMU refused, or nothing answered */
  read(iova: bigint, into: Uint8Array): boolean
  /** @returns false when the IOMMU refused, or nothing answered; pieces before the one that failed are written */
  write(iova: bigint, bytes: Uint8Array): boolean
  /** A memory write of 32 bits that asks for an interrupt. @returns as {@link write} */
  message(address: bigint, data: number): boolean
}
