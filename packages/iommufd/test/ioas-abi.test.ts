/** The IOAS commands byte by byte: what is checked before an address space is asked, and what is written back. */
import * as uapi from "@iommu/iommufd"
import { MemFile } from "@iommu/iommufd"
import type { MockPagingDomain } from "@iommu/iommufd/testing"
import { describe, expect, it } from "vitest"
import { abi, encode, ioctl } from "./abi.ts"
import { expectErrno, testbench } from "./testbench.ts"
import { PAGE, RAM, USER_VA } from "./workbench.ts"

const C = uapi.IommufdCommand
const MAX = (1n << 64n) - 1n
const IOVA = 0x200_0000n
/** READABLE and FIXED_IOVA. */
const FIXED = uapi.IOAS_MAP_READABLE | uapi.IOAS_MAP_FIXED_IOVA

function setUp() {
  const bench = testbench()
  const { iommufd } = bench
  const ioasId = abi.ioasAlloc(iommufd)
  const map = (given: object) => ioctl(iommufd, C.IOAS_MAP, uapi.IOMMU_IOAS_MAP, { ...MAP, ioasId, ...given })
  const copy = (given: object) =>
    ioctl(iommufd, C.IOAS_COPY, uapi.IOMMU_IOAS_COPY, {
      flags: FIXED,
      dstIoasId: ioasId,
      srcIoasId: ioasId,
      length: PAGE,
      dstIova: IOVA + 0x10_0000n,
      srcIova: IOVA,
      ...given,
    })
  const unmap = (given: object) => ioctl(iommufd, C.IOAS_UNMAP, uapi.IOMMU_IOAS_UNMAP, { ioasId, ...given })
  const refused = (code: string, call: () => unknown): void => {
    const before = [iommufd.state(), bench.counts()]
    expectErrno(code, call)
    expect([iommufd.state(), bench.counts()]).toEqual(before)
  }
  return { bench, iommufd, ioasId, map, copy, unmap, refused }
}

const MAP = { flags: FIXED, userVa: USER_VA, length: PAGE, iova: IOVA }

describe("2.5 IOAS_ALLOW_IOVAS by bytes", () => {
  function allow(iommufd: uapi.Iommufd, given: object) {
    return ioctl(iommufd, C.IOAS_ALLOW_IOVAS, uapi.IOMMU_IOAS_ALLOW_IOVAS, {
      allowedIovas: USER_VA,
      ...given,
    })
  }

  it("refuses in the order of the table", () => {
    const { bench, iommufd, ioasId, refused } = setUp()
    bench.process.memory.write(USER_VA, uapi.IOMMU_IOVA_RANGE.encode({ start: 5n, last: 5n }))
    refused("EOPNOTSUPP", () => allow(iommufd, { __reserved: 1, ioasId: 99 }))
    refused("ENOENT", () => allow(iommufd, { ioasId: 99, numIovas: 1, allowedIovas: 0n }))
    refused("EFAULT", () => allow(iommufd, { ioasId, numIovas: 1, allowedIovas: 0n }))
    refused("EFAULT", () => allow(iommufd, { ioasId, numIovas: 0xffff_ffff }))
    refused("EFAULT", () => allow(iommufd, { ioasId, numIovas: 2, allowedIovas: MAX - 15n }))
    refused("EINVAL", () => allow(iommufd, { ioasId, numIovas: 1 }))
  })

  it("replaces the whole list, and clears it with none", () => {
    const { bench, iommufd, ioasId } = setUp()
    const ranges = Array.from({ length: 300 }, (_, i) => ({
      start: BigInt(i * 0x1000),
      last: BigInt(i * 0x1000 + 0xff),
    }))
    ranges.forEach((range, i) => {
      bench.process.memory.write(USER_VA + BigInt(16 * i), uapi.IOMMU_IOVA_RANGE.encode(range))
    })
    allow(iommufd, { ioasId, numIovas: 300 })
    expect(iommufd.context.objects.get(ioasId, "ioas").ioas.allowed).toMatchObject(ranges)
    allow(iommufd, { ioasId, allowedIovas: 0n })
    expect(iommufd.context.objects.get(ioasId, "ioas").ioas.allowed).toEqual([])
  })
})

describe("2.6 IOAS_IOVA_RANGES by bytes", () => {
  it("gives as many as fit, and their number and the alignment also with EMSGSIZE", () => {
    const { bench, iommufd, ioasId } = setUp()
    const one = bench.bound()
    iommufd.hwptAlloc({ deviceId: one.id, parentId: ioasId })
    const ioas = iommufd.context.objects.get(ioasId, "ioas").ioas
    ioas.reserve(bench, [{ type: "reserved", start: 0x200_0000n, last: 0x200_0fffn }])
    const bytes = encode(uapi.IOMMU_IOAS_IOVA_RANGES, { ioasId, numIovas: 1, allowedIovas: USER_VA })
    expectErrno("EMSGSIZE", () => iommufd.ioctl(C.IOAS_IOVA_RANGES, bytes))
    const out = uapi.IOMMU_IOAS_IOVA_RANGES.decode(bytes)
    expect([out.numIovas, out.outIovaAlignment]).toEqual([2, 2048n])
    const first = uapi.IOMMU_IOVA_RANGE.decode(bench.process.memory.read(USER_VA, 16))
    expect(first).toEqual({ start: 0x100_0000n, last: 0x1ff_ffffn })
    expect([...bench.process.memory.read(USER_VA + 16n, 16)]).toEqual(new Array(16).fill(0))
  })

  it("refuses reserved bits, missing ids, and memory that cannot be written", () => {
    const { iommufd, ioasId, refused } = setUp()
    const ranges = (given: object) => ioctl(iommufd, C.IOAS_IOVA_RANGES, uapi.IOMMU_IOAS_IOVA_RANGES, given)
    refused("EOPNOTSUPP", () => ranges({ ioasId: 99, __reserved: 1 }))
    refused("ENOENT", () => ranges({ ioasId: 99 }))
    refused("EFAULT", () => ranges({ ioasId, numIovas: 1, allowedIovas: 0n }))
  })
})

describe("2.7 IOAS_MAP by bytes", () => {
  it("refuses in the order of the table", () => {
    const { map, refused } = setUp()
    refused("EOPNOTSUPP", () => map({ flags: 8, iova: MAX }))
    refused("EOPNOTSUPP", () => map({ __reserved: 1, iova: MAX }))
    refused("EOVERFLOW", () => map({ iova: MAX, flags: uapi.IOAS_MAP_FIXED_IOVA }))
    refused("EOVERFLOW", () => map({ iova: MAX, flags: 0 }))
    refused("EOVERFLOW", () => map({ length: MAX, flags: 0 }))
    refused("EINVAL", () => map({ flags: uapi.IOAS_MAP_FIXED_IOVA, ioasId: 99 }))
    refused("ENOENT", () => map({ ioasId: 99, length: 0n }))
    refused("EOVERFLOW", () => map({ userVa: MAX, length: 0x1001n }))
    refused("EINVAL", () => map({ length: 0n }))
  })

  it("writes back where it is, chosen or given", () => {
    const { map } = setUp()
    expect(map({}).iova).toBe(IOVA)
    expect(map({ flags: uapi.IOAS_MAP_READABLE, iova: 77n }).iova).toBe(PAGE)
  })

  it("stays when its IOVA cannot be written back: EFAULT", () => {
    const { bench, iommufd, ioasId, unmap } = setUp()
    const { memory } = bench.process
    memory.write(USER_VA, encode(uapi.IOMMU_IOAS_MAP, { ...MAP, ioasId, userVa: USER_VA + PAGE }))
    memory.map(USER_VA, RAM.base, PAGE, "read-only")
    expectErrno("EFAULT", () => iommufd.ioctlAt(C.IOAS_MAP, USER_VA))
    expect(unmap({ iova: IOVA, length: PAGE }).length).toBe(PAGE)
  })
})

describe("2.8 IOAS_MAP_FILE by bytes", () => {
  it("refuses in the order of the table, and takes a file of the process", () => {
    const { bench, iommufd, ioasId, refused } = setUp()
    const mapFile = (given: object) =>
      ioctl(iommufd, C.IOAS_MAP_FILE, uapi.IOMMU_IOAS_MAP_FILE, {
        flags: FIXED,
        ioasId,
        iova: IOVA,
        length: PAGE,
        ...given,
      })
    refused("EOPNOTSUPP", () => mapFile({ flags: 8, iova: MAX }))
    refused("EOVERFLOW", () => mapFile({ iova: MAX, flags: 0 }))
    refused("EINVAL", () => mapFile({ flags: 1, ioasId: 99 }))
    refused("ENOENT", () => mapFile({ ioasId: 99, length: 0n }))
    refused("EINVAL", () => mapFile({ length: 0n, fd: 99 }))
    refused("EOVERFLOW", () => mapFile({ start: MAX, length: 2n, fd: 99 }))
    for (const fd of [99, -1]) refused("EBADF", () => mapFile({ fd }))
    const fd = bench.process.files.install(new MemFile([{ address: RAM.base, length: 4n * PAGE }]))
    expect(mapFile({ fd, start: PAGE }).iova).toBe(IOVA)
  })
})

describe("2.9 IOAS_COPY by bytes", () => {
  it("refuses in the order of the table", () => {
    const { map, copy, refused } = setUp()
    map({})
    refused("EOPNOTSUPP", () => copy({ flags: 8, length: MAX }))
    for (const member of ["length", "srcIova", "dstIova"]) {
      refused("EOVERFLOW", () => copy({ [member]: MAX, flags: 0 }))
    }
    refused("EINVAL", () => copy({ flags: 1, srcIoasId: 99 }))
    refused("ENOENT", () => copy({ srcIoasId: 99, length: 0n }))
    refused("EINVAL", () => copy({ length: 0n, dstIoasId: 99 }))
    refused("EOVERFLOW", () => copy({ srcIova: MAX - 1n, length: 3n, dstIoasId: 99 }))
    refused("ENOENT", () => copy({ length: 2n * PAGE }))
    refused("ENOENT", () => copy({ dstIoasId: 99 }))
    refused("EEXIST", () => copy({ dstIova: IOVA }))
    expect(copy({}).dstIova).toBe(IOVA + 0x10_0000n)
  })
})

describe("2.10 IOAS_UNMAP by bytes", () => {
  it("refuses in the order of the table", () => {
    const { map, unmap, refused } = setUp()
    map({})
    refused("ENOENT", () => unmap({ ioasId: 99, iova: MAX }))
    refused("EOVERFLOW", () => unmap({ iova: MAX, length: 0n }))
    refused("EOVERFLOW", () => unmap({ iova: PAGE, length: MAX }))
    refused("EINVAL", () => unmap({ iova: IOVA, length: 0n }))
    refused("EOVERFLOW", () => unmap({ iova: MAX - 1n, length: 3n }))
    refused("ENOENT", () => unmap({ iova: IOVA, length: PAGE / 2n }))
    refused("ENOENT", () => unmap({ iova: 0n, length: PAGE }))
  })

  it("says how much it unmapped, of several areas and of everything", () => {
    const { map, unmap } = setUp()
    map({})
    map({ iova: IOVA + 4n * PAGE })
    expect(unmap({ iova: IOVA - PAGE, length: 16n * PAGE }).length).toBe(2n * PAGE)
    map({})
    expect(unmap({ iova: 0n, length: MAX }).length).toBe(PAGE)
    expect(unmap({ iova: 0n, length: MAX }).length).toBe(0n)
  })
})

describe("2.15 SET_DIRTY and GET_DIRTY by bytes", () => {
  function tracking() {
    const rest = setUp()
    const { bench, iommufd, ioasId } = rest
    const device = bench.bound()
    const flags = uapi.HWPT_ALLOC_DIRTY_TRACKING
    const hwptId = abi.hwptAlloc(iommufd, { devId: device.id, ptId: ioasId, flags })
    const set = (given: object) =>
      ioctl(iommufd, C.HWPT_SET_DIRTY_TRACKING, uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, { hwptId, ...given })
    const get = (given: object) =>
      ioctl(iommufd, C.HWPT_GET_DIRTY_BITMAP, uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, {
        hwptId,
        iova: IOVA,
        length: 8n * PAGE,
        pageSize: PAGE,
        data: USER_VA + 0x8000n,
        ...given,
      })
    return { ...rest, device, hwptId, set, get }
  }

  it("refuses in the order of the table", () => {
    const { iommufd, device, ioasId, set, get, refused } = tracking()
    refused("EOPNOTSUPP", () => set({ flags: 2, hwptId: 99 }))
    refused("ENOENT", () => set({ hwptId: 99 }))
    refused("ENOENT", () => set({ hwptId: ioasId }))
    const plain = abi.hwptAlloc(iommufd, { devId: device.id, ptId: ioasId })
    refused("EOPNOTSUPP", () => set({ hwptId: plain, flags: 1 }))
    set({ flags: 1, __reserved: 1 })
    refused("EOPNOTSUPP", () => get({ flags: 2, hwptId: 99 }))
    refused("EOPNOTSUPP", () => get({ __reserved: 1, hwptId: 99 }))
    refused("ENOENT", () => get({ hwptId: 99 }))
    refused("EOPNOTSUPP", () => get({ hwptId: plain }))
    refused("EOVERFLOW", () => get({ length: 0n }))
    get({ iova: 0n, length: 0n })
    refused("EINVAL", () => get({ pageSize: 0n }))
    refused("EINVAL", () => get({ iova: IOVA + 0x800n }))
  })

  it("ORs pages that devices wrote to into user memory, and forgets or keeps them", () => {
    const { bench, iommufd, hwptId, map, set, get } = tracking()
    map({ length: 8n * PAGE, flags: 7 })
    set({ flags: uapi.HWPT_DIRTY_TRACKING_ENABLE })
    const { domain } = iommufd.context.objects.get(hwptId, "hwpt-paging")
    const written = domain as MockPagingDomain
    written.markDirty(IOVA + 2n * PAGE, PAGE)
    written.markDirty(IOVA + 5n * PAGE, 1n)
    const { memory } = bench.process
    memory.write(USER_VA + 0x8000n, Uint8Array.of(0x80, 0, 0, 0, 0, 0, 0, 0))
    get({ flags: uapi.HWPT_GET_DIRTY_BITMAP_NO_CLEAR })
    expect(memory.read(USER_VA + 0x8000n, 1)).toEqual(Uint8Array.of(0x80 | 0x04))
    written.markDirty(IOVA + 5n * PAGE, PAGE)
    get({ data: USER_VA + 0x9001n })
    expect(memory.read(USER_VA + 0x9000n, 3)).toEqual(Uint8Array.of(0, 0x24, 0))
    expect(iommufd.hwptGetDirtyBitmap({ hwptId, iova: IOVA, length: 8n * PAGE, pageSize: PAGE }).count).toBe(
      0,
    )
    get({ data: 0n })
  })
})

describe("2.20 IOAS_CHANGE_PROCESS", () => {
  it("moves pins of files to the calling process, or nothing when its limit is too small: ENOMEM", () => {
    const { bench, iommufd, ioasId } = setUp()
    bench.bound().attach(ioasId)
    const fd = bench.process.files.install(new MemFile([{ address: RAM.base, length: 4n * PAGE }]))
    iommufd.ioasMapFile({ ioasId, fd, start: 0n, length: 4n * PAGE, readable: true })
    const small = bench.another({
      name: "small",
      user: { name: "small", lockedPages: 0 },
      memlockBytes: 8192,
    })
    const large = bench.another({ name: "large", user: { name: "large", lockedPages: 0 } })
    expectErrno("ENOMEM", () => iommufd.passTo(small).ioasChangeProcess())
    expect([bench.process.pinnedPages, small.pinnedPages]).toEqual([4, 0])
    const next = iommufd.passTo(large)
    next.ioasChangeProcess()
    expect([bench.process.pinnedPages, large.pinnedPages, large.user.lockedPages]).toEqual([0, 4, 4])
    expect(next.state().process).toBe("large")
    next.ioasUnmap(ioasId, 0n, MAX)
    expect([large.pinnedPages, large.user.lockedPages]).toEqual([0, 0])
  })
})
