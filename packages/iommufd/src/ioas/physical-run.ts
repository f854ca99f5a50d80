/** IOAS_NOIOMMU_GET_PA: what devices without an IOMMU need to be told. */
import { IommuError, PAGE_SIZE, type PagingDomain, U64_MAX } from "@iommu/core"
import type { Ioas } from "./ioas.ts"

export interface PhysicalRun {
  readonly address: bigint
  /** Bytes from there on that are contiguous. */
  readonly length: bigint
}

/**
 * @param domain the IOAS's domain of devices without an IOMMU, if it has one
 * @returns the address behind an IOVA, and how many bytes follow it without a break, at most `length`
 * @throws EINVAL for an empty range or a revoked dma-buf, EOVERFLOW, ENOENT for an IOVA that is not mapped,
 *   EOPNOTSUPP without domain
 */
export function physicalRun(
  ioas: Ioas,
  domain: PagingDomain | null,
  iova: bigint,
  length: bigint,
): PhysicalRun {
  if (length === 0n) throw new IommuError("EINVAL", "a range is not empty")
  if (iova >= U64_MAX) throw new IommuError("EOVERFLOW", "the range ends beyond the last IOVA")
  const area = ioas.areas.firstOverlap(iova, iova)
  if (area === undefined) throw new IommuError("ENOENT", `nothing is mapped at 0x${iova.toString(16)}`)
  if (area.pages.kind === "dma-buf" && area.pages.isRevoked) {
    throw new IommuError("EINVAL", "the dma-buf behind the IOVA is revoked")
  }
  if (domain === null) {
    throw new IommuError("EOPNOTSUPP", "physical addresses are for devices without an IOMMU alone")
  }
  const address = domain.iovaToPhys(iova)
  if (address === null) throw new IommuError("ENOENT", `nothing is mapped at 0x${iova.toString(16)}`)
  const room = area.last - iova + 1n
  const most = length < room ? length : room
  let bytes = BigInt(PAGE_SIZE) - (iova % BigInt(PAGE_SIZE))
  while (bytes < most && domain.iovaToPhys(iova + bytes) === address + bytes) bytes += BigInt(PAGE_SIZE)
  return { address, length: bytes < most ? bytes : most }
}
