/**
 * What the IOMMU may keep of the tables it has read, and what commands drop. AMD 48882 rev 3.10, §2.4 (commands),
 * §2.2.2.1 (DomainID as the tag of translations), §3.2 (NpCache).
 *
 * - device table entries, by DeviceID, whatever they say
 * - guest CR3s, by DomainID and PASID
 * - translations, host (GN = 0) by DomainID and guest physical address, guest (GN = 1) by DomainID, PASID and guest
 *   virtual address; those end in system physical memory
 * - directory entries of both, by the range that the table below covers
 *
 * Devices with the same DomainID share all but the first. Entries that are not present are not kept: NpCache = 0.
 * Registers drop nothing: a new device table or another feature needs commands as any change does.
 */
import type { CacheKinds, CacheStore } from "@iommu/core"
import * as dte from "../spec/device-table.ts"
import { RecentPages } from "./recent-pages.ts"
import { type AddressRange, HOST_TABLES, PageCache, RangeCache, storeOf, TABLE_WORDS } from "./tlb.ts"

// Words of a guest CR3.
export const CR3_HI = 0
export const CR3_LO = 1
const CR3_WORDS = 2

const DTE_WORDS = dte.DTE_BYTES / 4

/** Sets under `exact`. Host pages are also what each guest table lies in. */
const HOST_PAGE_SETS = 1024
const GUEST_PAGE_SETS = 256
const TABLE_SETS = 64
const SMALL_SETS = 32

/**
 * All caches of one IOMMU. Tags are a DomainID with IR and IW of the device table entry above it: devices of one
 * domain that differ in them share nothing.
 */
export class Caches {
  /** False where the policy for device table entries and guest CR3s is `none`. */
  readonly keepsStructures: boolean
  /** False where guest translations are not kept. */
  readonly keepsTranslations: boolean
  /** False where neither translations nor what shortens a walk is kept. */
  readonly isOn: boolean
  /** {@link recent} is used: it stands in front of all other caches. */
  readonly keepsAnswers: boolean
  readonly recent: RecentPages = new RecentPages()
  readonly entries: CacheStore
  readonly guestCr3s: CacheStore
  readonly hostPages: PageCache
  readonly guestPages: PageCache
  readonly hostTables: RangeCache
  readonly guestTables: RangeCache

  constructor({ structures, walks, translations, stage2Pages }: CacheKinds) {
    this.keepsStructures = structures !== "none"
    this.keepsTranslations = translations !== "none"
    this.isOn = stage2Pages !== "none"
    this.keepsAnswers = this.keepsStructures && this.keepsTranslations
    this.entries = storeOf(structures, SMALL_SETS, DTE_WORDS)
    this.guestCr3s = storeOf(structures, SMALL_SETS, CR3_WORDS)
    this.hostPages = new PageCache(stage2Pages, HOST_PAGE_SETS)
    this.guestPages = new PageCache(translations, GUEST_PAGE_SETS)
    this.hostTables = new RangeCache(walks, TABLE_SETS, TABLE_WORDS)
    this.guestTables = new RangeCache(walks, TABLE_SETS, TABLE_WORDS)
  }

  findEntry(device: number): number {
    return this.entries.find(device, 0, 0, 0)
  }

  insertEntry(device: number): number {
    return this.entries.insert(device, 0, 0, 0)
  }

  findGuestCr3(tag: number, pasid: number): number {
    return this.guestCr3s.find(pasid, tag, 0, 0)
  }

  insertGuestCr3(tag: number, pasid: number): number {
    return this.guestCr3s.insert(pasid, tag, 0, 0)
  }

  /** INVALIDATE_DEVTAB_ENTRY (§2.4.2): the entry alone; what was translated through it stays. */
  invalidateEntry(device: number): void {
    this.recent.clear()
    this.entries.drop(device, 0, 0, 0)
  }

  /**
   * INVALIDATE_IOMMU_PAGES with GN = 0 (§2.4.3): host translations in a range of guest physical addresses, and of the
   * domain all that is cached of guest tables. Guest translations and the places of guest tables are held as system
   * physical addresses, and no command names them by the guest physical address between, nor for all PASIDs at once.
   */
  invalidateHostPages(domainId: number, range: AddressRange): void {
    this.recent.clear()
    this.hostPages.drop(domainId, HOST_TABLES, range)
    this.guestPages.dropDomain(domainId)
    this.guestTables.dropDomain(domainId)
  }

  /** Also with PDE = 1. */
  invalidateHostTables(domainId: number, range: AddressRange): void {
    this.recent.clear()
    this.hostTables.drop(domainId, HOST_TABLES, range)
  }

  /** INVALIDATE_IOMMU_PAGES with GN = 1 (§2.4.3). */
  invalidateGuestPages(domainId: number, pasid: number, range: AddressRange): void {
    this.recent.clear()
    this.guestPages.drop(domainId, pasid, range)
  }

  /** Also with PDE = 1. The guest CR3 stands above all directory entries, whatever the range. */
  invalidateGuestTables(domainId: number, pasid: number, range: AddressRange): void {
    this.recent.clear()
    this.guestTables.drop(domainId, pasid, range)
    this.guestCr3s.dropWhere((other, tag) => other === pasid && (tag & dte.DOMAIN_ID_MASK) === domainId)
  }

  /** INVALIDATE_IOMMU_ALL (§2.4.8). */
  invalidateAll(): void {
    this.recent.clear()
    this.entries.clear()
    this.guestCr3s.clear()
    this.hostPages.store.clear()
    this.guestPages.store.clear()
    this.hostTables.store.clear()
    this.guestTables.store.clear()
  }
}
