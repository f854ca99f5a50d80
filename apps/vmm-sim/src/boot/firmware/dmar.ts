/** The DMA Remapping Reporting table. Intel VT-d 5.10 (D51397-018) §8.1 (header), §8.3 (DRHD). */
import { acpiTable, Fields } from "./acpi.ts"

const DRHD = 0
const INCLUDE_PCI_ALL = 1

export interface DmarOptions {
  readonly registerBase: bigint
  /** HAW. */
  readonly hostAddressWidth: number
}

/** One remapping unit for all PCI devices of segment 0; no interrupt remapping. */
export function dmarTable({ registerBase, hostAddressWidth }: DmarOptions): Uint8Array {
  const unit = new Fields().u16(DRHD).u16(16).u8(INCLUDE_PCI_ALL, 0).u16(0).u64(registerBase)
  const body = new Fields().u8(hostAddressWidth - 1, 0, ...new Array(10).fill(0))
  return acpiTable("DMAR", 1, [...body.bytes, ...unit.bytes])
}
