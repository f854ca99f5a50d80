/** IOAS_MAP and IOAS_UNMAP, rule by rule of the contract. */
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
})
