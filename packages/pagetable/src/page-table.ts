import {
  type DirtyBitmap,
  type DomainDataPath,
  ERRNO,
  type ErrnoCode,
  fromHalves,
  hi32,
  IommuError,
  lo32,
  type MemoryAccount,
  type PageAllocator,
  type PhysicalMemory,
  toU64,
  type U64Like,
} from "@iommu/core"
import { clearDirty, readAndClearDirty, readDirty } from "./dirty.ts"
import type { PageTableFormat } from "./format.ts"
import type { Gather } from "./gather.ts"
import { geometryFor } from "./geometry.ts"
import { leafTable } from "./leaf-table.ts"
import { lookUp } from "./look-up.ts"
import { mapRange } from "./map-range.ts"
import { offsetIn } from "./page-size.ts"
import { TableTree } from "./table-tree.ts"
import { unmapRange } from "./unmap-range.ts"

export interface PageTableOptions {
  readonly format: PageTableFormat
  readonly memory: PhysicalMemory
  readonly pages: PageAllocator
  readonly account: MemoryAccount
  /** Levels of tables to start with. */
  readonly levels: number
  /** Width of the input address: at most what the levels reach, unless the format grows. */
  readonly inputBits: number
  /** Width of the output address: mapping beyond it is ERANGE. */
  readonly outputBits: number
  /** Leaf sizes to use, a subset of what the format has; default the format's. */
  readonly pageSizes?: bigint
  /** IOVAs that may be mapped; default all of the input width. */
  readonly apertureStart?: bigint
  readonly apertureLast?: bigint
}

/** One bit of a page number in the high half of an address. */
const PAGES_PER_4G = 0x10_0000

/**
 * A radix page table that a driver builds for its hardware.
 *
 * Maps and unmaps leave {@link gather}: a driver invalidates those ranges, then calls {@link gatherDone}. (A map
 * leaves something there only when a large leaf took the place of emptied tables.)
 */
export class PageTable extends TableTree implements DomainDataPath {
  /**
   * @throws EINVAL for numbers the format does not have, ENOMEM for the root; nothing is charged then
   */
  constructor(options: PageTableOptions) {
    if (options.pages.memory !== options.memory) {
      throw new IommuError("EINVAL", "tables lie in the memory of their page allocator")
    }
    const geometry = geometryFor(options)
    super(geometry, options.pages, options.account)
  }

  get pageSizes(): bigint {
    return this.geometry.pageSizes
  }

  get aperture(): { readonly start: bigint; readonly last: bigint } {
    return this.geometry.aperture
  }

  /**
   * Has leaves be those of another format from now on, one that differs in `leafBits` alone.
   * @returns false when there is an entry in the root already: leaves below it would stay as they are
   */
  useLeavesOf(format: PageTableFormat): boolean {
    const { rootWord, geometry, words } = this
    const root = words.subarray(rootWord, rootWord + geometry.rootEntries * 2)
    if (root.some(word => word !== 0)) return false
    this.geometry = geometry.withFormat(format)
    return true
  }

  /** Physical address of the root table (of the first, where the root is several). Changes when levels grow. */
  get root(): bigint {
    return fromHalves(this.rootHi, this.rootLo)
  }

  /** Ranges that are left to invalidate. Read it anew after each call: it is a shared object when empty. */
  get gather(): Gather {
    return this.pending
  }

  /** Bits 63:32 of the last look-up's result. */
  get physHi(): number {
    return this.paHi >>> 0
  }

  get physLo(): number {
    return this.paLo >>> 0
  }

  /**
   * Maps a range with the largest pages that fit. All or nothing.
   * @throws EINVAL misaligned, empty, or with permissions that the format cannot give; ERANGE outside the aperture
   *   or the output width; EEXIST when any of it is mapped; ENOMEM
   */
  map(iova: U64Like, pa: U64Like, size: U64Like, prot: number): void {
    const at = toU64(iova, "iova")
    const to = toU64(pa, "pa")
    const bytes = toU64(size, "size")
    const misaligned = ((at | to | bytes) & 0xfffn) !== 0n
    const status = misaligned
      ? ERRNO.EINVAL
      : mapRange(this, Number(at >> 12n), Number(to >> 12n), Number(bytes >> 12n), prot)
    if (status !== 0) throw new IommuError(...refusal(status))
  }

  /**
   * Unmaps what is mapped in a range, without invalidation; adds to {@link gather}.
   * @returns bytes unmapped
   * @throws EINVAL misaligned or empty
   */
  unmap(iova: U64Like, size: U64Like): bigint {
    const at = toU64(iova, "iova")
    const bytes = toU64(size, "size")
    const { pageSizes } = this.geometry
    if (bytes === 0n || ((at | bytes) & ((pageSizes & -pageSizes) - 1n)) !== 0n) {
      throw new IommuError("EINVAL", "what is unmapped is not empty and a multiple of the smallest page size")
    }
    return BigInt(unmapRange(this, Number(at >> 12n), Number(bytes >> 12n))) << 12n
  }

  iovaToPhys(iova: U64Like): bigint | null {
    const at = toU64(iova, "iova")
    return this.iovaToPhysHalves(hi32(at), lo32(at)) === 0 ? fromHalves(this.paHi, this.paLo) : null
  }

  mapPages(iovaHi: number, iovaLo: number, paHi: number, paLo: number, pages: number, prot: number): number {
    if (prot === this.geometry.prot && pages === this.geometry.unitPages) {
      const status = this.mapOne(iovaHi, iovaLo, paHi, paLo)
      if (status >= 0) return status
    }
    if (((iovaLo | paLo) & 0xfff) !== 0) return ERRNO.EINVAL
    return mapRange(this, pageOf(iovaHi, iovaLo), pageOf(paHi, paLo), pages, prot)
  }

  unmapPages(iovaHi: number, iovaLo: number, pages: number): number {
    if (pages === this.geometry.unitPages) {
      const done = this.unmapOne(iovaHi, iovaLo)
      if (done >= 0) return done
    }
    const page = pageOf(iovaHi, iovaLo)
    const unit = this.geometry.unitPages
    if ((iovaLo & 0xfff) !== 0 || !(pages > 0) || offsetIn(pages, unit) + offsetIn(page, unit) !== 0) return 0
    return unmapRange(this, page, pages)
  }

  /** Unrolled for 3 and 4 levels of 4 KiB granule and leaves of 4 KiB; {@link lookUp} knows all else. */
  iovaToPhysHalves(iovaHi: number, iovaLo: number): number {
    const { geometry, delta, words } = this
    const { plainMask } = geometry
    let table = this.rootWord
    if (geometry.walk !== 3) {
      const top = words[table + ((iovaHi >>> 6) & 0x3fe)] as number
      if ((top & plainMask) !== geometry.plain3) return lookUp(this, iovaHi, iovaLo)
      table = ((top & -4096) >>> 2) + delta
    }
    let entry = words[table + (((iovaHi << 3) | (iovaLo >>> 29)) & geometry.upperIndexMask)] as number
    if ((entry & plainMask) !== geometry.plain2) return lookUp(this, iovaHi, iovaLo)
    entry = words[((entry & -4096) >>> 2) + delta + ((iovaLo >>> 20) & 0x3fe)] as number
    if ((entry & plainMask) !== geometry.plain1) return lookUp(this, iovaHi, iovaLo)
    const slot = ((entry & -4096) >>> 2) + delta + ((iovaLo >>> 11) & 0x3fe)
    entry = words[slot] as number
    if (((entry & plainMask) | (iovaHi & geometry.beyondHi)) !== geometry.plain0) {
      return lookUp(this, iovaHi, iovaLo)
    }
    this.paLo = (entry & -4096) | (iovaLo & 0xfff)
    this.paHi = (words[slot + 1] as number) & geometry.addressHi
    return 0
  }

  /** Marks in `dirty` the leaves that hardware wrote to; a format without dirty tracking has none. */
  readDirty(dirty: DirtyBitmap): void {
    readDirty(this, dirty)
  }

  /** As {@link readDirty}, and makes them clean: adds to {@link gather}. */
  readAndClearDirty(dirty: DirtyBitmap): void {
    readAndClearDirty(this, dirty)
  }

  /** Makes all leaves clean, unreported, as dirty tracking begins: adds to {@link gather}. */
  clearDirty(): void {
    clearDirty(this)
  }

  /** Maps one smallest page where nothing is out of the ordinary. @returns 0, EEXIST, or -1 to go the long way */
  private mapOne(iovaHi: number, iovaLo: number, paHi: number, paLo: number): number {
    const { geometry, format } = this
    const offset = (1 << format.granuleLg2) - 1
    if (((iovaLo | paLo) & offset) !== 0 || geometry.plainPages === 0 || paHi > geometry.plainOutputHi)
      return -1
    if (!this.isReachable(iovaHi, iovaLo)) return -1
    const table = leafTable(this, iovaHi, iovaLo)
    if (table < 0) return -1
    const { words } = this
    const slot = table + indexInLeafTable(format, iovaLo)
    if (((words[slot] as number) | (words[slot + 1] as number)) !== 0) return ERRNO.EEXIST
    words[slot + 1] = paHi | geometry.leafHi | format.pageBitsHi
    words[slot] = paLo | geometry.leafLo | format.pageBitsLo
    return 0
  }

  /** Unmaps one leaf of the smallest size. @returns 4 KiB pages unmapped, or -1 to go the long way */
  private unmapOne(iovaHi: number, iovaLo: number): number {
    const { format } = this
    if ((iovaLo & ((1 << format.granuleLg2) - 1)) !== 0 || !this.isReachable(iovaHi, iovaLo)) return -1
    const table = leafTable(this, iovaHi, iovaLo)
    if (table < 0) return -1
    const { words } = this
    const slot = table + indexInLeafTable(format, iovaLo)
    const lo = words[slot] as number
    if ((lo & format.presentMask) === 0) return 0
    if ((lo & format.runBitsLo) !== 0 || ((words[slot + 1] as number) & format.runBitsHi) !== 0) return -1
    words[slot] = 0
    words[slot + 1] = 0
    const { unitPages } = this.geometry
    const page = pageOf(iovaHi, iovaLo)
    this.gathering().addLeaves(page, page + unitPages - 1, format.granuleLg2)
    return unitPages
  }

  private isReachable(iovaHi: number, iovaLo: number): boolean {
    const hi = iovaHi >>> 0
    const { geometry } = this
    const reachHi = geometry.reachHi >>> 0
    return hi < reachHi || (hi === reachHi && iovaLo >>> 0 <= geometry.reachLo >>> 0)
  }
}

export function createPageTable(options: PageTableOptions): PageTable {
  return new PageTable(options)
}

/** Offset in words of an IOVA's entry in a table of level 0. */
function indexInLeafTable(format: PageTableFormat, iovaLo: number): number {
  return ((iovaLo >>> format.granuleLg2) << 1) & ((2 << format.indexBits) - 2)
}

function pageOf(hi: number, lo: number): number {
  return (hi >>> 0) * PAGES_PER_4G + (lo >>> 12)
}

/** The errno of the number API with the sentence of the comfortable one. */
function refusal(errno: number): [ErrnoCode, string] {
  switch (errno) {
    case ERRNO.ERANGE:
      return ["ERANGE", "a mapping lies in the aperture and in the output width"]
    case ERRNO.EEXIST:
      return ["EEXIST", "a mapping needs IOVAs that nothing is mapped at"]
    case ERRNO.ENOMEM:
      return ["ENOMEM", "the account or the page allocator has no page left for a table"]
    default:
      return ["EINVAL", "a mapping is aligned to the smallest page, not empty, and readable or writable"]
  }
}
