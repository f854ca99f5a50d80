/** IOVAs of a device that no mapping may use: Linux's `struct iommu_resv_region`. */
import type { IommuDevice } from "./device.ts"
import { IommuError } from "./errno.ts"
import { U64_MAX } from "./u64.ts"

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

/** A region that firmware tables name: RMRR of the DMAR table, IVMD of the IVRS, RMR of the IORT. */
export interface FirmwareRegion extends ReservedRegion {
  /** Whom it concerns, by {@link IommuDevice.id}. Absent: every device. */
  readonly devices?: readonly number[]
}

/**
 * Firmware's regions as a driver keeps them.
 * @throws EINVAL for a region that ends before it starts or lies beyond 64 bits
 */
export function firmwareRegions(regions: readonly FirmwareRegion[]): readonly FirmwareRegion[] {
  for (const { start, last } of regions) {
    if (start < 0n || start > last || last > U64_MAX) {
      throw new IommuError("EINVAL", "a region of the firmware starts before it ends, within 64 bits")
    }
  }
  return [...regions]
}

/** Those of firmware's regions that concern a device. */
export function firmwareRegionsOf(device: IommuDevice, regions: readonly FirmwareRegion[]): ReservedRegion[] {
  return regions
    .filter(({ devices }) => devices === undefined || devices.includes(device.id))
    .map(({ type, start, last }) => ({ type, start, last }))
}
