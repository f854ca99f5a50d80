/**
 * The window into which software maps the doorbells of interrupt controllers, where hardware translates interrupts
 * like other writes. One page of IOVA for each doorbell, the same in all domains of a context.
 */
import { IOMMU_MMIO, IOMMU_NOEXEC, IOMMU_WRITE, IommuError, PAGE_SIZE, type PagingDomain } from "@iommu/core"

/** Linux's limit: a bitmap of 64 pages. */
const MOST_PAGES = 64

interface DoorbellPage {
  /** First IOVA of the device's window. */
  readonly window: bigint
  /** Physical address of the page. */
  readonly doorbell: bigint
  readonly iova: bigint
}

export class SoftwareMsi {
  readonly #pages: DoorbellPage[] = []
  /** Which pages a domain has. */
  readonly #installed = new WeakMap<PagingDomain, Set<DoorbellPage>>()

  /**
   * Makes a doorbell reachable through a domain: through the parent, where devices are on a nested one.
   * @param window the device's `sw-msi` region
   * @param address physical address that the device must reach
   * @returns the IOVA by which it reaches it
   * @throws EOVERFLOW for more than 64 doorbells in a window, or one beyond its end; what the domain refuses
   */
  map(
    domain: PagingDomain,
    window: { readonly start: bigint; readonly last: bigint },
    address: bigint,
  ): bigint {
    const inPage = address % BigInt(PAGE_SIZE)
    const page = this.#pageOf(window, address - inPage)
    const installed = this.#installed.get(domain) ?? new Set<DoorbellPage>()
    if (!installed.has(page)) {
      domain.map(page.iova, page.doorbell, PAGE_SIZE, IOMMU_WRITE | IOMMU_NOEXEC | IOMMU_MMIO)
      this.#installed.set(domain, installed.add(page))
    }
    if (!this.#pages.includes(page)) this.#pages.push(page)
    return page.iova + inPage
  }

  /** Takes all doorbells out of a domain that is about to be freed. */
  unmapAll(domain: PagingDomain): void {
    for (const { iova } of this.#installed.get(domain) ?? []) domain.unmap(iova, PAGE_SIZE)
    this.#installed.delete(domain)
  }

  #pageOf(window: { readonly start: bigint; readonly last: bigint }, doorbell: bigint): DoorbellPage {
    const inWindow = this.#pages.filter(page => page.window === window.start)
    const known = inWindow.find(page => page.doorbell === doorbell)
    if (known !== undefined) return known
    const iova = window.start + BigInt(inWindow.length * PAGE_SIZE)
    if (inWindow.length === MOST_PAGES || iova + BigInt(PAGE_SIZE) - 1n > window.last) {
      throw new IommuError(
        "EOVERFLOW",
        `the window of software MSIs has room for ${inWindow.length} doorbells`,
      )
    }
    return { window: window.start, doorbell, iova }
  }
}
