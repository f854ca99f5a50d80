/** Argument structs of the ioctls, as `include/uapi/linux/iommufd.h` has them. Members are named as in C, in TypeScript's case. */
import { type StructLayout, structLayout } from "@iommu/core"

const destroy = { size: ["u32", 0], id: ["u32", 4] } as const
export const IOMMU_DESTROY: StructLayout<typeof destroy> = structLayout("iommu_destroy", 8, destroy)

const ioasAlloc = { size: ["u32", 0], flags: ["u32", 4], outIoasId: ["u32", 8] } as const
export const IOMMU_IOAS_ALLOC: StructLayout<typeof ioasAlloc> = structLayout(
  "iommu_ioas_alloc",
  12,
  ioasAlloc,
)

const iovaRange = { start: ["u64", 0], last: ["u64", 8] } as const
/** Element of the arrays of ALLOW_IOVAS and IOVA_RANGES. */
export const IOMMU_IOVA_RANGE: StructLayout<typeof iovaRange> = structLayout(
  "iommu_iova_range",
  16,
  iovaRange,
)

const allowIovas = {
  size: ["u32", 0],
  ioasId: ["u32", 4],
  numIovas: ["u32", 8],
  __reserved: ["u32", 12],
  allowedIovas: ["u64", 16],
} as const
export const IOMMU_IOAS_ALLOW_IOVAS: StructLayout<typeof allowIovas> = structLayout(
  "iommu_ioas_allow_iovas",
  24,
  allowIovas,
)

const ioasCopy = {
  size: ["u32", 0],
  flags: ["u32", 4],
  dstIoasId: ["u32", 8],
  srcIoasId: ["u32", 12],
  length: ["u64", 16],
  dstIova: ["u64", 24],
  srcIova: ["u64", 32],
} as const
export const IOMMU_IOAS_COPY: StructLayout<typeof ioasCopy> = structLayout("iommu_ioas_copy", 40, ioasCopy)

const iovaRanges = {
  size: ["u32", 0],
  ioasId: ["u32", 4],
  numIovas: ["u32", 8],
  __reserved: ["u32", 12],
  allowedIovas: ["u64", 16],
  outIovaAlignment: ["u64", 24],
} as const
export const IOMMU_IOAS_IOVA_RANGES: StructLayout<typeof iovaRanges> = structLayout(
  "iommu_ioas_iova_ranges",
  32,
  iovaRanges,
)

const ioasMap = {
  size: ["u32", 0],
  flags: ["u32", 4],
  ioasId: ["u32", 8],
  __reserved: ["u32", 12],
  userVa: ["u64", 16],
  length: ["u64", 24],
  iova: ["u64", 32],
} as const
export const IOMMU_IOAS_MAP: StructLayout<typeof ioasMap> = structLayout("iommu_ioas_map", 40, ioasMap)

const ioasMapFile = {
  size: ["u32", 0],
  flags: ["u32", 4],
  ioasId: ["u32", 8],
  fd: ["s32", 12],
  start: ["u64", 16],
  length: ["u64", 24],
  iova: ["u64", 32],
} as const
export const IOMMU_IOAS_MAP_FILE: StructLayout<typeof ioasMapFile> = structLayout(
  "iommu_ioas_map_file",
  40,
  ioasMapFile,
)

const ioasUnmap = { size: ["u32", 0], ioasId: ["u32", 4], iova: ["u64", 8], length: ["u64", 16] } as const
export const IOMMU_IOAS_UNMAP: StructLayout<typeof ioasUnmap> = structLayout(
  "iommu_ioas_unmap",
  24,
  ioasUnmap,
)

const option = {
  size: ["u32", 0],
  optionId: ["u32", 4],
  op: ["u16", 8],
  __reserved: ["u16", 10],
  objectId: ["u32", 12],
  val64: ["u64", 16],
} as const
export const IOMMU_OPTION: StructLayout<typeof option> = structLayout("iommu_option", 24, option)

const vfioIoas = { size: ["u32", 0], ioasId: ["u32", 4], op: ["u16", 8], __reserved: ["u16", 10] } as const
export const IOMMU_VFIO_IOAS: StructLayout<typeof vfioIoas> = structLayout("iommu_vfio_ioas", 12, vfioIoas)

const hwptAlloc = {
  size: ["u32", 0],
  flags: ["u32", 4],
  devId: ["u32", 8],
  ptId: ["u32", 12],
  outHwptId: ["u32", 16],
  __reserved: ["u32", 20],
  dataType: ["u32", 24],
  dataLen: ["u32", 28],
  dataUptr: ["u64", 32],
  faultId: ["u32", 40],
  __reserved2: ["u32", 44],
} as const
export const IOMMU_HWPT_ALLOC: StructLayout<typeof hwptAlloc> = structLayout(
  "iommu_hwpt_alloc",
  48,
  hwptAlloc,
)

const hwInfo = {
  size: ["u32", 0],
  flags: ["u32", 4],
  devId: ["u32", 8],
  dataLen: ["u32", 12],
  dataUptr: ["u64", 16],
  /** In C a union with `in_data_type`. */
  outDataType: ["u32", 24],
  outMaxPasidLog2: ["u8", 28],
  __reserved: ["u8[3]", 29],
  outCapabilities: ["u64", 32],
} as const
export const IOMMU_GET_HW_INFO: StructLayout<typeof hwInfo> = structLayout("iommu_hw_info", 40, hwInfo)

const setDirty = {
  size: ["u32", 0],
  flags: ["u32", 4],
  hwptId: ["u32", 8],
  __reserved: ["u32", 12],
} as const
export const IOMMU_HWPT_SET_DIRTY_TRACKING: StructLayout<typeof setDirty> = structLayout(
  "iommu_hwpt_set_dirty_tracking",
  16,
  setDirty,
)

const getDirty = {
  size: ["u32", 0],
  hwptId: ["u32", 4],
  flags: ["u32", 8],
  __reserved: ["u32", 12],
  iova: ["u64", 16],
  length: ["u64", 24],
  pageSize: ["u64", 32],
  data: ["u64", 40],
} as const
export const IOMMU_HWPT_GET_DIRTY_BITMAP: StructLayout<typeof getDirty> = structLayout(
  "iommu_hwpt_get_dirty_bitmap",
  48,
  getDirty,
)

const invalidate = {
  size: ["u32", 0],
  hwptId: ["u32", 4],
  dataUptr: ["u64", 8],
  dataType: ["u32", 16],
  entryLen: ["u32", 20],
  entryNum: ["u32", 24],
  __reserved: ["u32", 28],
} as const
export const IOMMU_HWPT_INVALIDATE: StructLayout<typeof invalidate> = structLayout(
  "iommu_hwpt_invalidate",
  32,
  invalidate,
)

const faultAlloc = {
  size: ["u32", 0],
  flags: ["u32", 4],
  outFaultId: ["u32", 8],
  outFaultFd: ["u32", 12],
} as const
export const IOMMU_FAULT_QUEUE_ALLOC: StructLayout<typeof faultAlloc> = structLayout(
  "iommu_fault_alloc",
  16,
  faultAlloc,
)

const viommuAlloc = {
  size: ["u32", 0],
  flags: ["u32", 4],
  type: ["u32", 8],
  devId: ["u32", 12],
  hwptId: ["u32", 16],
  outViommuId: ["u32", 20],
  dataLen: ["u32", 24],
  __reserved: ["u32", 28],
  dataUptr: ["u64", 32],
} as const
export const IOMMU_VIOMMU_ALLOC: StructLayout<typeof viommuAlloc> = structLayout(
  "iommu_viommu_alloc",
  40,
  viommuAlloc,
)

const vdeviceAlloc = {
  size: ["u32", 0],
  viommuId: ["u32", 4],
  devId: ["u32", 8],
  outVdeviceId: ["u32", 12],
  virtId: ["u64", 16],
} as const
export const IOMMU_VDEVICE_ALLOC: StructLayout<typeof vdeviceAlloc> = structLayout(
  "iommu_vdevice_alloc",
  24,
  vdeviceAlloc,
)

const changeProcess = { size: ["u32", 0], __reserved: ["u32", 4] } as const
export const IOMMU_IOAS_CHANGE_PROCESS: StructLayout<typeof changeProcess> = structLayout(
  "iommu_ioas_change_process",
  8,
  changeProcess,
)

const veventqAlloc = {
  size: ["u32", 0],
  flags: ["u32", 4],
  viommuId: ["u32", 8],
  type: ["u32", 12],
  veventqDepth: ["u32", 16],
  outVeventqId: ["u32", 20],
  outVeventqFd: ["u32", 24],
  __reserved: ["u32", 28],
} as const
export const IOMMU_VEVENTQ_ALLOC: StructLayout<typeof veventqAlloc> = structLayout(
  "iommu_veventq_alloc",
  32,
  veventqAlloc,
)

const hwQueueAlloc = {
  size: ["u32", 0],
  flags: ["u32", 4],
  viommuId: ["u32", 8],
  type: ["u32", 12],
  index: ["u32", 16],
  outHwQueueId: ["u32", 20],
  nestingParentIova: ["u64", 24],
  length: ["u64", 32],
} as const
export const IOMMU_HW_QUEUE_ALLOC: StructLayout<typeof hwQueueAlloc> = structLayout(
  "iommu_hw_queue_alloc",
  40,
  hwQueueAlloc,
)

const getPa = {
  size: ["u32", 0],
  flags: ["u32", 4],
  ioasId: ["u32", 8],
  __reserved: ["u32", 12],
  iova: ["u64", 16],
  length: ["u64", 24],
  outPhys: ["u64", 32],
} as const
export const IOMMU_IOAS_NOIOMMU_GET_PA: StructLayout<typeof getPa> = structLayout(
  "iommu_ioas_noiommu_get_pa",
  40,
  getPa,
)
