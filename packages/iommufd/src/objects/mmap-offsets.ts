/** Offsets of the iommufd file at which pages of hardware can be mapped: Linux's `mt_mmap`. */
import { IommuError, type MappablePages, PAGE_SIZE } from "@iommu/core"
import type { KernelObject } from "./object.ts"

/** What `mmap` is asked for. */
export interface MmapRequest {
  readonly offset: bigint
  readonly length: bigint
  readonly sharing: "shared" | "private"
  /** PROT_EXEC among the protections. */
  readonly executable?: boolean
}

/** Pages of hardware in a process's address space. */
export interface HardwareMapping extends MappablePages {
  /** `munmap`. */
  unmap(): void
}

interface Region {
  readonly offset: bigint
  readonly pages: MappablePages
  readonly owner: KernelObject
}

/** What a mapping keeps alive beside its owner: the open file. */
export interface Holder {
  hold(): void
  drop(): void
}

export class MmapOffsets {
  readonly #file: Holder
  /** In the order of their offsets, without overlap. */
  #regions: readonly Region[] = []

  constructor(file: Holder) {
    this.#file = file
  }

  /** @returns the lowest offset at which the pages fit */
  add(owner: KernelObject, pages: MappablePages): bigint {
    let offset = 0n
    for (const region of this.#regions) {
      if (region.offset - offset >= pages.length) break
      offset = region.offset + region.pages.length
    }
    this.#regions = [...this.#regions, { offset, pages, owner }].sort((a, b) =>
      a.offset < b.offset ? -1 : 1,
    )
    return offset
  }

  removeAll(owner: KernelObject): void {
    this.#regions = this.#regions.filter(region => region.owner !== owner)
  }

  /**
   * Maps what was handed out at an offset, which holds its owner and the file.
   * @throws EINVAL for a private mapping or a length that is not whole pages; EPERM for an executable one; ENXIO when
   *   offset and length are not those of one region
   */
  map(request: MmapRequest): HardwareMapping {
    if (request.length % BigInt(PAGE_SIZE) !== 0n) throw new IommuError("EINVAL", "mmap maps whole pages")
    if (request.sharing === "private") throw new IommuError("EINVAL", "pages of hardware are mapped shared")
    if (request.executable === true) throw new IommuError("EPERM", "pages of hardware are not executable")
    const region = this.#regions.find(({ offset }) => offset === request.offset)
    if (region === undefined || region.pages.length !== request.length) {
      throw new IommuError("ENXIO", "offset and length must be those that an object handed out")
    }
    const { owner, pages } = region
    owner.users++
    this.#file.hold()
    let isMapped = true
    return {
      ...pages,
      unmap: () => {
        if (!isMapped) return
        isMapped = false
        owner.users--
        this.#file.drop()
      },
    }
  }
}
