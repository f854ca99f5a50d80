import { IommuGroup } from "@iommu/iommufd"
import { describe, expect, it } from "vitest"
import { expectErrno, testbench } from "./testbench.ts"
import { PAGE, USER_VA } from "./workbench.ts"

describe("5.2 Auto domains", () => {
  it("makes one when the first device attaches to an IOAS, and frees it with the last", () => {
    const bench = testbench()
    const ioas = bench.iommufd.ioasAlloc()
    const [one, two] = [bench.bound(), bench.bound()]
    const hwpt = one.attach(ioas)
    expect(two.attach(ioas)).toBe(hwpt)
    expectErrno("EBUSY", () => bench.iommufd.destroy(hwpt))
    one.detach()
    two.detach()
    expectErrno("ENOENT", () => bench.iommufd.destroy(hwpt))
    bench.iommufd.destroy(ioas)
  })

  it("fills it with what is mapped", () => {
    const bench = testbench()
    const ioasId = bench.iommufd.ioasAlloc()
    const device = bench.bound()
    device.attach(ioasId)
    const iova = bench.iommufd.ioasMap({ ioasId, userVa: USER_VA, length: PAGE, readable: true })
    const domain = bench.mock.domainOf(device.device)
    expect(domain?.type === "paging" && domain.iovaToPhys(iova)).not.toBeNull()
    device.detach()
    expect(bench.machine.pins.total).toBe(0)
  })
})

describe("5.3 Attach, replace, detach", () => {
  it("holds a group to one page table, attached once", () => {
    const bench = testbench()
    const members = [bench.probed(), bench.probed()]
    const group = new IommuGroup(bench.mock, members)
    const [one, two] = members.map(device => bench.iommufd.bindDevice({ ops: bench.mock, device, group }))
    const [ioas, other] = [bench.iommufd.ioasAlloc(), bench.iommufd.ioasAlloc()]
    const hwpt = one?.attach(ioas)
    expectErrno("EINVAL", () => two?.attach(other))
    expect(two?.attach(ioas)).toBe(hwpt)
    expectErrno("EBUSY", () => two?.attach(ioas))
  })
})
