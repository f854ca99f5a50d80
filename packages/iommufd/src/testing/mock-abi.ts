/**
 * Structs and numbers of the mock IOMMU of Linux's selftests (`iommufd_test.h`), which no hardware has, and their
 * places in core's unions: how any third-party driver brings its own.
 */
import {
  type DriverAbi,
  type HwInfo,
  type InvalidateLayout,
  type StructLayout,
  type StructValue,
  structLayout,
  type UserDataLayout,
} from "@iommu/core"

/** `IOMMU_HWPT_DATA_SELFTEST`. */
export const HWPT_DATA_SELFTEST = 0xdead
/** `IOMMU_HWPT_INVALIDATE_DATA_SELFTEST` and `IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST`: one number, two structs. */
export const INVALIDATE_DATA_SELFTEST = 0xdead_beef
export const HW_INFO_TYPE_SELFTEST = 0xfeed_beef
export const HW_INFO_SELFTEST_REGVAL = 0xdead_beef
export const VIOMMU_TYPE_SELFTEST = 0xdead_beef
export const VEVENTQ_TYPE_SELFTEST = 0xbeef_beef
export const HW_QUEUE_TYPE_SELFTEST = 0xdead_beef
/** Flag of both kinds of invalidations: every slot. */
export const INVALIDATE_FLAG_ALL = 1

const hwpt = { iotlb: ["u32", 0], pagetableType: ["u32", 4] } as const
/** `struct iommu_hwpt_selftest`. */
export const HWPT_SELFTEST: StructLayout<typeof hwpt> = structLayout("iommu_hwpt_selftest", 8, hwpt)

const hwptInvalidate = { flags: ["u32", 0], iotlbId: ["u32", 4] } as const
/** `struct iommu_hwpt_invalidate_selftest`. */
export const HWPT_INVALIDATE_SELFTEST: StructLayout<typeof hwptInvalidate> = structLayout(
  "iommu_hwpt_invalidate_selftest",
  8,
  hwptInvalidate,
)

const viommuInvalidate = { flags: ["u32", 0], vdevId: ["u32", 4], cacheId: ["u32", 8] } as const
/** `struct iommu_viommu_invalidate_selftest`. */
export const VIOMMU_INVALIDATE_SELFTEST: StructLayout<typeof viommuInvalidate> = structLayout(
  "iommu_viommu_invalidate_selftest",
  12,
  viommuInvalidate,
)

const viommu = {
  inData: ["u32", 0],
  outData: ["u32", 4],
  outMmapOffset: ["u64", 8],
  outMmapLength: ["u64", 16],
} as const
/** `struct iommu_viommu_selftest`. */
export const VIOMMU_SELFTEST: StructLayout<typeof viommu> = structLayout("iommu_viommu_selftest", 24, viommu)

const hwInfo = { flags: ["u32", 0], testReg: ["u32", 4] } as const
/** `struct iommu_test_hw_info`. */
export const HW_INFO_SELFTEST: StructLayout<typeof hwInfo> = structLayout("iommu_test_hw_info", 8, hwInfo)

const vevent = { virtId: ["u32", 0] } as const
/** `struct iommu_viommu_event_selftest`. */
export const VEVENT_SELFTEST: StructLayout<typeof vevent> = structLayout(
  "iommu_viommu_event_selftest",
  4,
  vevent,
)

/** Both kinds share a number; the target tells them apart. */
export type SelftestInvalidate =
  | ({ readonly target: "hwpt" } & StructValue<typeof hwptInvalidate>)
  | ({ readonly target: "viommu" } & StructValue<typeof viommuInvalidate>)

declare module "@iommu/core" {
  interface DomainUserDataMap {
    /** `flags` are those of the allocation. */
    0xdead: StructValue<typeof hwpt> & { readonly flags: number }
  }
  interface CacheInvalidateDataMap {
    0xdead_beef: SelftestInvalidate
  }
  interface HwInfoMap {
    0xfeed_beef: StructValue<typeof hwInfo>
  }
}

const USER_DATA: UserDataLayout = {
  describes: "either",
  size: HWPT_SELFTEST.size,
  minSize: 4,
  decode: (bytes, flags) => ({ type: HWPT_DATA_SELFTEST, ...HWPT_SELFTEST.decode(bytes), flags }),
}

const NESTED_INVALIDATE: InvalidateLayout = {
  size: HWPT_INVALIDATE_SELFTEST.size,
  minSize: HWPT_INVALIDATE_SELFTEST.size,
  copies: "entry",
  decode: entries => ({
    type: INVALIDATE_DATA_SELFTEST,
    entries: entries.map(bytes => ({ target: "hwpt", ...HWPT_INVALIDATE_SELFTEST.decode(bytes) })),
  }),
}

const VIOMMU_INVALIDATE: InvalidateLayout = {
  size: VIOMMU_INVALIDATE_SELFTEST.size,
  minSize: 1,
  copies: "array",
  decode: entries => ({
    type: INVALIDATE_DATA_SELFTEST,
    entries: entries.map(bytes => ({ target: "viommu", ...VIOMMU_INVALIDATE_SELFTEST.decode(bytes) })),
  }),
}

export const MOCK_ABI: DriverAbi = {
  userData: type => (type === HWPT_DATA_SELFTEST ? USER_DATA : null),
  nestedInvalidate: type => (type === INVALIDATE_DATA_SELFTEST ? NESTED_INVALIDATE : null),
  viommuInvalidate: type => (type === INVALIDATE_DATA_SELFTEST ? VIOMMU_INVALIDATE : null),
  hwInfo: (info: HwInfo) => (info.type === HW_INFO_TYPE_SELFTEST ? HW_INFO_SELFTEST.encode(info) : null),
}
