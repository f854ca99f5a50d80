/**
 * Translations and paging structures that the unit keeps. Intel VT-d 5.10 (D51397-018) §6.1, §6.2.4, §6.2.5;
 * granularities of invalidations §6.5.2.3, §6.5.2.4.
 */
import * as core from "@iommu/core"
import { type CacheKinds, type CachePolicy, CacheStore } from "@iommu/core"
import { attributesOf } from "./attributes.ts"
import type { RecentPages } from "./recent-pages.ts"
import type { Transaction } from "./transaction.ts"
import * as transaction from "./transaction.ts"
import type { VtdTranslationResult } from "./translate.ts"

// Copies: V8 reads an imported constant through its module, which costs a walk a third of its time.
const { ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE } = core
const { LEAF_IS_DIRTY, LEAF_NOT_READ, MODE_NESTED, MODE_PASS_THROUGH, MODE_SECOND } = transaction
const READ_WRITE = ACCESS_READ | ACCESS_WRITE

// Words of a second-stage page: where it is, what it grants, bits 31:0 of its entry.
export const PA_HI = 0
export const PA_LO = 1
export const GRANTED = 2
export const LEAF = 3
const SECOND_WORDS = 4
/** Words of a first-stage or nested translation. */
const FIRST_WORDS = 7
/** What the walks keep of a table. */
const TABLE_WORDS = 7
const FAULT_WORDS = 3

/** What a cached translation is good for, beside reads (1) and writes (2) by a second stage. */
const FIRST_STAGE_WRITES = 1 << 2
const USER = 1 << 3
const EXECUTION = 1 << 4
/** Dirty flags are set, or nobody asks for them. */
export const DIRTY: number = 1 << 5
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
  /** Second-stage pages: the translations of devices without a first stage, and what nested walks go through. */
  readonly second: CacheStore
  /** Translations of first stages, alone or nested. */
  readonly first: CacheStore
  /** Where the walk goes on below entries that were read before. */
  readonly secondTables: CacheStore
  readonly firstTables: CacheStore
  /** Spans (log2 of pages) for which {@link second} or {@link first} ever held a record, as bits. */
  secondSpans = 0
  firstSpans = 0
  /** Of the record that {@link findSecond} found last. */
  span = 0
  readonly recent: RecentPages
  private readonly faults: CacheStore

  constructor({ walks, translations, stage2Pages }: CacheKinds, recent: RecentPages) {
    this.enabled = stage2Pages !== "none"
    this.keepsFirst = translations !== "none"
    const store = (policy: CachePolicy, sets: number, dataWords: number): CacheStore =>
      new CacheStore({ policy, sets, ways: 4, dataWords })
    this.second = store(stage2Pages, 256, SECOND_WORDS)
    this.first = store(translations, 256, FIRST_WORDS)
    this.secondTables = store(walks, 64, TABLE_WORDS)
    this.firstTables = store(walks, 64, TABLE_WORDS)
    this.faults = store(stage2Pages, 64, FAULT_WORDS)
    this.recent = recent
  }

  /** @returns index of the second-stage page that an address is in, -1 without */
  findSecond(hi: number, lo: number, domainId: number): number {
    this.span = 0
    const at = this.second.find((hi << 20) | (lo >>> 12), hi >>> 12, domainId, 0)
    return at >= 0 || this.secondSpans <= 1 ? at : this.findLargerSecond(hi, lo, domainId)
  }

  private findLargerSecond(hi: number, lo: number, domainId: number): number {
    const pageLo = (hi << 20) | (lo >>> 12)
    for (let span = 9; span <= 18; span += 9) {
      if (((this.secondSpans >>> span) & 1) === 0) continue
      const at = this.second.find(spanLo(pageLo, span), spanHi(hi >>> 12, span), domainId, 0)
      this.span = span
      if (at >= 0) return at
    }
    return -1
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
  t.looksUp = isSecond ? t.tlb.enabled : t.mode !== MODE_PASS_THROUGH && t.tlb.keepsFirst
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
  return t.mode === MODE_SECOND ? findSecondTranslation(t, result) : findFirstTranslation(t, result)
}

function findSecondTranslation(t: Transaction, result: VtdTranslationResult): boolean {
  const { tlb } = t
  const at = tlb.findSecond(t.iovaHi, t.iovaLo, t.domainId)
  if (at < 0) return false
  const words = tlb.second.words
  const granted = words[at + GRANTED] as number
  if (!grants(t, granted)) return false
  const sizeLg2 = tlb.span + 12
  t.ssLeaf = words[at + LEAF] as number
  result.paHi = words[at + PA_HI] as number
  result.paLo = ((words[at + PA_LO] as number) | (t.iovaLo & ((1 << sizeLg2) - 1))) >>> 0
  result.ipaHi = t.iovaHi >>> 0
  result.ipaLo = t.iovaLo >>> 0
  result.sizeLg2 = sizeLg2
  result.stage1SizeLg2 = 0
  result.stage2SizeLg2 = sizeLg2
  result.allowed = granted & READ_WRITE
  result.attributes = attributesOf(t)
  return true
}

/** Does a record grant what the request asks for? */
function grants(t: Transaction, granted: number): boolean {
  const access = t.access & READ_WRITE
  const needed = access | ((access & ACCESS_WRITE) !== 0 ? t.neededToWrite : t.neededToRead)
  return (granted & needed) === needed
}

function findFirstTranslation(t: Transaction, result: VtdTranslationResult): boolean {
  const pageLo = (t.iovaHi << 20) | (t.iovaLo >>> 12)
  const pageHi = t.iovaHi >>> 12
  const { first, firstSpans } = t.tlb
  let span = 0
  let at = first.find(pageLo, pageHi, t.domainId, t.effectivePasid)
  while (at < 0 && firstSpans >>> (span + 1) !== 0) {
    span += 9
    if (((firstSpans >>> span) & 1) === 0) continue
    at = first.find(spanLo(pageLo, span), spanHi(pageHi, span), t.domainId, t.effectivePasid)
  }
  if (at < 0) return false
  const words = first.words
  const granted = words[at + 2] as number
  if (!grants(t, granted)) return false
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
  if (t.mode === MODE_SECOND) {
    const isDirty = t.ssAccessed === 0 || (t.access & ACCESS_WRITE) !== 0
    keepSecondPage(t, t.iovaHi, t.iovaLo, isDirty ? DIRTY : 0)
    return
  }
  const store = tlb.first
  const span = result.sizeLg2 - 12
  const pageLo = (t.iovaHi << 20) | (t.iovaLo >>> 12)
  const at = store.insert(spanLo(pageLo, span), spanHi(t.iovaHi >>> 12, span), t.domainId, t.effectivePasid)
  const words = store.words
  const below = ~((1 << result.sizeLg2) - 1)
  words[at] = result.paHi
  words[at + 1] = result.paLo & below
  words[at + 2] = grantedByFirst(t)
  words[at + 3] = result.ipaHi
  words[at + 4] = result.ipaLo & below
  words[at + 5] = result.stage1SizeLg2 | (result.stage2SizeLg2 << 8)
  words[at + 6] = result.attributes
  tlb.firstSpans |= 1 << span
}

/** Keeps the page that a second-stage walk came to. @param dirty {@link DIRTY}, or 0 while a write has to go through the tables */
export function keepSecondPage(t: Transaction, hi: number, lo: number, dirty: number): void {
  const { tlb } = t
  const store = tlb.second
  const span = t.ssSizeLg2 - 12
  const at = store.insert(spanLo((hi << 20) | (lo >>> 12), span), spanHi(hi >>> 12, span), t.domainId, 0)
  const words = store.words
  words[at + PA_HI] = t.ssPaHi
  words[at + PA_LO] = t.ssPaLo & ~((1 << t.ssSizeLg2) - 1)
  words[at + GRANTED] = t.ssPermissions | dirty
  words[at + LEAF] = t.ssLeaf
  tlb.secondSpans |= 1 << span
}

/**
 * Takes the page of an address from the cache as the result of the second-stage walk, if it grants what is needed.
 * @param needed SS_R and SS_W, {@link DIRTY}
 * @returns false when the tables have to be walked
 */
export function recallSecondPage(t: Transaction, hi: number, lo: number, needed: number): boolean {
  const { tlb } = t
  const at = tlb.findSecond(hi, lo, t.domainId)
  if (at < 0) return false
  const words = tlb.second.words
  const granted = words[at + GRANTED] as number
  if ((granted & needed) !== needed) return false
  const sizeLg2 = tlb.span + 12
  t.ssPaHi = words[at + PA_HI] as number
  t.ssPaLo = (words[at + PA_LO] as number) | (lo & ((1 << sizeLg2) - 1))
  t.ssSizeLg2 = sizeLg2
  t.ssPermissions = granted & READ_WRITE
  t.ssLeaf = words[at + LEAF] as number
  t.ssLeafAt = (granted & DIRTY) !== 0 ? LEAF_IS_DIRTY : LEAF_NOT_READ
  return true
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
