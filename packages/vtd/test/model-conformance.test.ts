import { type CachingContract, defineCacheConformance, defineModelConformance } from "@iommu/conformance"
import { type CachePolicy, createMemory } from "@iommu/core"
import { describe, it } from "vitest"
import { EVERYTHING, vtdModel } from "../src/index.ts"
import { cachingMode } from "./model-caching.ts"
import { cachingModeLegacy } from "./model-caching-legacy.ts"
import { modelTarget } from "./model-target.ts"

/** CAP.CM, §11.4.2. */
const CM = 1n << 7n

const inCachingMode = (name: string, caching: CachingContract) => ({
  name,
  create: (caches: CachePolicy) => {
    const memory = createMemory([{ base: 0n, size: 0x4_0000 }])
    const capabilities = { ...EVERYTHING, cap: EVERYTHING.cap | CM }
    return { memory, model: vtdModel({ memory, caches, capabilities }) }
  },
  caching,
})

defineModelConformance({ describe, it }, modelTarget)
defineCacheConformance({ describe, it }, inCachingMode("the VT-d model in caching mode", cachingMode))
defineCacheConformance(
  { describe, it },
  inCachingMode("the VT-d model in legacy and caching mode", cachingModeLegacy),
)
