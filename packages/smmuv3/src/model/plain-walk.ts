/**
 * Translations that nothing is odd about: tables of the shape that {@link Geometry.quick} means, no limits from above,
 * flags that are set, a leaf that allows the access. What is odd about tables is gathered and judged at the end:
 * whatever one points to, a look-up there stays within one page. These walks know success alone; whatever else there
 * is, the complete ones meet it again and answer.
 *
 * The descent is written out where it is needed, with the comparison of the memory's segment: until V8 optimises, a
 * call costs as much as eight reads of a field.
 */
import { ACCESS_EXEC, ACCESS_PRIV, ACCESS_READ, ACCESS_WRITE, type PhysicalMemory } from "@iommu/core"
import * as pte from "../spec/page-tables.ts"
import type { Outcome } from "./attributes.ts"
import type { Caches } from "./caches.ts"
import { DeviceEntry } from "./device-entry.ts"
import type { Registers } from "./registers.ts"
import * as tlb from "./tlb.ts"
import { type Geometry, needOf, rightsIndex, Stage1Config } from "./transaction.ts"
import type { Stage1Walk } from "./walk-stage1.ts"
import type { Stage2Walk } from "./walk-stage2.ts"

// V8 loads a binding of another module from memory at each use, one of its own not.
const { ADDR_HI, AF, PAGE, TYPE, TYPE_BLOCK, TYPE_PAGE, TYPE_TABLE } = pte
const { S1_AP2: AP2, S2_AP_WRITE: AP_WRITE } = pte
/** Signed: a small integer to V8, as bits 31:0 of a descriptor are here. */
const ADDR_LO = pte.ADDR_LO | 0
const { TABLE_LIMITS, TABLE_PA_HI, TABLE_PA_LO } = tlb
const WRITE = ACCESS_WRITE
const EXEC = ACCESS_EXEC
const PRIV = ACCESS_PRIV
const DATA_ACCESS = ACCESS_READ | ACCESS_WRITE
const EXEC_OR_WRITE = ACCESS_EXEC | ACCESS_WRITE
const ALL_ACCESS = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC
/** log2 of the blocks of level 2 with a 4 KiB granule. */
const BLOCK_LG2 = 21

/** What is between a plain transaction and its answer: nothing is known, or all that the book has. */
export const WAY_UNKNOWN = 0
export const WAY_COMPLETE = 1
/** Stage 1 alone, nothing cached: who asks goes it by himself, {@link PlainWalk.walk}. */
export const WAY_STAGE1 = 2
const WAY_STAGE2 = 3
const WAY_NESTED = 4
/** From kept tables and pages of stage 2 on. */
const WAY_KEPT = 5
const WAY_KEPT_STAGE2 = 6
const WAY_PASS = 7
/** One of these, once the access is as the STE wants it to count. */
const WAY_OVERRIDDEN = 8

export class PlainWalk {
  private readonly memory: PhysicalMemory
  /** Signed, so that nothing needs to be made so. */
  private readonly words: Int32Array
  private readonly registers: Registers
  private readonly caches: Caches
  private readonly stage1: Stage1Walk
  private readonly stage2: Stage2Walk
  private readonly result: Outcome
  // Of the STE and the CD found last.
  private entry = new DeviceEntry()
  private config = new Stage1Config()
  private way = WAY_COMPLETE

  constructor(
    memory: PhysicalMemory,
    registers: Registers,
    caches: Caches,
    stage1: Stage1Walk,
    stage2: Stage2Walk,
    result: Outcome,
  ) {
    this.memory = memory
    this.words = new Int32Array(memory.words.buffer)
    this.registers = registers
    this.caches = caches
    this.stage1 = stage1
    this.stage2 = stage2
    this.result = result
  }

  /**
   * Takes over an STE, and the CD that stage 1 has, if it is used.
   * @returns how transactions of the stream may go without looking at kept pages or at rarities
   */
  load(entry: DeviceEntry, usesStage1: boolean): number {
    // A store of an object costs more than the comparison.
    if (this.entry !== entry) this.entry = entry
    if (this.config !== this.stage1.config) this.config = this.stage1.config
    this.way = this.wayOf(entry, usesStage1)
    return entry.overrides && this.way !== WAY_COMPLETE ? WAY_OVERRIDDEN : this.way
  }

  private wayOf({ stage2, stage2Config }: DeviceEntry, usesStage1: boolean): number {
    if (!usesStage1 && !stage2) return WAY_PASS
    const { keepsTranslations, keepsWalks } = this.caches
    if (keepsTranslations) return WAY_COMPLETE
    if (stage2 && !stage2Config.geometry.quick) return WAY_COMPLETE
    if (!usesStage1) return keepsWalks ? WAY_KEPT_STAGE2 : WAY_STAGE2
    if (keepsWalks) return WAY_KEPT
    return stage2 ? WAY_NESTED : WAY_STAGE1
  }

  /** @returns whether the result is filled; a way that is not plain never does */
  follow(way: number, hi: number, lo: number, access: number): boolean {
    switch (way) {
      case WAY_STAGE2:
        return this.walkStage2(hi, lo, access, ALL_ACCESS, 0)
      case WAY_NESTED:
        return this.walkNested(hi, lo, access)
      case WAY_KEPT:
        return this.walkKept(hi, lo, access)
      case WAY_KEPT_STAGE2:
        return this.stage2.finishKept(hi, lo, access, ALL_ACCESS, 0, this.result)
      case WAY_PASS:
        return this.pass(hi, lo)
      case WAY_STAGE1:
        return this.walk(hi, lo, access)
      case WAY_OVERRIDDEN:
        return this.follow(this.way, hi, lo, this.entry.overridden(access))
      default:
        return false
    }
  }

  private pass(hi: number, lo: number): boolean {
    if (hi >>> (this.registers.features.oasBits - 32) !== 0) return false
    this.result.fill(hi, lo, 0, 0, ALL_ACCESS, hi, lo)
    return true
  }

  /** Stage 1 alone. */
  walk(vaHi: number, vaLo: number, access: number): boolean {
    const { config, memory, words } = this
    // Read once, not with each table.
    const { hitHi, hitLo, hitLast, hitWord } = memory
    const last = hitLast >>> 0
    let hi = vaHi | 0
    const g = hi < 0 ? config.upper : config.lower
    // The top byte of an address without one repeats bit 55.
    if (hi >> (g.inputBits - 32) !== hi >> 31) return false
    let at = g.rootAt
    if (at < 0) {
      at = this.findRoot(g, hi, vaLo)
      if (at < 0) return false
    } else at += ((g.startLevel === 0 ? hi >>> 7 : (hi << 2) | (vaLo >>> 30)) & g.rootMask) << 1
    let low = words[at] as number
    let high = words[at + 1] as number
    let kinds = low
    let highs = high
    let lo = 0
    let offset = 0
    if (g.startLevel === 0) {
      lo = (low & ADDR_LO) | (((hi << 5) | (vaLo >>> 27)) & 0xff8)
      hi = high & ADDR_HI
      offset = (lo - hitLo) >>> 0
      at = hi === hitHi && offset <= last ? hitWord + (offset >>> 2) : memory.find(hi, lo)
      if (at < 0) return false
      low = words[at] as number
      high = words[at + 1] as number
      kinds &= low
      highs |= high
    }
    lo = (low & ADDR_LO) | ((vaLo >>> 18) & 0xff8)
    hi = high & ADDR_HI
    offset = (lo - hitLo) >>> 0
    at = hi === hitHi && offset <= last ? hitWord + (offset >>> 2) : memory.find(hi, lo)
    if (at < 0) return false
    low = words[at] as number
    high = words[at + 1] as number
    let sizeLg2 = BLOCK_LG2
    let inLeaf = 0x1f_ffff
    if ((low & TYPE) !== TYPE_BLOCK) {
      kinds &= low
      highs |= high
      lo = (low & ADDR_LO) | ((vaLo >>> 9) & 0xff8)
      hi = high & ADDR_HI
      offset = (lo - hitLo) >>> 0
      at = hi === hitHi && offset <= last ? hitWord + (offset >>> 2) : memory.find(hi, lo)
      if (at < 0) return false
      low = words[at] as number
      high = words[at + 1] as number
      // Pages have the type of tables.
      kinds &= low
      sizeLg2 = 12
      inLeaf = 0xfff
    }
    if ((kinds & TYPE) !== TYPE_TABLE) return false
    if (((highs & g.oddTableHi) | (high & g.oddLeafHi) | (~low & AF)) !== 0) return false
    let ap = low
    if ((high & g.dirtyHi) !== 0) {
      // A write has a dirty state to update.
      if ((low & AP2) !== 0 && (access & WRITE) !== 0) return false
      ap &= ~AP2
    }
    const index = ((ap >>> 6) & 3) | ((high >>> 19) & 0xc) | ((access & PRIV) << 1)
    const allowed = config.rights[index] as number
    const need = (access & EXEC_OR_WRITE) === EXEC ? EXEC : access & DATA_ACCESS
    if ((need & ~allowed) !== 0) return false
    const { result, stage1 } = this
    stage1.leafLo = low
    stage1.sharing = -1
    lo = ((low & ~inLeaf) | (vaLo & inLeaf)) >>> 0
    high &= ADDR_HI
    result.paHi = high
    result.paLo = lo
    result.ipaHi = high
    result.ipaLo = lo
    result.allowed = allowed
    result.sizeLg2 = sizeLg2
    result.stage1SizeLg2 = sizeLg2
    result.stage2SizeLg2 = 0
    if (result.fault !== null) result.fault = null
    return true
  }

  /** A root that has no word index of its own. */
  private findRoot(g: Geometry, hi: number, lo: number): number {
    return g.quick ? this.memory.find(g.rootHi, g.rootLo | (rootIndex(g, hi, lo) << 3)) : -1
  }

  /** The same with every table's address translated by stage 2. */
  private walkNested(vaHi: number, vaLo: number, access: number): boolean {
    const { config, stage2, words } = this
    const g = vaHi < 0 ? config.upper : config.lower
    if (!g.quick || vaHi >> (g.inputBits - 32) !== vaHi >> 31) return false
    let at = stage2.fetch(g.rootHi, g.rootLo | (rootIndex(g, vaHi, vaLo) << 3))
    if (at < 0) return false
    let low = words[at] as number
    let high = words[at + 1] as number
    let kinds = low
    let highs = high
    if (g.startLevel === 0) {
      at = stage2.fetch(high & ADDR_HI, (low & ADDR_LO) | (((vaHi << 5) | (vaLo >>> 27)) & 0xff8))
      if (at < 0) return false
      low = words[at] as number
      high = words[at + 1] as number
      kinds &= low
      highs |= high
    }
    at = stage2.fetch(high & ADDR_HI, (low & ADDR_LO) | ((vaLo >>> 18) & 0xff8))
    if (at < 0) return false
    low = words[at] as number
    if ((low & TYPE) === TYPE_TABLE) {
      high = words[at + 1] as number
      highs |= high
      at = stage2.fetch(high & ADDR_HI, (low & ADDR_LO) | ((vaLo >>> 9) & 0xff8))
      if (at < 0 || ((words[at] as number) & TYPE) !== TYPE_PAGE) return false
    } else if ((low & TYPE) !== TYPE_BLOCK) return false
    if ((kinds & TYPE) !== TYPE_TABLE || (highs & g.oddTableHi) !== 0) return false
    return this.finish(g, at, vaLo, access)
  }

  /** From the table of pages on, where that is kept with its physical address. */
  walkKept(vaHi: number, vaLo: number, access: number): boolean {
    const { config, memory, stage1, words } = this
    const { context } = stage1
    const { tables } = this.caches
    const g = vaHi < 0 ? config.upper : config.lower
    if (!g.quick || vaHi >> (g.inputBits - 32) !== vaHi >> 31) return false
    const kept = tables.findNear(vaHi, vaLo, context.tag, context.regime)
    if (kept < 0) return false
    const records = tables.store.words
    // A table of 4 KiB lies in one page of stage 2, so its address is known.
    if (records[kept + TABLE_LIMITS] !== 0) return false
    const tableLo = records[kept + TABLE_PA_LO] as number
    const at = memory.find(records[kept + TABLE_PA_HI] as number, tableLo | ((vaLo >>> 9) & 0xff8))
    if (at < 0 || ((words[at] as number) & TYPE) !== TYPE_PAGE) return false
    stage1.leafHi = words[at + 1] as number
    stage1.limits = 0
    stage1.level = pte.LAST_LEVEL
    stage1.usesUpper = vaHi < 0
    return this.finish(g, at, vaLo, access)
  }

  /** What a leaf of stage 1 gives, unless it does not allow the access or has something to update; then stage 2. */
  private finish(g: Geometry, at: number, vaLo: number, access: number): boolean {
    const leaf = this.words[at] as number
    const high = this.words[at + 1] as number
    const low = (high & g.dirtyHi) === 0 ? leaf : leaf & ~AP2
    const allowed = this.config.rights[rightsIndex(high, low, access)] as number
    const need = needOf(access)
    if ((leaf & AF) === 0 || (high & g.oddLeafHi) !== 0 || (allowed & need) !== need) return false
    if (low !== leaf && (need & WRITE) !== 0) return false
    const isPage = (leaf & PAGE) !== 0
    const offset = isPage ? 0xfff : 0x1f_ffff
    const outHi = high & ADDR_HI
    const outLo = (leaf & ~offset) | (vaLo & offset)
    const sizeLg2 = isPage ? 12 : BLOCK_LG2
    const { result, stage1, stage2 } = this
    stage1.leafLo = leaf
    stage1.sharing = -1
    if (!this.entry.stage2) {
      result.fill(outHi, outLo, sizeLg2, 0, allowed, outHi, outLo)
      if (result.fault !== null) result.fault = null
      return true
    }
    return this.caches.keepsWalks
      ? stage2.finishKept(outHi, outLo, access, allowed, sizeLg2, result)
      : this.walkStage2(outHi, outLo, access, allowed, sizeLg2)
  }

  /**
   * The result of stage 2 alone, or of both stages after stage 1.
   * @param stage1 what stage 1 allows, and @param stage1Lg2 log2 of its leaf, 0 without stage 1
   */
  private walkStage2(
    ipaHi: number,
    ipaLo: number,
    access: number,
    stage1: number,
    stage1Lg2: number,
  ): boolean {
    const { memory, words } = this
    const { geometry: g, rights } = this.entry.stage2Config
    const { hitHi, hitLo, hitLast, hitWord } = memory
    const last = hitLast >>> 0
    if (ipaHi >>> (g.inputBits - 32) !== 0) return false
    let at = g.rootAt
    if (at < 0) {
      at = this.findRoot(g, ipaHi, ipaLo)
      if (at < 0) return false
    } else at += ((g.startLevel === 0 ? ipaHi >>> 7 : (ipaHi << 2) | (ipaLo >>> 30)) & g.rootMask) << 1
    let low = words[at] as number
    let high = words[at + 1] as number
    let kinds = low
    let highs = high
    let hi = 0
    let lo = 0
    let offset = 0
    if (g.startLevel === 0) {
      lo = (low & ADDR_LO) | (((ipaHi << 5) | (ipaLo >>> 27)) & 0xff8)
      hi = high & ADDR_HI
      offset = (lo - hitLo) >>> 0
      at = hi === hitHi && offset <= last ? hitWord + (offset >>> 2) : memory.find(hi, lo)
      if (at < 0) return false
      low = words[at] as number
      high = words[at + 1] as number
      kinds &= low
      highs |= high
    }
    lo = (low & ADDR_LO) | ((ipaLo >>> 18) & 0xff8)
    hi = high & ADDR_HI
    offset = (lo - hitLo) >>> 0
    at = hi === hitHi && offset <= last ? hitWord + (offset >>> 2) : memory.find(hi, lo)
    if (at < 0) return false
    low = words[at] as number
    high = words[at + 1] as number
    let sizeLg2 = BLOCK_LG2
    if ((low & TYPE) !== TYPE_BLOCK) {
      kinds &= low
      highs |= high
      lo = (low & ADDR_LO) | ((ipaLo >>> 9) & 0xff8)
      hi = high & ADDR_HI
      offset = (lo - hitLo) >>> 0
      at = hi === hitHi && offset <= last ? hitWord + (offset >>> 2) : memory.find(hi, lo)
      if (at < 0) return false
      low = words[at] as number
      high = words[at + 1] as number
      kinds &= low
      sizeLg2 = 12
    }
    if ((kinds & TYPE) !== TYPE_TABLE) return false
    if (((highs & g.oddTableHi) | (high & g.oddLeafHi) | (~low & AF)) !== 0) return false
    let ap = low
    if ((high & g.dirtyHi) !== 0) {
      if ((low & AP_WRITE) === 0 && (access & WRITE) !== 0) return false
      ap |= AP_WRITE
    }
    const index = ((ap >>> 6) & 3) | ((high >>> 19) & 0xc) | ((access & PRIV) << 1)
    const allowed = stage1 & (rights[index] as number)
    const need = (access & EXEC_OR_WRITE) === EXEC ? EXEC : access & DATA_ACCESS
    if ((need & ~allowed) !== 0) return false
    const { result } = this
    this.stage2.leafLo = low
    offset = (1 << sizeLg2) - 1
    result.paHi = high & ADDR_HI
    result.paLo = ((low & ~offset) | (ipaLo & offset)) >>> 0
    result.ipaHi = ipaHi >>> 0
    result.ipaLo = ipaLo >>> 0
    result.allowed = allowed
    result.stage1SizeLg2 = stage1Lg2
    result.stage2SizeLg2 = sizeLg2
    result.sizeLg2 = stage1Lg2 === 0 || sizeLg2 < stage1Lg2 ? sizeLg2 : stage1Lg2
    if (result.fault !== null) result.fault = null
    return true
  }
}

function rootIndex(g: Geometry, hi: number, lo: number): number {
  return (g.startLevel === 0 ? hi >>> 7 : (hi << 2) | (lo >>> 30)) & g.rootMask
}
