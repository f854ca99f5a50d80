/**
 * Intel VT-d: driver and executable hardware model.
 * @packageDocumentation
 */
export { type VtdModel, vtdModel } from "./model/device.ts"
export {
  EVERYTHING,
  FIRST_STAGE_ONLY,
  LEGACY_ONLY,
  type VtdCapabilities,
  type VtdModelOptions,
} from "./model/options.ts"
