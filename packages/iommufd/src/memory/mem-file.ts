/** A file of memory, as `memfd_create` makes it: what IOAS_MAP_FILE takes beside dma-bufs. */
import { IommuError } from "@iommu/core"
import type { UserFile } from "../process/file-table.ts"
import type { FrameRun } from "./frame-pins.ts"
import type { PageRun } from "./page-ledger.ts"
import type { PageSource } from "./pinned-pages.ts"

/** A piece of a file in physical memory; both multiples of 4096. */
export interface FileExtent {
  readonly address: bigint
  readonly length: bigint
}

export class MemFile implements UserFile, PageSource {
  readonly kind = "memfd"
  /** Sealed against writing: F_SEAL_WRITE. */
  readonly sealed: boolean
  /** Ascending by page, without gaps. */
  readonly #runs: readonly PageRun[]
  readonly pages: number

  /** @throws EINVAL when an extent is not whole pages */
  constructor(extents: readonly FileExtent[], sealed: "sealed" | "writeable" = "writeable") {
    let page = 0
    this.#runs = extents.map(({ address, length }) => {
      if (((address | length) & 0xfffn) !== 0n) throw new IommuError("EINVAL", "a file lies in whole pages")
      const run = { page, frame: Number(address >> 12n), pages: Number(length >> 12n) }
      page += run.pages
      return run
    })
    this.pages = page
    this.sealed = sealed === "sealed"
  }

  get bytes(): bigint {
    return BigInt(this.pages) << 12n
  }

  /** As `memfd_pin_folios`. @throws EINVAL beyond the end, or for writing to a sealed file */
  pinnable(page: number, pages: number, forWriting: boolean): FrameRun {
    const run = this.#runAt(page)
    if (run === undefined) throw new IommuError("EINVAL", `the file ends after ${this.pages} pages`)
    if (forWriting && this.sealed) throw new IommuError("EINVAL", "the file is sealed against writing")
    return { frame: run.frame + page - run.page, pages: Math.min(pages, run.page + run.pages - page) }
  }

  #runAt(page: number): PageRun | undefined {
    let low = 0
    let high = this.#runs.length
    while (low < high) {
      const middle = (low + high) >> 1
      const run = this.#runs[middle] as PageRun
      if (run.page + run.pages <= page) low = middle + 1
      else high = middle
    }
    return this.#runs[low]
  }
}

/** Any other file: that it cannot be pinned is found only when it has to be, as in Linux. */
export const UNPINNABLE_FILE: PageSource = {
  pinnable: () => {
    throw new IommuError("EINVAL", "only memfds and dma-bufs can be mapped, no other file")
  },
}
