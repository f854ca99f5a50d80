import { assertEqual, assertErrno, assertTrue } from "../assert.ts"
import { allocUser, smallestPage, testBench } from "../bench.ts"
import type { ConformanceTarget, TestRunner } from "../target.ts"

/** A driver that serves iommufd: plain paging domains. */
export function allocChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("makes a paging domain without user data", () => {
    const bench = testBench(target)
    const domain = bench.paging(bench.probed(0))
    assertEqual(domain.type, "paging", "type")
    assertTrue(domain.ops === bench.ops, "the domain names the driver that made it")
    assertEqual(domain.nestParent, false, "a plain domain is no nest parent")
    assertTrue(bench.ops.capabilities.formats.includes(domain.format), "its format is one of the manifest's")
    assertTrue(domain.pageSizes !== 0n, "it has a page size")
    assertTrue(domain.aperture.last > domain.aperture.start, "it has an aperture")
    assertEqual(domain.aperture.start % smallestPage(domain), 0n, "the aperture starts at a page")
  })

  it("makes domains that are independent of each other", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const one = bench.paging(device)
    const other = bench.paging(device)
    const page = smallestPage(one)
    const iova = one.aperture.start + page
    one.map(iova, page * 16n, page, 3)
    assertEqual(other.iovaToPhys(iova), null, "a mapping of one domain in another")
  })

  it("refuses a device that was not probed: ENODEV", () => {
    const bench = testBench(target)
    const stranger = bench.machine.device(0, bench.account)
    assertErrno("ENODEV", "a device not probed", () => allocUser(bench.ops)(stranger, null, null))
    assertEqual(bench.account.usagePages, 0, "pages charged")
  })

  it("refuses to probe a device twice: EEXIST, and to release it twice: ENODEV", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    assertErrno("EEXIST", "second probe", () => bench.ops.probeDevice(device))
    bench.ops.releaseDevice(device)
    assertErrno("ENODEV", "second release", () => bench.ops.releaseDevice(device))
  })

  it("keeps its manifest unchanged while it works", () => {
    const bench = testBench(target)
    const before = JSON.stringify(bench.ops.capabilities)
    const domain = bench.paging(bench.probed(0))
    domain.map(domain.aperture.start + smallestPage(domain), 0n, smallestPage(domain), 3)
    assertEqual(JSON.stringify(bench.ops.capabilities), before, "the manifest")
  })
}

/** A driver that cannot serve iommufd must not have the op. */
export function noAllocChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("has neither domainAllocUser nor domainAllocUserDataLen, and claims no user data", () => {
    const { ops } = testBench(target)
    assertEqual(ops.domainAllocUser, undefined, "domainAllocUser")
    assertEqual(ops.domainAllocUserDataLen, undefined, "domainAllocUserDataLen")
    assertEqual(ops.capabilities.userDataTypes.length, 0, "types of user data")
  })
}
