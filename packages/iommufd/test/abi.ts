/** Calls through bytes alone: what a VMM's C code would do. */
import type { MemberSpecs, StructLayout, StructValue } from "@iommu/core"
import type { Iommufd } from "@iommu/iommufd"
import * as uapi from "@iommu/iommufd"

/**
 * One ioctl; members that are not given are 0, the size is the struct's own.
 * @returns the struct as it came back
 */
export function ioctl<M extends MemberSpecs>(
  iommufd: Iommufd,
  command: number,
  layout: StructLayout<M>,
  given: Partial<StructValue<M>>,
): StructValue<M> {
  const bytes = encode(layout, given)
  iommufd.ioctl(command, bytes)
  return layout.decode(bytes)
}

/** The struct's bytes with zeros for what is not given. */
export function encode<M extends MemberSpecs>(
  layout: StructLayout<M>,
  given: Partial<StructValue<M>>,
): Uint8Array {
  const zero = layout.decode(new Uint8Array(layout.size))
  return layout.encode({ ...zero, size: layout.size, ...given })
}

const { IommufdCommand } = uapi

/** The commands by name, in bytes. */
export const abi = {
  destroy: (fd: Iommufd, id: number) => ioctl(fd, IommufdCommand.DESTROY, uapi.IOMMU_DESTROY, { id }),
  ioasAlloc: (fd: Iommufd): number =>
    ioctl(fd, IommufdCommand.IOAS_ALLOC, uapi.IOMMU_IOAS_ALLOC, {}).outIoasId,
  hwptAlloc: (fd: Iommufd, given: Partial<StructValue<(typeof uapi.IOMMU_HWPT_ALLOC)["members"]>>): number =>
    ioctl(fd, IommufdCommand.HWPT_ALLOC, uapi.IOMMU_HWPT_ALLOC, given).outHwptId,
  invalidate: (fd: Iommufd, given: Partial<StructValue<(typeof uapi.IOMMU_HWPT_INVALIDATE)["members"]>>) =>
    ioctl(fd, IommufdCommand.HWPT_INVALIDATE, uapi.IOMMU_HWPT_INVALIDATE, given),
  hwInfo: (fd: Iommufd, given: Partial<StructValue<(typeof uapi.IOMMU_GET_HW_INFO)["members"]>>) =>
    ioctl(fd, IommufdCommand.GET_HW_INFO, uapi.IOMMU_GET_HW_INFO, given),
  faultQueueAlloc: (fd: Iommufd, flags = 0) =>
    ioctl(fd, IommufdCommand.FAULT_QUEUE_ALLOC, uapi.IOMMU_FAULT_QUEUE_ALLOC, { flags }),
  viommuAlloc: (
    fd: Iommufd,
    given: Partial<StructValue<(typeof uapi.IOMMU_VIOMMU_ALLOC)["members"]>>,
  ): number => ioctl(fd, IommufdCommand.VIOMMU_ALLOC, uapi.IOMMU_VIOMMU_ALLOC, given).outViommuId,
  vdeviceAlloc: (
    fd: Iommufd,
    given: Partial<StructValue<(typeof uapi.IOMMU_VDEVICE_ALLOC)["members"]>>,
  ): number => ioctl(fd, IommufdCommand.VDEVICE_ALLOC, uapi.IOMMU_VDEVICE_ALLOC, given).outVdeviceId,
  veventqAlloc: (fd: Iommufd, given: Partial<StructValue<(typeof uapi.IOMMU_VEVENTQ_ALLOC)["members"]>>) =>
    ioctl(fd, IommufdCommand.VEVENTQ_ALLOC, uapi.IOMMU_VEVENTQ_ALLOC, given),
  hwQueueAlloc: (
    fd: Iommufd,
    given: Partial<StructValue<(typeof uapi.IOMMU_HW_QUEUE_ALLOC)["members"]>>,
  ): number => ioctl(fd, IommufdCommand.HW_QUEUE_ALLOC, uapi.IOMMU_HW_QUEUE_ALLOC, given).outHwQueueId,
  option: (fd: Iommufd, given: Partial<StructValue<(typeof uapi.IOMMU_OPTION)["members"]>>): bigint =>
    ioctl(fd, IommufdCommand.OPTION, uapi.IOMMU_OPTION, given).val64,
  vfioIoas: (fd: Iommufd, given: Partial<StructValue<(typeof uapi.IOMMU_VFIO_IOAS)["members"]>>): number =>
    ioctl(fd, IommufdCommand.VFIO_IOAS, uapi.IOMMU_VFIO_IOAS, given).ioasId,
}
