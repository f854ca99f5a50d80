/** Structs of the commands for vIOMMUs and what belongs to them. */
import { IommuError, ViommuType } from "@iommu/core"
import { draftHwQueue } from "../objects/hw-queue.ts"
import { copyToUser } from "../objects/user-copy.ts"
import { draftVdevice } from "../objects/vdevice.ts"
import { draftVeventq } from "../objects/veventq.ts"
import { draftViommu } from "../objects/viommu.ts"
import { IommufdCommand } from "../uapi/constants.ts"
import {
  IOMMU_HW_QUEUE_ALLOC,
  IOMMU_VDEVICE_ALLOC,
  IOMMU_VEVENTQ_ALLOC,
  IOMMU_VIOMMU_ALLOC,
} from "../uapi/structs.ts"
import { type Command, checkFlags, checkReserved, command, publishAfter } from "./command.ts"
import { userData } from "./hwpt-commands.ts"

export const VIOMMU_COMMANDS: readonly Command[] = [
  command(IommufdCommand.VIOMMU_ALLOC, IOMMU_VIOMMU_ALLOC, 24, ({ iommufd, args, respond }) => {
    checkFlags(args.flags, 0)
    checkType(args.type, ViommuType.DEFAULT)
    const { type, devId: deviceId, hwptId, dataLen, dataUptr } = args
    const data = dataLen === 0 ? null : userData(iommufd, type, dataUptr, dataLen)
    const draft = draftViommu(iommufd.context, iommufd.process, { deviceId, hwptId, type, data })
    publishAfter(draft, () => {
      const { outData } = draft.object
      if (outData !== null && dataLen > 0) {
        copyToUser(iommufd.process.memory, dataUptr, outData.subarray(0, dataLen))
      }
      respond({ outViommuId: draft.object.id })
    })
  }),

  command(IommufdCommand.VDEVICE_ALLOC, IOMMU_VDEVICE_ALLOC, 24, ({ iommufd, args, respond }) => {
    const { viommuId, devId: deviceId, virtId: virtualId } = args
    const draft = draftVdevice(iommufd.context, iommufd.process, { viommuId, deviceId, virtualId })
    publishAfter(draft, () => respond({ outVdeviceId: draft.object.id }))
  }),

  command(IommufdCommand.VEVENTQ_ALLOC, IOMMU_VEVENTQ_ALLOC, 28, ({ iommufd, args, respond }) => {
    checkFlags(args.flags, 0)
    checkReserved(args.__reserved)
    checkType(args.type, 0)
    const { viommuId, type, veventqDepth: depth } = args
    const draft = draftVeventq(iommufd.context, iommufd.process, { viommuId, type, depth })
    publishAfter(draft, () => respond({ outVeventqId: draft.object.id, outVeventqFd: draft.fd }))
  }),

  command(IommufdCommand.HW_QUEUE_ALLOC, IOMMU_HW_QUEUE_ALLOC, 40, ({ iommufd, args, respond }) => {
    checkFlags(args.flags, 0)
    checkType(args.type, 0)
    const { viommuId, type, index, nestingParentIova: iova, length } = args
    const draft = draftHwQueue(iommufd.context, iommufd.process, { viommuId, type, index, iova, length })
    publishAfter(draft, () => respond({ outHwQueueId: draft.object.id }))
  }),
]

/** The default of each kind is reserved. */
function checkType(type: number, reserved: number): void {
  if (type === reserved) throw new IommuError("EOPNOTSUPP", `type ${reserved} is reserved`)
}
