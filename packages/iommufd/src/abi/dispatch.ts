/** From a command number and a struct to the command: Linux's `iommufd_fops_ioctl`. */
import { IommuError } from "@iommu/core"
import type { Iommufd } from "../context.ts"
import { VfioContainer } from "../vfio/container.ts"
import { vfioIoctl } from "../vfio/container-ioctl.ts"
import type { Argument } from "./argument.ts"
import type { Command } from "./command.ts"
import { DIRTY_COMMANDS } from "./dirty-commands.ts"
import { HWPT_COMMANDS } from "./hwpt-commands.ts"
import { IOAS_COMMANDS } from "./ioas-commands.ts"
import { OPTION_COMMANDS } from "./option-commands.ts"
import { VIOMMU_COMMANDS } from "./viommu-commands.ts"

const COMMANDS: readonly Command[] = [
  ...IOAS_COMMANDS,
  ...OPTION_COMMANDS,
  ...HWPT_COMMANDS,
  ...DIRTY_COMMANDS,
  ...VIOMMU_COMMANDS,
]

const BY_NUMBER: ReadonlyMap<number, Command> = new Map(COMMANDS.map(command => [command.number, command]))
const NUMBER_BITS = 0xff
const BY_LOW_BITS: ReadonlySet<number> = new Set(COMMANDS.map(command => command.number & NUMBER_BITS))

/**
 * @returns what the ioctl returns: 0, or more for some of VFIO's
 * @throws ENOTTY, EFAULT, EINVAL, E2BIG, and what the command throws
 */
export function dispatch(iommufd: Iommufd, number: number, argument: Argument): number {
  const command = BY_NUMBER.get(number)
  if (command === undefined) {
    if (BY_LOW_BITS.has(number & NUMBER_BITS)) throw unknown(number)
    return vfioIoctl(vfioContainer(iommufd), number, argument)
  }
  const userSize = sizeOf(argument)
  if (userSize < command.minSize) {
    throw new IommuError("EINVAL", `the struct of this command has at least ${command.minSize} bytes`)
  }
  command.run(iommufd, argument, userSize)
  return 0
}

/** Of the address space that VFIO_IOAS chose. */
function vfioContainer({ context, process }: Iommufd): VfioContainer {
  const ioas = context.vfioIoas
  return new VfioContainer({
    process,
    vfioAddressSpace: ioas?.ioas ?? null,
    enforcesCoherency: ioas?.pageTables.every(hwpt => hwpt.enforcesCoherency) ?? false,
  })
}

/** The first 32-bit word of every struct. */
function sizeOf(argument: Argument): number {
  const word = argument.read(4)
  return new DataView(word.buffer, word.byteOffset, 4).getUint32(0, true)
}

function unknown(number: number): IommuError {
  return new IommuError("ENOTTY", `no command has number 0x${number.toString(16)}`)
}
