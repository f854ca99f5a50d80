/**
 * Arm SMMUv3: driver for user-owned domains and executable hardware model.
 * @packageDocumentation
 */
export type { RegisterName } from "./spec/registers.ts"
