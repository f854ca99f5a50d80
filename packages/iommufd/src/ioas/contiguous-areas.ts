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
  const parts = areasToHole(ioas, start, last)
  checkNoHole(parts, start, last)
  return parts
}

/** The areas of a range up to the first hole. */
export function areasToHole(ioas: Ioas, start: bigint, last: bigint): AreaPart[] {
  const parts: AreaPart[] = []
  for (let from = start; from <= last; ) {
    const area = ioas.areas.firstOverlap(from, from)
    if (area === undefined) break
    parts.push({ area, start: from, last: area.last < last ? area.last : last })
    from = area.last + 1n
  }
  return parts
}

/** @throws ENOENT when the parts end before the range */
export function checkNoHole(parts: readonly AreaPart[], start: bigint, last: bigint): void {
  const end = parts.at(-1)?.last ?? start - 1n
  if (end !== last) throw new IommuError("ENOENT", `nothing is mapped at 0x${(end + 1n).toString(16)}`)
}
