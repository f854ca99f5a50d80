/**
 * Linux's iommufd over any driver of the `@iommu/core` contract.
 * @packageDocumentation
 */
export * from "./process/process.ts"
