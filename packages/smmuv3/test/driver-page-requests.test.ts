/** Page requests and stalls, from the device to the handler and back. Arm IHI 0070 G.b §3.12, chapter 8, §4.5.2, §4.7.1. */
import {
  ACCESS_WRITE,
  Endpoint,
  HELD,
  IOMMU_READ,
  IOMMU_WRITE,
  iommuDevice,
  MemoryAccount,
  type PageFaultGroup,
  PageResponseCode,
  REFUSED,
  type Release,
  TRANSLATED,
} from "@iommu/core"
import { SMMUV3_EVERYTHING, smmuv3Driver } from "@iommu/smmuv3"
import { describe, expect, it } from "vitest"
import { expectErrno, Host } from "./driver-machine.ts"
import { FakeSmmu } from "./fake-smmu.ts"

const RW = IOMMU_READ | IOMMU_WRITE
const { SUCCESS, INVALID } = PageResponseCode
const IOVA = 0x40_0000n
/** IDR0.STALL_MODEL, bits 25:24: 2 is "stall forced"; ATS and PRI, bits 10 and 16. */
const FORCED = { IDR0: (SMMUV3_EVERYTHING.IDR0 & ~(3 << 24)) | (2 << 24) }
const NEITHER = { IDR0: SMMUV3_EVERYTHING.IDR0 & ~(1 << 16) }

describe("page requests", () => {
  it("bring in a page that a device's DMA needs, after which the DMA is done", () => {
    const host = new Host()
    const device = host.device(0x10, { ats: true })
    const domain = host.alloc(device)
    domain.map(0x1000n, 0x1000n, 0x1000n, RW)
    domain.pageFaultHandler = group => {
      for (const { address } of group.requests) domain.map(address, 0x5_0000n, 0x1000n, RW)
      group.respond(SUCCESS)
    }
    domain.attachDev(device)
    const endpoint = new Endpoint({
      model: host.model,
      memory: host.memory,
      device: 0x10,
      ats: true,
      pri: true,
    })
    const bytes = Uint8Array.from([1, 2, 3, 4])
    const first = endpoint.write(IOVA + 8n, bytes)
    expect(first.kind).toBe("page-requested")
    expect(host.ops.handleInterrupts?.()).toBe(1)
    expect(first.kind === "page-requested" && endpoint.mayRetry(first.group)).toBe(true)
    expect(endpoint.write(IOVA + 8n, bytes)).toEqual({ kind: "done" })
    expect(host.memory.read(0x5_0008n, 4)).toEqual(bytes)
  })

  it("of a guest go to the handler of its domain, with any PASID", () => {
    const host = new Host()
    const device = host.device(0x10, { ats: true, pasidBits: 8 })
    const parent = host.paging(device, { flags: 1 })
    const nested = host.nested(device, parent, 0x1000_000bn, 0xd6n)
    const groups: PageFaultGroup[] = []
    nested.pageFaultHandler = group => groups.push(group)
    nested.attachDev(device)
    const request = {
      address: 0x5000n,
      read: true,
      write: false,
      execute: true,
      privileged: true,
      last: true,
    }
    host.model.pageRequest({ ...request, device: 0x10, pasid: 5, group: 2 })
    host.ops.handleInterrupts?.()
    expect(groups.map(({ pasid, requests }) => [pasid, requests])).toEqual([
      [5, [{ ...request, device: 0x10, pasid: 5, group: 2 }]],
    ])
    const answers: unknown[] = []
    host.model.connect(0x10, {
      invalidate: () => true,
      pageGroupResponse: (...answer) => answers.push(answer),
    })
    groups[0]?.respond(INVALID)
    expect(answers).toEqual([[2, 5, 1]])
  })

  it("that overflow are answered by the SMMU with their PASID, as the driver's answers have it (STE.PPAR)", () => {
    // IDR3.PPS, bit 5, would make the SMMU do so whatever PPAR says.
    const host = new Host({ IDR3: SMMUV3_EVERYTHING.IDR3 & ~(1 << 5) })
    const device = host.device(0x10, { ats: true, pasidBits: 8 })
    const domain = host.paging(device, { flags: 8 })
    domain.pageFaultHandler = group => group.respond(SUCCESS)
    domain.attachDev(device)
    domain.setDevPasid?.(device, 5)
    const answers: (number | null)[] = []
    const answer = (_group: number, pasid: number | null): void => void answers.push(pasid)
    host.model.connect(0x10, { invalidate: () => true, pageGroupResponse: answer })
    const rights = { read: true, write: false, execute: false, privileged: false }
    for (let group = 0; group < 300; group++) {
      host.model.pageRequest({ ...rights, device: 0x10, pasid: 5, address: 0x5000n, last: true, group })
    }
    expect(answers).toEqual(Array(300 - 256).fill(5))
    host.ops.handleInterrupts?.()
    expect(answers).toEqual(Array(300).fill(5))
  })

  it("are not there without PRI: no handler is taken", () => {
    const host = new Host(NEITHER)
    const domain = host.alloc(host.device(0x10))
    expect(domain.pageFaultHandler).toBeUndefined()
    expectErrno("EOPNOTSUPP", () => {
      domain.pageFaultHandler = () => {}
    })
    domain.pageFaultHandler = null
  })
})

describe("an SMMU that stalls every fault (STALL_MODEL 2)", () => {
  function stalling(handler: ((group: PageFaultGroup) => void) | null) {
    const host = new Host(FORCED)
    const device = host.device(0x10)
    const domain = host.alloc(device)
    domain.map(0x1000n, 0x1000n, 0x1000n, RW)
    domain.pageFaultHandler = handler
    domain.attachDev(device)
    const releases: (Release & { completes: boolean | undefined })[] = []
    host.model.onRelease = release =>
      releases.push({ ...release, completes: host.model.result.fault?.completes })
    const send = (): number => host.model.translate(0x10, -1, 0, Number(IOVA) + 4, ACCESS_WRITE)
    return { host, device, domain, releases, send }
  }

  it("goes on with the transaction when the page is there", () => {
    const groups: PageFaultGroup[] = []
    const { host, domain, releases, send } = stalling(group => groups.push(group))
    expect(send()).toBe(HELD)
    host.ops.handleInterrupts?.()
    expect(groups[0]?.requests).toMatchObject([{ address: IOVA + 4n, read: false, write: true, last: true }])
    expect(releases).toEqual([])
    domain.map(IOVA, 0x5_0000n, 0x1000n, RW)
    groups[0]?.respond(SUCCESS)
    expect(releases).toMatchObject([{ status: TRANSLATED }])
    expect(host.events).toEqual([])
  })

  it.each([
    ["when the handler refuses", (group: PageFaultGroup) => group.respond(INVALID)],
    ["when nobody takes it", null],
  ])("aborts the transaction %s", (_, handler) => {
    const { host, releases, send } = stalling(handler)
    send()
    host.ops.handleInterrupts?.()
    // An abort: not a success that does nothing, which RESUME without Ab would be.
    expect(releases).toMatchObject([{ status: REFUSED, completes: undefined }])
  })

  it("aborts what waits when the device leaves", () => {
    const { host, device, domain, releases, send } = stalling(() => {})
    send()
    host.ops.handleInterrupts?.()
    domain.detachDev(device)
    expect(releases).toHaveLength(1)
  })
})

describe("a guest whose own CD makes faults stall", () => {
  it("holds nothing up: what nobody resolves is aborted", () => {
    const host = new Host()
    const device = host.device(0x10)
    const parent = host.paging(device, { flags: 1 })
    parent.map(0x4000_0000n, 0x10_0000n, 0x10_0000n, RW)
    // As in captures/smmuv3-nested-4k, with S (bit 44) beside R and A; the tables are empty.
    const cd = [0x4e204c0003510n | (1n << 44n), 0x4000_2000n, 0n, 0xfffffffff404ff44n]
    for (const [i, word] of cd.entries()) host.memory.write64(0x10_1000n + BigInt(8 * i), word)
    host.nested(device, parent, 0x4000_100bn, 0xd6n).attachDev(device)
    const releases: Release[] = []
    host.model.onRelease = release => releases.push(release)
    for (let page = 1; page <= 3; page++) expect(host.model.translate(0x10, -1, 0, page << 12, 1)).toBe(HELD)
    expect(host.ops.handleInterrupts?.()).toBe(3)
    expect(releases).toHaveLength(3)
    expect(releases.every(({ status }) => status !== TRANSLATED)).toBe(true)
  })
})

describe("reserved regions", () => {
  it("are Linux's window for software MSIs, and what the IORT reserves for the device", () => {
    const rmr = { type: "direct", start: 0x9000_0000n, last: 0x9000_ffffn } as const
    const all = { type: "reserved", start: 0x1_0000_0000n, last: 0x1_0000_0fffn } as const
    const ops = smmuv3Driver(new FakeSmmu(), { reservedRegions: [{ ...rmr, devices: [0x10] }, all] })
    const account = new MemoryAccount("owner")
    const device = (id: number) => iommuDevice({ id, account })
    const window = { type: "sw-msi", start: 0x800_0000n, last: 0x80f_ffffn }
    expect(ops.reservedRegions(device(0x10))).toEqual([window, rmr, all])
    expect(ops.reservedRegions(device(0x11))).toEqual([window, all])
    const backwards = { type: "direct", start: 0x2000n, last: 0x1000n } as const
    expectErrno("EINVAL", () => smmuv3Driver(new FakeSmmu(), { reservedRegions: [backwards] }))
  })
})
