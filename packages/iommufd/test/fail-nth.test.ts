/** Every allocation of every command fails once: what was there before is there afterwards, and nothing else. */
import { type IommuDevice, iommuDevice, MemoryAccount, pagingParameters } from "@iommu/core"
import * as uapi from "@iommu/iommufd"
import { type BoundDevice, IommuGroup, MemFile, openIommufd } from "@iommu/iommufd"
import {
  FailingAccount,
  FaultInjector,
  failEach,
  HW_QUEUE_TYPE_SELFTEST,
  HWPT_DATA_SELFTEST,
  HWPT_SELFTEST,
  INVALIDATE_DATA_SELFTEST,
  mockDevice,
  mockIommu,
  testMachine,
  VEVENTQ_TYPE_SELFTEST,
  VIOMMU_SELFTEST,
  VIOMMU_TYPE_SELFTEST,
} from "@iommu/iommufd/testing"
import { describe, expect, it } from "vitest"
import { abi, ioctl } from "./abi.ts"

const PAGE = 4096n
const IOVA = 0x200_0000n
const { NEST_PARENT, DIRTY, PASID } = {
  NEST_PARENT: uapi.HWPT_ALLOC_NEST_PARENT,
  DIRTY: uapi.HWPT_ALLOC_DIRTY_TRACKING,
  PASID: uapi.HWPT_ALLOC_PASID,
}
const C = uapi.IommufdCommand

/** One object of each kind, and what else commands need. */
function setUp() {
  const machine = testMachine()
  const injector = new FaultInjector()
  const process = machine.process({
    account: new FailingAccount("owner", injector),
    capabilities: ["CAP_SYS_RAWIO", "CAP_SYS_RESOURCE"],
  })
  const iommufd = openIommufd(process)
  const mock = mockIommu({
    reservedRegions: [
      { type: "reserved", start: 0x100_0000n, last: 0x100_0fffn },
      { type: "sw-msi", start: 0x800_0000n, last: 0x80f_ffffn },
    ],
  })
  const host = new MemoryAccount("host")
  let devices = 0
  const probed = (): IommuDevice => {
    const device = mockDevice({ id: ++devices, pasid: true, account: host })
    mock.probeDevice(device)
    return device
  }
  const bind = (device: IommuDevice): BoundDevice => iommufd.bindDevice({ ops: mock, device })
  const device = bind(probed())
  const ioas = iommufd.ioasAlloc()
  const map = (iova: bigint): bigint =>
    iommufd.ioasMap({ ioasId: ioas, userVa: machine.userVa, length: 3n * PAGE, iova, readable: true })
  map(IOVA)
  map(IOVA + 0x10_0000n)
  const parent = iommufd.hwptAlloc({ deviceId: device.id, parentId: ioas, flags: NEST_PARENT })
  const viommu = iommufd.viommuAlloc({ deviceId: device.id, hwptId: parent, type: VIOMMU_TYPE_SELFTEST }).id
  const fault = iommufd.faultQueueAlloc()
  const data = { type: HWPT_DATA_SELFTEST, bytes: HWPT_SELFTEST.encode({ iotlb: 1, pagetableType: 0 }) }
  process.memory.write(machine.userVa + 0x1000n, data.bytes)
  const dataAt = { dataType: HWPT_DATA_SELFTEST, dataLen: 8, dataUptr: machine.userVa + 0x1000n }
  const all = { machine, injector, process, iommufd, mock, host, probed, bind, device, ioas, parent, viommu }
  return { ...all, fault, data, dataAt }
}

type Bench = ReturnType<typeof setUp>

/** What a failed command must leave alone. */
function observe({ iommufd, machine, process, mock, host }: Bench): unknown {
  const objects = iommufd.context.objects.objects
  const domains = objects.flatMap(object => (object.kind === "device" ? [object] : []))
  return {
    state: iommufd.state(),
    counts: machine.counts(),
    pages: process.account.usagePages,
    host: host.usagePages,
    descriptors: process.files.descriptors,
    domains: domains.map(({ device, ops }) => ops === mock && mock.domainOf(device)?.type),
    mapped: objects.map(object =>
      object.kind === "hwpt-paging" && "mappedBytes" in object.domain ? object.domain.mappedBytes : null,
    ),
    user: [...process.memory.read(machine.userVa, 64)],
  }
}

const MAP = { length: 5n * PAGE, flags: 6 }

/** Each makes its operation ready, and returns it. Those of which something must be able to fail come first. */
const ALLOCATING: Record<string, (bench: Bench) => () => unknown> = {
  IOAS_ALLOC: b => () => abi.ioasAlloc(b.iommufd),
  IOAS_ALLOW_IOVAS: b => () =>
    b.iommufd.ioasAllowIovas(b.ioas, [
      { start: 0x300_0000n, last: 0x3ff_ffffn },
      { start: 0x500_0000n, last: 0x5ff_ffffn },
    ]),
  IOAS_MAP: b => () =>
    ioctl(b.iommufd, C.IOAS_MAP, uapi.IOMMU_IOAS_MAP, { ...MAP, ioasId: b.ioas, userVa: b.machine.userVa }),
  IOAS_MAP_FILE: b => {
    const fd = b.process.files.install(new MemFile([{ address: b.machine.ramBase, length: 8n * PAGE }]))
    return () => ioctl(b.iommufd, C.IOAS_MAP_FILE, uapi.IOMMU_IOAS_MAP_FILE, { ...MAP, ioasId: b.ioas, fd })
  },
  IOAS_COPY: b => {
    const to = b.iommufd.ioasAlloc()
    b.iommufd.hwptAlloc({ deviceId: b.device.id, parentId: to })
    const given = { srcIoasId: b.ioas, dstIoasId: to, srcIova: IOVA, length: 3n * PAGE, flags: 4 }
    return () => ioctl(b.iommufd, C.IOAS_COPY, uapi.IOMMU_IOAS_COPY, given)
  },
  "HWPT_ALLOC paging": b => () =>
    abi.hwptAlloc(b.iommufd, { devId: b.device.id, ptId: b.ioas, flags: DIRTY | PASID }),
  "HWPT_ALLOC paging, with data": b => () =>
    abi.hwptAlloc(b.iommufd, { devId: b.device.id, ptId: b.ioas, ...b.dataAt }),
  "HWPT_ALLOC paging, with PAGING data": b => () =>
    b.iommufd.hwptAlloc({ deviceId: b.device.id, parentId: b.ioas, data: pagingParameters({}) }),
  "HWPT_ALLOC paging, first of its IOAS": b => {
    const ptId = b.iommufd.ioasAlloc()
    const { userVa } = b.machine
    b.iommufd.ioasMap({ ioasId: ptId, userVa, length: 3n * PAGE, iova: IOVA, writeable: true })
    return () => abi.hwptAlloc(b.iommufd, { devId: b.device.id, ptId })
  },
  "HWPT_ALLOC nested, with faults": b => () =>
    abi.hwptAlloc(b.iommufd, {
      devId: b.device.id,
      ptId: b.parent,
      flags: uapi.HWPT_FAULT_ID_VALID,
      faultId: b.fault.id,
      ...b.dataAt,
    }),
  "HWPT_ALLOC on a vIOMMU": b => () =>
    abi.hwptAlloc(b.iommufd, { devId: b.device.id, ptId: b.viommu, ...b.dataAt }),
  FAULT_QUEUE_ALLOC: b => () => abi.faultQueueAlloc(b.iommufd),
  VIOMMU_ALLOC: b => {
    const dataUptr = b.machine.userVa + 0x2000n
    b.process.memory.write(dataUptr, new Uint8Array(VIOMMU_SELFTEST.size))
    const given = { devId: b.device.id, hwptId: b.parent, type: VIOMMU_TYPE_SELFTEST }
    return () => abi.viommuAlloc(b.iommufd, { ...given, dataUptr, dataLen: VIOMMU_SELFTEST.size })
  },
  VDEVICE_ALLOC: b => () =>
    abi.vdeviceAlloc(b.iommufd, { viommuId: b.viommu, devId: b.device.id, virtId: 9n }),
  VEVENTQ_ALLOC: b => () =>
    abi.veventqAlloc(b.iommufd, { viommuId: b.viommu, type: VEVENTQ_TYPE_SELFTEST, veventqDepth: 4 }),
  HW_QUEUE_ALLOC: b => () =>
    abi.hwQueueAlloc(b.iommufd, {
      viommuId: b.viommu,
      type: HW_QUEUE_TYPE_SELFTEST,
      nestingParentIova: IOVA + 0x40n,
      length: PAGE,
    }),
  "bind of a device": b => {
    const device = b.probed()
    return () => b.bind(device)
  },
  "bind without IOMMU, and attach": b => {
    const device = iommuDevice({ id: 77, account: b.host })
    return () => {
      const bound = b.iommufd.bindNoIommuDevice(device)
      try {
        bound.attach(b.ioas)
      } catch (error) {
        bound.unbind()
        throw error
      }
    }
  },
  "attach to an IOAS": b => () => b.device.attach(b.ioas),
  "attach to a page table": b => () => b.device.attach(b.parent),
  "attach of a group": b => {
    const members = [b.probed(), b.probed()]
    const group = new IommuGroup(b.mock, members)
    const [one] = members.map(device => b.iommufd.bindDevice({ ops: b.mock, device, group }))
    return () => one?.attach(b.ioas)
  },
  "replace by an IOAS": b => {
    b.device.attach(b.parent)
    const to = b.iommufd.ioasAlloc()
    return () => b.device.replace(to)
  },
  "making of an access": b => () => b.iommufd.createAccess({ uses: "pins" }),
  "attach of an access": b => {
    const access = b.iommufd.createAccess({ uses: "pins" })
    return () => access.attach(b.ioas)
  },
  "pin by an access": b => {
    const access = b.iommufd.createAccess({ uses: "pins" })
    access.attach(b.ioas)
    return () => access.pin(IOVA, 2n * PAGE, "read")
  },
}

/** Nothing of these allocates; were that to change, the same would be asked of them. */
const OTHERS: Record<string, (bench: Bench) => () => unknown> = {
  DESTROY: b => {
    const ids = Array.from({ length: 40 }, () => b.iommufd.ioasAlloc())
    return () => abi.destroy(b.iommufd, ids.pop() as number)
  },
  IOAS_IOVA_RANGES: b => () =>
    ioctl(b.iommufd, C.IOAS_IOVA_RANGES, uapi.IOMMU_IOAS_IOVA_RANGES, {
      ioasId: b.ioas,
      numIovas: 8,
      allowedIovas: b.machine.userVa + 0x3000n,
    }),
  IOAS_UNMAP: b => () => {
    const given = { ioasId: b.ioas, length: (1n << 64n) - 1n }
    ioctl(b.iommufd, C.IOAS_UNMAP, uapi.IOMMU_IOAS_UNMAP, given)
  },
  OPTION: b => () => {
    const optionId = uapi.OPTION_HUGE_PAGES
    abi.option(b.iommufd, { optionId, op: uapi.OPTION_OP_GET, objectId: b.ioas })
  },
  VFIO_IOAS: b => () => abi.vfioIoas(b.iommufd, { op: uapi.VFIO_IOAS_SET, ioasId: b.ioas }),
  GET_HW_INFO: b => () => abi.hwInfo(b.iommufd, { devId: b.device.id }),
  HWPT_SET_DIRTY_TRACKING: b => {
    const hwptId = b.iommufd.hwptAlloc({ deviceId: b.device.id, parentId: b.ioas, flags: DIRTY })
    const given = { hwptId, flags: 1 }
    return () => ioctl(b.iommufd, C.HWPT_SET_DIRTY_TRACKING, uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, given)
  },
  HWPT_GET_DIRTY_BITMAP: b => {
    const hwptId = b.iommufd.hwptAlloc({ deviceId: b.device.id, parentId: b.ioas, flags: DIRTY })
    const given = { hwptId, iova: IOVA, length: 2n * PAGE, pageSize: PAGE, data: b.machine.userVa + 0x5000n }
    return () => ioctl(b.iommufd, C.HWPT_GET_DIRTY_BITMAP, uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, given)
  },
  HWPT_INVALIDATE: b => {
    const hwptId = b.iommufd.hwptAlloc({ deviceId: b.device.id, parentId: b.parent, data: b.data })
    const given = { hwptId, dataType: INVALIDATE_DATA_SELFTEST, dataUptr: b.machine.userVa, entryLen: 8 }
    return () => abi.invalidate(b.iommufd, { ...given, entryNum: 1 })
  },
  IOAS_CHANGE_PROCESS: b => () => {
    b.iommufd.ioasUnmap(b.ioas, 0n, (1n << 64n) - 1n)
    ioctl(b.iommufd, C.IOAS_CHANGE_PROCESS, uapi.IOMMU_IOAS_CHANGE_PROCESS, {})
  },
  IOAS_NOIOMMU_GET_PA: b => {
    b.iommufd.bindNoIommuDevice(iommuDevice({ id: 77, account: b.host })).attach(b.ioas)
    const given = { ioasId: b.ioas, iova: IOVA, length: PAGE }
    return () => ioctl(b.iommufd, C.IOAS_NOIOMMU_GET_PA, uapi.IOMMU_IOAS_NOIOMMU_GET_PA, given)
  },
  "replace by a page table": b => {
    b.device.attach(b.ioas)
    return () => b.device.replace(b.parent)
  },
  "attach of a PASID": b => {
    const hwpt = b.iommufd.hwptAlloc({ deviceId: b.device.id, parentId: b.ioas, flags: PASID })
    return () => b.device.attachPasid(3, hwpt)
  },
  detach: b => {
    b.device.attach(b.ioas)
    return () => b.device.detach()
  },
}

function check(prepare: (bench: Bench) => () => unknown): number {
  const bench = setUp()
  const operation = prepare(bench)
  const runs = failEach(bench.injector, operation, () => observe(bench))
  for (const { nth, error, before, after } of runs) {
    expect(error.code, `allocation ${nth}: ${error.message}`).toBe("ENOMEM")
    expect(after, `allocation ${nth}`).toEqual(before)
  }
  return runs.length
}

describe("fail-nth", () => {
  for (const [name, prepare] of Object.entries(ALLOCATING)) {
    it(`leaves nothing behind when any allocation of ${name} fails`, () => {
      expect(check(prepare)).toBeGreaterThan(0)
    })
  }
  for (const [name, prepare] of Object.entries(OTHERS)) {
    it(`finds no allocation in ${name} that leaves something behind`, () => {
      check(prepare)
    })
  }

  it("covers every command", () => {
    const names = [...Object.keys(ALLOCATING), ...Object.keys(OTHERS)].map(name => name.split(" ")[0])
    expect(Object.keys(C).filter(command => !names.includes(command))).toEqual([])
  })
})
