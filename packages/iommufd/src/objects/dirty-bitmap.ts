/** Dirty pages as a value: the typed form of HWPT_GET_DIRTY_BITMAP. */
import { DirtyBitmap, toU64, type U64Like } from "@iommu/core"
import type { DirtySink } from "../ioas/dirty.ts"
import type { IommufdContext } from "./iommufd-context.ts"

export interface DirtyBitmapRequest {
  readonly hwptId: number
  readonly iova: U64Like
  readonly length: U64Like
  /** Bytes that one bit stands for: a power of two. */
  readonly pageSize: U64Like
  /** `keep`: the pages stay dirty for the next reader. */
  readonly after?: "keep" | "clear"
}

export function dirtyBitmap({ objects }: IommufdContext, request: DirtyBitmapRequest): DirtyBitmap {
  const { ioas, domain } = objects.get(request.hwptId, "hwpt-paging")
  const iova = toU64(request.iova, "iova")
  const length = toU64(request.length, "length")
  const pageSize = toU64(request.pageSize, "page size")
  const bitmap = new DirtyBitmap(iova, length, pageSize)
  ioas.ioas.readDirty(domain, { iova, length, pageSize }, request.after ?? "clear", sinkOf(bitmap, pageSize))
  return bitmap
}

function sinkOf(bitmap: DirtyBitmap, pageSize: bigint): DirtySink {
  return {
    mark: (words, firstBit, bitsLg2) => {
      const granule = pageSize << BigInt(bitsLg2)
      const first = bitmap.iova + firstBit * pageSize
      words.forEach((word, index) => {
        for (let bit = 0; bit < 32; bit++) {
          if (((word >>> bit) & 1) !== 0) bitmap.mark(first + BigInt(index * 32 + bit) * granule, granule)
        }
      })
    },
  }
}
