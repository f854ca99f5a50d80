import { IommuError } from "./errno.ts"

/** Hands out the numbers by which hardware tells domains apart: lowest never used first, then those given back. */
export class IdPool {
  readonly #what: string
  readonly #last: number
  readonly #returned: number[] = []
  #next: number

  /**
   * @param what names the numbers in errors: "VMID"
   * @param first lowest number to hand out
   * @param last highest number to hand out
   */
  constructor(what: string, first: number, last: number) {
    this.#what = what
    this.#next = first
    this.#last = last
  }

  /** @throws ENOSPC when all are in use */
  take(): number {
    const returned = this.#returned.pop()
    if (returned !== undefined) return returned
    if (this.#next > this.#last)
      throw new IommuError("ENOSPC", `all ${this.#what}s up to ${this.#last} are in use`)
    return this.#next++
  }

  /** Gives one back. No cache may hold anything tagged with it any more. */
  give(id: number): void {
    this.#returned.push(id)
  }
}
