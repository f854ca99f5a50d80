/**
 * Stage 1: from a virtual to an intermediate address. Arm DDI 0487 §D8.2 to §D8.6 with IHI 0070 G.b §3.4, §5.4.
 * With stage 2 behind it, every table is fetched through stage 2 (§3.3.2).
 *
 * Hot code: addresses are signed 32-bit halves, results stay in fields, nothing is allocated.
 */
import { ACCESS_READ, ACCESS_WRITE, type PhysicalMemory } from "@iommu/core"
import { CLASS_TT, EVENTS } from "../spec/events.ts"
import * as pte from "../spec/page-tables.ts"
import { addressHi, descriptorKind, KIND_INVALID, KIND_LEAF, swap32 } from "../spec/page-tables.ts"
import type { Caches } from "./caches.ts"
import * as tlb from "./tlb.ts"
import type { Tracer } from "./trace.ts"
import type { ContextTags, FaultSite, Geometry } from "./transaction.ts"
import { Stage1Config, shapeOf, stage1Rights, UPPER_RANGE } from "./transaction.ts"
import type { Stage2Walk } from "./walk-stage2.ts"

// V8 loads a binding of another module from memory at each use, one of its own not.
const TYPE = pte.TYPE
const TYPE_TABLE = pte.TYPE_TABLE
const TYPE_BLOCK = pte.TYPE_BLOCK
const TYPE_PAGE = pte.TYPE_PAGE
const ADDR_HI = pte.ADDR_HI
const ADDR_LO = pte.ADDR_LO
const AF = pte.AF
const DBM_HI = pte.DBM_HI
const AP2 = pte.S1_AP2
const LEAF = TYPE_PAGE | AF
const UPPER = UPPER_RANGE
const LAST = pte.LAST_LEVEL
const { TABLE_HI, TABLE_LIMITS, TABLE_LO, TABLE_PA_HI, TABLE_PA_KNOWN, TABLE_PA_LO } = tlb

export class Stage1Walk {
  /** Of the transaction under way. */
  config: Stage1Config = new Stage1Config()
  /** Whether stage 2 translates table fetches. */
  nested = false
  /** Whether the transaction is privileged, after STE.PRIVCFG. */
  privileged = false
  /** Tags of what caches hold. */
  context: ContextTags = { tag: 0, globalTag: 0, regime: 0 }
  trace: Tracer | null = null

  /** Valid after {@link walk} gave 0. */
  outHi = 0
  outLo = 0
  sizeLg2 = 0
  /** ACCESS_* bits. */
  allowed = 0
  /** The leaf's descriptor with its updates, what tables above limit, and the shareability of leaves without one. */
  leafHi = 0
  leafLo = 0
  limits = 0
  sharing = -1
  level = 0
  private usesUpper = false

  private readonly memory: PhysicalMemory
  private readonly words: Uint32Array
  private readonly site: FaultSite
  private readonly stage2: Stage2Walk
  private readonly caches: Caches

  constructor(memory: PhysicalMemory, site: FaultSite, stage2: Stage2Walk, caches: Caches) {
    this.memory = memory
    this.words = memory.words
    this.site = site
    this.stage2 = stage2
    this.caches = caches
  }

  /** What the leaf found last allows, ACCESS_* bits. */
  allowedTo(privileged: boolean): number {
    const low = this.dirtyable(this.leafHi) ? this.leafLo & ~AP2 : this.leafLo
    return stage1Rights(this.config, this.leafHi, low, this.limits, privileged || this.config.singlePrivilege)
  }

  /** A write to the leaf found last has a dirty state to update. */
  get isClean(): boolean {
    return this.dirtyable(this.leafHi) && (this.leafLo & AP2) !== 0
  }

  /** Record of a page, or -1. E0PD is not kept with pages (§5.4.1), so where it counts the walk decides. */
  findPage(vaHi: number, vaLo: number): number {
    if (!this.privileged && this.config.asksPrivilege) return -1
    const { tag, globalTag, regime } = this.context
    return this.caches.pages.find(this.config.withoutTopByte(vaHi), vaLo, tag, globalTag, regime)
  }

  /** Granule and level of the leaf found last. */
  get shape(): number {
    const { upper, lower } = this.config
    return shapeOf((this.usesUpper ? upper : lower).stride + 3, this.level)
  }

  private dirtyable(high: number): boolean {
    return this.config.updateDirty && (high & DBM_HI) !== 0
  }

  /**
   * @param need ACCESS_READ, ACCESS_WRITE, or ACCESS_EXEC alone for an instruction fetch; 0 asks for nothing
   * @returns 0 or the number of the event; the site says more when it is not CLASS IN of stage 1
   */
  walk(vaHi: number, vaLo: number, need: number): number {
    const upper = (vaHi & UPPER) !== 0
    const { config } = this
    const g = upper ? config.upper : config.lower
    if (!g.enabled || !this.inRange(g, upper, vaHi, vaLo)) return EVENTS.F_TRANSLATION
    if (!this.privileged && (upper ? this.config.unprivilegedOffUpper : this.config.unprivilegedOffLower)) {
      return EVENTS.F_TRANSLATION
    }
    this.sharing = g.sharing
    this.usesUpper = upper
    if (g.quick && this.trace === null) {
      if (this.caches.keepsWalks) {
        if (this.walkNear(g, vaHi, vaLo, need)) return 0
      } else if (this.walk4K(g, upper, vaHi, vaLo, need)) return 0
    }
    return this.walkAll(g, upper, this.config.withoutTopByte(vaHi), vaLo, need)
  }

  /** As {@link Stage2Walk.fetch}: the shape that nearly all tables have, unrolled, and success alone. */
  private walk4K(g: Geometry, upper: boolean, vaHi: number, vaLo: number, need: number): boolean {
    const { memory, stage2, words, nested, config } = this
    if (nested && !stage2.fetches) return false
    let hi = g.rootHi
    let lo = g.rootLo
    let mask = g.rootMask
    let kinds = TYPE_TABLE
    let limits = 0
    let at = -1
    if (g.startLevel === 0) {
      lo |= ((vaHi >>> 7) & mask) << 3
      at = nested ? stage2.fetch(hi, lo) : memory.find(hi, lo)
      if (at < 0) return false
      kinds = words[at] | 0
      limits = words[at + 1] | 0
      hi = limits & ADDR_HI
      lo = kinds & ADDR_LO
      mask = 511
    }
    lo |= (((vaHi << 2) | (vaLo >>> 30)) & mask) << 3
    at = nested ? stage2.fetch(hi, lo) : memory.find(hi, lo)
    if (at < 0) return false
    let low = words[at] | 0
    let high = words[at + 1] | 0
    limits |= high
    kinds &= low
    hi = high & ADDR_HI
    lo = (low & ADDR_LO) | ((vaLo >>> 18) & 0xff8)
    at = nested ? stage2.fetch(hi, lo) : memory.find(hi, lo)
    if (at < 0) return false
    low = words[at] | 0
    high = words[at + 1] | 0
    let shift = 21
    let leaf = TYPE_BLOCK | AF
    if ((low & TYPE) === TYPE_TABLE) {
      limits |= high
      hi = high & ADDR_HI
      lo = (low & ADDR_LO) | ((vaLo >>> 9) & 0xff8)
      at = nested ? stage2.fetch(hi, lo) : memory.find(hi, lo)
      if (at < 0) return false
      low = words[at] | 0
      high = words[at + 1] | 0
      shift = 12
      leaf = TYPE_PAGE | AF
    }
    if ((kinds & TYPE) !== TYPE_TABLE || (low & (TYPE | AF)) !== leaf) return false
    if (((limits | high) & ADDR_HI) >>> (g.outputBits - 32) !== 0) return false
    limits &= upper ? config.limitsUpper : config.limitsLower
    if (!this.allows(high, low, limits, need)) return false
    this.accept(low, high & ADDR_HI, vaHi, vaLo, shift)
    return true
  }

  /** The page alone, below a table that is kept with its physical address. */
  private walkNear(g: Geometry, vaHi: number, vaLo: number, need: number): boolean {
    const { tables } = this.caches
    const { tag, regime } = this.context
    const kept = tables.findNear(this.config.withoutTopByte(vaHi), vaLo, tag, regime)
    if (kept < 0) return false
    const records = tables.store.words
    if (records[kept + TABLE_PA_KNOWN] === 0) return false
    const tableLo = records[kept + TABLE_PA_LO] as number
    const at = this.memory.find(records[kept + TABLE_PA_HI] as number, tableLo | ((vaLo >>> 9) & 0xff8))
    if (at < 0) return false
    const low = this.words[at] | 0
    const high = this.words[at + 1] | 0
    if ((low & LEAF) !== LEAF || (high & ADDR_HI) >>> (g.outputBits - 32) !== 0) return false
    const limits = records[kept + TABLE_LIMITS] as number
    if (!this.allows(high, low, limits, need)) return false
    this.leafHi = high
    this.limits = limits
    this.level = LAST
    this.accept(low, high & ADDR_HI, vaHi, vaLo, 12)
    return true
  }

  /** Whether a leaf allows the access as it stands; keeps what it allows. */
  private allows(high: number, low: number, limits: number, need: number): boolean {
    if (this.dirtyable(high)) return false
    this.allowed = stage1Rights(this.config, high, low, limits, this.privileged)
    return (this.allowed & need) === need
  }

  /** Every form, every fault, in the order of §7.3.22. */
  private walkAll(g: Geometry, upper: boolean, vaHi: number, vaLo: number, need: number): number {
    const limitMask = upper ? this.config.limitsUpper : this.config.limitsLower
    const site = this.site
    let limits = 0
    let tableHi = g.rootHi
    let tableLo = g.rootLo
    let level = g.startLevel
    let shift = g.rootShift
    let mask = g.rootMask
    const kept = this.caches.keepsWalks ? this.findTable(g, vaHi, vaLo) : -1
    let located = false
    if (kept >= 0) {
      const { words } = this.caches.tables.store
      tableHi = words[kept + TABLE_HI] as number
      tableLo = words[kept + TABLE_LO] as number
      limits = words[kept + TABLE_LIMITS] as number
      site.fetchHi = words[kept + TABLE_PA_HI] as number
      site.fetchLo = words[kept + TABLE_PA_LO] as number
      located = words[kept + TABLE_PA_KNOWN] !== 0
      level = this.level
      shift = g.coveredLg2(level) - g.stride
      mask = g.indexMask
    }
    for (;;) {
      const index = (shift >= 32 ? vaHi >>> (shift - 32) : (vaLo >>> shift) | (vaHi << (32 - shift))) & mask
      const entryHi = tableHi
      const entryLo = tableLo | (index << 3)
      if (located) {
        site.fetchLo |= index << 3
        located = false
      } else {
        const status = this.locate(entryHi, entryLo)
        if (status !== 0) return status
        if (this.caches.keepsWalks && level > g.startLevel) {
          this.keepTable(g, level, vaHi, vaLo, tableHi, tableLo, limits)
        }
      }
      const { fetchHi, fetchLo } = site
      const at = this.memory.find(fetchHi, fetchLo)
      if (at < 0) return this.unreadable()
      const low = g.bigEndian ? swap32(this.words[at + 1]) : this.words[at] | 0
      const high = g.bigEndian ? swap32(this.words[at]) : this.words[at + 1] | 0
      if (this.trace !== null) {
        this.trace.descriptor(1, g, level, fetchHi, fetchLo - (index << 3), index, high, low)
      }
      const kind = descriptorKind(low, level, g.firstBlockLevel)
      if (kind === KIND_INVALID) return EVENTS.F_TRANSLATION
      tableHi = addressHi(high, low, g.addressForm)
      if (tableHi >>> (g.outputBits - 32) !== 0) return EVENTS.F_ADDR_SIZE
      if (kind === KIND_LEAF) {
        this.level = level
        const fault = this.check(at, entryHi, entryLo, high, low, limits, g.bigEndian, need)
        if (fault === 0) this.accept(this.leafLo, tableHi, vaHi, vaLo, shift)
        return fault
      }
      limits |= high & limitMask
      tableLo = low & g.addressMaskLo
      shift -= g.stride
      mask = g.indexMask
      level++
    }
  }

  /** Record of the deepest table that is known, or -1; its level is left in {@link level}. */
  private findTable(g: Geometry, vaHi: number, vaLo: number): number {
    const { tag, regime } = this.context
    for (let level = pte.LAST_LEVEL; level > g.startLevel; level--) {
      const shape = shapeOf(g.stride + 3, level)
      const at = this.caches.tables.find(g.coveredLg2(level), vaHi, vaLo, tag, regime, shape)
      if (at < 0) continue
      this.level = level
      return at
    }
    return -1
  }

  /** The physical address is the site's, and serves for the whole table where a stage 2 page covers that. */
  private keepTable(
    g: Geometry,
    level: number,
    vaHi: number,
    vaLo: number,
    tableHi: number,
    tableLo: number,
    limits: number,
  ): void {
    const granuleLg2 = g.stride + 3
    const { tag, regime } = this.context
    const { tables } = this.caches
    const at = tables.insert(g.coveredLg2(level), vaHi, vaLo, tag, regime, shapeOf(granuleLg2, level))
    const { words } = tables.store
    words[at + TABLE_HI] = tableHi
    words[at + TABLE_LO] = tableLo
    words[at + TABLE_LIMITS] = limits
    words[at + TABLE_PA_KNOWN] = !this.nested || this.stage2.sizeLg2 >= granuleLg2 ? 1 : 0
    words[at + TABLE_PA_HI] = this.site.fetchHi
    words[at + TABLE_PA_LO] = this.site.fetchLo & -(1 << granuleLg2)
  }

  /** Bits above the range must equal bit 55, without the top byte where it is ignored. §3.4.1. */
  private inRange(g: Geometry, upper: boolean, vaHi: number, vaLo: number): boolean {
    const ignored = upper ? this.config.topByteIgnoredUpper : this.config.topByteIgnoredLower
    const top = ignored ? (vaHi << 8) >> 8 : vaHi
    const sign = upper ? -1 : 0
    if (g.inputBits >= 32) return top >> (g.inputBits - 32) === sign
    return top === sign && (vaLo ^ sign) >>> g.inputBits === 0
  }

  private throughStage2(ipaHi: number, ipaLo: number, need: number): number {
    let status = this.stage2.walk(ipaHi, ipaLo, need)
    if (status === 0 && this.stage2.forbidsTable()) status = EVENTS.F_PERMISSION
    if (status !== 0) this.site.stage2(CLASS_TT, ipaHi, ipaLo, need === ACCESS_READ)
    return status
  }

  /** Leaves the physical address of a descriptor in the site. */
  private locate(hi: number, lo: number): number {
    const site = this.site
    site.fetchHi = hi
    site.fetchLo = lo
    if (!this.nested) return 0
    const status = this.throughStage2(hi, lo, ACCESS_READ)
    if (status !== 0) return status
    site.fetchHi = this.stage2.outHi
    site.fetchLo = this.stage2.outLo
    return 0
  }

  /** A stage 1 table that no memory answers for is CLASS TT, §7.3.12. */
  private unreadable(): number {
    this.site.cls = CLASS_TT
    return EVENTS.F_WALK_EABT
  }

  /** Access flag, permissions and their hardware update, in the order of §7.3.22. */
  private check(
    at: number,
    entryHi: number,
    entryLo: number,
    high: number,
    low: number,
    limits: number,
    bigEndian: boolean,
    need: number,
  ): number {
    if ((low & pte.AF) === 0 && !this.config.updateAccess && !this.config.accessFaultsOff)
      return EVENTS.F_ACCESS
    const dirtyable = this.dirtyable(high)
    const allowed = stage1Rights(
      this.config,
      high,
      dirtyable ? low & ~pte.S1_AP2 : low,
      limits,
      this.privileged,
    )
    if ((allowed & need) !== need) return EVENTS.F_PERMISSION
    let updated = low
    if (this.config.updateAccess) updated |= pte.AF
    if (dirtyable && (need & ACCESS_WRITE) !== 0) updated &= ~pte.S1_AP2
    if (updated !== low) {
      if (this.nested) {
        const status = this.throughStage2(entryHi, entryLo, ACCESS_WRITE)
        if (status !== 0) return status
      }
      if (bigEndian) this.words[at + 1] = swap32(updated)
      else this.words[at] = updated
    }
    this.allowed = allowed
    this.leafHi = high
    this.leafLo = updated
    this.limits = limits
    return 0
  }

  private accept(low: number, baseHi: number, vaHi: number, vaLo: number, shift: number): void {
    this.sizeLg2 = shift
    this.leafLo = low
    if (shift < 32) {
      const offset = (1 << shift) - 1
      this.outHi = baseHi
      this.outLo = (low & ~offset) | (vaLo & offset)
    } else {
      const offset = (1 << (shift - 32)) - 1
      this.outHi = (baseHi & ~offset) | (vaHi & offset)
      this.outLo = vaLo
    }
  }
}
