/** The structs of all commands as a fuzz sees them: members with the kind of value that each wants. */
import type { MemberSpecs, StructLayout } from "@iommu/core"
import * as uapi from "@iommu/iommufd"

const MAX = (1n << 64n) - 1n

export type Kind =
  | "size"
  | "iova"
  | "id"
  | "flags"
  | "reserved"
  | "type"
  | "bytes"
  | "length"
  | "address"
  | "small"

/** Kinds of objects that members name. */
export const WANTED: Readonly<Record<string, readonly string[]>> = {
  devId: ["device"],
  ptId: ["ioas", "ioas", "hwpt-paging", "viommu"],
  hwptId: ["hwpt-paging", "hwpt-nested", "viommu"],
  viommuId: ["viommu"],
  ioasId: ["ioas"],
  dstIoasId: ["ioas"],
  srcIoasId: ["ioas"],
  faultId: ["fault"],
}

export interface Struct {
  readonly name: string
  readonly size: number
  readonly members: readonly {
    readonly name: string
    readonly kind: Kind
    readonly type: string
    readonly offset: number
  }[]
}

/** What kind of value a member wants, told by its name. */
function kindOf(member: string): Kind {
  if (member === "size") return "size"
  if (/id$/i.test(member)) return "id"
  if (/flags/.test(member)) return "flags"
  if (/reserved/.test(member)) return "reserved"
  if (/type/i.test(member)) return "type"
  if (/len$/i.test(member)) return "bytes"
  if (/length|pagesize/i.test(member)) return "length"
  if (/iova$/i.test(member)) return "iova"
  return /iovas$|va$|uptr|data|start/i.test(member) ? "address" : "small"
}

function structOf({ name: struct, size, members }: StructLayout<MemberSpecs>): Struct {
  const scalars = Object.entries(members).filter(([, [type]]) => !type.includes("["))
  return {
    name: struct,
    size,
    members: scalars.map(([name, [type, offset]]) => ({ name, kind: kindOf(name), type, offset })),
  }
}

export const FLAGS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 6, 6, 7, 7, 8, 9, 16]
export const BYTES = [0, 0, 8, 8, 8, 12, 24, 24, 32, 4096]
export const LENGTHS = [0n, 1n, 0x800n, 0x1000n, 0x1000n, 0x2000n, 0x5000n, 1n << 40n, MAX - 1n, MAX]

export const STRUCTS: readonly (readonly [number, StructLayout<MemberSpecs>])[] = [
  [uapi.IommufdCommand.DESTROY, uapi.IOMMU_DESTROY],
  [uapi.IommufdCommand.IOAS_ALLOC, uapi.IOMMU_IOAS_ALLOC],
  [uapi.IommufdCommand.IOAS_ALLOW_IOVAS, uapi.IOMMU_IOAS_ALLOW_IOVAS],
  [uapi.IommufdCommand.IOAS_COPY, uapi.IOMMU_IOAS_COPY],
  [uapi.IommufdCommand.IOAS_IOVA_RANGES, uapi.IOMMU_IOAS_IOVA_RANGES],
  [uapi.IommufdCommand.IOAS_MAP, uapi.IOMMU_IOAS_MAP],
  [uapi.IommufdCommand.IOAS_MAP, uapi.IOMMU_IOAS_MAP],
  [uapi.IommufdCommand.IOAS_UNMAP, uapi.IOMMU_IOAS_UNMAP],
  [uapi.IommufdCommand.OPTION, uapi.IOMMU_OPTION],
  [uapi.IommufdCommand.VFIO_IOAS, uapi.IOMMU_VFIO_IOAS],
  [uapi.IommufdCommand.HWPT_ALLOC, uapi.IOMMU_HWPT_ALLOC],
  [uapi.IommufdCommand.HWPT_ALLOC, uapi.IOMMU_HWPT_ALLOC],
  [uapi.IommufdCommand.GET_HW_INFO, uapi.IOMMU_GET_HW_INFO],
  [uapi.IommufdCommand.HWPT_SET_DIRTY_TRACKING, uapi.IOMMU_HWPT_SET_DIRTY_TRACKING],
  [uapi.IommufdCommand.HWPT_GET_DIRTY_BITMAP, uapi.IOMMU_HWPT_GET_DIRTY_BITMAP],
  [uapi.IommufdCommand.HWPT_INVALIDATE, uapi.IOMMU_HWPT_INVALIDATE],
  [uapi.IommufdCommand.FAULT_QUEUE_ALLOC, uapi.IOMMU_FAULT_QUEUE_ALLOC],
  [uapi.IommufdCommand.IOAS_MAP_FILE, uapi.IOMMU_IOAS_MAP_FILE],
  [uapi.IommufdCommand.VIOMMU_ALLOC, uapi.IOMMU_VIOMMU_ALLOC],
  [uapi.IommufdCommand.VDEVICE_ALLOC, uapi.IOMMU_VDEVICE_ALLOC],
  [uapi.IommufdCommand.IOAS_CHANGE_PROCESS, uapi.IOMMU_IOAS_CHANGE_PROCESS],
  [uapi.IommufdCommand.VEVENTQ_ALLOC, uapi.IOMMU_VEVENTQ_ALLOC],
  [uapi.IommufdCommand.HW_QUEUE_ALLOC, uapi.IOMMU_HW_QUEUE_ALLOC],
  [uapi.IommufdCommand.IOAS_NOIOMMU_GET_PA, uapi.IOMMU_IOAS_NOIOMMU_GET_PA],
]

export const COMMANDS = STRUCTS.map(([command, layout]) => [command, structOf(layout)] as const)
