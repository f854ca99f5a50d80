/**
 * The Command queue: which entries are legal, and what each does. Arm IHI 0070 G.b chapter 4, §7.1.
 *
 * Invalidations have nothing to invalidate yet: they are decoded, checked and reported.
 */
import {
  type BitLayout,
  type FieldSpecs,
  fromHalves,
  hi32,
  type Invalidation,
  lo32,
  type PhysicalMemory,
  PRI_INVALID_REQUEST,
  PRI_RESPONSE_FAILURE,
  PRI_SUCCESS,
} from "@iommu/core"
import * as cmd from "../spec/commands.ts"
import {
  CERROR_ABT,
  CERROR_ATC_INV_SYNC,
  CERROR_ILL,
  CERROR_NONE,
  CMDQ_CONS_ERR_SHIFT,
  CR0_CMDQEN,
  GERROR_CMDQ_ERR,
  QUEUE_BASE_ADDR_HI,
  QUEUE_BASE_ADDR_LO,
  QUEUE_BASE_LOG2SIZE,
} from "../spec/registers.ts"
import type { AtsPort } from "./ats.ts"
import type { Interrupts } from "./interrupts.ts"
import type { Features } from "./options.ts"
import type { Registers } from "./registers.ts"
import { ABORT_IT, COMPLETE_IT, type HeldTransactions, RETRY } from "./transaction.ts"

const EL2_TLBI = [cmd.CMD_TLBI_EL2_ALL, cmd.CMD_TLBI_EL2_ASID, cmd.CMD_TLBI_EL2_VA, cmd.CMD_TLBI_EL2_VAA]
const RANGE_TLBI = [
  cmd.CMD_TLBI_NH_VA,
  cmd.CMD_TLBI_NH_VAA,
  cmd.CMD_TLBI_EL2_VA,
  cmd.CMD_TLBI_EL2_VAA,
  cmd.CMD_TLBI_S2_IPA,
]

/** ResponseCode of a PRG Response by Resp, §8.3. */
const RESPONSE_CODES = [PRI_RESPONSE_FAILURE, PRI_INVALID_REQUEST, PRI_SUCCESS]

export class CommandQueue {
  onInvalidate: ((invalidation: Invalidation) => void) | null = null
  readonly #memory: PhysicalMemory
  readonly #registers: Registers
  readonly #interrupts: Interrupts
  readonly #held: HeldTransactions
  readonly #port: AtsPort
  readonly #entry = new Uint32Array(4)
  #running = false

  constructor(
    memory: PhysicalMemory,
    registers: Registers,
    interrupts: Interrupts,
    held: HeldTransactions,
    port: AtsPort,
  ) {
    this.#memory = memory
    this.#registers = registers
    this.#interrupts = interrupts
    this.#held = held
    this.#port = port
  }

  /** Consumes commands until the queue is empty, disabled or in error. §4.1.2. */
  run(): void {
    // A listener may write registers; the loop already under way sees what it wrote.
    if (this.#running) return
    this.#running = true
    try {
      while (this.#runnable) this.#consume()
    } finally {
      this.#running = false
    }
  }

  get #sizeLg2(): number {
    const r = this.#registers
    return Math.min(Number(r.get64("CMDQ_BASE") & BigInt(QUEUE_BASE_LOG2SIZE)), r.features.cmdqs)
  }

  get #runnable(): boolean {
    const r = this.#registers
    if ((r.get("CR0ACK") & CR0_CMDQEN) === 0) return false
    if (((r.get("GERROR") ^ r.get("GERRORN")) & GERROR_CMDQ_ERR) !== 0) return false
    const lg2 = this.#sizeLg2
    const waiting = (r.get("CMDQ_PROD") - r.get("CMDQ_CONS")) & ((2 << lg2) - 1)
    // §3.5.1: indexes that contradict each other stop consumption.
    return waiting !== 0 && waiting <= 1 << lg2
  }

  #consume(): void {
    const r = this.#registers
    const lg2 = this.#sizeLg2
    const cons = r.get("CMDQ_CONS")
    const error = this.#fetch(lg2, cons) ? this.#execute() : CERROR_ABT
    if (error === CERROR_NONE) {
      r.set("CMDQ_CONS", (cons + 1) & ((2 << lg2) - 1))
      if ((this.#entry[0] & cmd.OPCODE) === cmd.CMD_SYNC) this.#signal()
      return
    }
    r.set("CMDQ_CONS", (cons & ((2 << lg2) - 1)) | (error << CMDQ_CONS_ERR_SHIFT))
    this.#interrupts.globalError(GERROR_CMDQ_ERR)
  }

  #fetch(lg2: number, cons: number): boolean {
    const base = this.#registers.get64("CMDQ_BASE")
    const tableLg2 = Math.max(5, lg2 + 4)
    const baseLo = lo32(base) & QUEUE_BASE_ADDR_LO & -(2 ** tableLg2)
    const at = this.#memory.find(
      hi32(base) & QUEUE_BASE_ADDR_HI & this.#registers.physicalMaskHi,
      baseLo | ((cons & ((1 << lg2) - 1)) << 4),
    )
    if (at < 0) return false
    for (let i = 0; i < 4; i++) this.#entry[i] = this.#memory.words[at + i]
    return true
  }

  #execute(): number {
    const opcode = this.#entry[0] & cmd.OPCODE
    const layout = cmd.COMMANDS.get(opcode)
    if (layout === undefined || this.#illegal(opcode, layout)) return CERROR_ILL
    switch (opcode) {
      case cmd.CMD_RESUME:
        this.#held.resume(this.#entry[1], this.#entry[2] & 0xffff, this.#resumeAction)
        break
      case cmd.CMD_STALL_TERM:
        this.#held.abortStream(this.#entry[1])
        break
      case cmd.CMD_SYNC:
        return this.#port.takeTimeout() ? CERROR_ATC_INV_SYNC : CERROR_NONE
      case cmd.CMD_PRI_RESP:
        this.#respond()
        break
      case cmd.CMD_ATC_INV:
        this.#invalidateAtc(layout)
        break
      case cmd.CMD_PREFETCH_CONFIG:
      case cmd.CMD_PREFETCH_ADDR:
        break
      default:
        this.#invalidate(layout)
    }
    return CERROR_NONE
  }

  #illegal(opcode: number, layout: BitLayout<FieldSpecs>): boolean {
    const [low, , second] = this.#entry
    const { features } = this.#registers
    if ("SSec" in layout.fields && (low & cmd.SSEC) !== 0) return true
    if (RANGE_TLBI.includes(opcode) && this.#reservedRange(low, second, features)) return true
    switch (opcode) {
      case cmd.CMD_CFGI_CD:
      case cmd.CMD_CFGI_CD_ALL:
      case cmd.CMD_TLBI_NH_ALL:
      case cmd.CMD_TLBI_NH_ASID:
      case cmd.CMD_TLBI_NH_VA:
      case cmd.CMD_TLBI_NH_VAA:
        return !features.s1p
      case cmd.CMD_TLBI_S12_VMALL:
      case cmd.CMD_TLBI_S2_IPA:
        return !features.s2p
      case cmd.CMD_CFGI_VMS_PIDM:
        return !features.mpam
      case cmd.CMD_ATC_INV:
        return !features.ats || (second & cmd.ATC_INV_SIZE) > cmd.ATC_INV_SIZE_ALL
      case cmd.CMD_PRI_RESP:
        return !features.pri || (second & cmd.PRI_RESP_RESP) === cmd.PRI_RESP_RESP
      case cmd.CMD_RESUME:
      case cmd.CMD_STALL_TERM:
        return features.stallModel === 1
      case cmd.CMD_SYNC:
        return (low & cmd.SYNC_CS) === cmd.SYNC_CS
      default:
        return EL2_TLBI.includes(opcode) && !(features.s1p && features.hyp)
    }
  }

  /** A granule without range and without level is Reserved, §4.4.1.1. */
  #reservedRange(low: number, second: number, features: Features): boolean {
    if (!features.ril || (second & cmd.TLBI_TG) === 0) return false
    const tg = (second & cmd.TLBI_TG) >>> cmd.TLBI_TG_SHIFT
    const ttl = (second & cmd.TLBI_TTL) >>> cmd.TLBI_TTL_SHIFT
    const anyLevel = ttl === 0 || (ttl === 1 && tg === cmd.TLBI_TG_16KB && !features.ds)
    return anyLevel && (low & (cmd.TLBI_NUM | cmd.TLBI_SCALE)) === 0
  }

  /** Ac chooses retry; without it Ab chooses an abort, which TERM_MODEL 1 has alone. §4.7.1. */
  get #resumeAction(): typeof RETRY | typeof ABORT_IT | typeof COMPLETE_IT {
    const [w0] = this.#entry
    if ((w0 & cmd.RESUME_AC_RETRY) !== 0) return RETRY
    const aborts = (w0 & cmd.RESUME_AB_ABORT) !== 0 || this.#registers.features.termModel
    return aborts ? ABORT_IT : COMPLETE_IT
  }

  /** null where SSV is 0, and where there are no SubstreamIDs. */
  get #pasid(): number | null {
    const [w0] = this.#entry
    const has = (w0 & cmd.SSV) !== 0 && this.#registers.features.ssidSize !== 0
    return has ? w0 >>> cmd.SUBSTREAMID_SHIFT : null
  }

  /** §4.5.1. The ATS interface is off together with translation. */
  #invalidateAtc(layout: BitLayout<FieldSpecs>): void {
    if (!this.#registers.translates) return
    this.#invalidate(layout)
    const [w0, device, w2, w3] = this.#entry
    const sizeLg2 = 12 + (w2 & cmd.ATC_INV_SIZE)
    const address = BigInt.asUintN(64, (fromHalves(w3, w2) >> BigInt(sizeLg2)) << BigInt(sizeLg2))
    this.#port.invalidate(device, address, sizeLg2, this.#pasid, (w0 & cmd.ATC_INV_GLOBAL) !== 0)
  }

  /** §4.5.2. */
  #respond(): void {
    if (!this.#registers.translates) return
    const [, device, w2] = this.#entry
    const answer = (w2 & cmd.PRI_RESP_RESP) >>> cmd.PRI_RESP_RESP_SHIFT
    this.#port.respond(device, w2 & cmd.PRI_RESP_PRGINDEX, this.#pasid, RESPONSE_CODES[answer] as number)
  }

  #invalidate(layout: BitLayout<FieldSpecs>): void {
    if (this.onInvalidate === null) return
    const [w0, w1, w2, w3] = this.#entry
    this.onInvalidate({
      command: layout.name,
      words: [fromHalves(w1, w0), fromHalves(w3, w2)],
      fields: layout.decode([fromHalves(w1, w0), fromHalves(w3, w2)]),
    })
  }

  /** CMD_SYNC completes after its consumption is visible, §4.7.3. */
  #signal(): void {
    const [w0, data, w2, w3] = this.#entry
    if ((w0 & cmd.SYNC_CS) >>> cmd.SYNC_CS_SHIFT !== cmd.SIG_IRQ) return
    this.#interrupts.message(fromHalves(w3 & cmd.SYNC_MSIADDRESS_HI, w2 & cmd.SYNC_MSIADDRESS_LO), data)
  }
}
