/** PASID directory and tables of one device. Intel VT-d 5.10 §9.5, §9.6; scalable mode only. */
import { hi32, lo32, type MemoryAccount } from "@iommu/core"
import * as pe from "../spec/pasid-table.ts"
import { changeEntry, type Entry, storeEntry, widestAddressWidth } from "./device-table.ts"
import type { Features } from "./features.ts"
import type { Hardware } from "./hardware.ts"

/** The PASID of requests that carry none: RID_PASID of the context entry. */
export const RID_PASID = 0
export const PASID_ENTRY_WORDS = 8

/** One page of 64 entries, and who pays for it. */
interface Leaf {
  readonly address: number
  readonly account: MemoryAccount
  /** PASIDs in use of its 64. */
  used: number
}

export class PasidTable {
  readonly #hardware: Hardware
  readonly #directory: number
  readonly #directoryPagesLg2: number
  /** log2 of the directory's entries, 7 to 14. */
  readonly directoryEntriesLg2: number
  readonly #leaves = new Map<number, Leaf>()

  /**
   * A directory for all PASIDs of a device and the table with entry 0, paid for by the driver.
   * @param pasidBits 0 for a device that sends no PASID
   * @throws ENOMEM
   */
  constructor(hardware: Hardware, pasidBits: number) {
    this.#hardware = hardware
    this.directoryEntriesLg2 = Math.max(7, pasidBits - pe.PASID_TABLE_BITS)
    this.#directoryPagesLg2 = Math.max(0, this.directoryEntriesLg2 + 3 - 12)
    this.#directory = hardware.pages.alloc(this.#directoryPagesLg2, hardware.account)
    try {
      this.claim(RID_PASID, hardware.account)
    } catch (error) {
      hardware.pages.free(this.#directory, this.#directoryPagesLg2, hardware.account)
      throw error
    }
  }

  get directory(): bigint {
    return BigInt(this.#directory)
  }

  /**
   * Makes room for a PASID's entry.
   * @param account pays when this takes a new page
   * @throws ENOMEM; nothing is claimed then
   */
  claim(pasid: number, account: MemoryAccount): void {
    const index = pasid >>> pe.PASID_TABLE_BITS
    const leaf = this.#leaves.get(index)
    if (leaf !== undefined) {
      leaf.used++
      return
    }
    const address = this.#hardware.pages.alloc(0, account)
    this.#leaves.set(index, { address, account, used: 1 })
    const entry = pe.PASID_DIRECTORY.encode({ P: 1n, SMPTBLPTR: BigInt(address) >> 12n })
    storeEntry(this.#hardware.memory, this.#directoryEntry(index), entry)
    this.#hardware.flushWriteBuffer()
  }

  /**
   * Ends a {@link claim}. The PASID's entry is not present and no cache holds it.
   * @throws EIO, ETIMEDOUT: an unused table stays, for the next claim or the end
   */
  release(pasid: number): void {
    const index = pasid >>> pe.PASID_TABLE_BITS
    const leaf = this.#leaves.get(index)
    if (leaf === undefined) throw new Error(`bug: PASID ${pasid} was not claimed`)
    leaf.used--
    if (leaf.used > 0) return
    const { memory, pages, queue } = this.#hardware
    changeEntry(memory, this.#directoryEntry(index), null, 1, {
      // The PASID-cache may hold the way to the table, under any domain-id.
      removed: () => {
        queue.pasidCacheGlobal()
        queue.sync()
      },
      added: () => {},
    })
    pages.free(leaf.address, 0, leaf.account)
    this.#leaves.delete(index)
  }

  /** Address of a claimed PASID's entry. */
  entry(pasid: number): bigint {
    const leaf = this.#leaves.get(pasid >>> pe.PASID_TABLE_BITS)
    if (leaf === undefined) throw new Error(`bug: PASID ${pasid} was not claimed`)
    return BigInt(leaf.address + (pasid & ((1 << pe.PASID_TABLE_BITS) - 1)) * pe.PASID_TABLE_ENTRY_BYTES)
  }

  /** Frees all tables; the context entry no longer leads here. */
  free(): void {
    const { pages, account } = this.#hardware
    for (const leaf of this.#leaves.values()) pages.free(leaf.address, 0, leaf.account)
    pages.free(this.#directory, this.#directoryPagesLg2, account)
  }

  #directoryEntry(index: number): bigint {
    return BigInt(this.#directory + index * pe.PASID_DIRECTORY_ENTRY_BYTES)
  }
}

/** What an entry with a second stage says of it. */
export interface SecondStage {
  readonly root: bigint
  readonly levels: number
  /** SSADE: the hardware sets accessed and dirty flags. */
  readonly isTracking: boolean
  /** PGSNP: accesses snoop caches. */
  readonly isSnooped: boolean
}

/** What an entry with a first stage of the driver's says of it. */
export interface FirstStage {
  readonly root: bigint
  readonly levels: number
  readonly isSnooped: boolean
}

/** A guest's first stage, checked. */
export interface GuestFirstStage {
  /** Guest-physical; the parent translates it. */
  readonly root: bigint
  readonly levels: number
  readonly sre: boolean
  readonly wpe: boolean
  readonly eafe: boolean
}

export function secondStageEntry(features: Features, did: number, second: SecondStage): Entry {
  return pe.PASID_ENTRY.encode({
    ...common(features, did, pe.PGTT_SECOND),
    ...secondStageFields(second),
  })
}

/**
 * AW means nothing to a first stage, and is reserved where there is no second stage (§9.6). Linux fills it in all
 * the same, so hardware has only ever seen it filled in, and QEMU takes it for the width of first-stage addresses.
 */
export function firstStageEntry(features: Features, did: number, first: FirstStage): Entry {
  const { root, levels } = first
  return pe.PASID_ENTRY.encode({
    ...common(features, did, pe.PGTT_FIRST),
    PGSNP: first.isSnooped ? 1n : 0n,
    AW: BigInt(widestAddressWidth(features)),
    FSPM: BigInt(levels === 5 ? pe.FSPM_5_LEVEL : pe.FSPM_4_LEVEL),
    FSPTPTR: root >> 12n,
  })
}

export function nestedEntry(
  features: Features,
  did: number,
  second: SecondStage,
  first: GuestFirstStage,
): Entry {
  return pe.PASID_ENTRY.encode({
    ...common(features, did, pe.PGTT_NESTED),
    ...secondStageFields(second),
    SRE: first.sre ? 1n : 0n,
    WPE: first.wpe ? 1n : 0n,
    EAFE: first.eafe ? 1n : 0n,
    FSPM: BigInt(first.levels === 5 ? pe.FSPM_5_LEVEL : pe.FSPM_4_LEVEL),
    FSPTPTR: first.root >> 12n,
  })
}

/** AW must be the largest that the hardware has. §9.6. */
export function passThroughEntry(features: Features, did: number): Entry {
  return pe.PASID_ENTRY.encode({
    ...common(features, did, pe.PGTT_PASS_THROUGH),
    AW: BigInt(widestAddressWidth(features)),
  })
}

/** Domain-id and translation type of an entry. */
export function entryTags(entry: Entry): { readonly did: number; readonly pgtt: number } {
  return {
    did: Number(pe.PASID_ENTRY.get(entry, "DID")),
    pgtt: Number(pe.PASID_ENTRY.get(entry, "PGTT")),
  }
}

/** A bit that may change while its entry is present: it is one bit of one aligned word. */
export interface LiveBit {
  /** Which 32-bit word of the entry. */
  readonly word: number
  readonly mask: number
}
/** Accessed and dirty flags of the second stage. §6.2.3.1. */
export const SSADE: LiveBit = { word: 0, mask: pe.PE_SSADE }
/** Accesses snoop caches whatever the request asks for. §9.6. */
export const PGSNP: LiveBit = { word: 2, mask: pe.PE_PGSNP_LO1 }

export function storeLiveBit(hardware: Hardware, address: bigint, bit: LiveBit, value: boolean): void {
  const { words } = hardware.memory
  const at = hardware.memory.find(hi32(address), lo32(address)) + bit.word
  words[at] = value ? (words[at] as number) | bit.mask : (words[at] as number) & ~bit.mask
}

function common(features: Features, did: number, pgtt: number) {
  return { P: 1n, PGTT: BigInt(pgtt), DID: BigInt(did), PWSNP: features.pageWalkSnoop ? 1n : 0n }
}

function secondStageFields({ root, levels, isTracking, isSnooped }: SecondStage) {
  return {
    AW: BigInt(levels - 2),
    SSADE: isTracking ? 1n : 0n,
    SSPTPTR: root >> 12n,
    PGSNP: isSnooped ? 1n : 0n,
  }
}
