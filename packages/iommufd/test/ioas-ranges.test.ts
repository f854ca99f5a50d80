/** Which IOVAs can be used: IOAS_ALLOC, IOAS_ALLOW_IOVAS, IOAS_IOVA_RANGES, and what domains and devices take away. */
import { describe, expect, it } from "vitest"
import { RecordingDomain } from "./recording-domain.ts"
import { expectRefused, PAGE, request, USER_VA, workbench } from "./workbench.ts"

const MAX = (1n << 64n) - 1n
const range = (start: bigint, last: bigint): { start: bigint; last: bigint } => ({ start, last })

describe("2.4 IOAS_ALLOC", () => {
  it("begins with one range of everything, alignment 1 and huge pages", () => {
    const ioas = workbench().ioas()
    expect(ioas.iovaRanges()).toEqual({ ranges: [range(0n, MAX)], alignment: 1n })
    expect(ioas.usesHugePages).toBe(true)
  })
})

describe("2.5 IOAS_ALLOW_IOVAS", () => {
  it("refuses empty, one-byte and overlapping ranges: EINVAL; reserved ones: EADDRINUSE; the old list stays", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const old = [range(0x5000n, 0x8fffn)]
    ioas.allowIovas(old)
    ioas.reserve(bench, [{ type: "reserved", start: 0x1_0000n, last: 0x1_0fffn }])
    expectRefused(bench, "EINVAL", () => ioas.allowIovas([range(5n, 4n)]))
    expectRefused(bench, "EINVAL", () => ioas.allowIovas([range(5n, 5n)]))
    expectRefused(bench, "EINVAL", () => ioas.allowIovas([range(5n, 9n), range(0n, 5n)]))
    expectRefused(bench, "EADDRINUSE", () => ioas.allowIovas([range(0n, 0x1_0000n)]))
    expect(ioas.allowed).toEqual(old)
    ioas.allowIovas([])
    expect(ioas.allowed).toEqual([])
  })

  it("keeps what it lists from domains and devices that would take it: EADDRINUSE", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.allowIovas([range(0x10_0000n, 0x1f_ffffn)])
    const narrow = new RecordingDomain({ start: 0n, last: 0x1f_f000n - 1n })
    expectRefused(bench, "EADDRINUSE", () => ioas.addDomain(narrow))
    const region = { type: "msi", start: 0x1f_f000n, last: 0x20_0000n } as const
    const before = { type: "reserved", start: 0n, last: 5n } as const
    expectRefused(bench, "EADDRINUSE", () => ioas.reserve(bench, [before, region]))
    expect(ioas.iovaRanges().ranges).toEqual([range(0n, MAX)])
    ioas.addDomain(new RecordingDomain({ start: 0x10_0000n, last: 0x1f_ffffn }))
  })
})

describe("2.6 IOAS_IOVA_RANGES", () => {
  it("are the holes of reserved regions and apertures, which leave with their owner", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const [one, two] = [{}, {}]
    const domain = new RecordingDomain({ start: 0x1000n, last: 0xffff_ffffn })
    ioas.addDomain(domain)
    ioas.reserve(one, [
      { type: "msi", start: 0xfee0_0000n, last: 0xfeef_ffffn },
      { type: "reserved", start: 0xfef0_0000n, last: 0xfeff_ffffn },
    ])
    ioas.reserve(two, [{ type: "msi", start: 0xfee0_0000n, last: 0xfeef_ffffn }])
    const narrow = [range(0x1000n, 0xfedf_ffffn), range(0xff00_0000n, 0xffff_ffffn)]
    expect(ioas.iovaRanges()).toEqual({ ranges: narrow, alignment: 4096n })
    ioas.unreserve(one)
    expect(ioas.iovaRanges().ranges[1]).toEqual(range(0xfef0_0000n, 0xffff_ffffn))
    ioas.unreserve(two)
    expect(ioas.iovaRanges().ranges).toEqual([range(0x1000n, 0xffff_ffffn)])
    ioas.removeDomain(domain)
    expect(ioas.iovaRanges()).toEqual({ ranges: [range(0n, MAX)], alignment: 1n })
    expect(bench.counts()).toMatchObject({ bytes: 0 })
  })

  it("alignment is the largest of small pages, pinning accesses and 4096 without huge pages", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const alignment = (): bigint => ioas.iovaRanges().alignment
    const small = new RecordingDomain({ smallestPage: 2048n })
    ioas.addDomain(small)
    expect(alignment()).toBe(2048n)
    const access = { alignment: 4096n, onUnmap: () => {} }
    ioas.addAccess(access)
    expect(alignment()).toBe(4096n)
    ioas.removeAccess(access)
    ioas.setHugePages(false)
    expect(alignment()).toBe(4096n)
    ioas.setHugePages(true)
    ioas.removeDomain(small)
    expect(alignment()).toBe(1n)
  })
})

describe("2.13 a page table joins an address space", () => {
  it("not with pages above 4096: EINVAL; nor where areas do not keep its alignment or aperture: EADDRINUSE", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.map(bench.process, request(0x1_0800n, 2048n, USER_VA + 2048n))
    expectRefused(bench, "EINVAL", () => ioas.addDomain(new RecordingDomain({ smallestPage: 1n << 14n })))
    expectRefused(bench, "EADDRINUSE", () => ioas.addDomain(new RecordingDomain()))
    expectRefused(bench, "EADDRINUSE", () =>
      ioas.addDomain(new RecordingDomain({ smallestPage: 2048n, start: 0x1_1000n })),
    )
    expect(ioas.iovaRanges()).toEqual({ ranges: [range(0n, MAX)], alignment: 1n })
    ioas.addDomain(new RecordingDomain({ smallestPage: 2048n }))
  })

  it("not when existing areas cannot be pinned: EFAULT, ENOMEM; it is left empty", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    for (let n = 0n; n < 4n; n++) ioas.map(bench.process, request(n * 0x1_0000n, PAGE, USER_VA + n * PAGE))
    bench.process.memory.unmap(USER_VA + 2n * PAGE, PAGE)
    const domain = new RecordingDomain()
    expectRefused(bench, "EFAULT", () => ioas.addDomain(domain))
    expect(domain.runs).toEqual([])
    ioas.unmap(0x2_0000n, PAGE)
    for (let failsAfter = 0; failsAfter < 3; failsAfter++) {
      domain.failsAfter = failsAfter
      expectRefused(bench, "ENOMEM", () => ioas.addDomain(domain))
      expect(domain.runs).toEqual([])
    }
    domain.failsAfter = 3
    ioas.addDomain(domain)
    expect(domain.runs).toHaveLength(3)
    expectRefused(bench, "EEXIST", () => ioas.addDomain(domain))
  })
})

describe("2.11 OPTION HUGE_PAGES", () => {
  it("off: each page is mapped alone", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.setHugePages(false)
    const domain = new RecordingDomain()
    ioas.addDomain(domain)
    ioas.map(bench.process, request(0x20_0000n, 0x20_0000n))
    expect(domain.mapCalls).toBe(512)
  })

  it("cannot go off while domains have areas: EINVAL, or areas are not aligned: EADDRINUSE", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.map(bench.process, request(0n, 100n))
    expectRefused(bench, "EADDRINUSE", () => ioas.setHugePages(false))
    expect(ioas.usesHugePages).toBe(true)
    ioas.unmapAll()
    ioas.map(bench.process, request(0n, PAGE))
    const domain = new RecordingDomain()
    ioas.addDomain(domain)
    expectRefused(bench, "EINVAL", () => ioas.setHugePages(false))
    ioas.unmapAll()
    ioas.setHugePages(false)
    expect(ioas.usesHugePages).toBe(false)
  })
})
