/** v1 tables, the host's. AMD 48882 revision 3.10, §2.2.3, tables 14 to 17. */
import { IOMMU_READ, IOMMU_WRITE } from "@iommu/core"
import { definePageTableFormat, type PageTableFormat } from "@iommu/pagetable"
import {
  V1_D,
  V1_FC_HI,
  V1_IR_HI,
  V1_IW_HI,
  V1_NEXT_LEVEL,
  V1_NEXT_LEVEL_SHIFT,
  V1_NEXT_LEVEL_SIZED,
  V1_PR,
} from "../spec/page-tables.ts"
import { shape } from "./shape.ts"

/**
 * Level n is the book's level n + 1, the mode of a table of n + 1 levels. Tables begin with as many levels as the
 * driver likes (Linux: 3) and grow to 6, 64 bits.
 *
 * Every power of two is a page size, up to 2^51 and but for 512 GiB, which has an erratum (Linux leaves it out, too).
 * All leaves force coherence, as Linux's do; tables leave permissions to the leaves.
 */
export const AMD_V1: PageTableFormat = definePageTableFormat({
  ...shape,
  name: "AMD v1",
  minLevels: 1,
  maxLevels: 6,
  maxInputBits: 64,
  grows: 1,
  pageSizes: 0x000f_ff7f_ffff_f000n,
  presentMask: V1_PR,
  kindMask: V1_PR | V1_NEXT_LEVEL,
  pageBits: BigInt(V1_PR),
  blockBits: BigInt(V1_PR),
  runBits: BigInt(V1_NEXT_LEVEL_SIZED << V1_NEXT_LEVEL_SHIFT),
  runSizeInAddress: 1,
  dirty: { mask: BigInt(V1_D), value: BigInt(V1_D), flip: BigInt(V1_D) },
  leafBits: prot => BigInt(V1_FC_HI | permissions(prot)) << 32n,
  tableBits: level => (BigInt(V1_IR_HI | V1_IW_HI) << 32n) | BigInt(V1_PR | (level << V1_NEXT_LEVEL_SHIFT)),
})

function permissions(prot: number): number {
  return ((prot & IOMMU_READ) !== 0 ? V1_IR_HI : 0) | ((prot & IOMMU_WRITE) !== 0 ? V1_IW_HI : 0)
}
