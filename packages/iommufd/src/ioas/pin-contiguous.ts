/** Memory of queues that hardware reads by physical address, beside all translation. */
import { IommuError, PAGE_SIZE } from "@iommu/core"
import { pinRange } from "./access.ts"
import { contiguousAreas } from "./contiguous-areas.ts"
import type { Ioas } from "./ioas.ts"

/** Physically contiguous memory whose areas cannot be unmapped. */
export interface PinnedRange {
  /** Physical address of the first byte. */
  readonly address: bigint
  /** Once. */
  release(): void
}

/**
 * @param iova of the first page, @param length whole pages
 * @throws EINVAL for an empty range, pages that are not whole or a dma-buf; EOVERFLOW; ENOENT for holes; EPERM when it
 *   is not readable; EFAULT when its pages are not contiguous; ENOMEM
 */
export function pinContiguous(ioas: Ioas, iova: bigint, length: bigint): PinnedRange {
  const pin = pinRange(ioas, iova, length, "read")
  const [first] = pin.pages as readonly [bigint, ...bigint[]]
  if (pin.pages.some((page, index) => page !== first + BigInt(index * PAGE_SIZE))) {
    pin.release()
    throw new IommuError("EFAULT", "the pages of a queue are physically contiguous")
  }
  const areas = contiguousAreas(ioas, iova, iova + length - 1n).map(({ area }) => area)
  for (const area of areas) area.locks++
  return {
    address: first,
    release: () => {
      for (const area of areas) area.locks--
      pin.release()
    },
  }
}
