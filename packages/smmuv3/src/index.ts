/**
 * Arm SMMUv3: driver for user-owned domains and executable hardware model.
 * @packageDocumentation
 */
export { smmuv3Decoder } from "./decode/decoder.ts"
export type {
  SmmuV3ConfigurationRecord,
  SmmuV3FaultClass,
  SmmuV3FetchRecord,
  SmmuV3OtherRecord,
  SmmuV3Record,
  SmmuV3RefusalRecord,
  SmmuV3TranslationRecord,
  SmmuV3WalkAbortRecord,
} from "./decode/record.ts"
export type { SmmuV3DriverOptions } from "./driver/hardware.ts"
export { type SmmuV3Ops, smmuv3Driver } from "./driver/ops.ts"
export { smmuv3Model } from "./model/device.ts"
export {
  EVERYTHING as SMMUV3_EVERYTHING,
  type IdRegisters as SmmuV3IdRegisters,
  QEMU_NESTED as SMMUV3_QEMU_NESTED,
  QEMU_STAGE2 as SMMUV3_QEMU_STAGE2,
  type SmmuV3ModelOptions,
} from "./model/options.ts"
export * as commands from "./spec/commands.ts"
export * as deviceTable from "./spec/device-table.ts"
export * as events from "./spec/events.ts"
export * as pageTables from "./spec/page-tables.ts"
export * as pasidTable from "./spec/pasid-table.ts"
export type { RegisterName as SmmuV3RegisterName } from "./spec/registers.ts"
export * as registers from "./spec/registers.ts"
