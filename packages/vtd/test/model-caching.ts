import type { CachingContract } from "@iommu/conformance"

/** What a VT-d unit may cache and what drops it: none while the model has no caches. */
export const caching: CachingContract | null = null
