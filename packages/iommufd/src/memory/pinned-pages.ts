/**
 * The pages behind one MAP call, shared by all areas that were copied or cut from it: Linux's `struct iopt_pages`.
 * Each page is pinned and counted once, however many domains and accesses use it.
 */
import { type MemoryAccount, PAGE_SIZE } from "@iommu/core"
import type { FrameRun } from "./frame-pins.ts"
import { PageLedger, type PageRun } from "./page-ledger.ts"
import type { PinCharge } from "./pin-accounting.ts"
import type { MachineMemory } from "./user-memory.ts"

/** Where pages come from: the memory of a process, or a file. */
export interface PageSource {
  /**
   * Contiguous pages from a page of the source on, at most `pages`, that can be pinned.
   * @throws EFAULT or EINVAL when the first of them cannot
   */
  pinnable(page: number, pages: number, forWriting: boolean): FrameRun
}

export interface PinnedPagesOptions {
  readonly source: PageSource
  /** Page of the source that is page 0 here. */
  readonly sourcePage: number
  readonly pages: number
  readonly writeable: boolean
  /** True for memory of a file: only that may change its process. */
  readonly fromFile: boolean
  readonly memory: MachineMemory
  readonly charge: PinCharge
  /** Pays for the object itself. */
  readonly account: MemoryAccount
}

/** Bytes of Linux's object on a 64-bit machine, rounded to its slab. */
const OBJECT_BYTES = 256

export class PinnedPages {
  readonly kind = "pinned"
  readonly writeable: boolean
  readonly fromFile: boolean
  readonly charge: PinCharge
  readonly #source: PageSource
  readonly #sourcePage: number
  readonly #pages: number
  readonly #memory: MachineMemory
  readonly #account: MemoryAccount
  /** Null until pages are held: address spaces without domains have many mappings that never are. */
  #ledger: PageLedger | null = null
  #references = 1

  /** The maker holds the first reference. @throws ENOMEM */
  constructor(options: PinnedPagesOptions) {
    options.account.chargeBytes(OBJECT_BYTES)
    this.writeable = options.writeable
    this.fromFile = options.fromFile
    this.charge = options.charge
    this.#source = options.source
    this.#sourcePage = options.sourcePage
    this.#pages = options.pages
    this.#memory = options.memory
    this.#account = options.account
  }

  /** Address in its source of a byte offset here: the user address, or the position in the file. */
  sourceAddress(byte: bigint): bigint {
    return (BigInt(this.#sourcePage) << 12n) + byte
  }

  get(): void {
    this.#references++
  }

  /** The last reference gives back what the object cost. */
  put(): void {
    this.#references--
    if (this.#references === 0) this.#account.unchargeBytes(OBJECT_BYTES)
  }

  /**
   * Pins what is not pinned yet in a range, for one more user of it.
   * @throws EFAULT, EINVAL for a file that cannot, ENOMEM over a limit; all is as before then
   */
  hold(first: number, pages: number): void {
    this.#ledger ??= new PageLedger(this.#pages)
    const pinned: PageRun[] = []
    try {
      const count = this.#pinUnused(this.#ledger, first, first + pages, pinned)
      if (count > 0) this.charge.add(count)
    } catch (error) {
      for (const run of pinned) this.#memory.pins.unpin(run.frame, run.pages)
      throw error
    }
    this.#ledger.hold(first, pages, pinned)
  }

  /** Unpins what no other user of the range needs. */
  release(first: number, pages: number): void {
    let count = 0
    for (const run of this.#held().drop(first, pages)) {
      this.#memory.pins.unpin(run.frame, run.pages)
      count += run.pages
    }
    if (count > 0) this.charge.remove(count)
  }

  /** Contiguous frames of held pages. */
  runAt(page: number, pages: number): FrameRun {
    return this.#held().runAt(page, pages)
  }

  /** Copies bytes out by CPU, from pinned pages where there are. @throws EFAULT, EINVAL */
  read(byte: bigint, length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    this.#forEachPage(byte, length, "read", (address, offset, count) => {
      bytes.set(this.#memory.physical.read(address, count), offset)
    })
    return bytes
  }

  /** Copies bytes in by CPU. @throws EFAULT, EINVAL; pages before the refused one are written */
  write(byte: bigint, bytes: Uint8Array): void {
    this.#forEachPage(byte, bytes.length, "write", (address, offset, count) => {
      this.#memory.physical.write(address, bytes.subarray(offset, offset + count))
    })
  }

  #forEachPage(
    byte: bigint,
    length: number,
    use: "read" | "write",
    visit: (address: bigint, offset: number, count: number) => void,
  ): void {
    for (let offset = 0; offset < length; ) {
      const at = byte + BigInt(offset)
      const inPage = Number(at & 0xfffn)
      const count = Math.min(PAGE_SIZE - inPage, length - offset)
      visit(BigInt(this.#frameOf(Number(at >> 12n), use) * PAGE_SIZE + inPage), offset, count)
      offset += count
    }
  }

  #frameOf(page: number, use: "read" | "write"): number {
    const ledger = this.#ledger
    if (ledger !== null && ledger.users(page) > 0) return ledger.runAt(page, 1).frame
    return this.#source.pinnable(this.#sourcePage + page, 1, use === "write").frame
  }

  /** @returns pages pinned; they are in `pinned`, also when it throws */
  #pinUnused(ledger: PageLedger, first: number, end: number, pinned: PageRun[]): number {
    let count = 0
    let gap = ledger.nextUnused(first, end)
    while (gap !== null) {
      const run = this.#source.pinnable(this.#sourcePage + gap.page, gap.pages, this.writeable)
      this.#memory.pins.pin(run.frame, run.pages)
      addPageRun(pinned, gap.page, run)
      count += run.pages
      gap = ledger.nextUnused(gap.page + run.pages, end)
    }
    return count
  }

  #held(): PageLedger {
    if (this.#ledger === null) throw new Error("bug: pages are asked for that nobody holds")
    return this.#ledger
  }
}

/** Objects are written out: spreading them took most of the time that scattered memory needs. */
function addPageRun(runs: PageRun[], page: number, { frame, pages }: FrameRun): void {
  const last = runs.at(-1)
  if (last !== undefined && last.page + last.pages === page && last.frame + last.pages === frame) {
    runs[runs.length - 1] = { page: last.page, frame: last.frame, pages: last.pages + pages }
  } else {
    runs.push({ page, frame, pages })
  }
}
