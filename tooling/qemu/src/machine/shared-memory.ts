/**
 * A driver's memory, kept equal to a machine's RAM: Node cannot map QEMU's RAM file, so the part that drivers use is
 * copied when either side may have changed it: to the machine before a register is written, back after that.
 *
 * Only pages that were handed out are looked at, and only those that differ are written.
 */
import {
  createMemory,
  type MemoryAccount,
  type MemoryRange,
  PAGE_SIZE,
  PageAllocator,
  type PhysicalMemory,
  toU64,
} from "@iommu/core"
import type { RamFile } from "./ram-file.ts"

export class SharedMemory {
  readonly memory: PhysicalMemory
  readonly pages: PageAllocator
  readonly #ram: RamFile
  readonly #base: number
  readonly #bytes: Uint8Array
  /** What the machine's RAM held when it was last looked at. */
  readonly #seen: Uint8Array
  #used = 0

  /** @param range RAM that the driver and its users share with the machine */
  constructor(ram: RamFile, range: MemoryRange) {
    this.memory = createMemory([range])
    this.#ram = ram
    this.#base = Number(toU64(range.base, "base"))
    this.#bytes = new Uint8Array(this.memory.words.buffer)
    this.#seen = new Uint8Array(this.#bytes.length)
    this.pages = new CountingPages(this.memory, range, end => {
      this.#used = Math.max(this.#used, end - this.#base)
    })
  }

  /** Gives the machine what was written here. */
  push(): void {
    for (let at = 0; at < this.#used; at += PAGE_SIZE) {
      const page = this.#bytes.subarray(at, at + PAGE_SIZE)
      if (Buffer.compare(page, this.#seen.subarray(at, at + PAGE_SIZE)) === 0) continue
      this.#ram.write(this.#base + at, page)
      this.#seen.set(page, at)
    }
  }

  /** Takes what the machine wrote. */
  pull(): void {
    const used = this.#bytes.subarray(0, this.#used)
    this.#ram.read(this.#base, used)
    this.#seen.set(used)
  }
}

/** Says how far into its range pages have been handed out. */
class CountingPages extends PageAllocator {
  readonly #onEnd: (end: number) => void

  constructor(memory: PhysicalMemory, range: MemoryRange, onEnd: (end: number) => void) {
    super(memory, range)
    this.#onEnd = onEnd
  }

  override alloc(pagesLg2: number, account: MemoryAccount): number {
    const address = super.alloc(pagesLg2, account)
    this.#onEnd(address + PAGE_SIZE * 2 ** pagesLg2)
    return address
  }
}
