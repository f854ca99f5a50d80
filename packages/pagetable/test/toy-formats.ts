/** Formats of no vendor, one for each thing that a format can say. */
import { IOMMU_READ, IOMMU_WRITE } from "@iommu/core"
import { definePageTableFormat, type PageTableFormat, type PageTableFormatSpec } from "../src/index.ts"

const PRESENT = 1
const LARGE = 0x80
const WRITE = 2
const DIRTY = 0x40n

const plainSpec: PageTableFormatSpec = {
  name: "toy",
  granuleLg2: 12,
  minLevels: 2,
  maxLevels: 5,
  maxInputBits: 57,
  maxOutputBits: 52,
  pageSizes: 0x4020_1000n,
  presentMask: PRESENT,
  kindMask: PRESENT | LARGE,
  addressMask: 0x000f_ffff_ffff_f000n,
  pageBits: 1n,
  blockBits: 0x81n,
  dirty: { mask: DIRTY, value: DIRTY, flip: DIRTY },
  cutLeafGoes: 1,
  leafBits: prot => ((prot & IOMMU_READ) === 0 ? null : (prot & IOMMU_WRITE) !== 0 ? BigInt(WRITE) : 0n),
  tableBits: () => 1n,
}

/** Single-entry leaves at three levels; no write-only pages. */
export const plain: PageTableFormat = definePageTableFormat(plainSpec)

/** Runs of entries with an address each; cut leaves stay; four tables side by side at the root. */
export const contiguous: PageTableFormat = definePageTableFormat({
  ...plainSpec,
  name: "toy with runs",
  rootTablesLg2: 2,
  pageSizes: 0x4_4221_1000n,
  defaultPageSizes: 0x4020_1000n,
  runBits: 1n << 52n,
  cutLeafGoes: 0,
})

/** Every power of two as a size, told by the address; a root that grows; the level in each table entry. */
export const growing: PageTableFormat = definePageTableFormat({
  ...plainSpec,
  name: "toy that grows",
  minLevels: 1,
  maxLevels: 6,
  maxInputBits: 64,
  grows: 1,
  pageSizes: 0x000f_ffff_ffff_f000n,
  kindMask: 0xe01,
  blockBits: 1n,
  runBits: 0xe00n,
  runSizeInAddress: 1,
  tableBits: level => BigInt(1 | (level << 9)),
})

/** A larger granule, and address bits that stand elsewhere. */
export const moved: PageTableFormat = definePageTableFormat({
  ...plainSpec,
  name: "toy with moved bits",
  granuleLg2: 14,
  maxLevels: 4,
  maxInputBits: 52,
  pageSizes: 0x200_4000n,
  addressMask: 0x3_ffff_ffff_c000n,
  movedAddress: { from: 50, to: 8, count: 2 },
  dirty: { mask: (1n << 51n) | DIRTY, value: 1n << 51n, flip: DIRTY },
  leafBits: prot => ((prot & IOMMU_READ) === 0 ? null : (1n << 51n) | DIRTY),
})

/** Its numbers, for tests of what {@link definePageTableFormat} refuses. */
export const spec: PageTableFormatSpec = plainSpec
