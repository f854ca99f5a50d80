/** Stage 1 tables of VMSAv8-64. DDI 0487 J.a §D8.3; attributes as Linux's io-pgtable gives them. */
import { IOMMU_CACHE, IOMMU_MMIO, IOMMU_NOEXEC, IOMMU_PRIV, IOMMU_READ, IOMMU_WRITE } from "@iommu/core"
import { definePageTableFormat, type PageTableFormat } from "@iommu/pagetable"
import {
  AF,
  DBM_HI,
  S1_AP1,
  S1_AP2,
  S1_ATTR_INDX_SHIFT,
  S1_NG,
  S1_PXN_HI,
  S1_UXN_HI,
} from "../spec/page-tables.ts"
import { type Granule, shareability, type Vmsav8Options, vmsav8, vmsav8Variants } from "./shape.ts"

/** Bytes of CD.MAIR that drivers of this project and of Linux fill: non-cacheable, write-back, device. */
export const MAIR_INDEX_NC = 0
export const MAIR_INDEX_CACHE = 1
export const MAIR_INDEX_DEVICE = 2

const variants = vmsav8Variants((granuleLg2: Granule, options: Vmsav8Options) =>
  definePageTableFormat({
    ...vmsav8(granuleLg2, options),
    name: `VMSAv8-64 stage 1, ${2 ** (granuleLg2 - 10)}K`,
    // §D8.5: with DBM, read-only means "writable and clean".
    dirty: { mask: hi(DBM_HI) | BigInt(S1_AP2), value: hi(DBM_HI), flip: BigInt(S1_AP2) },
    leafBits: prot => hi(upper(prot, options)) | BigInt(lower(prot) | shareability(prot, options)),
  }),
)

/** The format of a granule (12, 14 or 16); one value for the same options. @throws EINVAL for another granule */
export function stage1Format(granuleLg2: number, options: Vmsav8Options): PageTableFormat {
  return variants(granuleLg2, options)
}

function lower(prot: number): number {
  const readOnly = (prot & IOMMU_WRITE) === 0 && (prot & IOMMU_READ) !== 0
  const privileged = (prot & IOMMU_PRIV) !== 0
  return AF | S1_NG | memoryType(prot) | (readOnly ? S1_AP2 : 0) | (privileged ? 0 : S1_AP1)
}

function upper(prot: number, { dirty }: Vmsav8Options): number {
  const neverExecuted = (prot & IOMMU_NOEXEC) !== 0 ? S1_PXN_HI | S1_UXN_HI : 0
  return neverExecuted | (dirty && (prot & IOMMU_WRITE) !== 0 ? DBM_HI : 0)
}

function memoryType(prot: number): number {
  const cached = (prot & IOMMU_CACHE) !== 0 ? MAIR_INDEX_CACHE : MAIR_INDEX_NC
  return ((prot & IOMMU_MMIO) !== 0 ? MAIR_INDEX_DEVICE : cached) << S1_ATTR_INDX_SHIFT
}

function hi(bits: number): bigint {
  return BigInt(bits) << 32n
}
