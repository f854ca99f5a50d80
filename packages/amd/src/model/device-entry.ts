/**
 * From DeviceID to device table entry, and what of it a walk needs. AMD 48882 rev 3.10, §2.2.2.
 */
import { fromHalves, NO_PASID, type PhysicalMemory } from "@iommu/core"
import * as dte from "../spec/device-table.ts"
import * as pte from "../spec/page-tables.ts"
import * as reg from "../spec/registers.ts"
import { dwordOf, type Registers } from "./registers.ts"
import type { Trace } from "./trace.ts"
import {
  DTE_ERROR,
  DTE_ILLEGAL_VALUE,
  DTE_RESERVED_BIT,
  NO_DTE,
  NO_TRANSLATION,
  OK,
  type Transaction,
} from "./transaction.ts"
import type { GuestWalk } from "./walk-stage1.ts"
import type { HostWalk } from "./walk-stage2.ts"

const CONTROL = dwordOf("CONTROL")
const EXT_FEATURES = dwordOf("EXT_FEATURES")
const SEGMENT_BASE: readonly number[] = reg.DEVTAB_SEGMENTS.map(dwordOf)

/** HATS 3 says that there are no host tables at all. */
const HATS_NONE = 3

export class DeviceEntries {
  private readonly memory: PhysicalMemory
  private readonly dwords: Uint32Array
  private readonly transaction: Transaction
  private readonly host: HostWalk
  private readonly guest: GuestWalk
  tracer: Trace | null = null

  /** Set by {@link load}: DTE.V. Everything passes when it is 0. */
  valid = false
  /** Set by {@link load}: the request goes through guest tables, with {@link pasid}. */
  usesGuest = false
  pasid = 0

  constructor(
    memory: PhysicalMemory,
    registers: Registers,
    transaction: Transaction,
    host: HostWalk,
    guest: GuestWalk,
  ) {
    this.memory = memory
    this.dwords = registers.dwords
    this.transaction = transaction
    this.host = host
    this.guest = guest
  }

  /** Reads the entry and sets the walkers up by it. */
  load(): number {
    const t = this.transaction
    const at = this.find()
    if (at < 0) return at === -1 ? NO_DTE : DTE_ERROR
    const words = this.memory.words
    const d0 = words[at] as number
    this.valid = (d0 & dte.V) !== 0
    if (!this.valid) return OK
    const d1 = words[at + 1] as number
    const d2 = words[at + 2] as number
    t.domainId = d2 & dte.DOMAIN_ID_MASK
    t.dteFlags = words[at + 3] as number
    t.dteInterruptsLo = words[at + 4] as number
    t.dteInterruptsHi = words[at + 5] as number
    const reserved =
      (d0 & dte.RESERVED_0) |
      (d1 & dte.RESERVED_1) |
      ((words[at + 6] as number) & dte.RESERVED_6) |
      ((words[at + 7] as number) & dte.RESERVED_7)
    if (reserved !== 0) return DTE_RESERVED_BIT
    if ((d0 & dte.TV) === 0) return NO_TRANSLATION
    const mode = (d0 >>> dte.MODE_SHIFT) & dte.MODE_MASK
    if (mode > this.hostLevels()) return DTE_ILLEGAL_VALUE
    this.setHost(mode, d0, d1)
    return this.setGuest(d1, d2)
  }

  /** Word index of the transaction's entry; -1: beyond the table, -2: no memory there. */
  private find(): number {
    const t = this.transaction
    const dwords = this.dwords
    const enabled =
      ((dwords[CONTROL + 1] as number) >>> reg.CONTROL_DevTblSegEn_HI_SHIFT) & reg.CONTROL_DevTblSegEn_MASK
    const segmentLg2 = enabled === 0 ? 0 : Math.min(enabled, this.segmentsLg2())
    const { device } = t
    if (device >>> 0 >= dte.MAX_DEVICES) return -1
    const segment = device >>> (16 - segmentLg2)
    const base = SEGMENT_BASE[segment] as number
    const baseLo = dwords[base] as number
    const baseHi = (dwords[base + 1] as number) & reg.BASE_HI
    const offset = (device & (0xffff >>> segmentLg2)) << dte.DTE_BYTES_LG2
    const size = ((baseLo & (segment === 0 ? reg.DEVTAB_SIZE : reg.DEVTAB_SEG_SIZE)) + 1) << 12
    if (offset >= size) return -1
    const address = ((baseLo & reg.BASE_LO) >>> 0) + offset
    const hi = address > 0xffff_ffff ? baseHi + 1 : baseHi
    const at = this.memory.find(hi, address | 0)
    if (at < 0) {
      t.errorHi = hi
      t.errorLo = address | 0
      return -2
    }
    if (this.tracer !== null) this.traceEntry(at, baseHi, baseLo, offset >>> dte.DTE_BYTES_LG2)
    return at
  }

  private setHost(mode: number, d0: number, d1: number): void {
    const { host } = this
    host.mode = mode
    host.rootHi = d1 & dte.ROOT_HI
    host.rootLo = d0 & dte.ROOT_LO
    host.rootPermissions = d1 & (dte.IR | dte.IW)
    const had = (d0 >>> dte.HAD_SHIFT) & dte.HAD_MASK
    if (had === 0) {
      host.accessedBit = 0
      host.dirtyBit = 0
      return
    }
    const features = this.dwords[EXT_FEATURES + 1] as number
    host.accessedBit = (had & dte.HAD_A) !== 0 && (features & reg.EFR_HASup_HI) !== 0 ? pte.V1_A : 0
    host.dirtyBit = (had & dte.HAD_D) !== 0 && (features & reg.EFR_HDSup_HI) !== 0 ? pte.V1_D : 0
  }

  /**
   * Guest translation needs DTE.GV and CONTROL.GTEn, and a PASID: the request's own, or 0 by DTE.GIOV. A request
   * with a PASID that meets no guest translation has no address space to go to.
   */
  private setGuest(d1: number, d2: number): number {
    const t = this.transaction
    const { guest, dwords } = this
    const on = (d1 & dte.GV) !== 0 && ((dwords[CONTROL] as number) & reg.CONTROL_GTEn) !== 0
    this.usesGuest = on && (t.pasid !== NO_PASID || (d1 & dte.GIOV) !== 0)
    if (!this.usesGuest) {
      return t.pasid === NO_PASID ? OK : NO_TRANSLATION
    }
    this.pasid = t.pasid === NO_PASID ? 0 : t.pasid
    const efr = dwords[EXT_FEATURES] as number
    const glx = (d1 >>> dte.GLX_SHIFT) & dte.GLX_MASK
    const paging = (t.dteInterruptsHi >>> dte.GUEST_PAGING_MODE_SHIFT) & dte.GUEST_PAGING_MODE_MASK
    if (glx > Math.min((efr >>> reg.EFR_GLXSup_SHIFT) & 3, dte.GLX_MAX)) return DTE_ILLEGAL_VALUE
    if (paging > Math.min((efr >>> reg.EFR_GATS_SHIFT) & 3, dte.GUEST_PAGING_5_LEVEL))
      return DTE_ILLEGAL_VALUE
    guest.glx = glx
    guest.levels = 4 + paging
    const high = (t.dteFlags >>> dte.GCR3_51_31_SHIFT) << 31
    guest.rootLo = high | ((d2 >>> dte.GCR3_30_15_SHIFT) << 15) | (((d1 >>> dte.GCR3_14_12_SHIFT) & 7) << 12)
    guest.rootHi = t.dteFlags >>> (dte.GCR3_51_31_SHIFT + 1)
    this.setGuestModes(efr)
    return OK
  }

  private setGuestModes(efr: number): void {
    const { guest, dwords } = this
    const controlHi = dwords[CONTROL + 1] as number
    const efrHi = dwords[EXT_FEATURES + 1] as number
    guest.rootIsGuestPhysical = (controlHi & reg.CONTROL_GCR3TRPMode_HI) !== 0
    guest.pasidBits = (efrHi & reg.EFR_PASmax_MASK) + 1
    guest.noExecute = (efr & reg.EFR_NXSup) !== 0
    guest.supervisor = (efrHi & reg.EFR_USSup_HI) !== 0
    guest.accessedBit = (controlHi & reg.CONTROL_GAUpdateDis_HI) !== 0 ? 0 : pte.V2_A
    guest.dirtyBit = (controlHi & reg.CONTROL_GDUpdateDis_HI) !== 0 ? 0 : pte.V2_D
  }

  /** Host levels by HATS; no more than Mode can say. */
  private hostLevels(): number {
    const hats = ((this.dwords[EXT_FEATURES] as number) >>> reg.EFR_HATS_SHIFT) & 3
    return hats === HATS_NONE ? 0 : Math.min(4 + hats, dte.MODE_MAX)
  }

  private segmentsLg2(): number {
    return ((this.dwords[EXT_FEATURES + 1] as number) >>> reg.EFR_DevTblSegSup_HI_SHIFT) & 3
  }

  private traceEntry(at: number, baseHi: number, baseLo: number, index: number): void {
    const words = this.memory.words
    const entry = [0, 2, 4, 6].map(dword =>
      fromHalves(words[at + dword + 1] as number, words[at + dword] as number),
    )
    this.tracer?.deviceEntry(baseHi, (baseLo & reg.BASE_LO) >>> 0, index, entry)
  }
}
