/**
 * Caches of translations: pages of both stages and the tables above them, their tags, and what is dropped.
 * Arm IHI 0070 G.b §3.17, §4.4; Arm DDI 0487 §D8.16 (TLB maintenance).
 *
 * Only what led to a translation is kept: no faults.
 */
import { type CachePolicy, CacheStore } from "@iommu/core"
import { shapeOf } from "./transaction.ts"

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
const REGIME_WORLD = 3
const REGIME_GLOBAL = 4
/**
 * Entries without stage 2 never serve a stream with stage 2, even where software uses one VMID for both (§5.4.1: no
 * way around stage 2).
 */
export const REGIME_NESTED = 8
const REGIME_SHAPE_SHIFT = 4

const SIZE_LG2 = 0x3f
const KIND_REGIME_SHIFT = 6
/** 3 granules with 5 levels of 2 kinds at most. */
const MAX_KINDS = 64

/** Sets under `exact`; a hoard begins small and grows. */
const PAGE_SETS = 256
const TABLE_SETS = 64
const HOARD_SETS = 8
const WAYS = 4
/** A range of more pages is looked for in all records. */
const MAX_SINGLE_DROPS = 32
const PAGES_PER_4GIB = 2 ** 20

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

  matchesAddress(hi: number, lo: number, sizeLg2: number): boolean {
    const page = pageNumber(hi, lo)
    // The page itself may be a piece of the leaf that the address meant.
    const first = page - (page % 2 ** (sizeLg2 - 12))
    return first <= this.last && this.first < first + 2 ** (sizeLg2 - 12)
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

/**
 * Records about naturally aligned ranges of addresses. Their keys: address and size, VMID and ASID, regime. Stage 2
 * has the tags of StreamWorld EL1 with ASID 0.
 */
abstract class RangeCache {
  readonly store: CacheStore
  /** Counts what may have moved or ended records. */
  changes = 0
  /** What keys have or had beside address and tags: size, and the part of the regime that look-ups have to guess. */
  protected readonly kinds: Int32Array = new Int32Array(MAX_KINDS)
  protected kindCount = 0

  constructor(policy: CachePolicy, sets: number, dataWords: number) {
    this.store = storeOf(policy, sets, dataWords)
  }

  protected findSized(sizeLg2: number, hi: number, lo: number, tag: number, regime: number): number {
    return sizeLg2 < 32
      ? this.store.find((lo & -(1 << sizeLg2)) | sizeLg2, hi, tag, regime)
      : this.store.find(sizeLg2, hi & -(1 << (sizeLg2 - 32)), tag, regime)
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
    return sizeLg2 < 32
      ? this.store.insert((lo & -(1 << sizeLg2)) | sizeLg2, hi, tag, regime | extra)
      : this.store.insert(sizeLg2, hi & -(1 << (sizeLg2 - 32)), tag, regime | extra)
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
    const tag = (scope.vmid << 16) | scope.asid
    for (let n = 0; n < this.kindCount; n++) {
      const kind = this.kinds[n] as number
      const extra = kind >>> KIND_REGIME_SHIFT
      const global = (extra & REGIME_GLOBAL) !== 0
      for (const nested of [0, REGIME_NESTED]) {
        const regime = scope.world | nested | extra
        this.dropKey(scope, kind & SIZE_LG2, page, global ? scope.vmid << 16 : tag, regime)
        if (global) this.dropKey(scope, kind & SIZE_LG2, page, (scope.vmid << 16) | 1, regime)
      }
    }
  }

  private dropKey(scope: Scope, sizeLg2: number, page: number, tag: number, regime: number): void {
    const hi = Math.floor(page / PAGES_PER_4GIB) | 0
    const lo = (page % PAGES_PER_4GIB) << 12
    const at = this.findSized(sizeLg2, hi, lo, tag, regime)
    if (at < 0 || !this.matches(scope, lo | sizeLg2, hi, regime, at)) return
    if (sizeLg2 < 32) this.store.drop((lo & -(1 << sizeLg2)) | sizeLg2, hi, tag, regime)
    else this.store.drop(sizeLg2, hi & -(1 << (sizeLg2 - 32)), tag, regime)
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
    const at = this.findKind(this.kinds[0] as number, hi, lo, tag, globalTag, regime)
    return at >= 0 || this.kindCount < 2 ? at : this.findOther(hi, lo, tag, globalTag, regime)
  }

  private findKind(
    kind: number,
    hi: number,
    lo: number,
    tag: number,
    globalTag: number,
    regime: number,
  ): number {
    return kind <= SIZE_LG2
      ? this.findSized(kind, hi, lo, tag, regime)
      : this.findSized(kind & SIZE_LG2, hi, lo, globalTag, regime | REGIME_GLOBAL)
  }

  private findOther(hi: number, lo: number, tag: number, globalTag: number, regime: number): number {
    const { kinds } = this
    for (let n = 1; n < this.kindCount; n++) {
      const kind = kinds[n] as number
      const at = this.findKind(kind, hi, lo, tag, globalTag, regime)
      if (at < 0) continue
      kinds[n] = kinds[0] as number
      kinds[0] = kind
      return at
    }
    return -1
  }

  insert(sizeLg2: number, hi: number, lo: number, tag: number, regime: number): number {
    return this.insertSized(sizeLg2, hi, lo, tag, regime, 0)
  }

  insertGlobal(sizeLg2: number, hi: number, lo: number, globalTag: number, regime: number): number {
    return this.insertSized(sizeLg2, hi, lo, globalTag, regime, REGIME_GLOBAL)
  }

  protected override get isWhole(): boolean {
    return !this.hasPieces
  }

  /** A piece of a leaf goes with its leaf. */
  protected override matches(scope: Scope, k0: number, k1: number, _regime: number, at: number): boolean {
    const info = this.store.words[at + PAGE_INFO] as number
    const sizeLg2 = Math.max(k0 & SIZE_LG2, (info >> INFO_SIZE1_SHIFT) & SIZE_LG2)
    return scope.matchesLeaf(info >>> INFO_SHAPE_SHIFT) && scope.matchesAddress(k1, k0, sizeLg2)
  }
}

/** Pages of stage 2. */
export class Stage2PageCache extends RangeCache {
  /** log2 of the page found last. */
  sizeLg2 = 0

  constructor(policy: CachePolicy) {
    super(policy, PAGE_SETS, LEAF_WORDS)
  }

  find(hi: number, lo: number, vmid: number): number {
    const { kinds } = this
    for (let n = 0; n < this.kindCount; n++) {
      const sizeLg2 = kinds[n] as number
      const at = this.findSized(sizeLg2, hi, lo, vmid << 16, 0)
      if (at < 0) continue
      kinds[n] = kinds[0] as number
      kinds[0] = sizeLg2
      this.sizeLg2 = sizeLg2
      return at
    }
    return -1
  }

  insert(sizeLg2: number, hi: number, lo: number, vmid: number): number {
    return this.insertSized(sizeLg2, hi, lo, vmid << 16, 0, 0)
  }

  protected override matches(scope: Scope, k0: number, k1: number, _regime: number, at: number): boolean {
    const shape = this.store.words[at + LEAF_SHAPE] as number
    return scope.matchesLeaf(shape) && scope.matchesAddress(k1, k0, k0 & SIZE_LG2)
  }
}

/** Of tables of 4 KiB granule and last level, which nearly all walks end in. */
const NEAR_LG2 = 21
const NEAR_SHAPE: number = shapeOf(12, 3)

/** Tables of one stage, by the range that a whole table covers. */
export class TableCache extends RangeCache {
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

  /** @param sizeLg2 log2 of the range; @param shape granule and level of the table */
  find(sizeLg2: number, hi: number, lo: number, tag: number, regime: number, shape: number): number {
    return this.findSized(sizeLg2, hi, lo, tag, regime | (shape << REGIME_SHAPE_SHIFT))
  }

  insert(sizeLg2: number, hi: number, lo: number, tag: number, regime: number, shape: number): number {
    return this.insertSized(sizeLg2, hi, lo, tag, regime, shape << REGIME_SHAPE_SHIFT)
  }

  /** As {@link find} for a table of 4 KiB granule and last level: the next address is often below the same one. */
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
    const at = this.find(NEAR_LG2, hi, lo, tag, regime, NEAR_SHAPE)
    if (at < 0) return -1
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
    return scope.matchesTable(regime >>> REGIME_SHAPE_SHIFT) && scope.matchesAddress(k1, k0, k0 & SIZE_LG2)
  }
}

/** Sets under `exact`; a hoard begins small and grows. */
export function storeOf(policy: CachePolicy, sets: number, dataWords: number): CacheStore {
  return new CacheStore({ policy, sets: policy === "hoard" ? HOARD_SETS : sets, ways: WAYS, dataWords })
}

function pageNumber(hi: number, lo: number): number {
  return (hi >>> 0) * PAGES_PER_4GIB + (lo >>> 12)
}
