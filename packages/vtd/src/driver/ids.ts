import { IommuError } from "@iommu/core"

/** Hands out the tags by which the hardware's caches tell domains apart. */
export class DomainIds {
  #next: number
  readonly #end: number
  readonly #freed: number[] = []

  /** @param first lowest id to give out, @param end one more than the highest */
  constructor(first: number, end: number) {
    this.#next = first
    this.#end = end
  }

  /** @throws ENOSPC when all are in use */
  alloc(): number {
    const freed = this.#freed.pop()
    if (freed !== undefined) return freed
    if (this.#next >= this.#end) {
      throw new IommuError("ENOSPC", `all domain-ids below ${this.#end} are in use`)
    }
    return this.#next++
  }

  free(id: number): void {
    this.#freed.push(id)
  }
}
