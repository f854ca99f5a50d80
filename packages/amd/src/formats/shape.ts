/** What host (v1) and guest (v2) tables have in common. AMD 48882 revision 3.10, §2.2.3 and §2.2.6. */
import type { PageTableFormatSpec } from "@iommu/pagetable"

type SharedSpec = Pick<PageTableFormatSpec, "granuleLg2" | "maxOutputBits" | "addressMask" | "cutLeafGoes">

/** Tables of 512 entries, 4 KiB the smallest page, addresses in place. Cut leaves as Linux's generic_pt. */
export const shape: SharedSpec = {
  granuleLg2: 12,
  maxOutputBits: 52,
  addressMask: 0x000f_ffff_ffff_f000n,
  cutLeafGoes: 1,
}
