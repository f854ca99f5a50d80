/**
 * A model at work for a machine outside this process: each translation and each register access is one operation on
 * the guest's memory, and counted.
 */
import {
  type BackedMemory,
  type Fault,
  type IommuModel,
  type Mmio,
  TRANSLATED,
  type TranslationResult,
} from "@iommu/core"

/** Faults that are kept word by word; more are counted. */
const FAULTS_KEPT = 64

export interface ModelCounts {
  translations: number
  /** Translations for which no table had to be read. */
  fromCaches: number
  refused: number
  /** Pages that the longest walk has read, configuration included. */
  longestWalk: number
  readonly faults: Fault[]
  /** 4 KiB pages that translations have read tables from, by their place in the guest's RAM. */
  readonly tablePages: Set<number>
}

export class WatchedModel implements IommuModel {
  readonly vendor: string
  readonly mmio: Mmio
  readonly result: TranslationResult
  readonly counts: ModelCounts = {
    translations: 0,
    fromCaches: 0,
    refused: 0,
    longestWalk: 0,
    faults: [],
    tablePages: new Set(),
  }
  /** Called when a translation has read a table for the first time, while set. */
  onFirstTable: (() => void) | null = null
  /** Called after each translation, with its status. */
  onTranslation:
    | ((device: number, iovaHi: number, iovaLo: number, access: number, status: number) => void)
    | null = null
  readonly #model: IommuModel
  readonly #memory: BackedMemory

  constructor(model: IommuModel, memory: BackedMemory) {
    this.vendor = model.vendor
    this.result = model.result
    this.#model = model
    this.#memory = memory
    const during = <T>(operation: () => T): T => {
      memory.begin()
      try {
        return operation()
      } finally {
        memory.end()
      }
    }
    const { mmio } = model
    this.mmio = {
      read32: offset => mmio.read32(offset),
      read64: offset => mmio.read64(offset),
      write32: (offset, value) => during(() => mmio.write32(offset, value)),
      write64: (offset, value) => during(() => mmio.write64(offset, value)),
    }
  }

  translate(device: number, pasid: number, iovaHi: number, iovaLo: number, access: number): number {
    const { counts } = this
    const memory = this.#memory
    memory.begin()
    memory.onPage = offset => counts.tablePages.add(offset)
    const status = this.#model.translate(device, pasid, iovaHi, iovaLo, access)
    memory.onPage = null
    if (memory.pagesFetched > 0 && this.onFirstTable !== null) {
      this.onFirstTable()
      this.onFirstTable = null
    }
    memory.end()
    counts.translations++
    if (memory.pagesFetched === 0) counts.fromCaches++
    if (memory.pagesFetched > counts.longestWalk) counts.longestWalk = memory.pagesFetched
    if (status !== TRANSLATED) this.#noteFault(this.result.fault)
    this.onTranslation?.(device, iovaHi, iovaLo, access, status)
    return status
  }

  #noteFault(fault: Fault | null): void {
    this.counts.refused++
    if (fault !== null && this.counts.faults.length < FAULTS_KEPT) this.counts.faults.push(fault)
  }

  get trace(): IommuModel["trace"] {
    return this.#model.trace
  }

  set trace(hook: IommuModel["trace"]) {
    this.#model.trace = hook
  }

  get onInvalidate(): IommuModel["onInvalidate"] {
    return this.#model.onInvalidate
  }

  set onInvalidate(hook: IommuModel["onInvalidate"]) {
    this.#model.onInvalidate = hook
  }

  get onInterrupt(): IommuModel["onInterrupt"] {
    return this.#model.onInterrupt
  }

  set onInterrupt(hook: IommuModel["onInterrupt"]) {
    this.#model.onInterrupt = hook
  }

  restoreRegisters(values: Readonly<Record<string, bigint>>): string[] {
    return this.#model.restoreRegisters(values)
  }
}
