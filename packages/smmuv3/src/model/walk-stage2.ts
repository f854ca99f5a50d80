/**
 * Stage 2: from an intermediate to a physical address. Arm DDI 0487 §D8.2 to §D8.6 with IHI 0070 G.b §3.4, §3.13.
 *
 * Hot code: addresses are signed 32-bit halves, results stay in fields, nothing is allocated.
 */
import { ACCESS_PRIV, ACCESS_READ, ACCESS_WRITE, type PhysicalMemory } from "@iommu/core"
import { EVENTS } from "../spec/events.ts"
import * as pte from "../spec/page-tables.ts"
import { addressHi, descriptorKind, KIND_INVALID, KIND_LEAF, swap32 } from "../spec/page-tables.ts"
import type { Outcome } from "./attributes.ts"
import type { Caches } from "./caches.ts"
import type { FaultSite } from "./events.ts"
import * as tlb from "./tlb.ts"
import { LEAF_BASE_HI, LEAF_HI, LEAF_LO, LEAF_SHAPE, shapeOf } from "./tlb.ts"
import type { Tracer } from "./trace.ts"
import { needOf, rightsIndex, Stage2Config, stage2Rights } from "./transaction.ts"

// V8 loads a binding of another module from memory at each use, one of its own not: 5 of 29 ns a walk.
const { ADDR_HI, AF, DBM_HI, PAGE, TYPE, TYPE_BLOCK, TYPE_PAGE, TYPE_TABLE } = pte
/** Signed: a small integer to V8. */
const ADDR_LO = pte.ADDR_LO | 0
const { S2_AP_WRITE: AP_WRITE, S2_MEM_ATTR: MEM_ATTR } = pte
const { TABLE_HI, TABLE_LO } = tlb
const WRITE = ACCESS_WRITE
const READ = ACCESS_READ
/** Of a leaf: the Access flag, and that it may be read. */
const READABLE = pte.AF | (ACCESS_READ << pte.S2_AP_SHIFT)
/** log2 of the blocks of level 2 with a 4 KiB granule. */
const BLOCK_LG2 = 21

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
  /** The leaf's descriptor, with its updates, and bits 63:32 of its address. */
  leafHi = 0
  leafLo = 0
  private baseHi = 0
  private leafLevel = 0

  private readonly memory: PhysicalMemory
  private readonly words: Uint32Array
  private readonly signed: Int32Array
  private readonly site: FaultSite
  private readonly caches: Caches

  constructor(memory: PhysicalMemory, site: FaultSite, caches: Caches) {
    this.memory = memory
    this.words = memory.words
    this.signed = new Int32Array(memory.words.buffer)
    this.site = site
    this.caches = caches
  }

  /** What the leaf found last allows, ACCESS_* bits. */
  get allowed(): number {
    return this.allowedTo(this.privileged)
  }

  allowedTo(privileged: boolean): number {
    const low = this.dirtyable(this.leafHi) ? this.leafLo | AP_WRITE : this.leafLo
    return this.config.rights[rightsIndex(this.leafHi, low, privileged ? ACCESS_PRIV : 0)] as number
  }

  /** A write to the leaf found last has a dirty state to update. */
  get isClean(): boolean {
    return this.dirtyable(this.leafHi) && (this.leafLo & AP_WRITE) === 0
  }

  /**
   * @param need ACCESS_READ, ACCESS_WRITE, or ACCESS_EXEC alone for an instruction fetch; 0 asks for nothing
   * @returns 0 or the number of the event
   */
  walk(ipaHi: number, ipaLo: number, need: number): number {
    if (this.caches.keepsWalks) return this.walkKept(ipaHi, ipaLo, need)
    const isQuick = need === READ && this.config.geometry.quick && this.trace === null
    if (!isQuick || this.fetch(ipaHi, ipaLo) < 0) return this.walkAll(ipaHi, ipaLo, need)
    const { leafHi, leafLo } = this
    this.accept(leafHi, leafLo, leafHi & ADDR_HI, ipaHi, ipaLo, (leafLo & PAGE) !== 0 ? 12 : BLOCK_LG2)
    return 0
  }

  private walkKept(ipaHi: number, ipaLo: number, need: number): number {
    if (this.recall(ipaHi, ipaLo)) {
      const { leafHi, leafLo } = this
      if ((stage2Rights(this.config, leafHi, leafLo, this.privileged) & need) !== need)
        return EVENTS.F_PERMISSION
      if ((need & WRITE) === 0 || (leafLo & AP_WRITE) !== 0) {
        this.accept(leafHi, leafLo, this.baseHi, ipaHi, ipaLo, this.sizeLg2)
        return 0
      }
    }
    const status = this.walkAll(ipaHi, ipaLo, need)
    if (status === 0) this.keepPage(ipaHi, ipaLo)
    return status
  }

  /** Whether the page is kept; then its leaf and size are in the fields. */
  private recall(ipaHi: number, ipaLo: number): boolean {
    const { stage2Pages } = this.caches
    const kept = stage2Pages.find(ipaHi, ipaLo, this.config.vmid)
    if (kept < 0) return false
    const { words } = stage2Pages.store
    this.leafHi = words[kept + LEAF_HI] as number
    this.leafLo = words[kept + LEAF_LO] as number
    this.baseHi = words[kept + LEAF_BASE_HI] as number
    this.sizeLg2 = stage2Pages.sizeLg2
    return true
  }

  /** The leaf of a page, below a table that is kept; success alone. */
  private findNear(ipaHi: number, ipaLo: number): boolean {
    const g = this.config.geometry
    const { stage2Tables } = this.caches
    const kept = stage2Tables.findNear(ipaHi, ipaLo, this.config.vmid << 16, 0)
    if (kept < 0 || !g.quick || ipaHi >>> (g.inputBits - 32) !== 0) return false
    const records = stage2Tables.store.words
    const tableLo = records[kept + TABLE_LO] as number
    const at = this.memory.find(records[kept + TABLE_HI] as number, tableLo | ((ipaLo >>> 9) & 0xff8))
    if (at < 0 || (this.words[at] & TYPE) !== TYPE_PAGE) return false
    this.leafLo = this.words[at] | 0
    this.leafHi = this.words[at + 1] | 0
    this.baseHi = this.leafHi & ADDR_HI
    this.leafLevel = pte.LAST_LEVEL
    this.sizeLg2 = 12
    return (this.leafHi & g.oddLeafHi) === 0
  }

  private keepPage(ipaHi: number, ipaLo: number): void {
    const { stage2Pages } = this.caches
    const at = stage2Pages.insert(this.sizeLg2, ipaHi, ipaLo, this.config.vmid)
    const { words } = stage2Pages.store
    words[at + LEAF_HI] = this.leafHi
    words[at + LEAF_LO] = this.leafLo
    words[at + LEAF_BASE_HI] = this.baseHi
    words[at + LEAF_SHAPE] = shapeOf(this.config.geometry.stride + 3, this.leafLevel)
  }

  /**
   * {@link walk} for a read of a table or CD of stage 1, with nothing but the leaf's descriptor in the fields: plain
   * tables and success alone, as in plain-walk.ts.
   * @returns word index in memory, or -1 for the complete walk to say why
   */
  fetch(ipaHi: number, ipaLo: number): number {
    const g = this.config.geometry
    const { memory, signed: words } = this
    // Reading the segment hit last once, not with each table, saves a nested walk 13 of 141 ns.
    const { hitHi, hitLo, hitLast, hitWord } = memory
    const last = hitLast >>> 0
    if (ipaHi >>> (g.inputBits - 32) !== 0) return -1
    let at = g.rootAt
    const root = (g.startLevel === 0 ? ipaHi >>> 7 : (ipaHi << 2) | (ipaLo >>> 30)) & g.rootMask
    at = at >= 0 ? at + (root << 1) : memory.find(g.rootHi, g.rootLo | (root << 3))
    if (at < 0) return -1
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
      if (at < 0) return -1
      low = words[at] as number
      high = words[at + 1] as number
      kinds &= low
      highs |= high
    }
    lo = (low & ADDR_LO) | ((ipaLo >>> 18) & 0xff8)
    hi = high & ADDR_HI
    offset = (lo - hitLo) >>> 0
    at = hi === hitHi && offset <= last ? hitWord + (offset >>> 2) : memory.find(hi, lo)
    if (at < 0) return -1
    low = words[at] as number
    high = words[at + 1] as number
    let inLeaf = 0x1f_ffff
    if ((low & TYPE) !== TYPE_BLOCK) {
      kinds &= low
      highs |= high
      lo = (low & ADDR_LO) | ((ipaLo >>> 9) & 0xff8)
      hi = high & ADDR_HI
      offset = (lo - hitLo) >>> 0
      at = hi === hitHi && offset <= last ? hitWord + (offset >>> 2) : memory.find(hi, lo)
      if (at < 0) return -1
      low = words[at] as number
      high = words[at + 1] as number
      kinds &= low
      inLeaf = 0xfff
    }
    if ((kinds & TYPE) !== TYPE_TABLE) return -1
    if (((highs & g.oddTableHi) | (high & g.oddLeafHi) | (~low & READABLE)) !== 0) return -1
    if (this.config.protectTables && this.forbids(low)) return -1
    this.leafLo = low
    this.leafHi = high
    lo = (low & ~inLeaf) | (ipaLo & inLeaf)
    hi = high & ADDR_HI
    offset = (lo - hitLo) >>> 0
    return hi === hitHi && offset <= last ? hitWord + (offset >>> 2) : memory.find(hi, lo)
  }

  /**
   * The result of both stages after stage 1, or of stage 2 alone, out of a page or a table that is kept; success alone.
   * @param stage1 what stage 1 allows, and @param stage1Lg2 log2 of its leaf, 0 without stage 1
   */
  finishKept(
    ipaHi: number,
    ipaLo: number,
    access: number,
    stage1: number,
    stage1Lg2: number,
    result: Outcome,
  ): boolean {
    const { config } = this
    const isKept = this.recall(ipaHi, ipaLo)
    if (!isKept && !this.findNear(ipaHi, ipaLo)) return false
    const { leafHi, leafLo, sizeLg2 } = this
    const low = (leafHi & config.geometry.dirtyHi) === 0 ? leafLo : leafLo | AP_WRITE
    const allowed = stage1 & (config.rights[rightsIndex(leafHi, low, access)] as number)
    const need = needOf(access)
    if ((leafLo & AF) === 0 || (allowed & need) !== need || sizeLg2 > BLOCK_LG2) return false
    if (low !== leafLo && (need & WRITE) !== 0) return false
    if (!isKept) this.keepPage(ipaHi, ipaLo)
    const offset = (1 << sizeLg2) - 1
    result.known = -1
    result.paHi = this.baseHi
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
    const { keepsWalks, stage2Tables } = this.caches
    const kept = keepsWalks ? stage2Tables.findDeepest(g, ipaHi, ipaLo, this.config.vmid << 16, 0) : -1
    if (kept >= 0) {
      const { words } = stage2Tables.store
      tableHi = words[kept + TABLE_HI] as number
      tableLo = words[kept + TABLE_LO] as number
      level = stage2Tables.level
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
      if (keepsWalks) {
        stage2Tables.insert(g, level, ipaHi, ipaLo, this.config.vmid << 16, 0, tableHi, tableLo)
      }
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
    if ((low & AF) === 0 && !this.config.updateAccess && !this.config.accessFaultsOff) return EVENTS.F_ACCESS
    if ((stage2Rights(this.config, high, low, this.privileged) & need) !== need) return EVENTS.F_PERMISSION
    let updated = low
    if (this.config.updateAccess) updated |= AF
    if (this.dirtyable(high) && (need & WRITE) !== 0) updated |= AP_WRITE
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
    this.baseHi = baseHi
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
