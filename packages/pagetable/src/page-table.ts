/** Interface draft for driver authors; the builder behind it is being written. */
import type { DirtyBitmap, DomainDataPath, MemoryAccount, PageAllocator, PhysicalMemory } from "@iommu/core"
import type { PageTableFormat } from "./format.ts"
import type { Gather } from "./gather.ts"

export interface PageTableOptions {
  readonly format: PageTableFormat
  readonly memory: PhysicalMemory
  readonly pages: PageAllocator
  readonly account: MemoryAccount
  /** Levels of tables to start with; at most the format's. */
  readonly levels: number
  /** Width of the input address; decides the aperture. */
  readonly inputBits: number
  /** Width of the output address: mapping beyond it is ERANGE. */
  readonly outputBits: number
  /** Leaf sizes to use, a subset of what the format has; default all of the format's without contiguous hints. */
  readonly pageSizes?: bigint
}

export interface PageTable extends DomainDataPath {
  readonly format: PageTableFormat
  readonly pageSizes: bigint
  /** Physical address of the root table (of the first, where the root is concatenated). Changes when levels grow. */
  readonly root: bigint
  /** Levels of tables now. Grows where the format allows (AMD v1): the driver compares it before and after a map. */
  readonly levels: number
  /** 4 KiB pages of tables, charged to the account. */
  readonly tablePages: number
  readonly aperture: { readonly start: bigint; readonly last: bigint }
  /** As DomainMapping.map: all or nothing. */
  map(iova: bigint, pa: bigint, size: bigint, prot: number): void
  /** Unmaps without invalidation; adds to {@link gather}. @returns bytes unmapped */
  unmap(iova: bigint, size: bigint): bigint
  iovaToPhys(iova: bigint): bigint | null
  /** Ranges that unmap (and dirty clearing) left to invalidate. */
  readonly gather: Gather
  /** After the invalidation completed: frees the emptied tables and empties {@link gather}. */
  gatherDone(): void
  readAndClearDirty(dirty: DirtyBitmap): void
  readDirty(dirty: DirtyBitmap): void
  /** Frees all tables. */
  free(): void
}
