/** What iommufd's ABI says of each user data type of SMMUv3, as the conformance suite takes it. */
import type { RefusedUserData, UserDataContract } from "@iommu/conformance"
import {
  type ErrnoCode,
  HwptDataType,
  type HwptPaging,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PAGING_PASID,
  PageTableFormatId,
  pagingParameters,
} from "@iommu/core"

const { ARM_64_LPAE_S1, ARM_64_LPAE_S2 } = PageTableFormatId

function refusedPaging(rule: string, errno: ErrnoCode, data: Partial<HwptPaging>): RefusedUserData {
  return { rule, errno, data: pagingParameters(data), at: "alloc" }
}

export const pagingContract: UserDataContract = {
  type: HwptDataType.PAGING,
  parent: "none",
  valid: () => pagingParameters({ format: ARM_64_LPAE_S1, granuleLg2: 12, inputBits: 39, outputBits: 40 }),
  refused: () => [
    refusedPaging("unknown flag", "EOPNOTSUPP", { flags: 0x10 }),
    refusedPaging("reserved word", "EOPNOTSUPP", { __reserved: 1 }),
    refusedPaging("another vendor's format", "EOPNOTSUPP", { format: PageTableFormatId.VTD_SECOND_STAGE }),
    refusedPaging("nest parent with dirty tracking", "EOPNOTSUPP", {
      flags: PAGING_NEST_PARENT | PAGING_DIRTY_TRACKING,
    }),
    refusedPaging("nest parent with PASID", "EOPNOTSUPP", { flags: PAGING_NEST_PARENT | PAGING_PASID }),
    refusedPaging("nest parent in stage 1", "EINVAL", { flags: PAGING_NEST_PARENT, format: ARM_64_LPAE_S1 }),
    refusedPaging("granule", "EINVAL", { granuleLg2: 13 }),
    refusedPaging("levels", "EINVAL", { levels: 6 }),
    refusedPaging("levels against input bits", "EINVAL", { levels: 3, inputBits: 48 }),
    refusedPaging("input bits", "EINVAL", { inputBits: 53 }),
    refusedPaging("output bits", "EINVAL", { outputBits: 12, format: ARM_64_LPAE_S2 }),
    refusedPaging("aperture backwards", "EINVAL", { apertureStart: 0x4000n, apertureLast: 0x1fffn }),
    refusedPaging("aperture of half pages", "EINVAL", { apertureStart: 0n, apertureLast: 0x17ffn }),
  ],
  reservedBits: Array.from({ length: 32 }, (_, bit) => 96 + bit),
  reservedErrno: "EOPNOTSUPP",
  reservedAt: "alloc",
}

/** V[0], Cfg[3:1], S1Fmt[5:4], S1ContextPtr[51:6], S1CDMax[63:59]; of word 1 [7:0], S1STALLD[27], EATS[29:28]. */
const STE_BITS = [0xf80f_ffff_ffff_ffffn, 0x3800_00ffn] as const
const STAGE1 = 0xbn

function refusedSte(rule: string, word0: bigint, word1: bigint): RefusedUserData {
  return { rule, errno: "EIO", data: { type: HwptDataType.ARM_SMMUV3, ste: [word0, word1] }, at: "alloc" }
}

export const guestSteContract: UserDataContract = {
  type: HwptDataType.ARM_SMMUV3,
  parent: "nest-parent",
  valid: () => ({ type: HwptDataType.ARM_SMMUV3, ste: [0x10000n | STAGE1, 0xd6n] }),
  refused: () => [
    ...[1n, 2n, 3n, 6n, 7n].map(config => refusedSte(`Config ${config}`, 1n | (config << 1n), 0n)),
    refusedSte("EATS 2", STAGE1, 2n << 28n),
    refusedSte("EATS 3", STAGE1, 3n << 28n),
  ],
  reservedBits: Array.from({ length: 128 }, (_, bit) => bit).filter(
    bit => (((STE_BITS[bit >> 6] as bigint) >> BigInt(bit & 63)) & 1n) === 0n,
  ),
  reservedErrno: "EIO",
  reservedAt: "alloc",
}
