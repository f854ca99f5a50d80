import {
  type CachePolicy,
  type HardwareEvent,
  type IommuDevice,
  type IommuModel,
  type IommuOps,
  iommuDevice,
  iommuDomainFree,
  MemoryAccount,
  PageAllocator,
  type PagingDomain,
  type PhysicalMemory,
} from "@iommu/core"
import { MachineMemory, openIommufd, Process, UserMemory, VfioDeviceFile } from "@iommu/iommufd"
import { Endpoint, type TracedWalk } from "./endpoint.ts"
import { ARGUMENT_PAGES, guestMemory, HOST_TABLES, hostMemory, mapVmmMemory } from "./guest-ram.ts"
import { AbiCalls } from "./kernel/abi-calls.ts"
import { TypedCalls } from "./kernel/typed-calls.ts"
import type { NestedVendor } from "./vendor.ts"
import { Vmm } from "./vmm.ts"

/** Where the guest's driver puts its tables: guest RAM that the host maps in 4 KiB pages. */
const GUEST_TABLES = { base: 0x10_0000n, size: 0x10_0000n }
/** The guest numbers its devices differently from the host. */
const DEVICES = [
  { name: "nvme", id: 0x0010, virtualId: 0x0028 },
  { name: "nic", id: 0x0108, virtualId: 0x0030 },
] as const

/** What the host's IOMMU sends when there is something to read. */
const HOST_INTERRUPT = { address: 0xfee0_1000n, data: 0x51 }

/** How the VMM reaches the kernel: methods with values, or ioctls with bytes. */
export type Face = "typed" | "abi"

export interface MachineOptions {
  /** What the host's hardware keeps. */
  readonly caches: CachePolicy
  readonly face: Face
  /** Sees every translation of the two devices, step by step. */
  readonly watch: ((walk: TracedWalk) => void) | null
}

/** A host with its IOMMU, driver and iommufd, and a VMM with a guest that has two of the host's devices. */
export interface NestedMachine {
  readonly vendor: NestedVendor
  readonly memory: PhysicalMemory
  readonly guestMemory: PhysicalMemory
  readonly vmm: Vmm
  /** Pays for all that the VMM makes the kernel keep. */
  readonly owner: MemoryAccount
  readonly endpoints: readonly Endpoint[]
  readonly guest: GuestKernel
  /** Records of the hardware that stayed with the host's kernel. */
  readonly hostEvents: readonly HardwareEvent[]
  /** The interrupts of the host's IOMMU, and of the guest's when the VMM has something for it. */
  deliverInterrupts(): void
  /** Pages of the host that its driver holds, beyond what it held before the VMM came. */
  pagesHeld(): number
  /** Pages of the VMM's memory that devices may still write to. */
  pagesPinned(): number
  /** Ends the guest and its VMM; afterwards the owner is charged for nothing. */
  tearDown(): void
}

/** The guest's side: its driver, its devices as it numbers them, its domain. */
interface GuestKernel {
  readonly ops: IommuOps
  readonly devices: readonly IommuDevice[]
  readonly domain: PagingDomain
  readonly pages: PageAllocator
  readonly account: MemoryAccount
  /** What the guest's driver found in the guest's log. */
  readonly events: HardwareEvent[]
}

export function nestedMachine(vendor: NestedVendor, { caches, face, watch }: MachineOptions): NestedMachine {
  const memory = hostMemory()
  const model = vendor.hostModel(memory, caches)
  const pages = new PageAllocator(memory, HOST_TABLES)
  const hostEvents: HardwareEvent[] = []
  const onEvent = (event: HardwareEvent): void => void hostEvents.push(event)
  let isSignalled = false
  model.onInterrupt = () => {
    isSignalled = true
  }
  const ops = vendor.hostDriver({ mmio: model.mmio, memory, pages }, { onEvent, interrupt: HOST_INTERRUPT })
  const host = new MemoryAccount("host")
  const devices = DEVICES.map(options => iommuDevice({ ...options, account: host }))
  for (const device of devices) ops.probeDevice(device)
  const pagesBefore = pages.pagesInUse

  const process = vmmProcess(memory)
  const guestView = guestMemory(memory)
  const vmm = startVmm(vendor, face, process, ops, devices, guestView)
  const guest = bootGuest(vendor, vmm.viommu.front, guestView)

  return {
    vendor,
    memory,
    guestMemory: guestView,
    vmm,
    owner: process.account,
    guest,
    hostEvents,
    endpoints: devices.map(device => new Endpoint(device, model, memory, watch)),
    deliverInterrupts: () => {
      if (!isSignalled) return
      isSignalled = false
      ops.handleInterrupts?.()
      vmm.viommu.passEventsOn()
      guest.ops.handleInterrupts?.()
    },
    pagesHeld: () => pages.pagesInUse - pagesBefore,
    pagesPinned: () => process.pinnedPages,
    tearDown: () => {
      for (const device of guest.devices) guest.domain.detachDev(device)
      iommuDomainFree(guest.domain)
      vmm.shutDown()
    },
  }
}

function vmmProcess(memory: PhysicalMemory): Process {
  const userMemory = new UserMemory(new MachineMemory(memory))
  mapVmmMemory(userMemory)
  return new Process({
    name: "vmm",
    user: { name: "user", lockedPages: 0 },
    account: new MemoryAccount("virtual machine"),
    memory: userMemory,
  })
}

function startVmm(
  vendor: NestedVendor,
  face: Face,
  process: Process,
  ops: IommuOps,
  devices: readonly IommuDevice[],
  guestView: PhysicalMemory,
): Vmm {
  const iommufd = openIommufd(process)
  const calls = face === "abi" ? new AbiCalls(iommufd, ARGUMENT_PAGES) : new TypedCalls(iommufd)
  const opened = devices.map(device => ({
    fd: process.files.install(new VfioDeviceFile({ ops, device })),
    virtualId: device.virtualId,
  }))
  return new Vmm(vendor, calls, iommufd.fd, opened, guestView)
}

/** The guest finds its IOMMU, and puts both devices on one domain with stage-1 tables in its own memory. */
function bootGuest(vendor: NestedVendor, front: IommuModel, memory: PhysicalMemory): GuestKernel {
  const pages = new PageAllocator(memory, GUEST_TABLES)
  const events: HardwareEvent[] = []
  const onEvent = (event: HardwareEvent): void => void events.push(event)
  const ops = vendor.guestDriver({ mmio: front.mmio, memory, pages }, { onEvent })
  const account = new MemoryAccount("guest kernel")
  const devices = DEVICES.map(({ name, virtualId }) =>
    iommuDevice({ name: `guest ${name}`, id: virtualId, account }),
  )
  for (const device of devices) ops.probeDevice(device)
  if (ops.domainAllocUser === undefined) throw new Error(`${ops.name} makes no user-owned domains`)
  const domain = ops.domainAllocUser(devices[0] as IommuDevice, null, vendor.guestPaging)
  for (const device of devices) domain.attachDev(device)
  return { ops, devices, domain, pages, account, events }
}
