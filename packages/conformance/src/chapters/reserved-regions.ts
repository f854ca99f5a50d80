import type { ReservedRegion } from "@iommu/core"
import { assertEqual, assertTrue } from "../assert.ts"
import { testBench } from "../bench.ts"
import type { ConformanceTarget, TestRunner } from "../target.ts"

export function reservedRegionsChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("are whole pages, each with a start at or before its last byte, no two of them overlapping", () => {
    const regions = regionsOf(target)
    for (const { start, last } of regions) {
      assertTrue(start % 4096n === 0n && (last + 1n) % 4096n === 0n && start < last, "whole pages")
    }
    const sorted = regions.toSorted((a, b) => (a.start < b.start ? -1 : 1))
    for (const [i, { start }] of sorted.entries()) {
      const before = sorted[i - 1]
      assertTrue(before === undefined || before.last < start, "regions apart")
    }
  })

  it("name where interrupt messages go: a window of the hardware's, or one for software", () => {
    const kinds = regionsOf(target).map(({ type }) => type)
    assertEqual(kinds.filter(type => type === "msi" || type === "sw-msi").length, 1, "MSI windows")
  })
}

export function noReservedRegionsChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("has no op for them", () => {
    assertEqual(testBench(target).ops.reservedRegions, undefined, "reservedRegions")
  })
}

function regionsOf(target: ConformanceTarget): readonly ReservedRegion[] {
  const bench = testBench(target)
  return bench.ops.reservedRegions?.(bench.probed(0)) ?? []
}
