/**
 * The SMMU as the machine around it sees it: registers to software, translation to devices.
 */
import {
  type AtsCompletion,
  type AtsDevice,
  type AtsModel,
  cachePolicies,
  type Fault,
  type HoldingModel,
  type Invalidation,
  type IommuModel,
  type Mmio,
  type PageRequest,
  type Release,
  type TranslationResult,
  type WalkStep,
} from "@iommu/core"
import { AtsPort, AtsService } from "./ats.ts"
import { Caches } from "./caches.ts"
import { CommandQueue } from "./commands.ts"
import { EventQueue } from "./events.ts"
import { Interrupts } from "./interrupts.ts"
import type { SmmuV3ModelOptions } from "./options.ts"
import { PageRequestQueue } from "./page-requests.ts"
import { Registers } from "./registers.ts"
import { Tracer } from "./trace.ts"
import { HeldTransactions } from "./transaction.ts"
import { Translator } from "./translate.ts"

/** An executable model of an SMMUv3, Non-secure. See docs/smmuv3.md for what it does not model. */
export function smmuv3Model(options: SmmuV3ModelOptions): IommuModel & AtsModel & HoldingModel {
  return new SmmuV3Model(options)
}

class SmmuV3Model implements IommuModel, AtsModel, HoldingModel {
  readonly vendor = "smmuv3"
  readonly mmio: Mmio
  readonly result: TranslationResult
  readonly #memory: SmmuV3ModelOptions["memory"]
  readonly #registers: Registers
  readonly #interrupts: Interrupts
  readonly #commands: CommandQueue
  readonly #held = new HeldTransactions()
  readonly #port = new AtsPort()
  readonly #ats: AtsService
  readonly #pageRequests: PageRequestQueue
  readonly #translator: Translator
  readonly #caches: Caches
  #trace: ((step: WalkStep) => void) | null = null

  constructor(options: SmmuV3ModelOptions) {
    this.#memory = options.memory
    const registers = new Registers(options.id ?? {})
    this.#registers = registers
    this.#interrupts = new Interrupts(options.memory, registers)
    const { memory } = options
    this.#caches = new Caches(cachePolicies(options.caches))
    this.#commands = new CommandQueue(
      memory,
      registers,
      this.#interrupts,
      this.#held,
      this.#port,
      this.#caches,
    )
    const events = new EventQueue(memory, registers, this.#interrupts)
    this.#translator = new Translator(memory, registers, events, this.#held, this.#caches)
    this.#ats = new AtsService(registers, this.#translator)
    this.#pageRequests = new PageRequestQueue(
      memory,
      registers,
      this.#interrupts,
      this.#translator,
      this.#port,
    )
    registers.effects = {
      runCommands: () => {
        this.#commands.run()
        this.#translator.service()
      },
      translationDisabled: () => this.#held.abortAll(),
      eventsConsumed: () => this.#translator.service(),
    }
    this.#held.limit = registers.features.stallMax
    this.mmio = registers
    this.result = this.#translator.result
  }

  translate(device: number, pasid: number, iovaHi: number, iovaLo: number, access: number): number {
    return this.#translator.translate(device, pasid, iovaHi, iovaLo, access)
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

  get onRelease(): ((release: Release) => void) | null {
    return this.#translator.onRelease
  }

  set onRelease(hook: ((release: Release) => void) | null) {
    this.#translator.onRelease = hook
  }

  get trace(): ((step: WalkStep) => void) | null {
    return this.#trace
  }

  set trace(hook: ((step: WalkStep) => void) | null) {
    this.#trace = hook
    this.#translator.trace = hook === null ? null : new Tracer(this.#memory, hook)
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

  restoreRegisters(values: Readonly<Record<string, bigint>>): string[] {
    this.#held.clear()
    const unknown = this.#registers.restore(values)
    this.#caches.clear()
    this.#held.limit = this.#registers.features.stallMax
    return unknown
  }
}
