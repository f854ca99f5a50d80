/**
 * Disjoint intervals of 64-bit addresses in an AVL tree over typed arrays: insert, remove, look-up and the search for
 * a hole take a number of steps that grows with the logarithm of their count.
 *
 * Bounds are kept in unsigned 32-bit halves. Each node also knows the largest hole that lies before any interval of
 * its subtree, as a double: sizes are rounded, but never so that a hole that is large enough seems too small.
 */
import { hi32, lo32, U64_MAX } from "@iommu/core"
import { NO_NODE, TreeNodes } from "./tree-nodes.ts"

export interface Interval {
  readonly start: bigint
  /** Inclusive. */
  readonly last: bigint
}

export class IntervalTree<T extends Interval> {
  readonly #nodes = new TreeNodes()
  readonly #values: (T | undefined)[] = []
  #root = NO_NODE
  #size = 0

  get size(): number {
    return this.#size
  }

  /** The caller has made sure that nothing overlaps it. */
  insert(value: T): void {
    const node = this.#nodes.alloc(value.start, value.last)
    this.#values[node] = value
    this.#root = this.#nodes.insert(this.#root, node)
    this.#size++
  }

  /** The value must be in the tree. */
  remove(value: T): void {
    const node = this.#nodes.firstOverlap(this.#root, hi32(value.start), lo32(value.start))
    if (node === NO_NODE || this.#values[node] !== value)
      throw new Error("bug: removes what is not in the tree")
    this.#root = this.#nodes.remove(this.#root, node)
    this.#nodes.free(node)
    this.#values[node] = undefined
    this.#size--
  }

  /** The lowest interval that touches `[start, last]`. */
  firstOverlap(start: bigint, last: bigint): T | undefined {
    const node = this.#nodes.firstOverlap(this.#root, hi32(start), lo32(start))
    if (node === NO_NODE || this.#nodes.startsAfter(node, hi32(last), lo32(last))) return undefined
    return this.#values[node]
  }

  /** All intervals, ascending. The tree must not change meanwhile. */
  *[Symbol.iterator](): IterableIterator<T> {
    const stack: number[] = []
    let node = this.#root
    while (node !== NO_NODE || stack.length > 0) {
      for (; node !== NO_NODE; node = this.#nodes.left(node)) stack.push(node)
      node = stack.pop() as number
      yield this.#values[node] as T
      node = this.#nodes.right(node)
    }
  }

  /**
   * The lowest hole with some part at `from` or above that may have `length` bytes there. Its start is at least
   * `from`; whether it really is long enough is the caller's to see.
   */
  holeFrom(from: bigint, length: bigint): Interval | undefined {
    const nodes = this.#nodes
    const node = nodes.holeBefore(this.#root, hi32(from), lo32(from), Number(length))
    if (node !== NO_NODE) {
      const value = this.#values[node] as T
      const start = nodes.endBefore(this.#root, hi32(value.start), lo32(value.start))
      return { start: start > from ? start : from, last: value.start - 1n }
    }
    const end = nodes.end(this.#root)
    if (end > U64_MAX) return undefined
    return { start: end > from ? end : from, last: U64_MAX }
  }
}
