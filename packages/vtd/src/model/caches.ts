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
import * as core from "@iommu/core"
import { type CacheKinds, CacheStore } from "@iommu/core"
import { TTM_LEGACY } from "../spec/registers.ts"
import { RecentPages } from "./recent-pages.ts"
import { Tlb } from "./tlb.ts"
import type { Transaction } from "./transaction.ts"

const CONTEXT_WORDS = 7
const PASID_WORDS = 10
/** In the place of a device. */
const NOBODY = -1

// Copies: V8 reads an imported constant through its module.
const { ACCESS_EXEC, ACCESS_PRIV } = core

export class Caches {
  readonly tlb: Tlb
  /** False under `none`. */
  readonly #enabled: boolean
  /** Caching mode: what is not present is kept as well. */
  #keepsFaults = false
  readonly #contexts: CacheStore
  readonly #pasids: CacheStore
  // The request whose entries stand in the transaction, so that the next one of its kind needs no look-up.
  private device = NOBODY
  private pasid = -1
  private access = 0
  /** Whose requests to read or write may go to a plain walk without being looked at: nothing can have changed. */
  isPlain = false
  plainDevice = 0
  plainPasid = 0

  constructor(policies: CacheKinds, cachingMode: boolean) {
    const policy = policies.structures
    this.#enabled = policy !== "none"
    const keepsAnswers = policy !== "none" && policies.translations !== "none"
    this.tlb = new Tlb(policies, new RecentPages(keepsAnswers))
    this.#contexts = new CacheStore({ policy, sets: 32, ways: 4, dataWords: CONTEXT_WORDS })
    this.#pasids = new CacheStore({ policy, sets: 64, ways: 4, dataWords: PASID_WORDS })
    this.configure(cachingMode)
  }

  /** Begins anew, as hardware that is or is not in caching mode. §6.1. */
  configure(cachingMode: boolean): void {
    this.#keepsFaults = cachingMode && this.#enabled
    this.tlb.keepsFaults = cachingMode && this.tlb.enabled
    this.dropAll()
  }

  /** The entries in the transaction are those of its request already. */
  hasEntries(t: Transaction): boolean {
    return (
      this.device === t.device &&
      this.pasid === t.pasid &&
      this.access === (t.access & (ACCESS_EXEC | ACCESS_PRIV))
    )
  }

  noteEntries(t: Transaction): void {
    if (!this.#enabled) return
    this.device = t.device
    this.pasid = t.pasid
    this.access = t.access & (ACCESS_EXEC | ACCESS_PRIV)
  }

  forgetEntries(): void {
    this.device = NOBODY
    this.forgetPlain()
  }

  /** A plain walk has answered a request with the entries in the transaction, which are asked no more where they are noted. */
  notePlain(t: Transaction): void {
    if (this.access !== 0 || this.device !== t.device || this.pasid !== t.pasid) return
    this.isPlain = true
    this.plainDevice = t.device
    this.plainPasid = t.pasid
  }

  /** Requests have to be looked at again: a register or the trace says something else. */
  forgetPlain(): void {
    this.isPlain = false
  }

  /** @returns false when the context entry has to be read; else it stands in `t`, or `t.reason` is what is wrong */
  findContext(t: Transaction, ttm: number): boolean {
    const at = this.#contexts.find(t.device, ttm, 0, 0)
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
    if (!this.#keeps(reason)) return
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
    const at = this.#pasids.find(t.device, t.effectivePasid, 0, 0)
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
    if (!this.#keeps(reason)) return
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

  #keeps(reason: number): boolean {
    return this.#enabled && (reason === 0 || this.#keepsFaults)
  }

  /** Everything: SRTP where CAP.ESRTPS is 1, and a restored state. */
  dropAll(): void {
    this.dropContexts()
    this.dropPasids()
    this.tlb.dropAll()
  }

  /** An invalidation: what was put together from several caches goes. */
  forgetAnswers(): void {
    this.forgetEntries()
    this.tlb.recent.clear()
  }

  /** Global invalidation of the context-cache. §6.5.2.1. */
  dropContexts(): void {
    this.forgetAnswers()
    this.#contexts.clear()
  }

  /** Domain-selective. Context entries of scalable mode have no domain-id, and all of them go. §6.5.2.1. */
  dropContextsOfDomain(domainId: number): void {
    this.forgetAnswers()
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
    this.forgetAnswers()
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
    this.forgetAnswers()
    this.#pasids.clear()
  }

  /** Domain-selective. §6.5.2.2. */
  dropPasidsOfDomain(domainId: number): void {
    this.forgetAnswers()
    this.#pasids.dropWhere((_sid, _pasid, _k2, _k3, at) => this.#pasidDomain(at) === domainId)
  }

  /** PASID-selective within a domain. §6.5.2.2. */
  dropPasid(domainId: number, pasid: number): void {
    this.forgetAnswers()
    this.#pasids.dropWhere((_sid, tag, _k2, _k3, at) => tag === pasid && this.#pasidDomain(at) === domainId)
  }

  #pasidDomain(at: number): number {
    const words = this.#pasids.words
    return words[at + 6] === 0 ? (words[at + 2] as number) & 0xffff : 0
  }
}
