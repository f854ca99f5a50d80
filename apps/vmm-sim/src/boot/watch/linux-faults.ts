/** A fault as the kernel's driver decoded it, from the line that it prints. */

export interface LinuxFault {
  /** `00:03.0`. */
  readonly device: string
  readonly address: bigint
  /** The book's number, as the driver prints it. */
  readonly code: number
  readonly access: "read" | "write" | null
  readonly line: string
}

/** `8 * bus * 32 + slot * 8 + function`, as hardware has it, to `00:03.0`. */
export function requesterName(id: number): string {
  const hex = (value: number): string => value.toString(16).padStart(2, "0")
  return `${hex(id >> 8)}:${hex((id >> 3) & 31)}.${id & 7}`
}

/** `DMAR: [DMA Write NO_PASID] Request device [00:03.0] fault addr 0x12345000 [fault reason 0x05] PTE Write...` */
export function vtdFault(line: string): LinuxFault | null {
  const match =
    /DMAR: \[DMA (Read|Write)[^\]]*\] Request device \[(?:[\da-f]{4}:)?([\da-f:.]+)\] fault addr 0x([\da-f]+) \[fault reason 0x([\da-f]+)\]/i.exec(
      line,
    )
  if (match === null) return null
  const [, access = "", device = "", address = "", code = ""] = match
  return {
    device,
    address: BigInt(`0x${address}`),
    code: Number.parseInt(code, 16),
    access: access.toLowerCase() === "read" ? "read" : "write",
    line,
  }
}
