/** What both stages have in common. Intel VT-d Architecture Specification, revision 5.10, §3.6, §3.7, §9.7, §9.8. */
import type { PageTableFormatSpec } from "@iommu/pagetable"

type SharedSpec = Pick<
  PageTableFormatSpec,
  "granuleLg2" | "maxLevels" | "maxInputBits" | "maxOutputBits" | "pageSizes" | "addressMask" | "cutLeafGoes"
>

/** Tables of 512 entries, pages of 4 KiB, 2 MiB and 1 GiB, addresses in place. Cut leaves as Linux's generic_pt. */
export const shape: SharedSpec = {
  granuleLg2: 12,
  maxLevels: 5,
  maxInputBits: 57,
  maxOutputBits: 52,
  pageSizes: 0x4020_1000n,
  addressMask: 0x000f_ffff_ffff_f000n,
  cutLeafGoes: 1,
}
