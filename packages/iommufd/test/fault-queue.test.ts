import type { IommuDevice, PageRequest } from "@iommu/core"
import * as uapi from "@iommu/iommufd"
import { describe, expect, it } from "vitest"
import { abi } from "./abi.ts"
import { expectErrno, testbench } from "./testbench.ts"
import { USER_VA } from "./workbench.ts"

const RECORD = uapi.IOMMU_HWPT_PGFAULT.size

function setUp() {
  const bench = testbench()
  const device = bench.bound({ pasid: true })
  const ioas = bench.iommufd.ioasAlloc()
  const queue = bench.iommufd.faultQueueAlloc()
  const flags = uapi.HWPT_ALLOC_PASID
  const request = { deviceId: device.id, parentId: ioas, flags }
  const hwpt = bench.iommufd.hwptAlloc({ ...request, faultId: queue.id })
  const plain = bench.iommufd.hwptAlloc(request)
  device.attach(hwpt)
  return { bench, device, queue, hwpt, plain }
}

/** Page requests of one group, the last of which says so. */
function group(device: IommuDevice, count: number, id = 1, pasid: number | null = null): PageRequest[] {
  return Array.from({ length: count }, (_, index) => ({
    device: device.id,
    pasid,
    address: BigInt(0x1000 * (index + 1)),
    read: true,
    write: index === 0,
    execute: false,
    privileged: false,
    last: index === count - 1,
    group: id,
  }))
}

function response(cookie: number, code: number): Uint8Array {
  return uapi.IOMMU_HWPT_PAGE_RESPONSE.encode({ cookie, code })
}

describe("2.17 FAULT_QUEUE_ALLOC", () => {
  it("refuses flags, EOPNOTSUPP, and a full descriptor table, EMFILE", () => {
    const bench = testbench({ process: { fileLimit: 2 } })
    expectErrno("EOPNOTSUPP", () => abi.faultQueueAlloc(bench.iommufd, 1))
    const out = abi.faultQueueAlloc(bench.iommufd)
    expect([out.outFaultId, out.outFaultFd]).toEqual([1, 1])
    const before = [bench.iommufd.state(), bench.counts()]
    expectErrno("EMFILE", () => abi.faultQueueAlloc(bench.iommufd))
    expect([bench.iommufd.state(), bench.counts()]).toEqual(before)
  })

  it("holds the object while a page table uses it or its file is open: EBUSY", () => {
    const { bench, device, queue, hwpt } = setUp()
    bench.process.files.close(queue.fd)
    expectErrno("EBUSY", () => bench.iommufd.destroy(queue.id))
    device.detach()
    bench.iommufd.destroy(hwpt)
    bench.iommufd.destroy(queue.id)
  })
})

describe("3.6 Page-fault records", () => {
  it("lays out a group with one cookie, and the device's object id", () => {
    const { bench, device, queue } = setUp()
    bench.mock.raisePageRequests(device.device, group(device.device, 2, 0x55, 9))
    expect(queue.file.take()).toEqual([
      {
        flags: uapi.PGFAULT_FLAGS_PASID_VALID,
        devId: device.id,
        pasid: 9,
        grpid: 0x55,
        perm: uapi.PGFAULT_PERM_READ | uapi.PGFAULT_PERM_WRITE,
        __reserved: 0,
        addr: 0x1000n,
        length: 0,
        cookie: 1,
      },
      {
        flags: uapi.PGFAULT_FLAGS_PASID_VALID | uapi.PGFAULT_FLAGS_LAST_PAGE,
        devId: device.id,
        pasid: 9,
        grpid: 0x55,
        perm: uapi.PGFAULT_PERM_READ,
        __reserved: 0,
        addr: 0x2000n,
        length: 0,
        cookie: 1,
      },
    ])
  })
})

describe("8 Fault fd", () => {
  it("reads whole groups, as many as fit, in their order", () => {
    const { bench, device, queue } = setUp()
    for (const [count, id] of [
      [2, 1],
      [1, 2],
      [3, 3],
    ] as const) {
      bench.mock.raisePageRequests(device.device, group(device.device, count, id))
    }
    expect(queue.file.read(RECORD).length).toBe(0)
    expect(queue.file.read(0).length).toBe(0)
    expect(queue.file.read(4 * RECORD).length).toBe(3 * RECORD)
    expect(queue.file.poll()).toEqual({ readable: true, writable: true })
    expect(queue.file.take().map(({ grpid, cookie }) => [grpid, cookie])).toEqual([
      [3, 3],
      [3, 3],
      [3, 3],
    ])
    expect(queue.file.poll()).toEqual({ readable: false, writable: true })
    expect(queue.file.read(RECORD).length).toBe(0)
  })

  it("has no position and moves whole records: ESPIPE", () => {
    const { bench, queue } = setUp()
    const { memory } = bench.process
    expectErrno("ESPIPE", () => queue.file.read(RECORD + 1))
    expectErrno("ESPIPE", () => queue.file.readTo(memory, USER_VA, RECORD, 40n))
    expectErrno("ESPIPE", () => queue.file.write(new Uint8Array(7)))
    expectErrno("ESPIPE", () => queue.file.writeFrom(memory, USER_VA, 8, 8n))
  })

  it("loses no group when memory ends: EFAULT only if nothing was delivered", () => {
    const { bench, device, queue } = setUp()
    const { memory } = bench.process
    for (const id of [1, 2]) bench.mock.raisePageRequests(device.device, group(device.device, 1, id))
    expectErrno("EFAULT", () => queue.file.readTo(memory, 0n, 2 * RECORD))
    expectErrno("EFAULT", () => queue.file.readTo(memory, (1n << 64n) - 8n, 2 * RECORD))
    const end = USER_VA + 0x100_0000n
    expect(queue.file.readTo(memory, end - BigInt(RECORD), 2 * RECORD)).toBe(RECORD)
    expect(uapi.IOMMU_HWPT_PGFAULT.decode(memory.read(end - BigInt(RECORD), RECORD)).grpid).toBe(1)
    expect(queue.file.take().map(({ grpid }) => grpid)).toEqual([2])
  })

  it("answers groups by cookie, each once: EINVAL", () => {
    const { bench, device, queue } = setUp()
    const answers = bench.mock.raisePageRequests(device.device, group(device.device, 1))
    expectErrno("EINVAL", () => queue.file.write(response(1, 0)))
    const [fault] = queue.file.take()
    expectErrno("EINVAL", () => queue.file.write(response(1, 2)))
    expect(queue.file.write(response(fault?.cookie ?? 0, 0))).toBe(8)
    expect(answers).toEqual([0])
    expectErrno("EINVAL", () => queue.file.write(response(1, 0)))
  })

  it("returns how much it took of several responses, the rest being wrong", () => {
    const { bench, device, queue } = setUp()
    const answers = [1, 2].map(id => bench.mock.raisePageRequests(device.device, group(device.device, 1, id)))
    queue.file.take()
    const bytes = new Uint8Array([...response(2, 1), ...response(9, 0), ...response(1, 0)])
    expect(queue.file.write(bytes)).toBe(8)
    expect(answers).toEqual([[], [1]])
    bench.process.memory.write(USER_VA, response(1, 0))
    expect(queue.file.writeFrom(bench.process.memory, USER_VA, 8)).toBe(8)
    expect(answers).toEqual([[0], [1]])
    expectErrno("EFAULT", () => queue.file.writeFrom(bench.process.memory, 0n, 8))
    expect(queue.file.writeFrom(bench.process.memory, USER_VA, 0)).toBe(0)
  })
})

describe("5.3 Pending page requests", () => {
  const ends = {
    "its device is detached": ({ device }: ReturnType<typeof setUp>) => device.detach(),
    "its page table is replaced": ({ device, plain }: ReturnType<typeof setUp>) => void device.replace(plain),
  }
  for (const [when, end] of Object.entries(ends)) {
    it(`are answered INVALID when ${when}, read or not`, () => {
      const rest = setUp()
      const { bench, device, queue } = rest
      const read = bench.mock.raisePageRequests(device.device, group(device.device, 1, 1))
      queue.file.take()
      const waiting = bench.mock.raisePageRequests(device.device, group(device.device, 2, 2))
      end(rest)
      expect([read, waiting]).toEqual([[1], [1]])
      expect(queue.file.take()).toEqual([])
      expectErrno("EINVAL", () => queue.file.write(response(1, 0)))
      const later = bench.mock.raisePageRequests(device.device, group(device.device, 1, 3))
      expect(later).toEqual([1])
    })
  }

  it("of other attachments stay", () => {
    const { bench, device, queue, hwpt } = setUp()
    device.attachPasid(5, hwpt)
    const ofRid = bench.mock.raisePageRequests(device.device, group(device.device, 1, 1))
    const ofPasid = bench.mock.raisePageRequests(device.device, group(device.device, 1, 2, 5))
    device.detachPasid(5)
    expect([ofRid, ofPasid]).toEqual([[], [1]])
    expect(queue.file.take().map(({ grpid }) => grpid)).toEqual([1])
  })

  it("of a guest's PASIDs go through the page table of the RID", () => {
    const { bench, device, queue } = setUp()
    bench.mock.raisePageRequests(device.device, group(device.device, 1, 1, 77))
    expect(queue.file.take().map(({ pasid }) => pasid)).toEqual([77])
  })

  it("are answered when everything is closed", () => {
    const { bench, device, queue } = setUp()
    const answers = bench.mock.raisePageRequests(device.device, group(device.device, 1))
    bench.iommufd.close()
    expect(queue.file.take().length).toBe(1)
    device.detach()
    device.unbind()
    expect(answers).toEqual([1])
    bench.process.files.close(queue.fd)
    expect(bench.account.objectBytes).toBe(0)
  })
})
