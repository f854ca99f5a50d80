/** Page requests, from the device to the handler and back. AMD 48882 rev 3.10, §2.6, §2.4.7, §2.2.2.1 (PPR, GPRP). */
import { amdDriver, EVERYTHING } from "@iommu/amd"
import {
  Endpoint,
  IOMMU_READ,
  IOMMU_WRITE,
  iommuDevice,
  MemoryAccount,
  type PageFaultGroup,
  PageResponseCode,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import { expectErrno, guestDte, Host } from "./driver-machine.ts"

const RW = IOMMU_READ | IOMMU_WRITE
const { SUCCESS, INVALID } = PageResponseCode
/** PPR and GPRP in word 0. */
const PAGE_REQUESTS = 3n << 52n
const asks = (host: Host, device: ReturnType<Host["device"]>): bigint =>
  (host.entry(device)[0] as bigint) & PAGE_REQUESTS

describe("page requests", () => {
  it("bring in a page that a device's DMA needs, after which the DMA is done", () => {
    const host = new Host()
    const device = host.device(5, { ats: true })
    const domain = host.alloc(device)
    domain.map(0x1000n, 0x1000n, 0x1000n, RW)
    domain.pageFaultHandler = group => {
      for (const { address } of group.requests) domain.map(address, 0x5_0000n, 0x1000n, RW)
      group.respond(SUCCESS)
    }
    domain.attachDev(device)
    const endpoint = new Endpoint({ model: host.model, memory: host.memory, device: 5, ats: true, pri: true })
    const bytes = Uint8Array.from([1, 2, 3, 4])
    const first = endpoint.write(0x40_0008n, bytes)
    expect(first.kind).toBe("page-requested")
    expect(host.ops.handleInterrupts()).toBe(1)
    expect(first.kind === "page-requested" && endpoint.mayRetry(first.group)).toBe(true)
    expect(endpoint.write(0x40_0008n, bytes)).toEqual({ kind: "done" })
    expect(host.memory.read(0x5_0008n, 4)).toEqual(bytes)
  })

  it("are allowed by the entry while a domain takes them, and a device has a use for it", () => {
    const host = new Host()
    const [device, plain] = [host.device(5, { ats: true, pasidBits: 8 }), host.device(6)]
    const domain = host.paging(device, { flags: 8 })
    domain.attachDev(device)
    domain.attachDev(plain)
    expect(asks(host, device)).toBe(0n)
    domain.pageFaultHandler = () => {}
    expect([asks(host, device), asks(host, plain)]).toEqual([PAGE_REQUESTS, 0n])
    domain.pageFaultHandler = null
    expect(asks(host, device)).toBe(0n)
  })

  it("of a PASID are allowed from its attachment to its removal", () => {
    const host = new Host()
    const device = host.device(5, { ats: true, pasidBits: 8 })
    const [rid, other] = [host.paging(device, { flags: 8 }), host.paging(device, { flags: 8 })]
    other.pageFaultHandler = () => {}
    rid.attachDev(device)
    for (const pasid of [1, 2]) {
      other.setDevPasid?.(device, pasid)
      expect(asks(host, device)).toBe(PAGE_REQUESTS)
    }
    other.removeDevPasid?.(device, 1)
    expect(asks(host, device)).toBe(PAGE_REQUESTS)
    rid.setDevPasid?.(device, 2)
    expect(asks(host, device)).toBe(0n)
  })

  it("of a guest are the guest's to allow, and go to the handler of its domain with any PASID", () => {
    const host = new Host()
    const device = host.device(5, { ats: true, pasidBits: 8 })
    const parent = host.paging(device, { flags: 1 })
    const groups: PageFaultGroup[] = []
    const answers: unknown[] = []
    host.model.connect(5, { invalidate: () => true, pageGroupResponse: (...answer) => answers.push(answer) })
    const ask = (group: number): void => {
      const rights = { read: true, write: false, execute: true, privileged: true }
      host.model.pageRequest({ ...rights, device: 5, pasid: 0x12345, address: 0x5000n, last: true, group })
      host.ops.handleInterrupts()
    }
    const attach = (word0: bigint): void => {
      const nested = host.nested(device, parent, guestDte(0x1000n, 1n, word0))
      nested.pageFaultHandler = group => groups.push(group)
      nested.attachDev(device)
    }
    attach(0n)
    ask(1)
    expect(answers).toEqual([[1, 0x12345, 1]])
    attach(1n << 52n)
    ask(2)
    expect(groups[0]?.requests).toMatchObject([
      { pasid: 0x12345, read: true, execute: true, privileged: true },
    ])
    groups[0]?.respond(INVALID)
    expect(answers[1]).toEqual([2, 0x12345, 1])
    ask(3)
    host.ops.blockedDomain.attachDev(device)
    expect(answers[2]).toEqual([3, 0x12345, 1])
  })

  it("leave the device where it was when the hardware does not take the new entry", () => {
    const host = new Host()
    const device = host.device(5, { ats: true })
    const domain = host.alloc(device)
    domain.attachDev(device)
    const before = host.entry(device)
    const { mmio } = host.model
    const write64 = mmio.write64.bind(mmio)
    mmio.write64 = (offset, value) => {
      if (offset !== 0x2008) write64(offset, value)
    }
    expectErrno("ETIMEDOUT", () => {
      domain.pageFaultHandler = () => {}
    })
    expect(domain.pageFaultHandler).toBeNull()
    expect(host.entry(device)).toEqual(before)
  })

  // Linux's amd_iommu_gt_ppr_supported() asks for both.
  it.each([
    ["PPRSup", 1n << 1n],
    ["EPHSup", 1n << 50n],
  ])("are not there without %s: no handler is taken, none of their bits set", (_, feature) => {
    const host = new Host({ extFeatures: EVERYTHING & ~feature })
    const device = host.device(5, { ats: true })
    const domain = host.alloc(device)
    domain.attachDev(device)
    expect([asks(host, device), host.model.mmio.read64(0x18) & ((3n << 13n) | (1n << 45n))]).toEqual([0n, 0n])
    expect(domain.pageFaultHandler).toBeUndefined()
    expectErrno("EOPNOTSUPP", () => {
      domain.pageFaultHandler = () => {}
    })
  })
})

describe("coherency", () => {
  it("is in every leaf of host tables (FC, bit 60), and not to be had in guest tables", () => {
    const host = new Host()
    const device = host.device(5)
    expect(host.paging(device, { format: 3 }).enforceCacheCoherency?.()).toBe(true)
    expect(host.paging(device, { format: 4 }).enforceCacheCoherency?.()).toBe(false)
    expect(host.ops.capable(device, "ENFORCE_CACHE_COHERENCY")).toBe(false)
  })
})

describe("reserved regions", () => {
  it("are interrupt messages, HyperTransport's range, and what the IVRS reserves for the device", () => {
    const { memory, pages, model } = new Host()
    const unity = { type: "direct", start: 0x9000_0000n, last: 0x9000_ffffn } as const
    const ops = amdDriver(
      { memory, pages, mmio: model.mmio },
      { maxDeviceId: 0xff, reservedRegions: [{ ...unity, devices: [5] }] },
    )
    const account = new MemoryAccount("owner")
    const always = [
      { type: "msi", start: 0xfee0_0000n, last: 0xfeef_ffffn },
      { type: "reserved", start: 0xfd_0000_0000n, last: 0xff_ffff_ffffn },
    ]
    expect(ops.reservedRegions(iommuDevice({ id: 5, account }))).toEqual([...always, unity])
    expect(ops.reservedRegions(iommuDevice({ id: 6, account }))).toEqual(always)
  })
})
