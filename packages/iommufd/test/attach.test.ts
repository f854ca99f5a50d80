import { type IommuDevice, IommuError, NO_PASID } from "@iommu/core"
import * as uapi from "@iommu/iommufd"
import { type BoundDevice, IommuGroup } from "@iommu/iommufd"
import { HWPT_DATA_SELFTEST, HWPT_SELFTEST, mockIommu, VIOMMU_TYPE_SELFTEST } from "@iommu/iommufd/testing"
import { describe, expect, it } from "vitest"
import { abi } from "./abi.ts"
import { expectErrno, type Testbench, testbench } from "./testbench.ts"
import { PAGE, USER_VA } from "./workbench.ts"

const NESTED_DATA = { type: HWPT_DATA_SELFTEST, bytes: HWPT_SELFTEST.encode({ iotlb: 1, pagetableType: 0 }) }

/** A page table on an IOAS. */
function hwpt(bench: Testbench, device: BoundDevice, ioas: number, flags = 0): number {
  return abi.hwptAlloc(bench.iommufd, { devId: device.id, ptId: ioas, flags })
}

/** Two devices that share a group. */
function pair(bench: Testbench, options = {}): readonly [BoundDevice, BoundDevice] {
  const members = [bench.probed(options), bench.probed(options)] as const
  const group = new IommuGroup(bench.mock, members)
  const bind = (device: IommuDevice): BoundDevice =>
    bench.iommufd.bindDevice({ ops: bench.mock, device, group })
  return [bind(members[0]), bind(members[1])]
}

/** The call throws and leaves everything as it was. */
function refused(bench: Testbench, code: string, call: () => unknown): void {
  const before = [bench.iommufd.state(), bench.counts()]
  expectErrno(code, call)
  expect([bench.iommufd.state(), bench.counts()]).toEqual(before)
}

describe("5.2 Auto domains", () => {
  it("makes one when the first device attaches to an IOAS, and frees it with the last", () => {
    const bench = testbench()
    const ioas = bench.iommufd.ioasAlloc()
    const [one, two] = [bench.bound(), bench.bound()]
    const auto = one.attach(ioas)
    expect(two.attach(ioas)).toBe(auto)
    refused(bench, "EBUSY", () => bench.iommufd.destroy(auto))
    one.detach()
    two.detach()
    refused(bench, "ENOENT", () => bench.iommufd.destroy(auto))
    bench.iommufd.destroy(ioas)
  })

  it("fills it with what is mapped", () => {
    const bench = testbench()
    const ioasId = bench.iommufd.ioasAlloc()
    const device = bench.bound()
    device.attach(ioasId)
    const iova = bench.iommufd.ioasMap({ ioasId, userVa: USER_VA, length: PAGE, readable: true })
    const domain = bench.mock.domainOf(device.device)
    expect(domain?.type === "paging" && domain.iovaToPhys(iova)).toBe(0x1_0000_0000n)
    device.detach()
    expect(bench.machine.pins.total).toBe(0)
  })

  it("never picks a page table that was made by hand", () => {
    const bench = testbench()
    const ioas = bench.iommufd.ioasAlloc()
    const device = bench.bound()
    const manual = hwpt(bench, device, ioas)
    expect(device.attach(ioas)).not.toBe(manual)
  })

  it("tries the next one when a driver answers EINVAL, and ends at any other errno", () => {
    const bench = testbench()
    const ioas = bench.iommufd.ioasAlloc()
    const [here, there] = [bench.bound(), bench.bound({}, mockIommu())]
    const auto = here.attach(ioas)
    const other = there.attach(ioas)
    expect(other).not.toBe(auto)
    expect(bench.bound().attach(ioas)).toBe(auto)
    bench.account.limitPages = 0
    expectErrno("ENOMEM", () => bench.bound({}, mockIommu()).attach(ioas))
  })

  it("frees it also when its device is replaced away", () => {
    const bench = testbench()
    const [from, to] = [bench.iommufd.ioasAlloc(), bench.iommufd.ioasAlloc()]
    const device = bench.bound()
    const auto = device.attach(from)
    const next = device.replace(to)
    refused(bench, "ENOENT", () => bench.iommufd.destroy(auto))
    expect(device.hwptId()).toBe(next)
    bench.iommufd.destroy(from)
  })

  it("serves neither nesting nor PASIDs: EINVAL", () => {
    const bench = testbench()
    const ioas = bench.iommufd.ioasAlloc()
    const device = bench.bound({ pasid: true })
    refused(bench, "EINVAL", () => device.attachPasid(1, ioas))
    const auto = device.attach(ioas)
    refused(bench, "EINVAL", () => device.attachPasid(1, ioas))
    refused(bench, "EINVAL", () =>
      bench.iommufd.hwptAlloc({ deviceId: device.id, parentId: auto, data: NESTED_DATA }),
    )
  })
})

describe("5.3 Attach, replace, detach", () => {
  it("finds what to attach to, ENOENT, and wants a page table or an IOAS: EINVAL", () => {
    const bench = testbench()
    const device = bench.bound()
    refused(bench, "ENOENT", () => device.attach(99))
    refused(bench, "EINVAL", () => device.attach(device.id))
  })

  it("attaches a device once: EBUSY", () => {
    const bench = testbench()
    const ioas = bench.iommufd.ioasAlloc()
    const device = bench.bound()
    const [one, two] = [hwpt(bench, device, ioas), hwpt(bench, device, ioas)]
    device.attach(one)
    refused(bench, "EBUSY", () => device.attach(one))
    refused(bench, "EBUSY", () => device.attach(two))
    refused(bench, "EBUSY", () => device.attach(ioas))
  })

  it("holds a group to one page table, which is attached for all members", () => {
    const bench = testbench()
    const [one, two] = pair(bench)
    const [ioas, other] = [bench.iommufd.ioasAlloc(), bench.iommufd.ioasAlloc()]
    const first = one.attach(ioas)
    expect(bench.mock.domainOf(two.device)).toBe(bench.mock.domainOf(one.device))
    const foreign = hwpt(bench, two, other)
    refused(bench, "EINVAL", () => two.attach(foreign))
    expect(two.attach(ioas)).toBe(first)
    one.detach()
    expect(bench.mock.domainOf(one.device)).not.toBeNull()
    two.detach()
    expect(bench.mock.domainOf(one.device)).toBeNull()
  })

  it("moves a whole group when one of its devices is replaced", () => {
    const bench = testbench()
    const [one, two] = pair(bench)
    const [from, to] = [bench.iommufd.ioasAlloc(), bench.iommufd.ioasAlloc()]
    one.attach(from)
    two.attach(from)
    const next = one.replace(to)
    expect([one.hwptId(), two.hwptId()]).toEqual([next, next])
    bench.iommufd.destroy(from)
    one.detach()
    two.detach()
    bench.iommufd.destroy(to)
  })

  it("puts members back when one of them cannot be attached", () => {
    const bench = testbench()
    const members = [bench.probed(), bench.probed({ noDirty: true })]
    const group = new IommuGroup(bench.mock, members)
    const device = bench.iommufd.bindDevice({ ops: bench.mock, device: members[0] as IommuDevice, group })
    const ioas = bench.iommufd.ioasAlloc()
    const tracking = hwpt(bench, device, ioas, uapi.HWPT_ALLOC_DIRTY_TRACKING)
    refused(bench, "EINVAL", () => device.attach(tracking))
    expect(members.map(member => bench.mock.domainOf(member))).toEqual([null, null])
    device.attach(ioas)
    const domain = bench.mock.domainOf(device.device)
    refused(bench, "EINVAL", () => device.replace(tracking))
    expect(members.map(member => bench.mock.domainOf(member))).toEqual([domain, domain])
  })

  it("refuses reserved regions of the device that are in use: EADDRINUSE", () => {
    const reserved = mockIommu({
      reservedRegions: [{ type: "reserved", start: 0x200_0000n, last: 0x200_0fffn }],
    })
    const bench = testbench()
    const ioasId = bench.iommufd.ioasAlloc()
    const device = bench.bound({}, reserved)
    const map = (): bigint =>
      bench.iommufd.ioasMap({ ioasId, userVa: USER_VA, length: PAGE, iova: 0x200_0000n, readable: true })
    map()
    refused(bench, "EADDRINUSE", () => device.attach(ioasId))
    bench.iommufd.ioasUnmap(ioasId, 0x200_0000n, PAGE)
    bench.iommufd.ioasAllowIovas(ioasId, [{ start: 0x200_0800n, last: 0x200_2000n }])
    refused(bench, "EADDRINUSE", () => device.attach(ioasId))
    bench.iommufd.ioasAllowIovas(ioasId, [])
    device.attach(ioasId)
    refused(bench, "EINVAL", map)
    const empty = bench.iommufd.ioasAlloc()
    device.replace(empty)
    map()
    refused(bench, "EADDRINUSE", () => device.replace(ioasId))
    device.detach()
    expect(bench.iommufd.ioasIovaRanges(empty).ranges).toEqual([{ start: 0n, last: (1n << 64n) - 1n }])
  })

  it("reserves a nested device's regions in the parent's IOAS", () => {
    const mock = { reservedRegions: [{ type: "msi", start: 0x300_0000n, last: 0x300_0fffn }] } as const
    const bench = testbench({ mock })
    const ioas = bench.iommufd.ioasAlloc()
    const device = bench.bound()
    const parent = hwpt(bench, device, ioas, uapi.HWPT_ALLOC_NEST_PARENT)
    const before = bench.iommufd.ioasIovaRanges(ioas).ranges.length
    device.attach(bench.iommufd.hwptAlloc({ deviceId: device.id, parentId: parent, data: NESTED_DATA }))
    expect(bench.iommufd.ioasIovaRanges(ioas).ranges.length).toBe(before + 1)
  })

  it("replaces only what is attached: EINVAL; the same page table is no change", () => {
    const bench = testbench()
    const ioas = bench.iommufd.ioasAlloc()
    const device = bench.bound()
    refused(bench, "EINVAL", () => device.replace(ioas))
    const first = device.attach(ioas)
    expect(device.replace(first)).toBe(first)
    expect(device.replace(ioas)).toBe(first)
  })

  it("detaches what is not attached without a word", () => {
    const bench = testbench()
    const device = bench.bound({ pasid: true })
    device.detach()
    device.detachPasid(5)
  })

  it("refuses a page table of another IOMMU, and one that tracks for a device without: EINVAL", () => {
    const bench = testbench()
    const ioas = bench.iommufd.ioasAlloc()
    const [here, there] = [bench.bound(), bench.bound({}, mockIommu())]
    const foreign = hwpt(bench, here, ioas)
    refused(bench, "EINVAL", () => there.attach(foreign))
    const tracking = hwpt(bench, here, ioas, uapi.HWPT_ALLOC_DIRTY_TRACKING)
    const plain = bench.bound({ noDirty: true })
    refused(bench, "EINVAL", () => plain.attach(tracking))
  })

  it("refuses page requests for a virtual function that shares them: EINVAL", () => {
    const bench = testbench()
    const device = bench.iommufd.bindDevice({
      ops: bench.mock,
      device: bench.probed(),
      sharesPageRequests: true,
    })
    const faultId = bench.iommufd.faultQueueAlloc().id
    const parentId = bench.iommufd.ioasAlloc()
    const served = bench.iommufd.hwptAlloc({ deviceId: device.id, parentId, faultId })
    refused(bench, "EINVAL", () => device.attach(served))
  })

  it("refuses a nested domain of a vIOMMU for a device without vDEVICE: ENOENT", () => {
    const bench = testbench()
    const device = bench.bound()
    const parent = hwpt(bench, device, bench.iommufd.ioasAlloc(), uapi.HWPT_ALLOC_NEST_PARENT)
    const type = VIOMMU_TYPE_SELFTEST
    const viommu = bench.iommufd.viommuAlloc({ deviceId: device.id, hwptId: parent, type }).id
    const nested = bench.iommufd.hwptAlloc({ deviceId: device.id, parentId: viommu, data: NESTED_DATA })
    refused(bench, "ENOENT", () => device.attach(nested))
    bench.iommufd.vdeviceAlloc({ viommuId: viommu, deviceId: device.id, virtualId: 7 })
    device.attach(nested)
  })

  it("refuses to bind what another iommufd has, EPERM, or what is bound, EBUSY", () => {
    const bench = testbench()
    const [one, two] = [bench.probed(), bench.probed()]
    const group = new IommuGroup(bench.mock, [one, two])
    const other = bench.open(bench.another())
    const bound = bench.iommufd.bindDevice({ ops: bench.mock, device: one, group })
    expectErrno("EPERM", () => other.bindDevice({ ops: bench.mock, device: two, group }))
    expectErrno("EBUSY", () => bench.iommufd.bindDevice({ ops: bench.mock, device: one, group }))
    bound.unbind()
    other.bindDevice({ ops: bench.mock, device: two, group })
  })

  it("refuses to bind a device twice, also without a group that is told: EPERM", () => {
    const bench = testbench()
    const device = bench.probed()
    const bound = bench.iommufd.bindDevice({ ops: bench.mock, device })
    const other = bench.open(bench.another())
    expectErrno("EPERM", () => other.bindDevice({ ops: bench.mock, device }))
    expectErrno("EBUSY", () => new IommuGroup(bench.mock, [device]))
    expectErrno("ENODEV", () => bench.iommufd.bindDevice({ ops: mockIommu(), device }))
    bound.unbind()
    other.bindDevice({ ops: bench.mock, device })
  })

  it("attaches nothing while a device is reset, EBUSY, and puts it back afterwards", () => {
    const bench = testbench()
    const ioas = bench.iommufd.ioasAlloc()
    const device = bench.bound({ pasid: true })
    const [one, two] = [0, 1].map(() => hwpt(bench, device, ioas, uapi.HWPT_ALLOC_PASID)) as [number, number]
    device.attach(one)
    device.attachPasid(7, two)
    const domains = [NO_PASID, 7].map(pasid => bench.mock.domainOf(device.device, pasid))
    device.beginReset()
    expect([NO_PASID, 7].map(pasid => bench.mock.domainOf(device.device, pasid))).toEqual([null, null])
    refused(bench, "EBUSY", () => device.beginReset())
    refused(bench, "EBUSY", () => device.replace(two))
    refused(bench, "EBUSY", () => device.attachPasid(8, two))
    device.endReset()
    expect([NO_PASID, 7].map(pasid => bench.mock.domainOf(device.device, pasid))).toEqual(domains)
    device.beginReset()
    device.detachPasid(7)
    device.endReset()
    expect(bench.mock.domainOf(device.device, 7)).toBeNull()
    expectErrno("EINVAL", () => device.endReset())
  })

  it("charges the owner for its domains, and the host again afterwards", () => {
    const bench = testbench()
    const device = bench.probed()
    const host = device.account
    const bound = bench.iommufd.bindDevice({ ops: bench.mock, device })
    expect(device.account).toBe(bench.account)
    bound.attach(bench.iommufd.ioasAlloc())
    expectErrno("EBUSY", () => bound.unbind())
    bound.detach()
    bound.unbind()
    expect(device.account).toBe(host)
  })
})

describe("5.4 PASID", () => {
  function setUp() {
    const bench = testbench()
    const device = bench.bound({ pasid: true })
    const ioas = bench.iommufd.ioasAlloc()
    const plain = hwpt(bench, device, ioas)
    const [one, two] = [0, 1].map(() => hwpt(bench, device, ioas, uapi.HWPT_ALLOC_PASID)) as [number, number]
    return { bench, device, ioas, plain, one, two }
  }

  it("attaches only page tables for PASIDs: EINVAL", () => {
    const { bench, device, plain, one } = setUp()
    refused(bench, "EINVAL", () => device.attachPasid(1, plain))
    device.attach(plain)
    refused(bench, "EINVAL", () => device.attachPasid(1, one))
    device.replace(one)
    device.attachPasid(1, one)
    refused(bench, "EINVAL", () => device.replace(plain))
    device.detach()
    refused(bench, "EINVAL", () => device.attach(plain))
    device.detachPasid(1)
    device.attach(plain)
  })

  it("takes PASIDs from 1 to what the device sends: EINVAL", () => {
    const { bench, device, one } = setUp()
    for (const pasid of [0, -1, 2 ** 20]) refused(bench, "EINVAL", () => device.attachPasid(pasid, one))
    device.attachPasid(2 ** 20 - 1, one)
    expect(bench.mock.domainOf(device.device, 2 ** 20 - 1)).not.toBeNull()
  })

  it("attaches each PASID once, EBUSY, and replaces only what is attached, EINVAL", () => {
    const { bench, device, one, two } = setUp()
    refused(bench, "EINVAL", () => device.replacePasid(1, one))
    device.attachPasid(1, one)
    refused(bench, "EBUSY", () => device.attachPasid(1, two))
    refused(bench, "EBUSY", () => bench.iommufd.destroy(one))
    device.replacePasid(1, two)
    expect([device.hwptId(1), device.hwptId(NO_PASID)]).toEqual([two, null])
    bench.iommufd.destroy(one)
    device.detachPasid(1)
    bench.iommufd.destroy(two)
  })

  it("keeps the old page table when a replacement fails: PASID 1024 of the mock, ENOMEM", () => {
    const { bench, device, one, two } = setUp()
    device.attachPasid(1024, one)
    const domain = bench.mock.domainOf(device.device, 1024)
    refused(bench, "ENOMEM", () => device.replacePasid(1024, two))
    expect([device.hwptId(1024), bench.mock.domainOf(device.device, 1024)]).toEqual([one, domain])
    device.replacePasid(1024, two)
    device.detachPasid(1024)
  })

  it("accepts any PASID for a device that sends none, to no effect", () => {
    const { bench, ioas } = setUp()
    const device = bench.bound()
    const table = hwpt(bench, device, ioas, uapi.HWPT_ALLOC_PASID)
    device.attachPasid(0x100_0000, table)
    expect(bench.mock.domainOf(device.device, 0x100_0000)).toBeNull()
    device.detachPasid(0x100_0000)
  })

  it("needs a driver that attaches PASIDs: EOPNOTSUPP", () => {
    const { bench, device, one } = setUp()
    const blocked = bench.mock.blockedDomain
    Object.assign(blocked, { setDevPasid: undefined })
    refused(bench, "EOPNOTSUPP", () => device.attachPasid(1, one))
  })
})

describe("5.6 Software MSI window", () => {
  it("is the only one, and stands alone: EINVAL", () => {
    const window = { type: "sw-msi", start: 0x800_0000n, last: 0x80f_ffffn } as const
    const doorbells = { type: "msi", start: 0x300_0000n, last: 0x300_0fffn } as const
    for (const other of [doorbells, { ...window, start: 0x900_0000n, last: 0x90f_ffffn }]) {
      const bench = testbench({ mock: { reservedRegions: [window, other] } })
      const ioas = bench.iommufd.ioasAlloc()
      const device = bench.bound()
      refused(bench, "EINVAL", () => device.attach(ioas))
    }
  })

  it("makes one page for each doorbell, the same on all domains", () => {
    const window = { type: "sw-msi", start: 0x800_0000n, last: 0x80f_ffffn } as const
    const bench = testbench({ mock: { reservedRegions: [window] } })
    const [one, two] = [bench.bound(), bench.bound()]
    expect(() => one.mapDoorbell(0x2000_0040n)).toThrow(IommuError)
    one.attach(bench.iommufd.ioasAlloc())
    two.attach(bench.iommufd.ioasAlloc())
    expect(one.mapDoorbell(0x2000_0040n)).toBe(0x800_0040n)
    expect(one.mapDoorbell(0x3000_0000n)).toBe(0x800_1000n)
    expect(two.mapDoorbell(0x3000_0044n)).toBe(0x800_1044n)
    const domain = bench.mock.domainOf(two.device)
    expect(domain?.type === "paging" && domain.iovaToPhys(0x800_1000n)).toBe(0x3000_0000n)
    one.detach()
    two.detach()
  })
})
