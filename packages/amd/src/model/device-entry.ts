/**
 * From DeviceID to device table entry, and what of it a walk needs. AMD 48882 rev 3.10, §2.2.2.
 */
import { fromHalves, NO_PASID, type PhysicalMemory } from "@iommu/core"
import * as dte from "../spec/device-table.ts"
import * as pte from "../spec/page-tables.ts"
import { gcr3PasidBits } from "../spec/pasid-table.ts"
import * as reg from "../spec/registers.ts"
import type { Caches } from "./caches.ts"
import type { PasidEntries } from "./pasid-entry.ts"
import { dwordOf, type Registers } from "./registers.ts"
import type { Trace } from "./trace.ts"
import {
  DTE_ERROR,
  DTE_ILLEGAL_VALUE,
  DTE_RESERVED_BIT,
  NO_DTE,
  NO_GUEST_TRANSLATION,
  NO_TRANSLATION,
  OK,
  type Transaction,
} from "./transaction.ts"
import type { GuestWalk } from "./walk-stage1.ts"
import type { HostWalk } from "./walk-stage2.ts"

// Local, because imported constants are loaded at each use (see walk-stage2.ts).
const { V, TV, GV, GIOV, ROOT_HI, ROOT_LO, DTE_BYTES, DTE_BYTES_LG2, MAX_DEVICES, DOMAIN_ID_MASK } = dte
const { HAD_SHIFT, HAD_MASK, MODE_SHIFT, MODE_MASK, GLX_SHIFT, GLX_MASK } = dte
const { RESERVED_0, RESERVED_1, RESERVED_6, RESERVED_7 } = dte
const { GCR3_14_12_SHIFT, GCR3_14_12_MASK, GCR3_30_15_SHIFT, GCR3_51_31_SHIFT } = dte
const { GUEST_PAGING_MODE_SHIFT, GUEST_PAGING_MODE_MASK } = dte
const RIGHTS = dte.IR | dte.IW
/** IR and IW stand above the DomainID in the tag of cached translations. */
const RIGHTS_TO_TAG = 13
const DTE_WORDS = DTE_BYTES / 4
/** In the place of a device, while none is known. Who asks in its name is a device that does not exist. */
export const NOBODY = -1

/** HATS 3 says that there are no host tables at all. */
const HATS_NONE = 3

export class DeviceEntries {
  private readonly memory: PhysicalMemory
  private readonly registers: Registers
  private readonly transaction: Transaction
  private readonly pasids: PasidEntries
  private readonly guest: GuestWalk
  private readonly host: HostWalk
  private readonly caches: Caches
  tracer: Trace | null = null

  /** Set by {@link load}: DTE.V. Everything passes when it is 0. */
  valid = false
  /** Set by {@link load}: the request goes through guest tables, with {@link pasid}. */
  usesGuest = false
  pasid = 0

  /**
   * The device and PASID of the last request, when nothing but its address decides on the next one: its entry is in the
   * cache and sends it through tables. Until then {@link NOBODY}.
   */
  private repeatsDevice = NOBODY
  private repeatsPasid = 0
  /** As that, where its requests go through host tables alone, which are plain as far as the entry says. */
  plainDevice: number = NOBODY

  // The entry that is set up: whose it is, and what it says beside what the walkers have taken over.
  private current = NOBODY
  private readonly last: Int32Array = new Int32Array(DTE_WORDS)
  private hasLast = false
  private lastDevice = NOBODY
  private lastAt = 0
  private status: number = OK
  private hasGuest = false
  private hasGuestForAll = false
  private guestStatus: number = OK

  // What the registers say, see configure(). Segment n of the device table has bytes, base low and base high.
  private readonly segments: Float64Array = new Float64Array(3 * reg.DEVTAB_SEGMENTS.length)
  private segmentLg2 = 0
  private hostLevels = 0
  private guestEnabled = false
  private maxGlx = 0
  private maxGuestPaging = 0
  private readonly pasidBits: Int32Array = new Int32Array(dte.GLX_MAX + 1)
  private accessedBit = 0
  private dirtyBit = 0
  /** PPR and GPRP while enhanced page requests are off. */
  private reservedRequests = 0

  constructor(
    memory: PhysicalMemory,
    registers: Registers,
    transaction: Transaction,
    pasids: PasidEntries,
    guest: GuestWalk,
    host: HostWalk,
    caches: Caches,
  ) {
    this.memory = memory
    this.registers = registers
    this.transaction = transaction
    this.pasids = pasids
    this.guest = guest
    this.host = host
    this.caches = caches
  }

  /** Takes over what registers say; to be called after each change of them. */
  configure(): void {
    this.forget()
    const { dwords } = this.registers
    const control = dwords[dwordOf("CONTROL")] as number
    const controlHi = dwords[dwordOf("CONTROL") + 1] as number
    const efr = dwords[dwordOf("EXT_FEATURES")] as number
    const efrHi = dwords[dwordOf("EXT_FEATURES") + 1] as number
    const enabled = (controlHi >>> reg.CONTROL_DevTblSegEn_HI_SHIFT) & reg.CONTROL_DevTblSegEn_MASK
    this.segmentLg2 = Math.min(enabled, (efrHi >>> reg.EFR_DevTblSegSup_HI_SHIFT) & 3)
    reg.DEVTAB_SEGMENTS.forEach((name, segment) => {
      const at = dwordOf(name)
      const low = dwords[at] as number
      const size = low & (segment === 0 ? reg.DEVTAB_SIZE : reg.DEVTAB_SEG_SIZE)
      this.segments[segment * 3] = (size + 1) << 12
      this.segments[segment * 3 + 1] = (low & reg.BASE_LO) >>> 0
      this.segments[segment * 3 + 2] = (dwords[at + 1] as number) & reg.BASE_HI
    })
    const hats = (efr >>> reg.EFR_HATS_SHIFT) & 3
    this.hostLevels = hats === HATS_NONE ? 0 : Math.min(4 + hats, dte.MODE_MAX)
    this.accessedBit = (efrHi & reg.EFR_HASup_HI) !== 0 ? pte.V1_A : 0
    this.dirtyBit = (efrHi & reg.EFR_HDSup_HI) !== 0 ? pte.V1_D : 0
    this.reservedRequests = this.registers.enhancedPageRequests ? 0 : dte.PPR | dte.GPRP
    this.guestEnabled = (control & reg.CONTROL_GTEn) !== 0 && (efr & reg.EFR_GTSup) !== 0
    this.configureGuest(controlHi, efr, efrHi)
  }

  private configureGuest(controlHi: number, efr: number, efrHi: number): void {
    const { guest } = this
    this.maxGlx = Math.min((efr >>> reg.EFR_GLXSup_SHIFT) & 3, dte.GLX_MAX)
    this.maxGuestPaging = Math.min((efr >>> reg.EFR_GATS_SHIFT) & 3, dte.GUEST_PAGING_5_LEVEL)
    const pasidBits = (efrHi & reg.EFR_PASmax_MASK) + 1
    for (let glx = 0; glx <= dte.GLX_MAX; glx++) this.pasidBits[glx] = Math.min(gcr3PasidBits(glx), pasidBits)
    this.pasids.isGuestPhysical = (controlHi & reg.CONTROL_GCR3TRPMode_HI) !== 0
    guest.noExecute = (efr & reg.EFR_NXSup) !== 0
    guest.supervisor = (efrHi & reg.EFR_USSup_HI) !== 0
    guest.accessedBit = (controlHi & reg.CONTROL_GAUpdateDis_HI) !== 0 ? 0 : pte.V2_A
    guest.dirtyBit = (controlHi & reg.CONTROL_GDUpdateDis_HI) !== 0 ? 0 : pte.V2_D
  }

  /**
   * Finds the transaction's entry, in the cache or in memory, and sets the walkers up by it. The entry of the device
   * that came last stays set up: a cache of one in front of the cache.
   */
  load(): number {
    const t = this.transaction
    this.forgetRequest()
    if (this.current === NOBODY || t.device !== this.current) this.status = this.fetch(t.device)
    if (this.status !== OK || !this.valid) return this.status
    return this.select(t.pasid)
  }

  /** The entry must be looked up again: a command has dropped it, or registers or the trace changed. */
  forget(): void {
    this.forgetRequest()
    this.current = NOBODY
    this.hasLast = false
  }

  /** A register may say something else of addresses now. */
  forgetRequest(): void {
    this.repeatsDevice = NOBODY
    this.plainDevice = NOBODY
  }

  /** As {@link load} when the last request was of the same device and PASID, and came to be {@link repeatable}. */
  repeats(device: number, pasid: number): boolean {
    return device === this.repeatsDevice && pasid === this.repeatsPasid && device !== NOBODY
  }

  /** The request that was loaded goes through tables, and no register says otherwise of any address. */
  repeatable(device: number, pasid: number): void {
    if (device !== this.current) return
    this.repeatsDevice = device
    this.repeatsPasid = pasid
    if (!this.usesGuest && !this.caches.isOn && this.host.rootAt >= 0) this.plainDevice = device
  }

  private fetch(device: number): number {
    const { caches, memory } = this
    if (!caches.keepsStructures) {
      const isKnown = this.hasLast && device === this.lastDevice && this.tracer === null && !memory.isVolatile
      const at = isKnown ? this.lastAt : this.find(device)
      if (at < 0) return this.refuse(at)
      this.lastDevice = device
      this.lastAt = at
      return this.isSetUp(memory.words, at) ? this.status : this.decode(memory.words, at)
    }
    let cached = caches.findEntry(device)
    if (cached < 0) {
      const at = this.find(device)
      if (at < 0) return this.refuse(at)
      cached = caches.insertEntry(device)
      for (let n = 0; n < DTE_WORDS; n++) caches.entries.words[cached + n] = memory.words[at + n] as number
    }
    this.current = device
    return this.decode(caches.entries.words, cached)
  }

  /** True when the entry says what the one before said: then the walkers are set up for it (31 against 38 ns). */
  private isSetUp(words: Uint32Array, at: number): boolean {
    const { last } = this
    return (
      this.hasLast &&
      ((words[at] as number) ^ (last[0] as number)) === 0 &&
      ((words[at + 1] as number) ^ (last[1] as number)) === 0 &&
      ((words[at + 2] as number) ^ (last[2] as number)) === 0 &&
      ((words[at + 3] as number) ^ (last[3] as number)) === 0 &&
      ((words[at + 4] as number) ^ (last[4] as number)) === 0 &&
      ((words[at + 5] as number) ^ (last[5] as number)) === 0 &&
      ((words[at + 6] as number) ^ (last[6] as number)) === 0 &&
      ((words[at + 7] as number) ^ (last[7] as number)) === 0
    )
  }

  private refuse(at: number): number {
    const t = this.transaction
    this.forget()
    t.domainId = 0
    t.dteFlags = 0
    return at === -1 ? NO_DTE : DTE_ERROR
  }

  private decode(words: Int32Array | Uint32Array, at: number): number {
    const t = this.transaction
    for (let n = 0; n < DTE_WORDS; n++) this.last[n] = words[at + n] as number
    this.hasLast = true
    const d0 = words[at] as number
    this.valid = (d0 & V) !== 0
    if (!this.valid) return OK
    const d1 = words[at + 1] as number
    const d2 = words[at + 2] as number
    t.domainId = d2 & DOMAIN_ID_MASK
    t.dteGuest = d1 | 0
    t.dteFlags = (words[at + 3] as number) | 0
    t.dteInterruptsLo = (words[at + 4] as number) | 0
    t.dteInterruptsHi = (words[at + 5] as number) | 0
    const reserved = (d0 & RESERVED_0) | (d1 & (RESERVED_1 | this.reservedRequests))
    const reservedUpper = ((words[at + 6] as number) & RESERVED_6) | ((words[at + 7] as number) & RESERVED_7)
    if ((reserved | reservedUpper) !== 0) return DTE_RESERVED_BIT
    if ((d0 & TV) === 0) return NO_TRANSLATION
    const mode = (d0 >>> MODE_SHIFT) & MODE_MASK
    if (mode > this.hostLevels) return DTE_ILLEGAL_VALUE
    const { host } = this
    host.setRoot(mode, d1 & ROOT_HI, d0 & ROOT_LO, d1 & RIGHTS)
    host.tag = t.domainId | ((d1 & RIGHTS) >>> RIGHTS_TO_TAG)
    const had = (d0 >>> HAD_SHIFT) & HAD_MASK
    host.accessedBit = (had & 1) === 0 ? 0 : this.accessedBit
    host.dirtyBit = (had & 2) === 0 ? 0 : this.dirtyBit
    this.hasGuest = (d1 & GV) !== 0 && this.guestEnabled
    this.hasGuestForAll = (d1 & GIOV) !== 0
    if (this.hasGuest) this.guestStatus = this.setGuest(d1, d2)
    return OK
  }

  /** Word index of a device's entry; -1: beyond the table, -2: no memory there. */
  private find(device: number): number {
    const { segments, segmentLg2 } = this
    if (device >>> 0 >= MAX_DEVICES) return -1
    const segment = segmentLg2 === 0 ? 0 : device >>> (16 - segmentLg2)
    const offset = (device & (0xffff >>> segmentLg2)) << DTE_BYTES_LG2
    if (offset >= (segments[segment * 3] as number)) return -1
    const address = (segments[segment * 3 + 1] as number) + offset
    const baseHi = segments[segment * 3 + 2] as number
    const hi = address > 0xffff_ffff ? baseHi + 1 : baseHi
    const at = this.memory.find(hi, address | 0)
    if (at < 0) {
      this.transaction.errorHi = hi
      this.transaction.errorLo = address | 0
      return -2
    }
    if (this.tracer !== null) this.traceEntry(at, segment, offset >>> DTE_BYTES_LG2)
    return at
  }

  /**
   * Guest translation needs DTE.GV and CONTROL.GTEn, and a PASID: the request's own, or 0 by DTE.GIOV. A request
   * with a PASID that meets no guest translation has no address space to go to.
   */
  private select(pasid: number): number {
    this.usesGuest = this.hasGuest && (pasid !== NO_PASID || this.hasGuestForAll)
    if (!this.usesGuest) return pasid === NO_PASID ? OK : NO_GUEST_TRANSLATION
    this.pasid = pasid === NO_PASID ? 0 : pasid
    return this.guestStatus
  }

  private setGuest(d1: number, d2: number): number {
    const t = this.transaction
    const glx = (d1 >>> GLX_SHIFT) & GLX_MASK
    const paging = (t.dteInterruptsHi >>> GUEST_PAGING_MODE_SHIFT) & GUEST_PAGING_MODE_MASK
    if (glx > this.maxGlx || paging > this.maxGuestPaging) return DTE_ILLEGAL_VALUE
    this.guest.levels = 4 + paging
    const low = ((d1 >>> GCR3_14_12_SHIFT) & GCR3_14_12_MASK) << 12
    const middle = (d2 >>> GCR3_30_15_SHIFT) << 15
    const rootLo = low | middle | ((t.dteFlags >>> GCR3_51_31_SHIFT) << 31)
    this.pasids.setRoot(glx, t.dteFlags >>> (GCR3_51_31_SHIFT + 1), rootLo, this.pasidBits[glx] as number)
    return OK
  }

  private traceEntry(at: number, segment: number, index: number): void {
    const words = this.memory.words
    const entry = [0, 2, 4, 6].map(dword =>
      fromHalves(words[at + dword + 1] as number, words[at + dword] as number),
    )
    const [, baseLo, baseHi] = this.segments.subarray(segment * 3, segment * 3 + 3)
    this.tracer?.deviceEntry(baseHi as number, baseLo as number, index, entry)
  }
}
