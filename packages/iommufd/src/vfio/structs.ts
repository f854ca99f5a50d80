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
