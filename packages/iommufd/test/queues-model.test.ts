/** Queues under random producers and readers: order is kept, losses are told exactly, every group is answered once. */
import type { PageRequest, PageResponse } from "@iommu/core"
import * as uapi from "@iommu/iommufd"
import {
  type MockViommu,
  VEVENT_SELFTEST,
  VEVENTQ_TYPE_SELFTEST,
  VIOMMU_TYPE_SELFTEST,
} from "@iommu/iommufd/testing"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { testbench } from "./testbench.ts"

const RUNS = 300
const HEADER = uapi.IOMMUFD_VEVENT_HEADER.size
const EVENT = HEADER + VEVENT_SELFTEST.size

describe("3.5 vEVENTQ stream under back pressure", () => {
  it("gives each event once and in order, or tells by numbers how many were lost", () => {
    const step = fc.oneof(
      {
        weight: 3,
        arbitrary: fc.record({ kind: fc.constant("report" as const), count: fc.nat({ max: 5 }) }),
      },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant("read" as const), count: fc.nat({ max: 64 }) }) },
    )
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), fc.array(step, { maxLength: 30 }), (depth, steps) => {
        const { report, file } = eventQueue(depth)
        let reported = 0
        /** Number of the first event of which the reader knows nothing. */
        let expected = 0
        const read = (count: number): void => {
          for (const { lost, sequence, event } of records(file.read(count))) {
            expect(sequence).toBeGreaterThanOrEqual(expected)
            if (!lost) expect(event).toBe(sequence)
            expected = sequence + 1
          }
        }
        for (const { kind, count } of steps) {
          if (kind === "read") read(count)
          else for (let n = 0; n < count; n++) report(reported++)
        }
        read(1 << 16)
        expect(expected).toBe(reported)
        expect(file.poll().readable).toBe(false)
      }),
      { numRuns: RUNS, seed: 4 },
    )
  })
})

interface Pending {
  readonly group: number
  readonly answers: readonly PageResponse[]
}

describe("8 Fault fd under random readers", () => {
  it("gives groups whole and in order, and each is answered once", () => {
    const step = fc.record({
      kind: fc.constantFrom("raise", "raise", "read", "answer", "reattach"),
      count: fc.integer({ min: 1, max: 4 }),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), steps => {
        const { bench, device, ioas, file } = faultQueue()
        let waiting: Pending[] = []
        const read = new Map<number, Pending>()
        const all: Pending[] = []
        for (const { kind, count } of steps) {
          if (kind === "raise") {
            const requests = group(device.device.id, count, all.length)
            const answers = bench.mock.raisePageRequests(device.device, requests)
            const pending = { group: all.length, answers }
            all.push(pending)
            waiting.push(pending)
          } else if (kind === "read") {
            const faults = recordsOf(file.read(40 * count))
            for (const cookie of new Set(faults.map(fault => fault.cookie))) {
              const [first, ...rest] = waiting
              waiting = rest
              expect(read.has(cookie)).toBe(false)
              expect(faults.find(fault => fault.cookie === cookie)?.grpid).toBe(first?.group)
              expect(faults.filter(fault => fault.cookie === cookie).at(-1)?.flags).toBe(2)
              read.set(cookie, first as Pending)
            }
          } else if (kind === "answer") {
            const [cookie, pending] = [...read][count % Math.max(read.size, 1)] ?? [99, null]
            const bytes = uapi.IOMMU_HWPT_PAGE_RESPONSE.encode({ cookie, code: count % 2 })
            if (pending === null) expect(() => file.write(bytes)).toThrow(/EINVAL/)
            else {
              file.write(bytes)
              expect(pending.answers).toEqual([count % 2])
              read.delete(cookie)
            }
          } else {
            const hwpt = device.hwptId() as number
            device.replace(ioas)
            for (const pending of [...waiting, ...read.values()]) expect(pending.answers).toEqual([1])
            waiting = []
            read.clear()
            device.replace(hwpt)
          }
        }
        device.detach()
        for (const { answers } of all) expect(answers).toHaveLength(1)
      }),
      { numRuns: RUNS, seed: 4 },
    )
  })
})

function eventQueue(depth: number) {
  const bench = testbench()
  const { iommufd } = bench
  const device = bench.bound()
  const flags = uapi.HWPT_ALLOC_NEST_PARENT
  const hwptId = iommufd.hwptAlloc({ deviceId: device.id, parentId: iommufd.ioasAlloc(), flags })
  const viommuId = iommufd.viommuAlloc({ deviceId: device.id, hwptId, type: VIOMMU_TYPE_SELFTEST }).id
  const { file } = iommufd.veventqAlloc({ viommuId, type: VEVENTQ_TYPE_SELFTEST, depth })
  const viommu = iommufd.context.objects.get(viommuId, "viommu").viommu as MockViommu
  const report = (virtId: number): void =>
    viommu.onEvent?.({ type: VEVENTQ_TYPE_SELFTEST, data: VEVENT_SELFTEST.encode({ virtId }) })
  return { report, file }
}

function* records(bytes: Uint8Array) {
  for (let at = 0; at < bytes.length; ) {
    const { flags, sequence } = uapi.IOMMUFD_VEVENT_HEADER.decode(bytes.subarray(at, at + HEADER))
    const lost = flags === uapi.VEVENTQ_FLAG_LOST_EVENTS
    const event = lost ? null : VEVENT_SELFTEST.decode(bytes.subarray(at + HEADER, at + EVENT)).virtId
    yield { lost, sequence, event }
    at += lost ? HEADER : EVENT
  }
}

function faultQueue() {
  const bench = testbench()
  const device = bench.bound()
  const ioas = bench.iommufd.ioasAlloc()
  const { id: faultId, file } = bench.iommufd.faultQueueAlloc()
  device.attach(bench.iommufd.hwptAlloc({ deviceId: device.id, parentId: ioas, faultId }))
  return { bench, device, ioas, file }
}

function recordsOf(bytes: Uint8Array) {
  const { size, decode } = uapi.IOMMU_HWPT_PGFAULT
  return Array.from({ length: bytes.length / size }, (_, i) =>
    decode(bytes.subarray(i * size, (i + 1) * size)),
  )
}

function group(device: number, count: number, id: number): PageRequest[] {
  const request = {
    device,
    pasid: null,
    read: true,
    write: false,
    execute: false,
    privileged: false,
    group: id,
  }
  return Array.from({ length: count }, (_, index) => ({
    ...request,
    address: BigInt(index) << 12n,
    last: index === count - 1,
  }))
}
