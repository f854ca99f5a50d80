/** Putting slices of pages into an IOAS, one behind the other: what MAP, MAP_FILE and COPY end in. */
import { IommuError, type MemoryAccount, U64_MAX } from "@iommu/core"
import { AREA_BYTES, Area, type AreaAccess, type AreaSlice } from "./area.ts"
import { fillDomains, unfillDomains } from "./domain-fill.ts"
import type { Ioas } from "./ioas.ts"
import { placeIova } from "./placement.ts"

export interface Insertion {
  readonly slices: readonly AreaSlice[]
  /** Null: anywhere. */
  readonly iova: bigint | null
  readonly access: AreaAccess
  /** Pays for the areas. */
  readonly account: MemoryAccount
}

/**
 * Inserts areas and fills the domains with them. All or nothing.
 * @returns the IOVA of the first
 */
export function insertAreas(ioas: Ioas, insertion: Insertion): bigint {
  const { slices, access, account } = insertion
  const length = slices.reduce((sum, slice) => sum + slice.length, 0n)
  account.chargeBytes(AREA_BYTES * slices.length)
  const inserted: Area[] = []
  try {
    const start = chooseIova(ioas, insertion, length)
    for (const slice of slices) checkSlice(ioas, slice, access)
    let iova = start
    for (const slice of slices) {
      inserted.push(insertArea(ioas, new Area(ioas, iova, slice, access, account)))
      iova += slice.length
    }
    return start
  } catch (error) {
    for (const area of inserted) {
      unfillDomains(area)
      forget(area)
    }
    account.unchargeBytes(AREA_BYTES * slices.length)
    throw error
  }
}

/** Takes a filled area out and gives back what it cost. */
export function removeArea(area: Area): void {
  unfillDomains(area)
  forget(area)
  area.account.unchargeBytes(AREA_BYTES)
}

function insertArea(ioas: Ioas, area: Area): Area {
  fillDomains(area)
  area.pages.get()
  ioas.areas.insert(area)
  return area
}

function forget(area: Area): void {
  area.ioas.areas.remove(area)
  area.pages.put()
}

function chooseIova(ioas: Ioas, { slices, iova }: Insertion, length: bigint): bigint {
  if (length % ioas.alignment !== 0n) {
    throw new IommuError("EINVAL", `the length is no multiple of 0x${ioas.alignment.toString(16)}`)
  }
  if (iova !== null) {
    checkIova(ioas, iova, length)
    return iova
  }
  const first = slices[0] as AreaSlice
  return placeIova(ioas, first.pages.sourceAddress(first.startByte), length)
}

function checkIova(ioas: Ioas, iova: bigint, length: bigint): void {
  if (iova % ioas.alignment !== 0n) {
    throw new IommuError("EINVAL", `the IOVA is no multiple of 0x${ioas.alignment.toString(16)}`)
  }
  const last = iova + length - 1n
  if (last > U64_MAX) throw new IommuError("EOVERFLOW", "the range ends beyond the last IOVA")
  if (ioas.reserved.overlaps(iova, last)) {
    throw new IommuError("EINVAL", "the range touches reserved IOVAs, or lies outside a domain's aperture")
  }
  if (ioas.areas.firstOverlap(iova, last))
    throw new IommuError("EEXIST", "part of the range is mapped already")
}

/** Slices of a copy may come from areas that were less aligned: Linux leaves those to the driver, which refuses them. */
function checkSlice(ioas: Ioas, { pages, startByte, length }: AreaSlice, access: AreaAccess): void {
  if (access.writeable && !pages.writeable) {
    throw new IommuError("EPERM", "pages that were mapped read-only cannot be mapped writeable")
  }
  if ((startByte | length) % ioas.alignment !== 0n) {
    throw new IommuError(
      "EINVAL",
      `an area begins or ends at no multiple of 0x${ioas.alignment.toString(16)}`,
    )
  }
}
