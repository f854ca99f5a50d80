/** Where an area goes for which userspace names no IOVA: first fit from below, as Linux's `iopt_alloc_iova`. */
import { IommuError, PAGE_SIZE, U64_MAX } from "@iommu/core"
import type { Interval, IntervalTree } from "./interval-tree.ts"
import type { ReservedRanges } from "./reserved-ranges.ts"

/** What placement looks at. */
export interface IovaSpace {
  readonly areas: IntervalTree<Interval>
  readonly reserved: ReservedRanges
  /** Ascending; none means all. */
  readonly allowed: readonly Interval[]
  /** IOVAs, lengths and offsets in a page are multiples of it. */
  readonly alignment: bigint
}

const PAGE = BigInt(PAGE_SIZE)
/** A larger alignment would not make larger leaves likelier. */
const HUGE_PAGE = 2n << 20n
const LOWEST = PAGE
const HIGHEST = U64_MAX - PAGE

/**
 * @param address of the first byte in its source: its alignment is kept, so that large pages stay large
 * @throws EOVERFLOW for half of the address space or more; EINVAL when the address's alignment is too small; ENOSPC
 */
export function placeIova(space: IovaSpace, address: bigint, length: bigint): bigint {
  if (length >= U64_MAX / 2n) {
    throw new IommuError("EOVERFLOW", "an IOVA is found for less than half of the address space only")
  }
  const fit: Fit = { length, alignment: bestAlignment(address, length), offset: address % PAGE }
  if (fit.alignment < space.alignment) {
    throw new IommuError(
      "EINVAL",
      `address 0x${address.toString(16)} is less aligned than the IOVAs here: 0x${space.alignment.toString(16)}`,
    )
  }
  const windows = space.allowed.length === 0 ? [{ start: LOWEST, last: HIGHEST }] : space.allowed.map(clip)
  for (const window of windows) {
    const start = fitInto(window, fit)
    const iova = start === undefined ? undefined : firstFit(space, { start, last: window.last }, fit)
    if (iova !== undefined) return iova
  }
  throw new IommuError("ENOSPC", `no hole of 0x${length.toString(16)} bytes is left among the IOVAs`)
}

interface Fit {
  readonly length: bigint
  readonly alignment: bigint
  /** Of the first byte in its page; the IOVA has these bits too. */
  readonly offset: bigint
}

function bestAlignment(address: bigint, length: bigint): bigint {
  let alignment = 1n
  while (alignment < length && alignment < HUGE_PAGE) alignment <<= 1n
  const ofAddress = address & -address
  return address !== 0n && ofAddress < alignment ? ofAddress : alignment
}

function clip({ start, last }: Interval): Interval {
  return { start: start > LOWEST ? start : LOWEST, last: last < HIGHEST ? last : HIGHEST }
}

function firstFit(space: IovaSpace, window: Interval, fit: Fit): bigint | undefined {
  let from = window.start
  while (from <= window.last) {
    const hole = space.areas.holeFrom(from, fit.length)
    if (hole === undefined || hole.start > window.last) return undefined
    const last = hole.last < window.last ? hole.last : window.last
    for (const free of space.reserved.holes(hole.start, last)) {
      const iova = fitInto(free, fit)
      if (iova !== undefined) return iova
    }
    from = hole.last + 1n
  }
  return undefined
}

/** The lowest suitable start in a free range. A single byte at its end is not taken, as in Linux. */
function fitInto({ start, last }: Interval, { length, alignment, offset }: Fit): bigint | undefined {
  const iova = (((start + alignment - 1n) / alignment) * alignment) | offset
  return iova < last && last - iova >= length - 1n ? iova : undefined
}
