/** Numbers from 1, always the lowest that is free: Linux's `xa_alloc` with `XA_FLAGS_ALLOC1`. */
import { IommuError } from "@iommu/core"

export class IdAllocator {
  readonly #last: number
  /** Given back: a binary heap, smallest first. */
  readonly #free: number[] = []
  #next = 1

  /** @param last largest number */
  constructor(last: number) {
    this.#last = last
  }

  /** @throws ENOSPC when all are in use */
  take(): number {
    const smallest = this.#free[0]
    if (smallest !== undefined) {
      this.#removeSmallest()
      return smallest
    }
    if (this.#next > this.#last) throw new IommuError("ENOSPC", `all ids up to ${this.#last} are in use`)
    return this.#next++
  }

  give(id: number): void {
    const heap = this.#free
    let at = heap.length
    for (let up = (at - 1) >> 1; at > 0 && (heap[up] as number) > id; up = (at - 1) >> 1) {
      heap[at] = heap[up] as number
      at = up
    }
    heap[at] = id
  }

  #removeSmallest(): void {
    const heap = this.#free
    const moved = heap.pop() as number
    if (heap.length === 0) return
    let at = 0
    for (;;) {
      const left = 2 * at + 1
      if (left >= heap.length) break
      const smaller = (heap[left + 1] ?? Number.POSITIVE_INFINITY) < (heap[left] as number) ? left + 1 : left
      if ((heap[smaller] as number) >= moved) break
      heap[at] = heap[smaller] as number
      at = smaller
    }
    heap[at] = moved
  }
}
