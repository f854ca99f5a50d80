/**
 * Invalidation by queue and by register. Intel VT-d 5.10 (D51397-018) §6.5. Descriptors are read in halves.
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
import type { AtsDevices } from "./ats.ts"
import type { Caches } from "./caches.ts"
import type { FaultLog } from "./events.ts"
import { EventInterrupt } from "./interrupts.ts"
import type { Features } from "./options.ts"
import type { Registers } from "./registers.ts"

const LAYOUTS: ReadonlyMap<number, BitLayout<FieldSpecs>> = new Map<number, BitLayout<FieldSpecs>>([
  [cmd.CC_INV, cmd.CC_INV_DSC],
  [cmd.IOTLB_INV, cmd.IOTLB_INV_DSC],
  [cmd.DEV_TLB_INV, cmd.DEV_TLB_INV_DSC],
  [cmd.IEC_INV, cmd.IEC_INV_DSC],
  [cmd.INV_WAIT, cmd.INV_WAIT_DSC],
  [cmd.P_IOTLB_INV, cmd.P_IOTLB_INV_DSC],
  [cmd.PC_INV, cmd.PC_INV_DSC],
  [cmd.P_DEV_TLB_INV, cmd.P_DEV_TLB_INV_DSC],
  [cmd.PAGE_GRP_RESP, cmd.PAGE_GRP_RESP_DSC],
])
const HALVES = 8
/** Registers that every descriptor asks for: by name they took two thirds of its time. */
const GSTS = reg.REGISTERS.GSTS[0]
const FSTS = reg.REGISTERS.FSTS[0]
const IQH = reg.REGISTERS.IQH[0]
const IQT = reg.REGISTERS.IQT[0]
const IQA = reg.REGISTERS.IQA[0]
/** Bits that must be zero, eight 32-bit halves for each type up to the largest. */
const RESERVED = new Int32Array((cmd.PAGE_GRP_RESP + 1) * HALVES)
for (const [type, layout] of LAYOUTS) {
  RESERVED.set(
    layout.reserved.flatMap(word => [lo32(word), hi32(word)]),
    type * HALVES,
  )
}
/** No device whose answer is waited for. */
const NONE = -1

export class CommandQueue {
  readonly #memory: PhysicalMemory
  readonly #registers: Registers
  readonly #log: FaultLog
  readonly #devices: AtsDevices
  readonly #caches: Caches
  features: Features
  /** TTM as of the last SRTP. */
  ttm: number = reg.TTM_LEGACY
  onInvalidate: ((invalidation: Invalidation) => void) | null = null
  readonly interrupt: EventInterrupt
  #running = false
  /** Source-id of the first device that has not answered an invalidation in time. */
  #late = NONE

  constructor(
    memory: PhysicalMemory,
    registers: Registers,
    log: FaultLog,
    devices: AtsDevices,
    caches: Caches,
    features: Features,
  ) {
    this.#memory = memory
    this.#registers = registers
    this.#log = log
    this.#devices = devices
    this.#caches = caches
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
    const wide = (r.at(IQA) & reg.IQA_DW) !== 0
    const step = wide ? 32 : 16
    const size = 4096 << (r.at(IQA) & reg.IQA_QS_MASK)
    // At most one turn of the ring, even if a hook keeps moving the tail.
    for (let left = size / step; left > 0 && this.#ready(); left--) {
      const head = r.at(IQH) % size
      const error = this.#checkQueue(wide, size) || this.#execute(head, wide ? HALVES : HALVES / 2)
      if (error !== 0) {
        r.set("IQERCD", error)
        this.#log.setStatus(reg.IQE)
        break
      }
      r.put(IQH, (head + step) % size)
    }
    if (this.#late !== NONE) this.#timeOut()
  }

  #ready(): boolean {
    const r = this.#registers
    const enabled = (r.at(GSTS) & reg.QIE) !== 0
    return enabled && r.at(IQH) !== r.at(IQT) && (r.at(FSTS) & (reg.IQE | reg.ITE)) === 0
  }

  /** Errors of the queue as a whole. §11.4.9.9. @returns IQEI or 0 */
  #checkQueue(wide: boolean, size: number): number {
    const tail = this.#registers.at(IQT)
    const wideAllowed = this.features.scalable || this.features.abortDma
    if (this.ttm !== reg.TTM_LEGACY && this.ttm !== reg.TTM_SCALABLE && this.ttm !== reg.TTM_ABORT) {
      return reg.IQEI_TTM
    }
    if (wide ? !wideAllowed : this.ttm !== reg.TTM_LEGACY) return reg.IQEI_WIDTH
    if (wide && (tail & 0x10) !== 0) return reg.IQEI_TAIL_ALIGN
    return tail >= size ? reg.IQEI_TAIL : 0
  }

  /** @returns IQEI or 0 */
  #execute(head: number, halves: number): number {
    const r = this.#registers
    const offset = (r.at(IQA) & 0xfffff000) + head
    const carry = offset >>> 0 < head ? 1 : 0
    const at = this.#memory.find(r.at(IQA + 4) + carry, offset)
    if (at < 0) return reg.IQEI_FETCH
    const words = this.#memory.words
    const low = words[at] as number
    const type = (low & cmd.TYPE_MASK) | (((low >>> cmd.TYPE_HI_SHIFT) & cmd.TYPE_HI_MASK) << 4)
    if (!this.#isAvailable(type)) return reg.IQEI_TYPE
    let reserved = 0
    for (let i = 0; i < halves; i++) {
      reserved |= (words[at + i] as number) & (RESERVED[type * HALVES + i] as number)
    }
    if (reserved !== 0 || !this.#isWellFormed(type, at)) return reg.IQEI_RESERVED
    this.#apply(type, at)
    if (this.onInvalidate !== null) this.#report(type, at, halves)
    return 0
  }

  /** Types of this hardware in this mode. Table 26. */
  #isAvailable(type: number): boolean {
    if (this.ttm === reg.TTM_LEGACY && type > cmd.INV_WAIT) return false
    switch (type) {
      case cmd.DEV_TLB_INV:
      case cmd.P_DEV_TLB_INV:
        return this.features.deviceTlb
      case cmd.PAGE_GRP_RESP:
        return this.features.pageRequests
      default:
        return type >= cmd.CC_INV && type < cmd.PAGE_GRP_RESP
    }
  }

  /** Fields that are in range, beyond the reserved bits of the layout. */
  #isWellFormed(type: number, at: number): boolean {
    const words = this.#memory.words
    const low = words[at] as number
    const granularity = (low >>> cmd.G_SHIFT) & cmd.G_MASK
    switch (type) {
      case cmd.CC_INV:
        return granularity !== 0
      case cmd.IOTLB_INV:
        if (granularity !== cmd.IOTLB_PAGE) return granularity !== 0
        return (
          this.features.pageSelective && ((words[at + 2] as number) & cmd.AM_MASK_LO1) <= this.features.mamv
        )
      case cmd.P_IOTLB_INV:
        return granularity >= cmd.P_IOTLB_PASID
      case cmd.PC_INV:
        return granularity !== 2
      case cmd.INV_WAIT:
        return (low & cmd.WAIT_PD) === 0 || this.features.pageRequestDrain
      case cmd.DEV_TLB_INV:
      case cmd.P_DEV_TLB_INV: {
        const pfsid = (low & cmd.PFSID_LO_MASK) | ((words[at + 1] as number) & cmd.PFSID_HI_MASK_HI)
        return this.features.invalidationThrottle || pfsid === 0
      }
      default:
        return true
    }
  }

  /** For people: fields are decoded only while somebody listens. */
  #report(type: number, at: number, halves: number): void {
    const layout = LAYOUTS.get(type)
    if (layout === undefined || type === cmd.INV_WAIT || type === cmd.PAGE_GRP_RESP) return
    const words = Array.from({ length: halves / 2 }, (_, i) =>
      fromHalves(this.#memory.words[at + 2 * i + 1] as number, this.#memory.words[at + 2 * i] as number),
    )
    this.onInvalidate?.({ command: layout.name, words, fields: layout.decode(words) })
  }

  /** Everything is done when it is read; only a device can be late. */
  #apply(type: number, at: number): void {
    const words = this.#memory.words
    const low = words[at] as number
    const high = words[at + 1] as number
    const low1 = words[at + 2] as number
    const high1 = words[at + 3] as number
    const granularity = (low >>> cmd.G_SHIFT) & cmd.G_MASK
    const did = low >>> cmd.DID_SHIFT
    const pasid = high & cmd.PASID_MASK_HI
    switch (type) {
      case cmd.CC_INV:
        this.#dropContexts(granularity, did, high & 0xffff, (high >>> cmd.FM_SHIFT_HI) & cmd.FM_MASK_HI)
        return
      case cmd.PC_INV:
        if (granularity === cmd.PC_GLOBAL) this.#caches.dropPasids()
        else if (granularity === cmd.PC_DOMAIN) this.#caches.dropPasidsOfDomain(did)
        else this.#caches.dropPasid(did, pasid)
        return
      case cmd.IOTLB_INV:
        this.#dropTranslations(granularity, did, high1, low1, low1)
        return
      case cmd.P_IOTLB_INV:
        if (granularity === cmd.P_IOTLB_PASID) this.#caches.tlb.dropPasid(did, pasid)
        else
          this.#caches.tlb.dropPasidPages(
            did,
            pasid,
            high1,
            low1,
            low1 & cmd.AM_MASK_LO1,
            (low1 & cmd.IH_LO1) !== 0,
          )
        return
      case cmd.INV_WAIT:
        // A wait behind an invalidation that timed out is aborted. §6.5.2.11.
        if (this.#late === NONE) this.#completeWait(low, high, low1, high1)
        else this.#timeOut()
        return
      case cmd.DEV_TLB_INV: {
        const device = high & 0xffff
        const done = this.#devices.invalidate(device, high1, low1, (low1 & cmd.DEV_TLB_S_LO1) !== 0)
        if (!done) this.#notAnswered(device)
        return
      }
      case cmd.P_DEV_TLB_INV: {
        const device = low >>> 16
        if (!this.#devices.invalidatePasid(device, pasid, high1, low1)) this.#notAnswered(device)
        return
      }
      case cmd.PAGE_GRP_RESP: {
        const present = (low & cmd.PAGE_GRP_PP) !== 0
        const group = (low1 >>> cmd.PAGE_GRP_PRGI_SHIFT_LO1) & cmd.PAGE_GRP_PRGI_MASK_LO1
        const code = (low >>> cmd.PAGE_GRP_RC_SHIFT) & cmd.PAGE_GRP_RC_MASK
        this.#devices.respond(low >>> cmd.PAGE_GRP_RID_SHIFT, group, present ? pasid : null, code)
        return
      }
    }
  }

  /** §6.5.2.1, CCMD §11.4.6.1: granularities are numbered alike. */
  #dropContexts(granularity: number, domainId: number, sourceId: number, mask: number): void {
    if (granularity === cmd.CC_GLOBAL) this.#caches.dropContexts()
    else if (granularity === cmd.CC_DOMAIN) this.#caches.dropContextsOfDomain(domainId)
    else this.#caches.dropContextsOfDevice(domainId, sourceId, mask)
  }

  /**
   * §6.5.2.3, IOTLB §11.4.6.3: granularities are numbered alike.
   * @param flags AM and IH, where descriptor and IVA have them
   */
  #dropTranslations(granularity: number, domainId: number, hi: number, lo: number, flags: number): void {
    const mask = flags & cmd.AM_MASK_LO1
    if (granularity === cmd.IOTLB_GLOBAL) this.#caches.tlb.dropAll()
    else if (granularity === cmd.IOTLB_DOMAIN) this.#caches.tlb.dropDomain(domainId)
    else this.#caches.tlb.dropPages(domainId, hi, lo, mask, (flags & cmd.IH_LO1) !== 0)
  }

  #notAnswered(device: number): void {
    if (this.#late === NONE) this.#late = device
  }

  /**
   * The time of a device-TLB invalidation is up: with the first wait that depends on it, or with the queue's end.
   * §6.5.2.11, ITESID §11.4.9.9.
   */
  #timeOut(): void {
    const r = this.#registers
    r.setHi("IQERCD", (r.getHi("IQERCD") & ~reg.ITESID_MASK_HI) | this.#late)
    this.#late = NONE
    this.#log.setStatus(reg.ITE)
  }

  /** The first of them is named until software clears ICE; the queue goes on. ICESID §11.4.9.9. */
  strayCompletion(device: number): void {
    const r = this.#registers
    if (!this.features.deviceTlb || (r.at(FSTS) & reg.ICE) !== 0) return
    r.setHi("IQERCD", (r.getHi("IQERCD") & reg.ITESID_MASK_HI) | (device << reg.ICESID_SHIFT_HI))
    this.#log.setStatus(reg.ICE)
  }

  /** §6.5.2.9, §6.5.2.10. Everything ahead of a wait is done, page requests are in their queue (PD). */
  #completeWait(low: number, high: number, low1: number, high1: number): void {
    if ((low & cmd.WAIT_SW) !== 0) {
      const at = this.#memory.find(high1 & ~this.features.pointerRsvdHi, low1)
      if (at >= 0) this.#memory.words[at] = high
    }
    if ((low & cmd.WAIT_IF) !== 0 && (this.#registers.get("ICS") & reg.IWC) === 0) {
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
    if (done !== 0n) {
      this.#dropContexts(Number(done), Number(DID), Number(SID), Number(FM))
      this.onInvalidate?.({ command: reg.CCMD.name, words: [], fields: { DID, SID, FM, CIRG } })
    }
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
      this.#dropTranslations(Number(done), Number(DID), r.at(r.iva + 4), r.at(r.iva), r.at(r.iva))
      this.onInvalidate?.({
        command: reg.IOTLB.name,
        words: [],
        fields: { IIRG: done, DID, DW, DR, ...range },
      })
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
