/** Structs of the commands for page tables, what devices say of their IOMMU, and fault queues. */
import { HwInfoType, HwptDataType, IommuError } from "@iommu/core"
import type { Iommufd } from "../context.ts"
import { draftFaultQueue } from "../objects/fault-queue.ts"
import { draftHwpt } from "../objects/hwpt-alloc.ts"
import { invalidate } from "../objects/invalidate.ts"
import type { UserBytes } from "../objects/user-bytes.ts"
import { clearUser, copyFromUser, copyToUser } from "../objects/user-copy.ts"
import { HW_INFO_FLAG_INPUT_TYPE, IommufdCommand } from "../uapi/constants.ts"
import {
  IOMMU_FAULT_QUEUE_ALLOC,
  IOMMU_GET_HW_INFO,
  IOMMU_HWPT_ALLOC,
  IOMMU_HWPT_INVALIDATE,
} from "../uapi/structs.ts"
import { type Call, type Command, checkFlags, checkReserved, command, publishAfter } from "./command.ts"

export const HWPT_COMMANDS: readonly Command[] = [
  command(IommufdCommand.HWPT_ALLOC, IOMMU_HWPT_ALLOC, 24, ({ iommufd, args, respond }) => {
    checkReserved(args.__reserved)
    const { dataType, dataLen, dataUptr, flags, devId: deviceId, ptId: parentId, faultId } = args
    if ((dataType === HwptDataType.NONE) !== (dataLen === 0)) {
      throw new IommuError("EINVAL", "user data has a type and a length, or neither")
    }
    const data = dataLen === 0 ? null : userData(iommufd, dataType, dataUptr, dataLen)
    const request = { deviceId, parentId, flags, data, faultId }
    const draft = draftHwpt(iommufd.context, iommufd.process, request)
    publishAfter(draft, () => respond({ outHwptId: draft.object.id }))
  }),

  command(IommufdCommand.GET_HW_INFO, IOMMU_GET_HW_INFO, 32, getHwInfo),

  command(IommufdCommand.HWPT_INVALIDATE, IOMMU_HWPT_INVALIDATE, 32, ({ iommufd, args, respond }) => {
    const result = invalidateArray(iommufd, args)
    respond({ entryNum: result.handled })
    if (result.error !== null) throw result.error
  }),

  command(IommufdCommand.FAULT_QUEUE_ALLOC, IOMMU_FAULT_QUEUE_ALLOC, 16, ({ iommufd, args, respond }) => {
    checkFlags(args.flags, 0)
    const draft = draftFaultQueue(iommufd.context, iommufd.process)
    publishAfter(draft, () => respond({ outFaultId: draft.object.id, outFaultFd: draft.fd }))
  }),
]

/** Data for a driver in the caller's memory. */
export function userData({ process }: Iommufd, type: number, address: bigint, length: number): UserBytes {
  return { type, length, copy: () => copyFromUser(process.memory, address, length) }
}

/** The type is input with a flag only, and output always. */
function getHwInfo({ iommufd, args, respond }: Call<(typeof IOMMU_GET_HW_INFO)["members"]>): void {
  checkFlags(args.flags, HW_INFO_FLAG_INPUT_TYPE)
  checkReserved(...args.__reserved)
  const asks = (args.flags & HW_INFO_FLAG_INPUT_TYPE) !== 0
  const report = iommufd.hwInfo(args.devId, asks ? args.outDataType : HwInfoType.NONE)
  const { memory } = iommufd.process
  const copied = Math.min(args.dataLen, report.bytes.length)
  if (copied > 0) copyToUser(memory, args.dataUptr, report.bytes.subarray(0, copied))
  if (args.dataLen > copied) clearUser(memory, args.dataUptr + BigInt(copied), args.dataLen - copied)
  respond({
    dataLen: report.bytes.length,
    outDataType: report.type,
    outMaxPasidLog2: report.maxPasidLog2,
    outCapabilities: report.capabilities,
  })
}

type InvalidateArgs = Call<(typeof IOMMU_HWPT_INVALIDATE)["members"]>["args"]

/** What is wrong is in the result: the count of handled entries goes back with every error. */
function invalidateArray({ context, process }: Iommufd, args: InvalidateArgs): ReturnType<typeof invalidate> {
  const { hwptId, dataType: type, dataUptr, entryLen: entryLength, entryNum: entryCount, __reserved } = args
  if (__reserved !== 0) {
    return { handled: 0, error: new IommuError("EOPNOTSUPP", "reserved members must be 0") }
  }
  return invalidate(context, hwptId, {
    type,
    entryLength,
    entryCount,
    hasData: dataUptr !== 0n,
    copy: (first, count) =>
      copyFromUser(process.memory, dataUptr + BigInt(first * entryLength), count * entryLength),
  })
}
