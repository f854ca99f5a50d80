/**
 * What the tables say of an address beside where it lies: rights, and the attributes that matter to DMA (AMD 48882
 * rev 3.10, §2.2.3 and §2.2.6); and which addresses are not memory (§2.1).
 *
 * The probe walks as a transaction does, but marks nothing accessed or dirty and logs nothing.
 */
import { ACCESS_EXEC, ACCESS_PRIV, ACCESS_READ, ACCESS_WRITE, type TranslationResult } from "@iommu/core"
import * as dte from "../spec/device-table.ts"
import * as pte from "../spec/page-tables.ts"
import * as reg from "../spec/registers.ts"
import type { DeviceEntries } from "./device-entry.ts"
import type { PasidEntries } from "./pasid-entry.ts"
import { dwordOf } from "./registers.ts"
import {
  DTE_ILLEGAL_VALUE,
  INTERRUPT_BLOCKED,
  INTERRUPT_READ,
  INTERRUPT_UNMAPPED,
  NO_PERMISSION,
  NOT_PRESENT,
  OK,
  PORT_IO_BLOCKED,
  SYSTEM_MANAGEMENT_BLOCKED,
  SYSTEM_MANAGEMENT_READ,
  SYSTEM_MANAGEMENT_UNTRANSLATED,
  type Transaction,
} from "./transaction.ts"
import type { GuestWalk } from "./walk-stage1.ts"
import type { HostWalk } from "./walk-stage2.ts"

/**
 * {@link TranslationResult.attributes} of the AMD model: U and FC of the host leaf in bits 0 and 1; then, with guest
 * tables, the PAT index in bits 4:2, G in bit 5, and bit 6 set. 0 for a request that passes untranslated.
 */
export interface AmdTranslationResult extends TranslationResult {
  attributes: number
}

const ATTRIBUTE_U = 1 << 0
const ATTRIBUTE_FC = 1 << 1
const ATTRIBUTE_PAT_SHIFT = 2
const ATTRIBUTE_PAT_MASK = 7
const ATTRIBUTE_G = 1 << 5
const ATTRIBUTE_GUEST = 1 << 6

/** ACCESS_READ and ACCESS_WRITE become IR and IW when shifted up. */
const RIGHTS: number = ACCESS_READ | ACCESS_WRITE
export const RIGHTS_SHIFT = 29
const SMALL_PAGE_LG2 = 12
/** U and FC stand side by side in a leaf. */
export const HOST_SHIFT = 27
export const HOST_MASK = 3
const { V1_IR_HI, V1_IW_HI, V2_G, V2_PAT, V2_PAT_LARGE } = pte
/** PWT and PCD, bits 0 and 1 of the PAT index, stand side by side in a leaf. */
const CACHING: number = pte.V2_PWT | pte.V2_PCD
const CACHING_SHIFT = 3

/** @param permissions of the host walk, see {@link HostWalk.permissions} */
export function hostAttributes(permissions: number): number {
  return (permissions >>> HOST_SHIFT) & HOST_MASK
}

/** The bits of {@link HostWalk.permissions} that {@link hostAttributes} made the attributes of. */
export function permissionsOf(attributes: number): number {
  return (attributes & HOST_MASK) << HOST_SHIFT
}

/**
 * PAT stands elsewhere in the leaf of a large page (AMD 24593 §5.4).
 * @param leaf low half of the guest leaf
 */
export function guestAttributes(permissions: number, leaf: number, sizeLg2: number): number {
  return nestedAttributes(hostAttributes(permissions), leaf, sizeLg2)
}

/** The same from the attributes that the host tables give. */
export function nestedAttributes(host: number, leaf: number, sizeLg2: number): number {
  const pat = sizeLg2 === SMALL_PAGE_LG2 ? V2_PAT : V2_PAT_LARGE
  const index = ((leaf & CACHING) >>> CACHING_SHIFT) | ((leaf & pat) === 0 ? 0 : 4)
  const global = (leaf & V2_G) === 0 ? 0 : ATTRIBUTE_G
  return host | (index << ATTRIBUTE_PAT_SHIFT) | global | ATTRIBUTE_GUEST
}

/** What a request asks of host tables. @param access ACCESS_* bits */
export function needOf(access: number): number {
  return (access & RIGHTS) << RIGHTS_SHIFT
}

/** {@link ACCESS_READ} and {@link ACCESS_WRITE} as far as permissions of the host walk grant them. */
export function allowedOf(permissions: number): number {
  return (permissions >>> RIGHTS_SHIFT) & RIGHTS
}

/** Attributes of an address as the tables give them. */
export interface AmdAttributes {
  /** Accesses snoop processor caches whatever the device asks for: FC of the host leaf. */
  readonly forceCoherent: boolean
  /** DTE.SD: the IOMMU's own reads of tables do not snoop. */
  readonly tablesNotSnooped: boolean
  /** PAT, PCD and PWT of the guest leaf as an index into the PAT that the guest uses; null without guest tables. */
  readonly patIndex: number | null
  /** G of the guest leaf. */
  readonly global: boolean
  /** U of the host leaf: an ATC must not keep the translation. */
  readonly untranslatedOnly: boolean
  /** ACCESS_* bits that the tables allow a request with the given privilege. */
  readonly allowed: number
}

/** Address bits 63:32 of the ranges below. */
export const SPECIAL_HI = 0xfd
const SYSTEM_MANAGEMENT_MEGABYTE = 0xf91
/** FD_FC00_0000h to FD_FDFF_FFFFh, as address bits 31:25. */
const PORT_IO_32_MEGABYTES = 0xfc00_0000 >>> 25

/** Interrupt messages go to FEEx_xxxxh (§2.1, table 3). */
export const INTERRUPT_MEGABYTE = 0xfee

const EXCL_BASE = dwordOf("EXCL_BASE")
const EXCL_LIMIT = dwordOf("EXCL_LIMIT")
const PAGES_PER_4G = 0x10_0000

export function isInterruptRange(hi: number, lo: number): boolean {
  return hi === 0 && lo >>> 20 === INTERRUPT_MEGABYTE
}

/**
 * The address range of interrupt messages is not memory (§2.1): reads are refused, writes are interrupts and pass or
 * not by DTE.IntCtl (§2.2.5). Interrupt tables are not modelled: where a table would remap, the answer is that of a
 * table without a valid entry.
 * @returns {@link UNTRANSLATED}, or why the message is refused
 */
export function interruptMessage(t: Transaction, access: number): number {
  if (access !== ACCESS_WRITE) return INTERRUPT_READ
  if ((t.dteInterruptsLo & dte.IV) === 0) return UNTRANSLATED
  const control = (t.dteInterruptsHi >>> dte.INTCTL_SHIFT) & dte.INTCTL_MASK
  if (control === dte.INTCTL_FORWARD) return UNTRANSLATED
  return control === dte.INTCTL_REMAP ? INTERRUPT_UNMAPPED : INTERRUPT_BLOCKED
}

/**
 * A request of the loaded device that passes untranslated. MMIO Offsets 0020h and 0028h: the limit is the last page;
 * DTE.EX or Allow lets a device in.
 * @param dwords the registers
 */
export function isExcluded(dwords: Uint32Array, t: Transaction, hi: number, lo: number): boolean {
  const baseLo = dwords[EXCL_BASE] as number
  if ((baseLo & reg.EXCL_ExEn) === 0) return false
  if ((baseLo & reg.EXCL_Allow) === 0 && (t.dteFlags & dte.EX) === 0) return false
  const page = (hi >>> 0) * PAGES_PER_4G + (lo >>> 12)
  const first = ((dwords[EXCL_BASE + 1] as number) & reg.BASE_HI) * PAGES_PER_4G + (baseLo >>> 12)
  const limitHi = (dwords[EXCL_LIMIT + 1] as number) & reg.BASE_HI
  const last = limitHi * PAGES_PER_4G + ((dwords[EXCL_LIMIT] as number) >>> 12)
  return page >= first && page <= last
}

/** Answers of {@link specialAddress} other than a refusal. */
export const THROUGH_TABLES = -1
export const UNTRANSLATED = -2

/**
 * HyperTransport gives some addresses a meaning of their own, and the device table entry says what a device may do
 * there (§2.1, table 3): system management messages by SysMgt, port I/O by IoCtl.
 * @param lo bits 31:0 of an address whose upper half is {@link SPECIAL_HI}
 * @param loaded what loading the entry gave: OK, or NO_TRANSLATION
 * @returns {@link THROUGH_TABLES}, {@link UNTRANSLATED}, or why the request is refused
 */
export function specialAddress(t: Transaction, lo: number, access: number, loaded: number): number {
  if (lo >>> 20 === SYSTEM_MANAGEMENT_MEGABYTE) return systemManagement(t, access, loaded)
  return lo >>> 25 === PORT_IO_32_MEGABYTES ? portIo(t) : THROUGH_TABLES
}

/** Of INTx messages, which SysMgt = 2 lets through, a request does not tell: they are refused as all others. */
function systemManagement(t: Transaction, access: number, loaded: number): number {
  const control = (t.dteFlags >>> dte.SYSMGT_SHIFT) & dte.SYSMGT_MASK
  if (control === dte.SYSMGT_TRANSLATE) return loaded === OK ? THROUGH_TABLES : SYSTEM_MANAGEMENT_UNTRANSLATED
  if (access !== ACCESS_WRITE) return SYSTEM_MANAGEMENT_READ
  return control === dte.SYSMGT_FORWARD ? UNTRANSLATED : SYSTEM_MANAGEMENT_BLOCKED
}

function portIo(t: Transaction): number {
  switch ((t.dteFlags >>> dte.IOCTL_SHIFT) & dte.IOCTL_MASK) {
    case dte.IOCTL_ABORT:
      return PORT_IO_BLOCKED
    case dte.IOCTL_FORWARD:
      return UNTRANSLATED
    case dte.IOCTL_TRANSLATE:
      return THROUGH_TABLES
    default:
      return DTE_ILLEGAL_VALUE
  }
}

export class TableProbe {
  private readonly transaction: Transaction
  private readonly entries: DeviceEntries
  private readonly pasids: PasidEntries
  private readonly guest: GuestWalk
  private readonly host: HostWalk

  // Result.
  allowed = 0
  /** As in {@link AmdTranslationResult}. */
  word = 0

  constructor(
    transaction: Transaction,
    entries: DeviceEntries,
    pasids: PasidEntries,
    guest: GuestWalk,
    host: HostWalk,
  ) {
    this.transaction = transaction
    this.entries = entries
    this.pasids = pasids
    this.guest = guest
    this.host = host
  }

  /** U of the host leaf. */
  get untranslatedOnly(): boolean {
    return (this.word & ATTRIBUTE_U) !== 0
  }

  /** True where a guest leaf says so: the translation is the same for every PASID of the device. */
  get global(): boolean {
    return (this.word & ATTRIBUTE_G) !== 0
  }

  /**
   * Looks the request's address up, after its device table entry has been loaded.
   * @param privilege ACCESS_PRIV or 0
   * @returns OK with the result in the fields, also where nothing is mapped or allowed; else what is wrong with a table
   */
  probe(hi: number, lo: number, privilege: number): number {
    const { guest, host } = this
    const { accessedBit, dirtyBit } = host
    const guestAccessedBit = guest.accessedBit
    const guestDirtyBit = guest.dirtyBit
    host.accessedBit = 0
    host.dirtyBit = 0
    guest.accessedBit = 0
    guest.dirtyBit = 0
    this.allowed = 0
    this.word = 0
    const status = this.entries.usesGuest
      ? this.throughGuest(hi, lo, privilege)
      : this.throughHost(hi, lo, ACCESS_READ | ACCESS_WRITE)
    host.accessedBit = accessedBit
    host.dirtyBit = dirtyBit
    guest.accessedBit = guestAccessedBit
    guest.dirtyBit = guestDirtyBit
    return isRefusal(status) ? OK : status
  }

  /** The last {@link probe} as attributes. */
  attributes(): AmdAttributes {
    const { word } = this
    return {
      forceCoherent: (word & ATTRIBUTE_FC) !== 0,
      tablesNotSnooped: (this.transaction.dteFlags & dte.SD) !== 0,
      patIndex: (word & ATTRIBUTE_GUEST) === 0 ? null : (word >>> ATTRIBUTE_PAT_SHIFT) & ATTRIBUTE_PAT_MASK,
      global: this.global,
      untranslatedOnly: this.untranslatedOnly,
      allowed: this.allowed,
    }
  }

  private throughHost(hi: number, lo: number, limit: number): number {
    const { host } = this
    host.walk(hi, lo, 0)
    if (host.status !== OK) {
      this.transaction.refuseByHost(host, hi, lo, 0)
      return host.status
    }
    const { permissions } = host
    const rights = allowedOf(permissions) & limit
    this.allowed = (permissions & V1_IR_HI) === 0 ? rights : rights | (limit & ACCESS_EXEC)
    this.word = hostAttributes(permissions)
    return OK
  }

  private throughGuest(hi: number, lo: number, privilege: number): number {
    const { guest, pasids } = this
    const found = pasids.find(this.entries.pasid, privilege)
    if (found !== OK) return found
    const walked = guest.walk(pasids.cr3Hi, pasids.cr3Lo, hi, lo, privilege)
    if (walked !== OK) return walked
    const { leafLow, sizeLg2 } = guest
    const write = (guest.permissions & V1_IW_HI) === 0 ? 0 : ACCESS_WRITE
    const execute = guest.executable ? ACCESS_EXEC : 0
    const status = this.throughHost(guest.gpaHi, guest.gpaLo, ACCESS_READ | write | execute)
    if (status !== OK) return status
    this.word = guestAttributes(this.host.permissions, leafLow, sizeLg2)
    if (this.allowed !== 0 && guest.supervisor) this.allowed |= privilege & ACCESS_PRIV
    return OK
  }
}

/** What an ATC is told by a completion without rights; the other refusals are errors of the tables. */
export function isRefusal(status: number): boolean {
  return status === NOT_PRESENT || status === NO_PERMISSION
}
