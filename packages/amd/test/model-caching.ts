import type { CachingContract } from "@iommu/conformance"

/** What an AMD IOMMU may cache and what drops it: none while the model has no caches. */
export const caching: CachingContract | null = null
