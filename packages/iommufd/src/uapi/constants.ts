/** Numbers of `include/uapi/linux/iommufd.h`, under the names they have there. */

/** `IOMMUFD_TYPE`: the ioctl type of iommufd, and of VFIO. */
export const IOMMUFD_TYPE = 0x3b

/** The ioctls of iommufd: `_IO(IOMMUFD_TYPE, nr)`, which carries neither direction nor size. */
export const IommufdCommand = {
  DESTROY: 0x3b80,
  IOAS_ALLOC: 0x3b81,
  IOAS_ALLOW_IOVAS: 0x3b82,
  IOAS_COPY: 0x3b83,
  IOAS_IOVA_RANGES: 0x3b84,
  IOAS_MAP: 0x3b85,
  IOAS_UNMAP: 0x3b86,
  OPTION: 0x3b87,
  VFIO_IOAS: 0x3b88,
  HWPT_ALLOC: 0x3b89,
  GET_HW_INFO: 0x3b8a,
  HWPT_SET_DIRTY_TRACKING: 0x3b8b,
  HWPT_GET_DIRTY_BITMAP: 0x3b8c,
  HWPT_INVALIDATE: 0x3b8d,
  FAULT_QUEUE_ALLOC: 0x3b8e,
  IOAS_MAP_FILE: 0x3b8f,
  VIOMMU_ALLOC: 0x3b90,
  VDEVICE_ALLOC: 0x3b91,
  IOAS_CHANGE_PROCESS: 0x3b92,
  VEVENTQ_ALLOC: 0x3b93,
  HW_QUEUE_ALLOC: 0x3b94,
  IOAS_NOIOMMU_GET_PA: 0x3b95,
} as const

/** `enum iommufd_ioas_map_flags`, for MAP, MAP_FILE and COPY. */
export const IOAS_MAP_FIXED_IOVA = 1
export const IOAS_MAP_WRITEABLE = 2
export const IOAS_MAP_READABLE = 4

/** `enum iommufd_hwpt_alloc_flags`. */
export const HWPT_ALLOC_NEST_PARENT = 1
export const HWPT_ALLOC_DIRTY_TRACKING = 2
export const HWPT_FAULT_ID_VALID = 4
export const HWPT_ALLOC_PASID = 8

/** `enum iommufd_hw_info_flags`. */
export const HW_INFO_FLAG_INPUT_TYPE = 1

/** `enum iommufd_hw_capabilities`. */
export const HW_CAP_DIRTY_TRACKING = 1n
export const HW_CAP_PCI_PASID_EXEC = 2n
export const HW_CAP_PCI_PASID_PRIV = 4n
export const HW_CAP_PCI_ATS_NOT_SUPPORTED = 8n

export const HWPT_DIRTY_TRACKING_ENABLE = 1
export const HWPT_GET_DIRTY_BITMAP_NO_CLEAR = 1

/** `enum iommufd_option` and `enum iommufd_option_ops`. */
export const OPTION_RLIMIT_MODE = 0
export const OPTION_HUGE_PAGES = 1
export const OPTION_OP_SET = 0
export const OPTION_OP_GET = 1

/** `enum iommufd_vfio_ioas_op`. */
export const VFIO_IOAS_GET = 0
export const VFIO_IOAS_SET = 1
export const VFIO_IOAS_CLEAR = 2

/** `enum iommu_hwpt_pgfault_flags` and `enum iommu_hwpt_pgfault_perm`. */
export const PGFAULT_FLAGS_PASID_VALID = 1
export const PGFAULT_FLAGS_LAST_PAGE = 2
export const PGFAULT_PERM_READ = 1
export const PGFAULT_PERM_WRITE = 2
export const PGFAULT_PERM_EXEC = 4
export const PGFAULT_PERM_PRIV = 8

/** `enum iommu_veventq_flag`. */
export const VEVENTQ_FLAG_LOST_EVENTS = 1
