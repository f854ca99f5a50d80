/** What makes IOVAs unusable, and what forbids that: areas that are there, and ranges that userspace relies on. */
import { IommuError } from "@iommu/core"
import type { Interval } from "./interval-tree.ts"
import type { Ioas } from "./ioas.ts"

/** Bytes of Linux's `struct iopt_allowed`, rounded to its slab. */
const ALLOWED_BYTES = 64

/** @throws EADDRINUSE, ENOMEM */
export function reserveRange(ioas: Ioas, owner: object, start: bigint, last: bigint): void {
  if (ioas.areas.firstOverlap(start, last)) {
    throw new IommuError("EADDRINUSE", `an area lies in IOVAs to be reserved: ${hex(start)} to ${hex(last)}`)
  }
  if (ioas.allowed.some(range => range.start <= last && range.last >= start)) {
    throw new IommuError(
      "EADDRINUSE",
      `an allowed range lies in IOVAs to be reserved: ${hex(start)} to ${hex(last)}`,
    )
  }
  ioas.reserved.add(owner, start, last)
}

/** Replaces the allowed ranges. @throws EINVAL, EADDRINUSE, ENOMEM; the old ones stay then */
export function replaceAllowed(ioas: Ioas, ranges: readonly Interval[]): void {
  const sorted = [...ranges].sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0))
  let previous: Interval | null = null
  for (const range of sorted) {
    if (range.start >= range.last) throw new IommuError("EINVAL", "an allowed range has at least two bytes")
    if (previous !== null && range.start <= previous.last) {
      throw new IommuError("EINVAL", "allowed ranges do not overlap")
    }
    previous = range
  }
  for (const { start, last } of sorted) {
    if (ioas.reserved.overlaps(start, last)) {
      throw new IommuError("EADDRINUSE", `part of ${hex(start)} to ${hex(last)} is reserved`)
    }
  }
  if (sorted.length > 0) ioas.account.chargeBytes(sorted.length * ALLOWED_BYTES)
  ioas.account.unchargeBytes(ioas.allowed.length * ALLOWED_BYTES)
  ioas.allowed = sorted
}

/**
 * The alignment that domains, accesses and the huge page option ask for.
 * @throws EADDRINUSE when it grows and an area does not keep it
 */
export function recalculateAlignment(ioas: Ioas): void {
  const wanted = [
    ioas.usesHugePages ? 1n : 4096n,
    ...ioas.domains.map(smallestPage),
    ...ioas.accessAlignments(),
  ]
  const alignment = wanted.reduce((most, next) => (next > most ? next : most))
  if (alignment > ioas.alignment) checkAreasAligned(ioas, alignment)
  ioas.alignment = alignment
}

/** @throws EADDRINUSE */
export function checkAreasAligned(ioas: Ioas, alignment: bigint): void {
  for (const area of ioas.areas) {
    if ((area.start | area.length | area.startByte) % alignment !== 0n) {
      throw new IommuError("EADDRINUSE", `the area at ${hex(area.start)} is not aligned to ${hex(alignment)}`)
    }
  }
}

/** Bytes of the smallest page that a domain can map. */
export function smallestPage({ pageSizes }: { readonly pageSizes: bigint }): bigint {
  return pageSizes & -pageSizes
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`
}
