/**
 * A bitmap in user memory into which dirty pages are OR-ed: 64-bit little-endian words at any address, which is the
 * same as bytes of eight bits. Linux's `struct iova_bitmap`.
 */
import { PAGE_SIZE } from "@iommu/core"
import type { UserMemory } from "../memory/user-memory.ts"
import type { DirtySink } from "./dirty.ts"

export class UserBitmap implements DirtySink {
  readonly #memory: UserMemory
  readonly #va: bigint
  /** The user page written last. */
  #page = -1
  #bytes: Uint8Array | null = null

  /** @param va of the byte with bit 0 */
  constructor(memory: UserMemory, va: bigint) {
    this.#memory = memory
    this.#va = va
  }

  /** Bits that fall on pages which are missing or read-only are lost: Linux reports no error either. */
  mark(words: Uint32Array, firstBit: bigint, bitsLg2: number): void {
    // The mapping may have changed since the last call.
    this.#page = -1
    if (bitsLg2 > 0) this.#markRuns(words, firstBit, 2 ** bitsLg2)
    else this.#markWords(words, firstBit)
  }

  #markWords(words: Uint32Array, firstBit: bigint): void {
    const shift = Number(firstBit & 7n)
    const byte = this.#va + (firstBit >> 3n)
    const page = Number(byte >> 12n)
    const inPage = Number(byte & 0xfffn)
    for (let index = 0; index < words.length; index++) {
      const word = words[index] as number
      if (word !== 0) this.#orWord(page, inPage + 4 * index, word, shift)
    }
  }

  /** One dirty granule is a run of bits. */
  #markRuns(words: Uint32Array, firstBit: bigint, run: number): void {
    for (let index = 0; index < words.length; index++) {
      for (let left = words[index] as number; left !== 0; left &= left - 1) {
        const granule = index * 32 + 31 - Math.clz32(left & -left)
        const bit = firstBit + BigInt(granule) * BigInt(run)
        const byte = this.#va + (bit >> 3n)
        this.#orRun(Number(byte >> 12n), Number(byte & 0xfffn), Number(bit & 7n), run)
      }
    }
  }

  /** @param offset bytes from the start of the page, of any size */
  #orWord(page: number, offset: number, word: number, shift: number): void {
    this.#or(page, offset, (word << shift) & 0xff)
    this.#or(page, offset + 1, (word >>> (8 - shift)) & 0xff)
    this.#or(page, offset + 2, (word >>> (16 - shift)) & 0xff)
    this.#or(page, offset + 3, (word >>> (24 - shift)) & 0xff)
    if (shift > 0) this.#or(page, offset + 4, word >>> (32 - shift))
  }

  #orRun(page: number, offset: number, shift: number, bits: number): void {
    let left = bits
    for (let at = offset, from = shift; left > 0; at++, from = 0) {
      const count = Math.min(8 - from, left)
      this.#or(page, at, ((1 << count) - 1) << from)
      left -= count
    }
  }

  #or(page: number, offset: number, bits: number): void {
    if (bits === 0) return
    const at = page + Math.floor(offset / PAGE_SIZE)
    if (at !== this.#page) {
      this.#page = at
      this.#bytes = this.#memory.writeablePage(at)
    }
    const bytes = this.#bytes
    const inPage = offset % PAGE_SIZE
    if (bytes !== null) bytes[inPage] = (bytes[inPage] as number) | bits
  }
}
