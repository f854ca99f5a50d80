import { IOMMU_READ, iommuDomainFree } from "@iommu/core"
import { assertEqual, assertErrno } from "../assert.ts"
import { smallestPage, testBench } from "../bench.ts"
import type { ConformanceTarget, TestRunner } from "../target.ts"

export function freeChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("does not free a domain while a device is on it: EBUSY", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const domain = bench.paging(device)
    domain.attachDev(device)
    assertErrno("EBUSY", "free while attached", () => iommuDomainFree(domain))
    domain.detachDev(device)
    iommuDomainFree(domain)
    assertEqual(bench.account.usagePages, 0, "pages charged at the end")
  })

  it("refuses everything on a freed domain: EINVAL, and a second free", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const domain = bench.paging(device)
    const iova = domain.aperture.start + smallestPage(domain)
    iommuDomainFree(domain)
    assertErrno("EINVAL", "second free", () => iommuDomainFree(domain))
    assertErrno("EINVAL", "attach after free", () => domain.attachDev(device))
    assertErrno("EINVAL", "map after free", () => domain.map(iova, 0n, smallestPage(domain), IOMMU_READ))
    assertEqual(domain.iovaToPhys(iova), null, "look-up after free")
    assertEqual(bench.account.usagePages, 0, "pages charged at the end")
  })

  it("never frees the driver's own domains: EINVAL", () => {
    const { ops } = testBench(target)
    assertErrno("EINVAL", "the blocked domain", () => iommuDomainFree(ops.blockedDomain))
    const { identityDomain } = ops
    if (identityDomain) assertErrno("EINVAL", "the identity domain", () => iommuDomainFree(identityDomain))
  })

  it("makes and frees a thousand domains without growing", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    iommuDomainFree(bench.paging(device))
    const held = bench.machine.pagesInUse?.()
    for (let round = 0; round < 1000; round++) {
      const domain = bench.paging(device)
      domain.map(domain.aperture.start + smallestPage(domain), 0n, smallestPage(domain), IOMMU_READ)
      iommuDomainFree(domain)
    }
    assertEqual(bench.machine.pagesInUse?.(), held, "pages in use")
    assertEqual(bench.account.usagePages, 0, "pages charged")
  })
}
