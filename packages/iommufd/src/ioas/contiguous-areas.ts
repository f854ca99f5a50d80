import { IommuError } from "@iommu/core"
import type { Area } from "./area.ts"
import type { Interval } from "./interval-tree.ts"
import type { Ioas } from "./ioas.ts"

/** The part of an area that lies in a range. */
export interface AreaPart extends Interval {
  readonly area: Area
}

/** The areas that cover a range without a hole, each cut to it. @throws ENOENT when there is a hole */
export function contiguousAreas(ioas: Ioas, start: bigint, last: bigint): AreaPart[] {
  const parts: AreaPart[] = []
  let from = start
  while (from <= last) {
    const area = ioas.areas.firstOverlap(from, from)
    if (area === undefined) throw new IommuError("ENOENT", `nothing is mapped at 0x${from.toString(16)}`)
    parts.push({ area, start: from, last: area.last < last ? area.last : last })
    from = area.last + 1n
  }
  return parts
}
