/** Choosing leaf sizes. Sizes are log2 of bytes; sets of sizes are two 32-bit halves of a `pgsize_bitmap`. */

const POWERS: readonly number[] = Array.from({ length: 65 }, (_, lg2) => 2 ** lg2)

/** 2^lg2. `2 ** n` with a variable n is a call of 20 ns; there are several in each table that a range touches. */
export function pow2(lg2: number): number {
  return POWERS[lg2] as number
}

/** `page % span` for a span that is a power of two: the operator on doubles is a call of 20 ns, too. */
export function offsetIn(page: number, span: number): number {
  return page - Math.floor(page / span) * span
}

/** log2 of the largest power of two that is at most `pages`, a double of at least 1. */
export function floorLg2(pages: number): number {
  return pages < 0x1_0000_0000 ? 31 - Math.clz32(pages) : 63 - Math.clz32(pages / 0x1_0000_0000)
}

/**
 * The largest size of a set that divides both addresses and is at most `pages` 4 KiB pages.
 * @param hi address bits 63:32 of input | output, and `lo` bits 31:0
 * @returns log2 of bytes, or -1
 */
export function bestPageSizeLg2(
  sizesHi: number,
  sizesLo: number,
  hi: number,
  lo: number,
  pages: number,
): number {
  const aligned = lo !== 0 ? trailingZeros(lo) : hi !== 0 ? 32 + trailingZeros(hi) : 63
  const fits = floorLg2(pages) + 12
  const largest = aligned < fits ? aligned : fits
  if (largest >= 32) {
    const usable = sizesHi & (0xffff_ffff >>> (63 - largest))
    if (usable !== 0) return 63 - Math.clz32(usable)
  }
  const usable = largest >= 31 ? sizesLo : sizesLo & ((1 << (largest + 1)) - 1)
  return usable !== 0 ? 31 - Math.clz32(usable) : -1
}

/** The next size of a set above one of its sizes. @returns log2 of bytes, or -1 */
export function nextPageSizeLg2(sizesHi: number, sizesLo: number, sizeLg2: number): number {
  if (sizeLg2 < 31) {
    const larger = sizesLo & (0xffff_fffe << sizeLg2)
    if (larger !== 0) return trailingZeros(larger)
  }
  const larger = sizeLg2 < 32 ? sizesHi : sizeLg2 < 63 ? sizesHi & (0xffff_fffe << (sizeLg2 - 32)) : 0
  return larger !== 0 ? 32 + trailingZeros(larger) : -1
}

function trailingZeros(value: number): number {
  return 31 - Math.clz32(value & -value)
}
