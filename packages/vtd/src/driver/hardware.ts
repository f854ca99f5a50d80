/**
 * The remapping unit as the driver sees it: how it is started, and what it has written for software to read. Intel
 * VT-d 5.10 (D51397-018), chapter 11.
 */
import {
  type DriverEventOptions,
  type FirmwareRegion,
  hi32,
  type InterruptMessage,
  IommuError,
  type IommuPlatform,
  lo32,
  MemoryAccount,
  type PageAllocator,
  type PhysicalMemory,
} from "@iommu/core"
import { FRCD_BYTES, FRCD_F, PAGE_REQ_BYTES } from "../spec/events.ts"
import * as reg from "../spec/registers.ts"
import { type Features, readFeatures } from "./features.ts"
import { InvalidationQueue } from "./queue.ts"

export interface VtdDriverOptions extends DriverEventOptions {
  /** Translation table mode. Default: scalable when ECAP.SMTS is set, else legacy. */
  readonly mode?: "legacy" | "scalable"
  /**
   * Width of physical addresses, which firmware tells (DMAR table, host address width) and no register does.
   * Default 52.
   */
  readonly hostAddressBits?: number
  /** How often a status is read before the hardware is given up: ETIMEDOUT. Default 100,000. */
  readonly maxPolls?: number
  /** What the firmware's tables reserve: RMRR structures of the DMAR table. */
  readonly reservedRegions?: readonly FirmwareRegion[]
}

/** Page request queue: 2^PQS pages, of 128 entries each. */
const PQS = 0
const PAGE_REQUEST_QUEUE_BYTES = 4096 << PQS

export class Hardware {
  readonly memory: PhysicalMemory
  readonly pages: PageAllocator
  readonly features: Features
  /** Pays for what serves all owners: root and context tables, the queue, PASID directories. */
  readonly account: MemoryAccount = new MemoryAccount("vtd driver")
  readonly queue: InvalidationQueue
  readonly #platform: IommuPlatform
  readonly #maxPolls: number
  readonly #interrupt: InterruptMessage | undefined
  /** Where the hardware has it. */
  readonly #pageRequestQueue: number | null

  /** @throws ENODEV when the unit lacks what this driver needs, ENOMEM for the queues */
  constructor(platform: IommuPlatform, options: VtdDriverOptions) {
    this.#platform = platform
    this.#maxPolls = options.maxPolls ?? 100_000
    this.#interrupt = options.interrupt
    this.memory = platform.memory
    this.pages = platform.pages
    this.features = readFeatures(platform, options)
    this.queue = new InvalidationQueue(platform, this.features, this.account, this.#maxPolls)
    try {
      this.#pageRequestQueue = this.features.pageRequests ? this.pages.alloc(PQS, this.account) : null
    } catch (error) {
      this.queue.free()
      throw error
    }
  }

  /**
   * Hands the root table over and turns translation on: §11.4.4, with the global invalidations that §11.4.5 asks
   * for after a root table changed, each complete before the next.
   * @throws ETIMEDOUT, EIO
   */
  start(rootTable: bigint): void {
    const { mmio } = this.#platform
    this.#command(reg.TE, 0)
    this.#stopQueue()
    this.queue.reset()
    this.#command(reg.QIE, reg.QIE)
    const ttm = this.features.scalable ? reg.TTM_SCALABLE : reg.TTM_LEGACY
    mmio.write64(reg.REGISTERS.RTADDR[0], rootTable | BigInt(ttm << reg.TTM_SHIFT))
    this.#command(reg.SRTP, reg.SRTP)
    this.queue.contextCacheGlobal()
    this.queue.sync()
    if (this.features.scalable) {
      this.queue.pasidCacheGlobal()
      this.queue.sync()
    }
    this.queue.iotlbGlobal()
    this.queue.sync()
    this.#startPageRequests()
    if (this.#interrupt !== undefined) this.#unmask(this.#interrupt)
    this.#command(reg.TE, reg.TE)
    this.#openProtectedMemory()
  }

  /** Gives back the queues' pages; for a start that failed. */
  free(): void {
    if (this.#pageRequestQueue !== null) this.pages.free(this.#pageRequestQueue, PQS, this.account)
    this.queue.free()
  }

  /**
   * The fault records that wait, oldest first; hardware that stopped for want of records goes on. §7.2.1: FRI says
   * where they begin, F is cleared in each, PFO last.
   */
  takeFaults(): readonly (readonly bigint[])[] {
    const { mmio } = this.#platform
    const status = mmio.read32(reg.REGISTERS.FSTS[0])
    if ((status & (reg.PPF | reg.PFO)) === 0) return []
    const count = reg.faultRecordCount(this.features.cap)
    const first = (status >>> reg.FRI_SHIFT) & reg.FRI_MASK
    const records: bigint[][] = []
    for (let n = 0; n < count; n++) {
      const at = reg.faultRecordOffset(this.features.cap) + ((first + n) % count) * FRCD_BYTES
      if ((mmio.read32(at + 12) & FRCD_F) === 0) break
      records.push([mmio.read64(at), mmio.read64(at + 8)])
      mmio.write32(at + 12, FRCD_F)
    }
    if ((status & reg.PFO) !== 0) mmio.write32(reg.REGISTERS.FSTS[0], reg.PFO)
    return records
  }

  /**
   * Empties the page request queue: copies what is there now, and gives the room back before anybody looks at the
   * copies. So a call ends, however fast requests come in. §7.4.1, §7.5: PPR is cleared first, PRO last.
   */
  takePageRequests(): { readonly records: readonly (readonly bigint[])[]; readonly lost: boolean } {
    const base = this.#pageRequestQueue
    if (base === null) return { records: [], lost: false }
    const { mmio } = this.#platform
    const lost = (mmio.read32(reg.REGISTERS.PRS[0]) & reg.PRO) !== 0
    mmio.write32(reg.REGISTERS.PRS[0], reg.PPR)
    const offset = (register: number): number => {
      const bytes = (mmio.read32(register) & reg.QUEUE_OFFSET_MASK) % PAGE_REQUEST_QUEUE_BYTES
      return bytes - (bytes % PAGE_REQ_BYTES)
    }
    const head = offset(reg.REGISTERS.PQH[0])
    const tail = offset(reg.REGISTERS.PQT[0])
    const bytes = (tail - head + PAGE_REQUEST_QUEUE_BYTES) % PAGE_REQUEST_QUEUE_BYTES
    const records = Array.from({ length: bytes / PAGE_REQ_BYTES }, (_, n) => {
      const at = base + ((head + n * PAGE_REQ_BYTES) % PAGE_REQUEST_QUEUE_BYTES)
      return Array.from({ length: PAGE_REQ_BYTES / 8 }, (_, word) => this.memory.read64(at + 8 * word))
    })
    mmio.write64(reg.REGISTERS.PQH[0], BigInt(tail))
    if (lost) mmio.write32(reg.REGISTERS.PRS[0], reg.PRO)
    return { records, lost }
  }

  /** Fault events and page request events. §7.3, §11.4.7.2 to §11.4.7.5, §11.4.11.5 to §11.4.11.8. */
  #unmask({ address, data }: InterruptMessage): void {
    const { mmio } = this.#platform
    for (const event of this.features.pageRequests ? (["FE", "PE"] as const) : (["FE"] as const)) {
      mmio.write32(reg.REGISTERS[`${event}DATA`][0], data)
      mmio.write32(reg.REGISTERS[`${event}ADDR`][0], lo32(address))
      mmio.write32(reg.REGISTERS[`${event}UADDR`][0], hi32(address))
      mmio.write32(reg.REGISTERS[`${event}CTL`][0], 0)
    }
  }

  #startPageRequests(): void {
    if (this.#pageRequestQueue === null) return
    const { mmio } = this.#platform
    mmio.write64(reg.REGISTERS.PQH[0], 0n)
    mmio.write64(reg.REGISTERS.PQT[0], 0n)
    mmio.write64(reg.REGISTERS.PQA[0], BigInt(this.#pageRequestQueue) | BigInt(PQS))
    mmio.write32(reg.REGISTERS.PRS[0], reg.PPR | reg.PRO)
  }

  /** Makes table writes visible to hardware that buffers them. §6.8: only where CAP.RWBF is set. */
  flushWriteBuffer(): void {
    if (this.features.writeBufferFlush) this.#command(reg.WBF, reg.WBF)
  }

  /** A queue that firmware or an earlier kernel left on may only be turned off when it is empty. §6.5.2. */
  #stopQueue(): void {
    const { mmio } = this.#platform
    if ((mmio.read32(reg.REGISTERS.GSTS[0]) & reg.QIE) === 0) return
    for (let polls = 0; polls < this.#maxPolls; polls++) {
      if (mmio.read32(reg.REGISTERS.IQH[0]) === mmio.read32(reg.REGISTERS.IQT[0])) break
    }
    this.#command(reg.QIE, 0)
  }

  /**
   * One step of GCMD (§11.4.4.1): one bit changes at a time, one-shot commands that are done are not repeated,
   * and GSTS says when it took effect.
   */
  #command(bit: number, value: number): void {
    const { mmio } = this.#platform
    const status = mmio.read32(reg.REGISTERS.GSTS[0])
    const isSticky = (reg.GCMD_STICKY & bit) !== 0
    if (isSticky && (status & bit) === (value | 0)) return
    mmio.write32(reg.REGISTERS.GCMD[0], ((status & reg.GCMD_STICKY & ~bit) | value) >>> 0)
    const done = bit === reg.WBF ? 0 : value
    this.#waitFor(reg.REGISTERS.GSTS[0], bit, done, "GSTS")
  }

  /** Regions that firmware shut to DMA before translation was on serve no purpose after it. §11.4.8.1. */
  #openProtectedMemory(): void {
    const hasRegions = reg.CAP.get([this.features.cap], "PLMR") | reg.CAP.get([this.features.cap], "PHMR")
    if (hasRegions === 0n) return
    const { mmio } = this.#platform
    if ((mmio.read32(reg.REGISTERS.PMEN[0]) & reg.EPM) === 0) return
    mmio.write32(reg.REGISTERS.PMEN[0], 0)
    this.#waitFor(reg.REGISTERS.PMEN[0], reg.PMEN_PRS, 0, "PMEN")
  }

  #waitFor(offset: number, mask: number, value: number, what: string): void {
    for (let polls = 0; polls < this.#maxPolls; polls++) {
      if (((this.#platform.mmio.read32(offset) ^ value) & mask) === 0) return
    }
    throw new IommuError("ETIMEDOUT", `${what} did not become 0x${value.toString(16)} under its mask`)
  }
}
