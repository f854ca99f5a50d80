/** Software and queues of the hardware that use an address space, and what devices without an IOMMU are told. */
import { DmaBuf, type Ioas, SoftwareMsi } from "@iommu/iommufd"
import { describe, expect, it } from "vitest"
import { RecordingDomain } from "./recording-domain.ts"
import { expectRefused, PAGE, RAM, request, USER_VA, type Workbench, workbench } from "./workbench.ts"

const MAX = (1n << 64n) - 1n

function mapped(): { bench: Workbench; ioas: Ioas } {
  const bench = workbench()
  const ioas = bench.ioas()
  ioas.map(bench.process, request(0x1_0000n, 4n * PAGE))
  ioas.map(bench.process, request(0x1_4000n, 4n * PAGE, USER_VA + 0x10_0000n))
  return { bench, ioas }
}

describe("8 iommufd_access", () => {
  it("pins pages across areas and gives their addresses", () => {
    const { bench, ioas } = mapped()
    const pin = ioas.pin(0x1_2000n, 3n * PAGE, "write")
    expect(pin.pages).toEqual([RAM.base + 0x2000n, RAM.base + 0x3000n, RAM.base + 0x10_0000n])
    expect(bench.counts()).toMatchObject({ pins: 3, userLocked: 3 })
    pin.release()
    expect(bench.counts()).toMatchObject({ pins: 0, userLocked: 0 })
  })

  it("length 0 is EINVAL, overflow EOVERFLOW, holes ENOENT, a start inside a page EINVAL, read-only pages EPERM", () => {
    const { bench, ioas } = mapped()
    const refused = (code: string, iova: bigint, length: bigint): void =>
      expectRefused(bench, code, () => ioas.pin(iova, length, "write"))
    refused("EINVAL", 0x1_0000n, 0n)
    refused("EOVERFLOW", 2n, MAX)
    refused("ENOENT", 0x1_7000n, 2n * PAGE)
    refused("EINVAL", 0x1_0800n, PAGE)
    ioas.map(bench.process, { ...request(0x2_0000n, PAGE), writeable: false })
    refused("EPERM", 0x2_0000n, PAGE)
    // What is wrong with an area comes before a hole behind it.
    refused("EPERM", 0x2_0000n, 2n * PAGE)
    expect(ioas.pin(0x2_0000n, 100n, "read").pages).toHaveLength(1)
    ioas.map(bench.process, { ...request(0x3_0000n, PAGE), readable: false })
    expectRefused(bench, "EPERM", () => ioas.pin(0x3_0000n, PAGE, "read"))
  })

  it("undoes all when a later page cannot be pinned: EFAULT", () => {
    const { bench, ioas } = mapped()
    bench.process.memory.unmap(USER_VA + 0x10_1000n, PAGE)
    expectRefused(bench, "EFAULT", () => ioas.pin(0x1_2000n, 4n * PAGE, "read"))
    expect(ioas.unmapAll()).toBe(8n * PAGE)
  })

  it("reads and writes by CPU across areas, at any byte, pinned or not", () => {
    const { bench, ioas } = mapped()
    const bytes = Uint8Array.from({ length: 5000 }, (_, n) => n % 251)
    for (const _ of ["unpinned", "pinned"]) {
      ioas.write(0x1_2ffdn, bytes)
      expect(ioas.read(0x1_2ffdn, bytes.length)).toEqual(bytes)
      expect(bench.process.memory.read(USER_VA + 0x2ffdn, 4099)).toEqual(bytes.subarray(0, 4099))
      expect(bench.process.memory.read(USER_VA + 0x10_0000n, 901)).toEqual(bytes.subarray(4099))
      bytes.reverse()
      ioas.addDomain(new RecordingDomain())
    }
    bench.process.memory.map(USER_VA, RAM.base + 0x80_0000n, RAM.size / 2n)
    expect(ioas.read(0x1_2ffdn, bytes.length)).toEqual(bytes.reverse())
  })

  it("reads and writes what can be reached only: ENOENT, EPERM, EFAULT", () => {
    const { bench, ioas } = mapped()
    expectRefused(bench, "EINVAL", () => ioas.read(0x1_0000n, 0))
    expectRefused(bench, "ENOENT", () => ioas.read(0x1_7fffn, 2))
    bench.process.memory.unmap(USER_VA, PAGE)
    expectRefused(bench, "EFAULT", () => ioas.read(0x1_0fffn, 1))
    ioas.map(bench.process, { ...request(0x2_0000n, PAGE), writeable: false })
    expectRefused(bench, "EPERM", () => ioas.write(0x2_0000n, Uint8Array.of(1)))
    ioas.map(bench.process, { ...request(0x3_0000n, PAGE, USER_VA + PAGE), readable: false })
    expectRefused(bench, "EPERM", () => ioas.read(0x3_0000n, 1))
    ioas.write(0x3_0000n, Uint8Array.of(7))
  })

  it("cannot join where areas do not keep its alignment: EADDRINUSE", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.map(bench.process, request(0n, 100n))
    expectRefused(bench, "EADDRINUSE", () => ioas.addAccess({ alignment: PAGE, onUnmap: () => {} }))
    ioas.addAccess({ alignment: 1n, onUnmap: () => {} })
  })
})

describe("2.22 memory of a hardware queue", () => {
  it("is one physical run across areas, in whole pages, pinned and locked until the queue goes", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.map(bench.process, request(0n, 2n * PAGE))
    ioas.map(bench.process, request(0x2000n, 2n * PAGE, USER_VA + 2n * PAGE))
    const queue = ioas.pinContiguous(0x1000n, 3n * PAGE)
    expect(queue.address).toBe(RAM.base + 0x1000n)
    expect(bench.counts()).toMatchObject({ pins: 3 })
    expectRefused(bench, "EBUSY", () => ioas.unmap(0x2000n, 2n * PAGE))
    queue.release()
    expect(ioas.unmapAll()).toBe(4n * PAGE)
  })

  it("holes are ENOENT, what is not readable EPERM, pages apart EFAULT", () => {
    const { bench, ioas } = mapped()
    expectRefused(bench, "ENOENT", () => ioas.pinContiguous(0x1_7000n, 2n * PAGE))
    expectRefused(bench, "EFAULT", () => ioas.pinContiguous(0x1_3000n, 2n * PAGE))
    ioas.map(bench.process, { ...request(0x2_0000n, PAGE), readable: false })
    expectRefused(bench, "EPERM", () => ioas.pinContiguous(0x2_0000n, PAGE))
    // Without a domain, an IOVA may begin where its page does not.
    ioas.map(bench.process, request(0x3_0000n, 2n * PAGE, USER_VA + 0x800n))
    expectRefused(bench, "EINVAL", () => ioas.pinContiguous(0x3_0000n, PAGE))
  })
})

describe("2.23 NOIOMMU_GET_PA", () => {
  it("says where an IOVA lies and how far memory goes on from there", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const domain = new RecordingDomain()
    ioas.addDomain(domain)
    bench.process.memory.map(USER_VA + 3n * PAGE, RAM.base + 0x8000n, PAGE)
    ioas.map(bench.process, request(0x1000n, 5n * PAGE))
    const run = (iova: bigint, length: bigint): unknown => ioas.physicalRun(domain, iova, length)
    expect(run(0x1800n, MAX - 1n)).toEqual({ address: RAM.base + 0x800n, length: 0x2800n })
    expect(run(0x1800n, 0x1000n)).toEqual({ address: RAM.base + 0x800n, length: 0x1000n })
    expect(run(0x4010n, PAGE)).toEqual({ address: RAM.base + 0x8010n, length: 0xff0n })
    expect(run(0x5000n, PAGE)).toEqual({ address: RAM.base + 0x4000n, length: PAGE })
  })

  it("length 0 is EINVAL, the last IOVA EOVERFLOW, unmapped ENOENT, a revoked dma-buf EINVAL", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const domain = new RecordingDomain()
    ioas.addDomain(domain)
    const refused = (code: string, iova: bigint, length: bigint): void =>
      expectRefused(bench, code, () => ioas.physicalRun(domain, iova, length))
    refused("EINVAL", 0n, 0n)
    refused("EOVERFLOW", MAX, PAGE)
    refused("ENOENT", 0n, PAGE)
    const file = new DmaBuf([{ address: 0xe000_0000n, length: PAGE }])
    ioas.mapFile(bench.process, { file, start: 0n, length: PAGE, iova: 0n, readable: true, writeable: true })
    file.revoke()
    refused("EINVAL", 0n, PAGE)
  })
})

describe("5.6 the window of software MSIs", () => {
  const window = { start: 0x800_0000n, last: 0x80f_ffffn }

  it("gives each doorbell page one IOVA page, the same in all domains", () => {
    const msi = new SoftwareMsi()
    const [one, two] = [new RecordingDomain(), new RecordingDomain()]
    expect(msi.map(one, window, 0xfee0_0040n)).toBe(0x800_0040n)
    expect(msi.map(one, window, 0xfef0_0000n)).toBe(0x800_1000n)
    expect(msi.map(one, window, 0xfee0_0080n)).toBe(0x800_0080n)
    expect(msi.map(two, window, 0xfef0_0000n)).toBe(0x800_1000n)
    expect(one.runs).toEqual([
      { iova: 0x800_0000n, pa: 0xfee0_0000n, size: PAGE, prot: 2 | 8 | 16 },
      { iova: 0x800_1000n, pa: 0xfef0_0000n, size: PAGE, prot: 2 | 8 | 16 },
    ])
    expect(two.runs).toHaveLength(1)
    msi.unmapAll(one)
    expect(one.runs).toEqual([])
    expect(msi.map(one, window, 0xfee0_0000n)).toBe(0x800_0000n)
  })

  it("has room for 64 doorbells, or for what fits: EOVERFLOW beyond", () => {
    const msi = new SoftwareMsi()
    const domain = new RecordingDomain()
    for (let n = 0n; n < 64n; n++) msi.map(domain, window, n * PAGE)
    expect(() => msi.map(domain, window, 64n * PAGE)).toThrow(/EOVERFLOW/)
    expect(msi.map(domain, window, 63n * PAGE)).toBe(0x803_f000n)
    const small = { start: 0x900_0000n, last: 0x900_0fffn }
    expect(msi.map(domain, small, 0n)).toBe(0x900_0000n)
    expect(() => msi.map(domain, small, PAGE)).toThrow(/EOVERFLOW/)
  })

  it("forgets a doorbell that the domain refused", () => {
    const msi = new SoftwareMsi()
    const domain = new RecordingDomain()
    domain.failsAfter = 0
    expect(() => msi.map(domain, window, PAGE)).toThrow(/ENOMEM/)
    domain.failsAfter = 9
    expect(msi.map(domain, window, 5n * PAGE)).toBe(0x800_0000n)
  })
})
