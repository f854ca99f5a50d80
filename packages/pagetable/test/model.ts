/** The naive twin of the builder: a list of leaves and a set of tables, in bigint, with nothing clever. */
import { IOMMU_READ, IOMMU_WRITE } from "@iommu/core"
import type { PageTableFormat } from "../src/index.ts"

export interface Leaf {
  readonly iova: bigint
  readonly size: bigint
  readonly pa: bigint
  readonly prot: number
}

export interface Span {
  readonly first: bigint
  readonly last: bigint
}

/** Largest size that divides both addresses and fits, tried one by one. */
export function naiveBestSize(pageSizes: bigint, iova: bigint, pa: bigint, left: bigint): bigint | null {
  for (let bit = 63n; bit >= 0n; bit--) {
    const size = 1n << bit
    if ((pageSizes & size) !== 0n && iova % size === 0n && pa % size === 0n && size <= left) return size
  }
  return null
}

export class Model {
  readonly leaves: Leaf[] = []
  /** Tables below the root, as `level:first IOVA`. */
  readonly tables: Set<string> = new Set()
  gathered: Span[] = []
  levels: number
  readonly #format: PageTableFormat
  readonly #pageSizes: bigint
  readonly #inputBits: number

  constructor(format: PageTableFormat, pageSizes: bigint, levels: number, inputBits: number) {
    this.#format = format
    this.#pageSizes = pageSizes
    this.#inputBits = inputBits
    this.levels = levels
  }

  /** Leaves that a map would make; null when there would be too many for a test. */
  split(iova: bigint, pa: bigint, size: bigint, prot: number, most: number): Leaf[] | null {
    const leaves: Leaf[] = []
    let done = 0n
    while (done < size) {
      const leaf = naiveBestSize(this.#pageSizes, iova + done, pa + done, size - done)
      if (leaf === null || leaves.length === most) return null
      leaves.push({ iova: iova + done, pa: pa + done, size: leaf, prot })
      done += leaf
    }
    return leaves
  }

  overlaps(iova: bigint, size: bigint): boolean {
    return this.leaves.some(leaf => leaf.iova < iova + size && iova < leaf.iova + leaf.size)
  }

  map(leaves: readonly Leaf[]): void {
    this.#grow(leaves)
    for (const leaf of leaves) {
      const level = this.levelOf(leaf.size)
      for (let above = level; above < this.levels - 1; above++) this.tables.add(this.#table(above, leaf.iova))
      for (let below = 0; below < level; below++) {
        for (const key of this.#tablesIn(below, leaf.iova, leaf.iova + leaf.size - 1n)) this.#dropTable(key)
      }
      this.leaves.push(leaf)
    }
  }

  unmap(iova: bigint, size: bigint): bigint {
    const reach = 1n << BigInt(this.#reachBits())
    const last = (iova + size < reach ? iova + size : reach) - 1n
    const touched = this.leaves
      .filter(leaf => leaf.iova <= last && leaf.iova + leaf.size > iova)
      .sort((a, b) => (a.iova < b.iova ? -1 : 1))
    let removed = 0n
    let end = last
    for (const leaf of touched) {
      const leafLast = leaf.iova + leaf.size - 1n
      if (leaf.iova < iova || (leafLast > last && this.#format.cutLeafGoes === 0)) {
        end = leaf.iova - 1n
        break
      }
      this.leaves.splice(this.leaves.indexOf(leaf), 1)
      this.gathered.push({ first: leaf.iova, last: leafLast })
      removed += leaf.size
    }
    for (let level = 0; level < this.levels - 1; level++) {
      for (const key of this.#tablesIn(level, iova, end)) this.#dropTable(key)
    }
    return removed
  }

  lookUp(iova: bigint): bigint | null {
    const leaf = this.leaves.find(at => at.iova <= iova && iova < at.iova + at.size)
    return leaf === undefined ? null : leaf.pa + (iova - leaf.iova)
  }

  /** Gathered spans, sorted, overlapping and touching ones joined. */
  takeGathered(): Span[] {
    const joined = joinSpans(this.gathered)
    this.gathered = []
    return joined
  }

  levelOf(size: bigint): number {
    let level = 0
    while (size >= this.#itemSize(level + 1)) level++
    return level
  }

  #reachBits(): number {
    const { granuleLg2, indexBits, grows } = this.#format
    return grows === 1 ? Math.min(this.#inputBits, granuleLg2 + this.levels * indexBits) : this.#inputBits
  }

  #grow(leaves: readonly Leaf[]): void {
    const end = leaves.reduce(
      (most, leaf) => (leaf.iova + leaf.size > most ? leaf.iova + leaf.size : most),
      0n,
    )
    while (this.#format.grows === 1 && end > 1n << BigInt(this.#reachBits())) {
      this.levels++
      this.tables.add(this.#table(this.levels - 2, 0n))
    }
  }

  #itemSize(level: number): bigint {
    return 1n << BigInt(this.#format.granuleLg2 + level * this.#format.indexBits)
  }

  /** Key of the table of a level that holds an IOVA's entry. */
  #table(level: number, iova: bigint): string {
    const span = this.#itemSize(level + 1)
    return `${level}:${iova - (iova % span)}`
  }

  #tablesIn(level: number, first: bigint, last: bigint): string[] {
    const span = this.#itemSize(level + 1)
    return [...this.tables].filter(key => {
      const [of, at] = key.split(":")
      return Number(of) === level && BigInt(at as string) >= first && BigInt(at as string) + span - 1n <= last
    })
  }

  #dropTable(key: string): void {
    const [level, at] = key.split(":")
    this.tables.delete(key)
    const first = BigInt(at as string)
    this.gathered.push({ first, last: first + this.#itemSize(Number(level) + 1) - 1n })
  }
}

export function joinSpans(spans: readonly Span[]): Span[] {
  const sorted = [...spans].sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : 0))
  const joined: { first: bigint; last: bigint }[] = []
  for (const span of sorted) {
    const previous = joined.at(-1)
    if (previous && span.first <= previous.last + 1n) {
      if (span.last > previous.last) previous.last = span.last
    } else {
      joined.push({ ...span })
    }
  }
  return joined
}

export const RW: number = IOMMU_READ | IOMMU_WRITE
