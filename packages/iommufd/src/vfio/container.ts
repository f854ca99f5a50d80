/** A VFIO container over an IOAS: what programs use that were written before iommufd. */
import { IommuError, PAGE_SIZE, U64_MAX } from "@iommu/core"
import type { Interval } from "../ioas/interval-tree.ts"
import type { Ioas } from "../ioas/ioas.ts"
import type { Process } from "../process/process.ts"
import { VfioExtension } from "./constants.ts"

/** What a container asks the open iommufd. */
export interface VfioBackend {
  /** The program that calls. */
  readonly process: Process
  /** The IOAS that VFIO_IOAS chose, null for none. */
  readonly vfioAddressSpace: Ioas | null
  /** True when all page tables of that IOAS make DMA coherent. */
  readonly enforcesCoherency: boolean
}

export interface VfioMapRequest {
  readonly vaddr: bigint
  readonly iova: bigint
  readonly size: bigint
  readonly readable: boolean
  readonly writeable: boolean
}

export interface VfioInfo {
  /** Page sizes, one bit each; none below 4096. */
  readonly pageSizes: bigint
  readonly iovaRanges: readonly Interval[]
  /** Mappings that can still be made: without a limit of its own, the largest number there is. */
  readonly dmaAvail: number
}

export class VfioContainer {
  readonly #backend: VfioBackend

  constructor(backend: VfioBackend) {
    this.#backend = backend
  }

  /** @throws ENODEV when DMA_CC_IOMMU is asked for without an IOAS */
  checkExtension(extension: bigint): boolean {
    switch (extension) {
      case BigInt(VfioExtension.TYPE1_IOMMU):
      case BigInt(VfioExtension.TYPE1V2_IOMMU):
      case BigInt(VfioExtension.UNMAP_ALL):
        return true
      case BigInt(VfioExtension.DMA_CC_IOMMU):
        this.#ioas()
        return this.#backend.enforcesCoherency
      default:
        return false
    }
  }

  /**
   * Type1 may unmap any part of a mapping, which needs small leaves; Type1v2 whole mappings only.
   * @throws EINVAL for another type; ENODEV without an IOAS; EINVAL, EADDRINUSE when it is in use with huge pages
   */
  setIommu(type: bigint): void {
    const isType1 = type === BigInt(VfioExtension.TYPE1_IOMMU)
    if (!isType1 && type !== BigInt(VfioExtension.TYPE1V2_IOMMU)) {
      throw new IommuError("EINVAL", `a container is of type 1 or 3, not ${type}`)
    }
    const ioas = this.#ioas()
    if (isType1) ioas.setHugePages(false)
  }

  /** @throws ENODEV */
  info(): VfioInfo {
    const ioas = this.#ioas()
    return {
      pageSizes: pageSizes(ioas),
      iovaRanges: ioas.iovaRanges().ranges,
      dmaAvail: 0xffff_ffff,
    }
  }

  /** @throws ENODEV; as IOAS_MAP at a fixed IOVA */
  mapDma({ vaddr, iova, size, readable, writeable }: VfioMapRequest): void {
    this.#ioas().map(this.#backend.process, { userVa: vaddr, length: size, iova, readable, writeable })
  }

  /**
   * @returns bytes unmapped, 0 when there was nothing
   * @throws ENODEV, EINVAL, EOVERFLOW; ENOENT for part of a mapping unless the container is of Type1; EBUSY
   */
  unmapDma(iova: bigint, size: bigint): bigint {
    const ioas = this.#ioas()
    const last = iova + size - 1n
    if (!ioas.usesHugePages && size > 0n && last <= U64_MAX) {
      ioas.cutAfter(last)
      if (iova > 0n) ioas.cutAfter(iova - 1n)
    }
    return ioas.unmapIfMapped(iova, size)
  }

  /** @throws ENODEV, EBUSY */
  unmapAllDma(): bigint {
    return this.#ioas().unmapAll()
  }

  #ioas(): Ioas {
    const ioas = this.#backend.vfioAddressSpace
    if (ioas === null) throw new IommuError("ENODEV", "VFIO_IOAS has chosen no IOAS for the container")
    return ioas
  }
}

/** Sizes below 4096 stand for 4096: containers know no smaller pages. */
function pageSizes(ioas: Ioas): bigint {
  const small = BigInt(PAGE_SIZE) - 1n
  const common = ioas.domains.reduce((sizes, domain) => sizes & domain.pageSizes, U64_MAX)
  const rounded = (common & small) === 0n ? common : (common & ~small) | BigInt(PAGE_SIZE)
  return rounded > ioas.alignment ? rounded : ioas.alignment
}
