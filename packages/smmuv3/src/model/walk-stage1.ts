/**
 * Stage 1: from a virtual to an intermediate address. Arm DDI 0487 §D8.2 to §D8.6 with IHI 0070 G.b §3.4, §5.4.
 * With stage 2 behind it, every table is fetched through stage 2 (§3.3.2).
 *
 * Hot code: addresses are signed 32-bit halves, results stay in fields, nothing is allocated.
 */
import { ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE, type PhysicalMemory } from "@iommu/core"
import { CLASS_TT, EVENTS } from "../spec/events.ts"
import * as pte from "../spec/page-tables.ts"
import type { FaultSite } from "./events.ts"
import { ADDRESS_48, ADDRESS_LPA, Geometry, swap32 } from "./geometry.ts"
import type { Tracer } from "./trace.ts"
import type { Stage2Walk } from "./walk-stage2.ts"

/** Bit 55 of an address picks the range, as bit 23 of its high half. */
const UPPER_RANGE = 1 << 23

export class Stage1Walk {
  /** TTB0 and TTB1. */
  readonly lower: Geometry = new Geometry()
  readonly upper: Geometry = new Geometry()
  /** CD fields as they are in effect. */
  topByteIgnoredLower = false
  topByteIgnoredUpper = false
  unprivilegedOffLower = false
  unprivilegedOffUpper = false
  /** Descriptor bits that limit what lies below; 0 with HAD. */
  limitsLower = 0
  limitsUpper = 0
  accessFaultsOff = false
  updateAccess = false
  updateDirty = false
  writeExecuteNever = false
  privilegedAccessNever = false
  panCoversExecute = false
  /** EL2 without E2H has one privilege level and one range. */
  singlePrivilege = false
  /** Whether stage 2 translates table fetches. */
  nested = false
  /** Whether the transaction is privileged, after STE.PRIVCFG. */
  privileged = false
  trace: Tracer | null = null

  /** Valid after {@link walk} gave 0. */
  outHi = 0
  outLo = 0
  sizeLg2 = 0
  /** ACCESS_* bits. */
  allowed = 0

  readonly #memory: PhysicalMemory
  readonly #words: Uint32Array
  readonly #site: FaultSite
  readonly #stage2: Stage2Walk

  constructor(memory: PhysicalMemory, site: FaultSite, stage2: Stage2Walk) {
    this.#memory = memory
    this.#words = memory.words
    this.#site = site
    this.#stage2 = stage2
  }

  /**
   * @param need ACCESS_READ, ACCESS_WRITE, or ACCESS_EXEC alone for an instruction fetch; 0 asks for nothing
   * @returns 0 or the number of the event; the site says more when it is not CLASS IN of stage 1
   */
  walk(vaHi: number, vaLo: number, need: number): number {
    const upper = (vaHi & UPPER_RANGE) !== 0
    const g = upper ? this.upper : this.lower
    if (!g.enabled || !this.#inRange(g, upper, vaHi, vaLo)) return EVENTS.F_TRANSLATION
    if (!this.privileged && (upper ? this.unprivilegedOffUpper : this.unprivilegedOffLower)) {
      return EVENTS.F_TRANSLATION
    }
    const words = this.#words
    const limitMask = upper ? this.limitsUpper : this.limitsLower
    let limits = 0
    let tableHi = g.rootHi
    let tableLo = g.rootLo
    let level = g.startLevel
    let shift = g.rootShift
    let mask = g.rootMask
    for (;;) {
      const index = (shift >= 32 ? vaHi >>> (shift - 32) : (vaLo >>> shift) | (vaHi << (32 - shift))) & mask
      const entryLo = tableLo | (index << 3)
      let physicalHi = tableHi
      let physicalLo = entryLo
      if (this.nested) {
        const status = this.#throughStage2(tableHi, entryLo, ACCESS_READ)
        if (status !== 0) return status
        physicalHi = this.#stage2.outHi
        physicalLo = this.#stage2.outLo
      }
      const at = this.#memory.find(physicalHi, physicalLo)
      if (at < 0) return this.#unreadable(physicalHi, physicalLo)
      let low = words[at] | 0
      let high = words[at + 1] | 0
      if (g.bigEndian) {
        const swapped = swap32(low)
        low = swap32(high)
        high = swapped
      }
      if (this.trace !== null) {
        this.trace.descriptor(1, g, level, physicalHi, physicalLo - (index << 3), index, high, low)
      }
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
      if (!table) {
        const status = this.#check(at, tableHi, entryLo, high, low, limits, g.bigEndian, need)
        if (status === 0) this.#output(low, nextHi, vaHi, vaLo, shift)
        return status
      }
      limits |= high & limitMask
      tableHi = nextHi
      tableLo = low & g.addressMaskLo
      shift -= g.stride
      mask = g.indexMask
      level++
    }
  }

  /** Bits above the range must equal bit 55, without the top byte where it is ignored. §3.4.1. */
  #inRange(g: Geometry, upper: boolean, vaHi: number, vaLo: number): boolean {
    const ignored = upper ? this.topByteIgnoredUpper : this.topByteIgnoredLower
    const top = ignored ? (vaHi << 8) >> 8 : vaHi
    const sign = upper ? -1 : 0
    if (g.inputBits >= 32) return top >> (g.inputBits - 32) === sign
    return top === sign && (vaLo ^ sign) >>> g.inputBits === 0
  }

  #throughStage2(ipaHi: number, ipaLo: number, need: number): number {
    let status = this.#stage2.walk(ipaHi, ipaLo, need)
    if (status === 0 && this.#stage2.forbidsTable()) status = EVENTS.F_PERMISSION
    if (status !== 0) this.#site.stage2(CLASS_TT, ipaHi, ipaLo, need === ACCESS_READ)
    return status
  }

  /** A stage 1 table that no memory answers for is CLASS TT, §7.3.12. */
  #unreadable(hi: number, lo: number): number {
    this.#site.cls = CLASS_TT
    this.#site.fetchHi = hi
    this.#site.fetchLo = lo
    return EVENTS.F_WALK_EABT
  }

  /** Access flag, permissions and their hardware update, in the order of §7.3.22. */
  #check(
    at: number,
    entryHi: number,
    entryLo: number,
    high: number,
    low: number,
    limits: number,
    bigEndian: boolean,
    need: number,
  ): number {
    if ((low & pte.AF) === 0 && !this.updateAccess && !this.accessFaultsOff) return EVENTS.F_ACCESS
    const dirtyable = this.updateDirty && (high & pte.DBM_HI) !== 0
    const allowed = this.#permissions(high, dirtyable ? low & ~pte.S1_AP2 : low, limits)
    if ((allowed & need) !== need) return EVENTS.F_PERMISSION
    let updated = low
    if (this.updateAccess) updated |= pte.AF
    if (dirtyable && (need & ACCESS_WRITE) !== 0) updated &= ~pte.S1_AP2
    if (updated !== low) {
      if (this.nested) {
        const status = this.#throughStage2(entryHi, entryLo, ACCESS_WRITE)
        if (status !== 0) return status
      }
      if (bigEndian) this.#words[at + 1] = swap32(updated)
      else this.#words[at] = updated
    }
    this.allowed = allowed
    return 0
  }

  #permissions(high: number, low: number, limits: number): number {
    const writable = (low & pte.S1_AP2) === 0 && (limits & pte.AP_TABLE_NO_WRITE_HI) === 0
    const userExecutes = ((high & pte.S1_UXN_HI) | (limits & pte.XN_TABLE_HI)) === 0
    if (this.singlePrivilege) {
      const executes = userExecutes && !(this.writeExecuteNever && writable)
      return ACCESS_READ | (writable ? ACCESS_WRITE : 0) | (executes ? ACCESS_EXEC : 0)
    }
    const user = (low & pte.S1_AP1) !== 0 && (limits & pte.AP_TABLE_NO_UNPRIV_HI) === 0
    const userWrites = user && writable
    if (!this.privileged) {
      const executes = userExecutes && !(this.writeExecuteNever && userWrites)
      return (user ? ACCESS_READ : 0) | (userWrites ? ACCESS_WRITE : 0) | (executes ? ACCESS_EXEC : 0)
    }
    // What user code may write, privileged code must not execute: DDI 0487 §D8.4.
    const executes =
      ((high & pte.S1_PXN_HI) | (limits & pte.PXN_TABLE_HI)) === 0 &&
      !userWrites &&
      !(this.writeExecuteNever && writable)
    const hidden = this.privilegedAccessNever && (user || (this.panCoversExecute && userExecutes))
    const data = hidden ? 0 : ACCESS_READ | (writable ? ACCESS_WRITE : 0)
    return data | (executes ? ACCESS_EXEC : 0)
  }

  #output(low: number, baseHi: number, vaHi: number, vaLo: number, shift: number): void {
    this.sizeLg2 = shift
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
