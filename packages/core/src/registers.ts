/** Register maps as data, for models, decoders and generated documents. */

/**
 * How software may touch a register.
 * - `RO` writes are ignored; `RW` plain; `WO` reads as zero
 * - `RW1C` a one clears the bit
 */
export type RegisterAccess = "RO" | "RW" | "WO" | "RW1C"

/** `[byte offset, bytes, access, meaning]` */
export type RegisterSpec = readonly [offset: number, bytes: 4 | 8, access: RegisterAccess, meaning: string]
export type RegisterSpecs = Readonly<Record<string, RegisterSpec>>

/**
 * The register page of an IOMMU as a driver reaches it. Offsets in bytes from the page's start, naturally
 * aligned. What a real bus does for an offset that nothing answers, an implementation does: reads give zero (or
 * what the book says), writes are dropped.
 */
export interface Mmio {
  /** @returns an unsigned 32-bit value */
  read32(offset: number): number
  write32(offset: number, value: number): void
  read64(offset: number): bigint
  write64(offset: number, value: bigint): void
}
