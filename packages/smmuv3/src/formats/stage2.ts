/** Stage 2 tables of VMSAv8-64. DDI 0487 J.a §D8.3; attributes as Linux's io-pgtable gives them. */
import { IOMMU_CACHE, IOMMU_MMIO, IOMMU_NOEXEC, IOMMU_READ, IOMMU_WRITE } from "@iommu/core"
import { definePageTableFormat, type PageTableFormat } from "@iommu/pagetable"
import {
  AF,
  DBM_HI,
  S2_AP_READ,
  S2_AP_WRITE,
  S2_MEM_ATTR_DEVICE_NGNRE,
  S2_MEM_ATTR_NORMAL_NC,
  S2_MEM_ATTR_NORMAL_WB,
  S2_XN_HI,
} from "../spec/page-tables.ts"
import { type Granule, shareability, type Vmsav8Options, vmsav8, vmsav8Variants } from "./shape.ts"

const variants = vmsav8Variants((granuleLg2: Granule, options: Vmsav8Options) =>
  definePageTableFormat({
    ...vmsav8(granuleLg2, options),
    name: `VMSAv8-64 stage 2, ${2 ** (granuleLg2 - 10)}K`,
    rootTablesLg2: 4,
    // §D8.5: with DBM, S2AP[1] is set by the first write.
    dirty: {
      mask: hi(DBM_HI) | BigInt(S2_AP_WRITE),
      value: hi(DBM_HI) | BigInt(S2_AP_WRITE),
      flip: BigInt(S2_AP_WRITE),
    },
    leafBits: prot => hi(upper(prot, options)) | BigInt(lower(prot) | shareability(prot, options)),
  }),
)

/**
 * The format of a granule (12, 14 or 16); one value for the same options. Up to 16 tables stand side by side as the
 * root (§D8.2.2): `levels` may be one fewer than a single root would need.
 * @throws EINVAL for another granule
 */
export function stage2Format(granuleLg2: number, options: Vmsav8Options): PageTableFormat {
  return variants(granuleLg2, options)
}

function lower(prot: number): number {
  const reads = (prot & IOMMU_READ) !== 0 ? S2_AP_READ : 0
  const writes = (prot & IOMMU_WRITE) !== 0 ? S2_AP_WRITE : 0
  return AF | memoryType(prot) | reads | writes
}

function upper(prot: number, { dirty }: Vmsav8Options): number {
  return ((prot & IOMMU_NOEXEC) !== 0 ? S2_XN_HI : 0) | (dirty && (prot & IOMMU_WRITE) !== 0 ? DBM_HI : 0)
}

function memoryType(prot: number): number {
  if ((prot & IOMMU_MMIO) !== 0) return S2_MEM_ATTR_DEVICE_NGNRE
  return (prot & IOMMU_CACHE) !== 0 ? S2_MEM_ATTR_NORMAL_WB : S2_MEM_ATTR_NORMAL_NC
}

function hi(bits: number): bigint {
  return BigInt(bits) << 32n
}
