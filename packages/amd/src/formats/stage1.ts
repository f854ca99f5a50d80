/** v2 tables, the guest's: the paging of AMD64 long mode. AMD 48882 revision 3.10, §2.2.6. */
import { IOMMU_WRITE } from "@iommu/core"
import { definePageTableFormat, type PageTableFormat } from "@iommu/pagetable"
import { V2_A, V2_D, V2_P, V2_PS, V2_RW, V2_US } from "../spec/page-tables.ts"
import { shape } from "./shape.ts"

/** Level 0 is the book's PTE, level 4 its PML5E. Accessed and dirty are set in advance, as Linux does. */
export const AMD_V2: PageTableFormat = definePageTableFormat({
  ...shape,
  name: "AMD v2",
  minLevels: 4,
  maxLevels: 5,
  maxInputBits: 57,
  pageSizes: 0x4020_1000n,
  presentMask: V2_P,
  kindMask: V2_P | V2_PS,
  pageBits: BigInt(V2_P),
  blockBits: BigInt(V2_P | V2_PS),
  dirty: { mask: BigInt(V2_D), value: BigInt(V2_D), flip: BigInt(V2_D) },
  leafBits: prot => BigInt(V2_US | V2_A | ((prot & IOMMU_WRITE) !== 0 ? V2_RW | V2_D : 0)),
  tableBits: () => BigInt(V2_P | V2_RW | V2_US | V2_A),
})
