/** Structs of the commands that set and get what is not an object. */
import { IommuError } from "@iommu/core"
import { checkRlimitModeChange } from "../objects/options.ts"
import {
  IommufdCommand,
  OPTION_HUGE_PAGES,
  OPTION_OP_GET,
  OPTION_OP_SET,
  OPTION_RLIMIT_MODE,
  VFIO_IOAS_CLEAR,
  VFIO_IOAS_GET,
  VFIO_IOAS_SET,
} from "../uapi/constants.ts"
import { IOMMU_OPTION, IOMMU_VFIO_IOAS } from "../uapi/structs.ts"
import { type Call, type Command, checkReserved, command } from "./command.ts"

export const OPTION_COMMANDS: readonly Command[] = [
  command(IommufdCommand.OPTION, IOMMU_OPTION, 24, call => {
    const { optionId, __reserved } = call.args
    checkReserved(__reserved)
    if (optionId === OPTION_RLIMIT_MODE) rlimitMode(call)
    else if (optionId === OPTION_HUGE_PAGES) hugePages(call)
    else throw new IommuError("EOPNOTSUPP", `option ${optionId} is unknown`)
  }),

  command(IommufdCommand.VFIO_IOAS, IOMMU_VFIO_IOAS, 12, ({ iommufd, args, respond }) => {
    checkReserved(args.__reserved)
    switch (args.op) {
      case VFIO_IOAS_GET:
        return respond({ ioasId: iommufd.vfioIoas })
      case VFIO_IOAS_SET:
        return iommufd.setVfioIoas(args.ioasId)
      case VFIO_IOAS_CLEAR:
        return iommufd.clearVfioIoas()
      default:
        throw unknownOperation(args.op)
    }
  }),
]

type OptionCall = Call<(typeof IOMMU_OPTION)["members"]>

function rlimitMode({ iommufd, args, respond }: OptionCall): void {
  const { objectId, op, val64 } = args
  if (objectId !== 0) throw new IommuError("EOPNOTSUPP", "RLIMIT_MODE belongs to no object")
  if (op === OPTION_OP_SET) {
    checkRlimitModeChange(iommufd.context, iommufd.process)
    if (val64 > 1n) throw new IommuError("EINVAL", "RLIMIT_MODE is 0 or 1")
    iommufd.setRlimitMode(val64 === 1n ? "mm" : "user")
  } else if (op !== OPTION_OP_GET) {
    throw unknownOperation(op)
  }
  respond({ val64: iommufd.rlimitMode === "mm" ? 1n : 0n })
}

function hugePages({ iommufd, args, respond }: OptionCall): void {
  const { objectId, op, val64 } = args
  const before = iommufd.hugePages(objectId)
  if (op === OPTION_OP_GET) {
    respond({ val64: before ? 1n : 0n })
    return
  }
  if (op !== OPTION_OP_SET) throw unknownOperation(op)
  if (val64 > 1n) throw new IommuError("EINVAL", "HUGE_PAGES is 0 or 1")
  iommufd.setHugePages(objectId, val64 === 1n)
  respond({})
}

function unknownOperation(op: number): IommuError {
  return new IommuError("EOPNOTSUPP", `operation ${op} is unknown`)
}
