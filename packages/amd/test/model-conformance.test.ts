import { defineModelConformance } from "@iommu/conformance"
import { describe, it } from "vitest"
import { modelTarget } from "./model-target.ts"

defineModelConformance({ describe, it }, modelTarget)
