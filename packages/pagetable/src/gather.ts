/**
 * What unmapping left to do: the IOVA ranges whose cached translations must go, and the emptied tables that must
 * not be reused before they have. Linux's `struct iommu_iotlb_gather`, kept per table.
 */
export interface Gather {
  /** Number of disjoint ranges waiting; 0 when nothing is. */
  readonly count: number
  /** First 4 KiB page of range n, and the last, as doubles (page number = IOVA / 4096). */
  firstPage(n: number): number
  lastPage(n: number): number
  /** log2 of the smallest leaf that was in range n: the stride for hardware that invalidates by leaf. */
  leafSizeLg2(n: number): number
  /** True when range n lost tables, not only leaves: paging-structure caches must go too. */
  lostTables(n: number): boolean
}
