/** A host with the model as its hardware and the driver on top. */
import { errnoOf, invalidationsDuring, statesDuring } from "@iommu/conformance"
import {
  ACCESS_READ,
  type CachePolicy,
  createMemory,
  type DomainUserData,
  type ErrnoCode,
  type HardwareEvent,
  type HwptPaging,
  type Invalidation,
  type IommuDevice,
  type IommuOps,
  iommuDevice,
  MemoryAccount,
  type Mmio,
  type NestedDomain,
  NO_PASID,
  PageAllocator,
  type PagingDomain,
  type PhysicalMemory,
  pagingParameters,
  translateRequest,
} from "@iommu/core"
import { SMMUV3_EVERYTHING, type SmmuV3IdRegisters, smmuv3Driver, smmuv3Model } from "@iommu/smmuv3"
import { expect } from "vitest"

const MEMORY_BYTES = 0x400_0000
/** Table pages come from here up; below is what guests and devices use. */
const PAGES_BASE = 0x200_0000

/** Capability registers of the model with some values of its fields changed. */
export function ids(changes: Partial<SmmuV3IdRegisters>): SmmuV3IdRegisters {
  return { ...SMMUV3_EVERYTHING, ...changes }
}

export class Host {
  readonly memory: PhysicalMemory = createMemory([{ base: 0, size: MEMORY_BYTES }])
  readonly pages: PageAllocator
  readonly model: ReturnType<typeof smmuv3Model>
  readonly mmio: Mmio
  readonly ops: IommuOps
  readonly account: MemoryAccount = new MemoryAccount("owner")
  /** Records that no guest and no handler took. */
  readonly events: HardwareEvent[] = []
  /** While true, writes of CMDQ_PROD do not arrive: the SMMU hangs. */
  hung = false

  /** A hoard shows each invalidation that the driver leaves out. */
  constructor(id: Partial<SmmuV3IdRegisters> = {}, caches: CachePolicy = "hoard") {
    this.pages = new PageAllocator(this.memory, { base: PAGES_BASE, size: MEMORY_BYTES - PAGES_BASE })
    this.model = smmuv3Model({ memory: this.memory, id, caches })
    const { mmio } = this.model
    this.mmio = {
      read32: offset => mmio.read32(offset),
      read64: offset => mmio.read64(offset),
      write32: (offset, value) => {
        if (!(this.hung && offset === 0x98)) mmio.write32(offset, value)
      },
      write64: (offset, value) => mmio.write64(offset, value),
    }
    const { memory, pages } = this
    this.ops = smmuv3Driver(
      { memory, mmio: this.mmio, pages },
      { pollLimit: 100, onEvent: event => this.events.push(event) },
    )
  }

  device(
    id: number,
    more: { pasidBits?: number; ats?: boolean; virtualId?: number; account?: MemoryAccount } = {},
  ): IommuDevice {
    const device = iommuDevice({ id, account: this.account, ...more })
    this.ops.probeDevice(device)
    return device
  }

  alloc(device: IommuDevice, data: DomainUserData | null = null): PagingDomain {
    if (this.ops.domainAllocUser === undefined) throw new Error("no domainAllocUser")
    return this.ops.domainAllocUser(device, null, data)
  }

  paging(device: IommuDevice, given: Partial<HwptPaging> = {}): PagingDomain {
    return this.alloc(device, pagingParameters(given))
  }

  nested(device: IommuDevice, parent: PagingDomain, word0: bigint, word1: bigint): NestedDomain {
    if (this.ops.domainAllocUser === undefined) throw new Error("no domainAllocUser")
    return this.ops.domainAllocUser(device, parent, { type: 2, ste: [word0, word1] })
  }

  /** Where an access lands, null when it is refused. */
  dma(device: IommuDevice, iova: bigint, access = ACCESS_READ, pasid: number = NO_PASID): bigint | null {
    const outcome = translateRequest(this.model, { device: device.id, iova, pasid, access })
    return outcome.ok ? outcome.pa : null
  }

  /** The book's name of the event that an access leaves. */
  fault(device: IommuDevice, iova: bigint, access = ACCESS_READ, pasid: number = NO_PASID): string | null {
    const outcome = translateRequest(this.model, { device: device.id, iova, pasid, access })
    return outcome.ok ? null : outcome.fault.reason
  }

  /** Physical address of a StreamID's STE in a 2-level Stream table with SPLIT 8, or null without level 2. */
  steAt(streamId: number): bigint | null {
    const base = this.model.mmio.read64(0x80) & 0x00ff_ffff_ffff_ffc0n
    const level1 = this.memory.read64(base + BigInt(streamId >> 8) * 8n)
    const level2 = level1 & 0x00ff_ffff_ffff_ffc0n
    return (level1 & 0x1fn) === 0n ? null : level2 + BigInt(streamId & 0xff) * 64n
  }

  /** The STE's eight words. */
  ste(device: IommuDevice): bigint[] {
    const at = this.steAt(device.id)
    if (at === null) throw new Error("no STE")
    return Array.from({ length: 8 }, (_, i) => this.memory.read64(at + BigInt(i * 8)))
  }

  /** The CD of a SubstreamID in a linear table. */
  cd(device: IommuDevice, ssid = 0): bigint[] {
    const at = ((this.ste(device)[0] as bigint) & 0x00ff_ffff_ffff_ffc0n) + BigInt(ssid * 64)
    return Array.from({ length: 8 }, (_, i) => this.memory.read64(at + BigInt(i * 8)))
  }

  /** Commands other than CMD_SYNC that a call makes the hardware carry out. */
  commands(call: () => void): Invalidation[] {
    return invalidationsDuring(this.model, call).filter(({ command }) => command !== "CMD_SYNC")
  }

  /** The same, as names. */
  commandNames(call: () => void): string[] {
    return this.commands(call).map(({ command }) => command)
  }

  /** What happens to `words` words at an address while a call runs: a value for each 64-bit store into it. */
  states(at: bigint, words: number, call: () => void): bigint[][] {
    return statesDuring(this.memory, at, words, call)
  }
}

export function expectErrno(code: ErrnoCode, call: () => unknown): void {
  expect(errnoOf(call)).toBe(code)
}
