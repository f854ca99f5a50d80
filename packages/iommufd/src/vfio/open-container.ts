import { type Iommufd, openIommufd } from "../context.ts"
import type { Process } from "../process/process.ts"

/**
 * Opens /dev/vfio/vfio where iommufd stands behind it: pinned pages are counted for each process, as VFIO counts them, and
 * there is an address space for the container's ioctls, as Linux makes one when the first group joins.
 * @throws EMFILE, ENOMEM; nothing is open then
 */
export function openVfioContainer(process: Process): Iommufd {
  const iommufd = openIommufd(process)
  try {
    iommufd.context.pinPolicy.mode = "mm"
    iommufd.setVfioIoas(iommufd.ioasAlloc())
    return iommufd
  } catch (error) {
    iommufd.close()
    throw error
  }
}
