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
import { Tlb } from "./tlb.ts"
import type { Transaction } from "./transaction.ts"
import type { VtdTranslationResult } from "./translate.ts"

const CONTEXT_WORDS = 7
const PASID_WORDS = 10

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
  private device = -1
  private pasid = -1
  private access = 0

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
    this.device = -1
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
  readonly enabled: boolean
  declare private readonly mask: number

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
