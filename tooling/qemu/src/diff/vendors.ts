/** All vendors under comparison. Their cases differ in type; a job works with one vendor at a time. */
import type { Vendor } from "../machine/recipe.ts"
import type { VendorDiff } from "./vendor-diff.ts"
import { amdDiff } from "./vendors/amd.ts"
import { smmuv3Diff } from "./vendors/smmuv3.ts"
import { vtdDiff } from "./vendors/vtd.ts"

/** Calls something with a vendor's part of the comparison, whatever its type of case. */
export function withVendor<Result>(vendor: Vendor, use: <Case>(diff: VendorDiff<Case>) => Result): Result {
  switch (vendor) {
    case "vtd":
      return use(vtdDiff)
    case "smmuv3":
      return use(smmuv3Diff)
    case "amd":
      return use(amdDiff)
  }
}
