/**
 * Guest page tables: PASID through GCR3 tables to a root, then v2 format, guest virtual to guest physical.
 * AMD 48882 rev 3.10, §2.2.6; entries as in AMD 24593 rev 3.42 §5.3.
 *
 * All guest tables lie in guest physical memory: each fetch, and each update of A and D, goes through the host
 * tables first and is subject to their permissions.
 */
import { ACCESS_EXEC, ACCESS_PRIV, ACCESS_WRITE, type PhysicalMemory } from "@iommu/core"
import * as pte from "../spec/page-tables.ts"
import * as gcr3 from "../spec/pasid-table.ts"
import type { GuestTrace } from "./trace.ts"
import { NO_PERMISSION, NOT_PRESENT, OK, RESERVED_BIT, TABLE_ERROR, type Transaction } from "./transaction.ts"
import { type HostWalk, READ, WRITE } from "./walk-stage2.ts"

// Local, because imported constants are loaded at each use (see walk-stage2.ts).
const ADDR_LO = pte.ADDR_LO
const ADDR_HI = pte.ADDR_HI
const PRESENT = pte.V2_P
const WRITABLE = pte.V2_RW
const USER = pte.V2_US
const PAGE_SIZE = pte.V2_PS
const NO_EXECUTE = pte.V2_NX_HI
const MAX_LEAF_LEVEL = pte.V2_MAX_LEAF_LEVEL
const GCR3_VALID = gcr3.V
const GCR3_RESERVED_LO = gcr3.RESERVED_LO
const GCR3_RESERVED_HI = gcr3.RESERVED_HI
const HOST_READ = READ
const HOST_WRITE = WRITE
const DEVICE_WRITE = ACCESS_WRITE

/** Address bits below the page that must be zero: 20:13 of a 2 MiB and 29:13 of a 1 GiB leaf. */
const LARGE_2M_RESERVED = 0x001f_e000
const LARGE_1G_RESERVED = 0x3fff_e000

export class GuestWalk {
  private readonly memory: PhysicalMemory
  private readonly host: HostWalk
  private readonly transaction: Transaction
  tracer: GuestTrace | null = null

  // From the device table entry and the registers.
  /** DTE.GLX: levels of the GCR3 table less one; PASIDs have no more bits than {@link pasidBits}. */
  glx = 0
  rootHi = 0
  rootLo = 0
  /** CONTROL.GCR3TRPMode: GCR3 tables lie in guest physical memory. */
  rootIsGuestPhysical = false
  /** 4 or 5. */
  levels = 4
  pasidBits = 0
  /** EXT_FEATURES.NXSup and USSup. */
  noExecute = false
  supervisor = false
  /** V2_A unless CONTROL.GAUpdateDis, V2_D unless CONTROL.GDUpdateDis. */
  accessedBit = 0
  dirtyBit = 0

  // Result.
  gpaHi = 0
  gpaLo = 0
  sizeLg2 = 0
  /** {@link READ} and {@link WRITE}. */
  permissions = 0
  executable = false

  constructor(memory: PhysicalMemory, host: HostWalk, transaction: Transaction) {
    this.memory = memory
    this.host = host
    this.transaction = transaction
  }

  walk(pasid: number, hi: number, lo: number, access: number): number {
    const { memory, host, accessedBit } = this
    const words = memory.words
    if (!isCanonical(this.levels, hi)) return this.refuse(NOT_PRESENT, access)
    const status = this.findRoot(pasid, access)
    if (status !== OK) return status
    let level = this.levels
    let tableHi = this.gpaHi
    let tableLo = this.gpaLo
    let allow = WRITABLE | USER
    let forbid = 0
    for (;;) {
      const index = indexAt(level, hi, lo)
      const entryLo = tableLo | (index << 3)
      const at = host.walk(tableHi, entryLo, HOST_READ)
      if (at < 0) return this.refuseFetch(tableHi, entryLo, HOST_READ)
      const low = words[at] as number
      const high = words[at + 1] as number
      if (this.tracer !== null) this.tracer.guestEntry(level, tableHi, tableLo, index, high, low)
      if ((low & PRESENT) === 0) return this.refuse(NOT_PRESENT, access)
      allow &= low
      forbid |= high & NO_EXECUTE
      if (forbid !== 0 && !this.noExecute) return this.refuse(RESERVED_BIT, access)
      if (level === 1 || (low & PAGE_SIZE) !== 0) {
        const reserved = level === 1 ? 0 : largeReserved(level)
        if ((low & reserved) !== 0) return this.refuse(RESERVED_BIT, access)
        if (!this.allows(allow, forbid, access)) return this.refuse(NO_PERMISSION, access)
        const set = (access & DEVICE_WRITE) === 0 ? accessedBit : accessedBit | this.dirtyBit
        if ((low & set) !== set) {
          const updated = this.update(tableHi, entryLo, low | set)
          if (updated !== OK) return updated
        }
        this.page(9 * level + 3, high, low, lo)
        this.permissions = (allow & WRITABLE) !== 0 ? HOST_READ | HOST_WRITE : HOST_READ
        this.executable = forbid === 0
        return OK
      }
      if ((low & accessedBit) !== accessedBit) {
        const updated = this.update(tableHi, entryLo, low | accessedBit)
        if (updated !== OK) return updated
      }
      tableHi = high & ADDR_HI
      tableLo = low & ADDR_LO
      level--
    }
  }

  /** Leaves the guest CR3 of a PASID in gpaHi and gpaLo. */
  private findRoot(pasid: number, access: number): number {
    const { memory, host } = this
    if (pasid >>> this.pasidBits !== 0) return this.refuseConfig(NOT_PRESENT, access)
    const isGuest = this.rootIsGuestPhysical
    let tableHi = this.rootHi
    let tableLo = this.rootLo
    for (let level = this.glx; level >= 0; level--) {
      const index = (pasid >>> (9 * level)) & 0x1ff
      const entryLo = tableLo | (index << 3)
      const at = isGuest ? host.walk(tableHi, entryLo, HOST_READ) : memory.find(tableHi, entryLo)
      if (at < 0) {
        return isGuest ? this.refuseFetch(tableHi, entryLo, HOST_READ) : this.refuseRead(tableHi, entryLo)
      }
      const low = memory.words[at] as number
      const high = memory.words[at + 1] as number
      if (this.tracer !== null) this.tracer.gcr3Entry(level, tableHi, tableLo, index, high, low)
      if ((low & GCR3_VALID) === 0) return this.refuseConfig(NOT_PRESENT, access)
      if ((low & GCR3_RESERVED_LO) !== 0 || (high & GCR3_RESERVED_HI) !== 0) {
        return this.refuseConfig(RESERVED_BIT, access)
      }
      tableHi = high & ADDR_HI
      tableLo = low & ADDR_LO
    }
    this.gpaHi = tableHi
    this.gpaLo = tableLo
    return OK
  }

  private page(sizeLg2: number, high: number, low: number, lo: number): void {
    const offset = (1 << sizeLg2) - 1
    this.sizeLg2 = sizeLg2
    this.gpaHi = high & ADDR_HI
    this.gpaLo = (low & ADDR_LO & ~offset) | (lo & offset)
  }

  /** Writes A and D into an entry: a write of the IOMMU, which the host tables must allow. */
  private update(hi: number, lo: number, entryLow: number): number {
    const { memory, host } = this
    const at = host.walk(hi, lo, HOST_READ | HOST_WRITE)
    if (at < 0) return this.refuseFetch(hi, lo, HOST_READ | HOST_WRITE)
    memory.words[at] = entryLow
    return OK
  }

  /** User rights need U at every level; supervisor writes respect R/W as with CR0.WP = 1. */
  private allows(allow: number, forbid: number, access: number): boolean {
    const user = (access & ACCESS_PRIV) === 0 || !this.supervisor
    if (user && (allow & USER) === 0) return false
    if ((access & DEVICE_WRITE) !== 0 && (allow & WRITABLE) === 0) return false
    return (access & ACCESS_EXEC) === 0 || (forbid & NO_EXECUTE) === 0
  }

  private refuse(status: number, access: number): number {
    const t = this.transaction
    t.faultStage = 1
    t.faultIsGuest = 1
    t.faultIsWrite = access & DEVICE_WRITE
    t.faultHi = t.iovaHi
    t.faultLo = t.iovaLo
    return status
  }

  private refuseConfig(status: number, access: number): number {
    this.refuse(status, access)
    this.transaction.faultStage = 0
    return status
  }

  /** The host tables refused a fetch or an update: the event tells the guest physical address. */
  private refuseFetch(hi: number, lo: number, need: number): number {
    const { host } = this
    if (host.status === OK) return this.refuseRead(host.paHi, host.paLo)
    this.transaction.refuseByHost(hi, lo, need & HOST_WRITE, host)
    return host.status
  }

  private refuseRead(hi: number, lo: number): number {
    this.refuse(TABLE_ERROR, 0)
    this.transaction.errorHi = hi
    this.transaction.errorLo = lo
    return TABLE_ERROR
  }
}

/** Address bits that must be zero in a leaf above level 1; above level 3 even PS. */
function largeReserved(level: number): number {
  if (level > MAX_LEAF_LEVEL) return PAGE_SIZE
  return level === 2 ? LARGE_2M_RESERVED : LARGE_1G_RESERVED
}

/** Guest virtual addresses of 48 or 57 bits repeat their top bit above it. */
function isCanonical(levels: number, hi: number): boolean {
  const top = (hi | 0) >> (levels === 5 ? 24 : 15)
  return top === 0 || top === -1
}

function indexAt(level: number, hi: number, lo: number): number {
  switch (level) {
    case 1:
      return (lo >>> 12) & 0x1ff
    case 2:
      return (lo >>> 21) & 0x1ff
    case 3:
      return ((hi << 2) | (lo >>> 30)) & 0x1ff
    case 4:
      return (hi >>> 7) & 0x1ff
    default:
      return (hi >>> 16) & 0x1ff
  }
}
