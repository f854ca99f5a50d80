/**
 * One AMD-Vi unit: its bring-up, its logs, and what all domains of it share.
 * AMD 48882 rev 3.10, §3.4 (registers), §2.4.8 (INVALIDATE_IOMMU_ALL).
 */
import {
  type DriverEventOptions,
  type FirmwareRegion,
  hi32,
  type IdPool,
  type InterruptMessage,
  IommuError,
  type IommuPlatform,
  lo32,
  MemoryAccount,
  PAGE_SIZE,
} from "@iommu/core"
import { INVALIDATE_IOMMU_ALL, OPCODE } from "../spec/commands.ts"
import { MAX_DEVICES } from "../spec/device-table.ts"
import * as reg from "../spec/registers.ts"
import { DeviceTable } from "./device-table.ts"
import { type Features, readFeatures } from "./features.ts"
import { domainIds, LAST_ID } from "./ids.ts"
import { ALL, HOST_TABLES, pushDevtabEntry, pushPages } from "./invalidate.ts"
import { CommandQueue, LogReader } from "./queue.ts"

export interface AmdDriverOptions extends DriverEventOptions {
  /**
   * The largest DeviceID that the device table has an entry for; 32 bytes each. Default 0xffff: 2 MiB. A request
   * of a device beyond the table is refused by the hardware.
   */
  readonly maxDeviceId?: number
  /** Reads of a condition before a wait for the hardware ends in ETIMEDOUT. Default 100,000. */
  readonly pollLimit?: number
  /** What the firmware's tables reserve: IVMD blocks of the IVRS. */
  readonly reservedRegions?: readonly FirmwareRegion[]
}

type InterruptEnables = Partial<Record<"EventIntEn" | "PPRIntEn", bigint>>

const { REGISTERS } = reg
/** Event log and PPR log: 512 entries of 16 bytes, the size that Linux has. */
const LOG_PAGES_LG2 = 1
const LOG_BYTES = PAGE_SIZE << LOG_PAGES_LG2
const LOG_LEN = 9n

export class Hardware {
  readonly platform: IommuPlatform
  readonly features: Features
  readonly queue: CommandQueue
  readonly deviceTable: DeviceTable
  readonly domainIds: IdPool = domainIds()
  /** Pays for what belongs to no owner: device table, command buffer, logs. */
  readonly account: MemoryAccount = new MemoryAccount("amd driver")
  readonly #eventLog: LogReader
  /** Where {@link Features} have page requests. */
  readonly #pprLog: LogReader | null
  readonly #pollLimit: number

  /** @throws ENOMEM, EINVAL for options out of range, ETIMEDOUT when the hardware does not follow */
  constructor(platform: IommuPlatform, options: AmdDriverOptions) {
    const maxDeviceId = options.maxDeviceId ?? MAX_DEVICES - 1
    if (!Number.isInteger(maxDeviceId) || maxDeviceId < 0 || maxDeviceId >= MAX_DEVICES) {
      throw new IommuError("EINVAL", `maxDeviceId is a 16-bit DeviceID, got ${maxDeviceId}`)
    }
    this.platform = platform
    this.#pollLimit = options.pollLimit ?? 100_000
    this.features = readFeatures(platform)
    const tablePages = DeviceTable.pagesFor(maxDeviceId)
    const logs = this.features.pageRequests ? [LOG_PAGES_LG2, LOG_PAGES_LG2] : [LOG_PAGES_LG2]
    const sizes = [Math.ceil(Math.log2(tablePages)), 0, 0, ...logs]
    const runs = allocAll(platform, this.account, sizes)
    const [table = 0, buffer = 0, semaphore = 0, eventLog = 0, pprLog = null] = runs
    this.queue = new CommandQueue(platform, buffer, semaphore, this.#pollLimit)
    this.deviceTable = new DeviceTable(platform, this.queue, table, tablePages)
    const { EVT_HEAD, EVT_TAIL, PPR_HEAD, PPR_TAIL } = REGISTERS
    this.#eventLog = new LogReader(platform, eventLog, LOG_BYTES, EVT_HEAD[0], EVT_TAIL[0])
    this.#pprLog =
      pprLog === null ? null : new LogReader(platform, pprLog, LOG_BYTES, PPR_HEAD[0], PPR_TAIL[0])
    this.#disable()
    this.#programBases(eventLog, pprLog)
    const { interrupt } = options
    this.#enable(interrupt === undefined ? {} : this.#programMessage(interrupt))
    this.#invalidateEverything()
  }

  /** What the event log holds; a log that stopped because it was full goes on. @throws ETIMEDOUT */
  takeEvents(): readonly (readonly bigint[])[] {
    const overflowed = this.#acknowledge(reg.STATUS_EventLogInt, reg.STATUS_EventOverflow)
    const records = this.#eventLog.take()
    if (overflowed) this.#restartLog(reg.CONTROL_EventLogEn, reg.STATUS_EventLogRun, reg.STATUS_EventOverflow)
    return records
  }

  /** The same for page requests; `lost` when more came than the log had room for. */
  takePageRequests(): { readonly records: readonly (readonly bigint[])[]; readonly lost: boolean } {
    if (this.#pprLog === null) return { records: [], lost: false }
    const lost = this.#acknowledge(reg.STATUS_PprInt, reg.STATUS_PprOverflow)
    const records = this.#pprLog.take()
    if (lost) this.#restartLog(reg.CONTROL_PPRLogEn, reg.STATUS_PprLogRun, reg.STATUS_PprOverflow)
    return { records, lost }
  }

  /** Clears the interrupt before the log is read: what comes later raises it again. @returns the overflow bit */
  #acknowledge(interrupt: number, overflow: number): boolean {
    const { mmio } = this.platform
    const status = mmio.read32(REGISTERS.STATUS[0])
    if ((status & interrupt) !== 0) mmio.write64(REGISTERS.STATUS[0], BigInt(interrupt))
    return (status & overflow) !== 0
  }

  /** §2.5.1, §2.6: logging is turned off, the overflow cleared, logging turned on. */
  #restartLog(enable: number, run: number, overflow: number): void {
    const { mmio } = this.platform
    const control = mmio.read64(REGISTERS.CONTROL[0])
    mmio.write64(REGISTERS.CONTROL[0], control & ~BigInt(enable))
    this.#waitForStatus(run, 0, "stop logging")
    mmio.write64(REGISTERS.STATUS[0], BigInt(overflow))
    mmio.write64(REGISTERS.CONTROL[0], control | BigInt(enable))
  }

  /** Firmware or an earlier driver may have left the unit running. */
  #disable(): void {
    const { mmio } = this.platform
    mmio.write64(REGISTERS.CONTROL[0], 0n)
    const running = reg.STATUS_CmdBufRun | reg.STATUS_EventLogRun | reg.STATUS_PprLogRun
    this.#waitForStatus(running, 0, "stop")
    mmio.write64(REGISTERS.STATUS[0], BigInt(reg.STATUS_RW1C))
    // A range left here would be passed through untranslated.
    mmio.write64(REGISTERS.EXCL_BASE[0], 0n)
    mmio.write64(REGISTERS.EXCL_LIMIT[0], 0n)
  }

  #programBases(eventLog: number, pprLog: number | null): void {
    const { mmio } = this.platform
    mmio.write64(REGISTERS.DEVTAB_BASE[0], this.deviceTable.baseRegister)
    this.queue.program()
    mmio.write64(REGISTERS.EVTLOG_BASE[0], BigInt(eventLog) | (LOG_LEN << 56n))
    mmio.write64(REGISTERS.EVT_HEAD[0], 0n)
    mmio.write64(REGISTERS.EVT_TAIL[0], 0n)
    if (pprLog === null) return
    mmio.write64(REGISTERS.PPR_BASE[0], BigInt(pprLog) | (LOG_LEN << 56n))
    mmio.write64(REGISTERS.PPR_HEAD[0], 0n)
    mmio.write64(REGISTERS.PPR_TAIL[0], 0n)
  }

  /**
   * The MSI capability, which is PCI configuration space's, through MMIO. §3.4, MMIO Offset 0158h to 0164h.
   * @returns the bits of CONTROL that let messages be sent
   */
  #programMessage({ address, data }: InterruptMessage): InterruptEnables {
    const { mmio } = this.platform
    if (!this.features.MsiCapMmioSup) return {}
    mmio.write32(REGISTERS.MSI_ADDR_LO[0], lo32(address))
    mmio.write32(REGISTERS.MSI_ADDR_HI[0], hi32(address))
    mmio.write32(REGISTERS.MSI_DATA[0], data)
    mmio.write32(REGISTERS.MSI_CAP_HEADER[0], mmio.read32(REGISTERS.MSI_CAP_HEADER[0]) | reg.MSI_MsiEn)
    return { EventIntEn: 1n, ...(this.features.pageRequests ? { PPRIntEn: 1n } : {}) }
  }

  /** §3.4, IOMMU Control: the modes first, IommuEn last, so that no request meets a half-configured unit. */
  #enable(interrupts: InterruptEnables): void {
    const { mmio } = this.platform
    const { pageRequests, GTSup, GCR3TRPModeSup } = this.features
    const requests = pageRequests ? 1n : 0n
    const modes = reg.CONTROL.encode({
      Coherent: 1n,
      EventLogEn: 1n,
      CmdBufEn: 1n,
      PPRLogEn: requests,
      PPREn: requests,
      EPHEn: requests,
      GTEn: GTSup ? 1n : 0n,
      GCR3TRPMode: GTSup && GCR3TRPModeSup ? 1n : 0n,
      ...interrupts,
    })[0] as bigint
    mmio.write64(REGISTERS.CONTROL[0], modes)
    mmio.write64(REGISTERS.CONTROL[0], modes | BigInt(reg.CONTROL_IommuEn))
    this.#waitForStatus(reg.STATUS_CmdBufRun, reg.STATUS_CmdBufRun, "fetch commands")
  }

  #invalidateEverything(): void {
    if (this.features.IASup) {
      this.queue.push(INVALIDATE_IOMMU_ALL.encode({ Opcode: BigInt(OPCODE.INVALIDATE_IOMMU_ALL) }))
    } else {
      for (let id = 0; id < this.deviceTable.devices; id++) pushDevtabEntry(this.queue, id)
      for (let id = 0; id <= LAST_ID; id++) pushPages(this.queue, id, HOST_TABLES, ALL)
    }
    this.queue.sync()
  }

  #waitForStatus(mask: number, value: number, what: string): void {
    for (let reads = 0; reads < this.#pollLimit; reads++) {
      if ((this.platform.mmio.read32(REGISTERS.STATUS[0]) & mask) === value) return
    }
    throw new IommuError("ETIMEDOUT", `the hardware did not ${what} in ${this.#pollLimit} reads of STATUS`)
  }
}

/** All runs or none. What the hardware has been told of is never given back: it may still use it. */
function allocAll({ pages }: IommuPlatform, account: MemoryAccount, sizesLg2: readonly number[]): number[] {
  const runs: number[] = []
  try {
    for (const size of sizesLg2) runs.push(pages.alloc(size, account))
    return runs
  } catch (error) {
    runs.forEach((run, i) => {
      pages.free(run, sizesLg2[i], account)
    })
    throw error
  }
}
