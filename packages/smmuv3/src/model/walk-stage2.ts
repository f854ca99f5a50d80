/**
 * Stage 2: from an intermediate to a physical address. Arm DDI 0487 §D8.2 to §D8.6 with IHI 0070 G.b §3.4, §3.13.
 *
 * Hot code: addresses are signed 32-bit halves, results stay in fields, nothing is allocated.
 */
import { ACCESS_READ, ACCESS_WRITE, type PhysicalMemory } from "@iommu/core"
import { EVENTS } from "../spec/events.ts"
import * as pte from "../spec/page-tables.ts"
import { addressHi, descriptorKind, KIND_INVALID, KIND_LEAF, swap32 } from "../spec/page-tables.ts"
import type { Caches } from "./caches.ts"
import { LEAF_BASE_HI, LEAF_HI, LEAF_LO, LEAF_SHAPE, TABLE_HI, TABLE_LO } from "./tlb.ts"
import type { Tracer } from "./trace.ts"
import { type FaultSite, type Geometry, Stage2Config, shapeOf, stage2Rights } from "./transaction.ts"

// V8 loads a binding of another module from memory at each use, one of its own not: 5 of 29 ns a walk.
const TYPE = pte.TYPE
const TYPE_TABLE = pte.TYPE_TABLE
const TYPE_BLOCK = pte.TYPE_BLOCK
const TYPE_PAGE = pte.TYPE_PAGE
const ADDR_HI = pte.ADDR_HI
const ADDR_LO = pte.ADDR_LO
const AF = pte.AF
const S2_AP_SHIFT = pte.S2_AP_SHIFT
const MEM_ATTR = pte.S2_MEM_ATTR
const DBM_HI = pte.DBM_HI
const LAST = pte.LAST_LEVEL
const KEPT_HI = TABLE_HI
const KEPT_LO = TABLE_LO
const WRITE = ACCESS_WRITE
const DATA_ACCESS = ACCESS_READ | ACCESS_WRITE
/** Of a leaf: the Access flag, and that it may be read. */
const READABLE = pte.AF | (ACCESS_READ << pte.S2_AP_SHIFT)

export class Stage2Walk {
  /** Of the stream under way. */
  config: Stage2Config = new Stage2Config()
  /** Whether the transaction is privileged, after STE.PRIVCFG. */
  privileged = false
  trace: Tracer | null = null

  /** Valid after {@link walk} gave 0. */
  outHi = 0
  outLo = 0
  sizeLg2 = 0
  /** The leaf's descriptor, with its updates. */
  leafHi = 0
  leafLo = 0
  private leafLevel = 0

  private readonly memory: PhysicalMemory
  private readonly words: Uint32Array
  private readonly site: FaultSite
  private readonly caches: Caches

  constructor(memory: PhysicalMemory, site: FaultSite, caches: Caches) {
    this.memory = memory
    this.words = memory.words
    this.site = site
    this.caches = caches
  }

  /** What the leaf found last allows, ACCESS_* bits. */
  get allowed(): number {
    return this.allowedTo(this.privileged)
  }

  allowedTo(privileged: boolean): number {
    return stage2Rights(this.config, this.leafHi, this.leafLo, privileged)
  }

  /** A write to the leaf found last has a dirty state to update. */
  get isClean(): boolean {
    return this.dirtyable(this.leafHi) && (this.leafLo & pte.S2_AP_WRITE) === 0
  }

  /**
   * @param need ACCESS_READ, ACCESS_WRITE, or ACCESS_EXEC alone for an instruction fetch; 0 asks for nothing
   * @returns 0 or the number of the event
   */
  walk(ipaHi: number, ipaLo: number, need: number): number {
    if (this.caches.keepsWalks) return this.walkKept(ipaHi, ipaLo, need)
    const quick = this.config.geometry.quick && this.trace === null && need <= DATA_ACCESS
    return quick && this.walk4K(ipaHi, ipaLo, need) ? 0 : this.walkAll(ipaHi, ipaLo, need)
  }

  private walkKept(ipaHi: number, ipaLo: number, need: number): number {
    const { stage2Pages } = this.caches
    const kept = stage2Pages.find(ipaHi, ipaLo, this.config.vmid)
    if (kept >= 0) {
      const { words } = stage2Pages.store
      const high = words[kept + LEAF_HI] as number
      const low = words[kept + LEAF_LO] as number
      if ((stage2Rights(this.config, high, low, this.privileged) & need) !== need) return EVENTS.F_PERMISSION
      if ((need & WRITE) === 0 || (low & pte.S2_AP_WRITE) !== 0) {
        const baseHi = words[kept + LEAF_BASE_HI] as number
        this.accept(high, low, baseHi, ipaHi, ipaLo, stage2Pages.sizeLg2)
        return 0
      }
    }
    const quick = this.config.geometry.quick && this.trace === null && need <= DATA_ACCESS
    const status = quick && this.walkNear(ipaHi, ipaLo, need) ? 0 : this.walkAll(ipaHi, ipaLo, need)
    if (status === 0) this.keepPage(ipaHi, ipaLo)
    return status
  }

  /** The page alone, below a table that is kept; success alone, as in {@link walk4K}. */
  private walkNear(ipaHi: number, ipaLo: number, need: number): boolean {
    const g = this.config.geometry
    const { stage2Tables } = this.caches
    const kept = stage2Tables.findNear(ipaHi, ipaLo, this.config.vmid << 16, 0)
    if (kept < 0 || ipaHi >>> (g.inputBits - 32) !== 0) return false
    const records = stage2Tables.store.words
    const tableLo = records[kept + KEPT_LO] as number
    const at = this.memory.find(records[kept + KEPT_HI] as number, tableLo | ((ipaLo >>> 9) & 0xff8))
    if (at < 0) return false
    const low = this.words[at] | 0
    const high = this.words[at + 1] | 0
    const wanted = TYPE_PAGE | AF | (need << S2_AP_SHIFT)
    if ((low & wanted) !== wanted || (high & ADDR_HI) >>> (g.outputBits - 32) !== 0) return false
    this.leafLevel = LAST
    this.accept(high, low, high & ADDR_HI, ipaHi, ipaLo, 12)
    return true
  }

  private keepPage(ipaHi: number, ipaLo: number): void {
    const { stage2Pages } = this.caches
    const at = stage2Pages.insert(this.sizeLg2, ipaHi, ipaLo, this.config.vmid)
    const { words } = stage2Pages.store
    words[at + LEAF_HI] = this.leafHi
    words[at + LEAF_LO] = this.leafLo
    words[at + LEAF_BASE_HI] = this.outHi
    words[at + LEAF_SHAPE] = shapeOf(this.config.geometry.stride + 3, this.leafLevel)
  }

  /** Record of the deepest table that is known, or -1; its level is left in #leafLevel. */
  private findTable(g: Geometry, ipaHi: number, ipaLo: number): number {
    const granuleLg2 = g.stride + 3
    for (let level = pte.LAST_LEVEL; level > g.startLevel; level--) {
      const shape = shapeOf(granuleLg2, level)
      const at = this.caches.stage2Tables.find(
        g.coveredLg2(level),
        ipaHi,
        ipaLo,
        this.config.vmid << 16,
        0,
        shape,
      )
      if (at < 0) continue
      this.leafLevel = level
      return at
    }
    return -1
  }

  private keepTable(
    g: Geometry,
    level: number,
    ipaHi: number,
    ipaLo: number,
    tableHi: number,
    tableLo: number,
  ): void {
    const granuleLg2 = g.stride + 3
    const { stage2Tables } = this.caches
    const tag = this.config.vmid << 16
    const at = stage2Tables.insert(g.coveredLg2(level), ipaHi, ipaLo, tag, 0, shapeOf(granuleLg2, level))
    stage2Tables.store.words[at + TABLE_HI] = tableHi
    stage2Tables.store.words[at + TABLE_LO] = tableLo
  }

  /** Whether {@link fetch} may be tried. */
  get fetches(): boolean {
    return this.config.geometry.quick && this.trace === null
  }

  /**
   * {@link walk} for a read of a table of stage 1, without a result in the fields and with what descriptors are
   * judged together at the end: whatever one points to, a look-up there stays within one page. A nested walk has four
   * of these (125 against 173 ns). It knows success alone.
   * @returns word index in memory, or -1 for the complete walk to say why
   */
  fetch(ipaHi: number, ipaLo: number): number {
    const g = this.config.geometry
    const memory = this.memory
    const words = this.words
    if (ipaHi >>> (g.inputBits - 32) !== 0) return -1
    let kinds = TYPE_TABLE
    let highs = 0
    let at = -1
    if (g.startLevel === 0) {
      at = memory.find(g.rootHi, g.rootLo | (((ipaHi >>> 7) & g.rootMask) << 3))
      if (at < 0) return -1
      kinds = words[at] | 0
      highs = words[at + 1] | 0
      at = memory.find(highs & ADDR_HI, (kinds & ADDR_LO) | ((((ipaHi << 2) | (ipaLo >>> 30)) & 511) << 3))
    } else at = memory.find(g.rootHi, g.rootLo | ((((ipaHi << 2) | (ipaLo >>> 30)) & g.rootMask) << 3))
    if (at < 0) return -1
    const low1 = words[at] | 0
    const high1 = words[at + 1] | 0
    at = memory.find(high1 & ADDR_HI, (low1 & ADDR_LO) | ((ipaLo >>> 18) & 0xff8))
    if (at < 0) return -1
    let low = words[at] | 0
    let high = words[at + 1] | 0
    highs |= high1 | high
    kinds &= low1
    let offset = 0x1f_ffff
    let leaf = TYPE_BLOCK | READABLE
    if ((low & TYPE) === TYPE_TABLE) {
      at = memory.find(high & ADDR_HI, (low & ADDR_LO) | ((ipaLo >>> 9) & 0xff8))
      if (at < 0) return -1
      low = words[at] | 0
      high = words[at + 1] | 0
      highs |= high
      offset = 0xfff
      leaf = TYPE_PAGE | READABLE
    }
    if ((kinds & TYPE) !== TYPE_TABLE || (low & (TYPE | READABLE)) !== leaf) return -1
    if ((highs & ADDR_HI) >>> (g.outputBits - 32) !== 0 || this.forbids(low)) return -1
    return memory.find(high & ADDR_HI, (low & ~offset) | (ipaLo & offset))
  }

  /**
   * The shape that nearly all tables have, unrolled: 15 ns against 29 of the complete walk. It knows success
   * alone; whatever else it meets, the complete walk meets again and answers.
   */
  private walk4K(ipaHi: number, ipaLo: number, need: number): boolean {
    const g = this.config.geometry
    const memory = this.memory
    const words = this.words
    const outputShift = g.outputBits - 32
    let tableHi = g.rootHi
    let tableLo = g.rootLo
    let mask = g.rootMask
    if (ipaHi >>> (g.inputBits - 32) !== 0) return false
    if (g.startLevel === 0) {
      const at = memory.find(tableHi, tableLo | (((ipaHi >>> 7) & mask) << 3))
      if (at < 0) return false
      tableLo = words[at] | 0
      tableHi = words[at + 1] & ADDR_HI
      if ((tableLo & TYPE) !== TYPE_TABLE || tableHi >>> outputShift !== 0) return false
      tableLo &= ADDR_LO
      mask = 511
    }
    let at = memory.find(tableHi, tableLo | ((((ipaHi << 2) | (ipaLo >>> 30)) & mask) << 3))
    if (at < 0) return false
    tableLo = words[at] | 0
    tableHi = words[at + 1] & ADDR_HI
    if ((tableLo & TYPE) !== TYPE_TABLE || tableHi >>> outputShift !== 0) return false
    at = memory.find(tableHi, (tableLo & ADDR_LO) | (((ipaLo >>> 21) & 511) << 3))
    if (at < 0) return false
    let low = words[at] | 0
    let high = words[at + 1] | 0
    if ((high & ADDR_HI) >>> outputShift !== 0) return false
    const wanted = AF | (need << S2_AP_SHIFT)
    if ((low & TYPE) !== TYPE_TABLE) {
      if ((low & (TYPE | wanted)) !== (TYPE_BLOCK | wanted)) return false
      this.accept(high, low, high & ADDR_HI, ipaHi, ipaLo, 21)
      return true
    }
    at = memory.find(high & ADDR_HI, (low & ADDR_LO) | (((ipaLo >>> 12) & 511) << 3))
    if (at < 0) return false
    low = words[at] | 0
    high = words[at + 1] | 0
    if ((low & (TYPE_PAGE | wanted)) !== (TYPE_PAGE | wanted)) return false
    if ((high & ADDR_HI) >>> outputShift !== 0) return false
    this.accept(high, low, high & ADDR_HI, ipaHi, ipaLo, 12)
    return true
  }

  /** Every form, every fault, in the order of §7.3.22. */
  private walkAll(ipaHi: number, ipaLo: number, need: number): number {
    const g = this.config.geometry
    const { inputBits } = g
    if (inputBits >= 32 ? ipaHi >>> (inputBits - 32) !== 0 : ipaHi !== 0 || ipaLo >>> inputBits !== 0) {
      return EVENTS.F_TRANSLATION
    }
    let tableHi = g.rootHi
    let tableLo = g.rootLo
    let shift = g.rootShift
    let mask = g.rootMask
    let level = g.startLevel
    const kept = this.caches.keepsWalks ? this.findTable(g, ipaHi, ipaLo) : -1
    if (kept >= 0) {
      const { words } = this.caches.stage2Tables.store
      tableHi = words[kept + TABLE_HI] as number
      tableLo = words[kept + TABLE_LO] as number
      level = this.leafLevel
      shift = g.coveredLg2(level) - g.stride
      mask = g.indexMask
    }
    for (;;) {
      const index =
        (shift >= 32 ? ipaHi >>> (shift - 32) : (ipaLo >>> shift) | (ipaHi << (32 - shift))) & mask
      const entryLo = tableLo | (index << 3)
      const at = this.memory.find(tableHi, entryLo)
      if (at < 0) return this.unreadable(tableHi, entryLo)
      const low = g.bigEndian ? swap32(this.words[at + 1]) : this.words[at] | 0
      const high = g.bigEndian ? swap32(this.words[at]) : this.words[at + 1] | 0
      if (this.trace !== null) this.trace.descriptor(2, g, level, tableHi, tableLo, index, high, low)
      const kind = descriptorKind(low, level, g.firstBlockLevel)
      if (kind === KIND_INVALID) return EVENTS.F_TRANSLATION
      tableHi = addressHi(high, low, g.addressForm)
      if (tableHi >>> (g.outputBits - 32) !== 0) return EVENTS.F_ADDR_SIZE
      if (kind === KIND_LEAF) {
        this.leafLevel = level
        const status = this.check(at, high, low, need)
        if (status === 0) this.accept(high, this.leafLo, tableHi, ipaHi, ipaLo, shift)
        return status
      }
      tableLo = low & g.addressMaskLo
      shift -= g.stride
      mask = g.indexMask
      level++
      if (this.caches.keepsWalks) this.keepTable(g, level, ipaHi, ipaLo, tableHi, tableLo)
    }
  }

  /** S2PTW: a table or CD must not lie in Device memory. §5.2 S2PTW. */
  forbidsTable(): boolean {
    return this.forbids(this.leafLo)
  }

  private forbids(leafLo: number): boolean {
    if (!this.config.protectTables) return false
    const type = leafLo & MEM_ATTR
    return this.config.forceWriteBack ? (type & 0x10) === 0 : (type & 0x30) === 0
  }

  private unreadable(hi: number, lo: number): number {
    this.site.fetchHi = hi
    this.site.fetchLo = lo
    return EVENTS.F_WALK_EABT
  }

  /** Access flag, permissions and their hardware update, in the order of §7.3.22. */
  private check(at: number, high: number, low: number, need: number): number {
    if ((low & pte.AF) === 0 && !this.config.updateAccess && !this.config.accessFaultsOff)
      return EVENTS.F_ACCESS
    if ((stage2Rights(this.config, high, low, this.privileged) & need) !== need) return EVENTS.F_PERMISSION
    let updated = low
    if (this.config.updateAccess) updated |= pte.AF
    if (this.dirtyable(high) && (need & ACCESS_WRITE) !== 0) updated |= pte.S2_AP_WRITE
    if (updated !== low) {
      if (this.config.geometry.bigEndian) this.words[at + 1] = swap32(updated)
      else this.words[at] = updated
    }
    this.leafLo = updated
    return 0
  }

  private dirtyable(high: number): boolean {
    return this.config.updateDirty && (high & DBM_HI) !== 0
  }

  private accept(
    high: number,
    low: number,
    baseHi: number,
    ipaHi: number,
    ipaLo: number,
    shift: number,
  ): void {
    this.leafHi = high
    this.leafLo = low
    this.sizeLg2 = shift
    if (shift < 32) {
      const offset = (1 << shift) - 1
      this.outHi = baseHi
      this.outLo = (low & ~offset) | (ipaLo & offset)
    } else {
      const offset = (1 << (shift - 32)) - 1
      this.outHi = (baseHi & ~offset) | (ipaHi & offset)
      this.outLo = ipaLo
    }
  }
}
