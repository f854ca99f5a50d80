import type { NestedVendor } from "./vendor.ts"
import { amd } from "./vendors/amd.ts"
import { smmuv3 } from "./vendors/smmuv3.ts"
import { vtd } from "./vendors/vtd.ts"

/** The machines that can be run, by the name that the command line takes. */
export const NESTED_VENDORS: Readonly<Record<string, NestedVendor>> = { vtd, smmuv3, amd }
