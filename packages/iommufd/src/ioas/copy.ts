/** Showing pages at a second place, pinned and counted once. Linux's `iopt_get_pages`. */
import { IommuError, U64_MAX } from "@iommu/core"
import type { Process } from "../process/process.ts"
import type { AreaSlice } from "./area.ts"
import { contiguousAreas } from "./contiguous-areas.ts"
import { insertAreas } from "./insert-areas.ts"
import type { Ioas, MapTarget } from "./ioas.ts"

export interface CopyRequest extends MapTarget {
  readonly sourceIova: bigint
}

export function copyAreas(target: Ioas, source: Ioas, process: Process, request: CopyRequest): bigint {
  const slices = slicesOf(source, request.sourceIova, request.length)
  const { iova, readable, writeable } = request
  return insertAreas(target, { slices, iova, access: { readable, writeable }, account: process.account })
}

/** @throws EINVAL, EOVERFLOW, ENOENT */
function slicesOf(source: Ioas, iova: bigint, length: bigint): AreaSlice[] {
  if (length === 0n) throw new IommuError("EINVAL", "a range to copy is not empty")
  if (iova + length - 1n > U64_MAX) throw new IommuError("EOVERFLOW", "the range ends beyond the last IOVA")
  return contiguousAreas(source, iova, iova + length - 1n).map(({ area, start, last }) => ({
    pages: area.pages,
    startByte: area.byteAt(start),
    length: last - start + 1n,
  }))
}
