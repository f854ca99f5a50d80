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
/** RnW of an event record: bit 35 of its second word. IHI 0070 G.b §7.3. */
const SMMU_RNW = 1n << 35n
/** PR, RW and the like in the flags that Linux prints: bits 27:16 of the event's second dword. */
const AMD_FLAG_RW = 0x20
const IO_PAGE_FAULT = 2

/** `nvme 0000:00:03.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000a address=0x12345000 flags=0x0020]` */
export function amdFault(line: string): LinuxFault | null {
  const match = /IO_PAGE_FAULT.* address=0x([\da-f]+) flags=0x([\da-f]+)/i.exec(line)
  const device = /(?:[\da-f]{4}:)?([\da-f]{2}:[\da-f]{2}\.[0-7])/i.exec(line)?.[1]
  if (match === null || device === undefined) return null
  const [, address = "", flags = ""] = match
  const isWrite = (Number.parseInt(flags, 16) & AMD_FLAG_RW) !== 0
  return {
    device,
    address: BigInt(`0x${address}`),
    code: IO_PAGE_FAULT,
    access: isWrite ? "write" : "read",
    line,
  }
}

/** `arm-smmu-v3 3e000000.iommu: event 0x10 received:` and the four words of the record, a line each. */
export function smmuFaults(lines: readonly string[]): LinuxFault[] {
  return lines.flatMap((line, n) => {
    const match = /arm-smmu-v3 \S+ event 0x([\da-f]+) received:/i.exec(line)
    if (match === null) return []
    const words = lines.slice(n + 1, n + 5).map(next => /\t0x([\da-f]{16})/i.exec(next)?.[1])
    const [config, flags, address] = words.map(word => BigInt(`0x${word ?? "0"}`))
    if (config === undefined || flags === undefined || address === undefined) return []
    return {
      device: requesterName(Number(config >> 32n)),
      address,
      code: Number.parseInt(match[1] ?? "", 16),
      access: (flags & SMMU_RNW) === 0n ? "write" : "read",
      line: [line, ...words.map(word => `0x${word}`)].join(" "),
    }
  })
}
