/**
 * The SMMU as the machine around it sees it: registers to software, translation to devices.
 */
import {
  ACCESS_READ,
  type AtsCompletion,
  type AtsDevice,
  type AtsModel,
  cachePolicies,
  type Fault,
  HELD,
  type HoldingModel,
  hi32,
  type Invalidation,
  type IommuModel,
  lo32,
  type Mmio,
  type PageRequest,
  REFUSED,
  type Release,
  TRANSLATED,
  type TranslationResult,
  type WakingModel,
  type WalkStep,
} from "@iommu/core"
import { AtsPort, AtsService } from "./ats.ts"
import { keepPage, type Outcome } from "./attributes.ts"
import { Caches } from "./caches.ts"
import { CommandQueue } from "./commands.ts"
import { type DeviceEntry, SKIP_STAGE1 } from "./device-entry.ts"
import { EventQueue } from "./events.ts"
import { Interrupts } from "./interrupts.ts"
import type { SmmuV3ModelOptions } from "./options.ts"
import { PageRequestQueue } from "./page-requests.ts"
import { type PlainWalk, WAY_STAGE1 } from "./plain-walk.ts"
import type { RecentPages } from "./recent-pages.ts"
import { Registers } from "./registers.ts"
import { Tracer } from "./trace.ts"
import { ABORT_IT, COMPLETE_IT, type HeldTransaction, HeldTransactions, WAIT } from "./transaction.ts"
import { Translator } from "./translate.ts"

// V8 loads a binding of another module from memory at each use, one of its own not.
const STAGE1 = WAY_STAGE1

/** An executable model of an SMMUv3, Non-secure. See docs/smmuv3.md for what it does not model. */
export function smmuv3Model(options: SmmuV3ModelOptions): IommuModel & AtsModel & HoldingModel & WakingModel {
  return new SmmuV3Model(options)
}

class SmmuV3Model implements IommuModel, AtsModel, HoldingModel, WakingModel {
  readonly vendor = "smmuv3"
  readonly mmio: Mmio
  readonly result: TranslationResult
  readonly #memory: SmmuV3ModelOptions["memory"]
  readonly #registers: Registers
  readonly #interrupts: Interrupts
  readonly #commands: CommandQueue
  readonly #events: EventQueue
  readonly #held = new HeldTransactions()
  readonly #port = new AtsPort()
  readonly #ats: AtsService
  readonly #pageRequests: PageRequestQueue
  // `translate` reads them: a private name (#) costs 2 ns a call.
  private readonly translator: Translator
  private readonly caches: Caches
  private readonly recent: RecentPages
  private readonly plain: PlainWalk
  private readonly outcome: Outcome
  #trace: ((step: WalkStep) => void) | null = null
  onRelease: ((release: Release) => void) | null = null

  constructor(options: SmmuV3ModelOptions) {
    this.#memory = options.memory
    const registers = new Registers(options.id ?? {})
    this.#registers = registers
    this.#interrupts = new Interrupts(options.memory, registers)
    const { memory } = options
    this.caches = new Caches(cachePolicies(options.caches))
    this.#commands = new CommandQueue(
      memory,
      registers,
      this.#interrupts,
      this.#held,
      this.#port,
      this.caches,
    )
    this.#events = new EventQueue(memory, registers, this.#interrupts)
    this.translator = new Translator(memory, registers, this.#events, this.#held, this.caches)
    this.#commands.prefetcher = new CachePrefetcher(registers, this.translator)
    this.#ats = new AtsService(registers, this.translator)
    this.#pageRequests = new PageRequestQueue(
      memory,
      registers,
      this.#interrupts,
      this.translator,
      this.#port,
    )
    registers.effects = {
      runCommands: () => {
        this.#commands.run()
        this.#serveHeld()
      },
      translationEnabled: () => this.translator.streams.configure(),
      translationDisabled: () => {
        this.caches.disable()
        this.#held.abortAll()
      },
      eventsConsumed: () => this.#serveHeld(),
    }
    this.#held.limit = registers.features.stallMax
    this.mmio = registers
    this.recent = this.caches.recent
    this.plain = this.translator.plain
    this.outcome = this.translator.result
    this.result = this.outcome
  }

  translate(device: number, pasid: number, iovaHi: number, iovaLo: number, access: number): number {
    // What nearly all transactions need stands here, for each call less: a recent answer, or a plain walk.
    const { caches, recent } = this
    if (recent.enabled && recent.find(device, pasid, iovaHi, iovaLo, access, this.outcome)) return TRANSLATED
    if (device === caches.device && pasid === caches.pasid) {
      const { way } = caches
      if (way === STAGE1) {
        if (this.plain.walk(iovaHi, iovaLo, access)) return TRANSLATED
      } else if (way > STAGE1 && this.plain.follow(way, iovaHi | 0, iovaLo | 0, access)) return TRANSLATED
    }
    return this.translator.translate(device, pasid, iovaHi, iovaLo, access)
  }

  get completion(): AtsCompletion {
    return this.#ats.completion
  }

  get atsFault(): Fault | null {
    return this.#ats.atsFault
  }

  get reached(): Readonly<{ paHi: number; paLo: number; sizeLg2: number }> {
    return this.#ats.reached
  }

  connect(device: number, ats: AtsDevice): void {
    this.#port.connect(device, ats)
  }

  translationRequest(device: number, pasid: number, iovaHi: number, iovaLo: number, access: number): number {
    return this.#ats.translationRequest(device, pasid, iovaHi, iovaLo, access)
  }

  translatedRequest(device: number, pasid: number, paHi: number, paLo: number, access: number): number {
    return this.#ats.translatedRequest(device, pasid, paHi, paLo, access)
  }

  pageRequest(request: PageRequest): void {
    this.#pageRequests.submit(request)
  }

  get trace(): ((step: WalkStep) => void) | null {
    return this.#trace
  }

  set trace(hook: ((step: WalkStep) => void) | null) {
    this.#trace = hook
    this.translator.trace = hook === null ? null : new Tracer(this.#memory, hook)
  }

  get onInvalidate(): ((invalidation: Invalidation) => void) | null {
    return this.#commands.onInvalidate
  }

  set onInvalidate(hook: ((invalidation: Invalidation) => void) | null) {
    this.#commands.onInvalidate = hook
  }

  get onInterrupt(): ((address: bigint, data: number) => void) | null {
    return this.#interrupts.onInterrupt
  }

  set onInterrupt(hook: ((address: bigint, data: number) => void) | null) {
    this.#interrupts.onInterrupt = hook
  }

  get onEvent(): (() => void) | null {
    return this.#interrupts.onEvent
  }

  set onEvent(hook: (() => void) | null) {
    this.#interrupts.onEvent = hook
  }

  /**
   * Tries held transactions again that may be, ends those that are to end. Called after each change by software;
   * what a listener to an interrupt changes during a transaction is served with the next change.
   */
  #serveHeld(): void {
    if (this.translator.busy || this.#held.count === 0) return
    for (const held of this.#held.all) this.#serve(held)
  }

  #serve(held: HeldTransaction): void {
    if (held.next === ABORT_IT || held.next === COMPLETE_IT) {
      this.translator.terminate(held, held.next === COMPLETE_IT)
      this.#release(held, REFUSED)
      return
    }
    if (held.next === WAIT && (held.stag !== null || !this.#events.writable)) return
    held.next = WAIT
    const status = this.translator.retry(held)
    if (status !== HELD) this.#release(held, status === TRANSLATED ? TRANSLATED : REFUSED)
  }

  #release(held: HeldTransaction, status: Release["status"]): void {
    this.#held.release(held)
    if (this.onRelease !== null) this.onRelease({ held: held.held, status })
  }

  restoreRegisters(values: Readonly<Record<string, bigint>>): string[] {
    this.#held.clear()
    const unknown = this.#registers.restore(values)
    this.caches.clear()
    this.#held.limit = this.#registers.features.stallMax
    return unknown
  }
}

/** What CMD_PREFETCH_* bring into the caches. §4.2. */
export interface Prefetcher {
  structures(device: number, pasid: number): void
  addresses(device: number, pasid: number, span: PrefetchSpan): void
}

interface PrefetchSpan {
  readonly first: bigint
  readonly strideLg2: number
  readonly count: number
}

/** The most translations that one command brings: an implementation limits itself, §4.2.2. */
const PREFETCH_LIMIT = 64

/**
 * Leaves in the caches what reads of the device would, and nothing else: no record, no stall, no dirty state.
 * Access flags may be set, as by speculative reads. §4.2, §3.14.
 */
class CachePrefetcher implements Prefetcher {
  readonly #registers: Registers
  readonly #translator: Translator
  readonly #found: TranslationResult = {
    paHi: 0,
    paLo: 0,
    sizeLg2: 0,
    allowed: 0,
    ipaHi: 0,
    ipaLo: 0,
    stage1SizeLg2: 0,
    stage2SizeLg2: 0,
    fault: null,
  }

  constructor(registers: Registers, translator: Translator) {
    this.#registers = registers
    this.#translator = translator
  }

  structures(device: number, pasid: number): void {
    const { caches, site } = this.#translator
    if (!this.#registers.translates || !caches.keepsStructures) return
    this.#enter(device, pasid, 0n)
    site.reset()
  }

  addresses(device: number, pasid: number, { first, strideLg2, count }: PrefetchSpan): void {
    const { caches, site } = this.#translator
    if (!this.#registers.translates || !(caches.keepsStructures || caches.keepsTranslations)) return
    for (let n = 0; n < Math.min(count, PREFETCH_LIMIT); n++) {
      const address = BigInt.asUintN(64, first + (BigInt(n) << BigInt(strideLg2)))
      const entry = this.#enter(device, pasid, address)
      if (entry !== null && caches.keepsTranslations) this.#translate(entry)
      site.reset()
    }
  }

  /** @returns the STE when it and the CD, if there is one, are valid */
  #enter(device: number, pasid: number, address: bigint): DeviceEntry | null {
    const { contexts, streams, transaction } = this.#translator
    this.#translator.begin(device, pasid, hi32(address), lo32(address), ACCESS_READ)
    if (streams.find(transaction.device) !== 0) return null
    const { entry } = streams
    this.#translator.enter(entry)
    const context = entry.contextOf(pasid)
    if (context === SKIP_STAGE1) return entry
    return context >= 0 && contexts.find(entry, context) === 0 ? entry : null
  }

  #translate(entry: DeviceEntry): void {
    const { stage2, transaction } = this.#translator
    const { hi, lo, pasid } = transaction
    if (entry.contextOf(pasid) !== SKIP_STAGE1) {
      this.#keepPage(entry)
    } else if (entry.stage2 && !this.#translator.exceeds(this.#registers.features.iasBits)) {
      stage2.walk(hi, lo, 0)
    }
  }

  #keepPage(entry: DeviceEntry): void {
    const { caches, contexts, stage2, transaction } = this.#translator
    const { hi, lo } = transaction
    const stage1 = this.#translator.enterStage1(entry)
    if (stage1.findPage(hi, lo) >= 0 || stage1.walk(hi, lo, 0) !== 0) return
    if (entry.stage2 && stage2.walk(stage1.outHi, stage1.outLo, 0) !== 0) return
    const found = this.#found
    const out = entry.stage2 ? stage2 : stage1
    found.paHi = out.outHi
    found.paLo = out.outLo
    found.ipaHi = stage1.outHi
    found.ipaLo = stage1.outLo
    found.stage1SizeLg2 = stage1.sizeLg2
    found.stage2SizeLg2 = entry.stage2 ? stage2.sizeLg2 : 0
    found.sizeLg2 = Math.min(stage1.sizeLg2, out.sizeLg2)
    keepPage(caches.pages, contexts.context, transaction, found, stage1, stage2)
  }
}
