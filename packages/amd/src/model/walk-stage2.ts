/**
 * Host page tables: v1 format, guest physical to system physical. AMD 48882 rev 3.10, §2.2.3.
 *
 * {@link HostWalk.walk} takes the usual path, tables of three or four levels where each entry is plain, with one
 * comparison per level; whatever else it meets it leaves to {@link HostWalk.walkChecked}, which follows the book
 * step by step from the root. The two are held against each other by a test.
 */
import type { PhysicalMemory } from "@iommu/core"
import * as pte from "../spec/page-tables.ts"
import type { HostTrace } from "./trace.ts"
import { ILLEGAL_LEVEL, NO_PERMISSION, NOT_PRESENT, OK, RESERVED_BIT, TABLE_ERROR } from "./transaction.ts"

/** PDE bits 60:52 are reserved. */
const TABLE_RESERVED_HI = 0x1ff0_0000
/** PTE bits 58:52 are reserved. */
const LEAF_RESERVED_HI = 0x07f0_0000
/** Present, and NextLevel. */
const KIND = 0xe01
const LEAF = 0x001
const SIZED_LEAF = 0xe01
const TABLE_1 = 0x201
const TABLE_2 = 0x401
const TABLE_3 = 0x601

/** Permission bits, at their places in the high half of an entry. */
export const READ: number = pte.V1_IR_HI
export const WRITE: number = pte.V1_IW_HI

export class HostWalk {
  readonly memory: PhysicalMemory
  tracer: HostTrace | null = null

  // From the device table entry.
  mode = 0
  rootHi = 0
  rootLo = 0
  /** IR and IW of the entry. */
  rootPermissions = 0
  /** V1_A when HAD lets hardware set it, else 0; likewise V1_D. */
  accessedBit = 0
  dirtyBit = 0

  // Result.
  paHi = 0
  paLo = 0
  sizeLg2 = 0
  /** {@link READ} and {@link WRITE} of all levels. */
  permissions = 0
  /** After TABLE_ERROR: the entry that could not be read. */
  errorHi = 0
  errorLo = 0

  constructor(memory: PhysicalMemory) {
    this.memory = memory
  }

  /**
   * @param need {@link READ} and {@link WRITE} that the access asks for
   * @returns OK, or why not
   */
  walk(hi: number, lo: number, need: number): number {
    const { memory, mode } = this
    if (this.tracer !== null || mode < 3 || mode > 4) return this.walkChecked(hi, lo, need)
    if (hi >>> (mode === 4 ? 16 : 7) !== 0) return NOT_PRESENT
    const words = memory.words
    const accessed = this.accessedBit
    const mask = KIND | accessed
    let at = memory.find(this.rootHi, this.rootLo)
    if (at < 0) return this.walkChecked(hi, lo, need)
    let permissions = this.rootPermissions
    let level = 3
    let low = 0
    let high = 0
    if (mode === 4) {
      at += (hi >>> 6) & 0x3fe
      low = words[at] as number
      high = words[at + 1] as number
      permissions &= high
      if ((low & mask) !== (TABLE_3 | accessed) || (high & TABLE_RESERVED_HI) !== 0) {
        return this.leaf(4, high, low, hi, lo, permissions, need)
      }
      at = memory.find(high & pte.ADDR_HI, low & pte.ADDR_LO)
      if (at < 0) return this.walkChecked(hi, lo, need)
    }
    at += ((hi << 3) | (lo >>> 29)) & 0x3fe
    low = words[at] as number
    high = words[at + 1] as number
    permissions &= high
    if ((low & mask) === (TABLE_2 | accessed) && (high & TABLE_RESERVED_HI) === 0) {
      at = memory.find(high & pte.ADDR_HI, low & pte.ADDR_LO)
      if (at < 0) return this.walkChecked(hi, lo, need)
      at += (lo >>> 20) & 0x3fe
      low = words[at] as number
      high = words[at + 1] as number
      permissions &= high
      level = 2
      if ((low & mask) === (TABLE_1 | accessed) && (high & TABLE_RESERVED_HI) === 0) {
        at = memory.find(high & pte.ADDR_HI, low & pte.ADDR_LO)
        if (at < 0) return this.walkChecked(hi, lo, need)
        at += (lo >>> 11) & 0x3fe
        low = words[at] as number
        high = words[at + 1] as number
        permissions &= high
        level = 1
      }
    }
    return this.leaf(level, high, low, hi, lo, permissions, need)
  }

  /** Ends a walk at an entry that needs nothing but its page, or hands it to the checked walk. */
  private leaf(
    level: number,
    high: number,
    low: number,
    hi: number,
    lo: number,
    permissions: number,
    need: number,
  ): number {
    const set = this.accessedBit | ((need & WRITE) === 0 ? 0 : this.dirtyBit)
    const plain = (low & set) === set && (high & LEAF_RESERVED_HI) === 0 && (permissions & need) === need
    if (!plain || (low & KIND) !== LEAF) {
      if (!plain || (low & KIND) !== SIZED_LEAF) return this.walkChecked(hi, lo, need)
      const size = sizedLeafLg2(high, low)
      if (!fitsLevel(size, level)) return ILLEGAL_LEVEL
      return this.page(size, high, low, hi, lo, permissions)
    }
    return this.page(9 * level + 3, high, low, hi, lo, permissions)
  }

  private page(
    sizeLg2: number,
    high: number,
    low: number,
    hi: number,
    lo: number,
    permissions: number,
  ): number {
    this.sizeLg2 = sizeLg2
    this.permissions = permissions & (READ | WRITE)
    if (sizeLg2 < 32) {
      const offset = (1 << sizeLg2) - 1
      this.paLo = (low & ~offset) | (lo & offset)
      this.paHi = high & pte.ADDR_HI
    } else {
      const offset = sizeLg2 === 32 ? 0 : (1 << (sizeLg2 - 32)) - 1
      this.paLo = lo | 0
      this.paHi = ((high & ~offset) | (hi & offset)) & pte.ADDR_HI
    }
    return OK
  }

  /** The walk as the book tells it, with every check and with A and D updates. */
  walkChecked(hi: number, lo: number, need: number): number {
    const { memory } = this
    if (this.mode === 0) return this.identity(hi, lo, need)
    if (isBeyond(this.mode, hi, lo)) return NOT_PRESENT
    let level = this.mode
    let tableHi = this.rootHi
    let tableLo = this.rootLo
    let permissions = this.rootPermissions
    for (;;) {
      const index = indexAt(level, hi, lo)
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
        if ((high & LEAF_RESERVED_HI) !== 0) return RESERVED_BIT
        const size = next === pte.V1_NEXT_LEVEL_LEAF ? defaultLg2(level) : sizedLeafLg2(high, low)
        if (next === pte.V1_NEXT_LEVEL_SIZED && !fitsLevel(size, level)) return ILLEGAL_LEVEL
        if ((permissions & need) !== need) return NO_PERMISSION
        const set = this.accessedBit | ((need & WRITE) === 0 ? 0 : this.dirtyBit)
        if ((low & set) !== set) memory.words[entry] = low | set
        return this.page(size, high, low, hi, lo, permissions)
      }
      if ((high & TABLE_RESERVED_HI) !== 0) return RESERVED_BIT
      if (next >= level || skipsNonzero(level, next, hi, lo)) return ILLEGAL_LEVEL
      if ((low & this.accessedBit) !== this.accessedBit) memory.words[entry] = low | this.accessedBit
      tableHi = high & pte.ADDR_HI
      tableLo = low & pte.ADDR_LO
      level = next
    }
  }

  /** Mode 0: no host tables, only the entry's IR and IW. */
  private identity(hi: number, lo: number, need: number): number {
    if ((this.rootPermissions & need) !== need) return NO_PERMISSION
    this.paHi = hi
    this.paLo = lo
    this.sizeLg2 = 0
    this.permissions = this.rootPermissions
    return OK
  }

  private failTable(tableHi: number, tableLo: number, index: number): number {
    this.errorHi = tableHi
    this.errorLo = tableLo | (index * 8)
    return TABLE_ERROR
  }
}

/** log2 of the page of a leaf whose NextLevel is 0, in a table of this level: 4 KiB at level 1. */
function defaultLg2(level: number): number {
  return 9 * level + 3
}

/** Address bits that a level resolves; level 6 has only bits 63:57. */
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
    case 5:
      return (hi >>> 16) & 0x1ff
    default:
      return hi >>> 25
  }
}

/** True when the address has bits above those that `level` levels resolve. */
function isBeyond(level: number, hi: number, lo: number): boolean {
  const bits = defaultLg2(level + 1)
  if (bits >= 64) return false
  return bits >= 32 ? hi >>> (bits - 32) !== 0 : hi !== 0 || lo >>> bits !== 0
}

/** True when the address has bits set that the levels between these two would resolve. */
function skipsNonzero(level: number, next: number, hi: number, lo: number): boolean {
  for (let skipped = level - 1; skipped > next; skipped--) {
    if (indexAt(skipped, hi, lo) !== 0) return true
  }
  return false
}

/** Table 14: the lowest zero among address bits 51:12 is the top bit of the offset. 0 when there is none. */
function sizedLeafLg2(high: number, low: number): number {
  const zerosLo = ~low & pte.ADDR_LO
  if (zerosLo !== 0) return 32 - Math.clz32(zerosLo & -zerosLo)
  const zerosHi = ~high & pte.ADDR_HI
  return zerosHi === 0 ? 0 : 64 - Math.clz32(zerosHi & -zerosHi)
}

/** A size of its own lies between the default sizes of the level and of the one above. */
function fitsLevel(sizeLg2: number, level: number): boolean {
  return sizeLg2 > defaultLg2(level) && sizeLg2 < defaultLg2(level + 1)
}
