import { amdDriver, amdModel } from "@iommu/amd"
import { defineConformance } from "@iommu/conformance"
import { createMemory, iommuDevice, type MemoryAccount, PageAllocator, translateRequest } from "@iommu/core"
import { describe, it } from "vitest"
import { guestContract, pagingContract } from "./user-data-contracts.ts"
import { viommuContract } from "./viommu-contract.ts"

const POLICIES = ["exact", "hoard", "none"] as const

for (const caches of POLICIES) {
  defineConformance(
    { describe, it },
    {
      name: `amd, caches: ${caches}`,
      userData: [pagingContract, guestContract],
      viommu: viommuContract,
      create: () => {
        const memory = createMemory([{ base: 0, size: 0x200_0000 }])
        const pages = new PageAllocator(memory, { base: 0x100_0000, size: 0x100_0000 })
        const model = amdModel({ memory, caches })
        return {
          ops: amdDriver({ memory, pages, mmio: model.mmio }, { maxDeviceId: 0xff }),
          device: (n: number, account: MemoryAccount) =>
            iommuDevice({ id: 0x10 + n, account, pasidBits: 16 }),
          pagesInUse: () => pages.pagesInUse,
          dma: (device, pasid, iova, access) => {
            const outcome = translateRequest(model, { device: device.id, pasid, iova, access })
            return outcome.ok ? outcome.pa : null
          },
          memory,
          connect: (device, ats) => model.connect(device.id, ats),
          pageRequest: request => model.pageRequest(request),
        }
      },
    },
  )
}
