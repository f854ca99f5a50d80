/** One SMMU: how it is brought up, and what all its domains share. Arm IHI 0070 G.b §3.11 (reset and enable), §6.3. */
import {
  type DriverEventOptions,
  type FirmwareRegion,
  type IdPool,
  type InterruptMessage,
  IommuError,
  type IommuPlatform,
  MemoryAccount,
  type Mmio,
  PAGE_SHIFT,
  type PageAllocator,
  type PhysicalMemory,
} from "@iommu/core"
import * as cmd from "../spec/commands.ts"
import { EVENT_BYTES, PPR_BYTES } from "../spec/events.ts"
import * as reg from "../spec/registers.ts"
import { DeviceTable } from "./device-table.ts"
import { type Features, readFeatures } from "./features.ts"
import { tags } from "./ids.ts"
import { CommandQueue, RecordQueue } from "./queue.ts"

/** Naturally aligned pages, as the allocator gives and takes them, and who pays for them. */
export interface PageRun {
  readonly address: number
  readonly pagesLg2: number
  readonly account: MemoryAccount
}

export interface SmmuV3DriverOptions extends DriverEventOptions {
  /** log2 of the commands that the Command queue holds: 8, one page, by default; at most IDR1.CMDQS. */
  readonly commandQueueLg2?: number
  /** log2 of the records that the Event queue holds: 7, one page, by default; at most IDR1.EVENTQS. */
  readonly eventQueueLg2?: number
  /** log2 of the requests that the PRI queue holds: 8, one page, by default; at most IDR1.PRIQS. */
  readonly pageRequestQueueLg2?: number
  /** Reads of a register without the awaited change after which the hardware counts as hung: 100,000 by default. */
  readonly pollLimit?: number
  /**
   * Memory accesses of the devices are coherent whatever attributes a guest chooses (IORT's CANWBS), true by
   * default. Nesting needs it.
   */
  readonly canwbs?: boolean
  /** What the firmware's tables reserve: RMR nodes of the IORT. */
  readonly reservedRegions?: readonly FirmwareRegion[]
}

/** Tables and queues in inner shareable write-back memory, §6.3.11: the SH fields 3, the cacheability fields 1. */
const CR1_WRITE_BACK = (3 << 10) | (1 << 8) | (1 << 6) | (3 << 4) | (1 << 2) | 1
/** Memory type of an interrupt message: Device-nGnRE. §6.3.22. */
const DEVICE_NGNRE = 1
const COMMAND_QUEUE_LG2 = 8
const EVENT_QUEUE_LG2 = 7
const PAGE_REQUEST_QUEUE_LG2 = 8
const POLL_LIMIT = 100_000

export class Hardware {
  readonly mmio: Mmio
  readonly memory: PhysicalMemory
  readonly pages: PageAllocator
  /** Pays for what belongs to no owner: queues and the Stream table. */
  readonly account: MemoryAccount = new MemoryAccount("smmuv3 driver")
  readonly features: Features
  readonly canwbs: boolean
  readonly queue: CommandQueue
  readonly eventQueue: RecordQueue
  /** Where IDR0.PRI has it. */
  readonly pageRequestQueue: RecordQueue | null
  readonly deviceTable: DeviceTable
  readonly asids: IdPool
  readonly vmids: IdPool
  readonly #pollLimit: number

  /** @throws ENODEV for hardware that the driver cannot use, ENOMEM, ETIMEDOUT for hardware that hangs */
  constructor(platform: IommuPlatform, options: SmmuV3DriverOptions) {
    this.mmio = platform.mmio
    this.memory = platform.memory
    this.pages = platform.pages
    this.canwbs = options.canwbs ?? true
    this.#pollLimit = options.pollLimit ?? POLL_LIMIT
    this.features = readFeatures(this.mmio)
    this.asids = tags("ASID", this.features.asidBits)
    this.vmids = tags("VMID", this.features.vmidBits)
    const commandsLg2 = Math.min(options.commandQueueLg2 ?? COMMAND_QUEUE_LG2, this.features.CMDQS)
    const eventsLg2 = Math.min(options.eventQueueLg2 ?? EVENT_QUEUE_LG2, this.features.EVENTQS)
    const requestsLg2 = Math.min(options.pageRequestQueueLg2 ?? PAGE_REQUEST_QUEUE_LG2, this.features.PRIQS)
    const runs: PageRun[] = []
    try {
      const commands = this.allocRun(2 ** commandsLg2 * cmd.COMMAND_BYTES, this.account)
      runs.push(commands)
      const events = this.allocRun(2 ** eventsLg2 * EVENT_BYTES, this.account)
      runs.push(events)
      const requests = this.features.PRI ? this.allocRun(2 ** requestsLg2 * PPR_BYTES, this.account) : null
      if (requests !== null) runs.push(requests)
      this.queue = new CommandQueue({
        memory: this.memory,
        mmio: this.mmio,
        base: commands.address,
        sizeLg2: commandsLg2,
        pollLimit: this.#pollLimit,
      })
      this.eventQueue = this.#recordQueue("EVENTQ", events, eventsLg2, EVENT_BYTES)
      this.pageRequestQueue = requests && this.#recordQueue("PRIQ", requests, requestsLg2, PPR_BYTES)
      this.#disable()
      this.deviceTable = new DeviceTable(this)
      runs.push(this.deviceTable.run)
      this.#programTables(queueBase(commands.address, commandsLg2))
      if (options.interrupt !== undefined) this.#enableInterrupts(options.interrupt)
      this.#enable(queueBase(events.address, eventsLg2), requests && queueBase(requests.address, requestsLg2))
    } catch (error) {
      this.mmio.write32(reg.offsetOf("CR0"), 0)
      for (const run of runs) this.freeRun(run)
      throw error
    }
  }

  /**
   * Zeroed pages for a structure of so many bytes (a power of two).
   * @throws ENOMEM
   */
  allocRun(bytes: number, account: MemoryAccount): PageRun {
    const pagesLg2 = Math.max(0, Math.ceil(Math.log2(bytes)) - PAGE_SHIFT)
    return { address: this.pages.alloc(pagesLg2, account), pagesLg2, account }
  }

  freeRun({ address, pagesLg2, account }: PageRun): void {
    this.pages.free(address, pagesLg2, account)
  }

  /**
   * Acknowledges what went wrong with queues and interrupts, so that they go on; the Command queue sees to its own
   * errors. §6.3.19, §7.5.
   */
  acknowledgeErrors(): void {
    const acknowledged = this.mmio.read32(reg.offsetOf("GERRORN"))
    const active = (this.mmio.read32(reg.offsetOf("GERROR")) ^ acknowledged) & ~reg.GERROR_CMDQ_ERR
    if (active !== 0) this.mmio.write32(reg.offsetOf("GERRORN"), (acknowledged ^ active) >>> 0)
  }

  #recordQueue(name: "EVENTQ" | "PRIQ", run: PageRun, sizeLg2: number, recordBytes: number): RecordQueue {
    const { memory, mmio } = this
    const registers = { prod: reg.offsetOf(`${name}_PROD`), cons: reg.offsetOf(`${name}_CONS`) }
    return new RecordQueue({ memory, mmio, base: run.address, sizeLg2, recordBytes, ...registers })
  }

  /** ATS is off where faults must stall: STE.EATS and S2S exclude each other, §5.2. */
  get translatesForAtcs(): boolean {
    return this.features.ATS && this.features.STALL_MODEL !== 2
  }

  /** Stops whatever an earlier owner left running; until the end of bring-up its devices' DMA aborts. */
  #disable(): void {
    if ((this.mmio.read32(reg.offsetOf("CR0")) & reg.CR0_SMMUEN) !== 0) this.#abortWhileDisabled()
    this.#setCr0(0)
    this.mmio.write32(reg.offsetOf("IRQ_CTRL"), 0)
    this.#waitFor("IRQ_CTRLACK", 0xffff_ffff, 0)
    this.mmio.write32(reg.offsetOf("GERRORN"), this.mmio.read32(reg.offsetOf("GERROR")))
  }

  /** The handshake of §6.3.14: Update reads as 1 until the write is in effect. */
  #abortWhileDisabled(): void {
    this.#waitFor("GBPA", reg.GBPA_UPDATE, 0)
    const value = this.mmio.read32(reg.offsetOf("GBPA"))
    this.mmio.write32(reg.offsetOf("GBPA"), (value | reg.GBPA_ABORT | reg.GBPA_UPDATE) >>> 0)
    this.#waitFor("GBPA", reg.GBPA_UPDATE, 0)
  }

  #programTables(commandQueueBase: bigint): void {
    this.mmio.write32(reg.offsetOf("CR1"), CR1_WRITE_BACK)
    this.mmio.write32(reg.offsetOf("CR2"), reg.CR2_PTM | reg.CR2_RECINVSID)
    this.mmio.write64(reg.offsetOf("STRTAB_BASE"), this.deviceTable.baseRegister)
    this.mmio.write32(reg.offsetOf("STRTAB_BASE_CFG"), this.deviceTable.configRegister)
    this.mmio.write64(reg.offsetOf("CMDQ_BASE"), commandQueueBase)
    this.mmio.write32(reg.offsetOf("CMDQ_PROD"), 0)
    this.mmio.write32(reg.offsetOf("CMDQ_CONS"), 0)
  }

  /** Messages, or wires where there are none, §3.18; what they say is set while they are off, §6.3.16. */
  #enableInterrupts({ address, data }: InterruptMessage): void {
    const sources = this.features.PRI
      ? (["GERROR", "EVENTQ", "PRIQ"] as const)
      : (["GERROR", "EVENTQ"] as const)
    for (const source of this.features.MSI ? sources : []) {
      this.mmio.write64(reg.offsetOf(`${source}_IRQ_CFG0`), address)
      this.mmio.write32(reg.offsetOf(`${source}_IRQ_CFG1`), data)
      this.mmio.write32(reg.offsetOf(`${source}_IRQ_CFG2`), DEVICE_NGNRE)
    }
    const enables =
      reg.IRQ_CTRL_GERROR_IRQEN |
      reg.IRQ_CTRL_EVENTQ_IRQEN |
      (this.features.PRI ? reg.IRQ_CTRL_PRIQ_IRQEN : 0)
    this.mmio.write32(reg.offsetOf("IRQ_CTRL"), enables)
    this.#waitFor("IRQ_CTRLACK", 0xffff_ffff, enables)
  }

  /** Nothing cached survives, §3.11; then events and page requests, then translation. */
  #enable(eventQueueBase: bigint, pageRequestQueueBase: bigint | null): void {
    this.#setCr0(reg.CR0_CMDQEN)
    this.queue.push(cmd.CMD_CFGI_STE_RANGE, 0, cmd.CFGI_RANGE_ALL, 0)
    this.queue.sync()
    if (this.features.Hyp) this.queue.push(cmd.CMD_TLBI_EL2_ALL, 0, 0, 0)
    this.queue.push(cmd.CMD_TLBI_NSNH_ALL, 0, 0, 0)
    this.queue.sync()
    this.mmio.write64(reg.offsetOf("EVENTQ_BASE"), eventQueueBase)
    this.mmio.write32(reg.offsetOf("EVENTQ_PROD"), 0)
    this.mmio.write32(reg.offsetOf("EVENTQ_CONS"), 0)
    let queues = reg.CR0_CMDQEN | reg.CR0_EVENTQEN
    this.#setCr0(queues)
    if (pageRequestQueueBase !== null) {
      this.mmio.write64(reg.offsetOf("PRIQ_BASE"), pageRequestQueueBase)
      this.mmio.write32(reg.offsetOf("PRIQ_PROD"), 0)
      this.mmio.write32(reg.offsetOf("PRIQ_CONS"), 0)
      queues |= reg.CR0_PRIQEN
      this.#setCr0(queues)
    }
    const ats = this.features.ATS ? reg.CR0_ATSCHK : 0
    if (ats !== 0) this.#setCr0(queues | ats)
    this.#setCr0(queues | ats | reg.CR0_SMMUEN)
  }

  /** CR0ACK follows when the change is in effect, §6.3.9. */
  #setCr0(value: number): void {
    this.mmio.write32(reg.offsetOf("CR0"), value)
    this.#waitFor("CR0ACK", 0xffff_ffff, value)
  }

  #waitFor(register: reg.RegisterName, mask: number, value: number): void {
    const offset = reg.offsetOf(register)
    for (let polls = 0; polls <= this.#pollLimit; polls++) {
      if (((this.mmio.read32(offset) ^ value) & mask) === 0) return
    }
    throw new IommuError("ETIMEDOUT", `${register} does not become ${value} under mask ${mask}`)
  }
}

/** CMDQ_BASE, EVENTQ_BASE and PRIQ_BASE, §6.3.26. */
function queueBase(address: number, sizeLg2: number): bigint {
  return BigInt(address) | BigInt(sizeLg2) | reg.QUEUE_BASE_ALLOCATE
}
