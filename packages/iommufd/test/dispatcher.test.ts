import * as uapi from "@iommu/iommufd"
import { describe, expect, it } from "vitest"
import { encode } from "./abi.ts"
import { expectErrno, testbench } from "./testbench.ts"
import { USER_VA } from "./workbench.ts"

const { IommufdCommand } = uapi

/** Minimum sizes of section 2.2; those that are smaller than the struct were its size in an earlier Linux. */
const COMMANDS = [
  [IommufdCommand.DESTROY, uapi.IOMMU_DESTROY, 8],
  [IommufdCommand.IOAS_ALLOC, uapi.IOMMU_IOAS_ALLOC, 12],
  [IommufdCommand.IOAS_ALLOW_IOVAS, uapi.IOMMU_IOAS_ALLOW_IOVAS, 24],
  [IommufdCommand.IOAS_COPY, uapi.IOMMU_IOAS_COPY, 40],
  [IommufdCommand.IOAS_IOVA_RANGES, uapi.IOMMU_IOAS_IOVA_RANGES, 32],
  [IommufdCommand.IOAS_MAP, uapi.IOMMU_IOAS_MAP, 40],
  [IommufdCommand.IOAS_UNMAP, uapi.IOMMU_IOAS_UNMAP, 24],
  [IommufdCommand.OPTION, uapi.IOMMU_OPTION, 24],
  [IommufdCommand.VFIO_IOAS, uapi.IOMMU_VFIO_IOAS, 12],
  [IommufdCommand.HWPT_ALLOC, uapi.IOMMU_HWPT_ALLOC, 24],
  [IommufdCommand.GET_HW_INFO, uapi.IOMMU_GET_HW_INFO, 32],
  [IommufdCommand.HWPT_SET_DIRTY_TRACKING, uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, 16],
  [IommufdCommand.HWPT_GET_DIRTY_BITMAP, uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, 48],
  [IommufdCommand.HWPT_INVALIDATE, uapi.IOMMU_HWPT_INVALIDATE, 32],
  [IommufdCommand.FAULT_QUEUE_ALLOC, uapi.IOMMU_FAULT_QUEUE_ALLOC, 16],
  [IommufdCommand.IOAS_MAP_FILE, uapi.IOMMU_IOAS_MAP_FILE, 40],
  [IommufdCommand.VIOMMU_ALLOC, uapi.IOMMU_VIOMMU_ALLOC, 24],
  [IommufdCommand.VDEVICE_ALLOC, uapi.IOMMU_VDEVICE_ALLOC, 24],
  [IommufdCommand.IOAS_CHANGE_PROCESS, uapi.IOMMU_IOAS_CHANGE_PROCESS, 8],
  [IommufdCommand.VEVENTQ_ALLOC, uapi.IOMMU_VEVENTQ_ALLOC, 28],
  [IommufdCommand.HW_QUEUE_ALLOC, uapi.IOMMU_HW_QUEUE_ALLOC, 40],
  [IommufdCommand.IOAS_NOIOMMU_GET_PA, uapi.IOMMU_IOAS_NOIOMMU_GET_PA, 40],
] as const

describe("2.1 Dispatcher", () => {
  it("answers ENOTTY to numbers that nobody has", () => {
    const { iommufd } = testbench()
    for (const number of [0x3b7f, 0x3b96, 0x80, 0x3c80, 0xc0083b80]) {
      expectErrno("ENOTTY", () => iommufd.ioctl(number, new Uint8Array(64)))
    }
  })

  it("answers EFAULT when the size cannot be read", () => {
    const { iommufd } = testbench()
    expectErrno("EFAULT", () => iommufd.ioctl(IommufdCommand.IOAS_ALLOC, new Uint8Array(3)))
    expectErrno("EFAULT", () => iommufd.ioctlAt(IommufdCommand.IOAS_ALLOC, 0n))
    expectErrno("EFAULT", () => iommufd.ioctlAt(IommufdCommand.IOAS_ALLOC, 0xffff_ffff_ffff_fffen))
  })

  for (const [command, layout, minSize] of COMMANDS) {
    it(`holds ${layout.name} to its sizes`, () => {
      const { iommufd } = testbench()
      for (const size of [0, 3, minSize - 1]) {
        const bytes = new Uint8Array(layout.size)
        new DataView(bytes.buffer).setUint32(0, size, true)
        expectErrno("EINVAL", () => iommufd.ioctl(command, bytes))
      }
      const longer = new Uint8Array(layout.size + 8)
      new DataView(longer.buffer).setUint32(0, longer.length, true)
      longer[longer.length - 1] = 1
      expectErrno("E2BIG", () => iommufd.ioctl(command, longer))
      expectErrno("EFAULT", () => iommufd.ioctl(command, longer.subarray(0, minSize - 1)))
    })
  }

  it("runs a longer struct whose tail is zero, and writes back no more than it knows", () => {
    const { iommufd } = testbench()
    const bytes = new Uint8Array(5000)
    new DataView(bytes.buffer).setUint32(0, 5000, true)
    iommufd.ioctl(IommufdCommand.IOAS_ALLOC, bytes)
    const expected = new Uint8Array(5000)
    expected.set([0x88, 0x13, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0])
    expect(bytes).toEqual(expected)
  })

  it("reads the missing tail of a shorter struct as zero, and writes back its size", () => {
    const bench = testbench()
    const device = bench.bound()
    const ioas = bench.iommufd.ioasAlloc()
    const bytes = encode(uapi.IOMMU_HWPT_ALLOC, { size: 24, devId: device.id, ptId: ioas, faultId: 77 })
    const before = bytes.slice()
    bench.iommufd.ioctl(IommufdCommand.HWPT_ALLOC, bytes)
    expect(uapi.IOMMU_HWPT_ALLOC.decode(bytes).outHwptId).toBe(3)
    expect(bytes.subarray(24)).toEqual(before.subarray(24))
  })

  it("finds the struct in memory of the process: EFAULT where it is missing or read-only", () => {
    const bench = testbench()
    const { memory } = bench.process
    const at = USER_VA + 0x3ff8n
    memory.write(at, encode(uapi.IOMMU_IOAS_ALLOC, {}))
    bench.iommufd.ioctlAt(IommufdCommand.IOAS_ALLOC, at)
    expect(memory.read(at + 8n, 4)).toEqual(Uint8Array.of(1, 0, 0, 0))
    memory.unmap(USER_VA + 0x4000n, 0x1000n)
    expectErrno("EFAULT", () => bench.iommufd.ioctlAt(IommufdCommand.IOAS_ALLOC, at))
  })

  it("undoes a command whose response cannot be written: EFAULT", () => {
    const bench = testbench()
    const { memory } = bench.process
    memory.write(USER_VA, encode(uapi.IOMMU_IOAS_ALLOC, {}))
    memory.map(USER_VA, 0x1_0000_0000n, 0x1000n, "read-only")
    const before = bench.account.objectBytes
    expectErrno("EFAULT", () => bench.iommufd.ioctlAt(IommufdCommand.IOAS_ALLOC, USER_VA))
    expect(bench.account.objectBytes).toBe(before)
    expect(bench.iommufd.state().objects).toEqual([])
    expect(bench.iommufd.ioasAlloc()).toBe(1)
  })

  it("checks a tail of 4 GiB page by page", () => {
    const bench = testbench()
    const bytes = encode(uapi.IOMMU_IOAS_ALLOC, { size: 0xffff_ffff })
    bench.process.memory.write(USER_VA, bytes)
    expectErrno("EFAULT", () => bench.iommufd.ioctlAt(IommufdCommand.IOAS_ALLOC, USER_VA))
  })

  it("answers EBADF once the descriptor is closed", () => {
    const { iommufd } = testbench()
    iommufd.close()
    for (const call of [
      () => iommufd.ioasAlloc(),
      () => iommufd.ioctl(IommufdCommand.IOAS_ALLOC, encode(uapi.IOMMU_IOAS_ALLOC, {})),
    ]) {
      expectErrno("EBADF", call)
    }
  })
})
