import { defineCacheConformance, defineModelConformance } from "@iommu/conformance"
import { describe, it } from "vitest"
import { cachingE2h } from "./model-caching.ts"
import { modelTarget } from "./model-target.ts"

defineModelConformance({ describe, it }, modelTarget)
defineCacheConformance(
  { describe, it },
  { ...modelTarget, name: "the SMMUv3 model with CR2.E2H", caching: cachingE2h },
)
