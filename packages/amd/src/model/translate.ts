/**
 * One request from DeviceID and address to system physical address, in the book's order. AMD 48882 rev 3.10, §2.1
 * and §2.2.
 */
import { ACCESS_EXEC, ACCESS_PRIV, ACCESS_READ, ACCESS_WRITE, NO_PASID } from "@iommu/core"
import * as reg from "../spec/registers.ts"
import {
  type AmdTranslationResult,
  allowedOf,
  guestAttributes,
  hostAttributes,
  INTERRUPT_MEGABYTE,
  interruptMessage,
  isExcluded,
  isInterruptRange,
  needOf,
  SPECIAL_HI,
  specialAddress,
  THROUGH_TABLES,
  UNTRANSLATED,
} from "./attributes.ts"
import type { Caches } from "./caches.ts"
import { type DeviceEntries, NOBODY } from "./device-entry.ts"
import type { EventLog } from "./events.ts"
import type { PasidEntries } from "./pasid-entry.ts"
import type { PlainWalk } from "./plain-walk.ts"
import * as recent from "./recent-pages.ts"
import { type RecentPages, recentSlot } from "./recent-pages.ts"
import { dwordOf, type Registers } from "./registers.ts"
import * as cached from "./tlb.ts"
import { NO_PERMISSION, NO_TRANSLATION, OK, type Transaction } from "./transaction.ts"
import type { GuestWalk } from "./walk-stage1.ts"
import { type HostWalk, WRITE } from "./walk-stage2.ts"

// Local, because imported constants are loaded at each use (see walk-stage2.ts).
const DEVICE_READ = ACCESS_READ
const DEVICE_WRITE = ACCESS_WRITE
const DEVICE_EXEC = ACCESS_EXEC
const HOST_WRITE = WRITE
const NONE = NO_PASID
const DEVICE_PRIV = ACCESS_PRIV
const { HOST_TABLES, PA_HI, PA_LO, GPA_HI, GPA_LO, INFO, ATTRIBUTES, CLEAN } = cached
const { RECENT_PAGE, RECENT_VALID } = recent
const { GRANTS_MASK, GUEST_GRANTS_SHIFT, GRANT_USER, ALLOWED_SHIFT, ALLOWED_MASK } = cached
const { SIZE_LG2_SHIFT, STAGE1_LG2_SHIFT, STAGE2_LG2_SHIFT, LG2_MASK } = cached
/** What host tables grant to everybody. */
const HOST_INDIFFERENT = DEVICE_EXEC | GRANT_USER
/** A cached translation does not answer; no other status is negative. */
const AGAIN = -1
const PAGE_MASK = -4096
const PAGE_OFFSET = 4095
const PAGE_LG2 = 12
const IommuEn = reg.CONTROL_IommuEn
const ExEn = reg.EXCL_ExEn
const HyperTransport = SPECIAL_HI
const INTERRUPTS = INTERRUPT_MEGABYTE
const UNKNOWN_DEVICE = NOBODY

const CONTROL = dwordOf("CONTROL")
const EXCL_BASE = dwordOf("EXCL_BASE")

/** A request that passes untranslated reports one page: a table says nothing about its neighbours. */
const PASS_SIZE_LG2 = PAGE_LG2

export class Translator {
  private readonly dwords: Uint32Array
  private readonly transaction: Transaction
  private readonly entries: DeviceEntries
  private readonly pasids: PasidEntries
  private readonly guest: GuestWalk
  private readonly host: HostWalk
  private readonly events: EventLog
  private readonly caches: Caches
  private readonly recent: RecentPages
  private readonly isCaching: boolean
  private readonly keepsTranslations: boolean
  private readonly keepsAnswers: boolean
  /** Pages of the host are cached, of both stages together none. */
  private readonly answersFromPages: boolean
  /** Guest tables are found without the guest CR3. */
  private readonly keepsTables: boolean
  /** Nothing but structures is cached. */
  private readonly walksPlain: boolean
  private readonly plain: PlainWalk
  readonly result: AmdTranslationResult

  constructor(
    registers: Registers,
    transaction: Transaction,
    entries: DeviceEntries,
    pasids: PasidEntries,
    guest: GuestWalk,
    host: HostWalk,
    plain: PlainWalk,
    events: EventLog,
    caches: Caches,
    result: AmdTranslationResult,
  ) {
    this.dwords = registers.dwords
    this.transaction = transaction
    this.entries = entries
    this.pasids = pasids
    this.guest = guest
    this.host = host
    this.events = events
    this.caches = caches
    this.recent = caches.recent
    this.isCaching = caches.isOn
    this.keepsTranslations = caches.keepsTranslations
    this.keepsAnswers = caches.keepsAnswers
    this.answersFromPages = caches.isOn && !caches.keepsTranslations
    this.walksPlain = !caches.isOn && !caches.keepsTranslations
    this.plain = plain
    this.keepsTables = caches.isOn && caches.keepsStructures
    this.result = result
  }

  translate(device: number, pasid: number, hi: number, lo: number, access: number): number {
    if (this.keepsAnswers) {
      const { words } = this.recent
      const slot = recentSlot(device, pasid, hi, lo)
      if (
        words[slot] === ((lo & PAGE_MASK) | RECENT_VALID) &&
        words[slot + 1] === (hi | 0) &&
        words[slot + 2] === device &&
        words[slot + 3] === pasid
      ) {
        const info = words[slot + RECENT_PAGE + INFO] as number
        const denied = (access ^ DEVICE_PRIV) & GRANTS_MASK & ~info
        if (denied === 0 && ((info & CLEAN) === 0 || (access & DEVICE_WRITE) === 0)) {
          return this.answer(words, slot + RECENT_PAGE, info, 0, lo & PAGE_OFFSET)
        }
      }
    }
    // Host tables alone are never reached with a PASID.
    const isPlain = device === this.entries.plainDevice && pasid === NONE && device !== UNKNOWN_DEVICE
    if (isPlain && hi !== HyperTransport && (hi !== 0 || lo >>> 20 !== INTERRUPTS)) {
      if (this.plain.stage2(hi, lo, access, this.result)) return OK
    }
    return this.translateAnew(device, pasid, hi, lo, access)
  }

  private translateAnew(device: number, pasid: number, hi: number, lo: number, access: number): number {
    this.transaction.begin(device, pasid, hi, lo, access)
    const isSpecial = hi === HyperTransport || isInterruptRange(hi, lo)
    if (isSpecial || !this.entries.repeats(device, pasid)) {
      return this.translateByEntry(device, pasid, hi, lo, access)
    }
    // One call less where two stages are walked for each request (64 against 66 ns).
    const walksBoth = this.entries.usesGuest && !this.keepsTranslations
    const walked = walksBoth ? this.throughGuest(hi, lo, access) : this.walkTables(hi, lo, access)
    return walked === OK ? OK : this.refuse(walked)
  }

  private translateByEntry(device: number, pasid: number, hi: number, lo: number, access: number): number {
    if (((this.dwords[CONTROL] as number) & IommuEn) === 0) return this.pass(hi, lo)
    const { entries } = this
    const loaded = entries.load()
    if (loaded !== OK && loaded !== NO_TRANSLATION) return this.refuseEntry(loaded)
    if (!entries.valid) return this.pass(hi, lo)
    if (pasid === NONE) {
      if (isInterruptRange(hi, lo)) return this.interrupt(hi, lo, access)
      if (hi === HyperTransport) {
        const special = specialAddress(this.transaction, lo, access, loaded)
        if (special === UNTRANSLATED) return this.pass(hi, lo)
        if (special !== THROUGH_TABLES) return this.refuseEntry(special)
      }
      if (this.isInExclusionRange(hi, lo)) return this.pass(hi, lo)
    }
    if (loaded !== OK) return this.refuseEntry(loaded)
    if (((this.dwords[EXCL_BASE] as number) & ExEn) === 0) entries.repeatable(device, pasid)
    const walked = this.walkTables(hi, lo, access)
    return walked === OK ? OK : this.refuse(walked)
  }

  /** Walks as the loaded device table entry says. @returns OK with {@link result}, or why not; nothing is logged */
  walkTables(hi: number, lo: number, access: number): number {
    if (this.entries.usesGuest) {
      return this.keepsTranslations
        ? this.throughGuestPages(hi, lo, access)
        : this.throughGuest(hi, lo, access)
    }
    return this.isCaching ? this.throughHostPages(hi, lo, access) : this.throughHost(hi, lo, access)
  }

  private throughHostPages(hi: number, lo: number, access: number): number {
    const { hostPages } = this.caches
    const at = hostPages.find(this.host.tag, HOST_TABLES, hi, lo)
    if (at >= 0) {
      const status = this.hit(hostPages.store.words, at, hi, lo, access)
      if (status !== AGAIN) return status
    }
    return this.throughHost(hi, lo, access)
  }

  private throughGuestPages(hi: number, lo: number, access: number): number {
    const { caches, entries, host } = this
    const at = caches.guestPages.find(host.tag, entries.pasid, hi, lo)
    if (at >= 0) {
      const status = this.hit(caches.guestPages.store.words, at, hi, lo, access)
      if (status !== AGAIN) return status
    }
    const status = this.throughGuest(hi, lo, access)
    if (status === OK) this.keep(hi, lo)
    return status
  }

  /**
   * Answers by a cached translation, also with a refusal: only an entry that was not present needs no command when it
   * changes (§3.2, NpCache).
   * @returns {@link AGAIN} when the tables have to be walked, to set D: then they also refuse
   */
  private hit(words: Int32Array, at: number, hi: number, lo: number, access: number): number {
    const info = words[at + INFO] as number
    if ((access & DEVICE_WRITE) !== 0 && (info & CLEAN) !== 0) return AGAIN
    if (((access ^ DEVICE_PRIV) & GRANTS_MASK & ~info) !== 0)
      return this.refuseCached(words, at, hi, lo, access)
    const t = this.transaction
    if (this.keepsAnswers) this.recent.keep(t.device, t.pasid, hi, lo, words, at)
    const sizeLg2 = (info >>> SIZE_LG2_SHIFT) & LG2_MASK
    if (sizeLg2 < 32) return this.answer(words, at, info, 0, lo & ((1 << sizeLg2) - 1))
    return this.answer(words, at, info, hi & ((1 << (sizeLg2 - 32)) - 1), lo)
  }

  /** Fills the result from the words of a translation and the offset in its page. */
  private answer(words: Int32Array, at: number, info: number, offsetHi: number, offsetLo: number): number {
    const r = this.result
    r.paHi = ((words[at + PA_HI] as number) | offsetHi) >>> 0
    r.paLo = ((words[at + PA_LO] as number) | offsetLo) >>> 0
    r.ipaHi = ((words[at + GPA_HI] as number) | offsetHi) >>> 0
    r.ipaLo = ((words[at + GPA_LO] as number) | offsetLo) >>> 0
    r.attributes = words[at + ATTRIBUTES] as number
    r.sizeLg2 = (info >>> SIZE_LG2_SHIFT) & LG2_MASK
    r.allowed = (info >>> ALLOWED_SHIFT) & ALLOWED_MASK
    r.stage1SizeLg2 = (info >>> STAGE1_LG2_SHIFT) & LG2_MASK
    r.stage2SizeLg2 = (info >>> STAGE2_LG2_SHIFT) & LG2_MASK
    return OK
  }

  /** The guest's tables are asked first. */
  private refuseCached(words: Int32Array, at: number, hi: number, lo: number, access: number): number {
    const t = this.transaction
    const isWrite = access & DEVICE_WRITE
    const need = (access ^ DEVICE_PRIV) & GRANTS_MASK
    const info = words[at + INFO] as number
    const sizeLg2 = (info >>> SIZE_LG2_SHIFT) & LG2_MASK
    const offsetLo = sizeLg2 < 32 ? lo & ((1 << sizeLg2) - 1) : lo
    const offsetHi = sizeLg2 < 32 ? 0 : hi & ((1 << (sizeLg2 - 32)) - 1)
    if ((need & ~(info >>> GUEST_GRANTS_SHIFT)) !== 0) t.refuseByGuest(1, isWrite)
    else {
      const gpaLo = (words[at + GPA_LO] as number) | offsetLo
      t.refuseByHost(this.host, (words[at + GPA_HI] as number) | offsetHi, gpaLo, isWrite)
    }
    return NO_PERMISSION
  }

  /** Caches what {@link throughGuest} has found, under the smaller of both stages' sizes. */
  private keep(hi: number, lo: number): void {
    const { guest, host, result } = this
    const pages = this.caches.guestPages
    const { sizeLg2 } = result
    const at = pages.insert(sizeLg2, host.tag, this.entries.pasid, hi, lo)
    pages.fill(at, sizeLg2, result.paHi, result.paLo, result.ipaHi, result.ipaLo)
    const user = guest.isForUsers ? DEVICE_READ | GRANT_USER : DEVICE_READ
    const executable = guest.executable ? user | DEVICE_EXEC : user
    const guestGrants = (guest.permissions & HOST_WRITE) === 0 ? executable : executable | DEVICE_WRITE
    const grants = guestGrants & (allowedOf(host.permissions) | HOST_INDIFFERENT)
    const sizes = (guest.sizeLg2 << STAGE1_LG2_SHIFT) | (host.sizeLg2 << STAGE2_LG2_SHIFT)
    const clean = guest.isClean || host.isClean ? CLEAN : 0
    pages.store.words[at + ATTRIBUTES] = result.attributes
    pages.store.words[at + INFO] =
      grants |
      (guestGrants << GUEST_GRANTS_SHIFT) |
      (result.allowed << ALLOWED_SHIFT) |
      clean |
      sizes |
      (sizeLg2 << SIZE_LG2_SHIFT)
  }

  private throughHost(hi: number, lo: number, access: number): number {
    const { host } = this
    if (this.walksPlain && host.rootAt >= 0 && this.plain.stage2(hi, lo, access, this.result)) return OK
    if (this.isCaching) host.walkThrough(hi, lo, needOf(access))
    else host.walk(hi, lo, needOf(access))
    if (host.status !== OK) return this.refuseHost(hi, lo, access)
    const r = this.result
    r.paHi = host.paHi >>> 0
    r.paLo = host.paLo >>> 0
    r.sizeLg2 = host.sizeLg2 === 0 ? PASS_SIZE_LG2 : host.sizeLg2
    r.allowed = allowedOf(host.permissions)
    r.attributes = hostAttributes(host.permissions)
    r.ipaHi = hi >>> 0
    r.ipaLo = lo >>> 0
    r.stage1SizeLg2 = 0
    r.stage2SizeLg2 = host.sizeLg2
    return OK
  }

  private throughGuest(hi: number, lo: number, access: number): number {
    const { guest, host } = this
    if (!this.keepsTables || !guest.walkLastTable(this.entries.pasid, hi, lo, access)) {
      const found = this.findCr3(access)
      if (found !== OK) return found
      const { cr3Hi, cr3Lo } = this.pasids
      if (this.walksPlain && this.plain.nested(cr3Hi, cr3Lo, hi, lo, access, this.result)) return OK
      const walked = this.isCaching
        ? guest.walkThrough(this.entries.pasid, cr3Hi, cr3Lo, hi, lo, access)
        : guest.walk(cr3Hi, cr3Lo, hi, lo, access)
      if (walked !== OK) return walked
    }
    const gpaHi = guest.gpaHi
    const gpaLo = guest.gpaLo
    const r = this.result
    if (this.answersFromPages) {
      const pages = this.caches.hostPages
      const at = pages.find(host.tag, HOST_TABLES, gpaHi, gpaLo)
      if (at >= 0 && this.plain.cachedPage(pages.store.words, at, gpaHi, gpaLo, access, r)) return OK
    }
    const status = this.isCaching
      ? host.lookup(gpaHi, gpaLo, needOf(access))
      : host.walk(gpaHi, gpaLo, needOf(access))
    if (status !== OK) return this.refuseHost(gpaHi, gpaLo, access)
    r.paHi = host.paHi
    r.paLo = host.paLo >>> 0
    r.sizeLg2 = host.sizeLg2 !== 0 && host.sizeLg2 < guest.sizeLg2 ? host.sizeLg2 : guest.sizeLg2
    const allowed = allowedOf(host.permissions & guest.permissions)
    r.allowed = guest.executable && (allowed & DEVICE_READ) !== 0 ? allowed | DEVICE_EXEC : allowed
    r.attributes = guestAttributes(host.permissions, guest.leafLow, guest.sizeLg2)
    r.ipaHi = gpaHi
    r.ipaLo = gpaLo >>> 0
    r.stage1SizeLg2 = guest.sizeLg2
    r.stage2SizeLg2 = host.sizeLg2
    return OK
  }

  private findCr3(access: number): number {
    const { pasid } = this.entries
    return this.caches.keepsStructures ? this.pasids.lookup(pasid, access) : this.pasids.find(pasid, access)
  }

  /** Untranslated and unchecked. */
  private pass(hi: number, lo: number): number {
    const r = this.result
    r.paHi = hi >>> 0
    r.paLo = lo >>> 0
    r.sizeLg2 = PASS_SIZE_LG2
    r.allowed = DEVICE_READ | DEVICE_WRITE
    r.attributes = 0
    r.ipaHi = hi >>> 0
    r.ipaLo = lo >>> 0
    r.stage1SizeLg2 = 0
    r.stage2SizeLg2 = 0
    return OK
  }

  /** A request to the address range of interrupt messages. */
  interrupt(hi: number, lo: number, access: number): number {
    const status = interruptMessage(this.transaction, access)
    return status === UNTRANSLATED ? this.pass(hi, lo) : this.refuseEntry(status)
  }

  /** A request of the loaded device that passes untranslated. */
  isInExclusionRange(hi: number, lo: number): boolean {
    return isExcluded(this.dwords, this.transaction, hi, lo)
  }

  private refuseHost(hi: number, lo: number, access: number): number {
    this.transaction.refuseByHost(this.host, hi, lo, access & DEVICE_WRITE)
    return this.host.status
  }

  private refuseEntry(status: number): number {
    this.transaction.refuseByEntry()
    return this.refuse(status)
  }

  private refuse(status: number): number {
    this.result.fault = this.events.refuse(status, this.transaction)
    return status
  }
}
