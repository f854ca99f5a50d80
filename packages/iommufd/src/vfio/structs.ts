/** Structs of Linux's `vfio.h`. */
import { type StructLayout, structLayout } from "@iommu/core"

const dmaMap = {
  argsz: ["u32", 0],
  flags: ["u32", 4],
  vaddr: ["u64", 8],
  iova: ["u64", 16],
  size: ["u64", 24],
} as const
export const VFIO_DMA_MAP: StructLayout<typeof dmaMap> = structLayout("vfio_iommu_type1_dma_map", 32, dmaMap)

const dmaUnmap = { argsz: ["u32", 0], flags: ["u32", 4], iova: ["u64", 8], size: ["u64", 16] } as const
export const VFIO_DMA_UNMAP: StructLayout<typeof dmaUnmap> = structLayout(
  "vfio_iommu_type1_dma_unmap",
  24,
  dmaUnmap,
)

const info = {
  argsz: ["u32", 0],
  flags: ["u32", 4],
  iovaPgsizes: ["u64", 8],
  capOffset: ["u32", 16],
  pad: ["u32", 20],
} as const
export const VFIO_INFO: StructLayout<typeof info> = structLayout("vfio_iommu_type1_info", 24, info)

/** Bytes that a caller of IOMMU_GET_INFO has at least: up to and with iova_pgsizes. */
export const VFIO_INFO_MIN_BYTES = 16

const deviceInfo = {
  argsz: ["u32", 0],
  flags: ["u32", 4],
  numRegions: ["u32", 8],
  numIrqs: ["u32", 12],
  capOffset: ["u32", 16],
  pad: ["u32", 20],
} as const
export const VFIO_DEVICE_INFO: StructLayout<typeof deviceInfo> = structLayout(
  "vfio_device_info",
  24,
  deviceInfo,
)
/** Bytes that a caller of GET_INFO has at least: up to and with num_irqs. */
export const VFIO_DEVICE_INFO_MIN_BYTES = 16

const bind = {
  argsz: ["u32", 0],
  flags: ["u32", 4],
  iommufd: ["s32", 8],
  outDevid: ["u32", 12],
  tokenUuidPtr: ["u64", 16],
} as const
export const VFIO_BIND: StructLayout<typeof bind> = structLayout("vfio_device_bind_iommufd", 24, bind)
/** Bytes that every caller has: up to and with out_devid. */
export const VFIO_BIND_MIN_BYTES = 16

const attach = { argsz: ["u32", 0], flags: ["u32", 4], ptId: ["u32", 8], pasid: ["u32", 12] } as const
export const VFIO_ATTACH: StructLayout<typeof attach> = structLayout(
  "vfio_device_attach_iommufd_pt",
  16,
  attach,
)

const detach = { argsz: ["u32", 0], flags: ["u32", 4], pasid: ["u32", 8] } as const
export const VFIO_DETACH: StructLayout<typeof detach> = structLayout(
  "vfio_device_detach_iommufd_pt",
  12,
  detach,
)
