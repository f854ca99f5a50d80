import {
  ACCESS_READ,
  ACCESS_WRITE,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  iommuDomainFree,
  type PagingDomain,
} from "@iommu/core"
import { assertEqual, assertErrno } from "../assert.ts"
import { iovaFor, smallestPage, type TestBench, testBench } from "../bench.ts"
import type { ConformanceTarget, TestRunner } from "../target.ts"

export function attachChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("blocks a device from probe until it is attached", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    expectDma(bench, device, 0x1000n, null)
  })

  it("lets an attached device through its domain, and only there", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const { domain, iova, page } = mapped(bench, device, 1n)
    domain.attachDev(device)
    expectDma(bench, device, iova, page)
    expectDma(bench, device, iova + page, null)
  })

  it("serves several devices with one domain, and none that is not attached", () => {
    const bench = testBench(target)
    const [one, two, three] = [bench.probed(0), bench.probed(1), bench.probed(2)]
    const { domain, iova, page } = mapped(bench, one, 1n)
    domain.attachDev(one)
    domain.attachDev(two)
    expectDma(bench, one, iova, page)
    expectDma(bench, two, iova, page)
    expectDma(bench, three, iova, null)
    domain.detachDev(one)
    expectDma(bench, one, iova, null)
    expectDma(bench, two, iova, page)
  })

  it("sees mappings made while a device is attached, and loses them when they go", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const { domain, iova, page } = mapped(bench, device, 1n)
    domain.attachDev(device)
    domain.map(iova + page * 2n, page * 7n, page, IOMMU_READ)
    expectDma(bench, device, iova + page * 2n, page * 7n)
    assertEqual(domain.unmap(iova + page * 2n, page), page, "bytes unmapped")
    expectDma(bench, device, iova + page * 2n, null)
    expectDma(bench, device, iova, page)
  })

  it("replaces one domain by another in one call", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const first = mapped(bench, device, 1n)
    const second = mapped(bench, device, 2n)
    first.domain.attachDev(device)
    second.domain.attachDev(device)
    expectDma(bench, device, second.iova, second.page * 2n)
    iommuDomainFree(first.domain)
    expectDma(bench, device, second.iova, second.page * 2n)
  })

  it("attaching the domain that is attached changes nothing", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const { domain, iova, page } = mapped(bench, device, 1n)
    domain.attachDev(device)
    domain.attachDev(device)
    expectDma(bench, device, iova, page)
    domain.detachDev(device)
    iommuDomainFree(domain)
  })

  it("keeps the permissions of a mapping", () => {
    const bench = testBench(target)
    if (bench.machine.dma === undefined) return
    const device = bench.probed(0)
    const { domain, iova, page } = mapped(bench, device, 1n)
    domain.map(iova + page, page * 3n, page, IOMMU_READ)
    domain.attachDev(device)
    assertEqual(bench.machine.dma(device, -1, iova + page, ACCESS_READ), page * 3n, "read of a readable page")
    assertEqual(bench.machine.dma(device, -1, iova + page, ACCESS_WRITE), null, "write to a read-only page")
    assertEqual(bench.machine.dma(device, -1, iova, ACCESS_WRITE), page, "write to a writable page")
  })

  it("detaching a device from a domain that it is not on: EINVAL", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const { domain } = mapped(bench, device, 1n)
    assertErrno("EINVAL", "never attached", () => domain.detachDev(device))
    domain.attachDev(device)
    domain.detachDev(device)
    assertErrno("EINVAL", "detached twice", () => domain.detachDev(device))
  })

  it("refuses a device that was not probed: ENODEV, or one of another instance", () => {
    const bench = testBench(target)
    const { domain } = mapped(bench, bench.probed(0), 1n)
    const stranger = bench.machine.device(1, bench.account)
    assertErrno("ENODEV", "a device not probed", () => domain.attachDev(stranger))
  })

  it("does not release a device that is on a user-owned domain: EBUSY", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const { domain } = mapped(bench, device, 1n)
    domain.attachDev(device)
    assertErrno("EBUSY", "release while attached", () => bench.ops.releaseDevice(device))
    domain.detachDev(device)
    bench.ops.releaseDevice(device)
  })

  it("lets everything through in the identity domain, and nothing in the blocked one", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const identity = bench.ops.identityDomain
    if (identity) {
      identity.attachDev(device)
      expectDma(bench, device, 0x12_3000n, 0x12_3000n)
    }
    bench.ops.blockedDomain.attachDev(device)
    expectDma(bench, device, 0x12_3000n, null)
    bench.ops.releaseDevice(device)
  })
}

function mapped(
  bench: TestBench,
  device: IommuDevice,
  frame: bigint,
): { domain: PagingDomain; iova: bigint; page: bigint } {
  const domain = bench.paging(device)
  const page = smallestPage(domain)
  const iova = iovaFor(domain, page * 64n, page * 64n)
  domain.map(iova, page * frame, page, IOMMU_READ | IOMMU_WRITE)
  return { domain, iova, page }
}

/** A read lands at `pa`, or nowhere; machines without hardware say nothing. */
export function expectDma(
  bench: TestBench,
  device: IommuDevice,
  iova: bigint,
  pa: bigint | null,
  pasid = -1,
): void {
  if (bench.machine.dma === undefined) return
  assertEqual(bench.machine.dma(device, pasid, iova, ACCESS_READ), pa, `DMA of ${device.name}`)
}
