/**
 * Translations and paging structures that the unit keeps. Intel VT-d 5.10 (D51397-018) §6.1, §6.2.4, §6.2.5;
 * granularities of invalidations §6.5.2.3, §6.5.2.4.
 */
import * as core from "@iommu/core"
import { type CacheKinds, type CachePolicy, CacheStore } from "@iommu/core"
import type { Transaction } from "./transaction.ts"
import * as transaction from "./transaction.ts"
import type { VtdTranslationResult } from "./translate.ts"

// Copies: V8 reads an imported constant through its module, which costs a walk a third of its time.
const { ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE } = core
const { MODE_NESTED, MODE_SECOND } = transaction
const READ_WRITE = ACCESS_READ | ACCESS_WRITE

const TRANSLATION_WORDS = 7
/** What the walks keep of a table. */
const TABLE_WORDS = 6
const FAULT_WORDS = 3

/** What a cached translation is good for, beside reads (1) and writes (2) by a second stage. */
const FIRST_STAGE_WRITES = 1 << 2
const USER = 1 << 3
const EXECUTION = 1 << 4
/** Dirty flags are set, or nobody asks for them. */
const DIRTY = 1 << 5
const EXTENDED_ACCESSED = 1 << 6

/** Above the 20 upper bits of a page number: how many low bits of it do not count. */
const SPAN_SHIFT = 20
const PAGE_HI = 0xfffff
/** A page-selective invalidation of at most this many pages looks each of them up. */
const PROBED_PAGES_LG2 = 2
/** log2 of the 4 KiB pages in a leaf. */
const LEAF_SPANS = [0, 9, 18] as const

/** Bits of a page number (52 bits in two words) that count for a span of 2^span pages. */
export function spanLo(pageLo: number, span: number): number {
  return span > 31 ? 0 : pageLo & (-1 << span)
}
export function spanHi(pageHi: number, span: number): number {
  const bits = span > 32 ? pageHi & (-1 << (span - 32)) : pageHi
  return (bits & PAGE_HI) | (span << SPAN_SHIFT)
}

export class Tlb {
  /** False where neither translations nor what shortens a walk is kept. */
  readonly enabled: boolean
  /** Translations of first stages are kept. */
  readonly keepsFirst: boolean
  /** Caching mode: second-stage walks that found nothing are kept as well. */
  keepsFaults = false
  /** Translations, each kind with the tags of its own. */
  readonly second: CacheStore
  readonly first: CacheStore
  /** Where the walk goes on below entries that were read before. */
  readonly secondTables: CacheStore
  readonly firstTables: CacheStore
  /** Spans (log2 of pages) for which {@link second} or {@link first} ever held a record, as bits. */
  secondSpans = 0
  firstSpans = 0
  readonly recent: RecentPages
  private readonly faults: CacheStore

  constructor({ structures, walks, translations, stage2Pages }: CacheKinds) {
    this.enabled = stage2Pages !== "none"
    this.keepsFirst = translations !== "none"
    const store = (policy: CachePolicy, sets: number, dataWords: number): CacheStore =>
      new CacheStore({ policy, sets, ways: 4, dataWords })
    this.second = store(stage2Pages, 256, TRANSLATION_WORDS)
    this.first = store(translations, 256, TRANSLATION_WORDS)
    this.secondTables = store(walks, 64, TABLE_WORDS)
    this.firstTables = store(walks, 64, TABLE_WORDS)
    this.faults = store(stage2Pages, 64, FAULT_WORDS)
    this.recent = new RecentPages(translations !== "none" && structures !== "none")
  }

  /** Status of a second-stage walk that found nothing, kept in caching mode; 0 when there is none. */
  findFault(t: Transaction, hi: number, lo: number): number {
    const at = this.faults.find((hi << 20) | (lo >>> 12), spanHi(hi >>> 12, 0), t.domainId, 0)
    if (at < 0) return 0
    const words = this.faults.words
    t.whereHi = (words[at + 1] as number) >>> 0
    t.whereLo = (words[at + 2] as number) >>> 0
    return words[at] as number
  }

  keepFault(t: Transaction, hi: number, lo: number, status: number): void {
    const at = this.faults.insert((hi << 20) | (lo >>> 12), spanHi(hi >>> 12, 0), t.domainId, 0)
    const words = this.faults.words
    words[at] = status
    words[at + 1] = t.whereHi
    words[at + 2] = t.whereLo
  }

  /** Global invalidation of IOTLB and paging-structure caches. §6.5.2.3. */
  dropAll(): void {
    this.recent.clear()
    this.second.clear()
    this.first.clear()
    this.secondTables.clear()
    this.firstTables.clear()
    this.faults.clear()
  }

  /** Domain-selective: every kind of translation. §6.5.2.3. */
  dropDomain(domainId: number): void {
    this.recent.clear()
    const ofDomain = (_k0: number, _k1: number, tag: number): boolean => tag === domainId
    this.second.dropWhere(ofDomain)
    this.secondTables.dropWhere(ofDomain)
    this.faults.dropWhere(ofDomain)
    this.dropFirstOfDomain(domainId)
  }

  /**
   * Page-selective within a domain: second-stage translations of 2^mask pages. What came through a first stage has
   * the tag of another address, so all of the domain goes. §6.5.2.3.
   * @param hint IH: entries that point to tables did not change
   */
  dropPages(domainId: number, hi: number, lo: number, mask: number, hint: boolean): void {
    this.recent.clear()
    const pageHi = hi >>> 12
    const pageLo = (hi << 20) | (lo >>> 12)
    const covered = (k0: number, k1: number, tag: number): boolean =>
      tag === domainId && overlaps(k0, k1, pageHi, pageLo, mask)
    if (mask <= PROBED_PAGES_LG2) probe(this.second, this.secondSpans, pageHi, pageLo, mask, domainId, 0)
    else this.second.dropWhere(covered)
    this.faults.dropWhere(covered)
    if (!hint) this.secondTables.dropWhere(covered)
    this.dropFirstOfDomain(domainId)
  }

  /** PASID-selective within a domain. §6.5.2.4. */
  dropPasid(domainId: number, pasid: number): void {
    this.recent.clear()
    const tagged = (_k0: number, _k1: number, did: number, tag: number): boolean =>
      did === domainId && tag === pasid
    this.first.dropWhere(tagged)
    this.firstTables.dropWhere(tagged)
  }

  /** Page-selective within a PASID: first-stage and nested translations of 2^mask pages. §6.5.2.4. */
  dropPasidPages(domainId: number, pasid: number, hi: number, lo: number, mask: number, hint: boolean): void {
    this.recent.clear()
    const pageHi = hi >>> 12
    const pageLo = (hi << 20) | (lo >>> 12)
    const covered = (k0: number, k1: number, did: number, tag: number): boolean =>
      did === domainId && tag === pasid && overlaps(k0, k1, pageHi, pageLo, mask)
    if (mask <= PROBED_PAGES_LG2) probe(this.first, this.firstSpans, pageHi, pageLo, mask, domainId, pasid)
    else this.first.dropWhere(covered)
    if (!hint) this.firstTables.dropWhere(covered)
  }

  private dropFirstOfDomain(domainId: number): void {
    const ofDomain = (_k0: number, _k1: number, tag: number): boolean => tag === domainId
    this.first.dropWhere(ofDomain)
    this.firstTables.dropWhere(ofDomain)
  }
}

/** Do the pages of a record and 2^mask pages, aligned to that, have one in common? */
function overlaps(k0: number, k1: number, pageHi: number, pageLo: number, mask: number): boolean {
  const span = Math.max(k1 >>> SPAN_SHIFT, mask)
  return spanLo(k0 ^ pageLo, span) === 0 && (spanHi(k1 ^ pageHi, span) & PAGE_HI) === 0
}

function probe(
  store: CacheStore,
  spans: number,
  pageHi: number,
  pageLo: number,
  mask: number,
  domainId: number,
  pasid: number,
): void {
  const first = spanLo(pageLo, mask)
  for (const span of LEAF_SPANS) {
    if (((spans >>> span) & 1) === 0) continue
    // Spans beyond the mask hold all of its pages.
    const pages = span >= mask ? 1 : 1 << mask
    for (let n = 0; n < pages; n++) {
      store.drop(spanLo(first + n, span), spanHi(pageHi, span), domainId, pasid)
    }
  }
}

/** What all look-ups have in common while requests come from one device and PASID. */
export function prepareLookUp(t: Transaction): void {
  const isSecond = t.mode === MODE_SECOND
  t.lookUp = isSecond ? t.tlb.second : t.tlb.first
  t.lookUpPasid = isSecond ? 0 : t.effectivePasid
  t.neededToRead = isSecond ? 0 : neededByFirst(t)
  t.neededToWrite = t.neededToRead | DIRTY | (isSecond || (t.privileged && !t.wpe) ? 0 : FIRST_STAGE_WRITES)
}

function neededByFirst(t: Transaction): number {
  return (
    (t.privileged ? 0 : USER) |
    ((t.access & ACCESS_EXEC) !== 0 ? EXECUTION : 0) |
    (t.eafe ? EXTENDED_ACCESSED : 0)
  )
}

/**
 * Looks a request up in the IOTLB. What a cached translation does not grant, and a write to a page whose dirty flag is
 * not known to be set, goes to the tables.
 * @returns false when the tables have to be walked
 */
export function findTranslation(t: Transaction, result: VtdTranslationResult): boolean {
  const pageLo = (t.iovaHi << 20) | (t.iovaLo >>> 12)
  const pageHi = t.iovaHi >>> 12
  const store = t.lookUp
  let span = 0
  let at = store.find(pageLo, pageHi, t.domainId, t.lookUpPasid)
  if (at < 0) {
    const spans = t.mode === MODE_SECOND ? t.tlb.secondSpans : t.tlb.firstSpans
    while (at < 0 && span < 18) {
      span += 9
      if (((spans >>> span) & 1) === 0) continue
      at = store.find(spanLo(pageLo, span), spanHi(pageHi, span), t.domainId, t.lookUpPasid)
    }
    if (at < 0) return false
  }
  const words = store.words
  const granted = words[at + 2] as number
  const access = t.access & READ_WRITE
  const needed = access | ((access & ACCESS_WRITE) !== 0 ? t.neededToWrite : t.neededToRead)
  if ((granted & needed) !== needed) return false
  const offset = t.iovaLo & ((4096 << span) - 1)
  const sizes = words[at + 5] as number
  result.paHi = words[at] as number
  result.paLo = ((words[at + 1] as number) | offset) >>> 0
  result.ipaHi = words[at + 3] as number
  result.ipaLo = ((words[at + 4] as number) | offset) >>> 0
  result.sizeLg2 = span + 12
  result.stage1SizeLg2 = sizes & 0xff
  result.stage2SizeLg2 = sizes >>> 8
  result.allowed = allowedBy(t, granted)
  result.attributes = words[at + 6] as number
  return true
}

/** Reads are always allowed by a valid first-stage translation. §3.6.1. */
function allowedBy(t: Transaction, granted: number): number {
  const needed = t.neededToWrite & FIRST_STAGE_WRITES
  return (granted & needed) === needed ? granted & READ_WRITE : granted & ACCESS_READ
}

/** Puts the translation that a walk just came to into the IOTLB. */
export function keepTranslation(t: Transaction, result: VtdTranslationResult): void {
  const { tlb } = t
  const isSecond = t.mode === MODE_SECOND
  const store = isSecond ? tlb.second : tlb.first
  const span = result.sizeLg2 - 12
  const pageLo = (t.iovaHi << 20) | (t.iovaLo >>> 12)
  const pasid = isSecond ? 0 : t.effectivePasid
  const at = store.insert(spanLo(pageLo, span), spanHi(t.iovaHi >>> 12, span), t.domainId, pasid)
  const words = store.words
  const below = ~((1 << result.sizeLg2) - 1)
  words[at] = result.paHi
  words[at + 1] = result.paLo & below
  words[at + 2] = isSecond ? grantedBySecond(t) : grantedByFirst(t)
  words[at + 3] = result.ipaHi
  words[at + 4] = result.ipaLo & below
  words[at + 5] = result.stage1SizeLg2 | (result.stage2SizeLg2 << 8)
  words[at + 6] = result.attributes
  if (isSecond) tlb.secondSpans |= 1 << span
  else tlb.firstSpans |= 1 << span
}

function grantedBySecond(t: Transaction): number {
  const isDirty = t.ssAccessed === 0 || (t.access & ACCESS_WRITE) !== 0
  return t.ssPermissions | (isDirty ? DIRTY : 0)
}

function grantedByFirst(t: Transaction): number {
  return (
    (t.mode === MODE_NESTED ? t.ssPermissions : ACCESS_READ | ACCESS_WRITE) |
    (t.fsWritable !== 0 ? FIRST_STAGE_WRITES : 0) |
    (t.fsUser !== 0 ? USER : 0) |
    (t.fsExecutable ? EXECUTION : 0) |
    ((t.access & ACCESS_WRITE) !== 0 ? DIRTY : 0) |
    (t.eafe ? EXTENDED_ACCESSED : 0)
  )
}

// Words of a recent page, in a power of two.
const DEVICE = 2
const PASID = 3
const ACCESS = 4
const PA_HI = 5
const PA_LO = 6
const IPA_HI = 7
const IPA_LO = 8
const SIZES = 9
const ATTRIBUTES = 10
const RECENT_LG2 = 4
const RECENT_PAGES = 512
const VALID = 1

/**
 * The last requests' pages with the whole answer, tables and entries included: one look-up for all. Every invalidation
 * of anything empties it, so that it never knows more than the caches behind it.
 */
export class RecentPages {
  private readonly words: Int32Array
  private used = false
  private readonly enabled: boolean
  private readonly mask: number

  constructor(enabled: boolean) {
    this.words = new Int32Array(enabled ? RECENT_PAGES << RECENT_LG2 : 1 << RECENT_LG2)
    this.enabled = enabled
    this.mask = enabled ? RECENT_PAGES - 1 : 0
  }

  find(
    device: number,
    pasid: number,
    hi: number,
    lo: number,
    access: number,
    result: VtdTranslationResult,
  ): boolean {
    const words = this.words
    const at = ((((lo >>> 12) + Math.imul(device, 0x85eb_ca6b) + pasid) | 0) & this.mask) << RECENT_LG2
    if (
      words[at] !== ((lo & -4096) | VALID) ||
      words[at + 1] !== (hi | 0) ||
      words[at + DEVICE] !== device ||
      words[at + PASID] !== pasid ||
      words[at + ACCESS] !== access
    ) {
      return false
    }
    const sizes = words[at + SIZES] as number
    const offset = lo & 0xfff
    result.paHi = words[at + PA_HI] as number
    result.paLo = ((words[at + PA_LO] as number) | offset) >>> 0
    result.ipaHi = words[at + IPA_HI] as number
    result.ipaLo = ((words[at + IPA_LO] as number) | offset) >>> 0
    result.sizeLg2 = sizes & 0xff
    result.stage1SizeLg2 = (sizes >>> 8) & 0xff
    result.stage2SizeLg2 = (sizes >>> 16) & 0xff
    result.allowed = sizes >>> 24
    result.attributes = words[at + ATTRIBUTES] as number
    return true
  }

  /** Keeps the answer to a request that the caches answered. */
  keep(t: Transaction, result: VtdTranslationResult): void {
    if (!this.enabled) return
    const words = this.words
    const lo = t.iovaLo
    const at = ((((lo >>> 12) + Math.imul(t.device, 0x85eb_ca6b) + t.pasid) | 0) & this.mask) << RECENT_LG2
    this.used = true
    words[at] = (lo & -4096) | VALID
    words[at + 1] = t.iovaHi
    words[at + DEVICE] = t.device
    words[at + PASID] = t.pasid
    words[at + ACCESS] = t.access
    words[at + PA_HI] = result.paHi
    words[at + PA_LO] = result.paLo & -4096
    words[at + IPA_HI] = result.ipaHi
    words[at + IPA_LO] = result.ipaLo & -4096
    words[at + SIZES] =
      result.sizeLg2 | (result.stage1SizeLg2 << 8) | (result.stage2SizeLg2 << 16) | (result.allowed << 24)
    words[at + ATTRIBUTES] = result.attributes
  }

  clear(): void {
    if (!this.used) return
    this.words.fill(0)
    this.used = false
  }
}
