/**
 * What the unit keeps of tables that it has read, and which of it an invalidation drops.
 * Intel VT-d 5.10 (D51397-018) §6.1, §6.2; granularities §6.5.2.1 to §6.5.2.4.
 *
 * | Cache | Tags |
 * |---|---|
 * | context-cache | source-id; in legacy mode also the domain-id |
 * | PASID-cache | source-id, PASID, domain-id |
 * | IOTLB, paging-structure caches of second-stage translations | domain-id |
 * | the same of first-stage and nested translations | domain-id, PASID |
 *
 * Not-present and erroneous entries are kept only in caching mode: those of contexts and PASIDs under domain-id 0,
 * those of a second stage under its domain-id. First-stage entries never are.
 */
import { ACCESS_EXEC, ACCESS_PRIV, type CachePolicy, CacheStore } from "@iommu/core"
import { TTM_LEGACY } from "../spec/registers.ts"
import type { Transaction } from "./transaction.ts"

const CONTEXT_WORDS = 7
const PASID_WORDS = 10
/** What translate.ts keeps of a translation, and what the walks keep of a table. */
const TRANSLATION_WORDS = 7
const TABLE_WORDS = 6
const FAULT_WORDS = 3

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

export class Caches {
  /** False under `none`. */
  readonly enabled: boolean
  /** Caching mode: what is not present is kept as well. */
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
  readonly #contexts: CacheStore
  readonly #pasids: CacheStore
  readonly #faults: CacheStore
  // The request whose entries stand in the transaction, so that the next one of its kind needs no look-up.
  private device = -1
  private pasid = -1
  private access = 0

  constructor(policy: CachePolicy, cachingMode: boolean) {
    this.enabled = policy !== "none"
    const store = (sets: number, dataWords: number): CacheStore =>
      new CacheStore({ policy, sets, ways: 4, dataWords })
    this.second = store(256, TRANSLATION_WORDS)
    this.first = store(256, TRANSLATION_WORDS)
    this.secondTables = store(64, TABLE_WORDS)
    this.firstTables = store(64, TABLE_WORDS)
    this.#contexts = store(32, CONTEXT_WORDS)
    this.#pasids = store(64, PASID_WORDS)
    this.#faults = store(64, FAULT_WORDS)
    this.configure(cachingMode)
  }

  /** Begins anew, as hardware that is or is not in caching mode. §6.1. */
  configure(cachingMode: boolean): void {
    this.keepsFaults = cachingMode && this.enabled
    this.dropAll()
  }

  /** The entries in the transaction are those of its request already. */
  hasEntries(t: Transaction): boolean {
    return (
      this.device === t.device &&
      this.pasid === t.pasid &&
      this.access === (t.access & (ACCESS_EXEC | ACCESS_PRIV)) &&
      t.trace === null
    )
  }

  noteEntries(t: Transaction): void {
    if (!this.enabled || t.trace !== null) return
    this.device = t.device
    this.pasid = t.pasid
    this.access = t.access & (ACCESS_EXEC | ACCESS_PRIV)
  }

  forgetEntries(): void {
    this.device = -1
  }

  /** @returns false when the context entry has to be read; else it stands in `t`, or `t.reason` is what is wrong */
  findContext(t: Transaction, ttm: number): boolean {
    const at = t.trace === null ? this.#contexts.find(t.device, ttm, 0, 0) : -1
    if (at < 0) return false
    const words = this.#contexts.words
    t.contextLo = words[at] as number
    t.contextHi = words[at + 1] as number
    t.contextLo1 = words[at + 2] as number
    t.fpd = words[at + 3] !== 0
    t.reason = words[at + 4] as number
    if (t.reason !== 0) t.fail(t.reason, 0, words[at + 5] as number, words[at + 6] as number)
    return true
  }

  /** Keeps a context entry that was read and is right, or, in caching mode, the reason that it is not. */
  keepContext(t: Transaction, ttm: number, reason: number): void {
    if (!this.#keeps(t, reason)) return
    const at = this.#contexts.insert(t.device, ttm, 0, 0)
    const words = this.#contexts.words
    words[at] = t.contextLo
    words[at + 1] = t.contextHi
    words[at + 2] = t.contextLo1
    words[at + 3] = t.fpd ? 1 : 0
    words[at + 4] = reason
    words[at + 5] = t.whereHi
    words[at + 6] = t.whereLo
  }

  /** As {@link findContext}, for the entry of the PASID that counts. */
  findPasid(t: Transaction): boolean {
    const at = t.trace === null ? this.#pasids.find(t.device, t.effectivePasid, 0, 0) : -1
    if (at < 0) return false
    const words = this.#pasids.words
    t.pasidLo = words[at] as number
    t.pasidHi = words[at + 1] as number
    t.pasidLo1 = words[at + 2] as number
    t.pasidLo2 = words[at + 3] as number
    t.pasidHi2 = words[at + 4] as number
    t.pasidHi1 = words[at + 9] as number
    if (words[at + 5] !== 0) t.fpd = true
    t.reason = words[at + 6] as number
    if (t.reason !== 0) t.fail(t.reason, 0, words[at + 7] as number, words[at + 8] as number)
    return true
  }

  keepPasid(t: Transaction, fpd: boolean, reason: number): void {
    if (!this.#keeps(t, reason)) return
    const at = this.#pasids.insert(t.device, t.effectivePasid, 0, 0)
    const words = this.#pasids.words
    words[at] = t.pasidLo
    words[at + 1] = t.pasidHi
    words[at + 2] = t.pasidLo1
    words[at + 3] = t.pasidLo2
    words[at + 4] = t.pasidHi2
    words[at + 5] = fpd ? 1 : 0
    words[at + 6] = reason
    words[at + 7] = t.whereHi
    words[at + 8] = t.whereLo
    words[at + 9] = t.pasidHi1
  }

  /** Status of a second-stage walk that found nothing, kept in caching mode; 0 when there is none. */
  findFault(t: Transaction, hi: number, lo: number): number {
    const at = this.#faults.find((hi << 20) | (lo >>> 12), spanHi(hi >>> 12, 0), t.domainId, 0)
    if (at < 0) return 0
    const words = this.#faults.words
    t.whereHi = (words[at + 1] as number) >>> 0
    t.whereLo = (words[at + 2] as number) >>> 0
    return words[at] as number
  }

  keepFault(t: Transaction, hi: number, lo: number, status: number): void {
    const at = this.#faults.insert((hi << 20) | (lo >>> 12), spanHi(hi >>> 12, 0), t.domainId, 0)
    const words = this.#faults.words
    words[at] = status
    words[at + 1] = t.whereHi
    words[at + 2] = t.whereLo
  }

  #keeps(t: Transaction, reason: number): boolean {
    return this.enabled && t.trace === null && (reason === 0 || this.keepsFaults)
  }

  /** Everything: SRTP where CAP.ESRTPS is 1, and a restored state. */
  dropAll(): void {
    this.dropContexts()
    this.dropPasids()
    this.dropTranslations()
  }

  /** Global invalidation of the context-cache. §6.5.2.1. */
  dropContexts(): void {
    this.forgetEntries()
    this.#contexts.clear()
  }

  /** Domain-selective. Context entries of scalable mode have no domain-id, and all of them go. §6.5.2.1. */
  dropContextsOfDomain(domainId: number): void {
    this.forgetEntries()
    this.#contexts.dropWhere(
      (_sid, ttm, _k2, _k3, at) => ttm !== TTM_LEGACY || this.#contextDomain(at) === domainId,
    )
  }

  /**
   * Device-selective: of a source-id, in legacy mode also with the domain-id. §6.5.2.1.
   * @param mask FM: 1 ignores bit 2 of the function, 2 bits 2:1, 3 bits 2:0
   */
  dropContextsOfDevice(domainId: number, sourceId: number, mask: number): void {
    const counts = ~((8 - (8 >>> mask)) & 7)
    this.forgetEntries()
    this.#contexts.dropWhere(
      (sid, ttm, _k2, _k3, at) =>
        (sid & counts) === (sourceId & counts) &&
        (ttm !== TTM_LEGACY || this.#contextDomain(at) === domainId),
    )
  }

  #contextDomain(at: number): number {
    const words = this.#contexts.words
    return words[at + 4] === 0 ? ((words[at + 2] as number) >>> 8) & 0xffff : 0
  }

  /** Global invalidation of the PASID-cache. §6.5.2.2. */
  dropPasids(): void {
    this.forgetEntries()
    this.#pasids.clear()
  }

  /** Domain-selective. §6.5.2.2. */
  dropPasidsOfDomain(domainId: number): void {
    this.forgetEntries()
    this.#pasids.dropWhere((_sid, _pasid, _k2, _k3, at) => this.#pasidDomain(at) === domainId)
  }

  /** PASID-selective within a domain. §6.5.2.2. */
  dropPasid(domainId: number, pasid: number): void {
    this.forgetEntries()
    this.#pasids.dropWhere((_sid, tag, _k2, _k3, at) => tag === pasid && this.#pasidDomain(at) === domainId)
  }

  #pasidDomain(at: number): number {
    const words = this.#pasids.words
    return words[at + 6] === 0 ? (words[at + 2] as number) & 0xffff : 0
  }

  /** Global invalidation of IOTLB and paging-structure caches. §6.5.2.3. */
  dropTranslations(): void {
    this.second.clear()
    this.first.clear()
    this.secondTables.clear()
    this.firstTables.clear()
    this.#faults.clear()
  }

  /** Domain-selective: every kind of translation. §6.5.2.3. */
  dropDomain(domainId: number): void {
    const ofDomain = (_k0: number, _k1: number, tag: number): boolean => tag === domainId
    this.second.dropWhere(ofDomain)
    this.secondTables.dropWhere(ofDomain)
    this.#faults.dropWhere(ofDomain)
    this.#dropFirstOfDomain(domainId)
  }

  /**
   * Page-selective within a domain: second-stage translations of 2^mask pages. What came through a first stage has
   * the tag of another address, so all of the domain goes. §6.5.2.3.
   * @param hint IH: entries that point to tables did not change
   */
  dropPages(domainId: number, hi: number, lo: number, mask: number, hint: boolean): void {
    const pageHi = hi >>> 12
    const pageLo = (hi << 20) | (lo >>> 12)
    const covered = (k0: number, k1: number, tag: number): boolean =>
      tag === domainId && overlaps(k0, k1, pageHi, pageLo, mask)
    if (mask <= PROBED_PAGES_LG2) probe(this.second, this.secondSpans, pageHi, pageLo, mask, domainId, 0)
    else this.second.dropWhere(covered)
    this.#faults.dropWhere(covered)
    if (!hint) this.secondTables.dropWhere(covered)
    this.#dropFirstOfDomain(domainId)
  }

  /** PASID-selective within a domain. §6.5.2.4. */
  dropPasidTranslations(domainId: number, pasid: number): void {
    const tagged = (_k0: number, _k1: number, did: number, tag: number): boolean =>
      did === domainId && tag === pasid
    this.first.dropWhere(tagged)
    this.firstTables.dropWhere(tagged)
  }

  /** Page-selective within a PASID: first-stage and nested translations of 2^mask pages. §6.5.2.4. */
  dropPasidPages(domainId: number, pasid: number, hi: number, lo: number, mask: number, hint: boolean): void {
    const pageHi = hi >>> 12
    const pageLo = (hi << 20) | (lo >>> 12)
    const covered = (k0: number, k1: number, did: number, tag: number): boolean =>
      did === domainId && tag === pasid && overlaps(k0, k1, pageHi, pageLo, mask)
    if (mask <= PROBED_PAGES_LG2) probe(this.first, this.firstSpans, pageHi, pageLo, mask, domainId, pasid)
    else this.first.dropWhere(covered)
    if (!hint) this.firstTables.dropWhere(covered)
  }

  #dropFirstOfDomain(domainId: number): void {
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
