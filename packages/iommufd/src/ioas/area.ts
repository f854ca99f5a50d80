/** One mapping of an IOAS: a slice of pages at an IOVA. Linux's `struct iopt_area`. */
import { IOMMU_CACHE, IOMMU_MMIO, IOMMU_READ, IOMMU_WRITE, type MemoryAccount } from "@iommu/core"
import type { DmaBufPages, RevocableArea } from "../memory/dma-buf.ts"
import type { PinnedPages } from "../memory/pinned-pages.ts"
import { unmapArea } from "./domain-fill.ts"
import type { Interval } from "./interval-tree.ts"
import type { Ioas } from "./ioas.ts"

export type AreaPages = PinnedPages | DmaBufPages

export interface AreaAccess {
  readonly readable: boolean
  readonly writeable: boolean
}

/** One object for all areas with the same rights: there may be a million of them. */
const RIGHTS: readonly AreaAccess[] = [0, 1, 2, 3].map(bits =>
  Object.freeze({ readable: (bits & 1) !== 0, writeable: (bits & 2) !== 0 }),
)

/** What an area shows. */
export interface AreaSlice {
  readonly pages: AreaPages
  /** First byte, counted from page 0 of the pages. */
  readonly startByte: bigint
  readonly length: bigint
}

/** Bytes of Linux's object with its two interval nodes, rounded to its slab. */
export const AREA_BYTES = 192

export class Area implements Interval, RevocableArea {
  readonly ioas: Ioas
  readonly start: bigint
  readonly last: bigint
  readonly pages: AreaPages
  readonly startByte: bigint
  readonly access: AreaAccess
  /** Paid for the object. */
  readonly account: MemoryAccount
  /** Pins by accesses and HW queues. */
  accesses = 0
  /** HW queues that forbid to unmap it. */
  locks = 0
  /** Set while accesses are asked to let go. */
  preventsAccess = false

  constructor(ioas: Ioas, start: bigint, slice: AreaSlice, access: AreaAccess, account: MemoryAccount) {
    this.ioas = ioas
    this.start = start
    this.last = start + slice.length - 1n
    this.pages = slice.pages
    this.startByte = slice.startByte
    this.access = RIGHTS[(access.readable ? 1 : 0) + (access.writeable ? 2 : 0)] as AreaAccess
    this.account = account
  }

  get length(): bigint {
    return this.last - this.start + 1n
  }

  /** Of the first byte in its page. */
  get pageOffset(): number {
    return Number(this.startByte & 0xfffn)
  }

  get firstPage(): number {
    return Number(this.startByte >> 12n)
  }

  /** Pages that the area touches. */
  get pageCount(): number {
    return Number((this.startByte + this.length - 1n) >> 12n) - this.firstPage + 1
  }

  /** `IOMMU_*` bits. Device memory is not cached; everything else is coherent. */
  get prot(): number {
    const { readable, writeable } = this.access
    const kind = this.pages.kind === "dma-buf" ? IOMMU_MMIO : IOMMU_CACHE
    return (readable ? IOMMU_READ : 0) | (writeable ? IOMMU_WRITE : 0) | kind
  }

  /** The byte of the pages behind an IOVA of the area. */
  byteAt(iova: bigint): bigint {
    return this.startByte + iova - this.start
  }

  emptyDomains(): void {
    for (const domain of this.ioas.domains) unmapArea(this, domain)
  }
}
