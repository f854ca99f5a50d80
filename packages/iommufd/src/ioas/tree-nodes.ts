/**
 * Nodes of the interval tree: numbers, with the fields of each in 64 bytes, which is a line of the CPU's caches. Among a
 * million nodes memory is what takes the time. Recursion is as deep as the tree is high.
 */
import { fromHalves, hi32, lo32 } from "@iommu/core"

/** Where there is no node. */
export const NO_NODE = -1
const FIRST_CAPACITY = 16
const TWO_32 = 0x1_0000_0000

const NODE_WORDS_LG2 = 4
const NODE_DOUBLES_LG2 = 3

// Unsigned words of a node.
const START_HI = 0
const START_LO = 1
const LAST_HI = 2
const LAST_LO = 3
// Signed words.
const LEFT = 4
const RIGHT = 5
const HEIGHT = 6
// Doubles: bytes free before the node, and the most before any node of its subtree.
const GAP = 4
const LARGEST_GAP = 5

export class TreeNodes {
  #words = new Uint32Array(FIRST_CAPACITY << NODE_WORDS_LG2)
  /** The same memory. */
  #signed = new Int32Array(this.#words.buffer)
  #doubles = new Float64Array(this.#words.buffer)
  #used = 0
  readonly #free: number[] = []
  #taken = NO_NODE
  /** While a change goes up: true as long as the subtree below is as high and has as large a gap as before. */
  #isSettled = false
  /** An ancestor whose own gap has changed. */
  #regapped = NO_NODE

  left(node: number): number {
    return this.#signed[(node << NODE_WORDS_LG2) + LEFT] as number
  }

  right(node: number): number {
    return this.#signed[(node << NODE_WORDS_LG2) + RIGHT] as number
  }

  alloc(start: bigint, last: bigint): number {
    const node = this.#free.pop() ?? this.#used++
    if (node << NODE_WORDS_LG2 >= this.#words.length) this.#grow()
    const at = node << NODE_WORDS_LG2
    this.#words[at + START_HI] = hi32(start)
    this.#words[at + START_LO] = lo32(start)
    this.#words[at + LAST_HI] = hi32(last)
    this.#words[at + LAST_LO] = lo32(last)
    this.#setLeft(node, NO_NODE)
    this.#setRight(node, NO_NODE)
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

  /** True when a node's interval lies behind an address. */
  startsAfter(node: number, hi: number, lo: number): boolean {
    const startHi = this.#startHi(node)
    return startHi > hi || (startHi === hi && this.#startLo(node) > lo)
  }

  /** The lowest node that starts after an address and has at least `bytes` free before it. */
  holeBefore(node: number, hi: number, lo: number, bytes: number): number {
    if (node === NO_NODE || this.#largestGap(node) < bytes) return NO_NODE
    if (!this.startsAfter(node, hi, lo)) return this.holeBefore(this.right(node), hi, lo, bytes)
    const before = this.holeBefore(this.left(node), hi, lo, bytes)
    if (before !== NO_NODE) return before
    if (this.#gap(node) >= bytes) return node
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
      this.#regap(after, node)
      this.#update(node)
      this.#isSettled = false
      return node
    }
    if (this.#startsBefore(node, this.#startHi(root), this.#startLo(root))) {
      this.#setLeft(root, this.#insert(this.left(root), node, before, root))
    } else {
      this.#setRight(root, this.#insert(this.right(root), node, root, after))
    }
    return this.#settle(root)
  }

  /** A node whose gap changes is an ancestor of the one that goes, or takes its place. */
  #remove(root: number, node: number, before: number, after: number): number {
    if (root !== node) {
      if (this.#startsBefore(node, this.#startHi(root), this.#startLo(root))) {
        this.#setLeft(root, this.#remove(this.left(root), node, before, root))
      } else {
        this.#setRight(root, this.#remove(this.right(root), node, root, after))
      }
      return this.#settle(root)
    }
    const left = this.left(root)
    const right = this.right(root)
    const predecessor = left === NO_NODE ? before : this.#highest(left)
    this.#isSettled = false
    if (right === NO_NODE) {
      this.#regap(after, predecessor)
      return left
    }
    this.#regapped = NO_NODE
    const rest = this.#takeLowest(right)
    const successor = this.#taken
    this.#setLeft(successor, left)
    this.#setRight(successor, rest)
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
    this.#setLeft(root, this.#takeLowest(left))
    return this.#balance(root)
  }

  #highest(root: number): number {
    let node = root
    while (this.right(node) !== NO_NODE) node = this.right(node)
    return node
  }

  /** Of an ancestor, if there is one, whose predecessor is another now. */
  #regap(node: number, before: number): void {
    this.#regapped = node
    if (node !== NO_NODE) this.#setGap(node, before)
  }

  /** {@link #balance} where it is needed: else only the nodes on the path are read, and not the other half of each. */
  #settle(node: number): number {
    if (this.#isSettled && node !== this.#regapped) return node
    const height = this.#height(node)
    const largest = this.#largestGap(node)
    const root = this.#balance(node)
    this.#isSettled = root === node && this.#height(node) === height && this.#largestGap(node) === largest
    return root
  }

  #balance(node: number): number {
    const lean = this.#height(this.left(node)) - this.#height(this.right(node))
    if (lean > 1) {
      const left = this.left(node)
      if (this.#height(this.left(left)) < this.#height(this.right(left))) {
        this.#setLeft(node, this.#rotateLeft(left))
      }
      return this.#rotateRight(node)
    }
    if (lean < -1) {
      const right = this.right(node)
      if (this.#height(this.right(right)) < this.#height(this.left(right))) {
        this.#setRight(node, this.#rotateRight(right))
      }
      return this.#rotateLeft(node)
    }
    this.#update(node)
    return node
  }

  #rotateLeft(node: number): number {
    const risen = this.right(node)
    this.#setRight(node, this.left(risen))
    this.#setLeft(risen, node)
    this.#update(node)
    this.#update(risen)
    return risen
  }

  #rotateRight(node: number): number {
    const risen = this.left(node)
    this.#setLeft(node, this.right(risen))
    this.#setRight(risen, node)
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
    this.#signed[(node << NODE_WORDS_LG2) + HEIGHT] =
      1 + (leftHeight > rightHeight ? leftHeight : rightHeight)
    let largest = this.#gap(node)
    const inLeft = left === NO_NODE ? 0 : this.#largestGap(left)
    const inRight = right === NO_NODE ? 0 : this.#largestGap(right)
    if (inLeft > largest) largest = inLeft
    if (inRight > largest) largest = inRight
    this.#doubles[(node << NODE_DOUBLES_LG2) + LARGEST_GAP] = largest
  }

  /** One rounding at the end keeps larger gaps larger. */
  #setGap(node: number, before: number): void {
    const hi = this.#startHi(node)
    const lo = this.#startLo(node)
    this.#doubles[(node << NODE_DOUBLES_LG2) + GAP] =
      before === NO_NODE
        ? hi * TWO_32 + lo
        : (hi - this.#lastHi(before)) * TWO_32 + (lo - this.#lastLo(before) - 1)
  }

  #height(node: number): number {
    return node === NO_NODE ? 0 : (this.#signed[(node << NODE_WORDS_LG2) + HEIGHT] as number)
  }

  #startHi(node: number): number {
    return this.#words[(node << NODE_WORDS_LG2) + START_HI] as number
  }

  #startLo(node: number): number {
    return this.#words[(node << NODE_WORDS_LG2) + START_LO] as number
  }

  #lastHi(node: number): number {
    return this.#words[(node << NODE_WORDS_LG2) + LAST_HI] as number
  }

  #lastLo(node: number): number {
    return this.#words[(node << NODE_WORDS_LG2) + LAST_LO] as number
  }

  #gap(node: number): number {
    return this.#doubles[(node << NODE_DOUBLES_LG2) + GAP] as number
  }

  #largestGap(node: number): number {
    return this.#doubles[(node << NODE_DOUBLES_LG2) + LARGEST_GAP] as number
  }

  #setLeft(node: number, child: number): void {
    this.#signed[(node << NODE_WORDS_LG2) + LEFT] = child
  }

  #setRight(node: number, child: number): void {
    this.#signed[(node << NODE_WORDS_LG2) + RIGHT] = child
  }

  #end(node: number): bigint {
    return fromHalves(this.#lastHi(node), this.#lastLo(node)) + 1n
  }

  #endsBefore(node: number, hi: number, lo: number): boolean {
    const lastHi = this.#lastHi(node)
    return lastHi < hi || (lastHi === hi && this.#lastLo(node) < lo)
  }

  #startsBefore(node: number, hi: number, lo: number): boolean {
    const startHi = this.#startHi(node)
    return startHi < hi || (startHi === hi && this.#startLo(node) < lo)
  }

  #grow(): void {
    const larger = new Uint32Array(this.#words.length * 2)
    larger.set(this.#words)
    this.#words = larger
    this.#signed = new Int32Array(larger.buffer)
    this.#doubles = new Float64Array(larger.buffer)
  }
}
