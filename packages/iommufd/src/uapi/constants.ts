/** Numbers of `include/uapi/linux/iommufd.h`, under the names they have there. */

/** `IOMMUFD_TYPE`: the ioctl type of iommufd, and of VFIO. */
export const IOMMUFD_TYPE = 0x3b

/** `_IO(IOMMUFD_TYPE, nr)`: iommufd's numbers carry neither direction nor size. */
function io(nr: number): number {
  return (IOMMUFD_TYPE << 8) | nr
}

/** The ioctls of iommufd. */
export const IommufdCommand = {
  DESTROY: io(0x80),
  IOAS_ALLOC: io(0x81),
  IOAS_ALLOW_IOVAS: io(0x82),
  IOAS_COPY: io(0x83),
  IOAS_IOVA_RANGES: io(0x84),
  IOAS_MAP: io(0x85),
  IOAS_UNMAP: io(0x86),
  OPTION: io(0x87),
  VFIO_IOAS: io(0x88),
  HWPT_ALLOC: io(0x89),
  GET_HW_INFO: io(0x8a),
  HWPT_SET_DIRTY_TRACKING: io(0x8b),
  HWPT_GET_DIRTY_BITMAP: io(0x8c),
  HWPT_INVALIDATE: io(0x8d),
  FAULT_QUEUE_ALLOC: io(0x8e),
  IOAS_MAP_FILE: io(0x8f),
  VIOMMU_ALLOC: io(0x90),
  VDEVICE_ALLOC: io(0x91),
  IOAS_CHANGE_PROCESS: io(0x92),
  VEVENTQ_ALLOC: io(0x93),
  HW_QUEUE_ALLOC: io(0x94),
  IOAS_NOIOMMU_GET_PA: io(0x95),
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
