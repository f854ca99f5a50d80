/**
 * Invalidation by queue and by register. Intel VT-d 5.10 (D51397-018) §6.5. Every invalidation ends in one call of
 * `invalidate`, where caches will hang.
 */
import {
  type BitLayout,
  type FieldSpecs,
  fromHalves,
  hi32,
  type Invalidation,
  lo32,
  type PhysicalMemory,
} from "@iommu/core"
import * as cmd from "../spec/commands.ts"
import * as reg from "../spec/registers.ts"
import type { FaultLog } from "./events.ts"
import { EventInterrupt } from "./interrupts.ts"
import type { Features } from "./options.ts"
import type { Registers } from "./registers.ts"

interface Descriptor {
  readonly layout: BitLayout<FieldSpecs>
  /** Valid in legacy mode too. Table 26. */
  readonly legacy: boolean
  /** Valid at all on this hardware. */
  available(features: Features): boolean
  /** Fields that are in range, beyond the reserved bits of the layout. */
  wellFormed(fields: Readonly<Record<string, bigint>>, features: Features): boolean
}

const always = (): boolean => true

const DESCRIPTORS: ReadonlyMap<number, Descriptor> = new Map<number, Descriptor>([
  [cmd.CC_INV, { layout: cmd.CC_INV_DSC, legacy: true, available: always, wellFormed: f => f.G !== 0n }],
  [
    cmd.IOTLB_INV,
    { layout: cmd.IOTLB_INV_DSC, legacy: true, available: always, wellFormed: iotlbWellFormed },
  ],
  [
    cmd.DEV_TLB_INV,
    { layout: cmd.DEV_TLB_INV_DSC, legacy: true, available: f => f.deviceTlb, wellFormed: pfsidWellFormed },
  ],
  [cmd.IEC_INV, { layout: cmd.IEC_INV_DSC, legacy: true, available: always, wellFormed: always }],
  [
    cmd.INV_WAIT,
    {
      layout: cmd.INV_WAIT_DSC,
      legacy: true,
      available: always,
      wellFormed: (f, features) => f.PD === 0n || features.pageRequestDrain,
    },
  ],
  [
    cmd.P_IOTLB_INV,
    {
      layout: cmd.P_IOTLB_INV_DSC,
      legacy: false,
      available: always,
      wellFormed: f => Number(f.G) >= cmd.P_IOTLB_PASID,
    },
  ],
  [cmd.PC_INV, { layout: cmd.PC_INV_DSC, legacy: false, available: always, wellFormed: f => f.G !== 2n }],
  [
    cmd.P_DEV_TLB_INV,
    {
      layout: cmd.P_DEV_TLB_INV_DSC,
      legacy: false,
      available: f => f.deviceTlb,
      wellFormed: pfsidWellFormed,
    },
  ],
  [
    cmd.PAGE_GRP_RESP,
    { layout: cmd.PAGE_GRP_RESP_DSC, legacy: false, available: f => f.pageRequests, wellFormed: always },
  ],
])

function iotlbWellFormed(fields: Readonly<Record<string, bigint>>, features: Features): boolean {
  if (Number(fields.G) === cmd.IOTLB_PAGE) return features.pageSelective && Number(fields.AM) <= features.mamv
  return fields.G !== 0n
}

function pfsidWellFormed(fields: Readonly<Record<string, bigint>>, features: Features): boolean {
  return features.invalidationThrottle || (fields.PFSIDLo === 0n && fields.PFSIDHi === 0n)
}

export class CommandQueue {
  readonly #memory: PhysicalMemory
  readonly #registers: Registers
  readonly #log: FaultLog
  features: Features
  /** TTM as of the last SRTP. */
  ttm: number = reg.TTM_LEGACY
  onInvalidate: ((invalidation: Invalidation) => void) | null = null
  readonly interrupt: EventInterrupt
  #running = false

  constructor(memory: PhysicalMemory, registers: Registers, log: FaultLog, features: Features) {
    this.#memory = memory
    this.#registers = registers
    this.#log = log
    this.features = features
    this.interrupt = new EventInterrupt(registers, "IE")
  }

  /** Executes descriptors from head to tail, until the queue is empty or one is wrong. §6.5.2. */
  run(): void {
    // A hook that writes a register is inside of a run already; that run sees the new tail.
    if (this.#running) return
    this.#running = true
    try {
      this.#drain()
    } finally {
      this.#running = false
    }
  }

  #drain(): void {
    const r = this.#registers
    const wide = (r.get("IQA") & reg.IQA_DW) !== 0
    const step = wide ? 32 : 16
    const size = 4096 << (r.get("IQA") & reg.IQA_QS_MASK)
    // At most one turn of the ring, even if a hook keeps moving the tail.
    for (let left = size / step; left > 0 && this.#ready(); left--) {
      const head = r.get("IQH") % size
      const error = this.#checkQueue(wide, size) || this.#execute(head, wide)
      if (error !== 0) {
        r.set64("IQERCD", reg.IQERCD.encode({ IQEI: BigInt(error) })[0] as bigint)
        this.#log.setStatus(reg.IQE)
        return
      }
      r.set("IQH", (head + step) % size)
    }
  }

  #ready(): boolean {
    const r = this.#registers
    const enabled = (r.get("GSTS") & reg.QIE) !== 0
    return enabled && r.get("IQH") !== r.get("IQT") && (r.get("FSTS") & (reg.IQE | reg.ITE)) === 0
  }

  /** Errors of the queue as a whole. §11.4.9.9. @returns IQEI or 0 */
  #checkQueue(wide: boolean, size: number): number {
    const tail = this.#registers.get("IQT")
    const wideAllowed = this.features.scalable || this.features.abortDma
    if (this.ttm !== reg.TTM_LEGACY && this.ttm !== reg.TTM_SCALABLE && this.ttm !== reg.TTM_ABORT) {
      return reg.IQEI_TTM
    }
    if (wide ? !wideAllowed : this.ttm !== reg.TTM_LEGACY) return reg.IQEI_WIDTH
    if (wide && (tail & 0x10) !== 0) return reg.IQEI_TAIL_ALIGN
    return tail >= size ? reg.IQEI_TAIL : 0
  }

  /** @returns IQEI or 0 */
  #execute(head: number, wide: boolean): number {
    const base = (this.#registers.get64("IQA") >> 12n) << 12n
    const address = BigInt.asUintN(64, base + BigInt(head))
    const at = this.#memory.find(hi32(address), lo32(address))
    if (at < 0) return reg.IQEI_FETCH
    const count = wide ? 4 : 2
    const words = Array.from({ length: count }, (_, i) =>
      fromHalves(this.#memory.words[at + 2 * i + 1] as number, this.#memory.words[at + 2 * i] as number),
    )
    const low = this.#memory.words[at] as number
    const type = (low & cmd.TYPE_MASK) | (((low >>> cmd.TYPE_HI_SHIFT) & cmd.TYPE_HI_MASK) << 4)
    const descriptor = DESCRIPTORS.get(type)
    if (descriptor === undefined || !descriptor.available(this.features)) return reg.IQEI_TYPE
    if (!descriptor.legacy && this.ttm === reg.TTM_LEGACY) return reg.IQEI_TYPE
    const { layout } = descriptor
    if (words.some((word, i) => (word & (layout.reserved[i] as bigint)) !== 0n)) return reg.IQEI_RESERVED
    const fields = layout.decode(words)
    if (!descriptor.wellFormed(fields, this.features)) return reg.IQEI_RESERVED
    if (type === cmd.INV_WAIT) this.#completeWait(words)
    else if (type !== cmd.PAGE_GRP_RESP) this.#invalidate({ command: layout.name, words, fields })
    return 0
  }

  #invalidate(invalidation: Invalidation): void {
    this.onInvalidate?.(invalidation)
  }

  /** §6.5.2.9, §6.5.2.10. Everything ahead of a wait is done at once, so the wait is, too. */
  #completeWait(words: readonly bigint[]): void {
    const wait = cmd.INV_WAIT_DSC.decode(words)
    if (wait.SW === 1n) {
      const width = BigInt(this.features.hostAddressWidth)
      const address = BigInt.asUintN(Number(width), wait.STADDR << 2n)
      const at = this.#memory.find(hi32(address), lo32(address))
      if (at >= 0) this.#memory.words[at] = Number(wait.STDATA)
    }
    if (wait.IF === 1n && (this.#registers.get("ICS") & reg.IWC) === 0) {
      this.#registers.set("ICS", reg.IWC)
      this.interrupt.raise()
    }
  }

  /** Software wrote ICS. */
  completionServed(): void {
    if ((this.#registers.get("ICS") & reg.IWC) === 0) this.interrupt.served()
  }

  /** Register-based invalidation is for legacy mode, without a queue, on hardware up to version 5. §6.5.1. */
  #registersServe(): boolean {
    const queue = (this.#registers.get("GSTS") & reg.QIE) !== 0
    return this.ttm === reg.TTM_LEGACY && !queue && this.features.majorVersion <= 5
  }

  /** A write of CCMD_REG with ICC. §11.4.6.1. */
  contextCommand(): void {
    const value = this.#registers.get64("CCMD")
    const { DID, SID, FM, CIRG } = reg.CCMD.decode([value])
    const done = this.#registersServe() ? CIRG : 0n
    if (done !== 0n) this.#invalidate({ command: reg.CCMD.name, words: [], fields: { DID, SID, FM, CIRG } })
    this.#registers.set64("CCMD", reg.CCMD.encode({ DID, CIRG, CAIG: done })[0] as bigint)
  }

  /** A write of IOTLB_REG with IVT. §11.4.6.3. */
  iotlbCommand(): void {
    const r = this.#registers
    const { DID, DW, DR, IIRG } = reg.IOTLB.decode([fromHalves(r.at(r.iotlb + 4), r.at(r.iotlb))])
    const { AM, IH, ADDR } = reg.IVA.decode([fromHalves(r.at(r.iva + 4), r.at(r.iva))])
    const done = this.#registersServe() ? this.#iotlbGranularity(IIRG, AM) : 0n
    if (done !== 0n) {
      const page = Number(done) === cmd.IOTLB_PAGE
      const range = page ? { AM, IH, ADDR } : {}
      this.#invalidate({ command: reg.IOTLB.name, words: [], fields: { IIRG: done, DID, DW, DR, ...range } })
    }
    const after = reg.IOTLB.encode({ DID, DW, DR, IIRG, IAIG: done })[0] as bigint
    r.put(r.iotlb, lo32(after))
    r.put(r.iotlb + 4, hi32(after))
  }

  /** The granularity that is done for one asked for; 0 refuses. */
  #iotlbGranularity(asked: bigint, mask: bigint): bigint {
    if (Number(asked) !== cmd.IOTLB_PAGE) return asked
    if (!this.features.pageSelective) return BigInt(cmd.IOTLB_DOMAIN)
    return Number(mask) <= this.features.mamv ? asked : 0n
  }
}
