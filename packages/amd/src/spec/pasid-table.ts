/**
 * GCR3 tables: from PASID to the root of a guest page table. AMD 48882 rev 3.10, §2.2.6.
 *
 * A table is one 4 KiB page of 512 entries. DTE.GLX + 1 is the number of levels; each takes nine bits of the
 * PASID, so level 0 holds the guest CR3 of PASID bits 8:0 and level 2 has entries only for PASID bits 19:18.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

export const GCR3_ENTRY_BYTES = 8
export const GCR3_ENTRIES_LG2 = 9
export const GCR3_INDEX_MASK = 0x1ff
export const PASID_BITS = 20

/** Low dword. */
export const V: number = 1 << 0
export const ADDRESS_LO = 0xffff_f000
export const RESERVED_LO = 0x0000_0ffe
/** High dword. */
export const ADDRESS_HI = 0x000f_ffff
export const RESERVED_HI = 0xfff0_0000

export const fieldsGCR3 = {
  V: [0, 0, "valid"],
  Address: [51, 12, "level 0: guest CR3, a guest physical address; above: the next GCR3 table"],
} as const
export const GCR3: BitLayout<typeof fieldsGCR3> = bitLayout("GCR3 entry", "AMD 48882 §2.2.6", 64, fieldsGCR3)

/** Bits of a PASID that a GCR3 table with this GLX can index. */
export function gcr3PasidBits(glx: number): number {
  return Math.min(GCR3_ENTRIES_LG2 * (glx + 1), PASID_BITS)
}
