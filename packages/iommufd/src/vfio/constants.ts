/** Numbers of Linux's `vfio.h` that a container's ioctls use. */

const VFIO_BASE = 0x3b00 | 100

/** ioctl numbers: type ';', without direction and size. */
export const VfioCommand = {
  GET_API_VERSION: VFIO_BASE,
  CHECK_EXTENSION: VFIO_BASE + 1,
  SET_IOMMU: VFIO_BASE + 2,
  IOMMU_GET_INFO: VFIO_BASE + 12,
  IOMMU_MAP_DMA: VFIO_BASE + 13,
  IOMMU_UNMAP_DMA: VFIO_BASE + 14,
} as const

export const VFIO_API_VERSION = 0

/** What CHECK_EXTENSION asks for, and SET_IOMMU chooses. */
export const VfioExtension = {
  TYPE1_IOMMU: 1,
  TYPE1V2_IOMMU: 3,
  DMA_CC_IOMMU: 4,
  UNMAP_ALL: 9,
} as const

export const VFIO_DMA_MAP_FLAG_READ = 1
export const VFIO_DMA_MAP_FLAG_WRITE = 2
export const VFIO_DMA_UNMAP_FLAG_ALL = 2

export const VFIO_IOMMU_INFO_PGSIZES = 1
export const VFIO_IOMMU_INFO_CAPS = 2

export const VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1
export const VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL = 3

/** ioctl numbers of a device's own file. */
export const VfioDeviceCommand = {
  GET_INFO: VFIO_BASE + 7,
  BIND_IOMMUFD: VFIO_BASE + 18,
  ATTACH_IOMMUFD_PT: VFIO_BASE + 19,
  DETACH_IOMMUFD_PT: VFIO_BASE + 20,
} as const

export const VFIO_DEVICE_FLAGS_PCI = 2
export const VFIO_DEVICE_ATTACH_PASID = 1
export const VFIO_DEVICE_DETACH_PASID = 1
