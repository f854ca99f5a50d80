/** Which cases run where: on each QEMU each vendor's cases are shared out to what its IOMMU can be set up to do. */
import { describeBinary, type QemuBinary } from "../binary/qemu-binary.ts"
import { recipesOf, TARGET_OF, type Vendor } from "../machine/recipe.ts"
import { COMMANDS, type JobSettings, STALE } from "./job.ts"
import { withVendor } from "./vendors.ts"

export interface PlannedJob extends JobSettings {
  readonly vendor: Vendor
}

export interface Plan {
  readonly jobs: readonly PlannedJob[]
  /** What cannot be compared here, one line each. */
  readonly skipped: readonly string[]
}

/** A case of commands takes many times as long as another: there are fewer of them by this factor. */
const FEWER_COMMANDS = 4

/**
 * @param cases for each vendor on each QEMU
 * @param profile the only one that is asked for, null for all
 */
export function planJobs(
  binaries: readonly QemuBinary[],
  vendors: readonly Vendor[],
  cases: number,
  seed: number,
  profile: string | null = null,
): Plan {
  const jobs: PlannedJob[] = []
  const skipped: string[] = []
  for (const vendor of vendors) {
    const own = binaries.filter(({ target }) => target === TARGET_OF[vendor])
    if (own.length === 0) skipped.push(`${vendor}: no QEMU for ${TARGET_OF[vendor]} here`)
    for (const binary of own) {
      const { recipes, missing } = recipesOf(binary, vendor)
      skipped.push(...missing.map(line => `${vendor}: ${line}`))
      const profiles = withVendor(vendor, ({ profiles: own }) => [...own, STALE, COMMANDS]).filter(
        name => profile === null || profile === name,
      )
      const setups = recipes.flatMap(recipe => profiles.map(profile => ({ recipe, profile })))
      if (setups.length === 0) skipped.push(`${vendor}: nothing to compare with ${describeBinary(binary)}`)
      const shares = sharesOf(
        cases,
        setups.map(({ profile }) => (profile === COMMANDS ? 1 : FEWER_COMMANDS)),
      )
      for (const [index, setup] of setups.entries()) {
        const share = shares[index]
        if (share > 0) jobs.push({ vendor, binary, ...setup, cases: share, seed: seed + index })
      }
    }
  }
  return { jobs, skipped }
}

/** Whole numbers that sum up to the cases, in proportion to their weights; the first ones take what is left. */
function sharesOf(cases: number, weights: readonly number[]): number[] {
  const total = weights.reduce((sum, weight) => sum + weight, 0)
  const shares = weights.map(weight => Math.floor((cases * weight) / total))
  const rest = cases - shares.reduce((sum, share) => sum + share, 0)
  return shares.map((share, index) => (index < rest ? share + 1 : share))
}
