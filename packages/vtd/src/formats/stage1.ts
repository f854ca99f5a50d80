/** First-stage tables: the paging of x86-64. Intel VT-d Architecture Specification, revision 5.10, §3.6 and §9.7. */
import { IOMMU_WRITE } from "@iommu/core"
import { definePageTableFormat, type PageTableFormat } from "@iommu/pagetable"
import { FS_A, FS_D, FS_P, FS_PS, FS_RW, FS_US } from "../spec/page-tables.ts"
import { shape } from "./shape.ts"

/**
 * Level 0 is the book's FS-PTE, level 4 its FS-PML5E. Accessed and dirty are set in advance, as Linux does: hardware
 * without A/D updates (EAFE, and dirty in first stage, are optional) then behaves as hardware with them.
 *
 * IOVAs are the lower half of the canonical addresses: use `inputBits` 47 or 56 (§3.6).
 */
export const firstStageFormat: PageTableFormat = definePageTableFormat({
  ...shape,
  name: "x86-64 first stage",
  minLevels: 4,
  presentMask: FS_P,
  kindMask: FS_P | FS_PS,
  pageBits: BigInt(FS_P),
  blockBits: BigInt(FS_P | FS_PS),
  dirty: { mask: BigInt(FS_D), value: BigInt(FS_D), flip: BigInt(FS_D) },
  leafBits: prot => BigInt(FS_US | FS_A | ((prot & IOMMU_WRITE) !== 0 ? FS_RW | FS_D : 0)),
  tableBits: () => BigInt(FS_P | FS_RW | FS_US | FS_A),
})
