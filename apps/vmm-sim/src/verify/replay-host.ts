/** The machine on which `ops.txt` is replayed: hardware that can do what the dumped one could, and its driver. */
import {
  createMemory,
  type IommuDevice,
  IommuError,
  type IommuModel,
  type IommuOps,
  iommuDevice,
  MemoryAccount,
  PageAllocator,
  PageTableFormatId,
  type PagingDomain,
  type PhysicalMemory,
  pagingParameters,
} from "@iommu/core"
import type { Capture } from "../capture/load.ts"
import type { TableCall } from "../capture/ops-file.ts"
import { readLeaves } from "./leaves.ts"
import type { Machine } from "./machine.ts"
import { VENDOR_PARTS } from "./vendors.ts"

/** Nothing but the driver's tables and queues lies in this memory. */
const RAM = { base: 0x1_0000_0000n, size: 0x1000_0000n }
/** On whose behalf a domain is made that no device of the dump is on any more. */
const NOBODY = 0

export class ReplayHost {
  readonly model: IommuModel
  readonly memory: PhysicalMemory
  /** Devices that the replayed domains are attached to. */
  readonly attachedDevices: number[] = []
  readonly #pages: PageAllocator
  readonly #ops: IommuOps
  readonly #capture: Capture
  readonly #dump: Machine
  readonly #account = new MemoryAccount("replay")
  readonly #granuleLg2: number
  readonly #devices = new Map<number, IommuDevice>()
  readonly #domains = new Map<string, PagingDomain>()

  /** @throws IommuError when the driver cannot use the dumped hardware */
  constructor(capture: Capture, dump: Machine) {
    this.#capture = capture
    this.#dump = dump
    const { model, driver, capabilities } = VENDOR_PARTS[capture.vendor]
    this.memory = createMemory([RAM])
    this.model = model(this.memory)
    this.model.restoreRegisters(
      Object.fromEntries(Object.entries(capture.registers).filter(([name]) => capabilities.test(name))),
    )
    this.#pages = new PageAllocator(this.memory, RAM)
    this.#ops = driver({ memory: this.memory, mmio: this.model.mmio, pages: this.#pages })
    this.#granuleLg2 = smallestPageLg2(capture.ops ?? [])
  }

  /** 4 KiB pages of the driver's tables and queues. */
  get pagesInUse(): number {
    return this.#pages.pagesInUse
  }

  /**
   * The domain of a name in `ops.txt`, made and attached when it is named first.
   * @throws IommuError when the driver refuses it
   */
  domain(name: string): PagingDomain {
    const known = this.#domains.get(name)
    if (known !== undefined) return known
    const ids = this.#capture.traceDomains?.[name] ?? []
    const domain = this.#alloc(ids[0] ?? NOBODY)
    this.#domains.set(name, domain)
    for (const id of ids) {
      domain.attachDev(this.#device(id))
      this.attachedDevices.push(id)
    }
    return domain
  }

  /** In the format that the dump has for the device, with the granule of the calls. */
  #alloc(id: number): PagingDomain {
    if (this.#ops.domainAllocUser === undefined) {
      throw new IommuError("EOPNOTSUPP", `${this.#ops.name} makes no domains for userspace`)
    }
    const { stage } = readLeaves(this.#dump, id, this.#capture.pages.length)
    const format = stage === 0 ? PageTableFormatId.DEFAULT : VENDOR_PARTS[this.#capture.vendor].formats[stage]
    const parameters = pagingParameters({ format, granuleLg2: this.#granuleLg2 })
    const domain = this.#ops.domainAllocUser(this.#device(id), null, parameters)
    if (domain.type !== "paging") throw new IommuError("EINVAL", `${this.#ops.name} made no paging domain`)
    return domain
  }

  #device(id: number): IommuDevice {
    const known = this.#devices.get(id)
    if (known !== undefined) return known
    const device = iommuDevice({ id, account: this.#account })
    this.#ops.probeDevice(device)
    this.#devices.set(id, device)
    return device
  }
}

/** A kernel maps with its own page size somewhere: the smallest page of all calls is the granule. */
function smallestPageLg2(calls: readonly TableCall[]): number {
  let smallest = 1n << 16n
  for (const { pageSize } of calls) if (pageSize < smallest) smallest = pageSize
  return smallest.toString(2).length - 1
}
