/** What hardware recorded of a fault, told three ways: in values, in words for people, in the lines of Linux's log. */
import type { PageRequest } from "./ats.ts"

/** An atomic operation reads and writes; a page request has asked for a page and moved no data. */
export type RecordedAccess = "read" | "write" | "atomic" | "page request"

/** What all records have in common; each vendor's union adds what its own hold. */
export interface DecodedRecord {
  /** The book's name: `F_TRANSLATION`, `IO_PAGE_FAULT`, for VT-d the fault reason (`SFS.2`). */
  readonly name: string
  /** Source-id, StreamID or DeviceID; null where no device had a part in it. */
  readonly device: number | null
  /** null: the request had none, or the record does not say. */
  readonly pasid: number | null
  /** Address that the device asked for; null where the record has none. */
  readonly address: bigint | null
  readonly access: RecordedAccess | null
  /** The 64-bit words that all this was taken from. */
  readonly words: readonly bigint[]
}

/** A record explained to whoever has to find the mistake. */
export interface FaultExplanation {
  readonly happened: string
  /** Structure or stage that refused. */
  readonly where: string
  /** What is usually behind it, most frequent first. */
  readonly causes: readonly string[]
  /** Book and section. */
  readonly section: string
}

/** Kernels whose text is known; {@link linuxReleaseOf} says for which others each stands. */
export const LINUX_RELEASES = ["6.1", "6.12", "6.18", "7.2"] as const
export type LinuxRelease = (typeof LINUX_RELEASES)[number]

/** First of the releases, as 100 * major + minor, that print the same as the one of the pair; null: not known. */
const SAME_TEXT: readonly (readonly [from: number, release: LinuxRelease | null])[] = [
  [702, "7.2"],
  [616, "6.18"],
  [613, null],
  [612, "6.12"],
  [601, "6.1"],
]

/**
 * The release whose text a kernel prints; null: not known, for older ones and from 6.13 to 6.15.
 * @param version `6.1`, `6.12.48+deb13-cloud-arm64`
 */
export function linuxReleaseOf(version: string): LinuxRelease | null {
  const match = /^(\d{1,2})\.(\d{1,2})(?!\d)/.exec(version)
  const number = 100 * Number(match?.[1] ?? 0) + Number(match?.[2] ?? 0)
  return SAME_TEXT.find(([from]) => number >= from)?.[1] ?? null
}

/** What the kernel knows and no record holds. */
export interface LinuxContext {
  readonly release: LinuxRelease
  /** PCI segment that the IOMMU serves. */
  readonly segment: number
  /** Driver and name of the IOMMU as the log puts them before a message; null: the usual one. VT-d's has none. */
  readonly iommu: string | null
  /** Driver and name of the device, `nvme 0000:00:03.0`; null: the kernel knows no device by this number. */
  readonly device: string | null
}

/** A record found in a kernel's log. */
export interface LoggedRecord {
  /** As the hardware must have written it, as far as the log tells. */
  readonly words: readonly bigint[]
  /** Fields that the log does not tell, zero in the words. */
  readonly untold: readonly string[]
  readonly segment: number
  readonly iommu: string | null
  readonly device: string | null
  /** Index of the line that told of it first. */
  readonly line: number
}

/** Pure functions over records of one vendor. None throws, whatever the words and lines are. */
export interface FaultDecoder<R extends DecodedRecord = DecodedRecord> {
  readonly vendor: string
  /** Bytes of a fault record or event. */
  readonly recordBytes: number
  /** Bytes of a page request, as it stands in its queue. */
  readonly pageRequestBytes: number
  decode(words: readonly bigint[]): R
  explain(record: R): FaultExplanation
  /**
   * The lines that Linux's driver prints for the record, without time stamps. Lines that show more than the record
   * (table entries, commands, registers) are not among them.
   */
  linuxLines(record: R, context: LinuxContext): string[]
  /** Records that lines of a kernel's log tell of, in the form of any release since 4.9. */
  readLinuxLog(lines: readonly string[]): LoggedRecord[]
  /** null: the words are no page request. */
  decodePageRequest(words: readonly bigint[]): PageRequest | null
}

/** `00:03.0` of a requester id: bus, slot, function. */
export function requesterName(id: number): string {
  const hex = (value: number): string => value.toString(16).padStart(2, "0")
  return `${hex((id >> 8) & 0xff)}:${hex((id >> 3) & 31)}.${id & 7}`
}

/** Requester id of `00:03.0`, `0000:00:03.0` or `0x00:0x03.0`; null for anything else. */
export function requesterId(name: string): number | null {
  const match = /^(?:[\da-f]{4}:)?(?:0x)?([\da-f]{1,2}):(?:0x)?([01]?[\da-f])\.([0-7])$/i.exec(name)
  if (match === null) return null
  const [bus = 0, slot = 0, fn = 0] = match.slice(1).map(part => Number.parseInt(part, 16))
  return (bus << 8) | (slot << 3) | fn
}
