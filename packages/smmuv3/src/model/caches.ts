/**
 * What the SMMU may keep of what it has read, and what drops it. Arm IHI 0070 G.b §3.17 (tags), §3.21 (what may be
 * kept), §4.3 and §4.4 (what commands drop), §16.2 (kinds of caches).
 *
 * - configuration, by StreamID: STEs and L1STDs, CDs and L1CDs, in any state: also those that are not valid
 * - pages, by address, StreamWorld, VMID and, unless global, ASID: of stage 1 alone, or of both stages together
 * - pages of stage 2, by intermediate address and VMID
 * - tables of both stages, by the range of addresses that they cover
 *
 * Of translation tables only what led to a translation is kept: no faults. Registers drop nothing, neither
 * CR0.SMMUEN nor STRTAB_BASE (§3.11, §3.21.3).
 */
import type { CacheKinds, CachePolicy, CacheStore } from "@iommu/core"
import { DeviceEntry } from "./device-entry.ts"
import { ContextEntry } from "./pasid-entry.ts"
import { WAY_UNKNOWN } from "./plain-walk.ts"
import { RecentPages } from "./recent-pages.ts"
import {
  PAGE_LG2,
  PageCache,
  pageNumber,
  REGIME_GLOBAL,
  REGIME_WORLD,
  Stage2PageCache,
  storeOf,
  TableCache,
} from "./tlb.ts"

/** Words of the record of an STE or CD: what checking it gave, and its object, counted from 1. */
const STRUCTURE_STATUS = 0
const STRUCTURE_OBJECT = 1
const STRUCTURE_WORDS = 2

/** Words of the record of an L1STD or L1CD. */
export const DESCRIPTOR_HI = 0
export const DESCRIPTOR_LO = 1
const DESCRIPTOR_WORDS = 2

const STRUCTURE_SETS = 32

/**
 * Structures that are checked and decoded once: each record has an object of its own, used again for the next one. The
 * first is made beforehand, not during a transaction.
 */
export class DecodedCache<T> {
  private readonly store: CacheStore
  private readonly objects: T[]
  private readonly create: () => T
  private used = 0

  constructor(policy: CachePolicy, create: () => T) {
    this.store = storeOf(policy, STRUCTURE_SETS, STRUCTURE_WORDS)
    this.create = create
    this.objects = [create()]
  }

  /** @returns a record, or -1 */
  find(streamId: number, index: number): number {
    return this.store.find(streamId, index, 0, 0)
  }

  insert(streamId: number, index: number): number {
    const at = this.store.insert(streamId, index, 0, 0)
    const { words } = this.store
    if (words[at + STRUCTURE_OBJECT] === 0) {
      if (++this.used > this.objects.length) this.objects.push(this.create())
      words[at + STRUCTURE_OBJECT] = this.used
    }
    return at
  }

  object(at: number): T {
    return this.objects[(this.store.words[at + STRUCTURE_OBJECT] as number) - 1] as T
  }

  status(at: number): number {
    return this.store.words[at + STRUCTURE_STATUS] as number
  }

  setStatus(at: number, status: number): void {
    this.store.words[at + STRUCTURE_STATUS] = status
  }

  dropWhere(isDropped: (streamId: number, index: number) => boolean): void {
    this.store.dropWhere(isDropped)
  }

  clear(): void {
    this.store.clear()
    this.objects.length = 1
    this.used = 0
  }
}

/** L1STDs and L1CDs. Both words are kept as read. */
export class DescriptorCache {
  readonly store: CacheStore

  constructor(policy: CachePolicy) {
    this.store = storeOf(policy, STRUCTURE_SETS, DESCRIPTOR_WORDS)
  }

  /** @param perTableLg2 log2 of the structures that one descriptor leads to */
  find(streamId: number, index: number, perTableLg2: number): number {
    return this.store.find(streamId, index, perTableLg2, 0)
  }

  insert(streamId: number, index: number, perTableLg2: number, hi: number, lo: number): void {
    const at = this.store.insert(streamId, index, perTableLg2, 0)
    this.store.words[at + DESCRIPTOR_HI] = hi
    this.store.words[at + DESCRIPTOR_LO] = lo
  }
}

/** A range of more pages is looked for in all records. */
const MAX_SINGLE_DROPS = 32

/** What a TLB invalidation is about. */
export class Scope {
  /** Bit n: StreamWorld n. */
  worlds = 1
  vmid = 0
  /** Bits of the VMID that count, §3.17.6. */
  vmidMask = 0xffff
  /** -1: all. */
  asid = -1
  /** Global pages stay. */
  sparesGlobal = false
  /** First and last page of 4 KiB. */
  first = 0
  last = 0
  /** TG and TTL; 0: any. */
  granule = 0
  level = 0
  /** Tables stay. */
  leaf = false

  /** All addresses of StreamWorld EL1 with a VMID. */
  all(vmid: number, vmidMask: number): void {
    this.worlds = 1
    this.vmid = vmid
    this.vmidMask = vmidMask
    this.asid = -1
    this.sparesGlobal = false
    this.first = 0
    this.last = Number.MAX_SAFE_INTEGER
    this.granule = 0
    this.level = 0
    this.leaf = false
  }

  /** Few enough keys to look for each. */
  get isNarrow(): boolean {
    return this.last - this.first < MAX_SINGLE_DROPS && this.asid >= 0 && this.vmidMask === 0xffff
  }

  /** The StreamWorld of a narrow scope. */
  get world(): number {
    return 31 - Math.clz32(this.worlds)
  }

  matchesTag(tag: number, regime: number): boolean {
    const world = regime & REGIME_WORLD
    if ((this.worlds & (1 << world)) === 0) return false
    // No other StreamWorld has VMIDs.
    if (world === 0 && (((tag >>> 16) ^ this.vmid) & this.vmidMask) !== 0) return false
    if ((regime & REGIME_GLOBAL) !== 0) return !this.sparesGlobal
    return this.asid < 0 || (tag & 0xffff) === this.asid
  }

  /** @param k0 and @param k1 of the range's key; @param sizeLg2 of what an address means when it means that range */
  matchesAddress(k0: number, k1: number, sizeLg2: number): boolean {
    const page = pageNumber(k0, k1)
    // A power, or the remainder of a double, is a call of 20 ns.
    const pages = sizeLg2 < 42 ? 1 << (sizeLg2 - PAGE_LG2) : 2 ** (sizeLg2 - PAGE_LG2)
    const first = Math.floor(page / pages) * pages
    return first <= this.last && this.first < first + pages
  }

  matchesLeaf(shape: number): boolean {
    if (this.granule !== 0 && (shape & 3) !== this.granule) return false
    return this.level === 0 || shape >> 2 === this.level + 1
  }

  /** Table descriptors from the root to the level before the leaf's, §4.4.1.1. */
  matchesTable(shape: number): boolean {
    if (this.leaf || (this.granule !== 0 && (shape & 3) !== this.granule)) return false
    return this.level === 0 || shape >> 2 <= this.level + 1
  }
}

export class Caches {
  /** False where the policy keeps none: then nothing of the kind is looked up or kept. */
  readonly keepsStructures: boolean
  /** Pages of whole transactions. */
  readonly keepsTranslations: boolean
  /** Pages of stage 2, or tables of both stages. */
  readonly keepsWalks: boolean
  readonly streams: DecodedCache<DeviceEntry>
  readonly streamTables: DescriptorCache
  readonly contexts: DecodedCache<ContextEntry>
  readonly contextTables: DescriptorCache
  readonly pages: PageCache
  readonly stage2Pages: Stage2PageCache
  readonly tables: TableCache
  readonly stage2Tables: TableCache
  readonly recent: RecentPages
  /**
   * How transactions may go whose STE and CD stand in their tables, so that the next one of their stream and substream
   * needs no look-up; and which these are.
   */
  way: number = WAY_UNKNOWN
  device = 0
  pasid = 0

  constructor({ structures, walks, translations, stage2Pages }: CacheKinds) {
    this.keepsStructures = structures !== "none"
    this.keepsTranslations = translations !== "none"
    this.keepsWalks = stage2Pages !== "none"
    this.streams = new DecodedCache(structures, () => new DeviceEntry())
    this.streamTables = new DescriptorCache(structures)
    this.contexts = new DecodedCache(structures, () => new ContextEntry())
    this.contextTables = new DescriptorCache(structures)
    this.pages = new PageCache(translations)
    this.stage2Pages = new Stage2PageCache(stage2Pages)
    this.tables = new TableCache(walks)
    this.stage2Tables = new TableCache(walks)
    this.recent = new RecentPages(this.keepsStructures && this.keepsTranslations)
  }

  hasEntries(device: number, pasid: number): boolean {
    return this.device === device && this.pasid === pasid && this.way !== WAY_UNKNOWN
  }

  /** The STE and the CD found last are those of this stream and substream, and are kept. */
  noteEntries(device: number, pasid: number, way: number): void {
    if (!this.keepsStructures) return
    this.way = way
    this.device = device
    this.pasid = pasid
  }

  /** Whoever looks for another STE or CD, or drops or replaces one, says so. */
  forgetEntries(): void {
    this.way = WAY_UNKNOWN
  }

  /** What answers whole transactions knows no more than the caches behind it. */
  private forgetAnswers(): void {
    this.forgetEntries()
    this.recent.clear()
  }

  /**
   * CMD_CFGI_STE, CMD_CFGI_STE_RANGE, CMD_CFGI_ALL: STEs and all that was found through them. §4.3.1, §4.3.2.
   * @param first first StreamID of an aligned range of 2^sizeLg2
   */
  dropStreams(first: number, sizeLg2: number, leaf: boolean): void {
    const isDropped = (streamId: number): boolean =>
      sizeLg2 >= 32 || ((streamId ^ first) & -(1 << sizeLg2)) === 0
    this.forgetAnswers()
    this.streams.dropWhere(isDropped)
    this.contexts.dropWhere(isDropped)
    this.contextTables.store.dropWhere(isDropped)
    if (leaf) return
    this.streamTables.store.dropWhere((_none, index, splitLg2) => {
      const larger = Math.max(sizeLg2, splitLg2)
      return larger >= 32 || ((index << splitLg2) ^ first) >>> larger === 0
    })
  }

  /** CMD_CFGI_CD, §4.3.3. */
  dropContext(streamId: number, substreamId: number, leaf: boolean): void {
    this.forgetAnswers()
    this.contexts.dropWhere((stream, index) => stream === (streamId | 0) && index === substreamId)
    if (leaf) return
    this.contextTables.store.dropWhere(
      (stream, index, leafLg2) => stream === (streamId | 0) && index === substreamId >>> leafLg2,
    )
  }

  /** CMD_CFGI_CD_ALL, §4.3.4. */
  dropContexts(streamId: number): void {
    this.forgetAnswers()
    this.contexts.dropWhere(stream => stream === (streamId | 0))
    this.contextTables.store.dropWhere(stream => stream === (streamId | 0))
  }

  /** Stage 1, and what has both stages in one. §4.4.2. */
  dropStage1(scope: Scope): void {
    this.recent.clear()
    this.pages.drop(scope)
    this.tables.drop(scope)
  }

  /** Stage 2 alone. What has both stages in one stays, §4.4.3.1. */
  dropStage2(scope: Scope): void {
    this.recent.clear()
    this.stage2Pages.drop(scope)
    this.stage2Tables.drop(scope)
  }

  /** Translation ends, or begins with other registers: all is asked anew. */
  disable(): void {
    this.forgetAnswers()
  }

  /** As after power-on. */
  clear(): void {
    this.forgetAnswers()
    this.streams.clear()
    this.streamTables.store.clear()
    this.contexts.clear()
    this.contextTables.store.clear()
    this.pages.clear()
    this.stage2Pages.clear()
    this.tables.clear()
    this.stage2Tables.clear()
  }
}
