import { PAGE_SIZE } from "./address.ts"
import { IommuError } from "./errno.ts"
import type { MemoryAccount } from "./memory-account.ts"
import type { MemoryRange, PhysicalMemory } from "./physical-memory.ts"
import { hi32, lo32, toU64 } from "./u64.ts"

/**
 * Hands out zeroed, naturally aligned runs of 2^n pages of a range of physical memory.
 *
 * Addresses are plain numbers: physical addresses have at most 52 bits, and a double holds 53. Freed runs are
 * kept by size and split again when a smaller one is asked for; runs are not joined, because page tables ask for
 * the same few sizes again and again.
 */
export class PageAllocator {
  readonly memory: PhysicalMemory
  readonly #end: number
  readonly #freeRuns: number[][] = []
  #next: number
  #pagesInUse = 0

  /** @throws EFAULT when the range is not memory throughout, EINVAL when it is not whole pages */
  constructor(memory: PhysicalMemory, range: MemoryRange) {
    const base = toU64(range.base, "base")
    const size = toU64(range.size, "size")
    if (base % BigInt(PAGE_SIZE) !== 0n || size % BigInt(PAGE_SIZE) !== 0n || size === 0n) {
      throw new IommuError("EINVAL", "pages are handed out of a range of whole pages")
    }
    if (!memory.contains(base, size)) throw new IommuError("EFAULT", "the range of pages is not all memory")
    this.memory = memory
    this.#next = Number(base)
    this.#end = Number(base + size)
  }

  /** 4 KiB pages handed out and not freed. */
  get pagesInUse(): number {
    return this.#pagesInUse
  }

  /**
   * @param pagesLg2 log2 of the number of 4 KiB pages; the run is aligned to its size
   * @param account who pays
   * @returns physical address of the first page
   * @throws ENOMEM when the account's limit or the range is exhausted; nothing is charged or taken then
   */
  alloc(pagesLg2: number, account: MemoryAccount): number {
    const pages = 2 ** pagesLg2
    account.charge(pages)
    const address = this.#take(pagesLg2)
    if (address < 0) {
      account.uncharge(pages)
      throw new IommuError("ENOMEM", `no run of ${pages} pages is left in the page allocator's range`)
    }
    this.#pagesInUse += pages
    this.#zero(address, pages)
    return address
  }

  /** Gives back what {@link alloc} returned, with the same size and account. */
  free(address: number, pagesLg2: number, account: MemoryAccount): void {
    this.#run(pagesLg2).push(address)
    this.#pagesInUse -= 2 ** pagesLg2
    account.uncharge(2 ** pagesLg2)
  }

  #run(pagesLg2: number): number[] {
    while (this.#freeRuns.length <= pagesLg2) this.#freeRuns.push([])
    return this.#freeRuns[pagesLg2] as number[]
  }

  #take(pagesLg2: number): number {
    const free = this.#run(pagesLg2).pop()
    if (free !== undefined) return free
    const fresh = this.#takeFresh(pagesLg2)
    return fresh >= 0 ? fresh : this.#takeHalf(pagesLg2)
  }

  /** From the untouched rest of the range; pages skipped for alignment become free runs. */
  #takeFresh(pagesLg2: number): number {
    const bytes = PAGE_SIZE * 2 ** pagesLg2
    const aligned = Math.ceil(this.#next / bytes) * bytes
    if (aligned + bytes > this.#end) return -1
    let lg2 = 0
    while (this.#next < aligned) {
      const run = PAGE_SIZE * 2 ** lg2
      if (this.#next % (run * 2) !== 0 || this.#next + run * 2 > aligned) {
        this.#run(lg2).push(this.#next)
        this.#next += run
        lg2 = 0
      } else {
        lg2++
      }
    }
    this.#next = aligned + bytes
    return aligned
  }

  /** The first half of the smallest larger free run; the second half becomes a free run. */
  #takeHalf(pagesLg2: number): number {
    for (let lg2 = pagesLg2 + 1; lg2 < this.#freeRuns.length; lg2++) {
      const address = this.#run(lg2).pop()
      if (address === undefined) continue
      for (let half = lg2 - 1; half >= pagesLg2; half--) {
        this.#run(half).push(address + PAGE_SIZE * 2 ** half)
      }
      return address
    }
    return -1
  }

  #zero(address: number, pages: number): void {
    for (let page = 0; page < pages; page++) {
      const at = BigInt(address + page * PAGE_SIZE)
      const index = this.memory.find(hi32(at), lo32(at))
      this.memory.words.fill(0, index, index + PAGE_SIZE / 4)
    }
  }
}
