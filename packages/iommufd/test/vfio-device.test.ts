/** A device's own file: VFIO_DEVICE_BIND_IOMMUFD, ATTACH and DETACH of page tables. */

import type { IommuOps } from "@iommu/core"
import {
  bytesArgument,
  IommuGroup,
  memoryArgument,
  VfioDeviceFile,
  type VfioDeviceOptions,
  vfioDeviceIoctl,
} from "@iommu/iommufd"
import { describe, expect, it } from "vitest"
import { VfioDeviceCommand } from "../src/vfio/constants.ts"
import { VFIO_ATTACH, VFIO_BIND, VFIO_DETACH, VFIO_DEVICE_INFO } from "../src/vfio/structs.ts"
import { expectErrno, type Testbench, testbench } from "./testbench.ts"
import { PAGE, RAM, USER_VA } from "./workbench.ts"

function deviceFile(bench: Testbench, options: Partial<VfioDeviceOptions> = {}): VfioDeviceFile {
  return new VfioDeviceFile({ ops: bench.mock, device: bench.probed({ pasid: true }), ...options })
}

describe("8 VFIO cdev, BIND_IOMMUFD", () => {
  it("hands the device to the iommufd and gives its id; closing gives it back", () => {
    const bench = testbench()
    const file = deviceFile(bench)
    const id = file.bindIommufd(bench.process, bench.iommufd.fd)
    expect(bench.iommufd.state().objects).toMatchObject([{ id, kind: "device" }])
    file.attach(bench.iommufd.ioasAlloc())
    file.close()
    expect(bench.iommufd.state().objects.map(({ kind }) => kind)).toEqual(["ioas"])
    file.bindIommufd(bench.process, bench.iommufd.fd)
  })

  it("refuses in Linux's order, with Linux's errno", () => {
    const bench = testbench()
    const { process, iommufd } = bench
    const { fd } = iommufd
    expectErrno("EINVAL", () => deviceFile(bench).bindIommufd(process, -1))
    expectErrno("EINVAL", () => deviceFile(bench, { openedBy: "group" }).bindIommufd(process, fd))
    expectErrno("EBUSY", () => deviceFile(bench, { isGroupPathInUse: () => true }).bindIommufd(process, fd))
    expectErrno("EBADF", () => deviceFile(bench).bindIommufd(process, 99))
    expectErrno("EBADFD", () =>
      deviceFile(bench).bindIommufd(process, process.files.install({ kind: "memfd" })),
    )
    expectErrno("ENODEV", () => deviceFile(bench, { group: null }).bindIommufd(process, fd))
    expectErrno("EPERM", () => deviceFile(bench, { interrupts: "shared" }).bindIommufd(process, fd))
    const incoherent: IommuOps = Object.create(bench.mock, { capable: { value: () => false } })
    expectErrno("EINVAL", () => deviceFile(bench, { ops: incoherent }).bindIommufd(process, fd))
    const bound = deviceFile(bench, { interrupts: "shared, and allowed" })
    bound.bindIommufd(process, fd)
    expectErrno("EINVAL", () => bound.bindIommufd(process, fd))
  })

  it("a group that another owner has is EPERM", () => {
    const bench = testbench()
    const devices = [bench.probed(), bench.probed()]
    const group = new IommuGroup(bench.mock, devices)
    const [one, two] = devices.map(device => new VfioDeviceFile({ ops: bench.mock, device, group })) as [
      VfioDeviceFile,
      VfioDeviceFile,
    ]
    one.bindIommufd(bench.process, bench.iommufd.fd)
    expectErrno("EPERM", () => two.bindIommufd(bench.process, bench.open().fd))
    two.bindIommufd(bench.process, bench.iommufd.fd)
  })
})

describe("8 VFIO cdev, ATTACH_PT and DETACH_PT", () => {
  it("attach to an IOAS names the page table that is used; a second one replaces it; detach of nothing is fine", () => {
    const bench = testbench()
    const file = deviceFile(bench)
    expectErrno("EINVAL", () => file.attach(1))
    const deviceId = file.bindIommufd(bench.process, bench.iommufd.fd)
    const parentId = bench.iommufd.ioasAlloc()
    const auto = file.attach(parentId)
    expect([deviceId, parentId]).not.toContain(auto)
    const hwpt = bench.iommufd.hwptAlloc({ deviceId, parentId })
    expect(file.attach(hwpt)).toBe(hwpt)
    expectErrno("ENOENT", () => bench.iommufd.destroy(auto))
    expectErrno("EBUSY", () => bench.iommufd.destroy(hwpt))
    file.detach()
    file.detach()
    bench.iommufd.destroy(hwpt)
    expectErrno("EBUSY", () => bench.iommufd.destroy(deviceId))
  })

  it("PASIDs have page tables of their own, unless the device has none that could: EOPNOTSUPP", () => {
    const bench = testbench()
    const file = deviceFile(bench)
    const deviceId = file.bindIommufd(bench.process, bench.iommufd.fd)
    const parentId = bench.iommufd.ioasAlloc()
    const hwpts = [1, 2, 3].map(() => bench.iommufd.hwptAlloc({ deviceId, parentId, flags: 8 }))
    file.attach(hwpts[0] as number)
    expect(file.attach(hwpts[1] as number, 5)).toBe(hwpts[1])
    expect(file.attach(hwpts[2] as number, 5)).toBe(hwpts[2])
    bench.iommufd.destroy(hwpts[1] as number)
    file.detach(6)
    file.close()
    bench.iommufd.destroy(hwpts[2] as number)
    const plain = deviceFile(bench, { pasids: "none" })
    plain.bindIommufd(bench.process, bench.iommufd.fd)
    expectErrno("EOPNOTSUPP", () => plain.attach(hwpts[0] as number, 5))
    expectErrno("EOPNOTSUPP", () => plain.detach(5))
  })
})

describe("8 VFIO cdev, byte by byte", () => {
  function bound(): { bench: Testbench; call(command: number, bytes: Uint8Array): number; id: number } {
    const bench = testbench()
    const file = deviceFile(bench)
    const call = (command: number, bytes: Uint8Array): number =>
      vfioDeviceIoctl(file, bench.process, command, bytesArgument(bytes))
    const request = { argsz: 24, flags: 0, iommufd: bench.iommufd.fd, outDevid: 0, tokenUuidPtr: 0n }
    const info = VFIO_DEVICE_INFO.encode({
      argsz: 24,
      flags: 0,
      numRegions: 0,
      numIrqs: 0,
      capOffset: 0,
      pad: 0,
    })
    expectErrno("EINVAL", () => call(VfioDeviceCommand.GET_INFO, info))
    expectErrno("EINVAL", () =>
      call(VfioDeviceCommand.BIND_IOMMUFD, VFIO_BIND.encode({ ...request, argsz: 15 })),
    )
    expectErrno("EINVAL", () =>
      call(VfioDeviceCommand.BIND_IOMMUFD, VFIO_BIND.encode({ ...request, flags: 1 })),
    )
    const long = new Uint8Array(28)
    long.set(VFIO_BIND.encode({ ...request, argsz: 28 }))
    long[27] = 1
    expectErrno("E2BIG", () => call(VfioDeviceCommand.BIND_IOMMUFD, long))
    const short = VFIO_BIND.encode({ ...request, argsz: 16 }).slice(0, 16)
    call(VfioDeviceCommand.BIND_IOMMUFD, short)
    const id = new DataView(short.buffer).getUint32(12, true)
    expect(bench.iommufd.state().objects).toMatchObject([{ id, kind: "device" }])
    return { bench, call, id }
  }

  it("binds, attaches with and without PASID, detaches, and tells about the device", () => {
    const { bench, call, id: deviceId } = bound()
    const parentId = bench.iommufd.ioasAlloc()
    const hwpt = bench.iommufd.hwptAlloc({ deviceId, parentId, flags: 8 })
    const attach = VFIO_ATTACH.encode({ argsz: 12, flags: 0, ptId: hwpt, pasid: 77 })
    call(VfioDeviceCommand.ATTACH_IOMMUFD_PT, attach)
    expect(VFIO_ATTACH.decode(attach)).toMatchObject({ ptId: hwpt, pasid: 77 })
    call(
      VfioDeviceCommand.ATTACH_IOMMUFD_PT,
      VFIO_ATTACH.encode({ argsz: 16, flags: 1, ptId: hwpt, pasid: 3 }),
    )
    const onTwo = { state: { attached: [{ hwpt }, { pasid: 3, hwpt }] } }
    expect(bench.iommufd.state().objects[0]).toMatchObject(onTwo)
    call(VfioDeviceCommand.DETACH_IOMMUFD_PT, VFIO_DETACH.encode({ argsz: 12, flags: 1, pasid: 3 }))
    call(VfioDeviceCommand.DETACH_IOMMUFD_PT, VFIO_DETACH.encode({ argsz: 8, flags: 0, pasid: 3 }))
    expect(bench.iommufd.state().objects[0]).toMatchObject({ state: { attached: [] } })
    const info = VFIO_DEVICE_INFO.encode({
      argsz: 24,
      flags: 0,
      numRegions: 0,
      numIrqs: 0,
      capOffset: 0,
      pad: 0,
    })
    call(VfioDeviceCommand.GET_INFO, info)
    expect(VFIO_DEVICE_INFO.decode(info)).toMatchObject({ argsz: 24, flags: 2, numRegions: 9, numIrqs: 5 })
  })

  it("undoes what it cannot report: EFAULT", () => {
    const bench = testbench()
    const file = deviceFile(bench)
    const { memory } = bench.process
    const at = USER_VA + 0x10_0000n
    const call = (command: number, bytes: Uint8Array): number => {
      memory.map(at, RAM.base + 0x10_0000n, PAGE)
      memory.write(at, bytes)
      memory.map(at, RAM.base + 0x10_0000n, PAGE, "read-only")
      return vfioDeviceIoctl(file, bench.process, command, memoryArgument(memory, at))
    }
    const bind = { argsz: 24, flags: 0, iommufd: bench.iommufd.fd, outDevid: 0, tokenUuidPtr: 0n }
    expectErrno("EFAULT", () => call(VfioDeviceCommand.BIND_IOMMUFD, VFIO_BIND.encode(bind)))
    expect(bench.iommufd.state().objects).toEqual([])
    const deviceId = file.bindIommufd(bench.process, bench.iommufd.fd)
    const ptId = bench.iommufd.hwptAlloc({ deviceId, parentId: bench.iommufd.ioasAlloc(), flags: 8 })
    file.attach(ptId)
    for (const flags of [1, 0]) {
      const attach = VFIO_ATTACH.encode({ argsz: 16, flags, ptId, pasid: 3 })
      expectErrno("EFAULT", () => call(VfioDeviceCommand.ATTACH_IOMMUFD_PT, attach))
    }
    expect(bench.iommufd.state().objects[0]).toMatchObject({ state: { attached: [] } })
  })

  it("checks argsz and flags: EINVAL, and unknown commands: ENOTTY", () => {
    const { bench, call, id: deviceId } = bound()
    const ptId = bench.iommufd.hwptAlloc({ deviceId, parentId: bench.iommufd.ioasAlloc(), flags: 8 })
    const attach = { argsz: 16, flags: 0, ptId, pasid: 1 }
    for (const wrong of [{ argsz: 11 }, { flags: 2 }, { argsz: 15, flags: 1 }]) {
      expectErrno("EINVAL", () =>
        call(VfioDeviceCommand.ATTACH_IOMMUFD_PT, VFIO_ATTACH.encode({ ...attach, ...wrong })),
      )
    }
    for (const wrong of [{ argsz: 7 }, { flags: 2 }, { argsz: 11, flags: 1 }]) {
      const detach = VFIO_DETACH.encode({ argsz: 12, flags: 0, pasid: 1, ...wrong })
      expectErrno("EINVAL", () => call(VfioDeviceCommand.DETACH_IOMMUFD_PT, detach))
    }
    expectErrno("ENOTTY", () => call(0x3b00 + 100 + 8, new Uint8Array(64)))
  })
})
