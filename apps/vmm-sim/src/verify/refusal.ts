/** Whether a translation was missing or did not allow the access, where the vendor's record tells. */
import type { Fault } from "@iommu/core"
import type { Vendor } from "../capture/schema.ts"

export type RefusalKind = "not-present" | "permission"

/** PR of an IO_PAGE_FAULT entry, AMD 48882 rev 3.10 §2.5.3: the page was present. */
const AMD_PR = 1n << 52n

const KINDS: { readonly [V in Vendor]: (fault: Fault) => RefusalKind | null } = {
  /**
   * VT-d 5.10 §7.1.3. The second stage has one reason for a missing entry and for one without the permission, and
   * so has SGN.6 for both stages.
   */
  vtd: ({ reason }) => (reason === "SFS.2" ? "not-present" : null),
  /** IHI 0070 G.b §7.3.13, §7.3.15, §7.3.16. */
  smmuv3: ({ reason }) => {
    if (reason === "F_TRANSLATION") return "not-present"
    return reason === "F_PERMISSION" || reason === "F_ACCESS" ? "permission" : null
  },
  amd: ({ reason, record }) => {
    const first = record?.[0]
    if (reason !== "IO_PAGE_FAULT" || first === undefined) return null
    return (first & AMD_PR) === 0n ? "not-present" : "permission"
  },
}

/** Null where the record does not tell. */
export function refusalKind(vendor: Vendor, fault: Fault): RefusalKind | null {
  return KINDS[vendor](fault)
}

/** The kind that a capture's `reason` names; null for words that name neither. */
export function refusalKindOfReason(reason: string): RefusalKind | null {
  if (/permission/.test(reason)) return "permission"
  return /^not-present$|unmapped/.test(reason) ? "not-present" : null
}
