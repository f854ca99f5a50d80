/**
 * The remapping unit: registers, commands, fault log and translation put together.
 * Intel VT-d 5.10 (D51397-018) §11.4.4 for the global commands.
 */
import * as core from "@iommu/core"
import {
  type AtsCompletion,
  type AtsDevice,
  type AtsModel,
  cachePolicies,
  type Fault,
  hi32,
  type Invalidation,
  type IommuModel,
  lo32,
  type Mmio,
  type PageRequest,
  type WalkStep,
} from "@iommu/core"
import { FRCD_BYTES } from "../spec/events.ts"
import * as reg from "../spec/registers.ts"
import { AtsDevices, AtsPort } from "./ats.ts"
import { Caches } from "./caches.ts"
import { CommandQueue } from "./commands.ts"
import { FaultLog } from "./events.ts"
import {
  checkCapabilities,
  checkHostAddressWidth,
  EVERYTHING,
  Features,
  type VtdCapabilities,
  type VtdModelOptions,
} from "./options.ts"
import { PageRequestQueue } from "./page-requests.ts"
import { plainFirst, plainNested, plainSecond } from "./plain-walk.ts"
import { Registers } from "./registers.ts"
import * as transaction from "./transaction.ts"
import { Transaction } from "./transaction.ts"
import {
  identity,
  isInterruptAddress,
  translateInterrupt,
  translateRemapped,
  type VtdTranslationResult,
} from "./translate.ts"

// Copies: V8 reads an imported constant through its module.
const { INTERRUPT_MEGABYTE, MODE_FIRST, MODE_SECOND, REQUEST_UNTRANSLATED } = transaction
const READ_WRITE = core.ACCESS_READ | core.ACCESS_WRITE

const OFFSETS = {
  GCMD: reg.REGISTERS.GCMD[0],
  CCMD_HI: reg.REGISTERS.CCMD[0] + 4,
  FSTS: reg.REGISTERS.FSTS[0],
  FECTL: reg.REGISTERS.FECTL[0],
  IQT: reg.REGISTERS.IQT[0],
  ICS: reg.REGISTERS.ICS[0],
  IECTL: reg.REGISTERS.IECTL[0],
  PRS: reg.REGISTERS.PRS[0],
  PECTL: reg.REGISTERS.PECTL[0],
} as const

function emptyResult(): VtdTranslationResult {
  return {
    paHi: 0,
    paLo: 0,
    sizeLg2: 0,
    allowed: 0,
    ipaHi: 0,
    ipaLo: 0,
    stage1SizeLg2: 0,
    stage2SizeLg2: 0,
    attributes: 0,
    fault: null,
  }
}

export class VtdModel implements IommuModel, AtsModel {
  readonly vendor = "vtd"
  readonly mmio: Mmio
  readonly result: VtdTranslationResult = emptyResult()
  readonly #registers: Registers
  // `translate` reads these four: a private name (#) costs 2 ns a call.
  private readonly transaction: Transaction
  private readonly log: FaultLog
  private enabled = false
  /** Enabled, and with caches: without, even a look-up that fails at once would cost 2 ns. */
  private answers = false
  readonly #caches: Caches
  readonly #queue: CommandQueue
  readonly #devices: AtsDevices = new AtsDevices()
  readonly #ats: AtsPort
  readonly #pageRequests: PageRequestQueue
  readonly #hostAddressWidth: number
  #capabilities: VtdCapabilities
  #features: Features

  constructor(options: VtdModelOptions) {
    this.#capabilities = checkCapabilities(options.capabilities ?? EVERYTHING)
    this.#hostAddressWidth = checkHostAddressWidth(options.hostAddressWidth ?? 52)
    this.#features = new Features(this.#capabilities, this.#hostAddressWidth)
    this.#registers = new Registers(this.#capabilities, this.#features)
    this.#caches = new Caches(cachePolicies(options.caches), this.#features.cachingMode)
    this.transaction = new Transaction(options.memory, this.#features, this.#caches)
    this.log = new FaultLog(this.#registers)
    this.#queue = new CommandQueue(
      options.memory,
      this.#registers,
      this.log,
      this.#devices,
      this.#caches,
      this.#features,
    )
    this.#ats = new AtsPort(this.transaction, this.log, emptyResult())
    this.#pageRequests = new PageRequestQueue(this.transaction, this.#registers, this.log, this.#devices)
    this.#registers.onWrite = (offset, value) => this.#written(offset, value)
    this.mmio = this.#registers
  }

  get trace(): ((step: WalkStep) => void) | null {
    return this.transaction.trace
  }

  set trace(hook: ((step: WalkStep) => void) | null) {
    this.transaction.trace = hook
    this.#caches.forgetPlain()
  }

  get onInvalidate(): ((invalidation: Invalidation) => void) | null {
    return this.#queue.onInvalidate
  }

  set onInvalidate(hook: ((invalidation: Invalidation) => void) | null) {
    this.#queue.onInvalidate = hook
  }

  get onInterrupt(): ((address: bigint, data: number) => void) | null {
    return this.log.interrupt.send
  }

  set onInterrupt(hook: ((address: bigint, data: number) => void) | null) {
    this.log.interrupt.send = hook
    this.#queue.interrupt.send = hook
    this.#pageRequests.interrupt.send = hook
  }

  translate(device: number, pasid: number, iovaHi: number, iovaLo: number, access: number): number {
    const t = this.transaction
    const result = this.result
    if (this.answers && t.tlb.recent.find(device, pasid, iovaHi, iovaLo, access, result)) {
      result.fault = null
      return 0
    }
    const { caches } = t
    if (
      caches.isPlain &&
      device === caches.plainDevice &&
      pasid === caches.plainPasid &&
      access > 0 &&
      access <= READ_WRITE &&
      (iovaHi !== 0 || iovaLo >>> 20 !== INTERRUPT_MEGABYTE)
    ) {
      const { mode } = t
      if (
        mode === MODE_FIRST
          ? plainFirst(t, iovaHi, iovaLo, access, result)
          : mode === MODE_SECOND
            ? plainSecond(t, iovaHi, iovaLo, access, result)
            : plainNested(t, iovaHi, iovaLo, access, result)
      ) {
        result.fault = null
        return 0
      }
    }
    return this.translateAnew(device, pasid, iovaHi, iovaLo, access)
  }

  private translateAnew(
    device: number,
    pasid: number,
    iovaHi: number,
    iovaLo: number,
    access: number,
  ): number {
    const t = this.transaction
    const result = this.result
    t.request = REQUEST_UNTRANSLATED
    t.device = device & 0xffff
    t.pasid = pasid < 0 ? -1 : pasid
    t.iovaHi = iovaHi | 0
    t.iovaLo = iovaLo | 0
    t.access = (access & READ_WRITE) === 0 ? access | t.features.zeroLengthRead : access
    if (!this.enabled) {
      identity(t, result)
      result.fault = null
      return 0
    }
    const reason =
      t.pasid < 0 && isInterruptAddress(iovaHi, iovaLo)
        ? translateInterrupt(t, result)
        : translateRemapped(t, result)
    result.fault = reason === 0 ? null : this.log.report(t)
    return reason
  }

  get completion(): AtsCompletion {
    return this.#ats.completion
  }

  get atsFault(): Fault | null {
    return this.#ats.fault
  }

  connect(device: number, ats: AtsDevice): void {
    this.#devices.connect(device, ats)
  }

  translationRequest(device: number, pasid: number, iovaHi: number, iovaLo: number, access: number): number {
    if (!this.enabled) return this.#ats.refuse()
    return this.#ats.translationRequest(device, pasid, iovaHi, iovaLo, access)
  }

  translatedRequest(device: number, pasid: number, paHi: number, paLo: number, access: number): number {
    if (!this.enabled) return this.#ats.refuse()
    return this.#ats.translatedRequest(device, pasid, paHi, paLo, access)
  }

  pageRequest(request: PageRequest): void {
    this.#ats.fault = this.#pageRequests.receive(request, this.enabled)
  }

  strayCompletion(device: number): void {
    this.#queue.strayCompletion(device & 0xffff)
  }

  restoreRegisters(values: Readonly<Record<string, bigint>>): string[] {
    this.#capabilities = {
      ver: BigInt.asUintN(32, values.VER ?? this.#capabilities.ver),
      cap: BigInt.asUintN(64, values.CAP ?? this.#capabilities.cap),
      ecap: BigInt.asUintN(64, values.ECAP ?? this.#capabilities.ecap),
    }
    this.#features = new Features(this.#capabilities, this.#hostAddressWidth)
    this.transaction.features = this.#features
    this.#queue.features = this.#features
    this.#caches.configure(this.#features.cachingMode)
    this.#registers.configure(this.#capabilities, this.#features)
    const unknown = Object.entries(values).filter(([name, value]) => !this.#restore(name, value))
    if ((this.#registers.get("GSTS") & reg.SRTP) !== 0) this.#latchRoot()
    this.#enable((this.#registers.get("GSTS") & reg.TE) !== 0)
    this.log.restoreIndex()
    return unknown.map(([name]) => name)
  }

  /** @returns false for a name that is no register here */
  #restore(name: string, value: bigint): boolean {
    const r = this.#registers
    const offset = this.#offsetOf(name)
    if (offset === null) return false
    // The capability registers stand already; a command register reads as zero.
    if (name === "VER" || name === "CAP" || name === "ECAP" || name === "GCMD") return true
    const bits = BigInt.asUintN(64, value)
    r.put(offset, lo32(bits))
    if (offset % 8 === 0 && sizeOf(name) === 8) r.put(offset + 4, hi32(bits))
    return true
  }

  #offsetOf(name: string): number | null {
    const r = this.#registers
    if (isRegisterName(name)) return reg.REGISTERS[name][0]
    if (name === "IVA") return r.iva
    if (name === "IOTLB") return r.iotlb
    const record = /^FRCD(\d{1,3})_(LO|HI)$/.exec(name)
    if (record === null || Number(record[1]) >= r.frcdCount) return null
    return r.frcd + Number(record[1]) * FRCD_BYTES + (record[2] === "HI" ? 8 : 0)
  }

  #written(offset: number, value: number): void {
    const r = this.#registers
    switch (offset) {
      case OFFSETS.GCMD:
        this.#globalCommand(value)
        return
      case OFFSETS.CCMD_HI:
        if ((value & reg.CCMD_ICC_HI) !== 0) this.#queue.contextCommand()
        return
      case OFFSETS.FSTS:
        this.log.refresh()
        this.#queue.run()
        return
      case OFFSETS.FECTL:
        this.log.interrupt.deliver()
        return
      case OFFSETS.IQT:
        this.#queue.run()
        return
      case OFFSETS.ICS:
        this.#queue.completionServed()
        return
      case OFFSETS.PRS:
        this.#pageRequests.served()
        return
      case OFFSETS.PECTL:
        this.#pageRequests.interrupt.deliver()
        return
      case OFFSETS.IECTL:
        this.#queue.interrupt.deliver()
        return
    }
    if (offset === r.iotlb + 4 && (value & reg.IOTLB_IVT_HI) !== 0) this.#queue.iotlbCommand()
    if (offset >= r.frcd && offset < r.frcd + r.frcdCount * FRCD_BYTES) this.log.refresh()
  }

  /**
   * Commands are done at once, in an order that suits a write with several: pointers, queue, enables. The book asks
   * software to send one at a time and leaves such a write undefined.
   */
  #globalCommand(command: number): void {
    const r = this.#registers
    if ((command & reg.SRTP) !== 0) {
      this.#latchRoot()
      if (this.#features.rootPointerInvalidates) this.#caches.dropAll()
      r.set("GSTS", (r.get("GSTS") | reg.SRTP) >>> 0)
    }
    if ((command & reg.SIRTP) !== 0 && this.#features.interruptRemapping) {
      r.set("GSTS", (r.get("GSTS") | reg.SIRTP) >>> 0)
    }
    if (this.#features.interruptRemapping) this.#follow(command, reg.IRE | reg.CFI)
    if (this.#features.queuedInvalidation) this.#follow(command, reg.QIE)
    this.#follow(command, reg.TE)
    const status = r.get("GSTS")
    this.#enable((status & reg.TE) !== 0)
    if ((status & reg.QIE) === 0) r.set("IQH", 0)
    if ((status & (reg.TE | reg.IRE)) === 0) this.log.resetIndex()
    this.#queue.run()
  }

  #enable(enabled: boolean): void {
    this.enabled = enabled
    this.#caches.forgetPlain()
    this.answers = enabled && this.#caches.tlb.recent.enabled
  }

  /** Status bits that show the command bits as last written. */
  #follow(command: number, bits: number): void {
    const r = this.#registers
    r.set("GSTS", ((r.get("GSTS") & ~bits) | (command & bits)) >>> 0)
  }

  /** RTADDR_REG takes effect with SRTP. §11.4.5. */
  #latchRoot(): void {
    const t = this.transaction
    t.rootHi = this.#registers.getHi("RTADDR")
    t.rootLo = this.#registers.get("RTADDR")
    this.#caches.forgetAnswers()
    this.#queue.ttm = (t.rootLo >>> reg.TTM_SHIFT) & reg.TTM_MASK
  }
}

function isRegisterName(name: string): name is reg.RegisterName {
  return Object.hasOwn(reg.REGISTERS, name)
}

function sizeOf(name: string): number {
  return isRegisterName(name) ? reg.REGISTERS[name][1] : 8
}

/**
 * A remapping unit of Intel VT-d.
 * @throws EINVAL for a host address width outside 32 to 52 bits, or capability registers that do not fit
 */
export function vtdModel(options: VtdModelOptions): VtdModel {
  return new VtdModel(options)
}
