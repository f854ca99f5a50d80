import {
  type CacheInvalidateData,
  IOMMU_READ,
  IOMMU_WRITE,
  iommuDomainFree,
  PAGING_NEST_PARENT,
  pagingParameters,
} from "@iommu/core"
import { assertEqual, assertErrno, assertTrue } from "../assert.ts"
import { allocUser, iovaFor, nestedContract, smallestPage, testBench } from "../bench.ts"
import type { ConformanceTarget, TestRunner } from "../target.ts"

/** A driver that nests: guest-owned stage 1 over a nest parent. */
export function nestingChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("makes a nest parent that says so, and maps in it", () => {
    const bench = testBench(target)
    const parent = bench.nestParent(bench.probed(0))
    assertEqual(parent.type, "paging", "type")
    assertEqual(parent.nestParent, true, "nestParent")
    const page = smallestPage(parent)
    const gpa = iovaFor(parent, page, page)
    parent.map(gpa, page, page, IOMMU_READ | IOMMU_WRITE)
    assertEqual(parent.iovaToPhys(gpa), page, "look-up")
  })

  it("makes a nested domain over it, for several devices", () => {
    const bench = testBench(target)
    const [one, two] = [bench.probed(0), bench.probed(1)]
    const parent = bench.nestParent(one)
    const nested = bench.nested(one, parent, nestedContract(target))
    assertEqual(nested.type, "nested", "type")
    assertTrue(nested.parent === parent, "it names its parent")
    nested.attachDev(one)
    nested.attachDev(two)
    nested.detachDev(one)
    nested.detachDev(two)
    iommuDomainFree(nested)
    iommuDomainFree(parent)
    assertEqual(bench.account.usagePages, 0, "pages charged at the end")
  })

  it("does not free a nest parent under a nested domain: EBUSY", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const parent = bench.nestParent(device)
    const nested = bench.nested(device, parent, nestedContract(target))
    assertErrno("EBUSY", "free of the parent", () => iommuDomainFree(parent))
    iommuDomainFree(nested)
    iommuDomainFree(parent)
  })

  it("makes many nested domains over one parent, and takes their ids back", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const parent = bench.nestParent(device)
    const contract = nestedContract(target)
    for (let round = 0; round < 300; round++) {
      const pair = [bench.nested(device, parent, contract), bench.nested(device, parent, contract)]
      for (const nested of pair) iommuDomainFree(nested)
    }
    iommuDomainFree(parent)
    assertEqual(bench.account.usagePages, 0, "pages charged at the end")
  })

  it("goes from parent to nested and back in one call each", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const parent = bench.nestParent(device)
    const nested = bench.nested(device, parent, nestedContract(target))
    const page = smallestPage(parent)
    const gpa = iovaFor(parent, page * 16n, page * 16n)
    parent.map(gpa, page, page, IOMMU_READ | IOMMU_WRITE)
    parent.attachDev(device)
    assertEqual(
      bench.machine.dma?.(device, -1, gpa, 1),
      bench.machine.dma ? page : undefined,
      "through the parent",
    )
    nested.attachDev(device)
    parent.attachDev(device)
    assertEqual(bench.machine.dma?.(device, -1, gpa, 1), bench.machine.dma ? page : undefined, "and again")
  })

  it("answers an empty invalidation of each type it serves, and EINVAL to the others", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const nested = bench.nested(device, bench.nestParent(device), nestedContract(target))
    const { invalidateDataTypes } = bench.ops.capabilities
    if (invalidateDataTypes.length === 0) {
      assertEqual(nested.cacheInvalidateUser, undefined, "cacheInvalidateUser")
      return
    }
    for (const probe of emptyInvalidations) {
      const result = nested.cacheInvalidateUser?.(probe)
      assertEqual(result?.handled, 0, "entries handled")
      const expected = invalidateDataTypes.includes(probe.type) ? undefined : "EINVAL"
      assertEqual(result?.error?.code, expected, `probe of type ${probe.type}`)
    }
  })
}

const emptyInvalidations: readonly CacheInvalidateData[] = [
  { type: 0, entries: [] },
  { type: 1, entries: [] },
  { type: 0x8000_0003, entries: [] },
]

/** A driver, or hardware, that does not nest. */
export function noNestingChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("refuses to make a nest parent: EOPNOTSUPP", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const request = pagingParameters({ flags: PAGING_NEST_PARENT })
    assertErrno("EOPNOTSUPP", "a nest parent", () => allocUser(bench.ops)(device, null, request))
  })

  it("refuses a parent: EOPNOTSUPP", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const plain = bench.paging(device)
    assertErrno("EOPNOTSUPP", "a nested domain", () => allocUser(bench.ops)(device, plain, null))
  })

  it("claims no user data of nested domains and no invalidation", () => {
    const { capabilities } = testBench(target).ops
    assertEqual(
      target.userData.some(contract => contract.parent === "nest-parent"),
      false,
      "nested contracts",
    )
    assertEqual(capabilities.invalidateDataTypes.length, 0, "invalidation types")
  })
}
