/**
 * Intel VT-d: driver and executable hardware model.
 * @packageDocumentation
 */
export { vtdDecoder } from "./decode/decoder.ts"
export type { VtdDmaRecord, VtdInterruptRecord, VtdRecord } from "./decode/record.ts"
export type { VtdDriverOptions } from "./driver/hardware.ts"
export { type VtdOps, vtdDriver } from "./driver/ops.ts"
export { MEMORY_TYPE_MASK, SNOOPED, UC, WB, WC, WP, WT } from "./model/attributes.ts"
export { type VtdModel, vtdModel } from "./model/device.ts"
export {
  EVERYTHING,
  FIRST_STAGE_ONLY,
  LEGACY_39,
  LEGACY_ONLY,
  SECOND_STAGE_ONLY,
  type VtdCapabilities,
  type VtdModelOptions,
} from "./model/options.ts"
export * as commands from "./spec/commands.ts"
export * as deviceTable from "./spec/device-table.ts"
export * as events from "./spec/events.ts"
export * as pageTables from "./spec/page-tables.ts"
export * as pasidTable from "./spec/pasid-table.ts"
export * as registers from "./spec/registers.ts"
