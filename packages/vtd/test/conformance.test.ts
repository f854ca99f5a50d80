import { type ConformanceMachine, defineConformance } from "@iommu/conformance"
import { type CachePolicy, iommuDevice, translateRequest } from "@iommu/core"
import { describe, it } from "vitest"
import {
  EVERYTHING,
  FIRST_STAGE_ONLY,
  LEGACY_39,
  LEGACY_ONLY,
  SECOND_STAGE_ONLY,
  type VtdCapabilities,
} from "../src/index.ts"
import { capabilities, machine } from "./driver-machine.ts"
import { nestingPaging, paging, vtdS1 } from "./user-data-contracts.ts"

/** CAP.CM. */
const CACHING_MODE = 1n << 7n

function create(hardware: VtdCapabilities, caches: CachePolicy): ConformanceMachine {
  const { driver, memory, model, pages } = machine(hardware, {}, caches)
  return {
    ops: driver,
    device: (n, account) => iommuDevice({ id: 0x0300 + n * 0x85, account, pasidBits: 16, ats: n === 1 }),
    pagesInUse: () => pages.pagesInUse,
    dma: (device, pasid, iova, access) => {
      const outcome = translateRequest(model, { device: device.id, pasid, iova, access })
      return outcome.ok ? outcome.pa : null
    },
    memory,
    connect: (device, ats) => model.connect(device.id, ats),
    pageRequest: request => model.pageRequest(request),
  }
}

for (const [name, hardware, userData] of [
  ["everything", EVERYTHING, [nestingPaging, vtdS1]],
  ["caching mode", capabilities({ cap: { CM: 1n } }), [nestingPaging, vtdS1]],
  ["legacy mode", LEGACY_ONLY, [paging]],
  ["legacy and caching mode", { ...LEGACY_ONLY, cap: LEGACY_ONLY.cap | CACHING_MODE }, [paging]],
  ["legacy mode, 3 levels", LEGACY_39, [paging]],
  ["first stage only", FIRST_STAGE_ONLY, [paging]],
  ["second stage only", SECOND_STAGE_ONLY, [paging]],
] as const) {
  for (const caches of ["exact", "hoard", "none"] as const) {
    defineConformance(
      { describe, it },
      {
        name: `VT-d, ${name}, caches ${caches}`,
        create: () => create(hardware, caches),
        userData: [...userData],
      },
    )
  }
}
