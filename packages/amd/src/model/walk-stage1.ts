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

/** Address bits below the page that must be zero: 20:13 of a 2 MiB and 29:13 of a 1 GiB leaf. */
const LARGE_2M_RESERVED = 0x001f_e000
const LARGE_1G_RESERVED = 0x3fff_e000

export class GuestWalk {
  private readonly memory: PhysicalMemory
  private readonly host: HostWalk
  private readonly transaction: Transaction
  tracer: GuestTrace | null = null

  // From the device table entry and the registers.
  /** DTE.GLX: levels of the GCR3 table less one. */
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
  /** System physical word index of the entry fetched last. */
  private at = 0

  constructor(memory: PhysicalMemory, host: HostWalk, transaction: Transaction) {
    this.memory = memory
    this.host = host
    this.transaction = transaction
  }

  walk(pasid: number, hi: number, lo: number, access: number): number {
    if (!isCanonical(this.levels, hi)) return this.refuse(NOT_PRESENT, access)
    const status = this.findRoot(pasid, access)
    if (status !== OK) return status
    const { memory, accessedBit } = this
    const words = memory.words
    let level = this.levels
    let tableHi = this.gpaHi
    let tableLo = this.gpaLo
    let allow = pte.V2_RW | pte.V2_US
    let forbid = 0
    for (;;) {
      const index = indexAt(level, hi, lo)
      const entryLo = tableLo | (index << 3)
      const fetched = this.fetch(tableHi, entryLo, READ)
      if (fetched !== OK) return fetched
      const at = this.at
      const low = words[at] as number
      const high = words[at + 1] as number
      this.tracer?.guestEntry(level, tableHi, tableLo, index, high, low)
      if ((low & pte.V2_P) === 0) return this.refuse(NOT_PRESENT, access)
      if ((high & pte.V2_NX_HI) !== 0 && !this.noExecute) return this.refuse(RESERVED_BIT, access)
      allow &= low
      forbid |= high
      const isLeaf = level === 1 || (low & pte.V2_PS) !== 0
      if (isLeaf) {
        if (level > pte.V2_MAX_LEAF_LEVEL) return this.refuse(RESERVED_BIT, access)
        if (level === 2 && (low & LARGE_2M_RESERVED) !== 0) return this.refuse(RESERVED_BIT, access)
        if (level === 3 && (low & LARGE_1G_RESERVED) !== 0) return this.refuse(RESERVED_BIT, access)
        if (!this.allows(allow, forbid, access)) return this.refuse(NO_PERMISSION, access)
      }
      const set = accessedBit | (isLeaf && (access & ACCESS_WRITE) !== 0 ? this.dirtyBit : 0)
      if ((low & set) !== set) {
        const writable = this.fetch(tableHi, entryLo, READ | WRITE)
        if (writable !== OK) return writable
        words[this.at] = low | set
      }
      if (isLeaf) {
        const sizeLg2 = 9 * level + 3
        const offset = (1 << sizeLg2) - 1
        this.sizeLg2 = sizeLg2
        this.gpaHi = high & pte.ADDR_HI
        this.gpaLo = (low & pte.ADDR_LO & ~offset) | (lo & offset)
        this.permissions = (allow & pte.V2_RW) !== 0 ? READ | WRITE : READ
        this.executable = (forbid & pte.V2_NX_HI) === 0
        return OK
      }
      tableHi = high & pte.ADDR_HI
      tableLo = low & pte.ADDR_LO
      level--
    }
  }

  /** Leaves the guest CR3 of a PASID in gpaHi and gpaLo. */
  private findRoot(pasid: number, access: number): number {
    const bits = Math.min(gcr3.gcr3PasidBits(this.glx), this.pasidBits)
    if (pasid >>> bits !== 0) return this.refuseConfig(NOT_PRESENT, access)
    let tableHi = this.rootHi
    let tableLo = this.rootLo
    for (let level = this.glx; level >= 0; level--) {
      const index = (pasid >>> (gcr3.GCR3_ENTRIES_LG2 * level)) & gcr3.GCR3_INDEX_MASK
      const entryLo = tableLo | (index << 3)
      const fetched = this.rootIsGuestPhysical
        ? this.fetch(tableHi, entryLo, READ)
        : this.readAt(tableHi, entryLo)
      if (fetched !== OK) return fetched
      const low = this.memory.words[this.at] as number
      const high = this.memory.words[this.at + 1] as number
      this.tracer?.gcr3Entry(level, tableHi, tableLo, index, high, low)
      if ((low & gcr3.V) === 0) return this.refuseConfig(NOT_PRESENT, access)
      if ((low & gcr3.RESERVED_LO) !== 0 || (high & gcr3.RESERVED_HI) !== 0) {
        return this.refuseConfig(RESERVED_BIT, access)
      }
      tableHi = high & gcr3.ADDRESS_HI
      tableLo = low & gcr3.ADDRESS_LO
    }
    this.gpaHi = tableHi
    this.gpaLo = tableLo
    return OK
  }

  /** Finds a guest physical address in memory: its word index in {@link at}. */
  private fetch(hi: number, lo: number, need: number): number {
    const { host } = this
    const status = host.walk(hi, lo, need)
    if (status === OK) return this.readAt(host.paHi, host.paLo)
    const t = this.transaction
    t.faultStage = 2
    t.faultIsGuest = 0
    t.faultHi = hi
    t.faultLo = lo
    t.faultIsWrite = need & WRITE
    t.errorHi = host.errorHi
    t.errorLo = host.errorLo
    return status
  }

  private readAt(hi: number, lo: number): number {
    this.at = this.memory.find(hi, lo)
    if (this.at >= 0) return OK
    const t = this.transaction
    t.faultStage = 1
    t.faultIsGuest = 1
    t.faultIsWrite = 0
    t.errorHi = hi
    t.errorLo = lo
    return TABLE_ERROR
  }

  /** User rights need U at every level; supervisor writes respect R/W as with CR0.WP = 1. */
  private allows(allow: number, forbid: number, access: number): boolean {
    const user = (access & ACCESS_PRIV) === 0 || !this.supervisor
    if (user && (allow & pte.V2_US) === 0) return false
    if ((access & ACCESS_WRITE) !== 0 && (allow & pte.V2_RW) === 0) return false
    return (access & ACCESS_EXEC) === 0 || (forbid & pte.V2_NX_HI) === 0
  }

  private refuse(status: number, access: number): number {
    const t = this.transaction
    t.faultStage = 1
    t.faultIsGuest = 1
    t.faultIsWrite = access & ACCESS_WRITE
    return status
  }

  private refuseConfig(status: number, access: number): number {
    this.refuse(status, access)
    this.transaction.faultStage = 0
    return status
  }
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
