/**
 * From PASID to the guest CR3, through GCR3 tables. AMD 48882 rev 3.10, §2.2.6.
 *
 * The tables lie in system physical memory or, with CONTROL.GCR3TRPMode, in the guest's: then each fetch goes through
 * the host tables.
 */
import { ACCESS_WRITE, type PhysicalMemory } from "@iommu/core"
import * as gcr3 from "../spec/pasid-table.ts"
import { type Caches, CR3_HI, CR3_LO } from "./caches.ts"
import type { Gcr3Trace } from "./trace.ts"
import { NOT_PRESENT, OK, RESERVED_BIT, type Transaction } from "./transaction.ts"
import type { HostWalk } from "./walk-stage2.ts"

// Local, because imported constants are loaded at each use (see walk-stage2.ts).
const { V, ADDRESS_LO, ADDRESS_HI, RESERVED_LO, RESERVED_HI, GCR3_ENTRIES_LG2, GCR3_INDEX_MASK } = gcr3

export class PasidEntries {
  private readonly memory: PhysicalMemory
  private readonly host: HostWalk
  private readonly transaction: Transaction
  private readonly caches: Caches
  tracer: Gcr3Trace | null = null

  /** CONTROL.GCR3TRPMode. */
  isGuestPhysical = false
  // From the device table entry.
  private glx = 0
  private rootHi = 0
  private rootLo = 0
  private pasidBits = 0

  // Result: a guest physical address.
  cr3Hi = 0
  cr3Lo = 0

  constructor(memory: PhysicalMemory, host: HostWalk, transaction: Transaction, caches: Caches) {
    this.memory = memory
    this.host = host
    this.transaction = transaction
    this.caches = caches
  }

  /**
   * Takes over what the device table entry says.
   * @param glx levels less one
   * @param pasidBits bits of the largest PASID, by GLX and PASmax
   */
  setRoot(glx: number, hi: number, lo: number, pasidBits: number): void {
    this.glx = glx
    this.rootHi = hi
    this.rootLo = lo
    this.pasidBits = pasidBits
  }

  /** As {@link find}, through the caches. */
  lookup(pasid: number, access: number): number {
    const { caches, host } = this
    const cached = caches.findGuestCr3(host.tag, pasid)
    if (cached >= 0) {
      this.cr3Hi = caches.guestCr3s.words[cached + CR3_HI] as number
      this.cr3Lo = caches.guestCr3s.words[cached + CR3_LO] as number
      return OK
    }
    const found = this.find(pasid, access)
    if (found !== OK) return found
    const kept = caches.insertGuestCr3(host.tag, pasid)
    caches.guestCr3s.words[kept + CR3_HI] = this.cr3Hi
    caches.guestCr3s.words[kept + CR3_LO] = this.cr3Lo
    return OK
  }

  /** @returns OK with the guest CR3 in the fields, or why not, with the transaction's fault set */
  find(pasid: number, access: number): number {
    const { memory, host, isGuestPhysical, transaction } = this
    if (pasid >>> this.pasidBits !== 0) return this.refuse(NOT_PRESENT, access)
    let tableHi = this.rootHi
    let tableLo = this.rootLo
    for (let level = this.glx; level >= 0; level--) {
      const index = (pasid >>> (GCR3_ENTRIES_LG2 * level)) & GCR3_INDEX_MASK
      const entryLo = tableLo | (index << 3)
      const at = isGuestPhysical ? host.fetch(tableHi, entryLo) : memory.find(tableHi, entryLo)
      if (at < 0) {
        return isGuestPhysical
          ? transaction.refuseFetch(0, host, tableHi, entryLo, 0)
          : transaction.refuseRead(0, tableHi, entryLo)
      }
      const low = memory.words[at] as number
      const high = memory.words[at + 1] as number
      if (this.tracer !== null) this.tracer.gcr3Entry(level, tableHi, tableLo, index, high, low)
      if ((low & V) === 0) return this.refuse(NOT_PRESENT, access)
      if ((low & RESERVED_LO) !== 0 || (high & RESERVED_HI) !== 0) return this.refuse(RESERVED_BIT, access)
      tableHi = high & ADDRESS_HI
      tableLo = low & ADDRESS_LO
    }
    this.cr3Hi = tableHi
    this.cr3Lo = tableLo
    return OK
  }

  private refuse(status: number, access: number): number {
    this.transaction.refuseByGuest(0, access & ACCESS_WRITE)
    return status
  }
}
