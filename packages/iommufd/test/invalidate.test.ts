import * as uapi from "@iommu/iommufd"
import {
  HWPT_DATA_SELFTEST,
  HWPT_INVALIDATE_SELFTEST,
  HWPT_SELFTEST,
  INVALIDATE_DATA_SELFTEST,
  INVALIDATE_FLAG_ALL,
  VIOMMU_INVALIDATE_SELFTEST,
  VIOMMU_TYPE_SELFTEST,
} from "@iommu/iommufd/testing"
import { describe, expect, it } from "vitest"
import { abi, encode } from "./abi.ts"
import { expectErrno, testbench } from "./testbench.ts"
import { USER_VA } from "./workbench.ts"

const DEFAULT = 0xbadbeef

function setUp() {
  const bench = testbench()
  const device = bench.bound()
  const { iommufd } = bench
  const ioas = abi.ioasAlloc(iommufd)
  const flags = uapi.HWPT_ALLOC_NEST_PARENT
  const parent = abi.hwptAlloc(iommufd, { devId: device.id, ptId: ioas, flags })
  const data = { type: HWPT_DATA_SELFTEST, bytes: HWPT_SELFTEST.encode({ iotlb: DEFAULT, pagetableType: 0 }) }
  const nested = iommufd.hwptAlloc({ deviceId: device.id, parentId: parent, data })
  device.attach(nested)
  const domain = bench.mock.domainOf(device.device)
  const iotlb = (): readonly number[] =>
    domain !== null && "iotlb" in domain ? (domain.iotlb as number[]) : []
  const write = (entries: readonly { flags: number; iotlbId: number }[]): void => {
    bench.process.memory.write(USER_VA, new Uint8Array(4096))
    entries.forEach((entry, index) => {
      bench.process.memory.write(USER_VA + BigInt(8 * index), HWPT_INVALIDATE_SELFTEST.encode(entry))
    })
  }
  return { bench, device, iommufd, ioas, parent, nested, iotlb, write }
}

const ENTRIES = { dataType: INVALIDATE_DATA_SELFTEST, dataUptr: USER_VA, entryLen: 8 }

/** The errno, and the count of handled entries that came back with it. */
function refused(
  code: string,
  iommufd: uapi.Iommufd,
  given: Parameters<typeof abi.invalidate>[1],
  handled: number,
): void {
  const bytes = encode(uapi.IOMMU_HWPT_INVALIDATE, given)
  expectErrno(code, () => iommufd.ioctl(uapi.IommufdCommand.HWPT_INVALIDATE, bytes))
  expect(uapi.IOMMU_HWPT_INVALIDATE.decode(bytes).entryNum).toBe(handled)
}

describe("2.16 HWPT_INVALIDATE", () => {
  it("refuses in the order of the table, and writes back that nothing was handled", () => {
    const { iommufd, nested, parent, ioas, device } = setUp()
    refused("EOPNOTSUPP", iommufd, { ...ENTRIES, hwptId: 99, entryNum: 1, dataUptr: 0n, __reserved: 1 }, 0)
    refused("EINVAL", iommufd, { ...ENTRIES, hwptId: 99, entryNum: 1, dataUptr: 0n }, 0)
    refused("EINVAL", iommufd, { ...ENTRIES, hwptId: 99, entryNum: 1, entryLen: 0 }, 0)
    refused("EINVAL", iommufd, { ...ENTRIES, hwptId: 99, entryNum: 1, entryLen: 4097 }, 0)
    refused("EINVAL", iommufd, { ...ENTRIES, hwptId: 99, entryNum: 524_289 }, 0)
    refused("ENOENT", iommufd, { ...ENTRIES, hwptId: 99, entryNum: 1 }, 0)
    for (const hwptId of [parent, ioas, device.id]) {
      refused("EINVAL", iommufd, { ...ENTRIES, hwptId, entryNum: 1 }, 0)
    }
    refused("EINVAL", iommufd, { ...ENTRIES, hwptId: nested, entryNum: 1, dataType: 77 }, 0)
  })

  it("answers an empty array by whether the type is served", () => {
    const { iommufd, nested, iotlb } = setUp()
    abi.invalidate(iommufd, { hwptId: nested, dataType: INVALIDATE_DATA_SELFTEST })
    refused("EINVAL", iommufd, { hwptId: nested, dataType: 0 }, 0)
    refused("EINVAL", iommufd, { hwptId: nested, dataType: 1 }, 0)
    expect(iotlb()).toEqual([DEFAULT, DEFAULT, DEFAULT, DEFAULT])
  })

  it("carries out entries up to the first wrong one, and says how many", () => {
    const { iommufd, nested, iotlb, write } = setUp()
    write([
      { flags: 0, iotlbId: 0 },
      { flags: 0, iotlbId: 2 },
      { flags: 0, iotlbId: 4 },
      { flags: INVALIDATE_FLAG_ALL, iotlbId: 0 },
    ])
    refused("EINVAL", iommufd, { ...ENTRIES, hwptId: nested, entryNum: 4 }, 2)
    expect(iotlb()).toEqual([0, DEFAULT, 0, DEFAULT])
    write([
      { flags: INVALIDATE_FLAG_ALL, iotlbId: 0 },
      { flags: 2, iotlbId: 0 },
    ])
    refused("EOPNOTSUPP", iommufd, { ...ENTRIES, hwptId: nested, entryNum: 2 }, 1)
    expect(iotlb()).toEqual([0, 0, 0, 0])
  })

  it("carries out entries before the end of memory: EFAULT", () => {
    const { bench, iommufd, nested, iotlb } = setUp()
    const end = USER_VA + 0x100_0000n
    bench.process.memory.write(end - 16n, HWPT_INVALIDATE_SELFTEST.encode({ flags: 0, iotlbId: 1 }))
    bench.process.memory.write(end - 8n, HWPT_INVALIDATE_SELFTEST.encode({ flags: 0, iotlbId: 3 }))
    refused("EFAULT", iommufd, { ...ENTRIES, hwptId: nested, entryNum: 3, dataUptr: end - 16n }, 2)
    expect(iotlb()).toEqual([DEFAULT, 0, DEFAULT, 0])
  })

  it("takes thousands of entries", () => {
    const { bench, iommufd, nested } = setUp()
    bench.process.memory.write(USER_VA, new Uint8Array(8 * 5000))
    const out = abi.invalidate(iommufd, { ...ENTRIES, hwptId: nested, entryNum: 5000 })
    expect(out.entryNum).toBe(5000)
  })
})

describe("4.3 Arrays of driver data", () => {
  it("read one by one: entries have exactly the size, EINVAL", () => {
    const { iommufd, nested } = setUp()
    for (const entryLen of [1, 7, 9, 16]) {
      refused("EINVAL", iommufd, { ...ENTRIES, hwptId: nested, entryNum: 1, entryLen }, 0)
    }
  })

  it("read as a whole: longer entries end in zeros, E2BIG, shorter ones are filled up", () => {
    const { bench, iommufd, device, parent } = setUp()
    const viommu = abi.viommuAlloc(iommufd, { devId: device.id, hwptId: parent, type: VIOMMU_TYPE_SELFTEST })
    abi.vdeviceAlloc(iommufd, { viommuId: viommu, devId: device.id, virtId: 0x99n })
    const cache = bench.mock.stateOf(device.device).cache
    const { memory } = bench.process
    const entry = new Uint8Array(16)
    entry.set(VIOMMU_INVALIDATE_SELFTEST.encode({ flags: 0, vdevId: 0x99, cacheId: 3 }))
    memory.write(USER_VA, entry)
    const array = { hwptId: viommu, dataType: INVALIDATE_DATA_SELFTEST, dataUptr: USER_VA, entryNum: 1 }
    abi.invalidate(iommufd, { ...array, entryLen: 16 })
    expect(cache).toEqual([0xbaddad, 0xbaddad, 0xbaddad, 0])
    abi.invalidate(iommufd, { ...array, entryLen: 8 })
    expect(cache).toEqual([0, 0xbaddad, 0xbaddad, 0])
    memory.write(USER_VA + 15n, Uint8Array.of(1))
    refused("E2BIG", iommufd, { ...array, entryLen: 16 }, 0)
    memory.write(USER_VA + 4n, Uint8Array.of(0x98))
    refused("EINVAL", iommufd, { ...array, entryLen: 12 }, 0)
    refused("EFAULT", iommufd, { ...array, entryLen: 12, dataUptr: 8n }, 0)
  })
})
