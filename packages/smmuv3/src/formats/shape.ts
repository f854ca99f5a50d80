/** What both stages of VMSAv8-64 have in common. DDI 0487 J.a §D8.2 (levels, sizes) and §D8.3 (descriptors). */
import { IOMMU_CACHE, IommuError } from "@iommu/core"
import type { PageTableFormat, PageTableFormatSpec } from "@iommu/pagetable"
import {
  CONTIGUOUS_HI,
  LPA_OA_51_48_SHIFT,
  LPA2_OA_51_50_SHIFT,
  SH_INNER_SHAREABLE,
  SH_OUTER_SHAREABLE,
  TYPE,
  TYPE_BLOCK,
  TYPE_PAGE,
  TYPE_TABLE,
  VALID,
} from "../spec/page-tables.ts"

export type Granule = 12 | 14 | 16

export interface Vmsav8Options {
  /** DS = 1: 52-bit addresses with the 4 KiB and 16 KiB granules. Without meaning for 64 KiB. */
  readonly lpa2: boolean
  /** Writable leaves have DBM, so that hardware (HTTU) can tell whether they were written to. */
  readonly dirty: boolean
}

/** Sizes of pages and blocks that Linux uses, and of runs with the contiguous bit (§D8.6.1), off by default. */
const PAGE_SIZES: Readonly<Record<Granule, { readonly plain: bigint; readonly contiguous: bigint }>> = {
  12: { plain: 0x4020_1000n, contiguous: 0x4_0201_0000n },
  14: { plain: 0x0200_4000n, contiguous: 0x4020_0000n },
  16: { plain: 0x2001_0000n, contiguous: 0x4_0020_0000n },
}

type SharedSpec = Omit<PageTableFormatSpec, "name" | "leafBits">

/**
 * Level 0 is the book's level 3. With 64 KiB, OA[51:48] always stand in bits 15:12: they are zero where the SMMU has
 * 48 bits.
 */
export function vmsav8(granuleLg2: Granule, { lpa2 }: Vmsav8Options): SharedSpec {
  const sizes = PAGE_SIZES[granuleLg2]
  const wide = lpa2 || granuleLg2 === 16
  return {
    granuleLg2,
    minLevels: 1,
    maxLevels: granuleLg2 === 16 ? 3 : granuleLg2 === 12 && lpa2 ? 5 : 4,
    maxInputBits: wide ? 52 : 48,
    maxOutputBits: wide ? 52 : 48,
    pageSizes: sizes.plain | sizes.contiguous,
    defaultPageSizes: sizes.plain,
    presentMask: VALID,
    kindMask: TYPE,
    addressMask: addressBits(granuleLg2, lpa2),
    ...movedAddress(granuleLg2, lpa2),
    pageBits: BigInt(TYPE_PAGE),
    blockBits: BigInt(TYPE_BLOCK),
    runBits: BigInt(CONTIGUOUS_HI) << 32n,
    cutLeafGoes: 0,
    tableBits: () => BigInt(TYPE_TABLE),
  }
}

/** SH of a leaf; with DS = 1 it is in the CD or STE, and its bits belong to the address. */
export function shareability(prot: number, { lpa2 }: Vmsav8Options): number {
  if (lpa2) return 0
  return (prot & IOMMU_CACHE) !== 0 ? SH_INNER_SHAREABLE : SH_OUTER_SHAREABLE
}

/** Makes each variant of a format once: tables share what belongs to their format. */
export function vmsav8Variants(
  make: (granuleLg2: Granule, options: Vmsav8Options) => PageTableFormat,
): (granuleLg2: number, options: Vmsav8Options) => PageTableFormat {
  const made = new Map<string, PageTableFormat>()
  return (granuleLg2, { lpa2, dirty }) => {
    if (!isGranule(granuleLg2)) throw new IommuError("EINVAL", "VMSAv8-64 has granules of 4, 16 and 64 KiB")
    const exact = { lpa2: lpa2 && granuleLg2 !== 16, dirty }
    const key = `${granuleLg2},${exact.lpa2},${dirty}`
    const format = made.get(key) ?? make(granuleLg2, exact)
    made.set(key, format)
    return format
  }
}

function isGranule(granuleLg2: number): granuleLg2 is Granule {
  return granuleLg2 in PAGE_SIZES
}

/** OA bits that stand in place: up to 47, or 49 with DS = 1. */
function addressBits(granuleLg2: Granule, lpa2: boolean): bigint {
  return (1n << (lpa2 ? 50n : 48n)) - (1n << BigInt(granuleLg2))
}

function movedAddress(granuleLg2: Granule, lpa2: boolean): Pick<PageTableFormatSpec, "movedAddress"> {
  if (granuleLg2 === 16) return { movedAddress: { from: 48, to: LPA_OA_51_48_SHIFT, count: 4 } }
  return lpa2 ? { movedAddress: { from: 50, to: LPA2_OA_51_50_SHIFT, count: 2 } } : {}
}
