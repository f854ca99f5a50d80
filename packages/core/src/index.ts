/**
 * The contract between IOMMU drivers, hardware models and the code above them.
 * @packageDocumentation
 */
export * from "./address.ts"
export * from "./bit-layout.ts"
export * from "./cache-store.ts"
export * from "./device.ts"
export * from "./dirty.ts"
export * from "./domain.ts"
export * from "./errno.ts"
export * from "./hardware.ts"
export * from "./memory-account.ts"
export * from "./ops.ts"
export * from "./page-allocator.ts"
export * from "./physical-memory.ts"
export * from "./platform.ts"
export * from "./registers.ts"
export * from "./u64.ts"
export * from "./uapi/hw-info.ts"
export * from "./uapi/hwpt.ts"
export * from "./uapi/struct-layout.ts"
export * from "./user-data.ts"
export * from "./user-data-bytes.ts"
