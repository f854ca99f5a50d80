/**
 * The tables of one domain: where the root is, how entries are followed, how tables come and go. The algorithms
 * over it (map, unmap, look up, dirty) are functions in files of their own.
 */
import {
  hi32,
  IommuError,
  isIommuError,
  lo32,
  type MemoryAccount,
  type PageAllocator,
  type PhysicalMemory,
} from "@iommu/core"
import type { PageTableFormat } from "./format.ts"
import { giveGather, NOTHING_GATHERED, type RangeGather, takeGather } from "./gather.ts"
import type { Geometry } from "./geometry.ts"

const TWO_32 = 0x1_0000_0000

/**
 * Fields are few and small integers: a domain at rest costs its table pages and little more. They are open to the
 * files of this package, not to users.
 */
export class TableTree {
  /** @internal Changes when levels do. */
  declare geometry: Geometry
  /** @internal The words of {@link memory}: reading them through it made a look-up half as slow again. */
  declare readonly words: Int32Array
  /** @internal */
  declare readonly allocator: PageAllocator
  /** @internal */
  declare readonly account: MemoryAccount
  /** @internal Address of the root, signed halves. */
  rootHi = 0
  /** @internal */
  rootLo = 0
  /** @internal Index of the root in `memory.words`. */
  rootWord = 0
  /**
   * @internal A table at address `lo` starts at word `(lo >>> 2) + delta` while the geometry is linear, verified for
   * each table when it is allocated: following an entry then costs one addition, where a look-up of the address
   * costs 1.6 to 3 ns.
   */
  delta = 0
  /** @internal Result of the last look-up, signed halves. */
  paHi = 0
  /** @internal */
  paLo = 0
  /** 4 KiB pages of tables, charged to the account. */
  tablePages = 0
  /** @internal */
  pending: RangeGather = NOTHING_GATHERED

  constructor(geometry: Geometry, allocator: PageAllocator, account: MemoryAccount) {
    this.geometry = geometry
    this.words = signedWords(allocator.memory)
    this.allocator = allocator
    this.account = account
    const address = allocator.alloc(geometry.rootPagesLg2, account)
    this.tablePages = 1 << geometry.rootPagesLg2
    this.delta = this.memory.find(address / TWO_32, address | 0) - ((address | 0) >>> 2)
    const word = this.wordOf(address, geometry.rootPagesLg2)
    if (word < 0) {
      allocator.free(address, geometry.rootPagesLg2, account)
      throw new IommuError("EFAULT", "a root larger than a page needs neighbouring pages of memory")
    }
    this.setRoot(address, word)
  }

  /** @internal */
  get memory(): PhysicalMemory {
    return this.allocator.memory
  }

  get format(): PageTableFormat {
    return this.geometry.format
  }

  /** Levels of tables now. Grows where the format allows: compare before and after a map. */
  get levels(): number {
    return this.geometry.levels
  }

  /** Index in `memory.words` of the table that an entry points to. */
  wordOfTable(hi: number, lo: number): number {
    const { format, isLinear } = this.geometry
    const tableLo = lo & (-1 << format.granuleLg2)
    if (isLinear) return (tableLo >>> 2) + this.delta
    return this.memory.find(addressHi(format, hi, lo), tableLo)
  }

  /** Physical address of the table that an entry points to. */
  addressOfTable(hi: number, lo: number): number {
    const { format } = this
    return addressHi(format, hi, lo) * TWO_32 + ((lo & (-1 << format.granuleLg2)) >>> 0)
  }

  /**
   * Allocates a table for the zero entry of `level` at word index `slot`.
   * @returns its word index, or -1 without memory
   */
  addTable(slot: number, level: number): number {
    const { format, words } = this
    const address = this.alloc(format.granuleLg2 - 12)
    if (address < 0) return -1
    const word = this.wordOf(address, format.granuleLg2 - 12)
    if (word < 0) {
      this.freeTable(address)
      return -1
    }
    const hi = address / TWO_32
    words[slot + 1] = entryAddressHi(format, hi) | (format.tableHi[level] as number)
    words[slot] = entryAddressLo(format, hi, address | 0) | (format.tableLo[level] as number)
    return word
  }

  /** Frees the table that the entry at word index `slot` points to at once, and clears the entry. */
  dropTable(slot: number): void {
    const { words } = this
    const address = this.addressOfTable(words[slot + 1] as number, words[slot] as number)
    words[slot] = 0
    words[slot + 1] = 0
    this.freeTable(address)
  }

  /** Gives a table's pages back to the allocator. */
  freeTable(address: number): void {
    const pagesLg2 = this.format.granuleLg2 - 12
    this.allocator.free(address, pagesLg2, this.account)
    this.tablePages -= 1 << pagesLg2
  }

  /** Puts a new root above the old one. @returns false without memory */
  grow(): boolean {
    const { format, levels } = this
    const address = this.alloc(0)
    if (address < 0) return false
    const word = this.wordOf(address, 0)
    const { words } = this
    words[word + 1] = entryAddressHi(format, this.rootHi >>> 0) | (format.tableHi[levels] as number)
    words[word] = entryAddressLo(format, this.rootHi >>> 0, this.rootLo) | (format.tableLo[levels] as number)
    this.geometry = this.geometry.withLevels(levels + 1)
    this.setRoot(address, word)
    return true
  }

  /** Undoes {@link grow}. */
  shrink(): void {
    const { words } = this
    const hi = words[this.rootWord + 1] as number
    const lo = words[this.rootWord] as number
    const top = this.rootHi * TWO_32 + (this.rootLo >>> 0)
    this.geometry = this.geometry.withLevels(this.levels - 1)
    this.setRoot(this.addressOfTable(hi, lo), this.wordOfTable(hi, lo))
    this.freeTable(top)
  }

  /** The gather to add to. */
  gathering(): RangeGather {
    if (this.pending === NOTHING_GATHERED) this.pending = takeGather()
    return this.pending
  }

  /** After the invalidation: emptied tables go back to the allocator. */
  gatherDone(): void {
    const { pending } = this
    if (pending === NOTHING_GATHERED) return
    for (let table = pending.takeTable(); table >= 0; table = pending.takeTable()) this.freeTable(table)
    this.pending = NOTHING_GATHERED
    giveGather(pending)
  }

  /** Frees all tables. Nothing is reachable afterwards. */
  free(): void {
    if (this.levels === 0) return
    this.gatherDone()
    this.freeBelow(this.rootWord, this.levels - 1, this.geometry.rootEntries)
    this.allocator.free(this.rootHi * TWO_32 + (this.rootLo >>> 0), this.geometry.rootPagesLg2, this.account)
    this.tablePages = 0
    this.geometry = this.geometry.withLevels(0)
  }

  private freeBelow(table: number, level: number, entries: number): void {
    if (level === 0) return
    const { format } = this
    const { words } = this
    for (let slot = table; slot < table + entries * 2; slot += 2) {
      const lo = words[slot] as number
      if (!isTable(format, lo, level)) continue
      const hi = words[slot + 1] as number
      this.freeBelow(this.wordOfTable(hi, lo), level - 1, 1 << format.indexBits)
      this.freeTable(this.addressOfTable(hi, lo))
    }
  }

  private setRoot(address: number, word: number): void {
    this.rootHi = (address / TWO_32) | 0
    this.rootLo = address | 0
    this.rootWord = word
  }

  private alloc(pagesLg2: number): number {
    try {
      const address = this.allocator.alloc(pagesLg2, this.account)
      this.tablePages += 1 << pagesLg2
      return address
    } catch (error) {
      if (isIommuError(error) && error.code === "ENOMEM") return -1
      throw error
    }
  }

  /**
   * Word index of a fresh table, or -1 when its pages are not neighbours in memory. Notices when it is not where
   * {@link delta} says.
   */
  private wordOf(address: number, pagesLg2: number): number {
    const at = BigInt(address)
    const word = this.memory.find(hi32(at), lo32(at))
    for (let page = 1; page < 1 << pagesLg2; page++) {
      const next = at + BigInt(page * 4096)
      if (this.memory.find(hi32(next), lo32(next)) !== word + page * 1024) return -1
    }
    if (((address | 0) >>> 2) + this.delta !== word) this.geometry = this.geometry.scattered()
    return word
  }
}

const views = new WeakMap<PhysicalMemory, Int32Array>()

/** Words of a memory as signed numbers, which V8 keeps as small integers: no check on each load. One view a memory. */
function signedWords(memory: PhysicalMemory): Int32Array {
  const view = views.get(memory) ?? new Int32Array(memory.words.buffer)
  views.set(memory, view)
  return view
}

/** True when an entry above level 0 points to a table. */
export function isTable(format: PageTableFormat, lo: number, level: number): boolean {
  return (lo & format.kindMask) === format.tableKind + (level - 1) * format.tableKindStep
}

/** Bits 63:32 of the address in an entry. */
export function addressHi(format: PageTableFormat, hi: number, lo: number): number {
  const inPlace = hi & format.addressHi
  if (format.movedMask === 0) return inPlace
  return inPlace | (((lo & format.movedMask) >>> format.movedTo) << (format.movedFrom - 32))
}

/** Bits 63:32 of an entry for an address. */
export function entryAddressHi(format: PageTableFormat, hi: number): number {
  return hi & format.addressHi
}

/** Bits 31:0 of an entry for an address. */
export function entryAddressLo(format: PageTableFormat, hi: number, lo: number): number {
  const inPlace = lo & format.addressLo
  if (format.movedMask === 0) return inPlace
  return inPlace | (((hi >>> (format.movedFrom - 32)) << format.movedTo) & format.movedMask)
}

/** Index of an IOVA's entry in a table whose items have 2^shift bytes. */
export function indexAt(iovaHi: number, iovaLo: number, shift: number, mask: number): number {
  return shift < 32
    ? ((iovaHi << (32 - shift)) | (iovaLo >>> shift)) & mask
    : (iovaHi >>> (shift - 32)) & mask
}
