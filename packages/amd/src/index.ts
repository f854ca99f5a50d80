/**
 * AMD-Vi: driver and executable hardware model.
 * @packageDocumentation
 */
import { AmdModel } from "./model/device.ts"
import type { AmdModelOptions } from "./model/options.ts"

/** An AMD-Vi as a machine sees it after reset. */
export function amdModel(options: AmdModelOptions): AmdModel {
  return new AmdModel(options)
}

export { amdDecoder } from "./decode/decoder.ts"
export type {
  AmdCommandRecord,
  AmdErrorType,
  AmdHardwareErrorRecord,
  AmdIllegalEntryRecord,
  AmdInvalidPageRequestRecord,
  AmdInvalidRequestRecord,
  AmdOtherRecord,
  AmdPageFaultRecord,
  AmdRecord,
} from "./decode/record.ts"
export { type AmdDriverOptions, type AmdOps, amdDriver } from "./driver/ops.ts"
export type { AmdAttributes } from "./model/attributes.ts"
export type { AmdModel } from "./model/device.ts"
export {
  type AmdModelOptions,
  EVERYTHING,
  EVERYTHING_2,
  fromLinuxLog,
  QEMU_11,
  ZEN,
  ZEN_2,
  ZEN_4_SERVER,
} from "./model/options.ts"
export * as commands from "./spec/commands.ts"
export * as deviceTable from "./spec/device-table.ts"
export * as events from "./spec/events.ts"
export * as pageTables from "./spec/page-tables.ts"
export * as pasidTable from "./spec/pasid-table.ts"
export * as registers from "./spec/registers.ts"
