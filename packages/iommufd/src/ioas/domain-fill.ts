/** Areas and the domains of their IOAS: pages are pinned while there is a domain, and mapped in all of them. */
import { errnoError, hex64, PAGE_SIZE, type PagingDomain } from "@iommu/core"
import type { Area } from "./area.ts"

const PAGE_MASK = BigInt(PAGE_SIZE) - 1n
/** Pages in 2^32 bytes. */
const PAGES_PER_HI = 0x10_0000

/** Pins an area's pages and maps them in all domains. All or nothing. */
export function fillDomains(area: Area): void {
  const { domains } = area.ioas
  if (domains.length === 0) return
  holdPages(area)
  const filled: PagingDomain[] = []
  try {
    for (const domain of domains) {
      mapArea(area, domain)
      filled.push(domain)
    }
  } catch (error) {
    for (const domain of filled) unmapArea(area, domain)
    releasePages(area)
    throw error
  }
}

export function unfillDomains(area: Area): void {
  const { domains } = area.ioas
  if (domains.length === 0) return
  for (const domain of domains) unmapArea(area, domain)
  releasePages(area)
}

/** Fills a domain with all areas before it becomes one of the IOAS. All or nothing. */
export function fillDomain(areas: Iterable<Area>, domain: PagingDomain): void {
  const filled: Area[] = []
  try {
    for (const area of areas) {
      const isFirst = area.ioas.domains.length === 0
      if (isFirst) holdPages(area)
      try {
        mapArea(area, domain)
      } catch (error) {
        if (isFirst) releasePages(area)
        throw error
      }
      filled.push(area)
    }
  } catch (error) {
    unfillDomain(filled, domain)
    throw error
  }
}

/** Empties a domain that is none of the IOAS any more. */
export function unfillDomain(areas: Iterable<Area>, domain: PagingDomain): void {
  for (const area of areas) if (isMappable(area)) domain.unmapFast(area.start, area.length)
  // Pages may be used for something else only when no cache knows them.
  domain.iotlbSync()
  for (const area of areas) if (area.ioas.domains.length === 0) releasePages(area)
}

export function unmapArea(area: Area, domain: PagingDomain): void {
  if (isMappable(area)) checkUnmapped(area, domain.unmap(area.start, area.length))
}

/**
 * Maps an area, one call for each physically contiguous run: the driver makes leaves as large as it can.
 * Without huge pages each page is mapped alone, so that none becomes part of a larger leaf.
 */
function mapArea(area: Area, domain: PagingDomain): void {
  if (!isMappable(area)) return
  const mostPages = area.ioas.usesHugePages ? Number.POSITIVE_INFINITY : 1
  const progress = { bytes: 0n }
  try {
    const isWhole = ((area.start | area.startByte | area.length) & PAGE_MASK) === 0n
    if (isWhole) mapWholePages(area, domain, mostPages, progress)
    else mapBytes(area, domain, mostPages, progress)
  } catch (error) {
    if (progress.bytes > 0n) domain.unmap(area.start, progress.bytes)
    throw error
  }
}

/** How much of an area is mapped when a call throws. */
interface Progress {
  bytes: bigint
}

/**
 * Scattered memory needs a call for each page, which is four times as fast in halves as in bigints. The first call is in
 * bytes: what a domain refuses of a whole area it refuses there, and says why.
 */
function mapWholePages(area: Area, domain: PagingDomain, mostPages: number, progress: Progress): void {
  const { pages, prot, firstPage, pageCount } = area
  const firstIova = Number(area.start >> 12n)
  const first = pages.runAt(firstPage, Math.min(pageCount, mostPages))
  domain.map(area.start, BigInt(first.frame) << 12n, BigInt(first.pages) << 12n, prot)
  for (let done = first.pages; done < pageCount; ) {
    const run = pages.runAt(firstPage + done, Math.min(pageCount - done, mostPages))
    const iova = firstIova + done
    const status = domain.mapPages(hiOf(iova), loOf(iova), hiOf(run.frame), loOf(run.frame), run.pages, prot)
    if (status !== 0) {
      progress.bytes = BigInt(done) << 12n
      const at = hex64(area.start + progress.bytes)
      throw errnoError(status, `the domain's driver refused to map ${run.pages} pages at IOVA ${at}`)
    }
    done += run.pages
  }
}

function mapBytes(area: Area, domain: PagingDomain, mostPages: number, progress: Progress): void {
  const { pages, prot, length } = area
  const endPage = area.firstPage + area.pageCount
  let page = area.firstPage
  let offset = area.pageOffset
  while (progress.bytes < length) {
    const run = pages.runAt(page, Math.min(endPage - page, mostPages))
    const room = BigInt(run.pages * PAGE_SIZE - offset)
    const left = length - progress.bytes
    const size = room < left ? room : left
    domain.map(area.start + progress.bytes, BigInt(run.frame * PAGE_SIZE + offset), size, prot)
    progress.bytes += size
    page += run.pages
    offset = 0
  }
}

/** Bits 63:32 of a page's address. */
function hiOf(page: number): number {
  return Math.floor(page / PAGES_PER_HI)
}

/** Bits 31:0 of a page's address. */
function loOf(page: number): number {
  return (page % PAGES_PER_HI) * PAGE_SIZE
}

/** False for a dma-buf that was revoked: its place stays empty. */
function isMappable(area: Area): boolean {
  return area.pages.kind !== "dma-buf" || !area.pages.isRevoked
}

function holdPages(area: Area): void {
  if (area.pages.kind === "dma-buf") area.pages.track(area)
  else area.pages.hold(area.firstPage, area.pageCount)
}

function releasePages(area: Area): void {
  if (area.pages.kind === "dma-buf") area.pages.untrack(area)
  else area.pages.release(area.firstPage, area.pageCount)
}

function checkUnmapped(area: Area, bytes: bigint): void {
  if (bytes !== area.length) {
    throw new Error(`bug: a domain unmapped 0x${bytes.toString(16)} bytes of 0x${area.length.toString(16)}`)
  }
}
