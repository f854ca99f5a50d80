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

/**
 * @param cases for each vendor on each QEMU
 * @param profile the only one that is asked for; null for all but those that are {@link CommandsDiff.onRequest}
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
      const profiles = withVendor(vendor, ({ profiles: own, commands }) => [
        ...own,
        STALE,
        ...(commands.onRequest && profile !== COMMANDS ? [] : [COMMANDS]),
      ])
      const setups = recipes.flatMap(recipe => profiles.map(profile => ({ recipe, profile })))
      if (setups.length === 0) skipped.push(`${vendor}: nothing to compare with ${describeBinary(binary)}`)
      for (const [index, setup] of setups.entries()) {
        // The first ones take what does not divide.
        const share = Math.floor(cases / setups.length) + (index < cases % setups.length ? 1 : 0)
        if (share > 0) jobs.push({ vendor, binary, ...setup, cases: share, seed: seed + index })
      }
    }
  }
  return { jobs, skipped }
}
