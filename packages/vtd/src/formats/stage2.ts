/** Second-stage tables. Intel VT-d Architecture Specification, revision 5.10, §3.7 and §9.8. */
import { IOMMU_READ, IOMMU_WRITE } from "@iommu/core"
import { definePageTableFormat, type PageTableFormat, type PageTableFormatSpec } from "@iommu/pagetable"
import { SS_D, SS_PS, SS_R, SS_SNP, SS_W } from "../spec/page-tables.ts"
import { shape } from "./shape.ts"

/** Level 0 is the book's SS-PTE, level 4 its SS-PML5E. There is no present bit: an entry that allows nothing is none. */
const secondStage: PageTableFormatSpec = {
  ...shape,
  name: "VT-d second stage",
  minLevels: 3,
  presentMask: SS_R | SS_W,
  kindMask: SS_R | SS_W | SS_PS,
  pageBits: 0n,
  blockBits: BigInt(SS_PS),
  dirty: { mask: BigInt(SS_D), value: BigInt(SS_D), flip: BigInt(SS_D) },
  leafBits: prot => BigInt(permissions(prot)),
  tableBits: () => BigInt(SS_R | SS_W),
}

export const secondStageFormat: PageTableFormat = definePageTableFormat(secondStage)

/** Leaves that make accesses snoop caches whatever the device asks for (SNP, where ECAP.SC allows it). */
export const snoopedSecondStageFormat: PageTableFormat = definePageTableFormat({
  ...secondStage,
  name: "VT-d second stage, snooped",
  leafBits: prot => BigInt(permissions(prot) | SS_SNP),
})

function permissions(prot: number): number {
  return ((prot & IOMMU_READ) !== 0 ? SS_R : 0) | ((prot & IOMMU_WRITE) !== 0 ? SS_W : 0)
}
