/**
 * The PRI queue, whose producer the SMMU is, and the answers that it gives by itself. Arm IHI 0070 G.b chapter 8.
 */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  hi32,
  lo32,
  type PageRequest,
  type PhysicalMemory,
  PRI_RESPONSE_FAILURE,
  PRI_SUCCESS,
} from "@iommu/core"
import { EVENTS, PPR } from "../spec/events.ts"
import * as reg from "../spec/registers.ts"
import type { AtsPort } from "./ats.ts"
import { ABORT } from "./device-entry.ts"
import type { Interrupts } from "./interrupts.ts"
import type { Registers } from "./registers.ts"
import type { Translator } from "./translate.ts"

export class PageRequestQueue {
  readonly #memory: PhysicalMemory
  readonly #registers: Registers
  readonly #interrupts: Interrupts
  readonly #translator: Translator
  readonly #port: AtsPort

  constructor(
    memory: PhysicalMemory,
    registers: Registers,
    interrupts: Interrupts,
    translator: Translator,
    port: AtsPort,
  ) {
    this.#memory = memory
    this.#registers = registers
    this.#interrupts = interrupts
    this.#translator = translator
    this.#port = port
  }

  /** Takes a page request, or a Stop PASID marker, which is never answered. */
  submit(request: PageRequest): void {
    if (!this.#enabled || this.#aborted) {
      this.#answer(request, null, PRI_RESPONSE_FAILURE)
      return
    }
    if (this.#overflows()) {
      this.#discard(request)
      return
    }
    if (!this.#write(request)) {
      this.#interrupts.globalError(reg.GERROR_PRIQ_ABT_ERR)
      this.#answer(request, null, PRI_RESPONSE_FAILURE)
    }
  }

  /** CR0.SMMUEN 0 counts as PRIQEN 0, §6.3.9.6. */
  get #enabled(): boolean {
    const r = this.#registers
    return r.features.pri && r.translates && (r.get("CR0ACK") & reg.CR0_PRIQEN) !== 0
  }

  get #aborted(): boolean {
    const r = this.#registers
    return ((r.get("GERROR") ^ r.get("GERRORN")) & reg.GERROR_PRIQ_ABT_ERR) !== 0
  }

  get #sizeLg2(): number {
    const r = this.#registers
    return Math.min(Number(r.get64("PRIQ_BASE") & BigInt(reg.QUEUE_BASE_LOG2SIZE)), r.features.priqs)
  }

  get #used(): number {
    return (this.#registers.get("PRIQ_PROD") - this.#registers.get("PRIQ_CONS")) & ((2 << this.#sizeLg2) - 1)
  }

  /** An overflow that software has not acknowledged keeps all requests out, though there may be room again. §8.1. */
  #overflows(): boolean {
    const r = this.#registers
    const prod = r.get("PRIQ_PROD")
    const active = ((prod ^ r.get("PRIQ_CONS")) & reg.QUEUE_PROD_OVFLG) !== 0
    if (active) return true
    if (this.#used < 1 << this.#sizeLg2) return false
    r.set("PRIQ_PROD", prod ^ reg.QUEUE_PROD_OVFLG)
    return true
  }

  #write(request: PageRequest): boolean {
    const r = this.#registers
    const lg2 = this.#sizeLg2
    const prod = r.get("PRIQ_PROD")
    const wasEmpty = this.#used === 0
    const base = r.get64("PRIQ_BASE")
    const baseLo = lo32(base) & reg.QUEUE_BASE_ADDR_LO & -(2 ** Math.max(5, lg2 + 4))
    const at = this.#memory.find(
      hi32(base) & reg.QUEUE_BASE_ADDR_HI & r.physicalMaskHi,
      baseLo | ((prod & ((1 << lg2) - 1)) << 4),
    )
    if (at < 0) return false
    for (const [word, value] of entry(request).entries()) {
      this.#memory.words[at + 2 * word] = lo32(value)
      this.#memory.words[at + 2 * word + 1] = hi32(value)
    }
    r.set("PRIQ_PROD", (prod & reg.QUEUE_PROD_OVFLG) | ((prod + 1) & ((2 << lg2) - 1)))
    if (this.#lastOnly ? request.last : wasEmpty) this.#interrupts.pageRequests()
    return true
  }

  /** PRIQ_IRQ_CFG2.LO: interrupts for the last request of a group, also for those that overflow. */
  get #lastOnly(): boolean {
    return (this.#registers.get("PRIQ_IRQ_CFG2") & reg.PRIQ_IRQ_CFG2_LO) !== 0
  }

  /** Overflow: the last request of a group is answered so that the device tries again. §8.1. */
  #discard(request: PageRequest): void {
    if (this.#lastOnly && request.last) this.#interrupts.pageRequests()
    if (!request.last) return
    const { features } = this.#registers
    if (request.pasid === null || features.ssidSize === 0) this.#answer(request, null, PRI_SUCCESS)
    else if (features.pps) this.#answer(request, request.pasid, PRI_SUCCESS)
    else if (!isStopMarker(request)) this.#answerAsStream(request, request.pasid)
  }

  /** STE.PPAR says whether the answer has a PASID; without a valid STE it is a failure. */
  #answerAsStream(request: PageRequest, pasid: number): void {
    const { streams, transaction } = this.#translator
    this.#translator.begin(
      request.device,
      pasid,
      hi32(request.address),
      lo32(request.address),
      accessOf(request),
    )
    const status = streams.find(transaction.device)
    if (status === 0 || status === ABORT) {
      this.#answer(request, streams.entry.answersWithPasid ? pasid : null, PRI_SUCCESS)
      return
    }
    this.#record(status)
    this.#answer(request, null, PRI_RESPONSE_FAILURE)
  }

  #record(event: number): void {
    const r = this.#registers
    const cr2 = r.get("CR2")
    if (!r.features.atsRecordsErrors || (cr2 & reg.CR2_REC_CFG_ATS) === 0) return
    if (event === EVENTS.C_BAD_STREAMID && (cr2 & reg.CR2_RECINVSID) === 0) return
    this.#translator.reporter.merges = false
    this.#translator.reporter.recorded(event, this.#translator.explain(event))
  }

  #answer(request: PageRequest, pasid: number | null, code: number): void {
    if (!isStopMarker(request)) this.#port.respond(request.device >>> 0, request.group, pasid, code)
  }
}

/** LWR = 0b100 with a PASID. */
function isStopMarker(request: PageRequest): boolean {
  return request.pasid !== null && request.last && !request.read && !request.write
}

function accessOf(request: PageRequest): number {
  return (
    (request.read ? ACCESS_READ : 0) |
    (request.write ? ACCESS_WRITE : 0) |
    (request.execute ? ACCESS_EXEC : 0) |
    (request.privileged ? ACCESS_PRIV : 0)
  )
}

/** X and Priv come with a PASID; SSV is 0 where there are no SubstreamIDs. */
function entry(request: PageRequest): bigint[] {
  const flag = (value: boolean): bigint => (value ? 1n : 0n)
  const withPasid = request.pasid !== null
  return PPR.encode({
    StreamID: BigInt(request.device >>> 0),
    SubstreamID: BigInt((request.pasid ?? 0) & 0xf_ffff),
    Priv: flag(withPasid && request.privileged),
    X: flag(withPasid && request.execute),
    R: flag(request.read),
    W: flag(request.write),
    Last: flag(request.last),
    SSV: flag(withPasid),
    PRGIndex: BigInt(request.group & 0x1ff),
    Address: BigInt.asUintN(64, request.address) >> 12n,
  })
}
