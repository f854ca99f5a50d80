/**
 * The SMMU as the machine around it sees it: registers to software, translation to devices.
 */
import type { Invalidation, IommuModel, Mmio, TranslationResult, WalkStep } from "@iommu/core"
import { CommandQueue } from "./commands.ts"
import { EventQueue, StalledTransactions } from "./events.ts"
import { Interrupts } from "./interrupts.ts"
import type { SmmuV3ModelOptions } from "./options.ts"
import { Registers } from "./registers.ts"
import { Tracer } from "./trace.ts"
import { Translator } from "./translate.ts"

/** An executable model of an SMMUv3, Non-secure. See docs/smmuv3.md for what it does not model. */
export function smmuv3Model(options: SmmuV3ModelOptions): IommuModel {
  return new SmmuV3Model(options)
}

class SmmuV3Model implements IommuModel {
  readonly vendor = "smmuv3"
  readonly mmio: Mmio
  readonly result: TranslationResult
  readonly #memory: SmmuV3ModelOptions["memory"]
  readonly #registers: Registers
  readonly #interrupts: Interrupts
  readonly #commands: CommandQueue
  readonly #stalled: StalledTransactions
  readonly #translator: Translator
  #trace: ((step: WalkStep) => void) | null = null

  constructor(options: SmmuV3ModelOptions) {
    this.#memory = options.memory
    const registers = new Registers(options.id ?? {})
    this.#registers = registers
    this.#interrupts = new Interrupts(options.memory, registers)
    this.#stalled = new StalledTransactions(registers)
    this.#commands = new CommandQueue(options.memory, registers, this.#interrupts, this.#stalled)
    const events = new EventQueue(options.memory, registers, this.#interrupts)
    this.#translator = new Translator(options.memory, registers, events, this.#stalled)
    registers.effects = {
      runCommands: () => this.#commands.run(),
      translationDisabled: () => this.#stalled.releaseAll(),
    }
    this.mmio = registers
    this.result = this.#translator.result
  }

  translate(device: number, pasid: number, iovaHi: number, iovaLo: number, access: number): number {
    return this.#translator.translate(device, pasid, iovaHi, iovaLo, access)
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
    this.#stalled.releaseAll()
    return this.#registers.restore(values)
  }
}
