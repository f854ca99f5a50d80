import { IommuError } from "./errno.ts"

/**
 * The memory cgroup of an owner, seen from here: what `GFP_KERNEL_ACCOUNT` charges in Linux.
 *
 * Every 4 KiB page that a user-owned domain costs is charged before it is used and uncharged when it is freed.
 */
export class MemoryAccount {
  readonly name: string
  /** Pages that may be charged at once; `Infinity` for no limit. */
  limitPages: number
  #usage = 0
  #peak = 0

  constructor(name: string, limitPages: number = Number.POSITIVE_INFINITY) {
    if (!(limitPages >= 0))
      throw new IommuError("EINVAL", "the limit of a memory account is a count of pages")
    this.name = name
    this.limitPages = limitPages
  }

  /** 4 KiB pages charged now. */
  get usagePages(): number {
    return this.#usage
  }

  /** The largest {@link usagePages} there has been. */
  get peakPages(): number {
    return this.#peak
  }

  /** @throws ENOMEM when the charge would exceed the limit; nothing is charged then */
  charge(pages: number): void {
    if (this.#usage + pages > this.limitPages) {
      throw new IommuError(
        "ENOMEM",
        `account "${this.name}": ${pages} more pages exceed the limit of ${this.limitPages} (in use: ${this.#usage})`,
      )
    }
    this.#usage += pages
    if (this.#usage > this.#peak) this.#peak = this.#usage
  }

  uncharge(pages: number): void {
    if (pages > this.#usage) {
      throw new Error(`bug: account "${this.name}" uncharges ${pages} pages of ${this.#usage}`)
    }
    this.#usage -= pages
  }
}
