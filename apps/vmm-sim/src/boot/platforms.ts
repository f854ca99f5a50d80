import type { BootPlatform } from "./platform.ts"
import { amd } from "./platforms/amd.ts"
import { smmuv3 } from "./platforms/smmuv3.ts"
import { vtd } from "./platforms/vtd.ts"

/** By the name on the command line. */
export const PLATFORMS: Readonly<Record<string, BootPlatform>> = { vtd, smmuv3, amd }
