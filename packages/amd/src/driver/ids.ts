import { IdPool } from "@iommu/core"

/** DomainIDs of the driver's own domains. */
export const BLOCKED_ID = 1
export const IDENTITY_ID = 2
/** DomainIDs have 16 bits (AMD 48882 rev 3.10, §2.2.2.1). */
export const LAST_ID = 0xffff

/** 0 is left alone, as systems with SNP must. */
export function domainIds(): IdPool {
  return new IdPool("DomainID", IDENTITY_ID + 1, LAST_ID)
}
