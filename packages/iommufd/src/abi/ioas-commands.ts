/** Structs of the IOAS commands. */
import { IommuError } from "@iommu/core"
import type { Iommufd } from "../context.ts"
import { checkBelowMax, draftIoas, ioasCopy, ioasMap, ioasMapFile } from "../objects/ioas-calls.ts"
import { checkRawIo } from "../objects/no-iommu.ts"
import { copyFromUser, copyToUser } from "../objects/user-copy.ts"
import {
  IOAS_MAP_FIXED_IOVA,
  IOAS_MAP_READABLE,
  IOAS_MAP_WRITEABLE,
  IommufdCommand,
} from "../uapi/constants.ts"
import {
  IOMMU_DESTROY,
  IOMMU_IOAS_ALLOC,
  IOMMU_IOAS_ALLOW_IOVAS,
  IOMMU_IOAS_CHANGE_PROCESS,
  IOMMU_IOAS_COPY,
  IOMMU_IOAS_IOVA_RANGES,
  IOMMU_IOAS_MAP,
  IOMMU_IOAS_MAP_FILE,
  IOMMU_IOAS_NOIOMMU_GET_PA,
  IOMMU_IOAS_UNMAP,
  IOMMU_IOVA_RANGE,
} from "../uapi/structs.ts"
import { type Command, checkFlags, checkReserved, command, publishAfter } from "./command.ts"

const MAP_FLAGS = IOAS_MAP_FIXED_IOVA | IOAS_MAP_WRITEABLE | IOAS_MAP_READABLE

export const IOAS_COMMANDS: readonly Command[] = [
  command(IommufdCommand.DESTROY, IOMMU_DESTROY, 8, ({ iommufd, args }) => iommufd.destroy(args.id)),

  command(IommufdCommand.IOAS_ALLOC, IOMMU_IOAS_ALLOC, 12, ({ iommufd, args, respond }) => {
    checkFlags(args.flags, 0)
    const draft = draftIoas(iommufd.context, iommufd.process)
    publishAfter(draft, () => respond({ outIoasId: draft.object.id }))
  }),

  command(IommufdCommand.IOAS_ALLOW_IOVAS, IOMMU_IOAS_ALLOW_IOVAS, 24, ({ iommufd, args }) => {
    checkReserved(args.__reserved)
    iommufd.context.objects.get(args.ioasId, "ioas")
    iommufd.ioasAllowIovas(args.ioasId, readRanges(iommufd, args.allowedIovas, args.numIovas))
  }),

  command(IommufdCommand.IOAS_IOVA_RANGES, IOMMU_IOAS_IOVA_RANGES, 32, ({ iommufd, args, respond }) => {
    checkReserved(args.__reserved)
    const { ranges, alignment } = iommufd.ioasIovaRanges(args.ioasId)
    ranges.slice(0, args.numIovas).forEach((range, index) => {
      const at = args.allowedIovas + BigInt(index * IOMMU_IOVA_RANGE.size)
      copyToUser(iommufd.process.memory, at, IOMMU_IOVA_RANGE.encode(range))
    })
    respond({ numIovas: ranges.length, outIovaAlignment: alignment })
    if (ranges.length > args.numIovas) {
      throw new IommuError(
        "EMSGSIZE",
        `there are ${ranges.length} ranges, room was given for ${args.numIovas}`,
      )
    }
  }),

  command(IommufdCommand.IOAS_MAP, IOMMU_IOAS_MAP, 40, ({ iommufd, args, respond }) => {
    checkFlags(args.flags, MAP_FLAGS)
    checkReserved(args.__reserved)
    const { ioasId, userVa, length } = args
    const request = { ioasId, userVa, length, ...placement(args.flags, args.iova) }
    respond({ iova: ioasMap(iommufd.context, iommufd.process, request) })
  }),

  command(IommufdCommand.IOAS_MAP_FILE, IOMMU_IOAS_MAP_FILE, 40, ({ iommufd, args, respond }) => {
    checkFlags(args.flags, MAP_FLAGS)
    const { ioasId, fd, start, length } = args
    const request = { ioasId, fd, start, length, ...placement(args.flags, args.iova) }
    respond({ iova: ioasMapFile(iommufd.context, iommufd.process, request) })
  }),

  command(IommufdCommand.IOAS_COPY, IOMMU_IOAS_COPY, 40, ({ iommufd, args, respond }) => {
    checkFlags(args.flags, MAP_FLAGS)
    const { dstIoasId: ioasId, srcIoasId: sourceIoasId, srcIova: sourceIova, length } = args
    const request = { ioasId, sourceIoasId, sourceIova, length, ...placement(args.flags, args.dstIova) }
    respond({ dstIova: ioasCopy(iommufd.context, iommufd.process, request) })
  }),

  command(IommufdCommand.IOAS_UNMAP, IOMMU_IOAS_UNMAP, 24, ({ iommufd, args, respond }) => {
    respond({ length: iommufd.ioasUnmap(args.ioasId, args.iova, args.length) })
  }),

  command(IommufdCommand.IOAS_CHANGE_PROCESS, IOMMU_IOAS_CHANGE_PROCESS, 8, ({ iommufd, args }) => {
    checkReserved(args.__reserved)
    iommufd.ioasChangeProcess()
  }),

  command(IommufdCommand.IOAS_NOIOMMU_GET_PA, IOMMU_IOAS_NOIOMMU_GET_PA, 40, ({ iommufd, args, respond }) => {
    checkRawIo(iommufd.process)
    checkFlags(args.flags, 0)
    checkReserved(args.__reserved)
    const { address, length } = iommufd.noIommuGetPa(args.ioasId, args.iova, args.length)
    respond({ outPhys: address, length })
  }),
]

/** The IOVA's limit is looked at also where the address space chooses it. */
function placement(
  flags: number,
  iova: bigint,
): { readonly iova: bigint | null; readonly readable: boolean; readonly writeable: boolean } {
  checkBelowMax(iova)
  return {
    iova: (flags & IOAS_MAP_FIXED_IOVA) === 0 ? null : iova,
    readable: (flags & IOAS_MAP_READABLE) !== 0,
    writeable: (flags & IOAS_MAP_WRITEABLE) !== 0,
  }
}

/** Ranges that are read at once: a count alone makes nothing large. */
const RANGES_A_PIECE = 256

function readRanges({ process }: Iommufd, address: bigint, count: number): { start: bigint; last: bigint }[] {
  const { size, decode } = IOMMU_IOVA_RANGE
  const ranges: { start: bigint; last: bigint }[] = []
  while (ranges.length < count) {
    const at = address + BigInt(ranges.length * size)
    const bytes = copyFromUser(process.memory, at, Math.min(RANGES_A_PIECE, count - ranges.length) * size)
    for (let offset = 0; offset < bytes.length; offset += size) {
      ranges.push(decode(bytes.subarray(offset, offset + size)))
    }
  }
  return ranges
}
