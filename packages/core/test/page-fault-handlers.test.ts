/** Handlers of page requests, as the contract of `DomainControl.pageFaultHandler` has it. */
import { IommuError, type PageFaultHandler, PageFaultHandlers } from "@iommu/core"
import { describe, expect, it } from "vitest"

interface Domain {
  readonly name: string
}
const one: Domain = { name: "one" }
const other: Domain = { name: "other" }
const identity = { type: "identity" }
const handler: PageFaultHandler = () => {}
const second: PageFaultHandler = () => {}

describe("page fault handlers", () => {
  it("are those of the domains that were given one, until they are freed", () => {
    const handlers = new PageFaultHandlers<Domain>(null, () => {})
    handlers.set(one, handler)
    expect([handlers.of(one), handlers.of(other), handlers.of(identity)]).toEqual([handler, null, null])
    handlers.forget(one)
    expect(handlers.of(one)).toBe(null)
  })

  it("take the requests of a device while any domain that it is on has one", () => {
    const handlers = new PageFaultHandlers<Domain>(null, () => {})
    expect(handlers.areTaken([one])).toBe(false)
    handlers.set(one, handler)
    expect(handlers.areTaken([identity, one])).toBe(true)
    expect(handlers.areTaken([identity, other])).toBe(false)
    handlers.set(one, null)
    expect(handlers.areTaken([identity, one])).toBe(false)
  })

  it("are in place when the hardware follows, and as before when that fails", () => {
    const seen: boolean[] = []
    let answers = true
    const handlers: PageFaultHandlers<Domain> = new PageFaultHandlers(null, domain => {
      seen.push(handlers.areTaken([domain]))
      if (!answers) throw new IommuError("ETIMEDOUT", "the queue stands still")
    })
    handlers.set(one, handler)
    answers = false
    for (const next of [second, null]) {
      expect(() => handlers.set(one, next)).toThrow(IommuError)
      expect(handlers.of(one)).toBe(handler)
    }
    expect(() => handlers.set(other, second)).toThrow(IommuError)
    expect(handlers.of(other)).toBe(null)
    expect(seen).toEqual([true, true, false, true])
  })

  it("are refused, and said not to exist, where the hardware reports no faults", () => {
    const handlers = new PageFaultHandlers<Domain>("no page requests here", () => {})
    expect(handlers.of(one)).toBe(undefined)
    handlers.set(one, null)
    expect(() => handlers.set(one, handler)).toThrow(
      expect.objectContaining({ code: "EOPNOTSUPP", errno: 95 }),
    )
    expect(handlers.areTaken([one])).toBe(false)
  })
})
