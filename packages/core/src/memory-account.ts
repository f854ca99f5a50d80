import { PAGE_SIZE } from "./address.ts"
import { IommuError } from "./errno.ts"

/**
 * The memory cgroup of an owner, seen from here: what `GFP_KERNEL_ACCOUNT` charges in Linux.
 *
 * Every 4 KiB page that a user-owned domain costs is charged before it is used and uncharged when it is freed.
 * Objects smaller than a page add up, and cost the pages that their sum fills or begins.
 */
export class MemoryAccount {
  readonly name: string
  /** Pages that may be charged at once; `Infinity` for no limit. */
  limitPages: number
  #usage = 0
  #peak = 0
  #objectBytes = 0

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

  /** Bytes of objects charged now, a part of {@link usagePages}. */
  get objectBytes(): number {
    return this.#objectBytes
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

  /**
   * Charges an object of some bytes, as Linux's `obj_cgroup_charge` does.
   * @throws ENOMEM when it needs another page and the limit allows none; nothing is charged then
   */
  chargeBytes(bytes: number): void {
    const pages = pagesOf(this.#objectBytes + bytes) - pagesOf(this.#objectBytes)
    if (pages > 0) this.charge(pages)
    this.#objectBytes += bytes
  }

  unchargeBytes(bytes: number): void {
    if (bytes > this.#objectBytes) {
      throw new Error(`bug: account "${this.name}" uncharges ${bytes} bytes of ${this.#objectBytes}`)
    }
    const pages = pagesOf(this.#objectBytes) - pagesOf(this.#objectBytes - bytes)
    this.#objectBytes -= bytes
    if (pages > 0) this.uncharge(pages)
  }
}

function pagesOf(bytes: number): number {
  return Math.ceil(bytes / PAGE_SIZE)
}
