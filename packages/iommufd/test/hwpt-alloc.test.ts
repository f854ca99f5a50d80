import { HWPT_PAGING, HwptDataType, pagingParameters } from "@iommu/core"
import * as uapi from "@iommu/iommufd"
import {
  HWPT_DATA_SELFTEST,
  HWPT_SELFTEST,
  MOCK_PAGE_SIZE,
  MockTable,
  mockIommu,
} from "@iommu/iommufd/testing"
import { describe, expect, it } from "vitest"
import { abi, encode } from "./abi.ts"
import { expectErrno, type Testbench, testbench } from "./testbench.ts"
import { PAGE, USER_VA } from "./workbench.ts"

const { NEST_PARENT, DIRTY, FAULT, PASID } = {
  NEST_PARENT: uapi.HWPT_ALLOC_NEST_PARENT,
  DIRTY: uapi.HWPT_ALLOC_DIRTY_TRACKING,
  FAULT: uapi.HWPT_FAULT_ID_VALID,
  PASID: uapi.HWPT_ALLOC_PASID,
}

/** SELFTEST user data in the process's memory. */
function selftest(bench: Testbench, pagetableType = 0, dataLen = 8) {
  const bytes = new Uint8Array(64)
  bytes.set(HWPT_SELFTEST.encode({ iotlb: 0xbadbeef, pagetableType }))
  bench.process.memory.write(USER_VA, bytes)
  return { dataType: HWPT_DATA_SELFTEST, dataLen, dataUptr: USER_VA }
}

function setUp() {
  const bench = testbench()
  const device = bench.bound()
  const ioas = abi.ioasAlloc(bench.iommufd)
  const refused = (code: string, given: Parameters<typeof abi.hwptAlloc>[1]): void => {
    const before = [bench.iommufd.state(), bench.counts()]
    expectErrno(code, () => abi.hwptAlloc(bench.iommufd, { devId: device.id, ptId: ioas, ...given }))
    expect([bench.iommufd.state(), bench.counts()]).toEqual(before)
  }
  const alloc = (given: Parameters<typeof abi.hwptAlloc>[1] = {}): number =>
    abi.hwptAlloc(bench.iommufd, { devId: device.id, ptId: ioas, ...given })
  return { bench, device, ioas, refused, alloc }
}

describe("2.13 HWPT_ALLOC", () => {
  it("refuses a reserved word before anything else, and does not look at the second: EOPNOTSUPP", () => {
    const { refused, alloc } = setUp()
    refused("EOPNOTSUPP", { __reserved: 1, devId: 99, dataLen: 3 })
    alloc({ __reserved2: 1 })
  })

  it("wants type and length of data, or neither: EINVAL", () => {
    const { bench, refused } = setUp()
    refused("EINVAL", { dataLen: 8, devId: 99 })
    refused("EINVAL", { ...selftest(bench), dataLen: 0, devId: 99 })
  })

  it("finds the device first, ENOENT, then the parent, EINVAL", () => {
    const { ioas, refused } = setUp()
    refused("ENOENT", { devId: 99, ptId: 99 })
    refused("ENOENT", { devId: ioas })
    refused("EINVAL", { ptId: 99 })
    refused("EINVAL", { ptId: 0 })
  })

  it("takes IOAS, paging hwpt and vIOMMU as parents, and nothing else: EINVAL", () => {
    const { bench, device, refused, alloc } = setUp()
    refused("EINVAL", { ptId: device.id })
    refused("EINVAL", { ptId: abi.faultQueueAlloc(bench.iommufd).outFaultId })
    const nested = alloc({ ptId: alloc({ flags: NEST_PARENT }), ...selftest(bench) })
    refused("EINVAL", { ptId: nested, ...selftest(bench) })
  })

  it("refuses flags that it does not know: EOPNOTSUPP", () => {
    const { bench, refused, alloc } = setUp()
    for (const flags of [16, 0x8000_0000]) refused("EOPNOTSUPP", { flags })
    const parent = alloc({ flags: NEST_PARENT })
    for (const flags of [NEST_PARENT, DIRTY, 16]) {
      refused("EOPNOTSUPP", { ptId: parent, flags, ...selftest(bench) })
    }
  })

  it("refuses dirty tracking for a device without: EOPNOTSUPP", () => {
    const { bench, refused } = setUp()
    refused("EOPNOTSUPP", { devId: bench.bound({ noDirty: true }).id, flags: DIRTY })
  })

  it("delivers no page requests for nest parents: EOPNOTSUPP", () => {
    const { bench, refused } = setUp()
    const faultId = abi.faultQueueAlloc(bench.iommufd).outFaultId
    refused("EOPNOTSUPP", { flags: NEST_PARENT | FAULT, faultId })
  })

  it("destroys the new domain when the fault queue is missing: ENOENT", () => {
    const { device, refused, alloc } = setUp()
    refused("ENOENT", { flags: FAULT, faultId: 99 })
    refused("ENOENT", { flags: FAULT, faultId: device.id })
    alloc({ faultId: 99 })
  })

  it("makes paging domains of special parameters by the driver's own data", () => {
    const { bench, alloc, refused } = setUp()
    const hwptId = alloc({ ...selftest(bench, MockTable.HUGE), flags: NEST_PARENT | DIRTY | PASID })
    const device = bench.bound()
    device.attach(hwptId)
    const domain = bench.mock.domainOf(device.device)
    expect(
      domain?.type === "paging" && [domain.pageSizes, domain.nestParent, domain.dirty !== undefined],
    ).toEqual([0x100800n, true, true])
    refused("EOPNOTSUPP", selftest(bench, 9))
    refused("EOPNOTSUPP", { dataType: 1, dataLen: 24, dataUptr: USER_VA })
    refused("EOPNOTSUPP", { dataType: 0xbeef, dataLen: 24, dataUptr: USER_VA })
  })

  it("merges the flags of the call with those of PAGING data", () => {
    const { bench, ioas, device } = setUp()
    const data = pagingParameters({ flags: DIRTY })
    const hwptId = bench.iommufd.hwptAlloc({ deviceId: device.id, parentId: ioas, flags: NEST_PARENT, data })
    expect(bench.iommufd.state().objects.find(({ id }) => id === hwptId)?.state).toMatchObject({
      nestParent: true,
      dirtyTracking: true,
    })
    const bytes = HWPT_PAGING.encode(data)
    expectErrno("EINVAL", () =>
      bench.iommufd.hwptAlloc({
        deviceId: device.id,
        parentId: ioas,
        data: { type: HwptDataType.PAGING, bytes: bytes.subarray(1) },
      }),
    )
  })

  it("makes nested domains over a manual nest parent of the same driver: else EINVAL", () => {
    const { bench, device, ioas, refused, alloc } = setUp()
    const parent = alloc({ flags: NEST_PARENT })
    alloc({ ptId: parent, ...selftest(bench) })
    refused("EINVAL", { ptId: alloc(), ...selftest(bench) })
    const auto = device.attach(ioas)
    refused("EINVAL", { ptId: auto, ...selftest(bench) })
    const other = bench.bound({}, mockIommu())
    refused("EINVAL", { devId: other.id, ptId: parent, ...selftest(bench) })
    refused("EOPNOTSUPP", { ptId: parent })
  })

  it("fills no nested domain, and a nest parent at once", () => {
    const { bench, ioas, alloc } = setUp()
    bench.iommufd.ioasMap({ ioasId: ioas, userVa: USER_VA, length: PAGE, iova: 0x200_0000n, readable: true })
    expect(bench.machine.pins.total).toBe(0)
    alloc({ flags: NEST_PARENT })
    expect(bench.machine.pins.total).toBe(1)
  })

  it("refuses areas and allowed ranges outside the aperture: EADDRINUSE", () => {
    const { bench, ioas, refused } = setUp()
    bench.iommufd.ioasMap({ ioasId: ioas, userVa: USER_VA, length: PAGE, iova: 0n, readable: true })
    refused("EADDRINUSE", {})
    bench.iommufd.ioasUnmap(ioas, 0n, PAGE)
    bench.iommufd.ioasAllowIovas(ioas, [{ start: 0n, last: 0xfffn }])
    refused("EADDRINUSE", {})
  })

  it("refuses areas that are not aligned to the domain's pages: EADDRINUSE", () => {
    const { bench, ioas, refused } = setUp()
    bench.iommufd.ioasMap({
      ioasId: ioas,
      userVa: USER_VA,
      length: MOCK_PAGE_SIZE / 2,
      iova: 0x200_0000n,
      readable: true,
    })
    refused("EADDRINUSE", {})
  })

  it("undoes everything when memory cannot be pinned: EFAULT", () => {
    const { bench, ioas, refused } = setUp()
    bench.iommufd.ioasMap({ ioasId: ioas, userVa: 0x1000n, length: PAGE, iova: 0x200_0000n, readable: true })
    refused("EFAULT", {})
  })

  it("aborts the object when the response cannot be written: EFAULT", () => {
    const { bench, device, ioas } = setUp()
    const { memory } = bench.process
    memory.write(USER_VA, encode(uapi.IOMMU_HWPT_ALLOC, { devId: device.id, ptId: ioas }))
    memory.map(USER_VA, 0x1_0000_0000n, 0x1000n, "read-only")
    const before = [bench.iommufd.state(), bench.counts()]
    expectErrno("EFAULT", () => bench.iommufd.ioctlAt(uapi.IommufdCommand.HWPT_ALLOC, USER_VA))
    expect([bench.iommufd.state(), bench.counts()]).toEqual(before)
  })

  it("makes all DMA coherent where the IOMMU enforces it", () => {
    const bench = testbench({ mock: { enforcesCoherency: true } })
    const device = bench.bound()
    const hwptId = abi.hwptAlloc(bench.iommufd, { devId: device.id, ptId: abi.ioasAlloc(bench.iommufd) })
    expect(bench.iommufd.state().objects.find(({ id }) => id === hwptId)?.state).toMatchObject({
      enforcesCoherency: true,
    })
  })
})

describe("4.2 Driver data", () => {
  it("has at least the minimum and at most the size that the driver knows: EINVAL", () => {
    const { bench, refused, alloc } = setUp()
    const ptId = alloc({ flags: NEST_PARENT })
    for (const dataLen of [1, 3, 9, 64]) refused("EINVAL", { ptId, ...selftest(bench, 0, dataLen) })
    for (const dataLen of [4, 5, 8]) alloc({ ptId, ...selftest(bench, 0, dataLen) })
  })

  it("is copied from the process's memory: EFAULT", () => {
    const { bench, refused, alloc } = setUp()
    const ptId = alloc({ flags: NEST_PARENT })
    for (const dataUptr of [0n, 0xffff_ffff_ffff_fffcn]) {
      refused("EFAULT", { ptId, ...selftest(bench), dataUptr })
    }
    refused("EINVAL", { ptId, ...selftest(bench, 0, 9), dataUptr: 0n })
  })
})
