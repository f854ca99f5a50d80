/** Machines to measure: models with a device that a driver put on a domain. Drivers and guests of `vmm-sim run nested`. */
import { amdModel } from "@iommu/amd"
import {
  type CachePolicies,
  type CachePolicy,
  createMemory,
  hi32,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  type IommuModel,
  type IommuOps,
  iommuDevice,
  lo32,
  MemoryAccount,
  type MemoryRange,
  type MemoryWindow,
  PageAllocator,
  type PagingDomain,
  type PhysicalMemory,
} from "@iommu/core"
import {
  HWPT_ALLOC_NEST_PARENT,
  MachineMemory,
  openIommufd,
  Process,
  UserMemory,
  VfioDeviceFile,
} from "@iommu/iommufd"
import { smmuv3Model } from "@iommu/smmuv3"
import { EVERYTHING, registers, vtdModel } from "@iommu/vtd"
import { TypedCalls } from "../../../apps/vmm-sim/src/nested/kernel/typed-calls.ts"
import type { NestedVendor } from "../../../apps/vmm-sim/src/nested/vendor.ts"
import { NESTED_VENDORS } from "../../../apps/vmm-sim/src/nested/vendors.ts"
import { VirtualIommu } from "../../../apps/vmm-sim/src/nested/viommu.ts"

/** Pages that a device can reach in both kinds of machines, from {@link IOVA_HI}, {@link IOVA_LO} on. */
export const MAPPED_PAGES = 4096
const RW = IOMMU_READ | IOMMU_WRITE
const PAGE = 4096n
const IOVA = 0x1000_0000n
export const IOVA_HI: number = hi32(IOVA)
export const IOVA_LO: number = lo32(IOVA)
const TABLES = { base: 0x1_0000_0000n, size: 64n << 20n }
const GUEST_PAGES = 8192n
/** The guest's number of its device. */
const GUEST_DEVICE = 0x0028
/** Where a VMM has the guest's RAM. */
const RAM_VA = 0x7f80_0000_0000n
/** Nobody listens to what the hardware reports. */
const UNHEARD = {}

type Caches = CachePolicy | CachePolicies

/** What configures a device is cached, no translation and no table is. */
export const NO_IOTLB: CachePolicies = { structures: "exact", walks: "none", translations: "none" }

/** What there is to measure of a vendor. */
export interface BenchVendor {
  /** As on command lines: `vtd`. */
  readonly key: string
  readonly nested: NestedVendor
  model(memory: PhysicalMemory, caches: Caches): IommuModel
}

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

const MODELS: Readonly<Record<string, BenchVendor["model"]>> = {
  vtd: (memory, caches) => vtdModel({ memory, caches, capabilities: FOUR_LEVELS }),
  smmuv3: (memory, caches) => smmuv3Model({ memory, caches }),
  amd: (memory, caches) => amdModel({ memory, caches }),
}

export const BENCH_VENDORS: readonly BenchVendor[] = Object.entries(NESTED_VENDORS).map(([key, nested]) => {
  const model = MODELS[key]
  if (model === undefined) throw new Error(`no model to measure for ${key}`)
  return { key, nested, model }
})

/** A model with a device that its driver put on a domain, or its guest. */
export interface Machine {
  readonly model: IommuModel
  readonly device: number
}

/** With what software of the machine works with. */
export interface OpenMachine extends Machine {
  readonly memory: PhysicalMemory
  readonly pages: PageAllocator
  readonly domain: PagingDomain
}

/** A driver that makes domains, for what is measured of them. */
export function driverOf({ nested: vendor }: BenchVendor, range: MemoryRange): IommuOps {
  const memory = createMemory([range])
  const { mmio } = vendor.hostModel(memory, "exact")
  return vendor.hostDriver({ mmio, memory, pages: new PageAllocator(memory, range) }, UNHEARD)
}

/** A device of the host, probed and not on any domain yet. */
function withDriver(vendor: BenchVendor, caches: Caches) {
  const memory = createMemory([TABLES])
  const model = vendor.model(memory, caches)
  const pages = new PageAllocator(memory, TABLES)
  const ops = vendor.nested.hostDriver({ mmio: model.mmio, memory, pages }, UNHEARD)
  const device = iommuDevice({ id: 0x0010, account: new MemoryAccount("bench") })
  ops.probeDevice(device)
  return { memory, model, pages, ops, device }
}

/** A domain of the driver's default format, 4 KiB leaves. */
export function singleStage(vendor: BenchVendor, caches: Caches): OpenMachine {
  const { memory, model, pages, ops, device } = withDriver(vendor, caches)
  const domain = ops.domainAllocUser?.(device, null, null)
  if (domain === undefined) throw new Error(`${vendor.nested.name} makes no user-owned domains`)
  for (let n = 0n; n < MAPPED_PAGES; n++) domain.map(IOVA + n * PAGE, (n * 7919n) << 13n, PAGE, RW)
  domain.attachDev(device)
  return { model, device: device.id, memory, pages, domain }
}

/** A device whose requests pass untranslated: what a transaction costs beside its walk. */
export function passedThrough(vendor: BenchVendor, caches: Caches): Machine {
  const { model, device, ops } = withDriver(vendor, caches)
  if (ops.identityDomain === undefined) throw new Error(`${vendor.nested.name} passes no requests through`)
  ops.identityDomain.attachDev(device)
  return { model, device: device.id }
}

/**
 * Stage 1 of the guest over stage 2 of the host, all of 4 KiB leaves, also below the guest's tables. Host and guest
 * share one piece of RAM, whose pages the guest has in another order.
 */
export function nested(bench: BenchVendor, caches: Caches): Machine {
  const vendor = bench.nested
  const memory = createMemory([{ base: TABLES.base, size: TABLES.size + GUEST_PAGES * PAGE }])
  const model = bench.model(memory, caches)
  const pages = new PageAllocator(memory, TABLES)
  const ops = vendor.hostDriver({ mmio: model.mmio, memory, pages }, UNHEARD)
  const device = iommuDevice({ id: 0x0010, virtualId: GUEST_DEVICE, account: new MemoryAccount("bench") })
  ops.probeDevice(device)
  const windows = Array.from({ length: Number(GUEST_PAGES) }, (_, n) => ({
    base: BigInt(n) * PAGE,
    size: PAGE,
    at: TABLES.base + TABLES.size + ((BigInt(n) * 211n + 7n) % GUEST_PAGES) * PAGE,
  }))
  const guestMemory = memory.view(windows)
  bootGuest(vendor, startVmm(vendor, ops, device, memory, windows, guestMemory), guestMemory)
  return { model, device: device.id }
}

/** A piece of guest memory, and where it lies in the host. */
interface Window extends MemoryWindow {
  readonly base: bigint
  readonly size: bigint
  readonly at: bigint
}

/** A VMM that gives its guest all of the windows and the device. */
function startVmm(
  vendor: NestedVendor,
  ops: IommuOps,
  device: IommuDevice,
  memory: PhysicalMemory,
  windows: readonly Window[],
  guestMemory: PhysicalMemory,
): VirtualIommu {
  const userMemory = new UserMemory(new MachineMemory(memory))
  for (const { base, size, at } of windows) userMemory.map(RAM_VA + base, at, size)
  const user = { name: "user", lockedPages: 0 }
  const process = new Process({ name: "vmm", user, account: new MemoryAccount("vmm"), memory: userMemory })
  const calls = new TypedCalls(openIommufd(process))
  const fd = process.files.install(new VfioDeviceFile({ ops, device }))
  const id = calls.bind(fd)
  const ioas = calls.ioasAlloc()
  const flags = HWPT_ALLOC_NEST_PARENT
  const parent = calls.hwptAlloc({ deviceId: id, parentId: ioas, flags, data: null })
  for (const { base, size } of windows) calls.ioasMap(ioas, RAM_VA + base, base, size)
  const passed = { fd, id, virtualId: GUEST_DEVICE }
  const viommu = new VirtualIommu(vendor, calls, parent, guestMemory, passed)
  viommu.plug(passed)
  return viommu
}

/** A guest kernel that maps its lowest pages for the device. */
function bootGuest(vendor: NestedVendor, viommu: VirtualIommu, memory: PhysicalMemory): void {
  const pages = new PageAllocator(memory, {
    base: PAGE * BigInt(MAPPED_PAGES),
    size: PAGE * (GUEST_PAGES - BigInt(MAPPED_PAGES)),
  })
  const ops = vendor.guestDriver({ mmio: viommu.front.mmio, memory, pages }, UNHEARD)
  const device = iommuDevice({ id: GUEST_DEVICE, account: new MemoryAccount("guest") })
  ops.probeDevice(device)
  const domain = ops.domainAllocUser?.(device, null, vendor.guestPaging)
  if (domain === undefined) throw new Error(`${vendor.name} makes no user-owned domains`)
  domain.attachDev(device)
  for (let n = 0n; n < MAPPED_PAGES; n++) domain.map(IOVA + n * PAGE, n * PAGE, PAGE, RW)
}
