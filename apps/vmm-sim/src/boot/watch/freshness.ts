/**
 * Looks for stale translations. Beside a model that forgets nothing until it is told to stands a second one that
 * keeps nothing: each translation is asked of both. Where they differ, hardware would have been free to use what
 * the tables no longer say: software has forgotten an invalidation.
 */
import {
  type BackedMemory,
  backedMemory,
  fromHalves,
  hex64,
  type IommuModel,
  type MemoryBacking,
  NO_PASID,
  type PhysicalMemory,
  type RegisterSpecs,
  TRANSLATED,
} from "@iommu/core"

export interface StaleHit {
  readonly device: number
  readonly iova: string
  /** Where the keeping model went. */
  readonly kept: string
  /** Where the tables lead now: an address, or the reason of a refusal. */
  readonly now: string
}

export interface FreshnessOptions {
  /** The model under test, as it stands after each translation. */
  readonly model: IommuModel
  readonly ramBase: number
  readonly ramBytes: number
  readonly ram: MemoryBacking
  readonly createModel: (memory: PhysicalMemory) => IommuModel
  readonly registers: RegisterSpecs
}

/** Of more than these the number is kept alone. */
const KEPT = 16

export class FreshnessWatch {
  readonly hits: StaleHit[] = []
  /** Translations that were asked of both models. */
  compared = 0
  stale = 0
  readonly #options: FreshnessOptions
  readonly #memory: BackedMemory
  readonly #fresh: IommuModel
  #isRestored = false

  constructor(options: FreshnessOptions) {
    this.#options = options
    // What the second model would write (flags, records) must not reach the guest.
    const readOnly: MemoryBacking = { load: options.ram.load, store: () => undefined }
    this.#memory = backedMemory([{ base: options.ramBase, size: options.ramBytes }], readOnly)
    this.#fresh = options.createModel(this.#memory)
  }

  /** Software has written a register: the second model takes over the state before it is asked again. */
  registersChanged(): void {
    this.#isRestored = false
  }

  /** To be called right after a translation of the model under test, whose result still stands. */
  check(device: number, iovaHi: number, iovaLo: number, access: number, status: number): void {
    this.compared++
    this.#memory.begin()
    if (!this.#isRestored) this.#restore()
    const freshStatus = this.#fresh.translate(device, NO_PASID, iovaHi, iovaLo, access)
    this.#memory.end()
    // A refusal has written to registers of the second model.
    if (freshStatus !== TRANSLATED) this.#isRestored = false
    if (status !== TRANSLATED) return
    const kept = hex64(fromHalves(this.#options.model.result.paHi, this.#options.model.result.paLo))
    const { result } = this.#fresh
    const now =
      freshStatus === TRANSLATED
        ? hex64(fromHalves(result.paHi, result.paLo))
        : (result.fault?.reason ?? "refused")
    if (kept === now) return
    this.stale++
    if (this.hits.length < KEPT)
      this.hits.push({ device, iova: hex64(fromHalves(iovaHi, iovaLo)), kept, now })
  }

  #restore(): void {
    const { mmio } = this.#options.model
    const values = Object.entries(this.#options.registers).map(([name, [offset, bytes]]) => [
      name,
      bytes === 8 ? mmio.read64(offset) : BigInt(mmio.read32(offset)),
    ])
    this.#fresh.restoreRegisters(Object.fromEntries(values))
    this.#isRestored = true
  }
}
