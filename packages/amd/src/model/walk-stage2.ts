/**
 * Host page tables: v1 format, guest physical to system physical. AMD 48882 rev 3.10, §2.2.3.
 *
 * The usual path, tables of three or four levels in which nothing is odd, is unrolled; whatever else it meets it
 * leaves to {@link HostWalk.walkChecked}, which follows the book step by step from the root. A test holds the two
 * against each other.
 */
import { ACCESS_EXEC, type PhysicalMemory } from "@iommu/core"
import * as pte from "../spec/page-tables.ts"
import { allowedOf, hostAttributes, needOf, permissionsOf } from "./attributes.ts"
import type { Caches } from "./caches.ts"
import type { RangeCache } from "./tlb.ts"
import * as cached from "./tlb.ts"
import type { HostTrace } from "./trace.ts"
import { ILLEGAL_LEVEL, NO_PERMISSION, NOT_PRESENT, OK, RESERVED_BIT, TABLE_ERROR } from "./transaction.ts"

// Constants of this module are folded into the machine code; imported ones are loaded (16.8 against 13.6 ns a walk).
const ADDR_LO = pte.ADDR_LO
const ADDR_HI = pte.ADDR_HI
const IR = pte.V1_IR_HI
const KIND = pte.V1_KIND
const TABLE_RESERVED_HI = pte.V1_TABLE_RESERVED_HI
const LEAF_RESERVED_HI = pte.V1_LEAF_RESERVED_HI
const IW = pte.V1_IW_HI

/** What a leaf says of ATS answers. */
const LEAF_FLAGS = pte.V1_U_HI | pte.V1_FC_HI

/** What host tables grant to everybody. */
const HOST_INDIFFERENT = ACCESS_EXEC | cached.GRANT_USER

const {
  V1_KIND_LEAF: LEAF,
  V1_KIND_TABLE_1: TABLE_1,
  V1_KIND_TABLE_2: TABLE_2,
  V1_KIND_TABLE_3: TABLE_3,
} = pte

const { HOST_TABLES, ATTRIBUTES, CLEAN, INFO, PA_HI, PA_LO, TABLE_HI, TABLE_LO, TABLE_RIGHTS } = cached
const { LG2_MASK, SIZE_LG2_SHIFT } = cached
const PAGE_LG2 = 12
const PAGE_OFFSET = 4095

/** Permission bits, at their places in the high half of an entry. */
export const READ: number = pte.V1_IR_HI
export const WRITE: number = pte.V1_IW_HI

export class HostWalk {
  readonly memory: PhysicalMemory
  tracer: HostTrace | null = null

  private readonly caches: Caches

  // From the device table entry.
  /** Of cached translations, see tlb.ts. */
  tag = 0
  mode = 0
  private rootHi = 0
  private rootLo = 0
  /** Word index of the root table; -1 where no memory answers, and where the checked walk is to do the work. */
  rootAt = -1
  /** Bits of the address from here on in the high half are beyond the tables. */
  beyondShift = 0
  /** IR and IW of the entry. */
  rootPermissions = 0
  /** V1_A when HAD lets hardware set it, else 0; likewise V1_D. */
  accessedBit = 0
  dirtyBit = 0

  // Result.
  paHi = 0
  paLo = 0
  sizeLg2 = 0
  /** {@link READ} and {@link WRITE} of all levels, U and FC of the leaf. */
  permissions = 0
  /** After a checked walk: D is to be set in the leaf at the first write. */
  isClean = false
  /** After TABLE_ERROR: the entry that could not be read. */
  errorHi = 0
  errorLo = 0
  status: number = OK

  constructor(memory: PhysicalMemory, caches: Caches) {
    this.memory = memory
    this.caches = caches
  }

  /** Takes over what the device table entry says of host tables. */
  setRoot(mode: number, hi: number, lo: number, permissions: number): void {
    this.mode = mode
    this.rootHi = hi
    this.rootLo = lo
    this.rootPermissions = permissions
    const isUnrolled = (mode === 3 || mode === 4) && this.tracer === null && !this.memory.isVolatile
    this.rootAt = isUnrolled ? this.memory.find(hi, lo) : -1
    this.beyondShift = mode === 4 ? 16 : 7
  }

  /**
   * Translates a guest physical address; the result is in the fields.
   * @param need {@link READ} and {@link WRITE} that the access asks for
   * @returns the status
   */
  walk(hi: number, lo: number, need: number): number {
    this.status = this.walkChecked(hi, lo, need)
    return this.status
  }

  /**
   * As {@link walk} for a read by the IOMMU itself, without a result in the fields: a nested walk has one for each
   * guest table (126 against 132 ns).
   * @returns as {@link access}
   */
  fetch(hi: number, lo: number): number {
    const { memory } = this
    let at = this.rootAt
    if (at < 0 || hi >>> this.beyondShift !== 0) return this.access(hi, lo, IR)
    const { words, hitHi, hitLo, hitWord } = memory
    const last = memory.hitLast >>> 0
    let permissions = this.rootPermissions
    let odd = 0
    let marks = -1
    let highs = 0
    let high = 0
    let low = 0
    let offset = 0
    if (this.mode === 4) {
      at += (hi >>> 6) & 0x3fe
      low = words[at] as number
      high = words[at + 1] as number
      odd = low ^ TABLE_3
      marks = low
      permissions &= high
      highs = high
      high &= ADDR_HI
      offset = ((low & ADDR_LO) - hitLo) >>> 0
      at = high === hitHi && offset <= last ? hitWord + (offset >>> 2) : memory.find(high, low & ADDR_LO)
      if (at < 0) return this.access(hi, lo, IR)
    }
    // What an entry is is judged at the end: whatever it points to, a look-up there stays within one page.
    at += ((hi << 3) | (lo >>> 29)) & 0x3fe
    low = words[at] as number
    high = words[at + 1] as number
    odd |= low ^ TABLE_2
    marks &= low
    permissions &= high
    highs |= high
    high &= ADDR_HI
    offset = ((low & ADDR_LO) - hitLo) >>> 0
    at = high === hitHi && offset <= last ? hitWord + (offset >>> 2) : memory.find(high, low & ADDR_LO)
    if (at < 0) return this.access(hi, lo, IR)
    at += (lo >>> 20) & 0x3fe
    low = words[at] as number
    high = words[at + 1] as number
    odd |= low ^ TABLE_1
    marks &= low
    permissions &= high
    highs |= high
    high &= ADDR_HI
    offset = ((low & ADDR_LO) - hitLo) >>> 0
    at = high === hitHi && offset <= last ? hitWord + (offset >>> 2) : memory.find(high, low & ADDR_LO)
    if (at < 0) return this.access(hi, lo, IR)
    at += (lo >>> 11) & 0x3fe
    low = words[at] as number
    high = words[at + 1] as number
    odd = ((odd | (low ^ LEAF)) & KIND) | (~(marks & low) & this.accessedBit)
    odd |= (highs & TABLE_RESERVED_HI) | (high & LEAF_RESERVED_HI)
    if (odd !== 0 || (permissions & high & IR) === 0) return this.access(hi, lo, IR)
    high &= ADDR_HI
    low = (low & ADDR_LO) | (lo & PAGE_OFFSET)
    offset = (low - hitLo) >>> 0
    at = high === hitHi && offset <= last ? hitWord + (offset >>> 2) : memory.find(high, low)
    return at < 0 ? this.access(hi, lo, IR) : at
  }

  /**
   * As {@link walk} for an access of the IOMMU itself.
   * @returns word index in {@link memory} of what is there, or -1: {@link status} says why, OK where the address
   * translates to no memory
   */
  access(hi: number, lo: number, need: number): number {
    return this.walk(hi, lo, need) === OK ? this.memory.find(this.paHi, this.paLo) : -1
  }

  page(sizeLg2: number, high: number, low: number, hi: number, lo: number): number {
    this.sizeLg2 = sizeLg2
    if (sizeLg2 < 32) {
      const offset = (1 << sizeLg2) - 1
      this.paLo = (low & ~offset) | (lo & offset)
      this.paHi = high & ADDR_HI
    } else {
      const offset = sizeLg2 === 32 ? 0 : (1 << (sizeLg2 - 32)) - 1
      this.paLo = lo | 0
      this.paHi = ((high & ~offset) | (hi & offset)) & ADDR_HI
    }
    return OK
  }

  /**
   * As {@link walk}, through the caches.
   * @returns the status
   */
  lookup(hi: number, lo: number, need: number): number {
    const pages = this.caches.hostPages
    const at = pages.find(this.tag, HOST_TABLES, hi, lo)
    if (at < 0) return this.walkThrough(hi, lo, need)
    const { words } = pages.store
    const info = words[at + INFO] as number
    const isClean = (info & CLEAN) !== 0
    if (isClean && (need & IW) !== 0) return this.walkThrough(hi, lo, need)
    const permissions = needOf(info) | permissionsOf(words[at + ATTRIBUTES] as number)
    this.permissions = permissions
    this.isClean = isClean
    this.status = (permissions & need) === need ? OK : NO_PERMISSION
    const sizeLg2 = (info >>> SIZE_LG2_SHIFT) & LG2_MASK
    const paHi = words[at + PA_HI] as number
    const paLo = words[at + PA_LO] as number
    if (sizeLg2 !== PAGE_LG2) this.page(sizeLg2, paHi, paLo, hi, lo)
    else {
      this.sizeLg2 = PAGE_LG2
      this.paHi = paHi
      this.paLo = paLo | (lo & PAGE_OFFSET)
    }
    return this.status
  }

  /** As {@link fetch} and, with other needs, an access of the IOMMU's own: through the caches. */
  fetchThrough(hi: number, lo: number, need: number): number {
    return this.lookup(hi, lo, need) === OK ? this.memory.find(this.paHi, this.paLo) : -1
  }

  /** A walk that begins below the directory entries that are cached, and caches what it meets. */
  walkThrough(hi: number, lo: number, need: number): number {
    this.status = this.resume(hi, lo, need)
    if (this.status === OK && this.mode !== 0) this.keepPage(hi, lo)
    return this.status
  }

  private resume(hi: number, lo: number, need: number): number {
    const { mode } = this
    const tables = this.caches.hostTables
    if (mode === 0) return this.identity(hi, lo, need)
    if (pte.v1IsBeyond(mode, hi, lo)) return NOT_PRESENT
    for (let level = 1; level < mode; level++) {
      const at = tables.findSized(pte.tableLg2(level), this.tag, HOST_TABLES, hi, lo)
      if (at < 0) continue
      const { words } = tables.store
      const tableHi = words[at + TABLE_HI] as number
      const tableLo = words[at + TABLE_LO] as number
      return this.descend(tables, level, tableHi, tableLo, words[at + TABLE_RIGHTS] as number, hi, lo, need)
    }
    return this.descend(tables, mode, this.rootHi, this.rootLo, this.rootPermissions, hi, lo, need)
  }

  private keepPage(hi: number, lo: number): void {
    const pages = this.caches.hostPages
    const at = pages.insert(this.sizeLg2, this.tag, HOST_TABLES, hi, lo)
    pages.fill(at, this.sizeLg2, this.paHi, this.paLo, hi, lo)
    const allowed = allowedOf(this.permissions)
    const grants = allowed | HOST_INDIFFERENT | (cached.GRANTS_MASK << cached.GUEST_GRANTS_SHIFT)
    const sizes = (this.sizeLg2 << cached.STAGE2_LG2_SHIFT) | (this.sizeLg2 << cached.SIZE_LG2_SHIFT)
    const clean = this.isClean ? CLEAN : 0
    pages.store.words[at + ATTRIBUTES] = hostAttributes(this.permissions)
    pages.store.words[at + INFO] = grants | (allowed << cached.ALLOWED_SHIFT) | clean | sizes
  }

  /** Mode 0: no host tables, only the entry's IR and IW. */
  private identity(hi: number, lo: number, need: number): number {
    if ((this.rootPermissions & need) !== need) return NO_PERMISSION
    this.paHi = hi
    this.paLo = lo
    this.sizeLg2 = 0
    this.permissions = this.rootPermissions
    this.isClean = false
    return OK
  }

  /** The walk as the book tells it, with every check and with A and D updates. Level 6 has no pages (table 15). */
  walkChecked(hi: number, lo: number, need: number): number {
    if (this.mode === 0) return this.identity(hi, lo, need)
    if (pte.v1IsBeyond(this.mode, hi, lo)) return NOT_PRESENT
    return this.descend(null, this.mode, this.rootHi, this.rootLo, this.rootPermissions, hi, lo, need)
  }

  /** @param kept cache for the directory entries on the way, null for none */
  private descend(
    kept: RangeCache | null,
    top: number,
    topHi: number,
    topLo: number,
    rights: number,
    hi: number,
    lo: number,
    need: number,
  ): number {
    const { memory } = this
    let level = top
    let tableHi = topHi
    let tableLo = topLo
    let permissions = rights
    for (;;) {
      const index = pte.v1IndexAt(level, hi, lo)
      const at = memory.find(tableHi, tableLo)
      if (at < 0) return this.failTable(tableHi, tableLo, index)
      const entry = at + index * 2
      const low = memory.words[entry] as number
      const high = memory.words[entry + 1] as number
      this.tracer?.hostEntry(level, tableHi, tableLo, index, high, low)
      if ((low & pte.V1_PR) === 0) return NOT_PRESENT
      permissions &= high
      const next = (low & pte.V1_NEXT_LEVEL) >>> pte.V1_NEXT_LEVEL_SHIFT
      if (next === pte.V1_NEXT_LEVEL_LEAF || next === pte.V1_NEXT_LEVEL_SIZED) {
        if (level === pte.V1_TOP_LEVEL) return ILLEGAL_LEVEL
        if ((high & LEAF_RESERVED_HI) !== 0) return RESERVED_BIT
        const size = next === pte.V1_NEXT_LEVEL_LEAF ? pte.v1PageLg2(level) : pte.v1SizedLeafLg2(high, low)
        if (next === pte.V1_NEXT_LEVEL_SIZED && !pte.v1FitsLevel(size, level)) return ILLEGAL_LEVEL
        if ((permissions & need) !== need) return NO_PERMISSION
        const set = this.accessedBit | ((need & WRITE) === 0 ? 0 : this.dirtyBit)
        if ((low & set) !== set) memory.words[entry] = low | set
        this.isClean = (this.dirtyBit & ~(low | set)) !== 0
        this.permissions = (permissions & (IR | IW)) | (high & LEAF_FLAGS)
        return this.page(size, high, low, hi, lo)
      }
      if ((high & TABLE_RESERVED_HI) !== 0) return RESERVED_BIT
      if (next >= level || pte.v1SkipsNonzero(level, next, hi, lo)) return ILLEGAL_LEVEL
      if ((low & this.accessedBit) !== this.accessedBit) memory.words[entry] = low | this.accessedBit
      tableHi = high & pte.ADDR_HI
      tableLo = low & pte.ADDR_LO
      level = next
      if (kept !== null) {
        kept.keepTable(pte.tableLg2(level), this.tag, HOST_TABLES, hi, lo, tableHi, tableLo, permissions)
      }
    }
  }

  private failTable(tableHi: number, tableLo: number, index: number): number {
    this.errorHi = tableHi
    this.errorLo = tableLo | (index * 8)
    return TABLE_ERROR
  }
}
