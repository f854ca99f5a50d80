/** Memory of a case as it is put together: sparse 64-bit words, and the pages that they lie in. */
import { PAGE_SIZE } from "@iommu/core"
import type { Words } from "./script.ts"

export class Image {
  readonly #words = new Map<number, bigint>()

  get words(): Words {
    return this.#words
  }

  /** @param address a multiple of 8 */
  read(address: number): bigint {
    return this.#words.get(address) ?? 0n
  }

  write(address: number, value: bigint): void {
    this.#words.set(address, BigInt.asUintN(64, value))
  }

  /** Consecutive words. */
  store(address: number, words: readonly bigint[]): void {
    for (const [index, word] of words.entries()) this.write(address + index * 8, word)
  }

  flip(address: number, bits: bigint): void {
    this.write(address, this.read(address) ^ bits)
  }
}

/** Words gathered into whole pages, zero elsewhere. */
export function pagesOf(words: Words): Map<number, Uint8Array> {
  const pages = new Map<number, Uint8Array>()
  for (const [address, value] of words) {
    const base = address - (address % PAGE_SIZE)
    let page = pages.get(base)
    if (page === undefined) {
      page = new Uint8Array(PAGE_SIZE)
      pages.set(base, page)
    }
    new DataView(page.buffer).setBigUint64(address - base, value, true)
  }
  return pages
}
