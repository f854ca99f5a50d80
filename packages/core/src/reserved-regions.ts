/** IOVAs of a device that no mapping may use: Linux's `struct iommu_resv_region`. */

/**
 * - `direct`: firmware wants it mapped one to one (RMRR, IVMD, RMR)
 * - `reserved`: never translated, or no memory there
 * - `msi`: the doorbells of a hardware MSI controller
 * - `sw-msi`: the window into which software maps doorbells
 */
export type ReservedRegionType = "direct" | "reserved" | "msi" | "sw-msi"

export interface ReservedRegion {
  readonly type: ReservedRegionType
  /** First address. */
  readonly start: bigint
  /** Last address, inclusive. */
  readonly last: bigint
}
