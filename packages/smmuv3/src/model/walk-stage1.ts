/**
 * Stage 1: from a virtual to an intermediate address. Arm DDI 0487 §D8.2 to §D8.6 with IHI 0070 G.b §3.4, §5.4.
 * With stage 2 behind it, every table is fetched through stage 2 (§3.3.2).
 *
 * Hot code: addresses are signed 32-bit halves, results stay in fields, nothing is allocated.
 */
import { ACCESS_PRIV, ACCESS_READ, ACCESS_WRITE, type PhysicalMemory } from "@iommu/core"
import { CLASS_TT, EVENTS } from "../spec/events.ts"
import * as pte from "../spec/page-tables.ts"
import { addressHi, descriptorKind, KIND_INVALID, KIND_LEAF, swap32 } from "../spec/page-tables.ts"
import type { Caches } from "./caches.ts"
import type { FaultSite } from "./events.ts"
import * as tlb from "./tlb.ts"
import { shapeOf } from "./tlb.ts"
import type { Tracer } from "./trace.ts"
import type { Geometry } from "./transaction.ts"
import { rightsIndex, Stage1Config, stage1Rights, UPPER_RANGE } from "./transaction.ts"
import type { Stage2Walk } from "./walk-stage2.ts"

// V8 loads a binding of another module from memory at each use, one of its own not.
const { AF, DBM_HI, S1_AP2: AP2 } = pte
const { TABLE_HI, TABLE_LIMITS, TABLE_LO, TABLE_PA_HI, TABLE_PA_KNOWN, TABLE_PA_LO } = tlb
const WRITE = ACCESS_WRITE

/** What tags translations through a CD, in the form that caches use. §3.17. */
interface ContextTags {
  readonly tag: number
  readonly globalTag: number
  readonly regime: number
}

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
  usesUpper = false

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
    if (this.limits !== 0) return stage1Rights(this.config, this.leafHi, low, this.limits, privileged)
    return this.config.rights[rightsIndex(this.leafHi, low, privileged ? ACCESS_PRIV : 0)] as number
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
    const upper = (vaHi & UPPER_RANGE) !== 0
    const { config } = this
    const g = upper ? config.upper : config.lower
    if (!g.enabled || !this.inRange(g, upper, vaHi, vaLo)) return EVENTS.F_TRANSLATION
    if (!this.privileged && g.unprivilegedOff) return EVENTS.F_TRANSLATION
    this.sharing = g.sharing
    this.usesUpper = upper
    return this.walkAll(g, g.withoutTopByte(vaHi), vaLo, need)
  }

  /** Every form, every fault, in the order of §7.3.22. */
  private walkAll(g: Geometry, vaHi: number, vaLo: number, need: number): number {
    const { limitMask } = g
    const site = this.site
    let limits = 0
    let tableHi = g.rootHi
    let tableLo = g.rootLo
    let level = g.startLevel
    let shift = g.rootShift
    let mask = g.rootMask
    const { keepsWalks, tables } = this.caches
    const { tag, regime } = this.context
    const kept = keepsWalks ? tables.findDeepest(g, vaHi, vaLo, tag, regime) : -1
    let located = false
    if (kept >= 0) {
      const { words } = tables.store
      tableHi = words[kept + TABLE_HI] as number
      tableLo = words[kept + TABLE_LO] as number
      limits = words[kept + TABLE_LIMITS] as number
      site.fetchHi = words[kept + TABLE_PA_HI] as number
      site.fetchLo = words[kept + TABLE_PA_LO] as number
      located = words[kept + TABLE_PA_KNOWN] !== 0
      level = tables.level
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
        if (keepsWalks && level > g.startLevel) {
          this.keepTable(g, level, vaHi, vaLo, tableHi, tableLo, limits)
        }
      }
      const { fetchHi, fetchLo } = site
      const at = this.memory.find(fetchHi, fetchLo)
      if (at < 0) {
        // A stage 1 table that no memory answers for, §7.3.12.
        site.cls = CLASS_TT
        return EVENTS.F_WALK_EABT
      }
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
    const at = tables.insert(g, level, vaHi, vaLo, tag, regime, tableHi, tableLo)
    const { words } = tables.store
    words[at + TABLE_LIMITS] = limits
    words[at + TABLE_PA_KNOWN] = !this.nested || this.stage2.sizeLg2 >= granuleLg2 ? 1 : 0
    words[at + TABLE_PA_HI] = this.site.fetchHi
    words[at + TABLE_PA_LO] = this.site.fetchLo & -(1 << granuleLg2)
  }

  /** Bits above the range must equal bit 55, without the top byte where it is ignored. §3.4.1. */
  private inRange(g: Geometry, upper: boolean, vaHi: number, vaLo: number): boolean {
    const top = g.withoutTopByte(vaHi)
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
    if ((low & AF) === 0 && !this.config.updateAccess && !this.config.accessFaultsOff) return EVENTS.F_ACCESS
    const dirtyable = this.dirtyable(high)
    const dirty = dirtyable ? low & ~AP2 : low
    const allowed = stage1Rights(this.config, high, dirty, limits, this.privileged)
    if ((allowed & need) !== need) return EVENTS.F_PERMISSION
    let updated = low
    if (this.config.updateAccess) updated |= AF
    if (dirtyable && (need & WRITE) !== 0) updated &= ~AP2
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
