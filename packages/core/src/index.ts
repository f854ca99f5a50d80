/**
 * The contract between IOMMU drivers, hardware models and the code above them.
 * @packageDocumentation
 */
export * from "./address.ts"
export * from "./bit-layout.ts"
export * from "./errno.ts"
export * from "./hardware.ts"
export * from "./memory-account.ts"
export * from "./physical-memory.ts"
export * from "./registers.ts"
export * from "./u64.ts"
