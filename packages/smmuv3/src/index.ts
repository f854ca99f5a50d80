/**
 * Arm SMMUv3: driver for user-owned domains and executable hardware model.
 * @packageDocumentation
 */
export { smmuv3Model } from "./model/device.ts"
export {
  EVERYTHING as SMMUV3_EVERYTHING,
  type IdRegisters as SmmuV3IdRegisters,
  QEMU_NESTED as SMMUV3_QEMU_NESTED,
  QEMU_STAGE2 as SMMUV3_QEMU_STAGE2,
  type SmmuV3ModelOptions,
} from "./model/options.ts"
export type { RegisterName as SmmuV3RegisterName } from "./spec/registers.ts"
