/** The comparison itself: it agrees where it must, and finds what is planted. */
import type { IommuModel, PhysicalMemory } from "@iommu/core"
import { describe, expect, test } from "vitest"
import { COMMANDS, type JobReport, runJob } from "../src/diff/job.ts"
import { runJobs } from "../src/diff/lanes.ts"
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

describe.skipIf(jobs.length === 0)("jobs side by side", () => {
  const withoutTime = ({ seconds: _, ...report }: JobReport): object => report

  test("report in their order what they report alone", async () => {
    const chosen = jobs.slice(0, 3)
    let cases = 0
    const reports = await runJobs(chosen, () => cases++)
    const alone: object[] = []
    for (const job of chosen) {
      alone.push(withoutTime(await withVendor(job.vendor, vendor => runJob(vendor, job, () => {}))))
    }
    expect(reports.map(withoutTime)).toEqual(alone)
    expect(cases).toBe(chosen.reduce((sum, job) => sum + job.cases, 0))
  })

  test("end when one of them cannot run", async () => {
    const [job] = jobs
    const broken = { ...job, recipe: { ...job.recipe, args: ["-machine", "no-such-machine"] } }
    await expect(runJobs([broken, job], () => {})).rejects.toThrow("unsupported machine type")
  })
})
