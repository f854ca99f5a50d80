/** IOAS_MAP, rule by rule of the contract. */
import { describe, expect, it } from "vitest"
import { RecordingDomain } from "./recording-domain.ts"
import { expectRefused, PAGE, RAM, request, USER_VA, workbench } from "./workbench.ts"

const MAX = (1n << 64n) - 1n

describe("2.7 IOAS_MAP", () => {
  it("maps contiguous memory with one call, and pins each page once for all domains", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const domains = [new RecordingDomain(), new RecordingDomain()]
    for (const domain of domains) ioas.addDomain(domain)
    expect(ioas.map(bench.process, request(0x4000_0000n, 0x80_0000n))).toBe(0x4000_0000n)
    for (const { runs } of domains) {
      expect(runs).toEqual([{ iova: 0x4000_0000n, pa: RAM.base, size: 0x80_0000n, prot: 7 }])
    }
    expect(bench.counts()).toMatchObject({ pins: 2048, pinned: 2048, userLocked: 2048, locked: 0 })
    expect(ioas.unmapAll()).toBe(0x80_0000n)
    expect(domains.map(domain => domain.runs)).toEqual([[], []])
    expect(bench.counts()).toMatchObject({ pins: 0, pinned: 0, userLocked: 0 })
  })

  it("joins neighbouring pages of different mappings, and breaks where physical memory does", () => {
    const bench = workbench()
    const { memory } = bench.process
    memory.map(0x1000n, RAM.base + 0x3000n, PAGE)
    memory.map(0x2000n, RAM.base + 0x4000n, PAGE)
    memory.map(0x3000n, RAM.base, PAGE)
    const ioas = bench.ioas()
    const domain = new RecordingDomain()
    ioas.addDomain(domain)
    ioas.map(bench.process, request(0x10_0000n, 3n * PAGE, 0x1000n))
    expect(domain.runs.map(({ iova, pa, size }) => [iova, pa, size])).toEqual([
      [0x10_0000n, RAM.base + 0x3000n, 2n * PAGE],
      [0x10_2000n, RAM.base, PAGE],
    ])
  })

  it("pins nothing without a domain, and all of it when one comes", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.map(bench.process, request(0n, 4n * PAGE))
    expect(bench.counts()).toMatchObject({ pins: 0, userLocked: 0 })
    const domain = new RecordingDomain()
    ioas.addDomain(domain)
    expect(domain.runs).toHaveLength(1)
    expect(bench.counts()).toMatchObject({ pins: 4, userLocked: 4 })
    ioas.removeDomain(domain)
    expect(domain.runs).toEqual([])
    expect(bench.counts()).toMatchObject({ pins: 0, userLocked: 0 })
  })

  it("undoes everything when a page is missing or the domain fails: EFAULT, ENOMEM", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const domain = new RecordingDomain()
    ioas.addDomain(domain)
    bench.process.memory.unmap(USER_VA + 5n * PAGE, PAGE)
    expectRefused(bench, "EFAULT", () => ioas.map(bench.process, request(0n, 8n * PAGE)))
    domain.failsAfter = 0
    expectRefused(bench, "ENOMEM", () => ioas.map(bench.process, request(0n, 4n * PAGE)))
    expect([domain.runs, ioas.areas.size]).toEqual([[], 0])
  })

  it("overflow of user_va + length is EOVERFLOW, length 0 or within a page of everything EINVAL", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    expectRefused(bench, "EOVERFLOW", () => ioas.map(bench.process, request(0n, PAGE, MAX - PAGE + 1n)))
    expectRefused(bench, "EINVAL", () => ioas.map(bench.process, request(0n, 0n)))
    expectRefused(bench, "EINVAL", () => ioas.map(bench.process, request(0n, MAX - PAGE + 1n, 0n)))
  })

  it("a length or an offset in a page that the IOVA alignment forbids is EINVAL", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.addDomain(new RecordingDomain({ smallestPage: 2048n }))
    expectRefused(bench, "EINVAL", () => ioas.map(bench.process, request(0n, 2048n + 1024n)))
    expectRefused(bench, "EINVAL", () => ioas.map(bench.process, request(0n, 2048n, USER_VA + 1024n)))
    expectRefused(bench, "EINVAL", () => ioas.map(bench.process, request(1024n, 2048n)))
    expect(ioas.map(bench.process, request(2048n, 4096n, USER_VA + 2048n))).toBe(2048n)
  })

  it("maps parts of pages where the domain's pages are smaller than 4096", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const domain = new RecordingDomain({ smallestPage: 2048n })
    ioas.addDomain(domain)
    ioas.map(bench.process, request(0x1000n, 2048n, USER_VA + 2048n))
    ioas.map(bench.process, request(0x1800n, 6144n, USER_VA + 0x3800n))
    expect(domain.runs.map(({ iova, pa, size }) => [iova, pa, size])).toEqual([
      [0x1000n, RAM.base + 2048n, 2048n],
      [0x1800n, RAM.base + 0x3800n, 6144n],
    ])
    expect(bench.counts()).toMatchObject({ pins: 3 })
  })

  it("FIXED: an end beyond the last IOVA is EOVERFLOW, reserved or outside the aperture EINVAL, mapped EEXIST", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    expectRefused(bench, "EOVERFLOW", () => ioas.map(bench.process, request(MAX - PAGE + 2n, PAGE)))
    expect(ioas.map(bench.process, request(MAX - PAGE + 1n, PAGE))).toBe(MAX - PAGE + 1n)
    ioas.unmapAll()
    ioas.addDomain(new RecordingDomain({ start: 0x10_0000n, last: 0xff_ffffn }))
    ioas.reserve(bench, [{ type: "msi", start: 0x20_0000n, last: 0x20_0fffn }])
    for (const iova of [0xf_f000n, 0x100_0000n, 0x20_0000n, 0x1f_f000n]) {
      expectRefused(bench, "EINVAL", () => ioas.map(bench.process, request(iova, 2n * PAGE)))
    }
    ioas.map(bench.process, request(0x30_0000n, 2n * PAGE))
    for (const iova of [0x2f_f000n, 0x30_0000n, 0x30_1000n]) {
      expectRefused(bench, "EEXIST", () => ioas.map(bench.process, request(iova, 2n * PAGE)))
    }
  })

  it("auto: half of the address space is EOVERFLOW, a start less aligned than the IOVAs EINVAL, no hole ENOSPC", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    expectRefused(bench, "EOVERFLOW", () => ioas.map(bench.process, request(null, MAX / 2n, 0n)))
    ioas.addDomain(new RecordingDomain({ start: 0x10_0000n, last: 0x10_3fffn }))
    expectRefused(bench, "EINVAL", () => ioas.map(bench.process, request(null, PAGE, USER_VA + 2048n)))
    expectRefused(bench, "ENOSPC", () => ioas.map(bench.process, request(null, 0x5000n)))
    expect(ioas.map(bench.process, request(null, 0x4000n))).toBe(0x10_0000n)
    expectRefused(bench, "ENOSPC", () => ioas.map(bench.process, request(null, PAGE)))
  })

  it("auto: first fit from 4096 up, aligned to the length's power of two, to what the address has, to 2 MiB at most", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const place = (length: bigint, userVa: bigint): bigint =>
      ioas.map(bench.process, request(null, length, userVa))
    // IOVA 0 is never found; the next multiple of 16 KiB is 16 KiB.
    expect(place(0x3000n, USER_VA)).toBe(0x4000n)
    // The address allows 4 KiB only: the hole before it.
    expect(place(0x3000n, USER_VA + 0x1000n)).toBe(0x1000n)
    expect(place(0x3000n, USER_VA + 0x1000n)).toBe(0x7000n)
    expect(place(1n << 30n, USER_VA)).toBe(0x20_0000n)
    expect(place(1n << 30n, 0n)).toBe(0x4020_0000n)
    // The offset in its page stays.
    expect(place(0x10n, USER_VA + 0x230n) % PAGE).toBe(0x230n)
  })

  it("auto: keeps to the allowed ranges, which FIXED does not", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.allowIovas([
      { start: 0x10_0000n, last: 0x10_1fffn },
      { start: 0n, last: 0x1fffn },
    ])
    expect(ioas.map(bench.process, request(null, PAGE))).toBe(PAGE)
    expect(ioas.map(bench.process, request(null, 2n * PAGE))).toBe(0x10_0000n)
    expectRefused(bench, "ENOSPC", () => ioas.map(bench.process, request(null, PAGE)))
    expect(ioas.map(bench.process, request(0x80_0000n, PAGE))).toBe(0x80_0000n)
  })

  it("auto: a hole is not used for a single byte at its end", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.allowIovas([{ start: 0x1000n, last: 0x1001n }])
    expectRefused(bench, "ENOSPC", () => ioas.map(bench.process, request(null, 1n, USER_VA + 1n)))
    expect(ioas.map(bench.process, request(null, 1n))).toBe(0x1000n)
  })

  it("write to read-only memory is EFAULT, reading it is not; device memory cannot be pinned: EFAULT", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const domain = new RecordingDomain()
    ioas.addDomain(domain)
    const { memory } = bench.process
    memory.map(0x1000n, RAM.base, PAGE, "read-only")
    memory.map(0x2000n, 0xfee0_0000n, PAGE, "device")
    expectRefused(bench, "EFAULT", () => ioas.map(bench.process, request(0x1000n, PAGE, 0x1000n)))
    ioas.map(bench.process, { ...request(0x1000n, PAGE, 0x1000n), writeable: false })
    expect(domain.runs.map(({ prot }) => prot)).toEqual([5])
    expectRefused(bench, "EFAULT", () =>
      ioas.map(bench.process, { ...request(0x2000n, PAGE, 0x2000n), writeable: false }),
    )
  })

  it("a failure in the second domain empties the first", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const [first, second] = [new RecordingDomain(), new RecordingDomain()]
    ioas.addDomain(first)
    ioas.addDomain(second)
    bench.process.memory.map(USER_VA + PAGE, RAM.base + 0x8000n, PAGE)
    for (let failsAfter = 0; failsAfter < 3; failsAfter++) {
      second.failsAfter = failsAfter
      expectRefused(bench, "ENOMEM", () => ioas.map(bench.process, request(0n, 3n * PAGE)))
      expect([first.runs, second.runs]).toEqual([[], []])
    }
    second.failsAfter = 3
    ioas.map(bench.process, request(0n, 3n * PAGE))
    expect(second.runs).toEqual(first.runs)
  })

  it("survives a range of nearly all addresses without a domain, and a part of it with one", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.map(bench.process, request(0n, 1n << 62n, 0n))
    const other = bench.ioas()
    const domain = new RecordingDomain()
    other.addDomain(domain)
    const part = { sourceIova: USER_VA, length: PAGE, iova: 0n, readable: true, writeable: true }
    other.copyFrom(ioas, bench.process, part)
    expect(domain.runs).toHaveLength(1)
    expectRefused(bench, "EFAULT", () => ioas.addDomain(new RecordingDomain()))
  })
})
