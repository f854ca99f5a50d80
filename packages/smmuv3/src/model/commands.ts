/**
 * The Command queue: which entries are legal, and what each does. Arm IHI 0070 G.b chapter 4, §7.1.
 *
 * Entries are taken as 32-bit words; they are decoded field by field only for who listens.
 */
import { fromHalves, type Invalidation, NO_PASID, type PhysicalMemory } from "@iommu/core"
import * as cmd from "../spec/commands.ts"
import {
  CERROR_ABT,
  CERROR_ATC_INV_SYNC,
  CERROR_ILL,
  CERROR_NONE,
  CMDQ_CONS_ERR_SHIFT,
  CR0_CMDQEN,
  CR0_VMW,
  CR2_E2H,
  GERROR_CMDQ_ERR,
  QUEUE_BASE_ADDR_HI,
  QUEUE_BASE_ADDR_LO,
  QUEUE_BASE_LOG2SIZE,
} from "../spec/registers.ts"
import type { AtsPort } from "./ats.ts"
import { type Caches, Scope } from "./caches.ts"
import type { Prefetcher } from "./device.ts"
import { WORLD_EL2, WORLD_EL2_E2H } from "./device-entry.ts"
import type { Interrupts } from "./interrupts.ts"
import { type Registers, wordOf } from "./registers.ts"
import { ABORT_IT, COMPLETE_IT, type HeldTransactions, RETRY } from "./transaction.ts"

const CR0ACK = wordOf("CR0ACK")
const GERROR = wordOf("GERROR")
const GERRORN = wordOf("GERRORN")
const CMDQ_BASE = wordOf("CMDQ_BASE")
const CMDQ_PROD = wordOf("CMDQ_PROD")
const CMDQ_CONS = wordOf("CMDQ_CONS")

/** Opcodes whose commands have SSec. */
const HAS_SSEC = new Uint8Array(256)
for (const [opcode, layout] of cmd.COMMANDS) if ("SSec" in layout.fields) HAS_SSEC[opcode] = 1

const PAGES_PER_4GIB = 2 ** 20
const VMW_SHIFT = 6
/** CR0.VMW beyond it is Reserved. */
const VMW_LAST = 4
/** SCALE beyond it counts as it, §4.4.1.1. */
const SCALE_LAST = 39
/** First page that TTB1 may translate, and that no address reaches. */
const UPPER_PAGES = 2 ** 51
const NO_PAGE = 2 ** 52

export class CommandQueue {
  prefetcher: Prefetcher | null = null
  onInvalidate: ((invalidation: Invalidation) => void) | null = null
  private readonly memory: PhysicalMemory
  private readonly registers: Registers
  private readonly interrupts: Interrupts
  private readonly held: HeldTransactions
  private readonly port: AtsPort
  private readonly caches: Caches
  private readonly entry = new Uint32Array(4)
  private readonly scope = new Scope()
  private running = false

  constructor(
    memory: PhysicalMemory,
    registers: Registers,
    interrupts: Interrupts,
    held: HeldTransactions,
    port: AtsPort,
    caches: Caches,
  ) {
    this.memory = memory
    this.registers = registers
    this.interrupts = interrupts
    this.held = held
    this.port = port
    this.caches = caches
  }

  /** Consumes commands until the queue is empty, disabled or in error. §4.1.2. */
  run(): void {
    // A listener may write registers; the loop already under way sees what it wrote.
    if (this.running) return
    this.running = true
    const wasFull = this.waiting === this.size
    try {
      while (this.runnable) this.consume()
    } finally {
      this.running = false
    }
    if (wasFull && this.waiting < this.size) this.interrupts.event()
  }

  private get sizeLg2(): number {
    const { words, features } = this.registers
    return Math.min((words[CMDQ_BASE] as number) & QUEUE_BASE_LOG2SIZE, features.cmdqs)
  }

  private get runnable(): boolean {
    const { words } = this.registers
    if (((words[CR0ACK] as number) & CR0_CMDQEN) === 0) return false
    if ((((words[GERROR] as number) ^ (words[GERRORN] as number)) & GERROR_CMDQ_ERR) !== 0) return false
    // §3.5.1: indexes that contradict each other stop consumption.
    const waiting = this.waiting
    return waiting !== 0 && waiting <= this.size
  }

  private get size(): number {
    return 1 << this.sizeLg2
  }

  private get waiting(): number {
    const { words } = this.registers
    return ((words[CMDQ_PROD] as number) - (words[CMDQ_CONS] as number)) & (2 * this.size - 1)
  }

  private consume(): void {
    const { words } = this.registers
    const lg2 = this.sizeLg2
    const cons = words[CMDQ_CONS] as number
    const error = this.fetch(lg2, cons) ? this.execute() : CERROR_ABT
    if (error === CERROR_NONE) {
      words[CMDQ_CONS] = (cons + 1) & ((2 << lg2) - 1)
      // CMD_SYNC completes after its consumption is visible, §4.7.3.
      if ((this.entry[0] & cmd.OPCODE) === cmd.CMD_SYNC) this.interrupts.completion(this.entry)
      return
    }
    words[CMDQ_CONS] = (cons & ((2 << lg2) - 1)) | (error << CMDQ_CONS_ERR_SHIFT)
    this.interrupts.globalError(GERROR_CMDQ_ERR)
  }

  private fetch(lg2: number, cons: number): boolean {
    const { words, physicalMaskHi } = this.registers
    const tableLg2 = Math.max(5, lg2 + 4)
    const baseLo = (words[CMDQ_BASE] as number) & QUEUE_BASE_ADDR_LO & -(1 << tableLg2)
    const baseHi = (words[CMDQ_BASE + 1] as number) & QUEUE_BASE_ADDR_HI & physicalMaskHi
    const at = this.memory.find(baseHi, baseLo | ((cons & ((1 << lg2) - 1)) << 4))
    if (at < 0) return false
    const { entry } = this
    for (let i = 0; i < 4; i++) entry[i] = this.memory.words[at + i] as number
    return true
  }

  private execute(): number {
    const low = this.entry[0]
    const opcode = low & cmd.OPCODE
    if (HAS_SSEC[opcode] === 1 && (low & cmd.SSEC) !== 0) return CERROR_ILL
    if (!this.implements(opcode) || this.hasReservedValue(opcode)) return CERROR_ILL
    switch (opcode) {
      case cmd.CMD_RESUME:
        this.held.resume(this.entry[1], this.entry[2] & 0xffff, this.resumeAction)
        return CERROR_NONE
      case cmd.CMD_STALL_TERM:
        this.held.abortStream(this.entry[1])
        return CERROR_NONE
      case cmd.CMD_SYNC:
        return this.port.takeTimeout() ? CERROR_ATC_INV_SYNC : CERROR_NONE
      case cmd.CMD_PRI_RESP:
      case cmd.CMD_ATC_INV:
        this.reachDevice(opcode)
        return CERROR_NONE
      case cmd.CMD_PREFETCH_CONFIG:
        this.prefetcher?.structures(this.entry[1], this.pasid ?? NO_PASID)
        return CERROR_NONE
      case cmd.CMD_PREFETCH_ADDR:
        this.prefetchAddresses()
        return CERROR_NONE
      default:
        this.invalidate(opcode)
        this.report(opcode)
        return CERROR_NONE
    }
  }

  /** Whether the opcode is one, and what it is for is there. */
  private implements(opcode: number): boolean {
    const { features } = this.registers
    switch (opcode) {
      case cmd.CMD_CFGI_CD:
      case cmd.CMD_CFGI_CD_ALL:
      case cmd.CMD_TLBI_NH_ALL:
      case cmd.CMD_TLBI_NH_ASID:
      case cmd.CMD_TLBI_NH_VA:
      case cmd.CMD_TLBI_NH_VAA:
        return features.s1p
      case cmd.CMD_TLBI_EL2_ALL:
      case cmd.CMD_TLBI_EL2_ASID:
      case cmd.CMD_TLBI_EL2_VA:
      case cmd.CMD_TLBI_EL2_VAA:
        return features.s1p && features.hyp
      case cmd.CMD_TLBI_S12_VMALL:
      case cmd.CMD_TLBI_S2_IPA:
        return features.s2p
      case cmd.CMD_CFGI_VMS_PIDM:
        return features.mpam
      case cmd.CMD_ATC_INV:
        return features.ats
      case cmd.CMD_PRI_RESP:
        return features.pri
      case cmd.CMD_RESUME:
      case cmd.CMD_STALL_TERM:
        return features.stallModel !== 1
      default:
        return cmd.COMMANDS.has(opcode)
    }
  }

  private hasReservedValue(opcode: number): boolean {
    const low = this.entry[0]
    const second = this.entry[2]
    switch (opcode) {
      case cmd.CMD_TLBI_NH_VA:
      case cmd.CMD_TLBI_NH_VAA:
      case cmd.CMD_TLBI_EL2_VA:
      case cmd.CMD_TLBI_EL2_VAA:
      case cmd.CMD_TLBI_S2_IPA:
        // A granule without range and without level, §4.4.1.1.
        return this.granule !== 0 && this.level === 0 && (low & (cmd.TLBI_NUM | cmd.TLBI_SCALE)) === 0
      case cmd.CMD_ATC_INV:
        return (second & cmd.ATC_INV_SIZE) > cmd.ATC_INV_SIZE_ALL
      case cmd.CMD_PRI_RESP:
        return (second & cmd.PRI_RESP_RESP) === cmd.PRI_RESP_RESP
      case cmd.CMD_SYNC:
        return (low & cmd.SYNC_CS) === cmd.SYNC_CS
      default:
        return false
    }
  }

  /** TG, which is there with IDR3.RIL. */
  private get granule(): number {
    return this.registers.features.ril ? (this.entry[2] & cmd.TLBI_TG) >>> cmd.TLBI_TG_SHIFT : 0
  }

  /** TTL; 0 where it is Reserved. TTL128 is Reserved without 128-bit descriptors, and ignored. */
  private get level(): number {
    const level = (this.entry[2] & cmd.TLBI_TTL) >>> cmd.TLBI_TTL_SHIFT
    return level === 1 && this.granule === cmd.TLBI_TG_16KB && !this.registers.features.ds ? 0 : level
  }

  /** §4.3, §4.4. */
  private invalidate(opcode: number): void {
    const caches = this.caches
    const { entry } = this
    const w1 = entry[1]
    const w2 = entry[2]
    const scope = this.scope
    switch (opcode) {
      case cmd.CMD_CFGI_STE:
        caches.dropStreams(w1, 0, (w2 & cmd.LEAF) !== 0)
        return
      case cmd.CMD_CFGI_STE_RANGE:
        caches.dropStreams(w1, (w2 & cmd.CFGI_RANGE) + 1, false)
        return
      case cmd.CMD_CFGI_CD:
        caches.dropContext(w1, entry[0] >>> cmd.SUBSTREAMID_SHIFT, (w2 & cmd.LEAF) !== 0)
        return
      case cmd.CMD_CFGI_CD_ALL:
        caches.dropContexts(w1)
        return
      case cmd.CMD_TLBI_NH_ALL:
      case cmd.CMD_TLBI_NH_ASID:
      case cmd.CMD_TLBI_NH_VA:
      case cmd.CMD_TLBI_NH_VAA:
        this.scopeOfGuest(opcode)
        caches.dropStage1(scope)
        return
      case cmd.CMD_TLBI_EL2_ALL:
      case cmd.CMD_TLBI_EL2_ASID:
      case cmd.CMD_TLBI_EL2_VA:
      case cmd.CMD_TLBI_EL2_VAA:
        this.scopeOfEl2(opcode)
        caches.dropStage1(scope)
        return
      case cmd.CMD_TLBI_S2_IPA:
        scope.all(w1 & cmd.TLBI_VMID, this.vmidMask)
        scope.asid = 0
        this.setRange((this.entry[3] & cmd.IPA_HI) >>> 0, NO_PAGE)
        caches.dropStage2(scope)
        return
      case cmd.CMD_TLBI_S12_VMALL:
      case cmd.CMD_TLBI_NSNH_ALL:
        scope.all(w1 & cmd.TLBI_VMID, opcode === cmd.CMD_TLBI_NSNH_ALL ? 0 : this.vmidMask)
        caches.dropStage1(scope)
        caches.dropStage2(scope)
    }
  }

  /** CMD_TLBI_NH_*: StreamWorld EL1, §4.4.2.1 to §4.4.2.4. */
  private scopeOfGuest(opcode: number): void {
    const w1 = this.entry[1]
    const scope = this.scope
    scope.all(w1 & cmd.TLBI_VMID, this.vmidMask)
    if (opcode === cmd.CMD_TLBI_NH_ALL) return
    if (opcode !== cmd.CMD_TLBI_NH_VAA) scope.asid = w1 >>> cmd.TLBI_ASID_SHIFT
    scope.sparesGlobal = opcode === cmd.CMD_TLBI_NH_ASID
    if (opcode !== cmd.CMD_TLBI_NH_ASID) this.setRange(this.entry[3], UPPER_PAGES)
  }

  /** CMD_TLBI_EL2_*: CR2.E2H says which of the two StreamWorlds, §4.4.2.7 to §4.4.2.10. */
  private scopeOfEl2(opcode: number): void {
    const w1 = this.entry[1]
    const scope = this.scope
    const hosts = (this.registers.get("CR2") & CR2_E2H) !== 0
    scope.all(0, 0xffff)
    scope.worlds = (1 << WORLD_EL2) | (1 << WORLD_EL2_E2H)
    if (opcode === cmd.CMD_TLBI_EL2_ALL) return
    const byAsid = opcode === cmd.CMD_TLBI_EL2_ASID
    scope.worlds = 1 << (hosts || byAsid ? WORLD_EL2_E2H : WORLD_EL2)
    scope.sparesGlobal = byAsid
    if (opcode !== cmd.CMD_TLBI_EL2_VAA) scope.asid = hosts || byAsid ? w1 >>> cmd.TLBI_ASID_SHIFT : 0
    if (!byAsid) this.setRange(this.entry[3], UPPER_PAGES)
  }

  /** Without stage 2 all tags have VMID 0, and the parameter is Reserved. VMW: §3.17.6. */
  private get vmidMask(): number {
    const { words, features } = this.registers
    if (!features.s2p) return 0
    const ignored = ((words[CR0ACK] as number) & CR0_VMW) >>> VMW_SHIFT
    return (0xffff << (ignored > VMW_LAST ? 0 : ignored)) & 0xffff
  }

  /**
   * Address, TG, NUM, SCALE, TTL and Leaf, §4.4.1.1.
   * @param end first page that a range from below it does not reach
   */
  private setRange(hi: number, end: number): void {
    const w0 = this.entry[0]
    const w2 = this.entry[2]
    const scope = this.scope
    scope.first = hi * PAGES_PER_4GIB + (w2 >>> 12)
    scope.last = scope.first
    scope.leaf = (w2 & cmd.LEAF) !== 0
    const granule = this.granule
    if (granule === 0) return
    scope.granule = granule
    scope.level = this.level
    const bits = this.registers.features.ds ? 0x3f : 0x1f
    const scale = Math.min(((w0 & cmd.TLBI_SCALE) >>> cmd.TLBI_SCALE_SHIFT) & bits, SCALE_LAST)
    const num = ((w0 & cmd.TLBI_NUM) >>> cmd.TLBI_NUM_SHIFT) + 1
    // A power is a call of 20 ns.
    const granules = scale === 0 ? num : num * 2 ** scale
    const last = scope.first + granules * (1 << (2 * granule - 2)) - 1
    scope.last = Math.min(last, (scope.first < end ? end : NO_PAGE) - 1)
  }

  /** Ac chooses retry; without it Ab chooses an abort, which TERM_MODEL 1 has alone. §4.7.1. */
  private get resumeAction(): typeof RETRY | typeof ABORT_IT | typeof COMPLETE_IT {
    const [w0] = this.entry
    if ((w0 & cmd.RESUME_AC_RETRY) !== 0) return RETRY
    const aborts = (w0 & cmd.RESUME_AB_ABORT) !== 0 || this.registers.features.termModel
    return aborts ? ABORT_IT : COMPLETE_IT
  }

  /** null where SSV is 0, and where there are no SubstreamIDs. */
  private get pasid(): number | null {
    const [w0] = this.entry
    const has = (w0 & cmd.SSV) !== 0 && this.registers.features.ssidSize !== 0
    return has ? w0 >>> cmd.SUBSTREAMID_SHIFT : null
  }

  /** §4.5.1, §4.5.2. The ATS interface is off together with translation. */
  private reachDevice(opcode: number): void {
    if (!this.registers.translates) return
    if (opcode === cmd.CMD_PRI_RESP) {
      this.port.respondAs(this.entry, this.pasid)
      return
    }
    this.report(opcode)
    this.port.invalidateAs(this.entry, this.pasid)
  }

  private report(opcode: number): void {
    const layout = cmd.COMMANDS.get(opcode)
    if (this.onInvalidate === null || layout === undefined) return
    const [w0, w1, w2, w3] = this.entry
    this.onInvalidate({
      command: layout.name,
      words: [fromHalves(w1, w0), fromHalves(w3, w2)],
      fields: layout.decode([fromHalves(w1, w0), fromHalves(w3, w2)]),
    })
  }

  /** §4.2.2. Strides came with SMMUv3.1. */
  private prefetchAddresses(): void {
    const [, device, w2, w3] = this.entry
    const stride = (w2 & cmd.PREFETCH_STRIDE) >>> cmd.PREFETCH_STRIDE_SHIFT
    this.prefetcher?.addresses(device, this.pasid ?? NO_PASID, {
      first: fromHalves(w3, w2 & cmd.ADDRESS_LO),
      strideLg2: 12 + (this.registers.features.minor === 0 ? 0 : stride),
      count: 2 ** (w2 & cmd.PREFETCH_SIZE),
    })
  }
}
