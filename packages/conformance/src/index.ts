/**
 * The suites that hold every IOMMU driver, and every hardware model, to the same contract. They bring no test runner
 * and branch on nothing but the driver's own manifest: a feature that is absent gets the chapter of its absence.
 * @packageDocumentation
 */
import { testBench } from "./bench.ts"
import { accountingChapter } from "./chapters/accounting.ts"
import { allocChapter, noAllocChapter } from "./chapters/alloc.ts"
import { attachChapter } from "./chapters/attach.ts"
import { coherencyChapter } from "./chapters/coherency.ts"
import { dirtyChapter, noDirtyChapter } from "./chapters/dirty.ts"
import { eventsChapter, guestEventsChapter, noEventsChapter } from "./chapters/events.ts"
import { freeChapter } from "./chapters/free.ts"
import { mappingChapter, pageSizesChapter } from "./chapters/mapping.ts"
import { nestingChapter, noNestingChapter } from "./chapters/nesting.ts"
import { noPageRequestsChapter, pageRequestsChapter } from "./chapters/page-requests.ts"
import { noPasidChapter, pasidChapter } from "./chapters/pasid.ts"
import { noReservedRegionsChapter, reservedRegionsChapter } from "./chapters/reserved-regions.ts"
import { userDataChapter } from "./chapters/user-data.ts"
import { noViommuChapter, viommuChapter } from "./chapters/viommu.ts"
import type { ConformanceTarget, TestRunner } from "./target.ts"

export { defineLayouts, defineMasks, type LayoutVector, type MaskVector } from "./layouts.ts"
export { cachedEntry } from "./model/caching.ts"
export { defineCacheConformance, defineModelConformance } from "./model/define.ts"
export { defineFuzz, type FuzzContract, type FuzzOptions } from "./model/fuzz.ts"
export { defineMetamorphic, type MetamorphicOptions } from "./model/metamorphic.ts"
export { type Configuration, type Flags, mostly, type NestedFormat } from "./model/nested-format.ts"
export { store } from "./model/nested-world.ts"
export * from "./model/target.ts"
export * from "./observe.ts"
export { Random } from "./random.ts"
export * from "./target.ts"

type Chapter = (runner: TestRunner, target: ConformanceTarget) => void

/** Defines the whole suite for one driver in the given runner. */
export function defineConformance(runner: TestRunner, target: ConformanceTarget): void {
  runner.describe(`${target.name} conforms`, () => {
    for (const [name, chapter] of Object.entries(chaptersFor(target))) {
      runner.describe(name, () => chapter(runner, target))
    }
  })
}

function chaptersFor(target: ConformanceTarget): Record<string, Chapter> {
  const bench = testBench(target)
  const { ops } = bench
  if (ops.domainAllocUser === undefined) return { "no user-owned domains": noAllocChapter }
  const { nesting, dirtyTracking, pasidBits } = ops.capabilities
  const reportsPageRequests = bench.paging(bench.probed(0)).pageFaultHandler !== undefined
  return {
    alloc: allocChapter,
    "user data": userDataChapter,
    accounting: accountingChapter,
    attach: attachChapter,
    mapping: mappingChapter,
    "page sizes": pageSizesChapter,
    ...(nesting ? { nesting: nestingChapter } : { "no nesting": noNestingChapter }),
    ...(dirtyTracking ? { "dirty tracking": dirtyChapter } : { "no dirty tracking": noDirtyChapter }),
    ...(pasidBits > 0 ? { PASID: pasidChapter } : { "no PASID": noPasidChapter }),
    ...(ops.viommu ? { "virtual IOMMU": viommuChapter } : { "no virtual IOMMU": noViommuChapter }),
    ...(ops.handleInterrupts ? { events: eventsChapter } : { "no events": noEventsChapter }),
    ...(ops.viommu && ops.handleInterrupts ? { "events of a guest": guestEventsChapter } : {}),
    ...(reportsPageRequests
      ? { "page requests": pageRequestsChapter }
      : { "no page requests": noPageRequestsChapter }),
    ...(ops.reservedRegions
      ? { "reserved regions": reservedRegionsChapter }
      : { "no reserved regions": noReservedRegionsChapter }),
    coherency: coherencyChapter,
    free: freeChapter,
  }
}
