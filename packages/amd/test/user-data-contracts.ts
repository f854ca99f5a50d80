/** What the ABI says of the user data that the AMD driver takes: iommufd's structs, AMD 48882 §2.2.2.1. */
import type { RefusedUserData, UserDataContract } from "@iommu/conformance"
import {
  type HwptAmdGuest,
  HwptDataType,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PAGING_PASID,
  PageTableFormatId,
  pagingParameters,
} from "@iommu/core"

const { AMD_V1, AMD_V2, VTD_SECOND_STAGE, ARM_64_LPAE_S1 } = PageTableFormatId

function bits(last: number, first: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, n) => first + n)
}

type Given = Parameters<typeof pagingParameters>[0]
function paging(rule: string, errno: RefusedUserData["errno"], given: Given): RefusedUserData {
  return { rule, errno, data: pagingParameters(given), at: "alloc" }
}

export const pagingContract: UserDataContract = {
  type: HwptDataType.PAGING,
  parent: "none",
  valid: () => pagingParameters({ format: AMD_V1, levels: 4, granuleLg2: 12, inputBits: 48, outputBits: 52 }),
  refused: () => [
    paging("a format of VT-d", "EOPNOTSUPP", { format: VTD_SECOND_STAGE }),
    paging("a format of Arm", "EOPNOTSUPP", { format: ARM_64_LPAE_S1 }),
    paging("no format at all", "EOPNOTSUPP", { format: 99 }),
    paging("PASIDs and a nest parent", "EOPNOTSUPP", { flags: PAGING_PASID | PAGING_NEST_PARENT }),
    paging("PASIDs and dirty tracking", "EOPNOTSUPP", { flags: PAGING_PASID | PAGING_DIRTY_TRACKING }),
    paging("PASIDs in v1", "EINVAL", { flags: PAGING_PASID, format: AMD_V1 }),
    paging("a nest parent in v2", "EINVAL", { flags: PAGING_NEST_PARENT, format: AMD_V2 }),
    paging("dirty tracking in v2", "EINVAL", { flags: PAGING_DIRTY_TRACKING, format: AMD_V2 }),
    paging("no such granule", "EINVAL", { granuleLg2: 13 }),
    paging("a granule of 16 KiB", "EOPNOTSUPP", { granuleLg2: 14 }),
    paging("a granule of 64 KiB", "EOPNOTSUPP", { granuleLg2: 16 }),
    paging("seven levels of v1", "EINVAL", { format: AMD_V1, levels: 7 }),
    paging("three levels of v2", "EINVAL", { format: AMD_V2, levels: 3 }),
    paging("six levels of v2", "EINVAL", { format: AMD_V2, levels: 6 }),
    paging("65 input bits", "EINVAL", { inputBits: 65 }),
    paging("12 input bits", "EINVAL", { inputBits: 12 }),
    paging("more than three levels reach", "EINVAL", { levels: 3, inputBits: 40 }),
    paging("more than v2 reaches", "EINVAL", { format: AMD_V2, inputBits: 57 }),
    paging("53 output bits", "EINVAL", { outputBits: 53 }),
    paging("12 output bits", "EINVAL", { outputBits: 12 }),
    paging("an aperture backwards", "EINVAL", { apertureStart: 0x2000n, apertureLast: 0xfffn }),
    paging("an aperture beyond the width", "EINVAL", { levels: 3, apertureLast: (1n << 40n) - 1n }),
    paging("an aperture of half a page", "EINVAL", { apertureStart: 0x1000n, apertureLast: 0x27ffn }),
  ],
  // Unknown flags, and the reserved member.
  reservedBits: [2, ...bits(31, 4), ...bits(127, 96)],
  reservedErrno: "EOPNOTSUPP",
  reservedAt: "alloc",
}

/** V, TV, GV, IR, IW and a GCR3 table at guest physical 0x1000; domain 7. */
const WORD0 = 1n | (1n << 1n) | (1n << 55n) | (1n << 58n) | (3n << 61n)

function guest(rule: string, errno: RefusedUserData["errno"], dte: HwptAmdGuest["dte"]): RefusedUserData {
  return { rule, errno, data: { type: HwptDataType.AMD_GUEST, dte }, at: "alloc" }
}

export const guestContract: UserDataContract = {
  type: HwptDataType.AMD_GUEST,
  parent: "nest-parent",
  valid: () => ({ type: HwptDataType.AMD_GUEST, dte: [WORD0, 7n, 0n, 0n] }),
  refused: () => [
    guest("V and GV without a GCR3 table", "EINVAL", [WORD0 & ~(1n << 58n), 7n, 0n, 0n]),
    guest("GuestPagingMode 2", "EINVAL", [WORD0, 7n, 2n << 54n, 0n]),
    guest("GuestPagingMode 3", "EINVAL", [WORD0, 7n, 3n << 54n, 0n]),
    guest("GLX 3", "EINVAL", [WORD0 | (3n << 56n), 7n, 0n, 0n]),
    guest("a Mode in an entry with V = 0", "EINVAL", [1n << 9n, 0n, 0n, 0n]),
  ],
  // Mode and the host page table root belong to the host.
  reservedBits: bits(51, 9),
  reservedErrno: "EINVAL",
  reservedAt: "alloc",
}
