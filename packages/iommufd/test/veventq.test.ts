import * as uapi from "@iommu/iommufd"
import {
  type MockViommu,
  VEVENT_SELFTEST,
  VEVENTQ_TYPE_SELFTEST,
  VIOMMU_TYPE_SELFTEST,
} from "@iommu/iommufd/testing"
import { describe, expect, it } from "vitest"
import { sequenceAfter } from "../src/objects/veventq.ts"
import { expectErrno, testbench } from "./testbench.ts"
import { USER_VA } from "./workbench.ts"

const TYPE = VEVENTQ_TYPE_SELFTEST
const HEADER = uapi.IOMMUFD_VEVENT_HEADER.size
const EVENT = HEADER + VEVENT_SELFTEST.size

function setUp(depth: number) {
  const bench = testbench()
  const device = bench.bound()
  const { iommufd } = bench
  const flags = uapi.HWPT_ALLOC_NEST_PARENT
  const hwptId = iommufd.hwptAlloc({ deviceId: device.id, parentId: iommufd.ioasAlloc(), flags })
  const request = { deviceId: device.id, hwptId, type: VIOMMU_TYPE_SELFTEST }
  const viommuId = iommufd.viommuAlloc(request).id
  iommufd.vdeviceAlloc({ viommuId, deviceId: device.id, virtualId: 0x99 })
  const queue = iommufd.veventqAlloc({ viommuId, type: TYPE, depth })
  const viommu = iommufd.context.objects.get(viommuId, "viommu")
  const report = (virtId: number): void =>
    viommu.reportEvent({ type: TYPE, data: VEVENT_SELFTEST.encode({ virtId }) })
  /** Everything that waits: `[sequence, event]`, or `[sequence, "lost"]`. */
  const drain = (): (readonly [number, number | "lost"])[] => {
    const bytes = queue.file.read(1 << 20)
    const out: (readonly [number, number | "lost"])[] = []
    for (let at = 0; at < bytes.length; ) {
      const header = uapi.IOMMUFD_VEVENT_HEADER.decode(bytes.subarray(at, at + HEADER))
      at += HEADER
      if (header.flags === uapi.VEVENTQ_FLAG_LOST_EVENTS) out.push([header.sequence, "lost"])
      else {
        out.push([header.sequence, VEVENT_SELFTEST.decode(bytes.subarray(at, at + 4)).virtId])
        at += 4
      }
    }
    return out
  }
  return { bench, device, iommufd, viommu, queue, report, drain }
}

describe("3.5 vEVENTQ stream", () => {
  it("numbers events and gives them in order", () => {
    const { report, drain, queue } = setUp(4)
    report(5)
    report(6)
    expect(queue.file.poll()).toEqual({ readable: true, writable: false })
    expect(drain()).toEqual([
      [0, 5],
      [1, 6],
    ])
    expect(queue.file.poll()).toEqual({ readable: false, writable: false })
  })

  it("tells losses by one header at the end, with the number of the last one", () => {
    const { report, drain } = setUp(2)
    for (const event of [1, 2, 3, 4, 5]) report(event)
    expect(drain()).toEqual([
      [0, 1],
      [1, 2],
      [4, "lost"],
    ])
    report(6)
    expect(drain()).toEqual([[5, 6]])
  })

  it("drops the header when an event comes after it: the gap tells then", () => {
    const { report, drain, queue } = setUp(2)
    for (const event of [1, 2, 3]) report(event)
    expect(queue.file.read(EVENT).length).toBe(EVENT)
    report(4)
    expect(drain()).toEqual([
      [1, 2],
      [3, 4],
    ])
  })

  it("counts a loss for want of memory, and says ENOMEM to the reporter", () => {
    const { bench, report, drain } = setUp(100)
    report(1)
    const full = 4096 - (bench.account.objectBytes % 4096)
    bench.account.limitPages = bench.account.usagePages
    bench.account.chargeBytes(full % 4096)
    expectErrno("ENOMEM", () => report(2))
    bench.account.limitPages = Number.POSITIVE_INFINITY
    expect(drain()).toEqual([
      [0, 1],
      [1, "lost"],
    ])
    report(3)
    expect(drain()).toEqual([[2, 3]])
  })

  it("reads whole records: nothing when the first does not fit", () => {
    const { report, queue } = setUp(2)
    report(1)
    report(2)
    expect(queue.file.read(EVENT - 1).length).toBe(0)
    expect(queue.file.read(0).length).toBe(0)
    expect(queue.file.read(2 * EVENT - 1).length).toBe(EVENT)
    expect(queue.file.read(EVENT).length).toBe(EVENT)
    expect(queue.file.read(EVENT).length).toBe(0)
  })

  it("has no position, ESPIPE, and loses nothing when memory ends: EFAULT", () => {
    const { bench, report, queue } = setUp(4)
    const { memory } = bench.process
    report(1)
    report(2)
    expectErrno("ESPIPE", () => queue.file.readTo(memory, USER_VA, EVENT, 1n))
    expectErrno("EFAULT", () => queue.file.readTo(memory, 0n, EVENT))
    const end = USER_VA + 0x100_0000n
    expect(queue.file.readTo(memory, end - BigInt(EVENT), 3 * EVENT)).toBe(EVENT)
    expect(queue.file.readTo(memory, USER_VA, 3 * EVENT)).toBe(EVENT)
  })

  it("refuses events without queue, EOPNOTSUPP, or without data, EINVAL", () => {
    const { viommu } = setUp(1)
    expectErrno("EOPNOTSUPP", () => viommu.reportEvent({ type: 5, data: Uint8Array.of(1) }))
    expectErrno("EINVAL", () => viommu.reportEvent({ type: TYPE, data: new Uint8Array(0) }))
  })

  it("carries events of the driver, by the guest's number of the device", () => {
    const { device, viommu, drain } = setUp(4)
    const mock = viommu.viommu as MockViommu
    mock.raiseEvent(device.device)
    expect(drain()).toEqual([[0, 0x99]])
  })

  it("counts to INT_MAX and begins again at 0", () => {
    expect([0, 0x7fff_fffe, 0x7fff_ffff].map(sequenceAfter)).toEqual([1, 0x7fff_ffff, 0])
  })
})
