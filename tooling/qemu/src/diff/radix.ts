/**
 * Tables for cases, built word by word from a description: nothing of the drivers' builder, whose tables QEMU
 * walks elsewhere. A description may contradict itself, and tables may be damaged afterwards.
 */
import type { Image } from "./image.ts"

/** A format of tables. Level 0 is the last one. */
export interface TableShape {
  readonly granuleLg2: number
  /** Tables that a walk looks up. */
  readonly levels: number
  /** log2 of the entries of the root, where it is not that of the other tables. */
  readonly rootBits?: number
  table(level: number, address: bigint): bigint
  leaf(level: number, address: bigint): bigint
}

/** A range that is mapped by one leaf. */
export interface Mapping {
  readonly iova: bigint
  readonly level: number
  /** Address in the range that the leaf leads to; the leaf itself starts at a multiple of its size. */
  readonly target: bigint
}

/** Gives out tables in turn from several places. */
export class TableAllocator {
  readonly #next: number[]
  #turn = 0

  constructor(places: readonly number[]) {
    this.#next = [...places]
  }

  /** Memory aligned to its size, a power of two of at least 64 bytes. */
  take(bytes: number): number {
    const place = this.#turn++ % this.#next.length
    const at = Math.ceil(this.#next[place] / bytes) * bytes
    this.#next[place] = at + Math.max(bytes, 4096)
    return at
  }
}

export interface BuiltTables {
  readonly root: number
  /** By mapping: address of the entry at each level of its walk, root first. Shorter where another leaf is in the way. */
  readonly paths: readonly (readonly number[])[]
}

/** log2 of the bytes that an entry of a level translates. */
export function entrySizeLg2(shape: TableShape, level: number): number {
  return shape.granuleLg2 + level * (shape.granuleLg2 - 3)
}

/**
 * @param addressOf what a table's entry says of where a table is: an address of stage 2 under stage 1
 */
export function buildTables(
  image: Image,
  shape: TableShape,
  mappings: readonly Mapping[],
  allocator: TableAllocator,
  addressOf: (physical: number) => bigint = BigInt,
): BuiltTables {
  const entryBits = shape.granuleLg2 - 3
  const rootBits = shape.rootBits ?? entryBits
  const root = allocator.take(8 * 2 ** rootBits)
  const tables = new Map<number, number>()
  const leaves = new Set<number>()
  const paths = mappings.map(mapping => {
    const path: number[] = []
    let table = root
    for (let level = shape.levels - 1; level >= mapping.level; level--) {
      const bits = level === shape.levels - 1 ? rootBits : entryBits
      const index = Number((mapping.iova >> BigInt(entrySizeLg2(shape, level))) & ((1n << BigInt(bits)) - 1n))
      const entry = table + index * 8
      path.push(entry)
      if (leaves.has(entry)) return path
      if (level === mapping.level) {
        if (tables.has(entry)) return path
        const size = 1n << BigInt(entrySizeLg2(shape, level))
        leaves.add(entry)
        image.write(entry, shape.leaf(level, mapping.target & -size))
      } else {
        let next = tables.get(entry)
        if (next === undefined) {
          next = allocator.take(8 * 2 ** entryBits)
          tables.set(entry, next)
          image.write(entry, shape.table(level, addressOf(next)))
        }
        table = next
      }
    }
    return path
  })
  // A root without entries is still memory of the case.
  if (image.read(root) === 0n) image.write(root, 0n)
  return { root, paths }
}
