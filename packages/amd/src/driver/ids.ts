import { IommuError } from "@iommu/core"

/**
 * DomainIDs: tags of cached translations, 16 bits (AMD 48882 rev 3.10, §2.2.2.1). 0 is left alone, as systems with
 * SNP must.
 */
export class DomainIds {
  static readonly BLOCKED = 1
  static readonly IDENTITY = 2
  static readonly LAST = 0xffff
  readonly #freed: number[] = []
  #next = 3

  /** @throws ENOSPC when all are in use */
  take(): number {
    const freed = this.#freed.pop()
    if (freed !== undefined) return freed
    if (this.#next > DomainIds.LAST) throw new IommuError("ENOSPC", "all DomainIDs are in use")
    return this.#next++
  }

  /** Nothing may be cached under the id any more. */
  give(id: number): void {
    this.#freed.push(id)
  }
}
