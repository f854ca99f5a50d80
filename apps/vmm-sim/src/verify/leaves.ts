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
  const reader = new LeafReader(model, device)
  const before = model.trace
  model.trace = step => reader.onStep(step)
  try {
    return reader.read()
  } finally {
    model.trace = before
  }
}

class LeafReader {
  readonly #model: IommuModel
  readonly #device: number
  readonly #leaves: Leaf[] = []
  /** log2 of the span of one entry, by table. */
  readonly #spans = new Map<bigint, number>()
  #walks = 0
  #stage: 0 | 1 | 2 = 0
  #last: WalkStep | null = null

  constructor(model: IommuModel, device: number) {
    this.#model = model
    this.#device = device
  }

  onStep(step: WalkStep): void {
    if (step.stage === 0) return
    this.#last = step
    this.#stage = step.stage
  }

  read(): Leaves {
    let iova = 0n
    const end = 1n << BigInt(ADDRESS_BITS)
    while (iova < end && this.#leaves.length < MAX_LEAVES && this.#walks < MAX_WALKS) {
      iova = this.#readLeaf(iova) ?? this.#skipHole(iova)
    }
    return { leaves: this.#leaves, stage: this.#stage, complete: iova >= end }
  }

  /** @returns where the leaf ends, or null without one */
  #readLeaf(iova: bigint): bigint | null {
    // Bypass and identity translate without a table: no leaf.
    const allowed =
      (this.#walk(iova, ACCESS_WRITE) ? ACCESS_WRITE : 0) | (this.#walk(iova, ACCESS_READ) ? ACCESS_READ : 0)
    if (allowed === 0 || this.#last === null) return null
    if ((allowed & ACCESS_READ) === 0) this.#walk(iova, ACCESS_WRITE)
    const { paHi, paLo, sizeLg2 } = this.#model.result
    const size = 1n << BigInt(sizeLg2)
    const start = iova - (iova % size)
    const pa = fromHalves(paHi, paLo)
    this.#leaves.push({ iova: start, pa: pa - (iova - start), size, allowed })
    return start + size
  }

  /** @returns where the entry ends at which the walk of `iova` stopped */
  #skipHole(iova: bigint): bigint {
    this.#walk(iova, ACCESS_READ)
    const stop = this.#last
    const known = stop === null ? undefined : this.#spans.get(stop.table)
    if (known !== undefined && iova % (1n << BigInt(known)) === 0n) return iova + (1n << BigInt(known))
    const span = this.#spanOf(iova, stop)
    if (stop !== null) this.#spans.set(stop.table, span)
    return iova + (1n << BigInt(span))
  }

  /** log2 of the largest aligned block at `iova` in which walks stop at the same entry. */
  #spanOf(iova: bigint, stop: WalkStep | null): number {
    let span = PAGE_SHIFT
    while (span < ADDRESS_BITS && iova % (1n << BigInt(span + 1)) === 0n) {
      const allowed = this.#walk(iova + (1n << BigInt(span)), ACCESS_READ)
      const here = this.#last
      if (allowed || here?.table !== stop?.table || here?.index !== stop?.index) return span
      span++
    }
    return span
  }

  #walk(iova: bigint, access: number): boolean {
    this.#walks++
    this.#last = null
    return this.#model.translate(this.#device, NO_PASID, hi32(iova), lo32(iova), access) === 0
  }
}
