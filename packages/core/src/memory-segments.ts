/** Where in one buffer the pieces of a sparse address space lie. */
import { PAGE_SIZE } from "./address.ts"
import { IommuError } from "./errno.ts"
import type { MemoryRange } from "./physical-memory.ts"
import { toU64 } from "./u64.ts"

export interface Segment {
  readonly base: bigint
  readonly size: bigint
  /** Index of its first 32-bit word in the buffer. */
  readonly word: number
}

/** No segment crosses a multiple of 4 GiB, so one comparison of the high half and one of the low half decide. */
const SEGMENT_SPAN = 0x1_0000_0000n
/** Word indexes stay within 31 bits, where V8 keeps them as small integers. */
const MAX_BYTES = 0x2_0000_0000n

/**
 * Segments, in address order, of ranges that lie in the buffer one after the other as given.
 * @throws EINVAL for misaligned, empty or overlapping ranges and for more than 8 GiB together
 */
export function layOut(ranges: readonly MemoryRange[]): { segments: Segment[]; bytes: number } {
  const segments: Segment[] = []
  let bytes = 0n
  for (const range of ranges) {
    const { base, size } = checkRange(range)
    segments.push(...split(base, size, Number(bytes / 4n)))
    bytes += size
    if (bytes > MAX_BYTES) throw new IommuError("EINVAL", "one memory holds at most 8 GiB")
  }
  return { segments: sortSegments(segments), bytes: Number(bytes) }
}

export function checkRange(range: MemoryRange): { base: bigint; size: bigint } {
  const base = toU64(range.base, "base")
  const size = toU64(range.size, "size")
  const page = BigInt(PAGE_SIZE)
  if (size === 0n || base % page !== 0n || size % page !== 0n || base + size > 1n << 64n) {
    throw new IommuError(
      "EINVAL",
      `memory at 0x${base.toString(16)}+0x${size.toString(16)} is not whole pages`,
    )
  }
  return { base, size }
}

export function split(base: bigint, size: bigint, word: number): Segment[] {
  const pieces: Segment[] = []
  let done = 0n
  while (done < size) {
    const room = SEGMENT_SPAN - ((base + done) % SEGMENT_SPAN)
    const piece = size - done < room ? size - done : room
    pieces.push({ base: base + done, size: piece, word: word + Number(done / 4n) })
    done += piece
  }
  return pieces
}

export function sortSegments(segments: Segment[]): Segment[] {
  segments.sort((a, b) => (a.base < b.base ? -1 : a.base > b.base ? 1 : 0))
  for (let i = 1; i < segments.length; i++) {
    const before = segments[i - 1] as Segment
    const here = segments[i] as Segment
    if (before.base + before.size > here.base) {
      throw new IommuError("EINVAL", `two pieces of memory at 0x${here.base.toString(16)}`)
    }
  }
  return segments
}

export function joinNeighbours(segments: Segment[]): Segment[] {
  const joined: Segment[] = []
  for (const segment of segments) {
    const previous = joined.at(-1)
    const follows =
      previous &&
      previous.base + previous.size === segment.base &&
      previous.word + Number(previous.size / 4n) === segment.word &&
      segment.base % SEGMENT_SPAN !== 0n
    if (follows) joined[joined.length - 1] = { ...previous, size: previous.size + segment.size }
    else joined.push(segment)
  }
  return joined
}
