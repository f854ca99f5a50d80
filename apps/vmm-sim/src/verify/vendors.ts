/** The parts of each vendor that checking a capture needs. */
import { amdDriver, amdModel } from "@iommu/amd"
import {
  type IommuModel,
  type IommuOps,
  type IommuPlatform,
  PageTableFormatId,
  type PhysicalMemory,
} from "@iommu/core"
import { smmuv3Driver, smmuv3Model } from "@iommu/smmuv3"
import { vtdDriver, vtdModel } from "@iommu/vtd"
import type { Vendor } from "../capture/schema.ts"

export interface VendorParts {
  /** Caches nothing: every row is checked against the tables, and traces show whole walks. */
  model(memory: PhysicalMemory): IommuModel
  driver(platform: IommuPlatform): IommuOps
  /** Registers that say what the hardware can do, by name. */
  readonly capabilities: RegExp
  /** The format of tables that the dump walks as stage 1 or stage 2. */
  readonly formats: { readonly 1: number; readonly 2: number }
}

export const VENDOR_PARTS: { readonly [V in Vendor]: VendorParts } = {
  vtd: {
    model: memory => vtdModel({ memory, caches: "none" }),
    driver: platform => vtdDriver(platform),
    capabilities: /^(VER|CAP|ECAP)$/,
    formats: { 1: PageTableFormatId.X86_64_FIRST_STAGE, 2: PageTableFormatId.VTD_SECOND_STAGE },
  },
  smmuv3: {
    model: memory => smmuv3Model({ memory, caches: "none" }),
    driver: platform => smmuv3Driver(platform),
    capabilities: /^(IDR\d|IIDR|AIDR)$/,
    formats: { 1: PageTableFormatId.ARM_64_LPAE_S1, 2: PageTableFormatId.ARM_64_LPAE_S2 },
  },
  amd: {
    model: memory => amdModel({ memory, caches: "none" }),
    driver: platform => amdDriver(platform),
    capabilities: /^EXT_FEATURES\d?$/,
    formats: { 1: PageTableFormatId.AMD_V2, 2: PageTableFormatId.AMD_V1 },
  },
}
