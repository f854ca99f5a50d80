/** Grouping of page requests. PCI Express Base 6.0 chapter 10.4: a group is all requests with one index, up to Last. */
import {
  IommuError,
  iommuDevice,
  MemoryAccount,
  type PageFaultGroup,
  type PageRequest,
  PageRequestGroups,
  PageResponseCode,
} from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const { SUCCESS, INVALID } = PageResponseCode
const device = iommuDevice({ id: 0x10, account: new MemoryAccount("owner") })

function request(fields: Partial<PageRequest> = {}): PageRequest {
  const rights = { read: true, write: false, execute: false, privileged: false }
  return { device: device.id, pasid: null, address: 0x1000n, ...rights, last: true, group: 0, ...fields }
}

function bench() {
  const answers: [group: number, code: number][] = []
  const delivered: PageFaultGroup[] = []
  const groups = new PageRequestGroups((last, code) => answers.push([last.group, code]))
  const handler = (group: PageFaultGroup): void => void delivered.push(group)
  return { answers, delivered, groups, handler }
}

describe("page request groups", () => {
  it("are whole when their last request comes, in the order of arrival, others left alone", () => {
    const { delivered, groups, handler } = bench()
    groups.take(device, handler, request({ last: false, group: 1, address: 0x1000n }))
    groups.take(device, handler, request({ last: false, group: 2, address: 0x2000n }))
    groups.take(device, handler, request({ last: false, group: 1, pasid: 7, address: 0x3000n }))
    groups.take(device, handler, request({ group: 1, address: 0x4000n }))
    expect(delivered.map(group => group.requests.map(({ address }) => address))).toEqual([[0x1000n, 0x4000n]])
    groups.take(device, handler, request({ group: 1, pasid: 7, address: 0x5000n }))
    expect(delivered[1]?.pasid).toBe(7)
    expect(delivered[1]?.requests.map(({ address }) => address)).toEqual([0x3000n, 0x5000n])
  })

  it("are answered once", () => {
    const { answers, delivered, groups, handler } = bench()
    groups.take(device, handler, request({ group: 5 }))
    delivered[0]?.respond(SUCCESS)
    delivered[0]?.respond(INVALID)
    groups.withdraw(device, "all")
    expect(answers).toEqual([[5, SUCCESS]])
  })

  it("that nobody takes are answered INVALID, with their last request", () => {
    const { answers, groups } = bench()
    groups.take(device, null, request({ last: false, group: 3 }))
    expect(answers).toEqual([])
    groups.take(device, null, request({ group: 3 }))
    expect(answers).toEqual([[3, INVALID]])
  })

  it("of a device that nobody knows are answered INVALID, with their last request", () => {
    const { answers, groups } = bench()
    groups.take(null, undefined, request({ last: false, group: 3 }))
    expect(answers).toEqual([])
    groups.take(null, undefined, request({ group: 3 }))
    expect(answers).toEqual([[3, INVALID]])
  })

  it("have no stop markers, which want no answer: L set, R and W clear, with a PASID, PCIe §10.4.1.2", () => {
    const { answers, delivered, groups, handler } = bench()
    const marker = request({ pasid: 4, read: false })
    groups.take(device, handler, marker)
    groups.take(null, undefined, marker)
    expect([answers, delivered]).toEqual([[], []])
    groups.take(device, handler, request({ read: false }))
    groups.take(device, handler, request({ pasid: 4, read: false, write: true }))
    expect(delivered).toHaveLength(2)
  })

  it("are answered INVALID when their device leaves, PASID by PASID or all", () => {
    const { answers, groups, handler } = bench()
    for (const [group, pasid] of [
      [1, null],
      [2, 4],
      [3, 5],
    ] as const) {
      groups.take(device, handler, request({ group, pasid }))
    }
    groups.withdraw(device, 4)
    expect(answers).toEqual([[2, INVALID]])
    groups.withdraw(device, null)
    expect(answers.at(-1)).toEqual([1, INVALID])
    groups.withdraw(device, "all")
    expect(answers.at(-1)).toEqual([3, INVALID])
  })

  it("lose what came before an overflow", () => {
    const { delivered, groups, handler } = bench()
    groups.take(device, handler, request({ last: false }))
    groups.discardPartial()
    groups.take(device, handler, request({ address: 0x9000n }))
    expect(delivered[0]?.requests).toHaveLength(1)
  })

  it("whose handler has no memory are answered INVALID; a bug of a handler's comes through, and is answered too", () => {
    const { answers, groups } = bench()
    groups.take(
      device,
      () => {
        throw new IommuError("ENOMEM", "no room for the group")
      },
      request({ group: 1 }),
    )
    expect(answers).toEqual([[1, INVALID]])
    const bug = (): never => {
      throw new TypeError("bug")
    }
    expect(() => groups.take(device, bug, request({ group: 2 }))).toThrow(TypeError)
    expect(answers).toEqual([
      [1, INVALID],
      [2, INVALID],
    ])
  })

  it("may be asked for by a handler that makes its device ask again", () => {
    const { answers, delivered, groups, handler } = bench()
    groups.take(
      device,
      group => {
        group.respond(SUCCESS)
        groups.take(device, handler, request({ group: 8 }))
      },
      request({ group: 7 }),
    )
    expect(answers).toEqual([[7, SUCCESS]])
    groups.withdraw(device, "all")
    expect(delivered).toHaveLength(1)
    expect(answers).toEqual([
      [7, SUCCESS],
      [8, INVALID],
    ])
  })

  it("stay bounded whatever a device sends: 512 parts, 512 groups without an answer", () => {
    const { answers, delivered, groups, handler } = bench()
    for (let n = 0; n < 2000; n++) groups.take(device, handler, request({ last: false, group: 1 }))
    groups.take(device, handler, request({ group: 1 }))
    expect(delivered[0]?.requests.length).toBeLessThanOrEqual(513)
    for (let n = 0; n < 2000; n++) groups.take(device, handler, request({ group: 2 }))
    expect(delivered).toHaveLength(512)
    expect(answers).toHaveLength(2000 + 1 - 512)
    expect(new Set(answers.map(([, code]) => code))).toEqual(new Set([INVALID]))
  })

  it("get exactly one answer each, in any order of requests, answers and departures", () => {
    const step = fc.oneof(
      fc.record({
        kind: fc.constant("ask" as const),
        group: fc.nat(3),
        pasid: fc.constantFrom(null, 1, 2),
        last: fc.boolean(),
        taken: fc.boolean(),
      }),
      fc.record({ kind: fc.constant("answer" as const), which: fc.nat(9) }),
      fc.record({ kind: fc.constant("leave" as const), pasid: fc.constantFrom(null, 1, 2, "all" as const) }),
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), steps => {
        const { answers, delivered, groups, handler } = bench()
        let asked = 0
        for (const s of steps) {
          if (s.kind === "answer") delivered[s.which]?.respond(SUCCESS)
          else if (s.kind === "leave") groups.withdraw(device, s.pasid)
          else {
            if (s.last) asked++
            groups.take(device, s.taken ? handler : null, request(s))
          }
        }
        groups.withdraw(device, "all")
        expect(answers).toHaveLength(asked)
      }),
      { seed: 4, numRuns: 300 },
    )
  })
})
