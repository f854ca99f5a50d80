/**
 * Guest page tables: v2 format, guest virtual to guest physical. AMD 48882 rev 3.10, §2.2.6; entries as in AMD 24593
 * rev 3.42 §5.3.
 *
 * All guest tables lie in guest physical memory: each fetch, and each update of A and D, goes through the host
 * tables first and is subject to their permissions.
 */
import { ACCESS_EXEC, ACCESS_PRIV, ACCESS_WRITE, type PhysicalMemory } from "@iommu/core"
import * as pte from "../spec/page-tables.ts"
import type { Caches } from "./caches.ts"
import type { RangeCache } from "./tlb.ts"
import * as cached from "./tlb.ts"
import type { GuestTrace } from "./trace.ts"
import { NO_PERMISSION, NOT_PRESENT, OK, RESERVED_BIT, type Transaction } from "./transaction.ts"
import { type HostWalk, READ, WRITE } from "./walk-stage2.ts"

// Local, because imported constants are loaded at each use (see walk-stage2.ts).
const ADDR_LO = pte.ADDR_LO
const ADDR_HI = pte.ADDR_HI
const PRESENT = pte.V2_P
const WRITABLE = pte.V2_RW
const USER = pte.V2_US
const PAGE_SIZE = pte.V2_PS
const NO_EXECUTE = pte.V2_NX_HI
const MAX_LEAF_LEVEL = pte.V2_MAX_LEAF_LEVEL
const HOST_READ = READ
const HOST_WRITE = WRITE
const DEVICE_WRITE = ACCESS_WRITE

const { NO_PLACE, TABLE_AT, TABLE_HI, TABLE_LO, TABLE_PLACE_HI, TABLE_PLACE_LO, TABLE_RIGHTS } = cached
const PAGE_MASK = -4096

const ALL_RIGHTS = WRITABLE | USER
/** In the rights of a directory entry: NX was set on the way. The place of P. */
const NO_EXECUTE_SEEN = 1

/** Address bits below the page that must be zero: 20:13 of a 2 MiB and 29:13 of a 1 GiB leaf. */
const LARGE_2M_RESERVED = 0x001f_e000
const LARGE_1G_RESERVED = 0x3fff_e000

export class GuestWalk {
  private readonly memory: PhysicalMemory
  private readonly host: HostWalk
  private readonly transaction: Transaction
  private readonly caches: Caches
  tracer: GuestTrace | null = null

  /** Of cached directory entries. */
  private pasid = 0

  // From the device table entry and the registers.
  /** 4 or 5, by DTE.GuestPagingMode. */
  levels = 4
  /** EXT_FEATURES.NXSup and USSup. */
  noExecute = false
  supervisor = false
  /** V2_A unless CONTROL.GAUpdateDis, V2_D unless CONTROL.GDUpdateDis. */
  accessedBit = 0
  dirtyBit = 0

  // Result.
  gpaHi = 0
  gpaLo = 0
  sizeLg2 = 0
  /** {@link READ} and {@link WRITE}. */
  permissions = 0
  executable = false
  /** U/S of all levels: not only for supervisor requests. */
  isForUsers = false
  /** D is to be set in the leaf at the first write. */
  isClean = false
  /** Low half of the leaf. */
  leafLow = 0

  constructor(memory: PhysicalMemory, host: HostWalk, transaction: Transaction, caches: Caches) {
    this.memory = memory
    this.host = host
    this.transaction = transaction
    this.caches = caches
  }

  /**
   * Translates a guest virtual address by the tables of a guest CR3, from the root.
   * @returns OK with the result in the fields, or why not, with the transaction's fault set
   */
  walk(cr3Hi: number, cr3Lo: number, hi: number, lo: number, access: number): number {
    if (!isCanonical(this.levels, hi)) return this.refuse(NOT_PRESENT, access)
    return this.descend(null, this.levels, cr3Hi, cr3Lo, ALL_RIGHTS, hi, lo, access)
  }

  /** As {@link walk}, through the caches: from below the directory entries that are cached. */
  walkThrough(pasid: number, cr3Hi: number, cr3Lo: number, hi: number, lo: number, access: number): number {
    this.pasid = pasid
    if (!isCanonical(this.levels, hi)) return this.refuse(NOT_PRESENT, access)
    const tables = this.caches.guestTables
    for (let level = 1; level < this.levels; level++) {
      const at = tables.findSized(pte.tableLg2(level), this.host.tag, pasid, hi, lo)
      if (at < 0) continue
      const { words } = tables.store
      const tableHi = words[at + TABLE_HI] as number
      const tableLo = words[at + TABLE_LO] as number
      return this.descend(tables, level, tableHi, tableLo, words[at + TABLE_RIGHTS] as number, hi, lo, access)
    }
    return this.descend(tables, this.levels, cr3Hi, cr3Lo, ALL_RIGHTS, hi, lo, access)
  }

  /**
   * What {@link walkThrough} comes to where the last directory entry is cached and nothing is odd below it, without the
   * guest CR3, which stands above that: one look-up and one entry.
   * @returns whether the result is in the fields
   */
  walkLastTable(pasid: number, hi: number, lo: number, access: number): boolean {
    const { store } = this.caches.guestTables
    const known = this.caches.guestTables.findLastTable(this.host.tag, pasid, hi, lo)
    if (known < 0 || this.tracer !== null) return false
    const records = store.words
    const { memory } = this
    let at = records[known + TABLE_AT] as number
    if (at < 0) at = this.findPlace(records, known)
    if (at < 0) return false
    at += (lo >>> 11) & 0x3fe
    const low = memory.words[at] as number
    const high = memory.words[at + 1] as number
    const rights = records[known + TABLE_RIGHTS] as number
    const entry = PRESENT | this.accessedBit
    const set = (access & DEVICE_WRITE) === 0 ? entry : entry | this.dirtyBit
    const allow = rights & low & ALL_RIGHTS
    const forbid = (high & NO_EXECUTE) | (rights & NO_EXECUTE_SEEN)
    if ((low & set) !== set || forbid !== 0 || !this.allows(allow, forbid, access)) return false
    this.finish(1, high, low, lo, allow, forbid)
    return true
  }

  /** Where a cached directory entry's table is in memory that others may move. @returns index in its words, or -1 */
  private findPlace(records: Int32Array, known: number): number {
    const lo = records[known + TABLE_PLACE_LO] as number
    return lo === NO_PLACE ? -1 : this.memory.find(records[known + TABLE_PLACE_HI] as number, lo)
  }

  /**
   * @param kept cache for the directory entries on the way, whose tables are fetched through the caches; or null
   * @param rights what the levels above grant: R/W and U/S, and {@link NO_EXECUTE_SEEN}
   */
  private descend(
    kept: RangeCache | null,
    top: number,
    topHi: number,
    topLo: number,
    rights: number,
    hi: number,
    lo: number,
    access: number,
  ): number {
    const { memory, host, accessedBit } = this
    const words = memory.words
    let level = top
    let tableHi = topHi
    let tableLo = topLo
    let allow = rights & ALL_RIGHTS
    let forbid = (rights & NO_EXECUTE_SEEN) === 0 ? 0 : NO_EXECUTE
    let record = -1
    for (;;) {
      const index = indexAt(level, hi, lo)
      const entryLo = tableLo | (index << 3)
      const at = kept === null ? host.fetch(tableHi, entryLo) : host.fetchThrough(tableHi, entryLo, HOST_READ)
      if (at < 0) return this.refuseFetch(tableHi, entryLo, HOST_READ)
      if (kept !== null && record >= 0) {
        kept.store.words[record + TABLE_PLACE_HI] = host.paHi
        kept.store.words[record + TABLE_PLACE_LO] = host.paLo & PAGE_MASK
        kept.store.words[record + TABLE_AT] = memory.isVolatile ? -1 : at - index * 2
      }
      const low = words[at] as number
      const high = words[at + 1] as number
      if (this.tracer !== null) this.tracer.guestEntry(level, tableHi, tableLo, index, high, low)
      if ((low & PRESENT) === 0) return this.refuse(NOT_PRESENT, access)
      allow &= low
      forbid |= high & NO_EXECUTE
      if (forbid !== 0 && !this.noExecute) return this.refuse(RESERVED_BIT, access)
      if (level === 1 || (low & PAGE_SIZE) !== 0) {
        const reserved = level === 1 ? 0 : largeReserved(level)
        if ((low & reserved) !== 0) return this.refuse(RESERVED_BIT, access)
        if (!this.allows(allow, forbid, access)) return this.refuse(NO_PERMISSION, access)
        const set = (access & DEVICE_WRITE) === 0 ? accessedBit : accessedBit | this.dirtyBit
        if ((low & set) !== set) {
          const updated = this.update(tableHi, entryLo, set)
          if (updated !== OK) return updated
        }
        this.finish(level, high, low | set, lo, allow, forbid)
        return OK
      }
      if ((low & accessedBit) !== accessedBit) {
        const updated = this.update(tableHi, entryLo, accessedBit)
        if (updated !== OK) return updated
      }
      tableHi = high & ADDR_HI
      tableLo = low & ADDR_LO
      level--
      if (kept !== null) {
        const seen = forbid === 0 ? allow : allow | NO_EXECUTE_SEEN
        record = kept.keepTable(pte.tableLg2(level), host.tag, this.pasid, hi, lo, tableHi, tableLo, seen)
      }
    }
  }

  /** @param low the leaf's low half, with A and D as they are now */
  private finish(level: number, high: number, low: number, lo: number, allow: number, forbid: number): void {
    const sizeLg2 = 9 * level + 3
    this.isClean = (this.dirtyBit & ~low) !== 0
    this.permissions = (allow & WRITABLE) !== 0 ? HOST_READ | HOST_WRITE : HOST_READ
    this.executable = forbid === 0
    this.isForUsers = (allow & USER) !== 0
    const offset = (1 << sizeLg2) - 1
    this.sizeLg2 = sizeLg2
    this.leafLow = low
    this.gpaHi = high & ADDR_HI
    this.gpaLo = (low & ADDR_LO & ~offset) | (lo & offset)
  }

  /**
   * Sets A and D in an entry: a write of the IOMMU, which the host tables must allow. Only these bits change, also
   * where the host walk has just marked the same word.
   */
  private update(hi: number, lo: number, set: number): number {
    const { memory, host } = this
    const need = HOST_READ | HOST_WRITE
    const at = this.caches.isOn ? host.fetchThrough(hi, lo, need) : host.access(hi, lo, need)
    if (at < 0) return this.refuseFetch(hi, lo, need)
    const { words } = memory
    words[at] = (words[at] as number) | set
    return OK
  }

  /** User rights need U at every level; supervisor writes respect R/W as with CR0.WP = 1. */
  allows(allow: number, forbid: number, access: number): boolean {
    const user = (access & ACCESS_PRIV) === 0 || !this.supervisor
    if (user && (allow & USER) === 0) return false
    if ((access & DEVICE_WRITE) !== 0 && (allow & WRITABLE) === 0) return false
    return (access & ACCESS_EXEC) === 0 || (forbid & NO_EXECUTE) === 0
  }

  private refuse(status: number, access: number): number {
    this.transaction.refuseByGuest(1, access & DEVICE_WRITE)
    return status
  }

  private refuseFetch(hi: number, lo: number, need: number): number {
    return this.transaction.refuseFetch(1, this.host, hi, lo, need & HOST_WRITE)
  }
}

/** Address bits that must be zero in a leaf above level 1; above level 3 even PS. */
function largeReserved(level: number): number {
  if (level > MAX_LEAF_LEVEL) return PAGE_SIZE
  return level === 2 ? LARGE_2M_RESERVED : LARGE_1G_RESERVED
}

/** Guest virtual addresses of 48 or 57 bits repeat their top bit above it. */
function isCanonical(levels: number, hi: number): boolean {
  const top = (hi | 0) >> (levels === 5 ? 24 : 15)
  return top === 0 || top === -1
}

function indexAt(level: number, hi: number, lo: number): number {
  switch (level) {
    case 1:
      return (lo >>> 12) & 0x1ff
    case 2:
      return (lo >>> 21) & 0x1ff
    case 3:
      return ((hi << 2) | (lo >>> 30)) & 0x1ff
    case 4:
      return (hi >>> 7) & 0x1ff
    default:
      return (hi >>> 16) & 0x1ff
  }
}
