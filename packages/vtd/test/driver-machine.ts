/** A machine for driver tests: memory, the model, its driver, and a look at what went over the queue. */
import { invalidationsDuring } from "@iommu/conformance"
import {
  ACCESS_READ,
  type CachePolicy,
  createMemory,
  type HardwareEvent,
  type Invalidation,
  type IommuDevice,
  iommuDevice,
  MemoryAccount,
  type Mmio,
  NO_PASID,
  PageAllocator,
  type PhysicalMemory,
  translateRequest,
} from "@iommu/core"
import {
  EVERYTHING,
  type VtdCapabilities,
  type VtdDriverOptions,
  type VtdModel,
  type VtdOps,
  vtdDriver,
  vtdModel,
} from "../src/index.ts"
import { CAP, ECAP, REGISTERS } from "../src/spec/registers.ts"

const MIB = 1n << 20n
/** The model's caches in driver tests: with a hoard, an invalidation that the driver forgot shows. */
const CACHES: CachePolicy = "hoard"
/** Pages that the driver may take; below them is memory for DMA. */
const TABLES = 32n * MIB

export interface TestMachine {
  readonly memory: PhysicalMemory
  readonly pages: PageAllocator
  readonly model: VtdModel
  readonly driver: VtdOps
  /** Pays for devices made by {@link device}. */
  readonly owner: MemoryAccount
  /** Fault records that the driver read. */
  readonly events: HardwareEvent[]
  /** A probed device. */
  device(id: number, options?: { pasidBits?: number; ats?: boolean }): IommuDevice
  /** Where an access lands, or null when it is refused. */
  dma(device: IommuDevice, iova: bigint, access?: number, pasid?: number): bigint | null
  /** The queue does not see its tail move at the n-th wait from now on, once. */
  loseDoorbell(n: number): void
  /** Runs something and gives the invalidations that the hardware saw, in order. */
  during(run: () => void): Invalidation[]
}

export function machine(
  capabilities: VtdCapabilities = EVERYTHING,
  options: VtdDriverOptions = {},
  caches: CachePolicy = CACHES,
): TestMachine {
  const memory = createMemory([{ base: 0n, size: 64n * MIB }])
  const pages = new PageAllocator(memory, { base: TABLES, size: TABLES })
  const model = vtdModel({ memory, capabilities, caches })
  let doorbells = Number.POSITIVE_INFINITY
  const mmio: Mmio = {
    read32: offset => model.mmio.read32(offset),
    read64: offset => model.mmio.read64(offset),
    write32: (offset, value) => {
      if (offset !== REGISTERS.IQT[0] || doorbells-- !== 0) model.mmio.write32(offset, value)
    },
    write64: (offset, value) => model.mmio.write64(offset, value),
  }
  const events: HardwareEvent[] = []
  const driver = vtdDriver({ mmio, memory, pages }, { onEvent: event => events.push(event), ...options })
  const owner = new MemoryAccount("owner")
  return {
    memory,
    pages,
    model,
    driver,
    owner,
    events,
    device: (id, given = {}) => {
      const device = iommuDevice({ id, account: owner, ...given })
      driver.probeDevice(device)
      return device
    },
    dma: (device, iova, access = ACCESS_READ, pasid = NO_PASID) => {
      const outcome = translateRequest(model, { device: device.id, pasid, iova, access })
      return outcome.ok ? outcome.pa : null
    },
    loseDoorbell: n => {
      doorbells = n
    },
    during: run => invalidationsDuring(model, run),
  }
}

/** Capabilities with some fields of {@link EVERYTHING} changed. */
export function capabilities(change: {
  cap?: Partial<ReturnType<typeof CAP.decode>>
  ecap?: Partial<ReturnType<typeof ECAP.decode>>
}): VtdCapabilities {
  const cap = { ...CAP.decode([EVERYTHING.cap]), ...change.cap }
  const ecap = { ...ECAP.decode([EVERYTHING.ecap]), ...change.ecap }
  return { ver: EVERYTHING.ver, cap: CAP.encode(cap)[0] as bigint, ecap: ECAP.encode(ecap)[0] as bigint }
}

/** Name and the fields worth comparing of each invalidation. */
export function summary(invalidations: readonly Invalidation[]): string[] {
  return invalidations.map(({ command, fields }) => {
    const { G, DID, PASID, SID, ADDR, AM, IH, S } = fields
    const parts = Object.entries({ G, DID, PASID, SID, ADDR, AM, IH, S })
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => `${name}=${(value as bigint).toString(16)}`)
    return [command, ...parts].join(" ")
  })
}
