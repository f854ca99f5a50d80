/** Who pays for what: memory cgroup and RLIMIT_MEMLOCK. */
import { IommuError, MemoryAccount } from "@iommu/core"
import type { Ioas } from "@iommu/iommufd"
import { describe, expect, it } from "vitest"
import { RecordingDomain } from "./recording-domain.ts"
import { expectRefused, PAGE, request, USER_VA, workbench } from "./workbench.ts"

/** Fails the n-th charge, and no other. */
class FailingAccount extends MemoryAccount {
  left = Number.POSITIVE_INFINITY

  override chargeBytes(bytes: number): void {
    if (this.left-- === 0) throw new IommuError("ENOMEM", "the account was told to fail")
    super.chargeBytes(bytes)
  }
}

describe("6 RLIMIT_MEMLOCK", () => {
  it("holds to the page, and counts all processes of a user together: mode user", () => {
    const bench = workbench({ memlockBytes: 4 * 4096 })
    const ioas = bench.ioas()
    ioas.addDomain(new RecordingDomain())
    ioas.map(bench.process, request(0n, 3n * PAGE))
    expectRefused(bench, "ENOMEM", () => ioas.map(bench.process, request(0x10_0000n, 2n * PAGE)))
    const sibling = bench.another({ memlockBytes: 4 * 4096 })
    expectRefused(bench, "ENOMEM", () => ioas.map(sibling, request(0x10_0000n, 2n * PAGE)))
    ioas.map(sibling, request(0x10_0000n, PAGE))
    expect([bench.user.lockedPages, bench.process.pinnedPages, sibling.pinnedPages]).toEqual([4, 3, 1])
    expect([bench.process.lockedPages, sibling.lockedPages]).toEqual([0, 0])
  })

  it("counts each process for itself: mode mm, decided when memory is mapped", () => {
    const bench = workbench({ memlockBytes: 4 * 4096 })
    const ioas = bench.ioas()
    ioas.addDomain(new RecordingDomain())
    ioas.map(bench.process, request(0n, 2n * PAGE))
    bench.policy.mode = "mm"
    ioas.map(bench.process, request(0x10_0000n, 4n * PAGE))
    expect([bench.user.lockedPages, bench.process.lockedPages, bench.process.pinnedPages]).toEqual([2, 4, 6])
    expectRefused(bench, "ENOMEM", () => ioas.map(bench.process, request(0x20_0000n, PAGE)))
    const sibling = bench.another({ memlockBytes: 4 * 4096 })
    ioas.map(sibling, request(0x20_0000n, 4n * PAGE))
    ioas.unmapAll()
    expect([bench.user.lockedPages, bench.process.lockedPages, sibling.lockedPages]).toEqual([0, 0, 0])
  })

  it("is no limit with CAP_IPC_LOCK; pinned pages are counted all the same", () => {
    const bench = workbench({ memlockBytes: 0, capabilities: ["CAP_IPC_LOCK"] })
    const ioas = bench.ioas()
    ioas.addDomain(new RecordingDomain())
    ioas.map(bench.process, request(0n, 8n * PAGE))
    expect(bench.counts()).toMatchObject({ pinned: 8, locked: 0, userLocked: 0 })
  })

  it("is looked at when pages are pinned: at attach for what was mapped before, with all undone", () => {
    const bench = workbench({ memlockBytes: 4 * 4096 })
    const ioas = bench.ioas()
    ioas.map(bench.process, request(0n, 3n * PAGE))
    ioas.map(bench.process, request(0x1_0000n, 3n * PAGE))
    const domain = new RecordingDomain()
    expectRefused(bench, "ENOMEM", () => ioas.addDomain(domain))
    expect(domain.runs).toEqual([])
  })

  it("does not count again what an access pins of held pages, and counts the rest", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.map(bench.process, request(0n, 4n * PAGE))
    const one = ioas.pin(0n, 2n * PAGE, "read")
    const two = ioas.pin(PAGE, 2n * PAGE, "write")
    expect(bench.counts()).toMatchObject({ pins: 3, pinned: 3, userLocked: 3 })
    const domain = new RecordingDomain()
    ioas.addDomain(domain)
    expect(bench.counts()).toMatchObject({ pins: 4, userLocked: 4 })
    one.release()
    two.release()
    one.release()
    expect(bench.counts()).toMatchObject({ pins: 4, userLocked: 4 })
    ioas.removeDomain(domain)
    expect(bench.counts()).toMatchObject({ pins: 0, userLocked: 0 })
  })
})

describe("6 memory cgroup", () => {
  it("pays for areas and page lists, and gets all of it back", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    for (let n = 0n; n < 100n; n++) ioas.map(bench.process, request(n * PAGE, PAGE, USER_VA + n * PAGE))
    const bytes = bench.account.objectBytes
    // Linux: an area with two interval nodes, and an iopt_pages, in slabs of 192 and 256 bytes.
    expect(bytes).toBe(100 * (192 + 256))
    expect(bench.account.usagePages).toBe(Math.ceil(bytes / 4096))
    ioas.unmapAll()
    expect(bench.account.usagePages).toBe(0)
  })

  it("gets all of it back when an address space goes", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.map(bench.process, request(0n, PAGE))
    ioas.allowIovas([{ start: 0n, last: 0xf_ffffn }])
    ioas.reserve({}, [{ type: "reserved", start: 0x100_0000n, last: 0x100_0fffn }])
    expect(bench.account.objectBytes).toBe(192 + 256 + 64 + 64)
    ioas.destroy()
    expect(bench.account.objectBytes).toBe(0)
    const used = bench.ioas()
    used.addDomain(new RecordingDomain())
    expect(() => used.destroy()).toThrow(/bug/)
  })

  it("ends it at the limit, with nothing charged: ENOMEM", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    bench.account.limitPages = 1
    let areas = 0n
    expect(() => {
      for (;;) ioas.map(bench.process, request(areas++ * PAGE, PAGE))
    }).toThrow(/ENOMEM/)
    expect(areas).toBe(4096n / 448n + 1n)
    expect(bench.account.objectBytes).toBe(448 * ioas.areas.size)
  })

  it("charges may fail one by one: every call is all or nothing", () => {
    const calls: ((bench: ReturnType<typeof workbench>, ioas: Ioas) => unknown)[] = [
      (bench, ioas) => ioas.map(bench.process, request(null, 4n * PAGE)),
      (bench, ioas) =>
        ioas.copyFrom(ioas, bench.process, {
          sourceIova: 0n,
          length: 2n * PAGE,
          iova: null,
          readable: true,
          writeable: true,
        }),
      (_, ioas) => ioas.addDomain(new RecordingDomain({ start: 0n, last: 0xffff_ffffn })),
      (_, ioas) => ioas.addDomain(new RecordingDomain({ smallestPage: 2048n, last: 0xffff_ffffn })),
      (_, ioas) =>
        ioas.reserve({}, [
          { type: "msi", start: 0x100_0000n, last: 0x100_0fffn },
          { type: "reserved", start: 0x200_0000n, last: 0x200_0fffn },
        ]),
      (_, ioas) => ioas.allowIovas([{ start: 0n, last: 0xff_ffffn }]),
      (_, ioas) => ioas.pin(0n, 4n * PAGE, "write"),
      (_, ioas) => ioas.pinContiguous(0n, 2n * PAGE),
      (_, ioas) => ioas.addAccess({ alignment: 4096n, onUnmap: () => {} }),
      (_, ioas) => ioas.cutAfter(PAGE - 1n),
    ]
    for (const call of calls) {
      for (let nth = 0; ; nth++) {
        const account = new FailingAccount("owner")
        const bench = workbench({ account }, account)
        const ioas = bench.ioas()
        ioas.setHugePages(false)
        ioas.map(bench.process, request(0n, 2n * PAGE))
        ioas.map(bench.process, request(2n * PAGE, 2n * PAGE, USER_VA + 0x10_0000n))
        ioas.addDomain(new RecordingDomain())
        const before = {
          ...bench.counts(),
          ranges: ioas.iovaRanges(),
          areas: [...ioas.areas],
          domains: ioas.domains,
        }
        account.left = nth
        try {
          call(bench, ioas)
          expect(nth).toBeGreaterThan(0)
          break
        } catch (error) {
          expect(error).toMatchObject({ code: "ENOMEM" })
        }
        expect({
          ...bench.counts(),
          ranges: ioas.iovaRanges(),
          areas: [...ioas.areas],
          domains: ioas.domains,
        }).toEqual(before)
      }
    }
  })
})
