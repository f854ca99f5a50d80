/**
 * Root and context tables. Intel VT-d 5.10 §9.1 to §9.4, and the order in which a live entry changes, §6.5.3.3.
 *
 * Tables are made when the first device of a bus is probed and kept: there are at most 512.
 */
import { hi32, lo32, type PhysicalMemory } from "@iommu/core"
import * as ctx from "../spec/device-table.ts"
import { CAP } from "../spec/registers.ts"
import type { Features } from "./features.ts"
import type { Hardware } from "./hardware.ts"
import type { PasidTable } from "./pasid-table.ts"

/** An entry as 64-bit words, ready to be stored. */
export type Entry = readonly bigint[]
export const CONTEXT_ENTRY_WORDS = 2
export const SCALABLE_CONTEXT_ENTRY_WORDS = 4

export class DeviceTable {
  readonly #hardware: Hardware
  readonly root: number
  /** Address of each context table, by {@link tableNumber}. */
  readonly #tables = new Map<number, number>()

  /** @throws ENOMEM */
  constructor(hardware: Hardware) {
    this.#hardware = hardware
    this.root = hardware.pages.alloc(0, hardware.account)
  }

  /**
   * Where a device's context entry is, with a table under it.
   * @throws ENOMEM
   */
  prepare(sourceId: number): bigint {
    const { pages, account, memory, features } = this.#hardware
    const number = this.#tableNumber(sourceId)
    let table = this.#tables.get(number)
    if (table === undefined) {
      table = pages.alloc(0, account)
      this.#tables.set(number, table)
      // A scalable root entry is two of these halves, for devices 0 to 15 and 16 to 31.
      const halves = features.scalable ? 2 : 1
      const at = BigInt(
        this.root + Math.floor(number / halves) * ctx.ROOT_ENTRY_BYTES + (number % halves) * 8,
      )
      storeEntry(memory, at, ctx.ROOT.encode({ P: 1n, CTP: BigInt(table) >> 12n }).slice(0, 1))
      this.#hardware.flushWriteBuffer()
    }
    return BigInt(table + this.#offset(sourceId))
  }

  /** Gives everything back; for a start that failed. */
  free(): void {
    const { pages, account } = this.#hardware
    for (const table of this.#tables.values()) pages.free(table, 0, account)
    pages.free(this.root, 0, account)
  }

  /** Legacy: one table a bus. Scalable: two. */
  #tableNumber(sourceId: number): number {
    return this.#hardware.features.scalable ? sourceId >>> 7 : sourceId >>> 8
  }

  #offset(sourceId: number): number {
    return this.#hardware.features.scalable
      ? (sourceId & 0x7f) * ctx.SCALABLE_CONTEXT_ENTRY_BYTES
      : (sourceId & 0xff) * ctx.CONTEXT_ENTRY_BYTES
  }
}

/** Legacy mode: second stage for requests without PASID. §9.3. */
export function secondStageContext(did: number, root: bigint, levels: number, hasDeviceTlb: boolean): Entry {
  return ctx.CONTEXT.encode({
    P: 1n,
    TT: BigInt(hasDeviceTlb ? ctx.TT_DEVICE_TLB : ctx.TT_UNTRANSLATED),
    SSPTPTR: root >> 12n,
    AW: BigInt(levels - 2),
    DID: BigInt(did),
  })
}

/** Legacy mode: untranslated. AW must then be the largest that the hardware has. §9.3. */
export function passThroughContext(features: Features, did: number): Entry {
  return ctx.CONTEXT.encode({
    P: 1n,
    TT: BigInt(ctx.TT_PASS_THROUGH),
    AW: BigInt(widestAddressWidth(features)),
    DID: BigInt(did),
  })
}

/** Scalable mode: everything else is in the PASID table; requests without PASID use entry 0 of it. §9.4. */
export function scalableContext(
  features: Features,
  { directory, directoryEntriesLg2 }: PasidTable,
  hasDeviceTlb: boolean,
): Entry {
  return ctx.SCALABLE_CONTEXT.encode({
    P: 1n,
    DTE: hasDeviceTlb ? 1n : 0n,
    PASIDE: features.pasidBits > 0 ? 1n : 0n,
    PDTS: BigInt(directoryEntriesLg2 - 7),
    PASIDDIRPTR: directory >> 12n,
  })
}

/** The largest AW code of CAP.SAGAW, whether or not there is a second stage to use it; 0 for none. */
export function widestAddressWidth({ cap }: Features): number {
  const SAGAW = CAP.get([cap], "SAGAW")
  return [3, 2, 1].find(aw => (SAGAW >> BigInt(aw)) & 1n) ?? 0
}

/** The domain-id of a legacy context entry. */
export function contextDid(entry: Entry): number {
  return Number(ctx.CONTEXT.get(entry, "DID"))
}

/** Invalidations that go with a change; each returns when the hardware is done. */
export interface EntryChange {
  /** The entry is not present any more; `old` is what it was. */
  removed(old: Entry): void
  /** The entry became present. */
  added(fresh: Entry): void
}

/**
 * Changes an entry that the hardware may be using, in the order of §6.5.3.3: clear P, invalidate and wait, fill in
 * the rest, set P. When the hardware fails on the way, the old entry is back in its place.
 * @param entry null for "not present"
 */
export function changeEntry(
  memory: PhysicalMemory,
  address: bigint,
  entry: Entry | null,
  words: number,
  change: EntryChange,
): void {
  const old = Array.from({ length: words }, (_, word) => memory.read64(address + BigInt(word * 8)))
  try {
    if (((old[0] as bigint) & 1n) === 1n) {
      clearPresent(memory, address)
      change.removed(old)
    }
    storeEntry(memory, address, entry ?? old.map(() => 0n))
    if (entry !== null) change.added(entry)
  } catch (error) {
    clearPresent(memory, address)
    storeEntry(memory, address, old)
    throw error
  }
}

/**
 * Fills an entry that is not present. The half with P (bit 0 of the first word) goes last, because the hardware may
 * fetch at any moment.
 */
export function storeEntry(memory: PhysicalMemory, address: bigint, entry: Entry): void {
  const at = memory.find(hi32(address), lo32(address))
  for (let word = entry.length - 1; word >= 0; word--) {
    const value = entry[word] as bigint
    memory.words[at + word * 2 + 1] = hi32(value)
    memory.words[at + word * 2] = lo32(value)
  }
}

/** PRE of a scalable context entry may change while the entry is present: it is one bit of one aligned word. §9.4. */
export function storePageRequests(memory: PhysicalMemory, address: bigint, enabled: boolean): void {
  const at = memory.find(hi32(address), lo32(address))
  const word = memory.words[at] as number
  memory.words[at] = enabled ? word | ctx.PRE : word & ~ctx.PRE
}

/** Takes an entry away from the hardware with one write; what it held stays readable until the caches are clean. */
function clearPresent(memory: PhysicalMemory, address: bigint): void {
  const at = memory.find(hi32(address), lo32(address))
  memory.words[at] = (memory.words[at] as number) & ~1
}
