import { IommuError } from "@iommu/core"

/** ASIDs or VMIDs. 0 is never handed out: it tags what has no domain of its own. */
export class DomainIds {
  readonly #what: string
  readonly #count: number
  readonly #free: number[] = []
  #next = 1

  constructor(what: string, bits: number) {
    this.#what = what
    this.#count = 2 ** bits
  }

  /** @throws ENOSPC when all are in use */
  take(): number {
    const reused = this.#free.pop()
    if (reused !== undefined) return reused
    if (this.#next === this.#count)
      throw new IommuError("ENOSPC", `all ${this.#count - 1} ${this.#what}s are in use`)
    return this.#next++
  }

  /** Gives one back. No cache may hold anything tagged with it any more. */
  give(id: number): void {
    this.#free.push(id)
  }
}
