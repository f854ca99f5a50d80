/** What the ABI says of the driver's user data types: `iommufd.h`, and Linux's behaviour where the header is silent. */
import type { UserDataContract } from "@iommu/conformance"
import {
  HwptDataType,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PageTableFormatId,
  pagingParameters,
} from "@iommu/core"

const bits = (first: number, last: number): number[] =>
  Array.from({ length: last - first + 1 }, (_, i) => first + i)

/** `struct iommu_hwpt_paging`. Unknown flags and the reserved word are answered alike. */
export const paging: UserDataContract = {
  type: HwptDataType.PAGING,
  parent: "none",
  valid: () => pagingParameters({}),
  refused: () => [
    refusedPaging("a format that none has", { format: 77 }, "EOPNOTSUPP"),
    refusedPaging("a format of AMD", { format: PageTableFormatId.AMD_V2 }, "EOPNOTSUPP"),
    refusedPaging("a format of Arm", { format: PageTableFormatId.ARM_64_LPAE_S2 }, "EOPNOTSUPP"),
    refusedPaging("a granule of 64 KiB", { granuleLg2: 16 }, "EOPNOTSUPP"),
    refusedPaging("a granule of 8 KiB", { granuleLg2: 13 }, "EINVAL"),
    refusedPaging("7 levels", { levels: 7 }, "EINVAL"),
    refusedPaging("60 input bits", { inputBits: 60 }, "EINVAL"),
    refusedPaging("60 output bits", { outputBits: 60 }, "EINVAL"),
    refusedPaging(
      "an aperture from its end to its start",
      { apertureStart: 0x2000n, apertureLast: 0xfffn },
      "EINVAL",
    ),
  ],
  reservedBits: [...bits(4, 31), 2, ...bits(96, 127)],
  reservedErrno: "EOPNOTSUPP",
  reservedAt: "alloc",
}

/** Rules that need hardware with both stages. */
export const nestingPaging: UserDataContract = {
  ...paging,
  refused: machine => [
    ...paging.refused(machine),
    refusedPaging(
      "a first-stage nest parent",
      { format: PageTableFormatId.X86_64_FIRST_STAGE, flags: PAGING_NEST_PARENT },
      "EINVAL",
    ),
    refusedPaging(
      "dirty tracking in first stage",
      { format: PageTableFormatId.X86_64_FIRST_STAGE, flags: PAGING_DIRTY_TRACKING },
      "EINVAL",
    ),
  ],
}

/** `struct iommu_hwpt_vtd_s1`: Linux takes any content, and looks at it when a device is attached. */
export const vtdS1: UserDataContract = {
  type: HwptDataType.VTD_S1,
  parent: "nest-parent",
  valid: () => s1({}),
  refused: () => [
    { rule: "an address width of 39 bits", data: s1({ addrWidth: 39 }), errno: "EINVAL", at: "attach" },
    { rule: "an address width of 0", data: s1({ addrWidth: 0 }), errno: "EINVAL", at: "attach" },
  ],
  reservedBits: [...bits(3, 63), ...bits(160, 191)],
  reservedErrno: "EINVAL",
  reservedAt: "attach",
}

function s1(change: { addrWidth?: number }) {
  return { type: HwptDataType.VTD_S1, flags: 0n, pgtblAddr: 0x1000n, addrWidth: 48, __reserved: 0, ...change }
}

function refusedPaging(
  rule: string,
  given: Parameters<typeof pagingParameters>[0],
  errno: "EINVAL" | "EOPNOTSUPP",
): ReturnType<UserDataContract["refused"]>[number] {
  return { rule, data: pagingParameters(given), errno, at: "alloc" }
}
