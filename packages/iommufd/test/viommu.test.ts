import * as uapi from "@iommu/iommufd"
import {
  HW_QUEUE_TYPE_SELFTEST,
  HWPT_DATA_SELFTEST,
  HWPT_SELFTEST,
  mockIommu,
  VEVENTQ_TYPE_SELFTEST,
  VIOMMU_SELFTEST,
  VIOMMU_TYPE_SELFTEST,
} from "@iommu/iommufd/testing"
import { describe, expect, it } from "vitest"
import { abi, encode } from "./abi.ts"
import { expectErrno, testbench } from "./testbench.ts"
import { PAGE, USER_VA } from "./workbench.ts"

function setUp() {
  const bench = testbench()
  const device = bench.bound()
  const { iommufd } = bench
  const ioas = abi.ioasAlloc(iommufd)
  const flags = uapi.HWPT_ALLOC_NEST_PARENT
  const parent = abi.hwptAlloc(iommufd, { devId: device.id, ptId: ioas, flags })
  const request = { devId: device.id, hwptId: parent, type: VIOMMU_TYPE_SELFTEST }
  const refused = (code: string, call: () => unknown): void => {
    const before = [iommufd.state(), bench.counts()]
    expectErrno(code, call)
    expect([iommufd.state(), bench.counts()]).toEqual(before)
  }
  return { bench, device, iommufd, ioas, parent, request, refused }
}

function withViommu() {
  const rest = setUp()
  return { ...rest, viommu: abi.viommuAlloc(rest.iommufd, rest.request) }
}

describe("2.18 VIOMMU_ALLOC", () => {
  it("refuses in the order of the table", () => {
    const { iommufd, device, ioas, request, refused } = setUp()
    refused("EOPNOTSUPP", () => abi.viommuAlloc(iommufd, { ...request, flags: 1, devId: 99 }))
    refused("EOPNOTSUPP", () => abi.viommuAlloc(iommufd, { ...request, type: 0, devId: 99 }))
    refused("ENOENT", () => abi.viommuAlloc(iommufd, { ...request, devId: 99 }))
    refused("EOPNOTSUPP", () => abi.viommuAlloc(iommufd, { ...request, type: 1, hwptId: 99 }))
    refused("ENOENT", () => abi.viommuAlloc(iommufd, { ...request, hwptId: 99 }))
    refused("ENOENT", () => abi.viommuAlloc(iommufd, { ...request, hwptId: device.id }))
    const plain = abi.hwptAlloc(iommufd, { devId: device.id, ptId: ioas })
    refused("EINVAL", () => abi.viommuAlloc(iommufd, { ...request, hwptId: plain }))
  })

  it("does not look at its reserved word", () => {
    const { iommufd, request } = setUp()
    abi.viommuAlloc(iommufd, { ...request, __reserved: 1 })
  })

  it("makes several over one parent, which they hold", () => {
    const { iommufd, parent, request, refused } = setUp()
    const [one, two] = [abi.viommuAlloc(iommufd, request), abi.viommuAlloc(iommufd, request)]
    refused("EBUSY", () => abi.destroy(iommufd, parent))
    abi.destroy(iommufd, one)
    abi.destroy(iommufd, two)
    abi.destroy(iommufd, parent)
  })

  it("gives data back to the process", () => {
    const { bench, iommufd, request, refused } = setUp()
    const { memory } = bench.process
    const data = VIOMMU_SELFTEST.encode({ inData: 0x42, outData: 0, outMmapOffset: 9n, outMmapLength: 9n })
    memory.write(USER_VA, data)
    for (const dataLen of [1, 23, 25]) {
      refused("EINVAL", () => abi.viommuAlloc(iommufd, { ...request, dataLen, dataUptr: USER_VA }))
    }
    refused("EFAULT", () => abi.viommuAlloc(iommufd, { ...request, dataLen: 24, dataUptr: 0n }))
    abi.viommuAlloc(iommufd, { ...request, dataLen: 24, dataUptr: USER_VA })
    const out = VIOMMU_SELFTEST.decode(memory.read(USER_VA, 24))
    expect(out).toEqual({ inData: 0x42, outData: 0x42, outMmapOffset: 0n, outMmapLength: 4096n })
  })

  it("is aborted when the data cannot be given back: EFAULT", () => {
    const { bench, iommufd, request, refused } = setUp()
    bench.process.memory.map(USER_VA, 0x1_0000_0000n, 0x1000n, "read-only")
    refused("EFAULT", () => abi.viommuAlloc(iommufd, { ...request, dataLen: 24, dataUptr: USER_VA }))
  })
})

describe("2.13 HWPT_ALLOC on a vIOMMU", () => {
  it("refuses in the order of the table", () => {
    const { bench, iommufd, device, viommu, refused } = withViommu()
    bench.process.memory.write(USER_VA, HWPT_SELFTEST.encode({ iotlb: 5, pagetableType: 0 }))
    const data = { dataType: HWPT_DATA_SELFTEST, dataLen: 8, dataUptr: USER_VA }
    const request = { devId: device.id, ptId: viommu, ...data }
    for (const flags of [1, 2, 16]) refused("EOPNOTSUPP", () => abi.hwptAlloc(iommufd, { ...request, flags }))
    refused("EOPNOTSUPP", () => abi.hwptAlloc(iommufd, { devId: device.id, ptId: viommu }))
    const other = bench.bound({}, mockIommu())
    refused("EINVAL", () => abi.hwptAlloc(iommufd, { ...request, devId: other.id }))
    const nested = abi.hwptAlloc(iommufd, request)
    refused("EBUSY", () => abi.destroy(iommufd, viommu))
    abi.destroy(iommufd, nested)
    abi.destroy(iommufd, viommu)
  })
})

describe("2.19 VDEVICE_ALLOC", () => {
  it("refuses in the order of the table", () => {
    const { bench, iommufd, device, viommu, request, refused } = withViommu()
    const vdevice = { viommuId: viommu, devId: device.id, virtId: 7n }
    refused("ENOENT", () => abi.vdeviceAlloc(iommufd, { ...vdevice, viommuId: 99 }))
    refused("ENOENT", () => abi.vdeviceAlloc(iommufd, { ...vdevice, devId: 99 }))
    const elsewhere = bench.bound({}, mockIommu())
    refused("EINVAL", () => abi.vdeviceAlloc(iommufd, { ...vdevice, devId: elsewhere.id }))
    const id = abi.vdeviceAlloc(iommufd, vdevice)
    refused("EEXIST", () => abi.vdeviceAlloc(iommufd, { ...vdevice, virtId: 8n }))
    const other = abi.viommuAlloc(iommufd, request)
    refused("EEXIST", () => abi.vdeviceAlloc(iommufd, { ...vdevice, viommuId: other }))
    const second = bench.bound()
    refused("EEXIST", () => abi.vdeviceAlloc(iommufd, { ...vdevice, devId: second.id }))
    refused("EBUSY", () => abi.destroy(iommufd, viommu))
    abi.destroy(iommufd, id)
    abi.vdeviceAlloc(iommufd, { ...vdevice, devId: second.id })
  })

  it("leaves a tombstone when its device goes: ENOENT, and no other object gets the id", () => {
    const { iommufd, device, viommu, refused } = withViommu()
    const id = abi.vdeviceAlloc(iommufd, { viommuId: viommu, devId: device.id, virtId: 7n })
    device.unbind()
    refused("ENOENT", () => abi.destroy(iommufd, id))
    expect(iommufd.state().tombstones).toEqual([id])
    const fresh = Array.from({ length: 4 }, () => abi.ioasAlloc(iommufd))
    expect(fresh).not.toContain(id)
    expect(fresh).toContain(device.id)
    abi.destroy(iommufd, viommu)
  })
})

describe("2.22 HW_QUEUE_ALLOC", () => {
  const GPA = 0x200_0000n

  function withQueueMemory() {
    const rest = withViommu()
    const { bench, ioas } = rest
    bench.iommufd.ioasMap({ ioasId: ioas, userVa: USER_VA, length: 2n * PAGE, iova: GPA, readable: true })
    const queue = {
      viommuId: rest.viommu,
      type: HW_QUEUE_TYPE_SELFTEST,
      nestingParentIova: GPA,
      length: PAGE,
    }
    return { ...rest, queue }
  }

  it("refuses in the order of the table", () => {
    const { iommufd, bench, ioas, queue, refused } = withQueueMemory()
    const tries: [string, Parameters<typeof abi.hwQueueAlloc>[1]][] = [
      ["EOPNOTSUPP", { flags: 1, length: 0n }],
      ["EOPNOTSUPP", { type: 0, length: 0n }],
      ["EINVAL", { length: 0n, viommuId: 99 }],
      ["EOVERFLOW", { nestingParentIova: (1n << 64n) - 1n, length: 2n, viommuId: 99 }],
      ["ENOENT", { viommuId: 99 }],
      ["ENOENT", { viommuId: ioas }],
      ["EOPNOTSUPP", { type: 5 }],
      ["ERANGE", { nestingParentIova: 1n, length: (1n << 64n) - 1n }],
      ["ENOENT", { nestingParentIova: GPA + PAGE, length: 2n * PAGE }],
      ["EINVAL", { index: 2 }],
      ["EIO", { index: 1 }],
    ]
    for (const [code, given] of tries) refused(code, () => abi.hwQueueAlloc(iommufd, { ...queue, ...given }))
    bench.iommufd.ioasMap({ ioasId: ioas, userVa: USER_VA, length: PAGE, iova: 0x300_0000n, writeable: true })
    refused("EPERM", () => abi.hwQueueAlloc(iommufd, { ...queue, nestingParentIova: 0x300_0000n }))
    abi.hwQueueAlloc(iommufd, queue)
    refused("EEXIST", () => abi.hwQueueAlloc(iommufd, queue))
  })

  it("needs physically contiguous memory: EFAULT", () => {
    const { bench, iommufd, ioas, queue, refused } = withQueueMemory()
    bench.process.memory.map(0x1000n, 0x1_0000_0000n, PAGE)
    bench.process.memory.map(0x2000n, 0x1_0000_8000n, PAGE)
    const iova = 0x400_0000n
    bench.iommufd.ioasMap({ ioasId: ioas, userVa: 0x1000n, length: 2n * PAGE, iova, readable: true })
    const length = 2n * PAGE
    refused("EFAULT", () => abi.hwQueueAlloc(iommufd, { ...queue, nestingParentIova: iova, length }))
  })

  it("locks its memory, and needs the queue before it: EBUSY", () => {
    const { bench, iommufd, ioas, viommu, queue, refused } = withQueueMemory()
    const first = abi.hwQueueAlloc(iommufd, { ...queue, nestingParentIova: GPA + 0x40n, length: 0x80n })
    const second = abi.hwQueueAlloc(iommufd, { ...queue, index: 1 })
    refused("EBUSY", () => bench.iommufd.ioasUnmap(ioas, GPA, 2n * PAGE))
    refused("EBUSY", () => abi.destroy(iommufd, viommu))
    refused("EBUSY", () => abi.destroy(iommufd, first))
    abi.destroy(iommufd, second)
    abi.destroy(iommufd, first)
    bench.iommufd.ioasUnmap(ioas, GPA, 2n * PAGE)
  })
})

describe("2.24 mmap", () => {
  it("maps what was handed out, exactly, and holds its owner", () => {
    const { bench, iommufd, request, refused } = setUp()
    bench.process.memory.write(USER_VA, new Uint8Array(24))
    const data = { dataLen: 24, dataUptr: USER_VA }
    const viommus = [0, 1].map(() => abi.viommuAlloc(iommufd, { ...request, ...data }))
    const offset = VIOMMU_SELFTEST.decode(bench.process.memory.read(USER_VA, 24)).outMmapOffset
    expect(offset).toBe(PAGE)
    const right = { offset, length: PAGE, sharing: "shared" } as const
    refused("EINVAL", () => iommufd.mmap({ ...right, length: 100n }))
    refused("EINVAL", () => iommufd.mmap({ ...right, sharing: "private" }))
    refused("EPERM", () => iommufd.mmap({ ...right, executable: true }))
    refused("ENXIO", () => iommufd.mmap({ ...right, offset: 0x8000n }))
    refused("ENXIO", () => iommufd.mmap({ ...right, length: 2n * PAGE }))
    const mapping = iommufd.mmap(right)
    refused("EBUSY", () => abi.destroy(iommufd, viommus[1] as number))
    mapping.unmap()
    mapping.unmap()
    abi.destroy(iommufd, viommus[1] as number)
    refused("ENXIO", () => iommufd.mmap(right))
  })

  it("keeps the iommufd alive that was closed under it", () => {
    const { bench, iommufd, device, request } = setUp()
    const data = new Uint8Array(24)
    const { outData } = iommufd.viommuAlloc({ deviceId: device.id, ...request, data })
    const offset = VIOMMU_SELFTEST.decode(outData as Uint8Array).outMmapOffset
    const mapping = iommufd.mmap({ offset, length: PAGE, sharing: "shared" })
    iommufd.close()
    device.unbind()
    expect(bench.account.objectBytes).toBeGreaterThan(0)
    mapping.unmap()
    expect(bench.account.objectBytes).toBe(0)
  })
})

describe("2.21 VEVENTQ_ALLOC", () => {
  it("refuses in the order of the table", () => {
    const { bench, iommufd, viommu, ioas, refused } = withViommu()
    const queue = { viommuId: viommu, type: VEVENTQ_TYPE_SELFTEST, veventqDepth: 2 }
    const tries: [string, Parameters<typeof abi.veventqAlloc>[1]][] = [
      ["EOPNOTSUPP", { flags: 1, veventqDepth: 0 }],
      ["EOPNOTSUPP", { __reserved: 1, veventqDepth: 0 }],
      ["EOPNOTSUPP", { type: 0, veventqDepth: 0 }],
      ["EINVAL", { veventqDepth: 0, viommuId: 99 }],
      ["ENOENT", { viommuId: 99 }],
      ["ENOENT", { viommuId: ioas }],
    ]
    for (const [code, given] of tries) refused(code, () => abi.veventqAlloc(iommufd, { ...queue, ...given }))
    const { outVeventqFd, outVeventqId } = abi.veventqAlloc(iommufd, queue)
    refused("EEXIST", () => abi.veventqAlloc(iommufd, queue))
    abi.veventqAlloc(iommufd, { ...queue, type: 77 })
    refused("EBUSY", () => abi.destroy(iommufd, outVeventqId))
    bench.process.files.close(outVeventqFd)
    abi.destroy(iommufd, outVeventqId)
  })

  it("gives descriptor and id back when the response cannot be written: EFAULT", () => {
    const { bench, iommufd, viommu } = withViommu()
    const { memory, files } = bench.process
    const request = { viommuId: viommu, type: 7, veventqDepth: 1 }
    memory.write(USER_VA, encode(uapi.IOMMU_VEVENTQ_ALLOC, request))
    memory.map(USER_VA, 0x1_0000_0000n, 0x1000n, "read-only")
    const before = [iommufd.state(), bench.counts(), files.descriptors]
    expectErrno("EFAULT", () => iommufd.ioctlAt(uapi.IommufdCommand.VEVENTQ_ALLOC, USER_VA))
    expect([iommufd.state(), bench.counts(), files.descriptors]).toEqual(before)
  })
})
