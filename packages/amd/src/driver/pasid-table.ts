/**
 * The GCR3 table of a device: a guest (v2) table for each PASID. AMD 48882 rev 3.10, §2.2.6.
 *
 * Every table has a DomainID of its own, because PASIDs mean different things for different devices.
 */
import { type MemoryAccount, NO_PASID } from "@iommu/core"
import * as spec from "../spec/pasid-table.ts"
import type { DeviceState } from "./attach.ts"
import type { Hardware } from "./hardware.ts"
import { ALL, pushIotlb, pushPages } from "./invalidate.ts"

interface TablePage {
  readonly address: number
  readonly account: MemoryAccount
}

const VALID = BigInt(spec.V)

export class Gcr3Table {
  readonly domainId: number
  readonly root: bigint
  /** Levels of this table less one: as few as the device's PASIDs need. */
  readonly GLX: number
  /** Levels of the guest tables in it: one field of the device table entry names those of all PASIDs. */
  readonly guestLevels: number
  readonly #hardware: Hardware
  readonly #pages: TablePage[] = []

  /** @throws ENOSPC, ENOMEM */
  constructor(hardware: Hardware, account: MemoryAccount, pasidBits: number, guestLevels: number) {
    this.#hardware = hardware
    this.guestLevels = guestLevels
    this.GLX = Math.max(Math.ceil(pasidBits / spec.GCR3_ENTRIES_LG2), 1) - 1
    this.domainId = hardware.domainIds.take()
    try {
      this.root = BigInt(this.#alloc(account))
    } catch (error) {
      hardware.domainIds.give(this.domainId)
      throw error
    }
  }

  /**
   * Sets the entry of a PASID in a table that no device table entry names yet.
   * @param guestTable root of its guest table, 0n for none
   * @throws ENOMEM with the table as it was
   */
  set(pasid: number, guestTable: bigint, account: MemoryAccount): void {
    const at = this.#entry(pasid) ?? this.#grow(pasid, account)
    this.#hardware.platform.memory.write64(at, entryFor(guestTable))
  }

  /**
   * Replaces the entry of a PASID in use, in one store, and waits until no cache holds the old one.
   * @param pasid {@link NO_PASID} for requests without one, which use PASID 0
   * @throws ENOMEM, EIO, ETIMEDOUT with the old entry in place
   * @returns the root that was there, 0n for none
   */
  replace(state: DeviceState, pasid: number, guestTable: bigint): bigint {
    const { memory } = this.#hardware.platform
    const index = pasid === NO_PASID ? 0 : pasid
    const at = this.#entry(index) ?? this.#grow(index, state.device.account)
    const old = memory.read64(at)
    memory.write64(at, entryFor(guestTable))
    try {
      this.#forget(state, pasid)
    } catch (error) {
      memory.write64(at, old)
      throw error
    }
    return old & ~VALID
  }

  /** Undoes a {@link replace} after a later step failed: the entry is as it was even if the hardware fails again. */
  putBack(state: DeviceState, pasid: number, guestTable: bigint): void {
    const at = this.#entry(pasid === NO_PASID ? 0 : pasid)
    if (at !== null) this.#hardware.platform.memory.write64(at, entryFor(guestTable))
    try {
      this.#forget(state, pasid)
    } catch {
      // The caller hears of the first failure.
    }
  }

  /** Nothing may use the table any more. */
  free(): void {
    for (const page of this.#pages) this.#hardware.platform.pages.free(page.address, 0, page.account)
    this.#pages.length = 0
    this.#hardware.domainIds.give(this.domainId)
  }

  #forget(state: DeviceState, pasid: number): void {
    const { queue } = this.#hardware
    pushPages(queue, this.domainId, pasid === NO_PASID ? 0 : pasid, ALL)
    if (state.device.ats) pushIotlb(queue, state.device.id, pasid, ALL)
    queue.sync()
  }

  /** Address of the level-0 entry of a PASID, or null where a table is missing. */
  #entry(pasid: number): bigint | null {
    let table = this.root
    for (let level = this.GLX; level > 0; level--) {
      const next = this.#hardware.platform.memory.read64(table + index(pasid, level))
      if ((next & VALID) === 0n) return null
      table = spec.GCR3.getInPlace([next], "Address")
    }
    return table + index(pasid, 0)
  }

  /** Adds the missing tables, linked from the bottom up once all of them are there. */
  #grow(pasid: number, account: MemoryAccount): bigint {
    const { memory } = this.#hardware.platform
    let table = this.root
    let level = this.GLX
    let link = table + index(pasid, level)
    while (level > 0 && (memory.read64(link) & VALID) !== 0n) {
      table = spec.GCR3.getInPlace([memory.read64(link)], "Address")
      link = table + index(pasid, --level)
    }
    const fresh = this.#allocAll(level, account)
    let below = entryFor(0n)
    let at = link
    fresh.forEach((page, i) => {
      const address = BigInt(page)
      if (i === 0) at = address + index(pasid, 0)
      else memory.write64(address + index(pasid, i), below)
      below = entryFor(address)
    })
    memory.write64(link, below)
    return at
  }

  #allocAll(count: number, account: MemoryAccount): number[] {
    const before = this.#pages.length
    try {
      return Array.from({ length: count }, () => this.#alloc(account))
    } catch (error) {
      for (const page of this.#pages.splice(before)) {
        this.#hardware.platform.pages.free(page.address, 0, page.account)
      }
      throw error
    }
  }

  #alloc(account: MemoryAccount): number {
    const address = this.#hardware.platform.pages.alloc(0, account)
    this.#pages.push({ address, account })
    return address
  }
}

function entryFor(root: bigint): bigint {
  return root === 0n ? 0n : root | VALID
}

/** Byte offset of a PASID's entry in its table of a level. */
function index(pasid: number, level: number): bigint {
  const slot = Math.floor(pasid / 2 ** (spec.GCR3_ENTRIES_LG2 * level)) & spec.GCR3_INDEX_MASK
  return BigInt(slot * spec.GCR3_ENTRY_BYTES)
}
