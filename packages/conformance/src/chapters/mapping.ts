import {
  ERRNO,
  type ErrnoCode,
  hi32,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  isIommuError,
  lo32,
  type PagingDomain,
} from "@iommu/core"
import { assertAnyErrno, assertEqual, assertErrno, assertTrue } from "../assert.ts"
import { iovaFor, pageSizes, smallestPage, testBench } from "../bench.ts"
import { Random } from "../random.ts"
import type { ConformanceTarget, TestRunner } from "../target.ts"
import { expectDma } from "./attach.ts"

const RW = IOMMU_READ | IOMMU_WRITE
/** Smallest pages of the window in which random maps and unmaps play. */
const WINDOW_PAGES = 96
const STEPS = 400

export function mappingChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("agrees with a brute-force model over random maps, unmaps and look-ups", () => {
    for (const seed of [1, 2, 3]) playRandomly(target, seed)
  })

  it("maps nothing when any page of the range is mapped already: EEXIST", () => {
    const { domain, page, iova } = setUp(target)
    domain.map(iova + page * 3n, 0n, page, RW)
    assertErrno("EEXIST", "overlap", () => domain.map(iova, page * 16n, page * 8n, RW))
    for (let i = 0n; i < 8n; i++) {
      assertEqual(domain.iovaToPhys(iova + page * i), i === 3n ? 0n : null, `page ${i} after the refusal`)
    }
  })

  it("refuses misaligned, empty and permissionless mappings: EINVAL", () => {
    const { domain, page, iova } = setUp(target)
    assertErrno("EINVAL", "misaligned IOVA", () => domain.map(iova + 1n, 0n, page, RW))
    assertErrno("EINVAL", "misaligned address", () => domain.map(iova, page / 2n, page, RW))
    assertErrno("EINVAL", "misaligned size", () => domain.map(iova, 0n, page + 1n, RW))
    assertErrno("EINVAL", "empty", () => domain.map(iova, 0n, 0n, RW))
    assertErrno("EINVAL", "neither readable nor writable", () => domain.map(iova, 0n, page, 0))
    assertEqual(domain.iovaToPhys(iova), null, "nothing was mapped")
  })

  it("refuses IOVAs outside the aperture and addresses beyond the output width: ERANGE", () => {
    const { domain, page } = setUp(target)
    const { last } = domain.aperture
    const lastPage = last - page + 1n
    assertErrno("ERANGE", "over the end", () => domain.map(lastPage, 0n, page * 2n, RW))
    if (last < 0xffff_ffff_ffff_ffffn)
      assertErrno("ERANGE", "past the end", () => domain.map(last + 1n, 0n, page, RW))
    assertErrno("ERANGE", "2^60", () => domain.map(domain.aperture.start + page, 1n << 60n, page, RW))
    domain.map(lastPage, 0n, page, RW)
    assertEqual(domain.iovaToPhys(last), page - 1n, "the last byte of the aperture")
  })

  it("unmaps across holes and counts only what was mapped", () => {
    const { domain, page, iova } = setUp(target)
    domain.map(iova, 0n, page, RW)
    domain.map(iova + page * 5n, page, page * 2n, RW)
    assertEqual(domain.unmap(iova, page * 16n), page * 3n, "bytes unmapped")
    assertEqual(domain.unmap(iova, page * 16n), 0n, "bytes unmapped the second time")
  })

  it("refuses misaligned and empty unmaps: EINVAL", () => {
    const { domain, page, iova } = setUp(target)
    domain.map(iova, 0n, page, RW)
    assertErrno("EINVAL", "misaligned IOVA", () => domain.unmap(iova + 1n, page))
    assertErrno("EINVAL", "misaligned size", () => domain.unmap(iova, page - 1n))
    assertErrno("EINVAL", "empty", () => domain.unmap(iova, 0n))
    assertEqual(domain.iovaToPhys(iova), 0n, "still mapped")
  })

  it("looks up any byte, and nothing outside the aperture", () => {
    const { domain, page, iova } = setUp(target)
    domain.map(iova, page * 4n, page * 2n, RW)
    assertEqual(domain.iovaToPhys(iova + 5n), page * 4n + 5n, "a byte of the first page")
    assertEqual(domain.iovaToPhys(iova + page * 2n - 1n), page * 6n - 1n, "the last byte")
    assertEqual(domain.iovaToPhys(iova + page * 2n), null, "the byte after")
    assertEqual(domain.iovaToPhys(0xffff_ffff_ffff_ffffn), null, "the last IOVA of all")
  })

  it("does the same through the number API", () => {
    const { domain, page, iova } = setUp(target)
    const units = Number(page / 4096n)
    const at = (address: bigint): [number, number] => [hi32(address), lo32(address)]
    if (units < 1) return
    assertEqual(domain.mapPages(...at(iova), ...at(page * 9n), units * 3, RW), 0, "mapPages")
    assertEqual(domain.mapPages(...at(iova), ...at(0n), units, RW), ERRNO.EEXIST, "mapPages again")
    assertEqual(domain.mapPages(...at(iova), ...at(0n), 0, RW), ERRNO.EINVAL, "mapPages of nothing")
    assertEqual(domain.iovaToPhysHalves(...at(iova + page)), 0, "iovaToPhysHalves")
    assertEqual(domain.physHi * 2 ** 32 + domain.physLo, Number(page * 10n), "its result")
    assertEqual(domain.iovaToPhysHalves(...at(iova + page * 3n)), ERRNO.ENOENT, "iovaToPhysHalves of nothing")
    assertEqual(domain.unmapPages(...at(iova), units * 3), units * 3, "unmapPages")
    domain.iotlbSync()
    assertEqual(domain.iovaToPhys(iova), null, "after unmapPages")
  })

  it("leaves no translation behind after unmapFast and iotlbSync", () => {
    const { bench, device, domain, page, iova } = setUp(target)
    domain.attachDev(device)
    domain.map(iova, page, page * 4n, RW)
    expectDma(bench, device, iova, page)
    domain.unmapFast(iova, page)
    domain.unmapFast(iova + page * 2n, page)
    domain.iotlbSync()
    expectDma(bench, device, iova, null)
    expectDma(bench, device, iova + page, page * 2n)
    expectDma(bench, device, iova + page * 2n, null)
    domain.flushIotlbAll()
    expectDma(bench, device, iova + page, page * 2n)
  })
}

/** The driver's large pages: how each is mapped, looked up, and cut into. */
export function pageSizesChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("maps, looks up and unmaps a page of each size", () => {
    const { bench, device, domain } = setUp(target)
    domain.attachDev(device)
    for (const size of pageSizes(domain).filter(usable)) {
      const iova = iovaFor(domain, size * 2n, size * 4n)
      domain.map(iova, size, size, RW)
      assertEqual(domain.iovaToPhys(iova + size - 1n), size * 2n - 1n, `last byte of 0x${size.toString(16)}`)
      expectDma(bench, device, iova + size - 4n, size * 2n - 4n)
      assertEqual(domain.unmap(iova, size), size, `unmapping 0x${size.toString(16)}`)
      expectDma(bench, device, iova, null)
    }
  })

  it("costs no more tables for a large page than for a small one", () => {
    const { bench, domain } = setUp(target)
    const sizes = pageSizes(domain).filter(usable)
    const small = domain.pageSizes & -domain.pageSizes
    const large = sizes.at(-1) as bigint
    const before = bench.account.usagePages
    domain.map(iovaFor(domain, large * 2n, large * 4n), 0n, large, RW)
    const forLarge = bench.account.usagePages - before
    const twin = setUp(target)
    const beforeTwin = twin.bench.account.usagePages
    twin.domain.map(iovaFor(domain, large * 2n, large * 4n), 0n, small, RW)
    assertTrue(forLarge <= twin.bench.account.usagePages - beforeTwin, "tables for a large page")
  })

  it("mixes sizes in one range when the alignment changes on the way", () => {
    const { domain, page } = setUp(target)
    const large = pageSizes(domain).filter(usable)[1] ?? page
    const iova = iovaFor(domain, large * 4n, large * 8n) - page
    const total = large * 2n + page * 2n
    domain.map(iova, large - page, total, RW)
    for (let offset = 0n; offset < total; offset += page) {
      assertEqual(domain.iovaToPhys(iova + offset), large - page + offset, `offset 0x${offset.toString(16)}`)
    }
    assertEqual(domain.unmap(iova, total), total, "bytes unmapped")
  })

  it("cut into, a large page goes whole or stays whole, as the returned size says", () => {
    const { bench, device, domain, page } = setUp(target)
    const large = pageSizes(domain).filter(usable).at(-1) as bigint
    if (large === page) return
    domain.attachDev(device)
    const iova = iovaFor(domain, large * 2n, large * 4n)
    domain.map(iova, 0n, large, RW)
    let removed = 0n
    try {
      removed = domain.unmap(iova + page, page)
    } catch (error) {
      assertTrue(isIommuError(error) && error.code === "EINVAL", "only EINVAL may refuse a cut")
    }
    assertTrue(removed === 0n || removed === large, `a cut removed 0x${removed.toString(16)}`)
    const rest = removed === 0n ? 0n : null
    assertEqual(domain.iovaToPhys(iova), rest, "the first byte")
    expectDma(bench, device, iova, rest)
    expectDma(bench, device, iova + page, removed === 0n ? page : null)
  })
}

/** Page sizes for which a test stays small: up to 1 GiB. */
function usable(size: bigint): boolean {
  return size <= 1n << 30n
}

function setUp(target: ConformanceTarget): {
  bench: ReturnType<typeof testBench>
  device: IommuDevice
  domain: PagingDomain
  page: bigint
  iova: bigint
} {
  const bench = testBench(target)
  const device = bench.probed(0)
  const domain = bench.paging(device)
  const page = smallestPage(domain)
  return { bench, device, domain, page, iova: iovaFor(domain, page * 64n, page * 64n) }
}

/** The model is a Map from page number to address; ranges never cut into a larger leaf. */
function playRandomly(target: ConformanceTarget, seed: number): void {
  const { bench, device, domain, page, iova } = setUp(target)
  const random = new Random(seed)
  const model = new Map<number, bigint>()
  const runs = new Map<number, number>()
  domain.attachDev(device)
  for (let step = 0; step < STEPS; step++) {
    const first = random.below(WINDOW_PAGES)
    const count = 1 + random.below(Math.min(12, WINDOW_PAGES - first))
    if (random.flip()) tryMap(first, count, BigInt(random.below(1 << 20)))
    else unmapRun(random)
    const probe = random.below(WINDOW_PAGES)
    const expected = model.get(probe) ?? null
    assertEqual(domain.iovaToPhys(iova + page * BigInt(probe)), expected, `seed ${seed} step ${step}`)
    expectDma(bench, device, iova + page * BigInt(probe), expected)
  }

  function tryMap(first: number, count: number, frame: bigint): void {
    const at = iova + page * BigInt(first)
    const pages = Array.from({ length: count }, (_, i) => first + i)
    if (pages.some(p => model.has(p))) {
      const allowed: ErrnoCode[] = ["EEXIST"]
      assertAnyErrno(allowed, `seed ${seed}`, () => domain.map(at, frame * page, page * BigInt(count), RW))
      return
    }
    domain.map(at, frame * page, page * BigInt(count), RW)
    pages.forEach((p, i) => {
      model.set(p, (frame + BigInt(i)) * page)
    })
    runs.set(first, count)
  }

  function unmapRun(from: Random): void {
    const starts = [...runs.keys()]
    if (starts.length === 0) return
    const first = from.pick(starts)
    const count = runs.get(first) as number
    const removed = domain.unmap(iova + page * BigInt(first), page * BigInt(count))
    assertEqual(removed, page * BigInt(count), `seed ${seed}: bytes unmapped`)
    for (let p = first; p < first + count; p++) model.delete(p)
    runs.delete(first)
  }
}
