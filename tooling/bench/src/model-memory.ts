/** What transactions allocate, and what a cached translation costs. */
import type { CachePolicies } from "@iommu/core"
import { BENCH_VENDORS, MAPPED_PAGES, type Machine, nested, singleStage } from "./machines.ts"
import { allocatedBy, bytesAlive, type QuantityCase } from "./quantity.ts"
import { checkAllowed, transactions } from "./transactions.ts"

const HOT_PAGES = 256
const CALLS = 4096
/** One long loop would be compiled while it runs, which nobody's calls are. */
const WARM_UP_RUNS = 64
/** Few: a heap that grows much is collected in between. */
const RUNS = 8
const WALKS: CachePolicies = { structures: "exact", walks: "none", translations: "none" }
const WALK_CACHES: CachePolicies = { structures: "exact", walks: "exact", translations: "none" }

export function modelMemoryQuantities(): QuantityCase[] {
  return BENCH_VENDORS.flatMap(vendor => {
    const subject = vendor.nested.name
    const allocated = (what: string, make: () => Machine, pages: number): QuantityCase => ({
      what: `allocated, ${what}`,
      subject,
      unit: "bytes a transaction",
      limit: 0.5,
      measure: () => allocatedPerTransaction(make(), pages),
    })
    const cached = (what: string, make: () => Machine): QuantityCase => ({
      what: `hoarded translation, ${what}`,
      subject,
      unit: "bytes an entry",
      limit: null,
      measure: () => bytesPerEntry(make()),
    })
    return [
      allocated("single-stage walk", () => singleStage(vendor, WALKS), HOT_PAGES),
      allocated("IOTLB hit", () => singleStage(vendor, "exact"), HOT_PAGES),
      allocated("nested walk", () => nested(vendor, WALKS), HOT_PAGES),
      allocated("nested, walk caches", () => nested(vendor, WALK_CACHES), HOT_PAGES),
      allocated("nested, all replaced", () => nested(vendor, "exact"), MAPPED_PAGES),
      cached("single stage", () => singleStage(vendor, "hoard")),
      cached("nested", () => nested(vendor, "hoard")),
    ]
  })
}

function allocatedPerTransaction(machine: Machine, pages: number): number {
  checkAllowed(machine, pages)
  const some = transactions(machine, pages, CALLS)
  const repeat = (runs: number): void => {
    for (let n = 0; n < runs; n++) some()
  }
  repeat(WARM_UP_RUNS)
  return allocatedBy(() => repeat(RUNS)) / (RUNS * CALLS)
}

/** Growth of everything alive, for each page that a cache without an end came to know. */
function bytesPerEntry(machine: Machine): number {
  const before = bytesAlive()
  checkAllowed(machine, MAPPED_PAGES)
  const after = bytesAlive()
  return (after.heap + after.buffers - before.heap - before.buffers) / MAPPED_PAGES
}
