/**
 * Linux's iommufd over any driver of the `@iommu/core` contract.
 * @packageDocumentation
 */
export type { IoasAccess, IovaPin } from "./ioas/access.ts"
export { changeProcess } from "./ioas/change-process.ts"
export type { DirtyRequest, DirtySink } from "./ioas/dirty.ts"
export * from "./ioas/ioas.ts"
export { SoftwareMsi } from "./ioas/sw-msi.ts"
export { UserBitmap } from "./ioas/user-bitmap.ts"
export * from "./memory/dma-buf.ts"
export * from "./memory/frame-pins.ts"
export * from "./memory/mem-file.ts"
export * from "./memory/pin-accounting.ts"
export * from "./memory/user-memory.ts"
export * from "./process/file-table.ts"
export * from "./process/process.ts"
