import { type ConformanceMachine, defineConformance } from "@iommu/conformance"
import { iommuDevice, translateRequest } from "@iommu/core"
import { describe, it } from "vitest"
import { EVERYTHING, FIRST_STAGE_ONLY, LEGACY_ONLY, type VtdCapabilities } from "../src/index.ts"
import { capabilities, machine } from "./driver-machine.ts"
import { nestingPaging, paging, vtdS1 } from "./user-data-contracts.ts"

function create(hardware: VtdCapabilities): ConformanceMachine {
  const { driver, model, pages } = machine(hardware)
  return {
    ops: driver,
    device: (n, account) => iommuDevice({ id: 0x0300 + n * 0x85, account, pasidBits: 16, ats: n === 1 }),
    pagesInUse: () => pages.pagesInUse,
    dma: (device, pasid, iova, access) => {
      const outcome = translateRequest(model, { device: device.id, pasid, iova, access })
      return outcome.ok ? outcome.pa : null
    },
  }
}

for (const [name, hardware, userData] of [
  ["everything", EVERYTHING, [nestingPaging, vtdS1]],
  ["caching mode", capabilities({ cap: { CM: 1n } }), [nestingPaging, vtdS1]],
  ["legacy mode", LEGACY_ONLY, [paging]],
  ["first stage only", FIRST_STAGE_ONLY, [paging]],
] as const) {
  defineConformance(
    { describe, it },
    { name: `VT-d, ${name}`, create: () => create(hardware), userData: [...userData] },
  )
}
