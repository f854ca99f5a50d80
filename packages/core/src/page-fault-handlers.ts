/** Who takes page requests, domain by domain: Linux's `iommu_domain.iopf_handler`, the same for all vendors. */
import { IommuError } from "./errno.ts"
import type { PageFaultHandler } from "./page-faults.ts"

export class PageFaultHandlers<Domain extends object> {
  /** Few domains take faults, so that the others need no field for it. */
  readonly #handlers = new Map<object, PageFaultHandler>()
  readonly #lacking: string | null
  readonly #follow: (domain: Domain) => void

  /**
   * @param lacking why the hardware reports no faults that could be answered; null: it does
   * @param follow brings the entries of a domain's devices to what {@link areTaken} says of it now
   */
  constructor(lacking: string | null, follow: (domain: Domain) => void) {
    this.#lacking = lacking
    this.#follow = follow
  }

  /** A domain's `pageFaultHandler`, and null for a domain of a kind that never has one. */
  of(domain: object): PageFaultHandler | null | undefined {
    return this.#lacking === null ? (this.#handlers.get(domain) ?? null) : undefined
  }

  /** @throws EOPNOTSUPP; what `follow` throws, with the old handler in place */
  set(domain: Domain, handler: PageFaultHandler | null): void {
    if (handler !== null && this.#lacking !== null) throw new IommuError("EOPNOTSUPP", this.#lacking)
    const old = this.#handlers.get(domain) ?? null
    this.#put(domain, handler)
    try {
      this.#follow(domain)
    } catch (error) {
      this.#put(domain, old)
      throw error
    }
  }

  /** A domain is freed. */
  forget(domain: Domain): void {
    this.#handlers.delete(domain)
  }

  /** Whether anybody takes the page requests of a device on these domains. */
  areTaken(domains: Iterable<object>): boolean {
    if (this.#handlers.size === 0) return false
    for (const domain of domains) if (this.#handlers.has(domain)) return true
    return false
  }

  #put(domain: Domain, handler: PageFaultHandler | null): void {
    if (handler === null) this.#handlers.delete(domain)
    else this.#handlers.set(domain, handler)
  }
}
