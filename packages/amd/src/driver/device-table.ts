/**
 * The device table in memory: what entries of each kind hold, and how a live one is changed.
 * AMD 48882 rev 3.10, §2.2.2.1 (layout), §2.2.2.2 (changes), §2.4.2 (INVALIDATE_DEVTAB_ENTRY).
 */
import { type IommuDevice, type IommuPlatform, PAGE_SIZE } from "@iommu/core"
import * as dte from "../spec/device-table.ts"
import { ALL, HOST_TABLES, pushDevtabEntry, pushIotlb, pushPages } from "./invalidate.ts"
import type { Gcr3Table } from "./pasid-table.ts"
import type { CommandQueue } from "./queue.ts"

/** The four 64-bit words of an entry. */
export type Entry = readonly bigint[]

/** Valid, no tables, neither IR nor IW: every request is refused, whatever the other words hold. */
const REFUSE = BigInt(dte.V | dte.TV)
const PAGE_REQUESTS = BigInt(dte.PPR | dte.GPRP) << 32n
/** The bits of word 2 that belong to DMA; the others belong to interrupt remapping. */
const WORD2_DMA = BigInt(dte.GUEST_PAGING_MODE_MASK) << BigInt(dte.GUEST_PAGING_MODE_SHIFT + 32)

/** No tables; reads and writes pass or not as the two bits say. */
export function untranslatedEntry(domainId: number, device: IommuDevice, allowed: 0n | 1n): Entry {
  return dte.DTE.encode({
    V: 1n,
    TV: 1n,
    IR: allowed,
    IW: allowed,
    DomainID: BigInt(domainId),
    I: device.ats ? 1n : 0n,
  })
}

/** What an entry says of the host (v1) tables. */
export interface HostTables {
  readonly root: bigint
  readonly levels: number
  /** True while hardware keeps A and D in them. */
  readonly tracking: boolean
}

/** Translation through host (v1) tables. */
export function hostEntry(domainId: number, device: IommuDevice, host: HostTables): Entry {
  return dte.DTE.encode({
    V: 1n,
    TV: 1n,
    ...hostFields(host),
    IR: 1n,
    IW: 1n,
    DomainID: BigInt(domainId),
    I: device.ats ? 1n : 0n,
  })
}

export function hostFields(host: HostTables): {
  HAD: bigint
  Mode: bigint
  HostPageTableRootPtr: bigint
} {
  return {
    HAD: host.tracking ? BigInt(dte.HAD_A | dte.HAD_D) : 0n,
    Mode: BigInt(host.levels),
    HostPageTableRootPtr: host.root >> 12n,
  }
}

/**
 * Translation through guest (v2) tables alone, one per PASID.
 * @param GIOV 1: requests without PASID use PASID 0; 0: they pass untranslated
 */
export function guestEntry(gcr3: Gcr3Table, device: IommuDevice, GIOV: 0n | 1n): Entry {
  return dte.DTE.encode({
    V: 1n,
    TV: 1n,
    GV: 1n,
    GIOV,
    GLX: BigInt(gcr3.GLX),
    ...dte.gcr3RootFields(gcr3.root),
    IR: 1n,
    IW: 1n,
    DomainID: BigInt(gcr3.domainId),
    I: device.ats ? 1n : 0n,
    GuestPagingMode: BigInt(gcr3.guestLevels - 4),
  })
}

/** The entry with page requests allowed; their answers carry the PASID (§2.2.2.1, PPR and GPRP). */
export function withPageRequests(entry: Entry): Entry {
  return entry.with(0, entry[0] | PAGE_REQUESTS)
}

export class DeviceTable {
  /** DeviceIDs that have an entry: 0 up to this. */
  readonly devices: number
  /** Value of the Device Table Base Address register: bytes = (Size + 1) * 4096. */
  readonly baseRegister: bigint
  readonly #platform: IommuPlatform
  readonly #queue: CommandQueue
  readonly #base: number

  /**
   * Every entry refuses: one with V = 0 would let its device through untranslated.
   * @param base address of `pages` zeroed pages
   */
  constructor(platform: IommuPlatform, queue: CommandQueue, base: number, pages: number) {
    this.#platform = platform
    this.#queue = queue
    this.#base = base
    this.devices = (pages * PAGE_SIZE) / dte.DTE_BYTES
    this.baseRegister = BigInt(base + pages - 1)
    for (let id = 0; id < this.devices; id++) this.#write(id, 0, REFUSE)
  }

  static pagesFor(maxDeviceId: number): number {
    return Math.ceil(((maxDeviceId + 1) * dte.DTE_BYTES) / PAGE_SIZE)
  }

  /** The entry as the hardware would read it. */
  #read(id: number): Entry {
    const at = this.#base + id * dte.DTE_BYTES
    return [0, 8, 16, 24].map(offset => this.#platform.memory.read64(at + offset))
  }

  /**
   * Changes the DMA part of a live entry and waits until no cache holds the old one.
   *
   * The IOMMU reads an entry whole, but a store of this machine has 64 bits. While a word that goes with word 0
   * changes, word 0 refuses every request: never is there a mixture of two entries, nor V = 0, which lets
   * requests through untranslated.
   * @throws EIO, ETIMEDOUT with the old entry in place
   */
  update(id: number, next: Entry): void {
    const old = this.#read(id)
    const wanted = [next[0], next[1], (old[2] & ~WORD2_DMA) | next[2]]
    if (wanted.every((word, i) => word === old[i])) return
    try {
      this.#change(id, old, wanted)
      this.#queue.sync()
    } catch (error) {
      this.#putBack(id, old)
      throw error
    }
  }

  #change(id: number, old: Entry, next: Entry): void {
    if (next[1] === old[1] && next[2] === old[2]) {
      this.#write(id, 0, next[0])
      this.#forget(id, old)
      return
    }
    if (mayTranslate(old)) {
      this.#write(id, 0, REFUSE)
      this.#forget(id, old)
      this.#queue.sync()
    }
    this.#write(id, 2, next[2])
    this.#write(id, 1, next[1])
    this.#write(id, 0, next[0])
    pushDevtabEntry(this.#queue, id)
  }

  /**
   * Drops an entry from the caches, and what was translated through it: some hardware goes on using that when only
   * the entry is invalidated (Xen's XSA-442). PASIDs have been dropped one by one, so of guest tables there is left
   * what requests without PASID used.
   */
  #forget(id: number, old: Entry): void {
    const queue = this.#queue
    pushDevtabEntry(queue, id)
    if (!mayTranslate(old)) return
    const domainId = Number(dte.DTE.get(old, "DomainID"))
    pushPages(queue, domainId, HOST_TABLES, ALL)
    if (dte.DTE.get(old, "GV") === 1n) pushPages(queue, domainId, 0, ALL)
    if (dte.DTE.get(old, "I") === 1n) pushIotlb(queue, id, HOST_TABLES, ALL)
  }

  #putBack(id: number, old: Entry): void {
    this.#write(id, 0, REFUSE)
    this.#write(id, 2, old[2])
    this.#write(id, 1, old[1])
    this.#write(id, 0, old[0])
    try {
      pushDevtabEntry(this.#queue, id)
      this.#queue.sync()
    } catch {
      // The hardware has failed already; the caller hears of the first failure.
    }
  }

  #write(id: number, word: number, value: bigint): void {
    this.#platform.memory.write64(this.#base + id * dte.DTE_BYTES + word * 8, value)
  }
}

function mayTranslate(entry: Entry): boolean {
  return entry[0] !== REFUSE
}
