/** Numbers of Linux's `vfio.h` that a container's ioctls use. */

/** ioctl numbers: type ';', 100 and up, without direction and size. */
export const VfioCommand = {
  GET_API_VERSION: 0x3b64,
  CHECK_EXTENSION: 0x3b65,
  SET_IOMMU: 0x3b66,
  IOMMU_GET_INFO: 0x3b70,
  IOMMU_MAP_DMA: 0x3b71,
  IOMMU_UNMAP_DMA: 0x3b72,
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
  GET_INFO: 0x3b6b,
  BIND_IOMMUFD: 0x3b76,
  ATTACH_IOMMUFD_PT: 0x3b77,
  DETACH_IOMMUFD_PT: 0x3b78,
} as const

export const VFIO_DEVICE_FLAGS_PCI = 2
export const VFIO_DEVICE_ATTACH_PASID = 1
export const VFIO_DEVICE_DETACH_PASID = 1
