import { defineConformance } from "@iommu/conformance"
import { createMemory, iommuDevice, type MemoryAccount, PageAllocator, translateRequest } from "@iommu/core"
import { smmuv3Driver, smmuv3Model } from "@iommu/smmuv3"
import { describe, it } from "vitest"
import { guestSteContract, pagingContract } from "./user-data-contracts.ts"
import { viommuContract } from "./viommu-contract.ts"

for (const caches of ["exact", "hoard", "none"] as const) {
  defineConformance(
    { describe, it },
    {
      name: `smmuv3, caches: ${caches}`,
      userData: [pagingContract, guestSteContract],
      viommu: viommuContract,
      create: () => {
        const memory = createMemory([{ base: 0, size: 0x200_0000 }])
        const pages = new PageAllocator(memory, { base: 0x100_0000, size: 0x100_0000 })
        const model = smmuv3Model({ memory, caches })
        return {
          ops: smmuv3Driver({ memory, pages, mmio: model.mmio }),
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
