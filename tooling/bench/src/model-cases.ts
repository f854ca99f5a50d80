/**
 * Transactions through the hardware models, configuration structures included: walked in full with nothing cached,
 * and answered from the IOTLB, and between.
 */
import type { CachePolicies } from "@iommu/core"
import type { BenchCase } from "./bench-case.ts"
import {
  BENCH_VENDORS,
  MAPPED_PAGES,
  type Machine,
  NO_IOTLB,
  nested,
  passedThrough,
  singleStage,
} from "./machines.ts"
import { checkAllowed, transactions } from "./transactions.ts"
import { walkYardstick } from "./yardsticks.ts"

const HOT_PAGES = 256
/** More than caches hold, in turn: each look-up misses its page in all of them, and replaces what they have. */
const MANY_PAGES = MAPPED_PAGES
/** Operations of one measured call, at least. */
const CALLS = 1024
/** Also tables, and the pages of stage 2 that they and the data lie in. */
const WALK_CACHES: CachePolicies = { structures: "exact", walks: "exact", translations: "none" }

export function modelBenchCases(): BenchCase[] {
  return BENCH_VENDORS.flatMap(vendor => {
    const { name } = vendor.nested
    return [
      walkCase(name, "model, nothing cached", singleStage(vendor, "none"), HOT_PAGES, null),
      walkCase(name, "model, passed through", passedThrough(vendor, NO_IOTLB), HOT_PAGES, null),
      walkCase(name, "model, no IOTLB", singleStage(vendor, NO_IOTLB), HOT_PAGES, 4.6),
      walkCase(name, "model, IOTLB hit", singleStage(vendor, "exact"), HOT_PAGES, 2.7),
      walkCase(name, "model, nested, no IOTLB", nested(vendor, NO_IOTLB), HOT_PAGES, 16),
      walkCase(name, "model, nested, walk caches", nested(vendor, WALK_CACHES), HOT_PAGES, 6.5),
      walkCase(name, "model, nested, all replaced", nested(vendor, "exact"), MANY_PAGES, null),
      walkCase(name, "model, nested, IOTLB hit", nested(vendor, "exact"), HOT_PAGES, 2.7),
    ]
  })
}

function walkCase(
  subject: string,
  operation: string,
  machine: Machine,
  pages: number,
  limit: number | null,
): BenchCase {
  const calls = Math.max(pages, CALLS)
  checkAllowed(machine, pages)
  return {
    operation,
    subject,
    operations: calls,
    yardstick: walkYardstick(
      HOT_PAGES,
      Int32Array.from({ length: calls }, (_, n) => n % HOT_PAGES),
    ),
    limit,
    run: transactions(machine, pages, calls),
  }
}
