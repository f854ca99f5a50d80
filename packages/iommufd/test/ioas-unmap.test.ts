/** IOAS_UNMAP and IOAS_COPY. */
import { describe, expect, it } from "vitest"
import { RecordingDomain } from "./recording-domain.ts"
import { expectRefused, PAGE, RAM, request, USER_VA, workbench } from "./workbench.ts"

const MAX = (1n << 64n) - 1n

describe("2.10 IOAS_UNMAP", () => {
  it("removes all whole areas of a range and says how many bytes they had", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const domain = new RecordingDomain()
    ioas.addDomain(domain)
    for (const iova of [0x1_0000n, 0x2_0000n, 0x3_0000n]) ioas.map(bench.process, request(iova, 2n * PAGE))
    expect(ioas.unmap(0n, 0x2_2000n)).toBe(4n * PAGE)
    expect(domain.runs.map(({ iova }) => iova)).toEqual([0x3_0000n])
    expect(bench.counts()).toMatchObject({ pins: 2 })
    expect(ioas.unmapAll()).toBe(2n * PAGE)
    expect(ioas.unmapAll()).toBe(0n)
    expect(bench.counts()).toMatchObject({ pins: 0 })
  })

  it("length 0 is EINVAL, an end beyond the last IOVA EOVERFLOW, nothing there ENOENT", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    expectRefused(bench, "EINVAL", () => ioas.unmap(0n, 0n))
    expectRefused(bench, "EOVERFLOW", () => ioas.unmap(2n, MAX))
    expectRefused(bench, "ENOENT", () => ioas.unmap(0n, PAGE))
  })

  it("an area that is only partly in the range is ENOENT, and those below it are gone", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.map(bench.process, request(0n, PAGE))
    ioas.map(bench.process, request(0x1000n, 4n * PAGE))
    expect(() => ioas.unmap(0n, 3n * PAGE)).toThrow(/ENOENT/)
    expect([...ioas.areas].map(({ start }) => start)).toEqual([0x1000n])
    expectRefused(bench, "ENOENT", () => ioas.unmap(0x2000n, PAGE))
    expectRefused(bench, "ENOENT", () => ioas.unmap(0x2000n, 8n * PAGE))
  })

  it("an area in which a hardware queue lies is EBUSY until the queue goes", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.map(bench.process, request(0n, 4n * PAGE))
    const queue = ioas.pinContiguous(PAGE, PAGE)
    expectRefused(bench, "EBUSY", () => ioas.unmap(0n, 4n * PAGE))
    expectRefused(bench, "EBUSY", () => ioas.unmapAll())
    queue.release()
    expect(ioas.unmapAll()).toBe(4n * PAGE)
    expect(bench.counts()).toMatchObject({ pins: 0, bytes: 0 })
  })

  it("asks accesses to let go; one that does not makes it EDEADLOCK", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.map(bench.process, request(0n, 4n * PAGE))
    const asked: [bigint, bigint][] = []
    let pin = ioas.pin(PAGE, PAGE, "write")
    const polite = {
      alignment: 4096n,
      onUnmap: (iova: bigint, length: bigint) => {
        asked.push([iova, length])
        pin.release()
      },
    }
    ioas.addAccess(polite)
    expect(ioas.unmap(0n, 4n * PAGE)).toBe(4n * PAGE)
    expect(asked).toEqual([[0n, 4n * PAGE]])
    ioas.removeAccess(polite)
    ioas.map(bench.process, request(0n, PAGE))
    pin = ioas.pin(0n, PAGE, "read")
    expectRefused(bench, "EDEADLOCK", () => ioas.unmap(0n, PAGE))
    expectRefused(bench, "EINVAL", () => ioas.pin(0n, PAGE, "read"))
    pin.release()
    expect(ioas.unmapAll()).toBe(PAGE)
    expect(bench.counts()).toMatchObject({ pins: 0, bytes: 0 })
  })
})

describe("2.9 IOAS_COPY", () => {
  const copy = (sourceIova: bigint, length: bigint, iova: bigint | null) => ({
    sourceIova,
    length,
    iova,
    readable: true,
    writeable: true,
  })

  it("shows any part of any areas a second time; pages are pinned and counted once", () => {
    const bench = workbench()
    const [source, target] = [bench.ioas(), bench.ioas()]
    const domains = [new RecordingDomain(), new RecordingDomain()] as const
    source.addDomain(domains[0])
    target.addDomain(domains[1])
    const before = bench.counts()
    source.map(bench.process, request(0x1_0000n, 4n * PAGE))
    source.map(bench.process, request(0x1_4000n, 4n * PAGE, USER_VA + 0x10_0000n))
    target.copyFrom(source, bench.process, copy(0x1_2000n, 4n * PAGE, 0x8000n))
    expect(domains[1].runs.map(({ iova, pa, size }) => [iova, pa, size])).toEqual([
      [0x8000n, RAM.base + 0x2000n, 2n * PAGE],
      [0xa000n, RAM.base + 0x10_0000n, 2n * PAGE],
    ])
    expect(bench.counts()).toMatchObject({ pins: 8, pinned: 8, userLocked: 8 })
    source.unmapAll()
    expect(bench.counts()).toMatchObject({ pins: 4, pinned: 4, userLocked: 4 })
    target.copyFrom(target, bench.process, copy(0x9000n, 2n * PAGE, null))
    expect(bench.counts()).toMatchObject({ pins: 4 })
    target.unmapAll()
    expect(bench.counts()).toEqual(before)
  })

  it("keeps the pages of the time when they were pinned, whatever the program maps since", () => {
    const bench = workbench()
    const [source, target] = [bench.ioas(), bench.ioas()]
    source.addDomain(new RecordingDomain())
    source.map(bench.process, request(0n, 2n * PAGE))
    bench.process.memory.map(USER_VA, RAM.base + 0x20_0000n, 2n * PAGE)
    const domain = new RecordingDomain()
    target.addDomain(domain)
    target.copyFrom(source, bench.process, copy(0n, PAGE, 0n))
    expect(domain.runs[0]?.pa).toBe(RAM.base)
  })

  it("length 0 is EINVAL, an end beyond the last IOVA EOVERFLOW, a hole anywhere ENOENT", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.map(bench.process, request(0x1000n, 2n * PAGE))
    ioas.map(bench.process, request(0x4000n, 2n * PAGE))
    const refused = (code: string, iova: bigint, length: bigint): void =>
      expectRefused(bench, code, () => ioas.copyFrom(ioas, bench.process, copy(iova, length, null)))
    refused("EINVAL", 0x1000n, 0n)
    refused("EOVERFLOW", 2n, MAX)
    for (const [iova, pages] of [
      [0n, 1n],
      [0n, 2n],
      [0x2000n, 2n],
      [0x1000n, 5n],
      [0x5000n, 2n],
    ] as const) {
      refused("ENOENT", iova, pages * PAGE)
    }
  })

  it("writing to pages that were mapped read-only is EPERM; the rules of MAP hold for the place", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    ioas.map(bench.process, { ...request(0x1000n, PAGE), writeable: false })
    const second = copy(0x1000n, PAGE, 0x8000n)
    expectRefused(bench, "EPERM", () => ioas.copyFrom(ioas, bench.process, second))
    expectRefused(bench, "EEXIST", () => ioas.copyFrom(ioas, bench.process, copy(0x1000n, PAGE, 0x1000n)))
    ioas.copyFrom(ioas, bench.process, { ...second, writeable: false })
  })

  it("undoes all areas when a later one fails", () => {
    const bench = workbench()
    const [source, target] = [bench.ioas(), bench.ioas()]
    for (let n = 0n; n < 4n; n++) source.map(bench.process, request(n * PAGE, PAGE, USER_VA + 2n * n * PAGE))
    bench.process.memory.unmap(USER_VA + 6n * PAGE, PAGE)
    const domain = new RecordingDomain()
    target.addDomain(domain)
    expectRefused(bench, "EFAULT", () => target.copyFrom(source, bench.process, copy(0n, 4n * PAGE, 0n)))
    expect([domain.runs, target.areas.size]).toEqual([[], 0])
  })
})
