import { type MemoryAccount, PAGE_SHIFT, type PageAllocator } from "@iommu/core"

/** Naturally aligned pages, as the allocator gives and takes them, and who pays for them. */
export interface PageRun {
  readonly address: number
  readonly pagesLg2: number
  readonly account: MemoryAccount
}

/**
 * Zeroed pages for a structure of so many bytes (a power of two).
 * @throws ENOMEM
 */
export function allocRun(pages: PageAllocator, bytes: number, account: MemoryAccount): PageRun {
  const pagesLg2 = Math.max(0, Math.ceil(Math.log2(bytes)) - PAGE_SHIFT)
  return { address: pages.alloc(pagesLg2, account), pagesLg2, account }
}

export function freeRun(pages: PageAllocator, run: PageRun): void {
  pages.free(run.address, run.pagesLg2, run.account)
}
