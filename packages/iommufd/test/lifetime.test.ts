import { iommuDevice, MemoryAccount } from "@iommu/core"
import * as uapi from "@iommu/iommufd"
import {
  HWPT_DATA_SELFTEST,
  HWPT_SELFTEST,
  VEVENTQ_TYPE_SELFTEST,
  VIOMMU_TYPE_SELFTEST,
} from "@iommu/iommufd/testing"
import { describe, expect, it } from "vitest"
import { abi, encode, ioctl } from "./abi.ts"
import { expectErrno, testbench } from "./testbench.ts"
import { PAGE, USER_VA } from "./workbench.ts"

const NESTED_DATA = { type: HWPT_DATA_SELFTEST, bytes: HWPT_SELFTEST.encode({ iotlb: 1, pagetableType: 0 }) }

/** One of everything, each in use by another. */
function everything() {
  const bench = testbench()
  const { iommufd } = bench
  const device = bench.bound({ pasid: true })
  const ioas = iommufd.ioasAlloc()
  const fault = iommufd.faultQueueAlloc()
  const flags = uapi.HWPT_ALLOC_NEST_PARENT
  const parent = iommufd.hwptAlloc({ deviceId: device.id, parentId: ioas, flags })
  const viommu = iommufd.viommuAlloc({ deviceId: device.id, hwptId: parent, type: VIOMMU_TYPE_SELFTEST }).id
  const vdevice = iommufd.vdeviceAlloc({ viommuId: viommu, deviceId: device.id, virtualId: 1 })
  const events = iommufd.veventqAlloc({ viommuId: viommu, type: VEVENTQ_TYPE_SELFTEST, depth: 4 })
  const request = { deviceId: device.id, parentId: viommu, data: NESTED_DATA }
  const nested = iommufd.hwptAlloc({ ...request, faultId: fault.id })
  device.attach(nested)
  iommufd.ioasMap({ ioasId: ioas, userVa: USER_VA, length: PAGE, readable: true })
  return { bench, iommufd, device, ioas, fault, parent, viommu, vdevice, events, nested }
}

describe("2.3 DESTROY", () => {
  it("finds no id that is missing, 0 or of another iommufd: ENOENT", () => {
    const bench = testbench()
    const other = bench.open()
    const id = abi.ioasAlloc(other)
    for (const missing of [0, id, 0xffff_ffff])
      expectErrno("ENOENT", () => abi.destroy(bench.iommufd, missing))
    abi.destroy(other, id)
  })

  it("spares what is in use, and what a kernel driver owns: EBUSY", () => {
    const { iommufd, device, ioas, fault, parent, viommu, events, nested } = everything()
    const access = iommufd.createAccess({ uses: "copies" })
    for (const id of [ioas, parent, viommu, nested, fault.id, events.id, device.id, access.id]) {
      expectErrno("EBUSY", () => abi.destroy(iommufd, id))
    }
  })
})

describe("2.4 IOAS_ALLOC", () => {
  it("refuses flags, and gives a space without limits", () => {
    const { iommufd } = testbench()
    const { IOAS_ALLOC, IOAS_IOVA_RANGES } = uapi.IommufdCommand
    expectErrno("EOPNOTSUPP", () => ioctl(iommufd, IOAS_ALLOC, uapi.IOMMU_IOAS_ALLOC, { flags: 1 }))
    const ioasId = abi.ioasAlloc(iommufd)
    const given = { ioasId, numIovas: 1, allowedIovas: USER_VA }
    const out = ioctl(iommufd, IOAS_IOVA_RANGES, uapi.IOMMU_IOAS_IOVA_RANGES, given)
    expect([out.numIovas, out.outIovaAlignment]).toEqual([1, 1n])
    const range = uapi.IOMMU_IOVA_RANGE.decode(iommufd.process.memory.read(USER_VA, 16))
    expect(range).toEqual({ start: 0n, last: (1n << 64n) - 1n })
    expect(iommufd.hugePages(ioasId)).toBe(true)
  })
})

describe("5.1 Objects", () => {
  it("counts ids from 1 and gives the lowest free one", () => {
    const { iommufd } = testbench()
    expect([1, 2, 3, 4, 5].map(() => abi.ioasAlloc(iommufd))).toEqual([1, 2, 3, 4, 5])
    for (const id of [4, 1, 3]) abi.destroy(iommufd, id)
    expect([1, 2, 3, 4].map(() => abi.ioasAlloc(iommufd))).toEqual([1, 3, 4, 6])
  })

  it("destroys everything at close, in any order of making, when device and queue files are gone", () => {
    const { bench, iommufd, device, fault, events } = everything()
    const { files } = bench.process
    iommufd.close()
    expect(bench.machine.pins.total).toBe(1)
    device.detach()
    files.close(fault.fd)
    device.unbind()
    expect(bench.machine.pins.total).toBe(1)
    files.close(events.fd)
    expect(bench.counts()).toEqual({ pins: 0, bytes: 0, pinned: 0, locked: 0, userLocked: 0 })
  })

  it("closes with the last descriptor, in whatever process", () => {
    const bench = testbench()
    const { iommufd } = bench
    const other = iommufd.passTo(bench.another())
    const ioas = iommufd.ioasAlloc()
    iommufd.close()
    other.destroy(ioas)
    other.ioasAlloc()
    other.close()
    expectErrno("EBADF", () => other.ioasAlloc())
  })

  it("lists all of it as JSON", () => {
    const { iommufd, ioas, parent, viommu, vdevice, nested, device, fault } = everything()
    const state = JSON.parse(JSON.stringify(iommufd.state()))
    expect(state).toEqual(iommufd.state())
    const byId = Object.fromEntries(state.objects.map((entry: { id: number }) => [entry.id, entry]))
    expect(byId[ioas]).toMatchObject({ kind: "ioas", users: 1, state: { pageTables: [parent] } })
    expect(byId[parent]).toMatchObject({ kind: "hwpt-paging", state: { nestParent: true, ioas } })
    expect(byId[viommu]).toMatchObject({ kind: "viommu", state: { vdevices: [vdevice], parent } })
    expect(byId[nested]).toMatchObject({ kind: "hwpt-nested", state: { parent: viommu, fault: fault.id } })
    expect(byId[device.id]).toMatchObject({ state: { attached: [{ hwpt: nested }], vdevice } })
  })
})

describe("2.11 OPTION", () => {
  const SET = { op: uapi.OPTION_OP_SET }
  const GET = { op: uapi.OPTION_OP_GET }

  it("refuses what it does not know: EOPNOTSUPP", () => {
    const { iommufd } = testbench()
    const objectId = abi.ioasAlloc(iommufd)
    const { OPTION_HUGE_PAGES: HUGE, OPTION_RLIMIT_MODE: RLIMIT } = uapi
    for (const given of [
      { __reserved: 1 },
      { optionId: 2 },
      { optionId: RLIMIT, op: 2 },
      { optionId: HUGE, op: 2, objectId },
      { optionId: RLIMIT, objectId, ...GET },
    ]) {
      expectErrno("EOPNOTSUPP", () => abi.option(iommufd, given))
    }
    expectErrno("ENOENT", () => abi.option(iommufd, { optionId: HUGE, op: 2, objectId: 99 }))
  })

  it("counts per process only where the caller may, before anything exists, and by 0 or 1", () => {
    expectErrno("EPERM", () => abi.option(testbench().iommufd, { ...SET, val64: 1n }))
    const { iommufd } = testbench({ process: { capabilities: ["CAP_SYS_RESOURCE"] } })
    const id = abi.ioasAlloc(iommufd)
    expectErrno("EBUSY", () => abi.option(iommufd, { ...SET, val64: 2n }))
    abi.destroy(iommufd, id)
    expectErrno("EINVAL", () => abi.option(iommufd, { ...SET, val64: 2n }))
    expect(abi.option(iommufd, GET)).toBe(0n)
    abi.option(iommufd, { ...SET, val64: 1n })
    expect(abi.option(iommufd, GET)).toBe(1n)
    expect(iommufd.rlimitMode).toBe("mm")
  })

  it("turns huge pages off and on: EINVAL for other values", () => {
    const { iommufd } = testbench()
    const huge = { optionId: uapi.OPTION_HUGE_PAGES, objectId: abi.ioasAlloc(iommufd) }
    expect(abi.option(iommufd, { ...huge, ...GET })).toBe(1n)
    expectErrno("EINVAL", () => abi.option(iommufd, { ...huge, ...SET, val64: 2n }))
    abi.option(iommufd, { ...huge, ...SET, val64: 0n })
    expect(abi.option(iommufd, { ...huge, ...GET })).toBe(0n)
  })
})

describe("2.12 VFIO_IOAS", () => {
  it("gets, sets and clears the address space of VFIO's containers", () => {
    const { iommufd } = testbench()
    expectErrno("EOPNOTSUPP", () => abi.vfioIoas(iommufd, { __reserved: 1 }))
    expectErrno("EOPNOTSUPP", () => abi.vfioIoas(iommufd, { op: 3 }))
    expectErrno("ENODEV", () => abi.vfioIoas(iommufd, { op: uapi.VFIO_IOAS_GET }))
    expectErrno("ENOENT", () => abi.vfioIoas(iommufd, { op: uapi.VFIO_IOAS_SET, ioasId: 7 }))
    const ioasId = abi.ioasAlloc(iommufd)
    abi.vfioIoas(iommufd, { op: uapi.VFIO_IOAS_SET, ioasId })
    expect(abi.vfioIoas(iommufd, { op: uapi.VFIO_IOAS_GET })).toBe(ioasId)
    abi.vfioIoas(iommufd, { op: uapi.VFIO_IOAS_CLEAR })
    expectErrno("ENODEV", () => abi.vfioIoas(iommufd, { op: uapi.VFIO_IOAS_GET }))
    abi.vfioIoas(iommufd, { op: uapi.VFIO_IOAS_SET, ioasId })
    abi.destroy(iommufd, ioasId)
    expectErrno("ENODEV", () => abi.vfioIoas(iommufd, { op: uapi.VFIO_IOAS_GET }))
  })
})

describe("2.20 IOAS_CHANGE_PROCESS", () => {
  const change = (iommufd: uapi.Iommufd, __reserved = 0): unknown =>
    ioctl(iommufd, uapi.IommufdCommand.IOAS_CHANGE_PROCESS, uapi.IOMMU_IOAS_CHANGE_PROCESS, { __reserved })

  it("refuses reserved bits, EOPNOTSUPP, and memory of a process in any IOAS, EINVAL", () => {
    const { bench, iommufd } = everything()
    expectErrno("EOPNOTSUPP", () => change(iommufd, 1))
    expectErrno("EINVAL", () => change(iommufd.passTo(bench.another())))
  })
})

describe("2.23 NOIOMMU_GET_PA", () => {
  function setUp() {
    const bench = testbench({ process: { capabilities: ["CAP_SYS_RAWIO"] } })
    const ioasId = bench.iommufd.ioasAlloc()
    const getPa = (given: object): { outPhys: bigint; length: bigint } =>
      ioctl(bench.iommufd, uapi.IommufdCommand.IOAS_NOIOMMU_GET_PA, uapi.IOMMU_IOAS_NOIOMMU_GET_PA, {
        ioasId,
        iova: 0x10_0800n,
        length: 0x4000n,
        ...given,
      })
    return { bench, ioasId, getPa }
  }

  it("refuses in the order of the table", () => {
    const plain = testbench()
    const bytes = encode(uapi.IOMMU_IOAS_NOIOMMU_GET_PA, { flags: 1 })
    expectErrno("EPERM", () => plain.iommufd.ioctl(uapi.IommufdCommand.IOAS_NOIOMMU_GET_PA, bytes))
    const { bench, ioasId, getPa } = setUp()
    expectErrno("EOPNOTSUPP", () => getPa({ flags: 1, length: 0n }))
    expectErrno("EOPNOTSUPP", () => getPa({ __reserved: 1, length: 0n }))
    expectErrno("EINVAL", () => getPa({ length: 0n, iova: (1n << 64n) - 1n }))
    expectErrno("EOVERFLOW", () => getPa({ iova: (1n << 64n) - 1n, ioasId: 99 }))
    expectErrno("ENOENT", () => getPa({ ioasId: 99 }))
    expectErrno("ENOENT", () => getPa({}))
    bench.iommufd.ioasMap({ ioasId, userVa: USER_VA, length: PAGE, iova: 0x10_0000n, readable: true })
    expectErrno("EOPNOTSUPP", () => getPa({}))
  })

  it("tells where pages lie, as far as they are contiguous", () => {
    const { bench, ioasId, getPa } = setUp()
    const device = bench.iommufd.bindNoIommuDevice(iommuDevice({ id: 1, account: new MemoryAccount("host") }))
    device.attach(ioasId)
    bench.iommufd.ioasMap({ ioasId, userVa: USER_VA, length: 2n * PAGE, iova: 0x10_0000n, readable: true })
    const out = getPa({})
    expect([out.outPhys, out.length]).toEqual([0x1_0000_0800n, 0x1800n])
    expect(getPa({ length: 0x100n }).length).toBe(0x100n)
  })

  it("binds devices without IOMMU only for CAP_SYS_RAWIO, and takes no flags for them", () => {
    const host = new MemoryAccount("host")
    expectErrno("EPERM", () => testbench().iommufd.bindNoIommuDevice(iommuDevice({ id: 1, account: host })))
    const { bench, ioasId } = setUp()
    const device = bench.iommufd.bindNoIommuDevice(iommuDevice({ id: 1, account: host }))
    const request = { devId: device.id, ptId: ioasId, flags: uapi.HWPT_ALLOC_NEST_PARENT }
    expectErrno("EOPNOTSUPP", () => abi.hwptAlloc(bench.iommufd, request))
  })
})

describe("8 iommufd_access", () => {
  it("attaches once, EINVAL, replaces only what is attached, ENOENT, and holds its IOAS", () => {
    const { iommufd } = testbench()
    const [one, two] = [iommufd.ioasAlloc(), iommufd.ioasAlloc()]
    const access = iommufd.createAccess({ uses: "pins" })
    expectErrno("ENOENT", () => access.replace(one))
    expectErrno("ENOENT", () => access.pin(0n, PAGE, "read"))
    access.attach(one)
    expectErrno("EINVAL", () => access.attach(two))
    expectErrno("EBUSY", () => iommufd.destroy(one))
    access.replace(two)
    iommufd.destroy(one)
    access.close()
    iommufd.destroy(two)
  })

  it("is asked to let go when memory is unmapped", () => {
    const { iommufd } = testbench()
    const ioasId = iommufd.ioasAlloc()
    const pins: { release(): void }[] = []
    const access = iommufd.createAccess({
      uses: "pins",
      onUnmap: () => {
        for (const pin of pins.splice(0)) pin.release()
      },
    })
    access.attach(ioasId)
    iommufd.ioasMap({ ioasId, userVa: USER_VA, length: PAGE, iova: PAGE, readable: true })
    pins.push(access.pin(PAGE, PAGE, "read"))
    expect(iommufd.ioasUnmap(ioasId, PAGE, PAGE)).toBe(PAGE)
    access.detach()
    access.close()
  })
})
