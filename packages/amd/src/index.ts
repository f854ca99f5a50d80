/**
 * AMD-Vi: the hardware as an executable model.
 * @packageDocumentation
 */
import type { IommuModel } from "@iommu/core"
import { AmdModel } from "./model/device.ts"
import type { AmdModelOptions } from "./model/options.ts"

/** An AMD-Vi as a machine sees it after reset. */
export function amdModel(options: AmdModelOptions): IommuModel {
  return new AmdModel(options)
}

export { type AmdModelOptions, EVERYTHING, EVERYTHING_2, QEMU_11 } from "./model/options.ts"
