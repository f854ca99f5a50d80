/**
 * Translations and directory entries that the IOMMU keeps. AMD 48882 rev 3.10, §2.2.2.1 (DomainID as their tag) and
 * §2.4.3 (address ranges of invalidations).
 */
import { type CachePolicy, CacheStore } from "@iommu/core"
import { DOMAIN_ID_MASK } from "../spec/device-table.ts"

/** In the place of a PASID: host translations. */
export const HOST_TABLES = -1

// Words of a translation. Both addresses are of the page.
export const PA_HI = 0
export const PA_LO = 1
export const GPA_HI = 2
export const GPA_LO = 3
export const INFO = 4
/** See attributes.ts. */
export const ATTRIBUTES = 5
const PAGE_WORDS = 6

// INFO. What all tables grant, and what the guest's alone do: ACCESS bits, with GRANT_USER in the place of PRIV.
export const GRANTS_MASK = 0xf
export const GUEST_GRANTS_SHIFT = 4
/** Accesses without ACCESS_PRIV are allowed. */
export const GRANT_USER = 8
/** ACCESS bits that the answer reports. */
export const ALLOWED_SHIFT = 8
export const ALLOWED_MASK = 7
/** D is to be set at the first write: it goes through the tables. */
export const CLEAN: number = 1 << 11
export const STAGE1_LG2_SHIFT = 12
export const STAGE2_LG2_SHIFT = 18
export const SIZE_LG2_SHIFT = 24
export const LG2_MASK = 0x3f

// Words of a directory entry: the table below, and what the levels down to it grant; of a guest's also where that table
// is in system physical memory.
export const TABLE_HI = 0
export const TABLE_LO = 1
export const TABLE_RIGHTS = 2
export const TABLE_PLACE_HI = 3
export const TABLE_PLACE_LO = 4
/** Index of the table in memory.words, -1 in memory where none may be kept. */
export const TABLE_AT = 5
export const TABLE_WORDS = 6
/** No address of a table: it has not been read yet. */
export const NO_PLACE = 1

const PAGE_LG2 = 12
/** The size of a range stands above bits 63:44 of its address. */
const SIZE_KEY_SHIFT = 20
/** In the key of a last table: bits of its page number, and its size. */
const LAST_TABLE_PAGES = -512
const LAST_TABLE_SIZE = 21 << SIZE_KEY_SHIFT
/** The size in the key of a 4 KiB page. */
const SMALL_SIZE = PAGE_LG2 << SIZE_KEY_SHIFT

/** Ways of a set under `exact`; a hoard begins with few sets and grows. */
const HOARD_SETS = 8
const WAYS = 4

/** Sizes of ranges that can be in a cache, by their logarithm. */
const MAX_SIZES = 64
/** A tag has IR and IW above these. */
const DOMAIN_ID_BITS = 16
/** A range of at most so many bytes is dropped by looking each of its pages up. */
const PROBED_LG2 = 14

/** A naturally aligned range of addresses, as the address field of a command encodes it. */
export interface AddressRange {
  readonly hi: number
  readonly lo: number
  /** 12 to 64. */
  readonly sizeLg2: number
}

/** Records about naturally aligned ranges of addresses: pages, or what one table covers. */
export class RangeCache {
  readonly store: CacheStore
  /** Sizes of which there ever was a record, by their logarithm. */
  protected readonly sizes: Int32Array = new Int32Array(MAX_SIZES)
  protected sizeCount = 0
  /** IR and IW of tags that there ever was a record of, as bits. */
  private rights = 0

  constructor(policy: CachePolicy, sets: number, dataWords: number) {
    this.store = storeOf(policy, sets, dataWords)
  }

  /**
   * @param tag DomainID and rights of the device table entry, see caches.ts
   * @param pasid {@link HOST_TABLES} for host tables
   * @returns index of the record in the store's words, or -1
   */
  findSized(sizeLg2: number, tag: number, pasid: number, hi: number, lo: number): number {
    return this.store.find(pageKey(sizeLg2, hi, lo), sizeKey(sizeLg2, hi), tag, pasid)
  }

  /** As {@link findSized} for the range of a last table, which the next address is mostly in, too. */
  findLastTable(tag: number, pasid: number, hi: number, lo: number): number {
    return this.store.findSame(
      smallPageKey(hi, lo) & LAST_TABLE_PAGES,
      (hi >>> PAGE_LG2) | LAST_TABLE_SIZE,
      tag,
      pasid,
    )
  }

  insert(sizeLg2: number, tag: number, pasid: number, hi: number, lo: number): number {
    let known = 0
    while (known < this.sizeCount && this.sizes[known] !== sizeLg2) known++
    if (known === this.sizeCount) this.sizes[this.sizeCount++] = sizeLg2
    this.rights |= 1 << (tag >>> DOMAIN_ID_BITS)
    return this.store.insert(pageKey(sizeLg2, hi, lo), sizeKey(sizeLg2, hi), tag, pasid)
  }

  /**
   * Keeps a directory entry: where the table below it is, and what the levels down to it grant.
   * @returns index of the record
   */
  keepTable(
    sizeLg2: number,
    tag: number,
    pasid: number,
    hi: number,
    lo: number,
    tableHi: number,
    tableLo: number,
    rights: number,
  ): number {
    const at = this.insert(sizeLg2, tag, pasid, hi, lo)
    const { words } = this.store
    words[at + TABLE_HI] = tableHi
    words[at + TABLE_LO] = tableLo
    words[at + TABLE_RIGHTS] = rights
    words[at + TABLE_PLACE_LO] = NO_PLACE
    words[at + TABLE_AT] = -1
    return at
  }

  /** Drops what a domain, or with a PASID one address space of it, has in a range. */
  drop(domainId: number, pasid: number, range: AddressRange): void {
    if (range.sizeLg2 <= PROBED_LG2) {
      this.probe(domainId, pasid, range)
      return
    }
    this.store.dropWhere(
      (k0, k1, k2, k3) =>
        (k2 & DOMAIN_ID_MASK) === domainId &&
        k3 === pasid &&
        meets(range, (k1 << PAGE_LG2) | (k0 >>> (32 - PAGE_LG2)), k0 << PAGE_LG2, k1 >>> SIZE_KEY_SHIFT),
    )
  }

  /** In a small range few records can be meant: of each size and each kind of rights, those at its addresses. */
  private probe(domainId: number, pasid: number, { hi, lo, sizeLg2 }: AddressRange): void {
    const base = lo & -(1 << sizeLg2)
    for (let n = 0; n < this.sizeCount; n++) {
      const size = this.sizes[n] as number
      const pieces = size < sizeLg2 ? 1 << (sizeLg2 - size) : 1
      // Of sizes beyond the range's there is one piece, and it begins where that one's mask says.
      for (let piece = 0; piece < pieces; piece++) {
        this.dropAt(size, domainId, pasid, hi, base + piece * (1 << size))
      }
    }
  }

  private dropAt(sizeLg2: number, domainId: number, pasid: number, hi: number, lo: number): void {
    const page = pageKey(sizeLg2, hi, lo)
    const size = sizeKey(sizeLg2, hi)
    for (let rights = 0; this.rights >>> rights !== 0; rights++) {
      if (((this.rights >>> rights) & 1) === 0) continue
      this.store.drop(page, size, domainId | (rights << DOMAIN_ID_BITS), pasid)
    }
  }

  dropDomain(domainId: number): void {
    this.store.dropWhere((_k0, _k1, k2) => (k2 & DOMAIN_ID_MASK) === domainId)
  }
}

/** Translations. A look-up tries the sizes there are, the one that hit last first. */
export class PageCache extends RangeCache {
  constructor(policy: CachePolicy, sets: number) {
    super(policy, sets, PAGE_WORDS)
  }

  find(tag: number, pasid: number, hi: number, lo: number): number {
    const sizeLg2 = this.sizes[0] as number
    const at =
      sizeLg2 === PAGE_LG2
        ? this.store.find(smallPageKey(hi, lo), (hi >>> PAGE_LG2) | SMALL_SIZE, tag, pasid)
        : this.findSized(sizeLg2, tag, pasid, hi, lo)
    return at >= 0 || this.sizeCount < 2 ? at : this.findOther(tag, pasid, hi, lo)
  }

  /** Sets the addresses of a record to the page around the given ones. */
  fill(at: number, sizeLg2: number, paHi: number, paLo: number, gpaHi: number, gpaLo: number): void {
    const { words } = this.store
    const maskLo = sizeLg2 < 32 ? -(1 << sizeLg2) : 0
    const maskHi = sizeLg2 < 32 ? -1 : -(1 << (sizeLg2 - 32))
    words[at + PA_HI] = paHi & maskHi
    words[at + PA_LO] = paLo & maskLo
    words[at + GPA_HI] = gpaHi & maskHi
    words[at + GPA_LO] = gpaLo & maskLo
  }

  private findOther(tag: number, pasid: number, hi: number, lo: number): number {
    const { sizes } = this
    for (let n = 1; n < this.sizeCount; n++) {
      const sizeLg2 = sizes[n] as number
      const at = this.findSized(sizeLg2, tag, pasid, hi, lo)
      if (at < 0) continue
      sizes[n] = sizes[0] as number
      sizes[0] = sizeLg2
      return at
    }
    return -1
  }
}

export function storeOf(policy: CachePolicy, sets: number, dataWords: number): CacheStore {
  return new CacheStore({ policy, sets: policy === "hoard" ? HOARD_SETS : sets, ways: WAYS, dataWords })
}

/** The first word of a key: bits 43:12 of the range's address. Neighbouring pages have neighbouring keys. */
function pageKey(sizeLg2: number, hi: number, lo: number): number {
  const page = smallPageKey(hi, lo)
  return sizeLg2 < 44 ? page & -(1 << (sizeLg2 - PAGE_LG2)) : 0
}

/** {@link pageKey} of a 4 KiB page, so short that V8 always puts it in place. */
function smallPageKey(hi: number, lo: number): number {
  return (lo >>> PAGE_LG2) | (hi << (32 - PAGE_LG2))
}

/** The second: bits 63:44, and the size. */
function sizeKey(sizeLg2: number, hi: number): number {
  const high = hi >>> PAGE_LG2
  return (sizeLg2 <= 44 ? high : high & -(1 << (sizeLg2 - 44))) | (sizeLg2 << SIZE_KEY_SHIFT)
}

/** Two aligned ranges meet when the smaller one lies in the larger. */
function meets(range: AddressRange, hi: number, lo: number, sizeLg2: number): boolean {
  const larger = Math.max(range.sizeLg2, sizeLg2)
  if (larger >= 64) return true
  const differHi = range.hi ^ hi
  if (larger >= 32) return differHi >>> (larger - 32) === 0
  return differHi === 0 && (range.lo ^ lo) >>> larger === 0
}
