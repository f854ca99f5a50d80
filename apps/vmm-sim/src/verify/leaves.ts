/**
 * All leaves of a device's tables, read through the model alone: whatever the format, a walk that finds nothing says
 * by its last table read how far the same emptiness reaches, so that every entry of every table is walked once.
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
  /** False when there were more than could be read: tables that refer to themselves. */
  readonly complete: boolean
}

const ADDRESS_BITS = 64
/** A table of 4 GiB in 4 KiB pages has 2^20 leaves; tables that form a loop have no end. */
const MAX_LEAVES = 1 << 20
const MAX_WALKS = 1 << 23

export function readLeaves(model: IommuModel, device: number): Leaves {
  return new LeafReader(model, device).read()
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
  readonly #device: number
  readonly #leaves: Leaf[] = []
  /** log2 of the span of one entry, by table and depth. */
  readonly #spans = new Map<string, number>()
  #walks = 0
  #stage: 0 | 1 | 2 = 0
  /** Table reads of the last traced walk, and the last of them. */
  #depth = 0
  #last: WalkStep | null = null
  readonly #onStep = (step: WalkStep): void => {
    if (step.stage === 0) return
    this.#depth++
    this.#last = step
  }

  constructor(model: IommuModel, device: number) {
    this.#model = model
    this.#device = device
  }

  read(): Leaves {
    let iova = 0n
    const end = 1n << BigInt(ADDRESS_BITS)
    while (iova < end && this.#leaves.length < MAX_LEAVES && this.#walks < MAX_WALKS) {
      const readable = this.#tracedRead(iova)
      const mapped = readable || this.#walk(iova, ACCESS_WRITE)
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

  /** @returns where the entry ends at which the last traced walk, of `iova`, stopped */
  #skipHole(iova: bigint): bigint {
    const stop = this.#stop()
    if (stop === null) return iova + (1n << BigInt(this.#spanOf(iova, null)))
    this.#stage = stop.stage
    const table = `${stop.depth} ${stop.table}`
    const known = this.#spans.get(table)
    if (known !== undefined && iova % (1n << BigInt(known)) === 0n) return iova + (1n << BigInt(known))
    const span = this.#spanOf(iova, stop)
    this.#spans.set(table, span)
    return iova + (1n << BigInt(span))
  }

  /** log2 of the largest aligned block at `iova` in which walks stop at the same entry. */
  #spanOf(iova: bigint, stop: Stop | null): number {
    let span = PAGE_SHIFT
    while (span < ADDRESS_BITS && iova % (1n << BigInt(span + 1)) === 0n) {
      this.#tracedRead(iova + (1n << BigInt(span)))
      const here = this.#stop()
      if (here?.table !== stop?.table || here?.index !== stop?.index) return span
      span++
    }
    return span
  }

  #tracedRead(iova: bigint): boolean {
    this.#depth = 0
    this.#last = null
    this.#model.trace = this.#onStep
    const allowed = this.#walk(iova, ACCESS_READ)
    this.#model.trace = null
    return allowed
  }

  #stop(): Stop | null {
    const last = this.#last
    if (last === null || last.stage === 0) return null
    return { table: last.table, index: last.index, stage: last.stage, depth: this.#depth }
  }

  #walk(iova: bigint, access: number): boolean {
    this.#walks++
    return this.#model.translate(this.#device, NO_PASID, hi32(iova), lo32(iova), access) === 0
  }
}
