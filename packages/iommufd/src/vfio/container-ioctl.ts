/** The container's ioctls, byte by byte. */
import { IommuError } from "@iommu/core"
import { checkArgsz, checkFlags, readArgsz, type VfioArgument } from "./argument.ts"
import {
  VFIO_API_VERSION,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VfioCommand,
} from "./constants.ts"
import type { VfioContainer } from "./container.ts"
import { encodeInfo } from "./info-bytes.ts"
import { VFIO_DMA_MAP, VFIO_DMA_UNMAP, VFIO_INFO_MIN_BYTES } from "./structs.ts"

/**
 * @returns what the ioctl returns
 * @throws ENOTTY for a command that is none of these, EFAULT, and what the call throws
 */
export function vfioIoctl(container: VfioContainer, command: number, argument: VfioArgument): number {
  switch (command) {
    case VfioCommand.GET_API_VERSION:
      return VFIO_API_VERSION
    case VfioCommand.CHECK_EXTENSION:
      return container.checkExtension(argument.value) ? 1 : 0
    case VfioCommand.SET_IOMMU:
      container.setIommu(argument.value)
      return 0
    case VfioCommand.IOMMU_GET_INFO:
      return getInfo(container, argument)
    case VfioCommand.IOMMU_MAP_DMA:
      return mapDma(container, argument)
    case VfioCommand.IOMMU_UNMAP_DMA:
      return unmapDma(container, argument)
    default:
      throw new IommuError("ENOTTY", `a container has no command 0x${command.toString(16)}`)
  }
}

function getInfo(container: VfioContainer, argument: VfioArgument): number {
  const argsz = readArgsz(argument, VFIO_INFO_MIN_BYTES)
  argument.write(encodeInfo(container.info(), argsz))
  return 0
}

function mapDma(container: VfioContainer, argument: VfioArgument): number {
  const { argsz, flags, ...request } = VFIO_DMA_MAP.decode(argument.read(VFIO_DMA_MAP.size))
  checkArgsz(argsz, VFIO_DMA_MAP.size)
  checkFlags(flags, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)
  container.mapDma({
    ...request,
    readable: (flags & VFIO_DMA_MAP_FLAG_READ) !== 0,
    writeable: (flags & VFIO_DMA_MAP_FLAG_WRITE) !== 0,
  })
  return 0
}

function unmapDma(container: VfioContainer, argument: VfioArgument): number {
  const request = VFIO_DMA_UNMAP.decode(argument.read(VFIO_DMA_UNMAP.size))
  checkArgsz(request.argsz, VFIO_DMA_UNMAP.size)
  checkFlags(request.flags, VFIO_DMA_UNMAP_FLAG_ALL)
  argument.write(VFIO_DMA_UNMAP.encode({ ...request, size: unmapped(container, request) }))
  return 0
}

function unmapped(
  container: VfioContainer,
  { flags, iova, size }: { readonly flags: number; readonly iova: bigint; readonly size: bigint },
): bigint {
  if ((flags & VFIO_DMA_UNMAP_FLAG_ALL) === 0) return container.unmapDma(iova, size)
  if (iova !== 0n || size !== 0n) throw new IommuError("EINVAL", "with UNMAP_ALL, iova and size are 0")
  return container.unmapAllDma()
}
