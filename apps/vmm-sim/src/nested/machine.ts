import {
  type CachePolicy,
  type IommuDevice,
  type IommuModel,
  type IommuOps,
  iommuDevice,
  iommuDomainFree,
  MemoryAccount,
  PAGING_NEST_PARENT,
  PageAllocator,
  type PagingDomain,
  type PhysicalMemory,
  pagingParameters,
} from "@iommu/core"
import { Endpoint, type TracedWalk } from "./endpoint.ts"
import { guestMemory, HOST_TABLES, hostMemory, mapGuestRam } from "./guest-ram.ts"
import type { NestedVendor } from "./vendor.ts"
import { VirtualIommu } from "./viommu.ts"

/** Where the guest's driver puts its tables: guest RAM that the host maps in 4 KiB pages. */
const GUEST_TABLES = { base: 0x10_0000n, size: 0x10_0000n }
/** The guest numbers its devices differently from the host. */
const DEVICES = [
  { name: "nvme", id: 0x0010, virtualId: 0x0028 },
  { name: "nic", id: 0x0108, virtualId: 0x0030 },
] as const

/** A host with its IOMMU and driver, and a guest with a virtual one, sharing two devices. */
export interface NestedMachine {
  readonly vendor: NestedVendor
  readonly memory: PhysicalMemory
  readonly guestMemory: PhysicalMemory
  readonly model: IommuModel
  readonly parent: PagingDomain
  readonly viommu: VirtualIommu
  /** Pays for all that the virtual machine's domains cost the host. */
  readonly owner: MemoryAccount
  readonly endpoints: readonly Endpoint[]
  readonly guest: GuestKernel
  /** Pages of the host that its driver holds, beyond what it held before the virtual machine came. */
  pagesHeld(): number
  /** Ends the virtual machine; afterwards the owner is charged for nothing. */
  tearDown(): void
}

/** The guest's side: its driver, its devices as it numbers them, its domain. */
interface GuestKernel {
  readonly ops: IommuOps
  readonly devices: readonly IommuDevice[]
  readonly domain: PagingDomain
  readonly pages: PageAllocator
  readonly account: MemoryAccount
}

/**
 * @param caches what the host's hardware keeps
 * @param watch sees every translation of the two devices, step by step
 */
export function nestedMachine(
  vendor: NestedVendor,
  caches: CachePolicy,
  watch: ((walk: TracedWalk) => void) | null,
): NestedMachine {
  const memory = hostMemory()
  const model = vendor.hostModel(memory, caches)
  const pages = new PageAllocator(memory, HOST_TABLES)
  const ops = vendor.hostDriver({ mmio: model.mmio, memory, pages })
  const owner = new MemoryAccount("virtual machine")
  const devices = DEVICES.map(options => iommuDevice({ ...options, account: owner }))
  for (const device of devices) ops.probeDevice(device)
  const pagesBefore = pages.pagesInUse

  const parent = nestParent(ops, devices[0] as IommuDevice)
  mapGuestRam(parent)
  const guestView = guestMemory(memory)
  const viommu = new VirtualIommu(vendor, ops, parent, guestView)
  for (const device of devices) viommu.plug(device)
  const guest = bootGuest(vendor, viommu.front, guestView)

  return {
    vendor,
    memory,
    guestMemory: guestView,
    model,
    parent,
    viommu,
    owner,
    guest,
    endpoints: devices.map(device => new Endpoint(device, model, memory, watch)),
    pagesHeld: () => pages.pagesInUse - pagesBefore,
    tearDown: () => {
      for (const device of guest.devices) guest.domain.detachDev(device)
      iommuDomainFree(guest.domain)
      viommu.unplugAll()
      iommuDomainFree(parent)
    },
  }
}

function nestParent(ops: IommuOps, device: IommuDevice): PagingDomain {
  if (ops.domainAllocUser === undefined) throw new Error(`${ops.name} makes no user-owned domains`)
  return ops.domainAllocUser(device, null, pagingParameters({ flags: PAGING_NEST_PARENT }))
}

/** The guest finds its IOMMU, and puts both devices on one domain with stage-1 tables in its own memory. */
function bootGuest(vendor: NestedVendor, front: IommuModel, memory: PhysicalMemory): GuestKernel {
  const pages = new PageAllocator(memory, GUEST_TABLES)
  const ops = vendor.guestDriver({ mmio: front.mmio, memory, pages })
  const account = new MemoryAccount("guest kernel")
  const devices = DEVICES.map(({ name, virtualId }) =>
    iommuDevice({ name: `guest ${name}`, id: virtualId, account }),
  )
  for (const device of devices) ops.probeDevice(device)
  if (ops.domainAllocUser === undefined) throw new Error(`${ops.name} makes no user-owned domains`)
  const domain = ops.domainAllocUser(devices[0] as IommuDevice, null, vendor.guestPaging)
  for (const device of devices) domain.attachDev(device)
  return { ops, devices, domain, pages, account }
}
