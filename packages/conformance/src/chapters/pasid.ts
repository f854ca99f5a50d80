import {
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  iommuDomainFree,
  PAGING_PASID,
  type PagingDomain,
  pagingParameters,
} from "@iommu/core"
import { assertAnyErrno, assertEqual, assertErrno, assertTrue } from "../assert.ts"
import { allocUser, iovaFor, smallestPage, type TestBench, testBench } from "../bench.ts"
import type { ConformanceTarget, TestRunner } from "../target.ts"
import { expectDma } from "./attach.ts"

export function pasidChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("gives each PASID an address space of its own", () => {
    const { bench, device, rid } = setUp(target)
    const [one, two] = [mapped(bench, device, 2n), mapped(bench, device, 3n)]
    attach(one.domain, device, 1)
    attach(two.domain, device, 2)
    expectDma(bench, device, rid.iova, rid.page)
    expectDma(bench, device, one.iova, one.page * 2n, 1)
    expectDma(bench, device, two.iova, two.page * 3n, 2)
    expectDma(bench, device, one.iova, null, 3)
  })

  it("replaces and removes the domain of a PASID, and leaves the others alone", () => {
    const { bench, device, rid } = setUp(target)
    const [one, two] = [mapped(bench, device, 2n), mapped(bench, device, 3n)]
    attach(one.domain, device, 1)
    attach(two.domain, device, 1)
    expectDma(bench, device, two.iova, two.page * 3n, 1)
    iommuDomainFree(one.domain)
    two.domain.removeDevPasid?.(device, 1)
    expectDma(bench, device, two.iova, null, 1)
    expectDma(bench, device, rid.iova, rid.page)
    iommuDomainFree(two.domain)
  })

  it("takes the last PASID of the device's width and refuses the next: EINVAL, and PASID 0", () => {
    const { bench, device } = setUp(target)
    const { domain } = mapped(bench, device, 2n)
    const last = 2 ** Math.min(device.pasidBits, bench.ops.capabilities.pasidBits) - 1
    attach(domain, device, last)
    assertErrno("EINVAL", `PASID ${last + 1}`, () => attach(domain, device, last + 1))
    assertErrno("EINVAL", "PASID 0", () => attach(domain, device, 0))
    assertErrno("EINVAL", "PASID -1", () => attach(domain, device, -1))
  })

  it("does not free a domain that a PASID uses: EBUSY", () => {
    const { bench, device } = setUp(target)
    const { domain } = mapped(bench, device, 2n)
    attach(domain, device, 5)
    assertErrno("EBUSY", "free", () => iommuDomainFree(domain))
    domain.removeDevPasid?.(device, 5)
    iommuDomainFree(domain)
  })

  it("blocks a PASID by the blocked domain, whatever it is on, and leaves the others alone", () => {
    const { bench, device, rid } = setUp(target)
    const { blockedDomain } = bench.ops
    assertTrue(blockedDomain.setDevPasid !== undefined, "the blocked domain takes PASIDs")
    const { domain, iova, page } = mapped(bench, device, 2n)
    attach(domain, device, 1)
    expectDma(bench, device, iova, page * 2n, 1)
    blockedDomain.setDevPasid(device, 1)
    expectDma(bench, device, iova, null, 1)
    expectDma(bench, device, rid.iova, rid.page)
    blockedDomain.setDevPasid(device, 1)
    iommuDomainFree(domain)
  })

  it("refuses to remove a PASID from a domain that it is not on: EINVAL", () => {
    const { bench, device } = setUp(target)
    const { domain } = mapped(bench, device, 2n)
    assertErrno("EINVAL", "never attached", () => domain.removeDevPasid?.(device, 1))
  })

  it("refuses a device that sends no PASIDs: EOPNOTSUPP or EINVAL", () => {
    const { bench, device } = setUp(target)
    const { domain } = mapped(bench, device, 2n)
    const plain = { ...bench.machine.device(1, bench.account), pasidBits: 0 }
    bench.ops.probeDevice(plain)
    assertAnyErrno(["EOPNOTSUPP", "EINVAL"], "no PASIDs", () => attach(domain, plain, 1))
  })
}

export function noPasidChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("refuses domains for PASIDs: EOPNOTSUPP, and has no setDevPasid", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const request = pagingParameters({ flags: PAGING_PASID })
    assertErrno("EOPNOTSUPP", "a domain for PASIDs", () => allocUser(bench.ops)(device, null, request))
    assertEqual(bench.paging(device).setDevPasid, undefined, "setDevPasid")
  })
}

function setUp(target: ConformanceTarget): {
  bench: TestBench
  device: IommuDevice
  rid: { domain: PagingDomain; iova: bigint; page: bigint }
} {
  const bench = testBench(target)
  const device = bench.probed(0)
  const rid = mapped(bench, device, 1n)
  rid.domain.attachDev(device)
  return { bench, device, rid }
}

function mapped(
  bench: TestBench,
  device: IommuDevice,
  frame: bigint,
): { domain: PagingDomain; iova: bigint; page: bigint } {
  const domain = bench.pasidDomain(device)
  const page = smallestPage(domain)
  const iova = iovaFor(domain, page * 64n, page * 64n)
  domain.map(iova, page * frame, page, IOMMU_READ | IOMMU_WRITE)
  return { domain, iova, page }
}

function attach(domain: PagingDomain, device: IommuDevice, pasid: number): void {
  assertTrue(domain.setDevPasid !== undefined, "a domain for PASIDs has setDevPasid")
  domain.setDevPasid(device, pasid)
}
