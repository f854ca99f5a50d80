/**
 * Caches of translations: pages of both stages and the tables above them, their tags, and what is dropped.
 * Arm IHI 0070 G.b §3.17, §4.4; Arm DDI 0487 §D8.16 (TLB maintenance).
 *
 * Only what led to a translation is kept: no faults.
 */
import { ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE, type CachePolicy, CacheStore } from "@iommu/core"
import { LAST_LEVEL } from "../spec/page-tables.ts"
import type { Scope } from "./caches.ts"
import type { Geometry } from "./transaction.ts"

/** Words of a page's record. Both addresses are of the page. */
export const PAGE_PA_HI = 0
export const PAGE_PA_LO = 1
export const PAGE_IPA_HI = 2
export const PAGE_IPA_LO = 3
export const PAGE_INFO = 4
/** Bits 31:0 of the leaves, which attributes come from. */
export const PAGE_LEAF1 = 5
export const PAGE_LEAF2 = 6
const PAGE_WORDS = 7

/**
 * PAGE_INFO, from bit 0: ACCESS_READ, WRITE and EXEC of stage 1 for unprivileged and for privileged accesses, the
 * same of stage 2; whether a write has a dirty state to update; log2 of the leaf of each stage, 0 without the stage;
 * granule and level of the stage 1 leaf.
 */
export const INFO_PRIVILEGED_SHIFT = 3
export const INFO_STAGE2_SHIFT = 6
export const INFO_CLEAN: number = 1 << 12
export const INFO_SIZE1_SHIFT = 13
export const INFO_SIZE2_SHIFT = 19
export const INFO_SHAPE_SHIFT = 25

/** Words of a stage 2 page's record: the descriptor, bits 63:32 of its address, granule and level. */
export const LEAF_HI = 0
export const LEAF_LO = 1
export const LEAF_BASE_HI = 2
export const LEAF_SHAPE = 3
const LEAF_WORDS = 4

/** Words of a table's record. A table of stage 1 behind stage 2 also has its physical address, if that is one. */
export const TABLE_HI = 0
export const TABLE_LO = 1
export const TABLE_LIMITS = 2
export const TABLE_PA_KNOWN = 3
export const TABLE_PA_HI = 4
export const TABLE_PA_LO = 5
const TABLE_WORDS = 6

/** Regime, the last word of the key of pages and of stage 1 tables: StreamWorld, and what else keeps them apart. */
export const REGIME_WORLD = 3
export const REGIME_GLOBAL = 4
/**
 * Entries without stage 2 never serve a stream with stage 2, even where software uses one VMID for both (§5.4.1: no
 * way around stage 2).
 */
export const REGIME_NESTED = 8
const REGIME_SHAPE_SHIFT = 4

export const PAGE_LG2 = 12
const SIZE_LG2 = 0x3f
/** The size of a range stands above bits 63:44 of its address in a key. */
const SIZE_KEY_SHIFT = 20
const KIND_REGIME_SHIFT = 6
/** 3 granules with 5 levels of 2 kinds at most. */
const MAX_KINDS = 64

/** Granule and level of a leaf, or of the table that a table descriptor leads to. Granules as TG has them, §4.4.1.1. */
export function shapeOf(granuleLg2: number, level: number): number {
  return ((granuleLg2 - 10) >> 1) | ((level + 1) << 2)
}

const ALL_ACCESS = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC
/** Sets under `exact`; a hoard begins small and grows. */
const PAGE_SETS = 256
const TABLE_SETS = 64
const HOARD_SETS = 8
const WAYS = 4
const PAGES_PER_4GIB = 2 ** 20

/**
 * Records about naturally aligned ranges of addresses. Their keys: address and size, VMID and ASID, regime. Stage 2
 * has the tags of StreamWorld EL1 with ASID 0.
 */
abstract class RangeCache {
  readonly store: CacheStore
  /** Counts what may have moved or ended records; 0 is before all of that. */
  changes = 1
  /** What keys have or had beside address and tags: size, and the part of the regime that look-ups have to guess. */
  protected readonly kinds: Int32Array = new Int32Array(MAX_KINDS)
  protected kindCount = 0

  constructor(policy: CachePolicy, sets: number, dataWords: number) {
    this.store = storeOf(policy, sets, dataWords)
  }

  protected findSized(sizeLg2: number, hi: number, lo: number, tag: number, regime: number): number {
    return this.store.find(pageKey(sizeLg2, hi, lo), sizeKey(sizeLg2, hi), tag, regime)
  }

  protected insertSized(
    sizeLg2: number,
    hi: number,
    lo: number,
    tag: number,
    regime: number,
    extra: number,
  ): number {
    const kind = sizeLg2 | (extra << KIND_REGIME_SHIFT)
    this.changes++
    let known = 0
    while (known < this.kindCount && this.kinds[known] !== kind) known++
    if (known === this.kindCount) this.kinds[this.kindCount++] = kind
    return this.store.insert(pageKey(sizeLg2, hi, lo), sizeKey(sizeLg2, hi), tag, regime | extra)
  }

  clear(): void {
    this.changes++
    this.store.clear()
    this.kindCount = 0
  }

  /** Drops what a command is about. */
  drop(scope: Scope): void {
    this.changes++
    if (scope.isNarrow && this.isWhole) {
      for (let page = scope.first; page <= scope.last; page++) this.dropPage(scope, page)
      return
    }
    this.store.dropWhere(
      (k0, k1, tag, regime, at) => scope.matchesTag(tag, regime) && this.matches(scope, k0, k1, regime, at),
    )
  }

  /** Whether what an address is about has that address in its own range. */
  protected get isWhole(): boolean {
    return true
  }

  protected abstract matches(scope: Scope, k0: number, k1: number, regime: number, at: number): boolean

  private dropPage(scope: Scope, page: number): void {
    const hi = (page / PAGES_PER_4GIB) | 0
    const lo = page << PAGE_LG2
    for (let n = 0; n < this.kindCount; n++) {
      const kind = this.kinds[n] as number
      const regime = scope.world | (kind >>> KIND_REGIME_SHIFT)
      this.dropKind(scope, kind & SIZE_LG2, hi, lo, regime)
      this.dropKind(scope, kind & SIZE_LG2, hi, lo, regime | REGIME_NESTED)
    }
  }

  private dropKind(scope: Scope, sizeLg2: number, hi: number, lo: number, regime: number): void {
    const vmid = scope.vmid << 16
    if ((regime & REGIME_GLOBAL) === 0) {
      this.dropKey(scope, sizeLg2, hi, lo, vmid | scope.asid, regime)
      return
    }
    // The two sets of ASIDs.
    this.dropKey(scope, sizeLg2, hi, lo, vmid, regime)
    this.dropKey(scope, sizeLg2, hi, lo, vmid | 1, regime)
  }

  private dropKey(scope: Scope, sizeLg2: number, hi: number, lo: number, tag: number, regime: number): void {
    const at = this.findSized(sizeLg2, hi, lo, tag, regime)
    if (at < 0) return
    const k0 = pageKey(sizeLg2, hi, lo)
    const k1 = sizeKey(sizeLg2, hi)
    if (this.matches(scope, k0, k1, regime, at)) this.store.drop(k0, k1, tag, regime)
  }
}

/** Pages of stage 1, or of both stages together. */
export class PageCache extends RangeCache {
  /** There are pages that are pieces of a stage 1 leaf, for stage 2 is made of smaller ones. */
  hasPieces = false

  constructor(policy: CachePolicy) {
    super(policy, PAGE_SETS, PAGE_WORDS)
  }

  /**
   * Tries the kinds there are, the one that hit last first.
   * @param tag VMID and ASID
   * @param globalTag the same with ASET in the place of the ASID, §3.17.1
   */
  find(hi: number, lo: number, tag: number, globalTag: number, regime: number): number {
    const { kinds } = this
    for (let n = 0; n < this.kindCount; n++) {
      const kind = kinds[n] as number
      const at =
        kind <= SIZE_LG2
          ? this.findSized(kind, hi, lo, tag, regime)
          : this.findSized(kind & SIZE_LG2, hi, lo, globalTag, regime | REGIME_GLOBAL)
      if (at < 0) continue
      kinds[n] = kinds[0] as number
      kinds[0] = kind
      return at
    }
    return -1
  }

  /** @param tag and @param regime of a global page: with ASET, with REGIME_GLOBAL */
  insert(sizeLg2: number, hi: number, lo: number, tag: number, regime: number): number {
    return this.insertSized(sizeLg2, hi, lo, tag, regime, regime & REGIME_GLOBAL)
  }

  /** ACCESS_* bits that stage 1 grants; higher up those of stage 2. */
  grants(at: number, privileged: boolean): number {
    const info = this.store.words[at + PAGE_INFO] as number
    return privileged ? info >> INFO_PRIVILEGED_SHIFT : info
  }

  /** ACCESS_* bits that both stages grant. */
  allows(at: number, privileged: boolean): number {
    const grants = this.grants(at, privileged)
    return grants & (grants >> INFO_STAGE2_SHIFT) & ALL_ACCESS
  }

  /** A write has a dirty state to update. */
  isClean(at: number): boolean {
    return ((this.store.words[at + PAGE_INFO] as number) & INFO_CLEAN) !== 0
  }

  protected override get isWhole(): boolean {
    return !this.hasPieces
  }

  /** A piece of a leaf goes with its leaf. */
  protected override matches(scope: Scope, k0: number, k1: number, _regime: number, at: number): boolean {
    const info = this.store.words[at + PAGE_INFO] as number
    const sizeLg2 = Math.max(k1 >>> SIZE_KEY_SHIFT, (info >> INFO_SIZE1_SHIFT) & SIZE_LG2)
    return scope.matchesLeaf(info >>> INFO_SHAPE_SHIFT) && scope.matchesAddress(k0, k1, sizeLg2)
  }
}

/** Slots of {@link Stage2PageCache.recent}; words of each, in a power of two: IPA, VMID, changes, size, record. */
const RECENT_PAGES = 256
const RECENT_LG2 = 3
const PAGE_MASK = -4096

/** Pages of stage 2. */
export class Stage2PageCache extends RangeCache {
  /** log2 of the page found last. */
  sizeLg2 = 0
  /** Where 4 KiB pages were found lately, until records move. */
  private readonly recent: Int32Array = new Int32Array(RECENT_PAGES << RECENT_LG2)

  constructor(policy: CachePolicy) {
    super(policy, PAGE_SETS, LEAF_WORDS)
  }

  find(hi: number, lo: number, vmid: number): number {
    const { recent } = this
    const slot = ((lo >>> PAGE_LG2) & (RECENT_PAGES - 1)) << RECENT_LG2
    if (
      recent[slot] === (lo & PAGE_MASK) &&
      recent[slot + 1] === hi &&
      recent[slot + 2] === vmid &&
      recent[slot + 3] === this.changes
    ) {
      this.sizeLg2 = recent[slot + 4] as number
      return recent[slot + 5] as number
    }
    return this.findAnew(hi, lo, vmid, slot)
  }

  private findAnew(hi: number, lo: number, vmid: number, slot: number): number {
    const { kinds, recent } = this
    for (let n = 0; n < this.kindCount; n++) {
      const sizeLg2 = kinds[n] as number
      const at = this.findSized(sizeLg2, hi, lo, vmid << 16, 0)
      if (at < 0) continue
      kinds[n] = kinds[0] as number
      kinds[0] = sizeLg2
      this.sizeLg2 = sizeLg2
      recent[slot] = lo & PAGE_MASK
      recent[slot + 1] = hi
      recent[slot + 2] = vmid
      recent[slot + 3] = this.changes
      recent[slot + 4] = sizeLg2
      recent[slot + 5] = at
      return at
    }
    return -1
  }

  insert(sizeLg2: number, hi: number, lo: number, vmid: number): number {
    return this.insertSized(sizeLg2, hi, lo, vmid << 16, 0, 0)
  }

  protected override matches(scope: Scope, k0: number, k1: number, _regime: number, at: number): boolean {
    const shape = this.store.words[at + LEAF_SHAPE] as number
    return scope.matchesLeaf(shape) && scope.matchesAddress(k0, k1, k1 >>> SIZE_KEY_SHIFT)
  }
}

/** Of tables of 4 KiB granule and last level, which nearly all walks end in. */
const NEAR_LG2 = 21
const NEAR_REGIME: number = shapeOf(PAGE_LG2, LAST_LEVEL) << REGIME_SHAPE_SHIFT

/** Tables of one stage, by the range that a whole table covers. */
export class TableCache extends RangeCache {
  level = 0
  /** Where {@link findNear} found its last table, until records change. */
  private nearAt = -1
  private nearHi = 0
  private nearLo = 0
  private nearTag = 0
  private nearRegime = 0
  private nearChanges = -1

  constructor(policy: CachePolicy) {
    super(policy, TABLE_SETS, TABLE_WORDS)
  }

  /** @returns the record, with the table's address; the rest is for the caller to fill */
  insert(
    g: Geometry,
    level: number,
    hi: number,
    lo: number,
    tag: number,
    regime: number,
    tableHi: number,
    tableLo: number,
  ): number {
    const extra = shapeOf(g.stride + 3, level) << REGIME_SHAPE_SHIFT
    const at = this.insertSized(g.coveredLg2(level), hi, lo, tag, regime, extra)
    this.store.words[at + TABLE_HI] = tableHi
    this.store.words[at + TABLE_LO] = tableLo
    return at
  }

  /** The deepest table that is known, its level in {@link level}; or -1. */
  findDeepest(g: Geometry, hi: number, lo: number, tag: number, regime: number): number {
    for (let level = LAST_LEVEL; level > g.startLevel; level--) {
      const shape = shapeOf(g.stride + 3, level)
      const at = this.findSized(g.coveredLg2(level), hi, lo, tag, regime | (shape << REGIME_SHAPE_SHIFT))
      if (at < 0) continue
      this.level = level
      return at
    }
    return -1
  }

  /** A table of 4 KiB granule and last level: the next address is often below the same one. */
  findNear(hi: number, lo: number, tag: number, regime: number): number {
    const range = lo & -(1 << NEAR_LG2)
    if (
      range === this.nearLo &&
      hi === this.nearHi &&
      tag === this.nearTag &&
      regime === this.nearRegime &&
      this.changes === this.nearChanges
    ) {
      return this.nearAt
    }
    const at = this.findSized(NEAR_LG2, hi, lo, tag, regime | NEAR_REGIME)
    this.nearAt = at
    this.nearHi = hi
    this.nearLo = range
    this.nearTag = tag
    this.nearRegime = regime
    this.nearChanges = this.changes
    return at
  }

  override drop(scope: Scope): void {
    if (!scope.leaf) super.drop(scope)
  }

  protected override matches(scope: Scope, k0: number, k1: number, regime: number, _at: number): boolean {
    return (
      scope.matchesTable(regime >>> REGIME_SHAPE_SHIFT) && scope.matchesAddress(k0, k1, k1 >>> SIZE_KEY_SHIFT)
    )
  }
}

/** Sets under `exact`; a hoard begins small and grows. */
export function storeOf(policy: CachePolicy, sets: number, dataWords: number): CacheStore {
  return new CacheStore({ policy, sets: policy === "hoard" ? HOARD_SETS : sets, ways: WAYS, dataWords })
}

export function pageNumber(k0: number, k1: number): number {
  return (k1 & ((1 << SIZE_KEY_SHIFT) - 1)) * 2 ** 32 + (k0 >>> 0)
}

/** The first word of a key: bits 43:12 of the range's address. Neighbouring pages have neighbouring keys. */
function pageKey(sizeLg2: number, hi: number, lo: number): number {
  const page = (lo >>> PAGE_LG2) | (hi << (32 - PAGE_LG2))
  return sizeLg2 < 44 ? page & -(1 << (sizeLg2 - PAGE_LG2)) : 0
}

/** The second: bits 63:44, and the size above them. */
function sizeKey(sizeLg2: number, hi: number): number {
  const high = hi >>> PAGE_LG2
  return (sizeLg2 <= 44 ? high : high & -(1 << (sizeLg2 - 44))) | (sizeLg2 << SIZE_KEY_SHIFT)
}
