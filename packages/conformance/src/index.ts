/**
 * The suites that hold every IOMMU driver, and every hardware model, to the same contract. They bring no test runner
 * and branch on nothing but the driver's own manifest: a feature that is absent gets the chapter of its absence.
 * @packageDocumentation
 */
import { accountingChapter } from "./chapters/accounting.ts"
import { allocChapter, noAllocChapter } from "./chapters/alloc.ts"
import { attachChapter } from "./chapters/attach.ts"
import { dirtyChapter, noDirtyChapter } from "./chapters/dirty.ts"
import { freeChapter } from "./chapters/free.ts"
import { mappingChapter, pageSizesChapter } from "./chapters/mapping.ts"
import { nestingChapter, noNestingChapter } from "./chapters/nesting.ts"
import { noPasidChapter, pasidChapter } from "./chapters/pasid.ts"
import { userDataChapter } from "./chapters/user-data.ts"
import type { ConformanceTarget, TestRunner } from "./target.ts"

export { defineCacheConformance, defineModelConformance } from "./model/define.ts"
export { defineFuzz, type FuzzContract, type FuzzOptions } from "./model/fuzz.ts"
export { defineMetamorphic, type MetamorphicOptions } from "./model/metamorphic.ts"
export { type Configuration, type Flags, mostly, type NestedFormat } from "./model/nested-format.ts"
export { store } from "./model/nested-world.ts"
export * from "./model/target.ts"
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
  const { ops } = target.create()
  if (ops.domainAllocUser === undefined) return { "no user-owned domains": noAllocChapter }
  const { nesting, dirtyTracking, pasidBits } = ops.capabilities
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
    free: freeChapter,
  }
}
