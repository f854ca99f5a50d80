/** What a unit says of itself in its feature registers. AMD 48882 rev 3.10, §3.4, MMIO Offsets 0030h and 01A0h. */
import type { IommuPlatform } from "@iommu/core"
import { gcr3PasidBits } from "../spec/pasid-table.ts"
import * as reg from "../spec/registers.ts"

const { REGISTERS } = reg

/** The feature registers, read once. */
export interface Features {
  readonly efr: bigint
  readonly efr2: bigint
  /** PPRSup and EPHSup: only with the second can page requests of one device be allowed, and others refused. */
  readonly pageRequests: boolean
  readonly MsiCapMmioSup: boolean
  readonly GTSup: boolean
  readonly GIoSup: boolean
  readonly IASup: boolean
  readonly HDSup: boolean
  readonly GCR3TRPModeSup: boolean
  /** Levels of host (v1) tables, 4 to 6; 0 for hardware without them. */
  readonly hostLevels: number
  /** Levels of guest (v2) tables, 4 or 5; 0 for hardware without guest translation. */
  readonly guestLevels: number
  /** The largest GLX. */
  readonly GLXSup: number
  /** Width of a PASID in bits, 0 without guest translation. */
  readonly pasidBits: number
}

/** §3.4, Extended Feature registers. */
export function readFeatures({ mmio }: IommuPlatform): Features {
  const efr = mmio.read64(REGISTERS.EXT_FEATURES[0])
  const efr2 = mmio.read64(REGISTERS.EXT_FEATURES2[0])
  const has = (field: keyof typeof reg.fieldsEXT_FEATURES): boolean =>
    reg.EXT_FEATURES.get([efr], field) === 1n
  const value = (field: keyof typeof reg.fieldsEXT_FEATURES): number =>
    Number(reg.EXT_FEATURES.get([efr], field))
  const HATS = value("HATS")
  const GTSup = has("GTSup")
  const GLXSup = Math.min(value("GLXSup"), 2)
  return {
    efr,
    efr2,
    pageRequests: has("PPRSup") && has("EPHSup"),
    MsiCapMmioSup: has("MsiCapMmioSup"),
    GTSup,
    GIoSup: has("GIoSup"),
    IASup: has("IASup"),
    HDSup: has("HDSup"),
    GCR3TRPModeSup: reg.EXT_FEATURES2.get([efr2], "GCR3TRPModeSup") === 1n,
    hostLevels: HATS === 3 ? 0 : 4 + HATS,
    // DTE.GuestPagingMode knows four and five levels.
    guestLevels: GTSup ? Math.min(4 + value("GATS"), 5) : 0,
    GLXSup,
    pasidBits: GTSup ? Math.min(value("PASmax") + 1, gcr3PasidBits(GLXSup)) : 0,
  }
}
