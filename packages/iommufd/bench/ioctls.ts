/** The same command by a method and by the bytes of its ioctl: the difference is what decoding and encoding cost. */
import { createMemory, MemoryAccount } from "@iommu/core"
import type { Work } from "../../../tooling/bench/src/bench-case.ts"
import {
  IOMMU_HWPT_INVALIDATE,
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_UNMAP,
  IOMMU_VFIO_IOAS,
  type Iommufd,
  IommufdCommand,
  MachineMemory,
  openIommufd,
  Process,
  UserMemory,
} from "../src/index.ts"
import {
  HWPT_DATA_SELFTEST,
  HWPT_INVALIDATE_SELFTEST,
  HWPT_SELFTEST,
  INVALIDATE_DATA_SELFTEST,
  mockDevice,
  mockIommu,
} from "../src/testing.ts"

const CALLS = 256
const PAGE = 4096n
const USER_VA = 1n << 40n
const RAM_BYTES = 0x10_0000n
/** Requests of a large invalidation. */
const ENTRIES = 64

export interface CallPair {
  readonly command: string
  readonly method: Work
  readonly bytes: Work
}

export function callPairs(): CallPair[] {
  const iommufd = open()
  const ioasId = iommufd.ioasAlloc()
  const nested = nestedPageTable(iommufd)
  return [
    smallest(iommufd, ioasId),
    mapAndUnmap(iommufd, ioasId),
    invalidation(iommufd, nested, 1),
    invalidation(iommufd, nested, ENTRIES),
  ]
}

function open(): Iommufd {
  const memory = new UserMemory(new MachineMemory(createMemory([{ base: 0, size: RAM_BYTES }])))
  memory.map(USER_VA, 0n, RAM_BYTES)
  const user = { name: "bench", lockedPages: 0 }
  return openIommufd(new Process({ name: "bench", user, account: new MemoryAccount("bench"), memory }))
}

function nestedPageTable(iommufd: Iommufd): number {
  const ops = mockIommu()
  const device = mockDevice({ id: 1, account: new MemoryAccount("host") })
  ops.probeDevice(device)
  const deviceId = iommufd.bindDevice({ ops, device }).id
  const parentId = iommufd.hwptAlloc({ deviceId, parentId: iommufd.ioasAlloc(), flags: 1 })
  const bytes = HWPT_SELFTEST.encode({ iotlb: 1, pagetableType: 0 })
  return iommufd.hwptAlloc({ deviceId, parentId, data: { type: HWPT_DATA_SELFTEST, bytes } })
}

/** A command that does nothing else. */
function smallest(iommufd: Iommufd, ioasId: number): CallPair {
  iommufd.setVfioIoas(ioasId)
  const bytes = IOMMU_VFIO_IOAS.encode({ size: 12, ioasId: 0, op: 0, __reserved: 0 })
  return {
    command: "VFIO_IOAS, get",
    method: repeated(() => iommufd.vfioIoas),
    bytes: repeated(() => iommufd.ioctl(IommufdCommand.VFIO_IOAS, bytes)),
  }
}

function mapAndUnmap(iommufd: Iommufd, ioasId: number): CallPair {
  const place = { ioasId, userVa: USER_VA, length: PAGE, iova: PAGE }
  const map = IOMMU_IOAS_MAP.encode({ size: 40, flags: 7, __reserved: 0, ...place })
  const unmap = IOMMU_IOAS_UNMAP.encode({ size: 24, ioasId, iova: PAGE, length: PAGE })
  return {
    command: "IOAS_MAP and IOAS_UNMAP",
    method: repeated(() => {
      iommufd.ioasMap({ ...place, readable: true, writeable: true })
      return Number(iommufd.ioasUnmap(ioasId, PAGE, PAGE))
    }),
    bytes: repeated(() => {
      iommufd.ioctl(IommufdCommand.IOAS_MAP, map)
      return iommufd.ioctl(IommufdCommand.IOAS_UNMAP, unmap)
    }),
  }
}

function invalidation(iommufd: Iommufd, hwptId: number, count: number): CallPair {
  const entry = { flags: 0, iotlbId: 3 }
  const { size } = HWPT_INVALIDATE_SELFTEST
  for (let n = 0; n < count; n++) {
    iommufd.process.memory.write(USER_VA + BigInt(n * size), HWPT_INVALIDATE_SELFTEST.encode(entry))
  }
  const array = { dataUptr: USER_VA, dataType: INVALIDATE_DATA_SELFTEST, entryLen: size, entryNum: count }
  const bytes = IOMMU_HWPT_INVALIDATE.encode({ size: 32, hwptId, __reserved: 0, ...array })
  const entries = Array.from({ length: count }, () => ({ target: "hwpt" as const, ...entry }))
  return {
    command: `HWPT_INVALIDATE of ${count}`,
    method: repeated(
      () => iommufd.hwptInvalidate(hwptId, { type: INVALIDATE_DATA_SELFTEST, entries }).handled,
    ),
    bytes: repeated(() => iommufd.ioctl(IommufdCommand.HWPT_INVALIDATE, bytes)),
  }
}

function repeated(call: () => number): Work {
  return {
    operations: CALLS,
    run: () => {
      let sum = 0
      for (let n = 0; n < CALLS; n++) sum += call()
      return sum
    },
  }
}
