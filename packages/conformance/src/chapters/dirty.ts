import {
  ACCESS_READ,
  ACCESS_WRITE,
  DirtyBitmap,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  PAGING_DIRTY_TRACKING,
  type PagingDomain,
  pagingParameters,
} from "@iommu/core"
import { assertEqual, assertErrno, assertTrue } from "../assert.ts"
import { allocUser, iovaFor, smallestPage, type TestBench, testBench } from "../bench.ts"
import type { ConformanceTarget, TestRunner } from "../target.ts"

const PAGES = 16n

export function dirtyChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("reports the pages that a device wrote to, once", () => {
    const { bench, device, domain, iova, page } = setUp(target)
    if (bench.machine.dma === undefined) return
    domain.dirty?.setDirtyTracking(true)
    bench.machine.dma(device, -1, iova + page * 3n, ACCESS_WRITE)
    bench.machine.dma(device, -1, iova + page * 5n, ACCESS_READ)
    bench.machine.dma(device, -1, iova + page * 9n + 8n, ACCESS_WRITE)
    assertEqual(dirtyPages(domain, iova, page), "3,9", "dirty pages")
    assertEqual(dirtyPages(domain, iova, page), "", "dirty pages the second time")
    bench.machine.dma(device, -1, iova + page * 3n, ACCESS_WRITE)
    assertEqual(dirtyPages(domain, iova, page), "3", "a page written again")
  })

  it("reads without forgetting", () => {
    const { bench, device, domain, iova, page } = setUp(target)
    if (bench.machine.dma === undefined) return
    domain.dirty?.setDirtyTracking(true)
    bench.machine.dma(device, -1, iova, ACCESS_WRITE)
    for (let round = 0; round < 2; round++) {
      const dirty = new DirtyBitmap(iova, page * PAGES, page)
      domain.dirty?.readDirty(dirty)
      assertEqual(dirty.count, 1, `round ${round}`)
    }
    assertEqual(dirtyPages(domain, iova, page), "0", "still there for the clearing read")
  })

  it("forgets what was dirty before it was switched on", () => {
    const { bench, device, domain, iova, page } = setUp(target)
    bench.machine.dma?.(device, -1, iova + page, ACCESS_WRITE)
    domain.dirty?.setDirtyTracking(true)
    assertEqual(dirtyPages(domain, iova, page), "", "dirty pages")
    domain.dirty?.setDirtyTracking(true)
    domain.dirty?.setDirtyTracking(false)
  })

  it("reports nothing for holes and keeps mappings as they are", () => {
    const { domain, iova, page } = setUp(target)
    domain.dirty?.setDirtyTracking(true)
    domain.unmap(iova + page * 4n, page * 4n)
    assertEqual(dirtyPages(domain, iova, page), "", "dirty pages")
    assertEqual(domain.iovaToPhys(iova), page * 32n, "the mapping")
  })

  it("has no dirty ops on a domain allocated without", () => {
    const bench = testBench(target)
    assertEqual(bench.paging(bench.probed(0)).dirty, undefined, "dirty")
  })
}

export function noDirtyChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("refuses dirty tracking: EOPNOTSUPP", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const request = pagingParameters({ flags: PAGING_DIRTY_TRACKING })
    assertErrno("EOPNOTSUPP", "a domain that tracks", () => allocUser(bench.ops)(device, null, request))
    assertEqual(bench.ops.capable(device, "DIRTY_TRACKING"), false, "capable")
  })
}

function setUp(target: ConformanceTarget): {
  bench: TestBench
  device: IommuDevice
  domain: PagingDomain
  iova: bigint
  page: bigint
} {
  const bench = testBench(target)
  const device = bench.probed(0)
  const domain = bench.dirtyTracking(device)
  assertTrue(domain.dirty !== undefined, "the domain has dirty ops")
  const page = smallestPage(domain)
  const iova = iovaFor(domain, page * 64n, page * 64n)
  // Scattered, so that no driver makes one large leaf of them: what is dirty is a leaf.
  for (let i = 0n; i < PAGES; i++) {
    domain.map(iova + page * i, page * (32n + 2n * i), page, IOMMU_READ | IOMMU_WRITE)
  }
  domain.attachDev(device)
  return { bench, device, domain, iova, page }
}

/** Page numbers found dirty, and cleared. */
function dirtyPages(domain: PagingDomain, iova: bigint, page: bigint): string {
  const dirty = new DirtyBitmap(iova, page * PAGES, page)
  domain.dirty?.readAndClearDirty(dirty)
  return Array.from({ length: Number(PAGES) }, (_, i) => i)
    .filter(i => dirty.has(iova + page * BigInt(i)))
    .join()
}
