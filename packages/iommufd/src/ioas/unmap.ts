/** Removing areas: whole ones only, from below. Linux's `iopt_unmap_iova_range`. */
import { IommuError } from "@iommu/core"
import type { Area } from "./area.ts"
import { removeArea } from "./insert-areas.ts"
import type { Ioas } from "./ioas.ts"

/** How often accesses are asked to let go of an area. */
const MOST_REQUESTS = 100

/** @returns bytes removed. @throws EBUSY, ENOENT, EDEADLOCK at an area; those below it are gone then */
export function unmapRange(ioas: Ioas, start: bigint, last: bigint): bigint {
  let bytes = 0n
  let from = start
  for (;;) {
    const area = from > last ? undefined : ioas.areas.firstOverlap(from, last)
    if (area === undefined) return bytes
    if (area.locks > 0) throw new IommuError("EBUSY", "a queue of the hardware lies in the area")
    if (area.start < from || area.last > last) {
      throw new IommuError("ENOENT", "an area is only partly in the range")
    }
    releaseAccesses(ioas, area)
    bytes += area.length
    from = area.last + 1n
    removeArea(area)
  }
}

function releaseAccesses(ioas: Ioas, area: Area): void {
  if (area.accesses === 0) return
  area.preventsAccess = true
  for (let request = 0; request < MOST_REQUESTS && area.accesses > 0; request++) {
    ioas.notifyUnmap(area.start, area.length)
  }
  if (area.accesses > 0) throw new IommuError("EDEADLOCK", "an access does not let go of the area")
}
