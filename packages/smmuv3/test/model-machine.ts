/** A machine around the model: memory, a linear Stream table, hand-made tables. Addresses are bigint throughout. */
import {
  ACCESS_READ,
  type AtsModel,
  type CachePolicies,
  type CachePolicy,
  createMemory,
  type DmaOutcome,
  type Fault,
  type HoldingModel,
  type IommuModel,
  type MemoryRange,
  type PhysicalMemory,
  translateRequest,
  type WakingModel,
} from "@iommu/core"
import { smmuv3Model } from "../src/index.ts"
import type { IdRegisters } from "../src/model/options.ts"
import * as ste from "../src/spec/device-table.ts"
import * as cd from "../src/spec/pasid-table.ts"
import * as reg from "../src/spec/registers.ts"

export const RAM = 0x4000_0000n
export const RAM_BYTES = 0x100_0000n

/** A little memory at 2^45, for addresses that exist and yet exceed an output size. */
export const HIGH_RAM: bigint = 1n << 45n
const HIGH_RAM_BYTES = 0x4000n

export type SteFields = Parameters<typeof ste.STE.encode>[0]
export type CdFields = Parameters<typeof cd.CD.encode>[0]

/** Leaf attributes that allow everything: stage 1 AP=01, AF, page; stage 2 S2AP=11, AF, page. */
export const S1_PAGE = 0x743n
export const S2_PAGE = 0x7ffn
/** The same for blocks. */
export const S1_BLOCK = 0x741n
export const S2_BLOCK = 0x7fdn

export class Machine {
  readonly memory: PhysicalMemory
  readonly model: IommuModel & AtsModel & HoldingModel & WakingModel
  readonly streamTable: bigint
  readonly eventQueue: bigint
  readonly commandQueue: bigint
  #next: bigint = RAM

  readonly #end: bigint

  /** Tests change tables without telling the SMMU unless they ask for caches. */
  constructor(
    id: Partial<IdRegisters> = {},
    ramBytes: bigint = RAM_BYTES,
    caches: CachePolicy | CachePolicies = "none",
    more: readonly MemoryRange[] = [],
  ) {
    this.#end = RAM + ramBytes
    this.memory = createMemory([
      { base: RAM, size: ramBytes },
      ...more,
      { base: HIGH_RAM, size: HIGH_RAM_BYTES },
    ])
    this.model = smmuv3Model({ memory: this.memory, id, caches })
    this.streamTable = this.alloc(0x4000n, 0x4000n)
    this.eventQueue = this.alloc()
    this.commandQueue = this.alloc()
    this.write("CR2", reg.CR2_RECINVSID)
    this.write64("STRTAB_BASE", this.streamTable)
    this.write("STRTAB_BASE_CFG", 8)
    this.write64("EVENTQ_BASE", this.eventQueue | 7n)
    this.write64("CMDQ_BASE", this.commandQueue | 8n)
    this.write("CR0", reg.CR0_SMMUEN | reg.CR0_EVENTQEN | reg.CR0_CMDQEN)
  }

  /** End of what was allocated; everything lies between RAM and here. */
  get allocated(): bigint {
    return this.#next
  }

  /** Zeroed memory, aligned to its size or to what is asked. */
  alloc(bytes = 0x1000n, align = 0x1000n): bigint {
    const at = (this.#next + align - 1n) & ~(align - 1n)
    this.#next = at + bytes
    if (this.#next > this.#end) throw new Error("the test needs more memory")
    return at
  }

  read(name: reg.RegisterName): number {
    return this.model.mmio.read32(reg.offsetOf(name))
  }

  write(name: reg.RegisterName, value: number): void {
    this.model.mmio.write32(reg.offsetOf(name), value)
  }

  write64(name: reg.RegisterName, value: bigint): void {
    this.model.mmio.write64(reg.offsetOf(name), value)
  }

  store(at: bigint, words: readonly bigint[]): void {
    words.forEach((word, i) => {
      this.memory.write64(at + 8n * BigInt(i), word)
    })
  }

  ste(streamId: number, fields: SteFields): void {
    this.store(this.streamTable + 64n * BigInt(streamId), ste.STE.encode({ V: 1n, ...fields }))
  }

  /** One CD in a page of its own. */
  cd(fields: CdFields, at: bigint = this.alloc()): bigint {
    this.store(at, cd.CD.encode(fields))
    return at
  }

  /** Fills the way to a leaf: `levels` from the root's level to the leaf's. */
  map(root: bigint, shape: MapShape, address: bigint, leaf: bigint): void {
    const { granuleLg2, inputBits, startLevel, leafLevel = 3 } = shape
    const stride = BigInt(granuleLg2 - 3)
    let table = root
    for (let level = startLevel; level <= leafLevel; level++) {
      const shift = BigInt(granuleLg2) + BigInt(3 - level) * stride
      const bits = level === startLevel ? BigInt(inputBits) - shift : stride
      const at = table + 8n * ((address >> shift) & ((1n << bits) - 1n))
      if (level === leafLevel) this.memory.write64(at, leaf)
      else {
        let entry = this.memory.read64(at)
        if ((entry & 3n) !== 3n) {
          const size = 1n << BigInt(granuleLg2)
          entry = this.alloc(size, size) | 3n
          this.memory.write64(at, entry)
        }
        table = entry & 0xffff_ffff_f000n
      }
    }
  }

  access(streamId: number, address: bigint, access: number = ACCESS_READ, pasid?: number): DmaOutcome {
    const request = { device: streamId, iova: address, access }
    return translateRequest(this.model, pasid === undefined ? request : { ...request, pasid })
  }

  /** The fault of an access that must fail. */
  fault(streamId: number, address: bigint, access: number = ACCESS_READ, pasid?: number): Fault {
    const outcome = this.access(streamId, address, access, pasid)
    if (outcome.ok) throw new Error(`the access succeeds, at 0x${outcome.pa.toString(16)}`)
    return outcome.fault
  }

  /** The records in the Event queue, oldest first. */
  events(): bigint[][] {
    const prod = this.read("EVENTQ_PROD") & 0x7f
    return Array.from({ length: prod }, (_, i) =>
      [0n, 8n, 16n, 24n].map(o => this.memory.read64(this.eventQueue + 32n * BigInt(i) + o)),
    )
  }

  /** Appends commands and rings the doorbell. */
  command(...commands: readonly (readonly bigint[])[]): void {
    let prod = this.read("CMDQ_PROD")
    for (const words of commands) {
      this.store(this.commandQueue + 16n * BigInt(prod & 0xff), words)
      prod = (prod + 1) & 0x1ff
    }
    this.write("CMDQ_PROD", prod)
  }
}

export interface MapShape {
  readonly granuleLg2: number
  readonly inputBits: number
  readonly startLevel: number
  readonly leafLevel?: number
}

export const SHAPE_4K: MapShape = { granuleLg2: 12, inputBits: 48, startLevel: 0 }

/** A CD of the lower range, 48 bits and 4 KiB, that aborts and records. */
export function plainCd(root: bigint): CdFields {
  return { V: 1n, T0SZ: 16n, TG0: 0n, EPD1: 1n, IPS: 5n, AA64: 1n, A: 1n, R: 1n, ASID: 1n, TTB0: root >> 4n }
}

/** Stage 2 of an STE, 48 bits and 4 KiB, that records. */
export function plainStage2(root: bigint): SteFields {
  return { S2VMID: 1n, S2T0SZ: 16n, S2SL0: 2n, S2TG: 0n, S2PS: 5n, S2AA64: 1n, S2R: 1n, S2TTB: root >> 4n }
}
