/** The I/O Virtualization Reporting Structure. AMD 48882 rev 3.10, §5.2 (header, IVHD), §5.2.2 (device entries). */
import { acpiTable, Fields } from "./acpi.ts"

const IVHD_WITH_FEATURES = 0x11
const IVHD_HEADER_BYTES = 40
const RANGE_START = 3
const RANGE_END = 4
/** IVinfo: EFRSup in bit 0, physical and virtual address bits in 14:8 and 21:15. */
const IVINFO = 1 | (52 << 8) | (64 << 15)

export interface IvrsOptions {
  /** DeviceID of the IOMMU's own PCI function, and where its capability is. */
  readonly device: number
  readonly capability: number
  readonly registerBase: bigint
  readonly extFeatures: bigint
  readonly extFeatures2: bigint
  /** The last DeviceID that comes through this IOMMU. */
  readonly lastDevice: number
}

/** One IOMMU for a range of devices from 0 on; no special devices, so no interrupt remapping. */
export function ivrsTable(options: IvrsOptions): Uint8Array {
  const entries = new Fields().u8(RANGE_START).u16(1).u8(0).u8(RANGE_END).u16(options.lastDevice).u8(0)
  const block = new Fields()
    .u8(IVHD_WITH_FEATURES, 0)
    .u16(IVHD_HEADER_BYTES + entries.bytes.length)
    .u16(options.device)
    .u16(options.capability)
    .u64(options.registerBase)
    .u16(0)
    .u16(0)
    .u32(0)
    .u64(options.extFeatures)
    .u64(options.extFeatures2)
  const body = new Fields().u32(IVINFO).u64(0n)
  return acpiTable("IVRS", 2, [...body.bytes, ...block.bytes, ...entries.bytes])
}
