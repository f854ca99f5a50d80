/**
 * Stage 2: from an intermediate to a physical address. Arm DDI 0487 §D8.2 to §D8.6 with IHI 0070 G.b §3.4, §3.13.
 *
 * Hot code: addresses are signed 32-bit halves, results stay in fields, nothing is allocated.
 */
import { ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE, type PhysicalMemory } from "@iommu/core"
import { EVENTS } from "../spec/events.ts"
import * as pte from "../spec/page-tables.ts"
import type { FaultSite } from "./events.ts"
import { ADDRESS_48, ADDRESS_LPA, Geometry, swap32 } from "./geometry.ts"
import type { Tracer } from "./trace.ts"

export class Stage2Walk {
  readonly geometry: Geometry = new Geometry()
  /** STE.S2AFFD, S2HA, S2HD and S2PTW as they are in effect. */
  accessFaultsOff = false
  updateAccess = false
  updateDirty = false
  protectTables = false
  forceWriteBack = false
  /** IDR3.XNX: bits 54:53 tell privileged from unprivileged execution. */
  xnx = false
  /** Whether the transaction is privileged, after STE.PRIVCFG. */
  privileged = false
  trace: Tracer | null = null

  /** Valid after {@link walk} gave 0. */
  outHi = 0
  outLo = 0
  sizeLg2 = 0
  /** ACCESS_* bits. */
  allowed = 0
  /** Low half of the leaf. */
  leafLo = 0

  readonly #memory: PhysicalMemory
  readonly #words: Uint32Array
  readonly #site: FaultSite

  constructor(memory: PhysicalMemory, site: FaultSite) {
    this.#memory = memory
    this.#words = memory.words
    this.#site = site
  }

  /**
   * @param need ACCESS_READ, ACCESS_WRITE, or ACCESS_EXEC alone for an instruction fetch; 0 asks for nothing
   * @returns 0 or the number of the event
   */
  walk(ipaHi: number, ipaLo: number, need: number): number {
    const g = this.geometry
    const inputBits = g.inputBits
    if (inputBits >= 32 ? ipaHi >>> (inputBits - 32) !== 0 : ipaHi !== 0 || ipaLo >>> inputBits !== 0) {
      return EVENTS.F_TRANSLATION
    }
    const words = this.#words
    let tableHi = g.rootHi
    let tableLo = g.rootLo
    let level = g.startLevel
    let shift = g.rootShift
    let mask = g.rootMask
    for (;;) {
      const index =
        (shift >= 32 ? ipaHi >>> (shift - 32) : (ipaLo >>> shift) | (ipaHi << (32 - shift))) & mask
      const entryLo = tableLo | (index << 3)
      const at = this.#memory.find(tableHi, entryLo)
      if (at < 0) {
        this.#site.fetchHi = tableHi
        this.#site.fetchLo = entryLo
        return EVENTS.F_WALK_EABT
      }
      let low = words[at] | 0
      let high = words[at + 1] | 0
      if (g.bigEndian) {
        const swapped = swap32(low)
        low = swap32(high)
        high = swapped
      }
      if (this.trace !== null) this.trace.descriptor(2, g, level, tableHi, tableLo, index, high, low)
      if ((low & pte.VALID) === 0) return EVENTS.F_TRANSLATION
      const table = (low & pte.TABLE) !== 0 && level < pte.LAST_LEVEL
      if (!table && (level === pte.LAST_LEVEL ? (low & pte.PAGE) === 0 : level < g.firstBlockLevel)) {
        return EVENTS.F_TRANSLATION
      }
      let nextHi = high & pte.ADDR_HI
      if (g.addressForm !== ADDRESS_48) {
        nextHi =
          g.addressForm === ADDRESS_LPA
            ? nextHi | ((low & pte.LPA_OA_51_48) << 4)
            : (high & pte.LPA2_ADDR_HI) | ((low & pte.LPA2_OA_51_50) << 10)
      }
      if (nextHi >>> (g.outputBits - 32) !== 0) return EVENTS.F_ADDR_SIZE
      if (!table) return this.#leaf(at, high, low, nextHi, ipaHi, ipaLo, shift, need)
      tableHi = nextHi
      tableLo = low & g.addressMaskLo
      shift -= g.stride
      mask = g.indexMask
      level++
    }
  }

  /** S2PTW: a table or CD must not lie in Device memory. §5.2 S2PTW. */
  forbidsTable(): boolean {
    if (!this.protectTables) return false
    const type = this.leafLo & pte.S2_MEM_ATTR
    return this.forceWriteBack ? (type & 0x10) === 0 : (type & 0x30) === 0
  }

  #leaf(
    at: number,
    high: number,
    low: number,
    baseHi: number,
    ipaHi: number,
    ipaLo: number,
    shift: number,
    need: number,
  ): number {
    if ((low & pte.AF) === 0 && !this.updateAccess && !this.accessFaultsOff) return EVENTS.F_ACCESS
    const dirtyable = this.updateDirty && (high & pte.DBM_HI) !== 0
    let allowed = (low >>> pte.S2_AP_SHIFT) & (ACCESS_READ | ACCESS_WRITE)
    if (dirtyable) allowed |= ACCESS_WRITE
    if (this.#executable(high)) allowed |= ACCESS_EXEC
    if ((allowed & need) !== need) return EVENTS.F_PERMISSION
    let updated = low
    if (this.updateAccess) updated |= pte.AF
    if (dirtyable && (need & ACCESS_WRITE) !== 0) updated |= pte.S2_AP_WRITE
    if (updated !== low) {
      if (this.geometry.bigEndian) this.#words[at + 1] = swap32(updated)
      else this.#words[at] = updated
    }
    this.allowed = allowed
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
    return 0
  }

  /** XN[1:0]: 0 all, 1 unprivileged alone, 2 nobody, 3 privileged alone; without XNX bit 54 alone. §D8.4. */
  #executable(high: number): boolean {
    if ((high & pte.S2_XN_HI) === 0) return true
    if (!this.xnx) return (high & pte.S2_XN1_HI) === 0
    if ((high & pte.S2_XN0_HI) === 0) return false
    return ((high & pte.S2_XN1_HI) !== 0) === this.privileged
  }
}
