/** Structs of the commands for dirty tracking. */
import { UserBitmap } from "../ioas/user-bitmap.ts"
import {
  HWPT_DIRTY_TRACKING_ENABLE,
  HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
  IommufdCommand,
} from "../uapi/constants.ts"
import { IOMMU_HWPT_GET_DIRTY_BITMAP, IOMMU_HWPT_SET_DIRTY_TRACKING } from "../uapi/structs.ts"
import { type Command, checkFlags, checkReserved, command } from "./command.ts"

export const DIRTY_COMMANDS: readonly Command[] = [
  command(
    IommufdCommand.HWPT_SET_DIRTY_TRACKING,
    IOMMU_HWPT_SET_DIRTY_TRACKING,
    16,
    // Linux does not look at the reserved member.
    ({ iommufd, args: { flags, hwptId } }) => {
      checkFlags(flags, HWPT_DIRTY_TRACKING_ENABLE)
      iommufd.hwptSetDirtyTracking(hwptId, (flags & HWPT_DIRTY_TRACKING_ENABLE) === 0 ? "off" : "on")
    },
  ),

  command(
    IommufdCommand.HWPT_GET_DIRTY_BITMAP,
    IOMMU_HWPT_GET_DIRTY_BITMAP,
    48,
    ({ iommufd, args: { flags, __reserved, hwptId, iova, length, pageSize, data } }) => {
      checkFlags(flags, HWPT_GET_DIRTY_BITMAP_NO_CLEAR)
      checkReserved(__reserved)
      const { ioas, domain } = iommufd.context.objects.get(hwptId, "hwpt-paging")
      const after = (flags & HWPT_GET_DIRTY_BITMAP_NO_CLEAR) === 0 ? "clear" : "keep"
      const bitmap = new UserBitmap(iommufd.process.memory, data)
      ioas.ioas.readDirty(domain, { iova, length, pageSize }, after, bitmap)
    },
  ),
]
