/** IOAS_MAP_FILE, dma-bufs and IOAS_CHANGE_PROCESS. */
import {
  changeProcess,
  DmaBuf,
  type Ioas,
  MemFile,
  type Process,
  type User,
  type UserFile,
} from "@iommu/iommufd"
import { describe, expect, it } from "vitest"
import { RecordingDomain } from "./recording-domain.ts"
import { expectRefused, PAGE, RAM, request, type Workbench, workbench } from "./workbench.ts"

const MAX = (1n << 64n) - 1n
const BAR = 0xe000_0000n

function memFile(): MemFile {
  return new MemFile([
    { address: RAM.base + 0x10_0000n, length: 2n * PAGE },
    { address: RAM.base + 0x20_0000n, length: 2n * PAGE },
  ])
}

function mapFile(
  ioas: Ioas,
  process: Process,
  file: UserFile,
  start: bigint,
  length: bigint,
  iova: bigint | null = null,
): bigint {
  return ioas.mapFile(process, { file, start, length, iova, readable: true, writeable: true })
}

describe("2.8 IOAS_MAP_FILE", () => {
  it("pins pages of a memfd, from any byte on, and counts them", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const domain = new RecordingDomain({ smallestPage: 2048n })
    ioas.addDomain(domain)
    const iova = mapFile(ioas, bench.process, memFile(), 0x800n, 2n * PAGE)
    expect(iova % PAGE).toBe(0x800n)
    expect(domain.runs.map(({ pa, size, prot }) => [pa, size, prot])).toEqual([
      [RAM.base + 0x10_0800n, 0x1800n, 7],
      [RAM.base + 0x20_0000n, 0x800n, 7],
    ])
    expect(bench.counts()).toMatchObject({ pins: 3, pinned: 3, userLocked: 3 })
    ioas.unmapAll()
    expect(bench.counts()).toMatchObject({ pins: 0, userLocked: 0 })
  })

  it("length 0 is EINVAL, an end beyond the last position EOVERFLOW", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    expectRefused(bench, "EINVAL", () => mapFile(ioas, bench.process, memFile(), 0n, 0n))
    expectRefused(bench, "EOVERFLOW", () => mapFile(ioas, bench.process, memFile(), 2n, MAX))
  })

  it("beyond the file, sealed for a writer, or another kind of file: EINVAL, found when pages are pinned", () => {
    const sealed = new MemFile([{ address: RAM.base, length: PAGE }], "sealed")
    const other: UserFile = { kind: "iommufd" }
    for (const [file, length] of [
      [memFile(), 5n * PAGE],
      [sealed, PAGE],
      [other, PAGE],
    ] as const) {
      const bench = workbench()
      const [lazy, eager] = [bench.ioas(), bench.ioas()]
      mapFile(lazy, bench.process, file, 0n, length)
      expectRefused(bench, "EINVAL", () => lazy.addDomain(new RecordingDomain()))
      eager.addDomain(new RecordingDomain())
      expectRefused(bench, "EINVAL", () => mapFile(eager, bench.process, file, 0n, length))
    }
  })
})

describe("2.8 a dma-buf", () => {
  const extents = [{ address: BAR, length: 0x1_0000n }]

  it("is mapped as device memory, in one run, and never counted", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const domain = new RecordingDomain()
    ioas.addDomain(domain)
    mapFile(ioas, bench.process, new DmaBuf(extents), 0x1000n, 2n * PAGE, 0x5000n)
    expect(domain.runs).toEqual([{ iova: 0x5000n, pa: BAR + 0x1000n, size: 2n * PAGE, prot: 1 | 2 | 16 }])
    expect(bench.counts()).toMatchObject({ pins: 0, pinned: 0, userLocked: 0 })
  })

  it("is refused at once beyond its end: EINVAL, of another exporter or in pieces: EOPNOTSUPP, revoked: ENODEV", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const revoked = new DmaBuf(extents)
    revoked.revoke()
    const refused = (code: string, file: DmaBuf, start: bigint, length: bigint): void =>
      expectRefused(bench, code, () => mapFile(ioas, bench.process, file, start, length))
    refused("EINVAL", new DmaBuf(extents), 0xf000n, 2n * PAGE)
    refused("EOPNOTSUPP", new DmaBuf(extents, "other"), 0n, PAGE)
    refused("EOPNOTSUPP", new DmaBuf([...extents, { address: 0n, length: PAGE }]), 0n, PAGE)
    refused("ENODEV", revoked, 0n, PAGE)
    revoked.restore()
    mapFile(ioas, bench.process, revoked, 0n, PAGE)
  })

  it("leaves all domains when it is revoked, and does not come back to a mapping of before", () => {
    const bench = workbench()
    const [ioas, copies] = [bench.ioas(), bench.ioas()]
    const domains = [new RecordingDomain(), new RecordingDomain(), new RecordingDomain()] as const
    ioas.addDomain(domains[0])
    copies.addDomain(domains[1])
    const file = new DmaBuf(extents)
    mapFile(ioas, bench.process, file, 0n, 4n * PAGE, 0x8000n)
    const part = { sourceIova: 0x9000n, length: PAGE, iova: 0n, readable: true, writeable: true }
    copies.copyFrom(ioas, bench.process, part)
    file.revoke()
    expect([domains[0].runs, domains[1].runs]).toEqual([[], []])
    ioas.addDomain(domains[2])
    file.restore()
    ioas.addDomain(new RecordingDomain())
    expect([domains[0].runs, domains[2].runs]).toEqual([[], []])
    expect([ioas.unmapAll(), copies.unmapAll()]).toEqual([4n * PAGE, PAGE])
    mapFile(ioas, bench.process, file, 0n, PAGE, 0x8000n)
    expect(domains[0].runs).toHaveLength(1)
  })

  it("cannot be accessed by software: EINVAL, nor cut: EOPNOTSUPP", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    mapFile(ioas, bench.process, new DmaBuf(extents), 0n, 4n * PAGE, 0n)
    expectRefused(bench, "EINVAL", () => ioas.pin(0n, PAGE, "read"))
    expectRefused(bench, "EINVAL", () => ioas.pinContiguous(0n, PAGE))
    expectRefused(bench, "EINVAL", () => ioas.read(0n, 4))
    expectRefused(bench, "EINVAL", () => ioas.write(0n, Uint8Array.of(1)))
    expectRefused(bench, "EOPNOTSUPP", () => ioas.cutAfter(PAGE - 1n))
  })
})

describe("2.20 IOAS_CHANGE_PROCESS", () => {
  function mapped(bench: Workbench): { ioas: Ioas; copies: Ioas } {
    const [ioas, copies] = [bench.ioas(), bench.ioas()]
    ioas.addDomain(new RecordingDomain())
    copies.addDomain(new RecordingDomain())
    mapFile(ioas, bench.process, memFile(), 0n, 4n * PAGE, 0n)
    mapFile(ioas, bench.process, new DmaBuf([{ address: BAR, length: PAGE }]), 0n, PAGE, 0x8000n)
    const part = { sourceIova: 0n, length: 4n * PAGE, iova: 0n, readable: true, writeable: true }
    copies.copyFrom(ioas, bench.process, part)
    return { ioas, copies }
  }

  it("moves pinned and locked pages of all address spaces to the caller, shared pages once", () => {
    for (const mode of ["user", "mm"] as const) {
      const bench = workbench()
      bench.policy.mode = mode
      const { ioas, copies } = mapped(bench)
      const user: User = { name: "other", lockedPages: 0 }
      const next = bench.another({ user })
      changeProcess([ioas, copies], next)
      expect(bench.counts()).toMatchObject({ pins: 4, pinned: 0, locked: 0, userLocked: 0 })
      expect([next.pinnedPages, next.lockedPages, user.lockedPages]).toEqual(
        mode === "mm" ? [4, 4, 0] : [4, 0, 4],
      )
      ioas.unmapAll()
      copies.unmapAll()
      expect([next.pinnedPages, next.lockedPages, user.lockedPages]).toEqual([0, 0, 0])
    }
  })

  it("is EINVAL when any area shows memory of the old process", () => {
    const bench = workbench()
    const { ioas, copies } = mapped(bench)
    copies.map(bench.process, request(0x10_0000n, PAGE))
    expectRefused(bench, "EINVAL", () => changeProcess([ioas, copies], bench.another()))
  })

  it("changes nothing when the new process has too small a limit: ENOMEM; the same user's pages do not count twice", () => {
    const bench = workbench()
    const { ioas, copies } = mapped(bench)
    const user: User = { name: "other", lockedPages: 1 }
    expectRefused(bench, "ENOMEM", () =>
      changeProcess([ioas, copies], bench.another({ user, memlockBytes: 4 * 4096 })),
    )
    const heir = bench.another({ memlockBytes: 4 * 4096 })
    changeProcess([ioas, copies], heir)
    expect([bench.user.lockedPages, heir.pinnedPages, bench.process.pinnedPages]).toEqual([4, 4, 0])
    changeProcess([ioas, copies], bench.another({ user, memlockBytes: 5 * 4096 }))
    expect([bench.user.lockedPages, user.lockedPages]).toEqual([0, 5])
  })

  it("is no matter of limits for pages that were pinned with CAP_IPC_LOCK", () => {
    const bench = workbench({ capabilities: ["CAP_IPC_LOCK"] })
    const { ioas, copies } = mapped(bench)
    const next = bench.another({ memlockBytes: 0 })
    changeProcess([ioas, copies], next)
    expect([bench.process.pinnedPages, next.pinnedPages, next.user.lockedPages]).toEqual([0, 4, 0])
  })
})
