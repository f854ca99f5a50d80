/** Address spaces against a model that is too simple to be wrong in the same way. */
import type { Ioas } from "@iommu/iommufd"
import fc from "fast-check"
import { describe, it } from "vitest"
import { type NaiveIoas, PAGE } from "./model/naive-ioas.ts"
import { NaivePlay } from "./model/naive-world.ts"
import { FIRST_FRAME, RealWorld } from "./model/real-world.ts"
import { aimed, play, UNIT } from "./model/steps.ts"

const DEVICE = 0xe000_0000

describe("address spaces", () => {
  it("do in every sequence of calls what the naive model does: results, pins, charges, and what devices reach", () => {
    fc.assert(
      fc.property(play, ({ limit, steps }) => {
        const real = new RealWorld(limit)
        const naive = new NaivePlay(limit)
        for (const planned of steps) {
          const step = aimed(planned, ({ ioas, ...of }) => areasOf(naive, "source" in of ? of.source : ioas))
          const got = real.take(step)
          const wanted = naive.take(step)
          if (got !== wanted) throw new Error(`${step.step}: ${String(got)} instead of ${String(wanted)}`)
          expectSameCounts(real, naive)
        }
        for (const [index, ioas] of real.ioases.entries()) expectSame(real, ioas, naive, index)
      }),
      { seed: 20, numRuns: 50_000 },
    )
  })
})

function areasOf({ world }: NaivePlay, ioas: number): { readonly start: number; readonly last: number }[] {
  return (world.ioases[ioas] as NaiveIoas).sorted()
}

function expectSameCounts(real: RealWorld, naive: NaivePlay): void {
  const { ioases, pins } = naive.world
  const pages = naive.world.allPages()
  const pinned = pages.reduce((sum, { frames }) => sum + frames.size, 0)
  const bytes =
    ioases.reduce((sum, ioas) => sum + bytesOf(ioas), 0) +
    pages.length * 256 +
    pins.flatMap(({ holds }) => holds).reduce((sum, { first, last }) => sum + 96 + 8 * (last - first + 1), 0)
  const wanted = [pinned, pinned, pinned, bytes]
  const got = [
    real.machine.pins.total,
    real.process.pinnedPages,
    real.user.lockedPages,
    real.account.objectBytes,
  ]
  if (got.some((count, n) => count !== wanted[n])) {
    throw new Error(`pins, pinned, locked, bytes: ${got.join(", ")} instead of ${wanted.join(", ")}`)
  }
}

/** Linux's sizes, as docs say. */
function bytesOf(ioas: NaiveIoas): number {
  const { areas, domains, pinners, reserved, allowed } = ioas
  return areas.length * 192 + (domains.length + pinners) * 8 + (reserved.length + allowed.length) * 64
}

function expectSame(real: RealWorld, ioas: Ioas, model: NaivePlay, index: number): void {
  const naive = model.world.ioases[index] as NaiveIoas
  expectEqual("areas", [...ioas.areas].map(rangeOf), naive.sorted().map(rangeOf))
  expectEqual("alignment", [Number(ioas.alignment)], [naive.alignment])
  const wanted = naive.domains.length === 0 ? [] : reached(naive)
  for (const domain of real.domainsOf(index)) {
    const got = domain.runs.flatMap(({ iova, pa, size, prot }) =>
      Array.from({ length: Number(size) / UNIT }, (_, n) => [
        Number(iova) + n * UNIT,
        Number(pa) + n * UNIT,
        prot,
      ]),
    )
    expectEqual("what a domain maps", got.sort(byIova), wanted)
  }
  const counts = Array.from({ length: 64 }, (_, n) => FIRST_FRAME + n)
  const frames = model.world.allPages().flatMap(pages => [...pages.frames.values()])
  expectEqual(
    "pins of frames",
    counts.map(frame => real.machine.pins.count(frame)),
    counts.map(frame => frames.filter(one => one === frame).length),
  )
}

/** A test runner's own comparison would take most of the time. */
function expectEqual(what: string, got: readonly unknown[], wanted: readonly unknown[]): void {
  if (got.join() !== wanted.join()) {
    throw new Error(`${what}: ${JSON.stringify(got)} instead of ${JSON.stringify(wanted)}`)
  }
}

function rangeOf({
  start,
  last,
}: {
  readonly start: number | bigint
  readonly last: number | bigint
}): string {
  return `${start}-${last}`
}

/** What each domain of an address space maps: IOVA, address and protection by half pages. */
function reached(ioas: NaiveIoas): number[][] {
  return ioas
    .sorted()
    .filter(({ pages }) => !pages.isRevoked)
    .flatMap(({ start, last, pages, byte, readable, writeable }) =>
      Array.from({ length: (last - start + 1) / UNIT }, (_, n) => {
        const at = byte + n * UNIT
        const isDevice = pages.source === "device"
        const frame = isDevice
          ? (DEVICE + pages.base) / PAGE + Math.floor(at / PAGE)
          : pages.frames.get(Math.floor(at / PAGE))
        const prot = (readable ? 1 : 0) | (writeable ? 2 : 0) | (isDevice ? 16 : 4)
        return [start + n * UNIT, (frame as number) * PAGE + (at % PAGE), prot]
      }),
    )
}

function byIova(a: number[], b: number[]): number {
  return (a[0] as number) - (b[0] as number)
}
