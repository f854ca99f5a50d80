/** The comparison itself: it agrees where it must, and finds what is planted. */
import type { IommuModel, PhysicalMemory } from "@iommu/core"
import { describe, expect, test } from "vitest"
import { COMMANDS, runJob } from "../src/diff/job.ts"
import { planJobs } from "../src/diff/plan.ts"
import type { VendorDiff } from "../src/diff/vendor-diff.ts"
import { withVendor } from "../src/diff/vendors.ts"
import { describeBinary, discoverQemu, VENDORS } from "../src/index.ts"

const CASES = 20
const SEED = 11
const { jobs } = planJobs(discoverQemu().binaries, VENDORS, CASES, SEED)
if (jobs.length === 0) console.log("no QEMU here: the comparison is not tried")

describe.each(
  jobs.map(job => ({
    job,
    name: `${describeBinary(job.binary)} ${job.vendor} ${job.recipe.variant} ${job.profile}`,
  })),
)("$name", ({ job }) => {
  test("differs from the model by nothing but what the ledger explains", async () => {
    const report = await withVendor(job.vendor, vendor => runJob(vendor, job, () => {}))
    expect(report.newDifference).toBeNull()
    expect(report.cases).toBe(job.cases)
    // Of commands there are few cases here, and each has several: all of them can meet something in the ledger.
    if (job.profile !== COMMANDS) expect(report.agreements).toBeGreaterThan(0)
  })
})

/** A vendor whose model sends every access one page too far. */
function planted<Case>(vendor: VendorDiff<Case>): VendorDiff<Case> {
  return {
    ...vendor,
    model: (world, memory: PhysicalMemory): IommuModel => {
      const model = vendor.model(world, memory)
      const translate = model.translate.bind(model)
      model.translate = (device, pasid, hi, lo, access) => {
        const status = translate(device, pasid, hi, lo, access)
        if (status === 0) model.result.paLo ^= 0x1000
        return status
      }
      return model
    },
  }
}

test.skipIf(jobs.length === 0)(
  "a model that is one page off is found, and its case shrinks to one access",
  async () => {
    const job = jobs[0]
    const report = await withVendor(job.vendor, vendor => runJob(planted(vendor), job, () => {}))
    expect(report.newDifference?.differences[0]?.kind).toBe("access")
    const given: unknown = JSON.parse(report.newDifference?.given ?? "null")
    expect(given).toMatchObject({ damage: null })
    expect(report.newDifference?.given.match(/"offset"/g)).toHaveLength(1)
  },
)
