/** Nodes of the interval tree: numbers, with their fields in typed arrays. Recursion is as deep as the tree is high. */
import { fromHalves, hi32, lo32 } from "@iommu/core"

/** Where there is no node. */
export const NO_NODE = -1
const FIRST_CAPACITY = 16
const TWO_32 = 0x1_0000_0000

export class TreeNodes {
  /** Four words a node: start and last, each high half first. */
  #bounds = new Uint32Array(4 * FIRST_CAPACITY)
  /** Two a node: left and right. */
  #links = new Int32Array(2 * FIRST_CAPACITY)
  #heights = new Uint8Array(FIRST_CAPACITY)
  /** Two a node: bytes free before it, and the most before any node of its subtree. */
  #gaps = new Float64Array(2 * FIRST_CAPACITY)
  #used = 0
  readonly #free: number[] = []
  #taken = NO_NODE

  left(node: number): number {
    return this.#links[2 * node] as number
  }

  right(node: number): number {
    return this.#links[2 * node + 1] as number
  }

  alloc(start: bigint, last: bigint): number {
    const node = this.#free.pop() ?? this.#used++
    if (node >= this.#heights.length) this.#grow()
    this.#bounds[4 * node] = hi32(start)
    this.#bounds[4 * node + 1] = lo32(start)
    this.#bounds[4 * node + 2] = hi32(last)
    this.#bounds[4 * node + 3] = lo32(last)
    this.#links[2 * node] = NO_NODE
    this.#links[2 * node + 1] = NO_NODE
    return node
  }

  free(node: number): void {
    this.#free.push(node)
  }

  /** @returns the new root */
  insert(root: number, node: number): number {
    return this.#insert(root, node, NO_NODE, NO_NODE)
  }

  /** @returns the new root */
  remove(root: number, node: number): number {
    return this.#remove(root, node, NO_NODE, NO_NODE)
  }

  /** The lowest node whose interval ends at or after an address. */
  firstOverlap(root: number, hi: number, lo: number): number {
    let found = NO_NODE
    for (let node = root; node !== NO_NODE; ) {
      if (this.#endsBefore(node, hi, lo)) node = this.right(node)
      else {
        found = node
        node = this.left(node)
      }
    }
    return found
  }

  /** The lowest node that starts after an address and has at least `bytes` free before it. */
  holeBefore(node: number, hi: number, lo: number, bytes: number): number {
    if (node === NO_NODE || (this.#gaps[2 * node + 1] as number) < bytes) return NO_NODE
    if (!this.#startsAfter(node, hi, lo)) return this.holeBefore(this.right(node), hi, lo, bytes)
    const before = this.holeBefore(this.left(node), hi, lo, bytes)
    if (before !== NO_NODE) return before
    if ((this.#gaps[2 * node] as number) >= bytes) return node
    return this.holeBefore(this.right(node), hi, lo, bytes)
  }

  /** First address after the intervals that start before an address: 0 for none. */
  endBefore(root: number, hi: number, lo: number): bigint {
    let found = NO_NODE
    for (let node = root; node !== NO_NODE; ) {
      if (this.#startsBefore(node, hi, lo)) {
        found = node
        node = this.right(node)
      } else node = this.left(node)
    }
    return found === NO_NODE ? 0n : this.#end(found)
  }

  /** First address after all intervals: 0 for none. */
  end(root: number): bigint {
    return root === NO_NODE ? 0n : this.#end(this.#highest(root))
  }

  #insert(root: number, node: number, before: number, after: number): number {
    if (root === NO_NODE) {
      this.#setGap(node, before)
      if (after !== NO_NODE) this.#setGap(after, node)
      this.#update(node)
      return node
    }
    if (this.#startsBefore(node, this.#startHi(root), this.#startLo(root))) {
      this.#links[2 * root] = this.#insert(this.left(root), node, before, root)
    } else {
      this.#links[2 * root + 1] = this.#insert(this.right(root), node, root, after)
    }
    return this.#balance(root)
  }

  /** A node whose gap changes is an ancestor of the one that goes, or takes its place: balancing updates it. */
  #remove(root: number, node: number, before: number, after: number): number {
    if (root !== node) {
      if (this.#startsBefore(node, this.#startHi(root), this.#startLo(root))) {
        this.#links[2 * root] = this.#remove(this.left(root), node, before, root)
      } else {
        this.#links[2 * root + 1] = this.#remove(this.right(root), node, root, after)
      }
      return this.#balance(root)
    }
    const left = this.left(root)
    const right = this.right(root)
    const predecessor = left === NO_NODE ? before : this.#highest(left)
    if (right === NO_NODE) {
      if (after !== NO_NODE) this.#setGap(after, predecessor)
      return left
    }
    const rest = this.#takeLowest(right)
    const successor = this.#taken
    this.#links[2 * successor] = left
    this.#links[2 * successor + 1] = rest
    this.#setGap(successor, predecessor)
    return this.#balance(successor)
  }

  /** @returns the new root of what is left; the node is in {@link #taken} */
  #takeLowest(root: number): number {
    const left = this.left(root)
    if (left === NO_NODE) {
      this.#taken = root
      return this.right(root)
    }
    this.#links[2 * root] = this.#takeLowest(left)
    return this.#balance(root)
  }

  #highest(root: number): number {
    let node = root
    while (this.right(node) !== NO_NODE) node = this.right(node)
    return node
  }

  #balance(node: number): number {
    const lean = this.#height(this.left(node)) - this.#height(this.right(node))
    if (lean > 1) {
      const left = this.left(node)
      if (this.#height(this.left(left)) < this.#height(this.right(left))) {
        this.#links[2 * node] = this.#rotateLeft(left)
      }
      return this.#rotateRight(node)
    }
    if (lean < -1) {
      const right = this.right(node)
      if (this.#height(this.right(right)) < this.#height(this.left(right))) {
        this.#links[2 * node + 1] = this.#rotateRight(right)
      }
      return this.#rotateLeft(node)
    }
    this.#update(node)
    return node
  }

  #rotateLeft(node: number): number {
    const risen = this.right(node)
    this.#links[2 * node + 1] = this.left(risen)
    this.#links[2 * risen] = node
    this.#update(node)
    this.#update(risen)
    return risen
  }

  #rotateRight(node: number): number {
    const risen = this.left(node)
    this.#links[2 * node] = this.right(risen)
    this.#links[2 * risen + 1] = node
    this.#update(node)
    this.#update(risen)
    return risen
  }

  /** Height and largest gap of a subtree from those of its halves. */
  #update(node: number): void {
    const left = this.left(node)
    const right = this.right(node)
    const leftHeight = this.#height(left)
    const rightHeight = this.#height(right)
    this.#heights[node] = 1 + (leftHeight > rightHeight ? leftHeight : rightHeight)
    let largest = this.#gaps[2 * node] as number
    if (left !== NO_NODE && (this.#gaps[2 * left + 1] as number) > largest)
      largest = this.#gaps[2 * left + 1] as number
    if (right !== NO_NODE && (this.#gaps[2 * right + 1] as number) > largest)
      largest = this.#gaps[2 * right + 1] as number
    this.#gaps[2 * node + 1] = largest
  }

  /** One rounding at the end keeps larger gaps larger. */
  #setGap(node: number, before: number): void {
    const hi = this.#startHi(node)
    const lo = this.#startLo(node)
    this.#gaps[2 * node] =
      before === NO_NODE
        ? hi * TWO_32 + lo
        : (hi - (this.#bounds[4 * before + 2] as number)) * TWO_32 +
          (lo - (this.#bounds[4 * before + 3] as number) - 1)
  }

  #height(node: number): number {
    return node === NO_NODE ? 0 : (this.#heights[node] as number)
  }

  #startHi(node: number): number {
    return this.#bounds[4 * node] as number
  }

  #startLo(node: number): number {
    return this.#bounds[4 * node + 1] as number
  }

  #end(node: number): bigint {
    return fromHalves(this.#bounds[4 * node + 2] as number, this.#bounds[4 * node + 3] as number) + 1n
  }

  #endsBefore(node: number, hi: number, lo: number): boolean {
    const lastHi = this.#bounds[4 * node + 2] as number
    return lastHi < hi || (lastHi === hi && (this.#bounds[4 * node + 3] as number) < lo)
  }

  #startsBefore(node: number, hi: number, lo: number): boolean {
    const startHi = this.#startHi(node)
    return startHi < hi || (startHi === hi && this.#startLo(node) < lo)
  }

  #startsAfter(node: number, hi: number, lo: number): boolean {
    const startHi = this.#startHi(node)
    return startHi > hi || (startHi === hi && this.#startLo(node) > lo)
  }

  #grow(): void {
    const capacity = this.#heights.length * 2
    this.#bounds = enlarged(this.#bounds, new Uint32Array(4 * capacity))
    this.#links = enlarged(this.#links, new Int32Array(2 * capacity))
    this.#heights = enlarged(this.#heights, new Uint8Array(capacity))
    this.#gaps = enlarged(this.#gaps, new Float64Array(2 * capacity))
  }
}

function enlarged<A extends Uint32Array | Int32Array | Uint8Array | Float64Array>(old: A, larger: A): A {
  larger.set(old)
  return larger
}
