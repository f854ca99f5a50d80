/** Page requests of real drivers through iommufd's fault queues: sections 3.6, 5.3 and 8 of the errno rules. */
import { ACCESS_WRITE, Endpoint, PageResponseCode } from "@iommu/core"
import { IOMMU_HWPT_PAGE_RESPONSE, IOMMU_HWPT_PGFAULT } from "@iommu/iommufd"
import { describe, expect, it } from "vitest"
import { Bench, errnoOf, RAM_HPA, USER_VA, VENDOR_NAMES, type VendorName } from "./iommufd-bench.ts"

const NEST_PARENT = 1
const PASID = 8
const IOVA = 0x20_0000n
const BYTES = Uint8Array.from([1, 2, 3, 4])

function faulting(vendor: VendorName, flags = 0) {
  const b = new Bench(vendor, { ats: true, pasidBits: flags === 0 ? 0 : 8 })
  const queue = b.iommufd.faultQueueAlloc()
  const hwpt = b.hwpt(b.ioas, null, flags, { faultId: queue.id })
  b.device.attach(hwpt)
  const { id } = b.device.device
  const endpoint = new Endpoint({ model: b.model, memory: b.memory, device: id, ats: true, pri: true })
  /** Shows a page of the process at the address that a record names. */
  const bringIn = (addr: bigint): void => {
    const placement = { ioasId: b.ioas, length: 0x1000n, iova: addr, readable: true, writeable: true }
    b.iommufd.ioasMap({ ...placement, userVa: USER_VA + 0x3000n })
  }
  return { b, queue, hwpt, endpoint, bringIn }
}

describe.each(VENDOR_NAMES)("page requests on %s", vendor => {
  it("reach the process, which brings the page in; the DMA is then done", () => {
    const { b, queue, endpoint, bringIn } = faulting(vendor)
    const first = endpoint.write(IOVA + 8n, BYTES)
    expect(first.kind).toBe("page-requested")
    expect(queue.file.poll().readable).toBe(false)
    b.ops.handleInterrupts?.()
    expect(queue.file.poll().readable).toBe(true)
    const faults = queue.file.take()
    expect(faults).toMatchObject([{ flags: 2, devId: b.device.id, addr: IOVA, perm: ACCESS_WRITE }])
    bringIn(IOVA)
    queue.file.respond(faults[0]?.cookie ?? 0, PageResponseCode.SUCCESS)
    expect(endpoint.write(IOVA + 8n, BYTES)).toEqual({ kind: "done" })
    expect(b.memory.read(RAM_HPA + 0x3008n, 4)).toEqual(BYTES)
  })

  it("come and go as bytes: records of 40, responses of 8", () => {
    const { b, queue, endpoint, bringIn } = faulting(vendor)
    const first = endpoint.write(IOVA, BYTES)
    b.ops.handleInterrupts?.()
    const memory = b.process.memory
    const at = USER_VA + 0x10_0000n
    expect(queue.file.readTo(memory, at, 4000)).toBe(40)
    const record = IOMMU_HWPT_PGFAULT.decode(memory.read(at, 40))
    bringIn(record.addr)
    const response = IOMMU_HWPT_PAGE_RESPONSE.encode({ cookie: record.cookie, code: 0 })
    memory.write(at, response)
    expect(queue.file.writeFrom(memory, at, 8)).toBe(8)
    expect(first.kind === "page-requested" && endpoint.mayRetry(first.group)).toBe(true)
    expect(endpoint.write(IOVA, BYTES)).toEqual({ kind: "done" })
  })

  it("of a PASID say so, and go to the page table of the PASID", () => {
    const { b, queue, endpoint } = faulting(vendor, PASID)
    const other = b.iommufd.faultQueueAlloc()
    const hwpt = b.hwpt(b.ioas, null, PASID, { faultId: other.id })
    b.device.attachPasid(5, hwpt)
    endpoint.write(IOVA, BYTES, 5)
    b.ops.handleInterrupts?.()
    expect(queue.file.take()).toEqual([])
    expect(other.file.take()).toMatchObject([{ flags: 3, pasid: 5, addr: IOVA }])
  })

  it("without an answer are answered INVALID when the device is replaced away, and late answers are EINVAL", () => {
    const { b, queue, endpoint } = faulting(vendor)
    const first = endpoint.write(IOVA, BYTES)
    b.ops.handleInterrupts?.()
    const [fault] = queue.file.take()
    b.device.replace(b.hwpt(b.ioas, null))
    expect(first.kind === "page-requested" && endpoint.responses.get(first.group)).toBe(1)
    expect(errnoOf(() => queue.file.respond(fault?.cookie ?? 0, 0))).toBe("EINVAL")
  })

  it("that nobody asked for are answered INVALID, and cost the process nothing", () => {
    const b = new Bench(vendor, { ats: true })
    b.device.attach(b.hwpt(b.ioas, null))
    const { id } = b.device.device
    const endpoint = new Endpoint({ model: b.model, memory: b.memory, device: id, ats: true, pri: true })
    const before = b.process.account.usagePages
    const first = endpoint.write(IOVA, BYTES)
    b.ops.handleInterrupts?.()
    expect(first.kind === "page-requested" && endpoint.responses.get(first.group)).toBe(1)
    expect(b.process.account.usagePages).toBe(before)
  })

  it("are not to be had on a nest parent: EOPNOTSUPP", () => {
    const b = new Bench(vendor)
    const { id } = b.iommufd.faultQueueAlloc()
    expect(errnoOf(() => b.hwpt(b.ioas, null, NEST_PARENT, { faultId: id }))).toBe("EOPNOTSUPP")
  })
})
