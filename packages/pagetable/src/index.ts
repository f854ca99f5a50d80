/**
 * One builder of radix page tables for every IOMMU format.
 * @packageDocumentation
 */
export * from "./format.ts"
export { type Gather, NOTHING_GATHERED } from "./gather.ts"
export * from "./page-table.ts"
