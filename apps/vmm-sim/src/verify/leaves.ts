/**
 * All leaves of a device's tables, read through the model, whatever the format: a walk that finds nothing says by its
 * last table read how far the same emptiness reaches, so that every entry of every table is walked once. Entries of
 * zeros, which no format takes for a leaf or a table, are skipped without a walk.
 */
import {
  ACCESS_READ,
  ACCESS_WRITE,
  fromHalves,
  hi32,
  type IommuModel,
  lo32,
  NO_PASID,
  PAGE_SHIFT,
  PAGE_SIZE,
  type PhysicalMemory,
  type WalkStep,
} from "@iommu/core"

export interface Leaf {
  readonly iova: bigint
  readonly pa: bigint
  readonly size: bigint
  /** ACCESS_READ and ACCESS_WRITE as the leaf allows them. */
  readonly allowed: number
}

export interface Leaves {
  /** In address order. */
  readonly leaves: readonly Leaf[]
  /** Stage of the tables walked; 0 when the device has none. */
  readonly stage: 0 | 1 | 2
  /** False when the walks ran out: tables that refer to themselves. */
  readonly complete: boolean
}

const ADDRESS_BITS = 64
const ENTRY_BYTES = 8
const ENTRIES_PER_PAGE = PAGE_SIZE / ENTRY_BYTES
/** Walks per entry of a table, two as a rule and more for the first of each table. */
const WALKS_PER_ENTRY = 4

/** A machine whose tables can be read. */
export interface TableMachine {
  readonly model: IommuModel
  readonly memory: PhysicalMemory
}

/**
 * @param tablePages 4 KiB pages that can be tables; tables that form a loop have no end, and take more walks than
 *   these pages have entries
 */
export function readLeaves(machine: TableMachine, device: number, tablePages: number): Leaves {
  return new LeafReader(machine, device, tablePages * ENTRIES_PER_PAGE * WALKS_PER_ENTRY).read()
}

/** The entry at which a walk stops; null where a walk reads no table. */
interface Stop {
  readonly table: bigint
  readonly index: number
  readonly stage: 1 | 2
  readonly depth: number
}

class LeafReader {
  readonly #model: IommuModel
  readonly #memory: PhysicalMemory
  readonly #device: number
  readonly #leaves: Leaf[] = []
  /** log2 of the span of one entry, by table and depth. */
  readonly #spans = new Map<string, number>()
  #walksLeft: number
  #stage: 0 | 1 | 2 = 0
  /** Table reads of the last traced walk. */
  readonly #steps: WalkStep[] = []
  readonly #onStep = (step: WalkStep): void => {
    if (step.stage !== 0) this.#steps.push(step)
  }

  constructor({ model, memory }: TableMachine, device: number, maxWalks: number) {
    this.#model = model
    this.#memory = memory
    this.#device = device
    this.#walksLeft = maxWalks
  }

  read(): Leaves {
    let iova = 0n
    const end = 1n << BigInt(ADDRESS_BITS)
    while (iova < end && this.#walksLeft > 0) {
      const mapped = this.#walk(iova, ACCESS_READ) || this.#walk(iova, ACCESS_WRITE)
      iova = mapped && this.#throughTable() ? this.#takeLeaf(iova) : this.#skipHole(iova)
    }
    return { leaves: this.#leaves, stage: this.#stage, complete: iova >= end }
  }

  /** Bypass and interrupts pass without a table. */
  #throughTable(): boolean {
    const { stage1SizeLg2, stage2SizeLg2 } = this.#model.result
    return stage1SizeLg2 !== 0 || stage2SizeLg2 !== 0
  }

  /** @returns where the leaf ends that was walked last */
  #takeLeaf(iova: bigint): bigint {
    const { paHi, paLo, sizeLg2, allowed, stage1SizeLg2 } = this.#model.result
    const size = 1n << BigInt(sizeLg2)
    const start = iova - (iova % size)
    const pa = fromHalves(paHi, paLo) - (iova - start)
    this.#leaves.push({ iova: start, pa, size, allowed: allowed & (ACCESS_READ | ACCESS_WRITE) })
    this.#stage = stage1SizeLg2 === 0 ? 2 : 1
    return start + size
  }

  /** @returns where the entry ends at which the walk of `iova` stops */
  #skipHole(iova: bigint): bigint {
    const stop = this.#stopOf(iova)
    if (stop === null) return iova + (1n << BigInt(this.#spanOf(iova, null)))
    this.#stage = stop.stage
    const table = `${stop.depth} ${stop.table}`
    let span = this.#spans.get(table)
    if (span === undefined || iova % (1n << BigInt(span)) !== 0n) {
      span = this.#spanOf(iova, stop)
      this.#spans.set(table, span)
    }
    return iova + (BigInt(1 + this.#zerosAfter(stop)) << BigInt(span))
  }

  /** How many entries of zeros follow an entry in the same page of its table. */
  #zerosAfter({ table, index }: Stop): number {
    const entry = table + BigInt(index * ENTRY_BYTES)
    const word = this.#memory.find(hi32(entry), lo32(entry))
    if (word < 0) return 0
    const left = ENTRIES_PER_PAGE - 1 - Number(entry % BigInt(PAGE_SIZE)) / ENTRY_BYTES
    const { words } = this.#memory
    let zeros = 0
    while (zeros < left && words[word + 2 * zeros + 2] === 0 && words[word + 2 * zeros + 3] === 0) zeros++
    return zeros
  }

  /** log2 of the largest aligned block at `iova` in which walks stop at the same entry. */
  #spanOf(iova: bigint, stop: Stop | null): number {
    let span = PAGE_SHIFT
    while (span < ADDRESS_BITS && iova % (1n << BigInt(span + 1)) === 0n) {
      const here = this.#stopOf(iova + (1n << BigInt(span)))
      if (here?.table !== stop?.table || here?.index !== stop?.index) return span
      span++
    }
    return span
  }

  /** A walk that is traced: tracing costs more than the walk. */
  #stopOf(iova: bigint): Stop | null {
    this.#steps.length = 0
    this.#model.trace = this.#onStep
    this.#walk(iova, ACCESS_READ)
    this.#model.trace = null
    const last = this.#steps.at(-1)
    if (last === undefined || last.stage === 0) return null
    return { table: last.table, index: last.index, stage: last.stage, depth: this.#steps.length }
  }

  #walk(iova: bigint, access: number): boolean {
    this.#walksLeft--
    return this.#model.translate(this.#device, NO_PASID, hi32(iova), lo32(iova), access) === 0
  }
}
