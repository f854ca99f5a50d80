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
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  type CacheKinds,
  type CachePolicy,
  type CacheStore,
  type TranslationResult,
} from "@iommu/core"
import { fillResult, recallLeaves } from "./attributes.ts"
import { DeviceEntry } from "./device-entry.ts"
import { ContextEntry } from "./pasid-entry.ts"
import {
  INFO_CLEAN,
  INFO_PRIVILEGED_SHIFT,
  INFO_STAGE2_SHIFT,
  PAGE_INFO,
  PageCache,
  type Scope,
  Stage2PageCache,
  storeOf,
  TableCache,
} from "./tlb.ts"
import type { Transaction } from "./transaction.ts"
import type { Stage1Walk } from "./walk-stage1.ts"
import type { Stage2Walk } from "./walk-stage2.ts"

/** Words of the record of an STE or CD: what checking it gave, and its object, counted from 1. */
const STRUCTURE_STATUS = 0
const STRUCTURE_OBJECT = 1
const STRUCTURE_WORDS = 2

/** Words of the record of an L1STD or L1CD. */
export const DESCRIPTOR_HI = 0
export const DESCRIPTOR_LO = 1
const DESCRIPTOR_WORDS = 2

const STRUCTURE_SETS = 32

/** Structures that are checked and decoded once: each record has an object of its own, used again for the next one. */
export class DecodedCache<T> {
  private readonly store: CacheStore
  private readonly objects: T[] = []
  private readonly create: () => T

  constructor(policy: CachePolicy, create: () => T) {
    this.store = storeOf(policy, STRUCTURE_SETS, STRUCTURE_WORDS)
    this.create = create
  }

  /** @returns a record, or -1 */
  find(streamId: number, index: number): number {
    return this.store.find(streamId, index, 0, 0)
  }

  insert(streamId: number, index: number): number {
    const at = this.store.insert(streamId, index, 0, 0)
    const { words } = this.store
    if (words[at + STRUCTURE_OBJECT] === 0) words[at + STRUCTURE_OBJECT] = this.objects.push(this.create())
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
    this.objects.length = 0
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

export class Caches {
  /** False under `none`: no structure, no translation, nothing that shortens a walk is looked up or kept. */
  readonly keepsStructures: boolean
  readonly keepsTranslations: boolean
  readonly keepsWalks: boolean
  readonly streams: DecodedCache<DeviceEntry>
  readonly streamTables: DescriptorCache
  readonly contexts: DecodedCache<ContextEntry>
  readonly contextTables: DescriptorCache
  readonly pages: PageCache
  readonly stage2Pages: Stage2PageCache
  readonly tables: TableCache
  readonly stage2Tables: TableCache
  /** Changes with the records of configuration. */
  configuration = 0

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
  }

  /**
   * CMD_CFGI_STE, CMD_CFGI_STE_RANGE, CMD_CFGI_ALL: STEs and all that was found through them. §4.3.1, §4.3.2.
   * @param first first StreamID of an aligned range of 2^sizeLg2
   */
  dropStreams(first: number, sizeLg2: number, leaf: boolean): void {
    const isDropped = (streamId: number): boolean =>
      sizeLg2 >= 32 || ((streamId ^ first) & -(1 << sizeLg2)) === 0
    this.configuration++
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
    this.configuration++
    this.contexts.dropWhere((stream, index) => stream === (streamId | 0) && index === substreamId)
    if (leaf) return
    this.contextTables.store.dropWhere(
      (stream, index, leafLg2) => stream === (streamId | 0) && index === substreamId >>> leafLg2,
    )
  }

  /** CMD_CFGI_CD_ALL, §4.3.4. */
  dropContexts(streamId: number): void {
    this.configuration++
    this.contexts.dropWhere(stream => stream === (streamId | 0))
    this.contextTables.store.dropWhere(stream => stream === (streamId | 0))
  }

  /** Stage 1, and what has both stages in one. §4.4.2. */
  dropStage1(scope: Scope): void {
    this.pages.drop(scope)
    this.tables.drop(scope)
  }

  /** Stage 2 alone. What has both stages in one stays, §4.4.3.1. */
  dropStage2(scope: Scope): void {
    this.stage2Pages.drop(scope)
    this.stage2Tables.drop(scope)
  }

  /** As after power-on. */
  clear(): void {
    this.configuration++
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

/** What CMD_PREFETCH_* bring into the caches. §4.2. */
export interface Prefetcher {
  structures(device: number, pasid: number): void
  addresses(device: number, pasid: number, span: PrefetchSpan): void
}

export interface PrefetchSpan {
  readonly first: bigint
  readonly strideLg2: number
  readonly count: number
}

const ALL_ACCESS = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC
const READ_WRITE = ACCESS_READ | ACCESS_WRITE
const PAGE_MASK = -4096
const RECENT_PAGES = 256
// V8 loads a binding of another module from memory at each use, one of its own not.
const WRITE = ACCESS_WRITE
const EXEC = ACCESS_EXEC
const PRIV = ACCESS_PRIV
const CLEAN = INFO_CLEAN
const INFO = PAGE_INFO
const PRIVILEGED_SHIFT = INFO_PRIVILEGED_SHIFT
const STAGE2_SHIFT = INFO_STAGE2_SHIFT

/** What {@link LastTransaction} needs of the translator. */
interface TranslationParts {
  readonly caches: Caches
  readonly result: TranslationResult
  readonly streams: { entry: DeviceEntry }
  readonly contexts: { context: ContextEntry }
  readonly stage1: Stage1Walk
  readonly stage2: Stage2Walk
}

/**
 * Structures of the last transaction with stage 1, as long as caches hold them. The next one with the same StreamID
 * and SubstreamID goes from here straight to its page.
 */
export class LastTransaction {
  entry: DeviceEntry
  context: ContextEntry
  /** {@link finds} has looked for a page, and there is none. */
  misses = false
  private readonly parts: TranslationParts
  private readonly caches: Caches
  private readonly keepsTranslations: boolean
  private readonly pages: PageCache
  private readonly result: TranslationResult
  /** Where pages were found lately: address, epoch, record. */
  private readonly recent = new Int32Array(RECENT_PAGES * 4)
  private epoch = 1
  private changes = 0
  private device = -1
  private pasid = 0
  private configuration = -1
  private tag = 0
  private globalTag = 0
  private regime = 0
  /** Neither STE nor CD make anything else of addresses and attributes. */
  private isPlain = false
  private alwaysPrivileged = 0

  constructor(parts: TranslationParts) {
    this.parts = parts
    this.caches = parts.caches
    this.keepsTranslations = parts.caches.keepsTranslations
    this.pages = parts.caches.pages
    this.result = parts.result
    this.entry = parts.streams.entry
    this.context = parts.contexts.context
  }

  remember({ device, pasid }: Transaction, entry: DeviceEntry, context: ContextEntry): void {
    const { stage1 } = context
    this.epoch++
    this.entry = entry
    this.context = context
    this.device = device
    this.pasid = pasid
    this.configuration = this.caches.configuration
    this.tag = context.tag
    this.globalTag = context.globalTag
    this.regime = context.regime
    const changesAddress = stage1.topByteIgnoredLower || stage1.topByteIgnoredUpper
    this.misses = false
    this.isPlain = !entry.overrides && !changesAddress && !stage1.asksPrivilege
    this.alwaysPrivileged = stage1.singlePrivilege ? PRIV : 0
  }

  matches(device: number, pasid: number): boolean {
    return device === this.device && pasid === this.pasid && this.configuration === this.caches.configuration
  }

  /** Whether a page is kept that allows the access as it stands; then the result is filled. */
  finds(hi: number, lo: number, access: number): boolean {
    if (!this.isPlain || !this.keepsTranslations) return false
    this.misses = false
    const at = this.locate(hi | 0, lo | 0)
    if (at < 0) {
      this.misses = true
      return false
    }
    const words = this.pages.store.words
    const info = words[at + INFO] as number
    const needed = (access & (EXEC | WRITE)) === EXEC ? EXEC : access & READ_WRITE
    const grants = ((access | this.alwaysPrivileged) & PRIV) !== 0 ? info >> PRIVILEGED_SHIFT : info
    const allowed = grants & (grants >> STAGE2_SHIFT) & ALL_ACCESS
    if ((allowed & needed) !== needed || ((info & CLEAN) !== 0 && (needed & WRITE) !== 0)) return false
    fillResult(this.result, words, at, info, allowed, hi, lo)
    const { streams, contexts, stage1, stage2 } = this.parts
    if (streams.entry !== this.entry || contexts.context !== this.context) {
      streams.entry = this.entry
      contexts.context = this.context
    }
    if (stage2.config !== this.entry.stage2Config) stage2.config = this.entry.stage2Config
    recallLeaves(words, at, stage1, stage2)
    if (this.result.fault !== null) this.result.fault = null
    return true
  }

  private locate(hi: number, lo: number): number {
    if (this.changes !== this.pages.changes) {
      this.changes = this.pages.changes
      this.epoch++
    }
    const { recent } = this
    const page = lo & PAGE_MASK
    const slot = ((page >>> 12) & (RECENT_PAGES - 1)) << 2
    if (recent[slot] === page && recent[slot + 1] === hi && recent[slot + 2] === this.epoch) {
      return recent[slot + 3] as number
    }
    const at = this.pages.find(hi, lo, this.tag, this.globalTag, this.regime)
    if (at < 0) return -1
    recent[slot] = page
    recent[slot + 1] = hi
    recent[slot + 2] = this.epoch
    recent[slot + 3] = at
    return at
  }
}
