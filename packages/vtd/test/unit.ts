/** A remapping unit over tables that a test writes word by word, with nothing of the driver or the formats. */
import {
  ACCESS_READ,
  type CachePolicies,
  type CachePolicy,
  createMemory,
  type DmaOutcome,
  NO_PASID,
  type PhysicalMemory,
  translateRequest,
} from "@iommu/core"
import { type VtdModel, vtdModel } from "../src/model/device.ts"
import { EVERYTHING, type VtdCapabilities } from "../src/model/options.ts"

const MEMORY_BYTES = 0x110_0000n
export const ROOT = 0x1000n
export const CONTEXT = 0x2000n
export const CONTEXT_UPPER = 0x3000n
/** 8 KiB: room for a directory with PDTS 3. */
export const DIRECTORY = 0x4000n
export const PASID_TABLE = 0x8000n
/** An address that no memory answers. */
export const HOLE = 0x4000_0000n
/** Guest physical addresses below 8 MiB lie this far up in the unit's memory. */
export const GUEST_OFFSET = 0x80_0000n

export const GCMD = 0x18
export const GSTS = 0x1c
export const RTADDR = 0x20
export const SRTP = 1 << 30
export const TE = 0x8000_0000
export const SCALABLE = 1n << 10n

/** Index of an address in the table of a level, as a byte offset. */
function entryOffset(address: bigint, level: number): bigint {
  return ((address >> BigInt(12 + 9 * (level - 1))) & 511n) * 8n
}

export class Unit {
  readonly memory: PhysicalMemory = createMemory([{ base: 0n, size: MEMORY_BYTES }])
  readonly model: VtdModel
  #next = 0x10_0000n

  /** Without caches: tests change tables from one request to the next. */
  constructor(
    capabilities: VtdCapabilities = EVERYTHING,
    hostAddressWidth = 52,
    caches: CachePolicy | CachePolicies = "none",
  ) {
    this.model = vtdModel({ memory: this.memory, capabilities, hostAddressWidth, caches })
  }

  page(): bigint {
    this.#next += 0x1000n
    return this.#next
  }

  put(address: bigint, ...words: readonly bigint[]): void {
    for (const [i, word] of words.entries()) this.memory.write64(address + 8n * BigInt(i), word)
  }

  get(address: bigint): bigint {
    return this.memory.read64(address)
  }

  /** Sets bits of a word in memory. */
  set(address: bigint, bits: bigint): void {
    this.put(address, this.get(address) | bits)
  }

  /** Points RTADDR at a root table, latches it and enables remapping. */
  enable(rtaddr: bigint): void {
    const { mmio } = this.model
    mmio.write64(RTADDR, rtaddr)
    mmio.write32(GCMD, SRTP)
    mmio.write32(GCMD, TE)
  }

  /** Legacy mode, device 00:00.0, with the given context entry. */
  legacy(lo: bigint, hi: bigint): void {
    this.put(ROOT, CONTEXT | 1n, 0n)
    this.put(CONTEXT, lo, hi)
    this.enable(ROOT)
  }

  /** Scalable mode, device 00:00.0, PASID 0, with the given words of the PASID table entry. */
  scalable(...entry: readonly bigint[]): void {
    this.put(ROOT, CONTEXT | 1n, CONTEXT_UPPER | 1n)
    this.put(CONTEXT, DIRECTORY | 1n, 0n, 0n, 0n)
    this.put(DIRECTORY, PASID_TABLE | 1n)
    this.put(PASID_TABLE, ...entry)
    this.enable(ROOT | SCALABLE)
  }

  /**
   * Links tables from `root` to a leaf. Table addresses go into entries as `seen`, the words are written at `at`.
   * @returns addresses in memory of the entries used, from the root's down
   */
  #map(
    root: bigint,
    levels: number,
    leafLevel: number,
    address: bigint,
    leaf: bigint,
    table: bigint,
    offset: bigint,
  ): bigint[] {
    const used: bigint[] = []
    let at = root
    for (let level = levels; level > leafLevel; level--) {
      const entry = at + offset + entryOffset(address, level)
      used.push(entry)
      if (this.get(entry) === 0n) this.put(entry, (this.page() - offset) | table)
      at = this.get(entry) & 0xf_ffff_ffff_f000n
    }
    const entry = at + offset + entryOffset(address, leafLevel)
    used.push(entry)
    this.put(entry, leaf)
    return used
  }

  /** Second stage with all-granting tables. */
  mapSecond(root: bigint, levels: number, address: bigint, leaf: bigint, leafLevel = 1): bigint[] {
    return this.#map(root, levels, leafLevel, address, leaf, 3n, 0n)
  }

  /** First stage in the unit's own addresses; flags A set, user, writable. */
  mapFirst(root: bigint, levels: number, address: bigint, leaf: bigint, leafLevel = 1): bigint[] {
    return this.#map(root, levels, leafLevel, address, leaf, 0x27n, 0n)
  }

  /** First stage in guest addresses: what the tables say lies {@link GUEST_OFFSET} up. */
  mapGuest(root: bigint, levels: number, address: bigint, leaf: bigint, leafLevel = 1): bigint[] {
    const saved = this.#next
    this.#next = GUEST_OFFSET + (saved & 0x7f_ffffn)
    const used = this.#map(root, levels, leafLevel, address, leaf, 0x27n, GUEST_OFFSET)
    this.#next = saved + (this.#next - GUEST_OFFSET - (saved & 0x7f_ffffn))
    return used
  }

  dma(iova: bigint, access: number = ACCESS_READ, pasid: number = NO_PASID, device = 0): DmaOutcome {
    return translateRequest(this.model, { device, pasid, iova, access })
  }

  /** Code of the fault, 0 for success. */
  code(iova: bigint, access: number = ACCESS_READ, pasid: number = NO_PASID, device = 0): number {
    const outcome = this.dma(iova, access, pasid, device)
    return outcome.ok ? 0 : outcome.fault.code
  }
}
