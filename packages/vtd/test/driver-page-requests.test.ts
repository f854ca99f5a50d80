/** Page requests, from the device to the handler and back. Intel VT-d 5.10 (D51397-018) §7.4 to §7.6, §9.4 (PRE). */
import {
  Endpoint,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  iommuDevice,
  isIommuError,
  type PageFaultGroup,
  PageResponseCode,
  pagingParameters,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import { LEGACY_ONLY } from "../src/index.ts"
import { capabilities, machine } from "./driver-machine.ts"

const RW = IOMMU_READ | IOMMU_WRITE
const { SUCCESS } = PageResponseCode
/** PRE, bit 4 of a scalable-mode context entry. */
const PRE = 1n << 4n
const RIGHTS = { read: true, write: false, execute: false, privileged: false }

/** PRE of a device's context entry, found by RTADDR as the hardware finds it. §9.2, §9.4. */
function asks(m: ReturnType<typeof machine>, { id }: IommuDevice): boolean {
  const root = m.model.mmio.read64(0x20) & ~0xfffn
  const table = m.memory.read64(root + BigInt(id >> 8) * 16n + BigInt((id >> 7) & 1) * 8n) & ~0xfffn
  return (m.memory.read64(table + BigInt(id & 0x7f) * 32n) & PRE) !== 0n
}

describe("page requests", () => {
  it("bring in a page that a device's DMA needs, after which the DMA is done", () => {
    const m = machine()
    const device = m.device(0x0310, { ats: true })
    const domain = m.driver.domainAllocUser(device, null, null)
    domain.map(0x1000n, 0x1000n, 0x1000n, RW)
    domain.pageFaultHandler = group => {
      for (const { address } of group.requests) domain.map(address, 0x5_0000n, 0x1000n, RW)
      group.respond(SUCCESS)
    }
    domain.attachDev(device)
    const endpoint = new Endpoint({ model: m.model, memory: m.memory, device: 0x0310, ats: true, pri: true })
    const bytes = Uint8Array.from([1, 2, 3, 4])
    const first = endpoint.write(0x40_0008n, bytes)
    expect(first.kind).toBe("page-requested")
    expect(m.driver.handleInterrupts()).toBe(1)
    expect(first.kind === "page-requested" && endpoint.mayRetry(first.group)).toBe(true)
    expect(endpoint.write(0x40_0008n, bytes)).toEqual({ kind: "done" })
    expect(m.memory.read(0x5_0008n, 4)).toEqual(bytes)
  })

  it("are allowed by the context entry while any domain of the device takes them", () => {
    const m = machine()
    const device = m.device(0x0310, { ats: true, pasidBits: 8 })
    const [rid, other] = [0, 1].map(() => m.driver.domainAllocUser(device, null, null))
    if (rid === undefined || other === undefined) throw new Error("no domains")
    rid.attachDev(device)
    expect(asks(m, device)).toBe(false)
    rid.pageFaultHandler = () => {}
    expect(asks(m, device)).toBe(true)
    other.pageFaultHandler = () => {}
    other.setDevPasid?.(device, 1)
    rid.detachDev(device)
    expect(asks(m, device)).toBe(true)
    other.removeDevPasid?.(device, 1)
    expect(asks(m, device)).toBe(false)
    rid.attachDev(device)
    rid.pageFaultHandler = null
    expect(asks(m, device)).toBe(false)
  })

  it("are never allowed for a device without a TLB: PRE without DTE is reserved", () => {
    const m = machine()
    const device = m.device(0x0310)
    const domain = m.driver.domainAllocUser(device, null, null)
    domain.pageFaultHandler = () => {}
    domain.attachDev(device)
    expect(asks(m, device)).toBe(false)
    domain.map(0x5000n, 0x5000n, 0x1000n, RW)
    expect(m.dma(device, 0x5000n)).toBe(0x5000n)
  })

  it("of a guest's first stage go to the handler of its domain", () => {
    const m = machine()
    const device = m.device(0x0310, { ats: true })
    const parent = m.driver.domainAllocUser(device, null, pagingParameters({ flags: 1 }))
    const data = { type: 1, flags: 0n, pgtblAddr: 0x1000n, addrWidth: 48, __reserved: 0 } as const
    const nested = m.driver.domainAllocUser(device, parent, data)
    const groups: PageFaultGroup[] = []
    nested.pageFaultHandler = group => groups.push(group)
    nested.attachDev(device)
    m.model.pageRequest({ ...RIGHTS, device: 0x0310, pasid: null, address: 0x7000n, last: true, group: 300 })
    expect(m.driver.handleInterrupts()).toBe(1)
    expect(groups[0]?.requests).toMatchObject([{ address: 0x7000n, group: 300, ...RIGHTS }])
  })

  it("are allowed when an attach succeeds, and all is as it was when it fails, whichever answer gets lost", () => {
    const outcomes = new Set<string>()
    for (let lost = 0; lost < 12; lost++) {
      const m = machine(undefined, { maxPolls: 50 })
      const device = m.device(0x0310, { ats: true })
      const old = m.driver.domainAllocUser(device, null, null)
      const next = m.driver.domainAllocUser(device, null, null)
      old.map(0x5000n, 0x5000n, 0x1000n, RW)
      next.map(0x5000n, 0x6000n, 0x1000n, RW)
      old.attachDev(device)
      next.pageFaultHandler = () => {}
      m.loseDoorbell(lost)
      let outcome = "ok"
      try {
        next.attachDev(device)
      } catch (error) {
        outcome = isIommuError(error) ? error.code : String(error)
      }
      m.loseDoorbell(Number.POSITIVE_INFINITY)
      outcomes.add(outcome)
      expect(asks(m, device)).toBe(outcome === "ok")
      expect(m.dma(device, 0x5000n)).toBe(outcome === "ok" ? 0x6000n : 0x5000n)
      next.attachDev(device)
      expect(asks(m, device)).toBe(true)
    }
    expect(outcomes).toEqual(new Set(["ok", "ETIMEDOUT"]))
  })

  it.each([
    ["in legacy mode", LEGACY_ONLY],
    ["without ECAP.PRS", capabilities({ ecap: { PRS: 0n } })],
  ])("are not there %s: no handler is taken", (_, hardware) => {
    const m = machine(hardware)
    const device = iommuDevice({ id: 0x0310, account: m.owner })
    m.driver.probeDevice(device)
    const domain = m.driver.domainAllocUser(device, null, null)
    expect(domain.pageFaultHandler).toBeUndefined()
    expect(() => {
      domain.pageFaultHandler = () => {}
    }).toThrow("EOPNOTSUPP")
  })
})
