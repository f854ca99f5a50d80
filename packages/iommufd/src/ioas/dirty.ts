/** Dirty pages of a domain for userspace: HWPT_SET_DIRTY_TRACKING and HWPT_GET_DIRTY_BITMAP. */
import { DirtyBitmap, type DirtyOps, IommuError, type PagingDomain, U64_MAX } from "@iommu/core"
import type { Interval } from "./interval-tree.ts"
import type { Ioas } from "./ioas.ts"

export interface DirtyRequest {
  readonly iova: bigint
  readonly length: bigint
  /** Bytes that one bit stands for. Where it is no power of two, its lowest set bit counts, as in Linux. */
  readonly pageSize: bigint
}

/** Takes dirty pages, in ascending pieces. */
export interface DirtySink {
  /**
   * @param words one bit a granule, bit n % 32 of word n / 32
   * @param firstBit the request's bit that the first granule begins at
   * @param bitsLg2 log2 of the request's bits that a granule stands for
   */
  mark(words: Uint32Array, firstBit: bigint, bitsLg2: number): void
}

/** Granules read at once. 2^26 of 4096 bytes are 256 GiB and take 8 MiB. */
const PIECE_BITS = 1n << 26n

/**
 * Reports the pages of a range that were written to, and forgets that when `after` says so. Holes are passed over.
 * @throws EOVERFLOW, EINVAL for the range or the page size; EOPNOTSUPP when the domain does not track
 */
export function readDirty(
  ioas: Ioas,
  domain: PagingDomain,
  request: DirtyRequest,
  after: "keep" | "clear",
  sink: DirtySink,
): void {
  checkRequest(ioas, request)
  const ops = dirtyOps(domain)
  if (request.length === 0n) return
  const pageSize = request.pageSize & -request.pageSize
  const granule = pageSize > ioas.alignment ? pageSize : ioas.alignment
  const bitsLg2 = log2(granule / pageSize)
  for (const piece of pieces(ioas, request.iova, request.iova + request.length - 1n, granule)) {
    const dirty = new DirtyBitmap(piece.start, piece.last - piece.start + 1n, granule)
    if (after === "clear") ops.readAndClearDirty(dirty)
    else ops.readDirty(dirty)
    sink.mark(dirty.words, (piece.start - request.iova) / pageSize, bitsLg2)
  }
}

/** Starts or stops tracking. What was dirty before is forgotten at each start. @throws EOPNOTSUPP and the driver's */
export function setDirtyTracking(ioas: Ioas, domain: PagingDomain, state: "on" | "off"): void {
  const ops = dirtyOps(domain)
  if (state === "on") {
    for (const { start, last } of pieces(ioas, 0n, U64_MAX, ioas.alignment)) {
      ops.readAndClearDirty(new DirtyBitmap(start, last - start + 1n, ioas.alignment))
    }
  }
  ops.setDirtyTracking(state === "on")
}

function checkRequest(ioas: Ioas, { iova, length, pageSize }: DirtyRequest): void {
  const end = iova + length
  // The last byte of an empty range is computed in 64 bits, which fits at 0 alone.
  if (end - 1n > U64_MAX || (length === 0n && iova !== 0n)) {
    throw new IommuError("EOVERFLOW", "the range has no last IOVA within 64 bits")
  }
  if (pageSize === 0n) throw new IommuError("EINVAL", "a bit stands for at least one byte")
  const masks = [ioas.alignment - 1n, pageSize - 1n]
  if (masks.some(mask => ((iova | (end & U64_MAX)) & mask) !== 0n)) {
    throw new IommuError("EINVAL", "the range is not whole pages, of the bitmap and of the IOAS")
  }
}

function dirtyOps(domain: PagingDomain): DirtyOps {
  if (domain.dirty === undefined)
    throw new IommuError("EOPNOTSUPP", "the domain was made without dirty tracking")
  return domain.dirty
}

/** What areas cover of a range, rounded to granules: neighbours joined, and cut where pieces become too large. */
function* pieces(ioas: Ioas, first: bigint, last: bigint, granule: bigint): IterableIterator<Interval> {
  const most = PIECE_BITS * granule
  for (const span of mappedSpans(ioas, first, last, granule)) {
    let start = span.start
    while (start <= span.last) {
      const end = (start / most + 1n) * most
      yield { start, last: end - 1n < span.last ? end - 1n : span.last }
      start = end
    }
  }
}

function* mappedSpans(ioas: Ioas, first: bigint, last: bigint, granule: bigint): IterableIterator<Interval> {
  let span: Interval | null = null
  for (const area of areasIn(ioas, first, last)) {
    const low = area.start > first ? area.start : first
    const high = area.last < last ? area.last : last
    const start: bigint = low - (low % granule)
    const end: bigint = high - (high % granule) + granule - 1n
    if (span !== null && start <= span.last + 1n) span = { start: span.start, last: end }
    else {
      if (span !== null) yield span
      span = { start, last: end }
    }
  }
  if (span !== null) yield span
}

function* areasIn(ioas: Ioas, first: bigint, last: bigint): IterableIterator<Interval> {
  let from = first
  while (from <= last) {
    const area = ioas.areas.firstOverlap(from, last)
    if (area === undefined) return
    yield area
    from = area.last + 1n
  }
}

function log2(powerOfTwo: bigint): number {
  return powerOfTwo.toString(2).length - 1
}
