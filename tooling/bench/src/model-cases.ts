/**
 * Transactions through the hardware models, configuration structures included: walked in full with nothing cached,
 * and answered from the IOTLB, and between. Drivers and guests are those of `vmm-sim run nested`.
 */

import { amdModel } from "@iommu/amd"
import {
  ACCESS_READ,
  type CachePolicies,
  type CachePolicy,
  createMemory,
  hi32,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuModel,
  type IommuOps,
  iommuDevice,
  lo32,
  MemoryAccount,
  type MemoryRange,
  NO_PASID,
  PAGING_NEST_PARENT,
  PageAllocator,
  type PhysicalMemory,
  pagingParameters,
} from "@iommu/core"
import { smmuv3Model } from "@iommu/smmuv3"
import { EVERYTHING, registers, vtdModel } from "@iommu/vtd"
import type { NestedVendor } from "../../../apps/vmm-sim/src/nested/vendor.ts"
import { NESTED_VENDORS } from "../../../apps/vmm-sim/src/nested/vendors.ts"
import { VirtualIommu } from "../../../apps/vmm-sim/src/nested/viommu.ts"
import type { BenchCase } from "./bench-case.ts"
import { walkYardstick } from "./yardsticks.ts"

const HOT_PAGES = 256
/** More than an IOTLB holds, in the order of their addresses: each look-up misses, and finds its tables cached. */
const MANY_PAGES = 4096
/** Operations of one measured call, at least. */
const CALLS = 1024
/** What configures a device is cached, no translation and no table is. */
const NO_IOTLB: CachePolicies = { structures: "exact", translations: "none" }
const RW = IOMMU_READ | IOMMU_WRITE
const PAGE = 4096n
const IOVA = 0x1000_0000n
const TABLES = { base: 0x1_0000_0000n, size: 64n << 20n }
const GUEST_PAGES = 8192n

type ModelOf = (memory: PhysicalMemory, caches: CachePolicy | CachePolicies) => IommuModel

/** The yardstick walks four levels; left alone, VT-d's driver would choose five where it can have them. */
const FOUR_LEVELS = {
  ...EVERYTHING,
  cap: registers.CAP.encode({
    ...registers.CAP.decode([EVERYTHING.cap]),
    SAGAW: 0b00110n,
    MGAW: 47n,
    FS5LP: 0n,
  })[0] as bigint,
}

const MODELS: Readonly<Record<string, ModelOf>> = {
  vtd: (memory, caches) => vtdModel({ memory, caches, capabilities: FOUR_LEVELS }),
  smmuv3: (memory, caches) => smmuv3Model({ memory, caches }),
  amd: (memory, caches) => amdModel({ memory, caches }),
}

export function modelBenchCases(): BenchCase[] {
  return Object.entries(NESTED_VENDORS).flatMap(([name, vendor]) => {
    const modelOf = MODELS[name]
    if (modelOf === undefined) throw new Error(`no model to measure for ${name}`)
    return [
      walkCase(vendor, "model, nothing cached", singleStage(vendor, modelOf, "none"), HOT_PAGES, null),
      walkCase(vendor, "model, no IOTLB", singleStage(vendor, modelOf, NO_IOTLB), HOT_PAGES, 4.6),
      walkCase(vendor, "model, IOTLB hit", singleStage(vendor, modelOf, "exact"), HOT_PAGES, 2.7),
      walkCase(vendor, "model, nested, no IOTLB", nested(vendor, modelOf, NO_IOTLB), HOT_PAGES, 16),
      walkCase(vendor, "model, nested, walk caches", nested(vendor, modelOf, "exact"), MANY_PAGES, 6.5),
      walkCase(vendor, "model, nested, IOTLB hit", nested(vendor, modelOf, "exact"), HOT_PAGES, 2.7),
    ]
  })
}

/** A model with a device that its driver put on a domain, or its guest. */
interface Machine {
  readonly model: IommuModel
  readonly device: number
}

/** A machine whose driver makes domains, for what is measured of them. */
export function driverMachines(): {
  readonly subject: string
  readonly make: (memory: MemoryRange) => IommuOps
}[] {
  return Object.values(NESTED_VENDORS).map(vendor => ({
    subject: vendor.name,
    make: range => {
      const memory = createMemory([range])
      const { mmio } = vendor.hostModel(memory, "exact")
      return vendor.hostDriver({ mmio, memory, pages: new PageAllocator(memory, range) })
    },
  }))
}

/** A domain of the driver's default format, 4 KiB leaves. */
function singleStage(vendor: NestedVendor, modelOf: ModelOf, caches: CachePolicy | CachePolicies): Machine {
  const memory = createMemory([TABLES])
  const model = modelOf(memory, caches)
  const ops = vendor.hostDriver({ mmio: model.mmio, memory, pages: new PageAllocator(memory, TABLES) })
  const device = iommuDevice({ id: 0x0010, account: new MemoryAccount("bench") })
  ops.probeDevice(device)
  const domain = ops.domainAllocUser?.(device, null, null)
  if (domain === undefined) throw new Error(`${vendor.name} makes no user-owned domains`)
  for (let n = 0n; n < HOT_PAGES; n++) domain.map(IOVA + n * 4096n, (n * 7919n) << 13n, 4096n, RW)
  domain.attachDev(device)
  return { model, device: device.id }
}

/**
 * Stage 1 of the guest over stage 2 of the host, all of 4 KiB leaves, also below the guest's tables. Host and guest
 * share one piece of RAM, whose pages the guest has in another order.
 */
function nested(vendor: NestedVendor, modelOf: ModelOf, caches: CachePolicy | CachePolicies): Machine {
  const memory = createMemory([{ base: TABLES.base, size: TABLES.size + GUEST_PAGES * PAGE }])
  const model = modelOf(memory, caches)
  const ops = vendor.hostDriver({ mmio: model.mmio, memory, pages: new PageAllocator(memory, TABLES) })
  const device = iommuDevice({ id: 0x0010, virtualId: 0x0028, account: new MemoryAccount("bench") })
  ops.probeDevice(device)
  const parent = ops.domainAllocUser?.(device, null, pagingParameters({ flags: PAGING_NEST_PARENT }))
  if (parent === undefined) throw new Error(`${vendor.name} makes no user-owned domains`)
  const windows = Array.from({ length: Number(GUEST_PAGES) }, (_, n) => ({
    base: BigInt(n) * PAGE,
    size: PAGE,
    at: TABLES.base + TABLES.size + ((BigInt(n) * 211n + 7n) % GUEST_PAGES) * PAGE,
  }))
  for (const { base, size, at } of windows) parent.map(base, at, size, RW)
  const guestMemory = memory.view(windows)
  const viommu = new VirtualIommu(vendor, ops, parent, guestMemory)
  viommu.plug(device)
  bootGuest(vendor, viommu, guestMemory)
  return { model, device: device.id }
}

/** A guest kernel that maps its lowest pages for the device. */
function bootGuest(vendor: NestedVendor, viommu: VirtualIommu, memory: PhysicalMemory): void {
  const pages = new PageAllocator(memory, {
    base: PAGE * BigInt(MANY_PAGES),
    size: PAGE * (GUEST_PAGES - BigInt(MANY_PAGES)),
  })
  const ops = vendor.guestDriver({ mmio: viommu.front.mmio, memory, pages })
  const device = iommuDevice({ id: 0x0028, account: new MemoryAccount("guest") })
  ops.probeDevice(device)
  const domain = ops.domainAllocUser?.(device, null, vendor.guestPaging)
  if (domain === undefined) throw new Error(`${vendor.name} makes no user-owned domains`)
  domain.attachDev(device)
  for (let n = 0n; n < MANY_PAGES; n++) domain.map(IOVA + n * PAGE, n * PAGE, PAGE, RW)
}

function walkCase(
  vendor: NestedVendor,
  operation: string,
  { model, device }: Machine,
  pages: number,
  limit: number | null,
): BenchCase {
  const calls = Math.max(pages, CALLS)
  const list = Int32Array.from({ length: calls }, (_, n) => n % pages)
  const firstHi = hi32(IOVA)
  const firstLo = lo32(IOVA)
  const walkAll = (): number => {
    let sum = 0
    for (let n = 0; n < calls; n++) {
      const status = model.translate(
        device,
        NO_PASID,
        firstHi,
        firstLo + ((list[n] as number) << 12),
        ACCESS_READ,
      )
      sum = (sum + status + model.result.paLo) | 0
    }
    return sum
  }
  for (const page of list) {
    const status = model.translate(device, NO_PASID, firstHi, firstLo + (page << 12), ACCESS_READ)
    if (status !== 0) throw new Error(`${vendor.name}: ${model.result.fault?.reason} at page ${page}`)
  }
  return {
    operation,
    subject: vendor.name,
    operations: calls,
    yardstick: walkYardstick(
      HOT_PAGES,
      list.map(page => page % HOT_PAGES),
    ),
    limit,
    run: walkAll,
  }
}
