import { IommuError } from "./errno.ts"
import { toU64, type U64Like } from "./u64.ts"

/** Pages found dirty in a range, one bit a page: Linux's `iova_bitmap`. Bits are only ever set here. */
export class DirtyBitmap {
  /** IOVA of bit 0. */
  readonly iova: bigint
  /** Bytes that the bitmap covers. */
  readonly length: bigint
  /** log2 of the bytes that one bit stands for. */
  readonly pageSizeLg2: number
  /** Bit n of the range is bit n % 32 of word n / 32. */
  readonly words: Uint32Array

  /** @throws EINVAL when the page size is no power of two, or does not divide IOVA and length */
  constructor(iova: U64Like, length: U64Like, pageSize: U64Like) {
    const size = toU64(pageSize, "page size")
    this.iova = toU64(iova, "iova")
    this.length = toU64(length, "length")
    if (size === 0n || (size & (size - 1n)) !== 0n || this.iova % size !== 0n || this.length % size !== 0n) {
      throw new IommuError(
        "EINVAL",
        "a dirty bitmap's page size is a power of two that divides IOVA and length",
      )
    }
    this.pageSizeLg2 = size.toString(2).length - 1
    const bits = this.length / size
    if (bits > 1n << 32n) throw new IommuError("EINVAL", "a dirty bitmap has at most 2^32 bits")
    this.words = new Uint32Array(Number((bits + 31n) / 32n))
  }

  /** Marks every page that `[iova, iova + size)` touches; what lies outside the bitmap is left out. */
  mark(iova: bigint, size: bigint): void {
    const start = iova > this.iova ? iova - this.iova : 0n
    const end = iova + size < this.iova + this.length ? iova + size - this.iova : this.length
    if (start >= end) return
    const shift = BigInt(this.pageSizeLg2)
    this.#set(Number(start >> shift), Number((end - 1n) >> shift))
  }

  /** Whole words at once: a leaf of 2 MiB stands for 512 bits. */
  #set(first: number, last: number): void {
    const firstWord = first >>> 5
    const lastWord = last >>> 5
    const upFromFirst = -1 << (first & 31)
    const downFromLast = -1 >>> (31 - (last & 31))
    if (firstWord === lastWord) {
      this.words[firstWord] = (this.words[firstWord] as number) | (upFromFirst & downFromLast)
      return
    }
    this.words[firstWord] = (this.words[firstWord] as number) | upFromFirst
    this.words.fill(0xffff_ffff, firstWord + 1, lastWord)
    this.words[lastWord] = (this.words[lastWord] as number) | downFromLast
  }

  /** True when the page with this IOVA is marked. */
  has(iova: U64Like): boolean {
    const offset = toU64(iova, "iova") - this.iova
    if (offset < 0n || offset >= this.length) return false
    const bit = Number(offset >> BigInt(this.pageSizeLg2))
    return (((this.words[bit >>> 5] as number) >>> (bit & 31)) & 1) === 1
  }

  /** Number of marked pages. */
  get count(): number {
    let marked = 0
    for (let word of this.words) {
      for (; word !== 0; word &= word - 1) marked++
    }
    return marked
  }
}
