/** Memory of queues that hardware reads by physical address, beside all translation. */
import { IommuError, PAGE_SIZE } from "@iommu/core"
import { checkPinnable, partsOf, pinParts } from "./access.ts"
import type { Ioas } from "./ioas.ts"

/** Physically contiguous memory whose areas cannot be unmapped. */
export interface PinnedRange {
  /** Physical address of the first byte. */
  readonly address: bigint
  /** Once. */
  release(): void
}

/**
 * @throws EINVAL for an empty range or a dma-buf; EOVERFLOW; ENOENT for holes; EPERM when it is not readable; EFAULT
 *   when its pages are not contiguous; ENOMEM
 */
export function pinContiguous(ioas: Ioas, iova: bigint, length: bigint): PinnedRange {
  const parts = partsOf(ioas, iova, length)
  for (const part of parts) {
    if (!part.area.access.readable) throw new IommuError("EPERM", "a queue lies in areas that can be read")
    checkPinnable(part, "read")
  }
  const pin = pinParts(ioas, parts)
  const [first] = pin.pages as readonly [bigint, ...bigint[]]
  if (pin.pages.some((page, index) => page !== first + BigInt(index * PAGE_SIZE))) {
    pin.release()
    throw new IommuError("EFAULT", "the pages of a queue are physically contiguous")
  }
  for (const { area } of parts) area.locks++
  return {
    address: first + (iova & 0xfffn),
    release: () => {
      for (const { area } of parts) area.locks--
      pin.release()
    },
  }
}
