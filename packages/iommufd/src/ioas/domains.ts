/** Domains that come to an IOAS and leave it. Linux's `iopt_table_add_domain` and `iopt_table_remove_domain`. */
import { IommuError, PAGE_SIZE, type PagingDomain, U64_MAX } from "@iommu/core"
import { fillDomain, unfillDomain } from "./domain-fill.ts"
import type { Ioas } from "./ioas.ts"
import { checkAreasAligned, recalculateAlignment, reserveRange, smallestPage } from "./narrowing.ts"

/** Bytes of an entry in Linux's xarray of domains. */
const SLOT_BYTES = 8

export function addDomain(ioas: Ioas, domain: PagingDomain): void {
  if (ioas.domains.includes(domain)) throw new IommuError("EEXIST", "the domain is one of the IOAS already")
  const page = smallestPage(domain)
  const alignment = page > ioas.alignment ? page : ioas.alignment
  if (alignment > BigInt(PAGE_SIZE)) {
    throw new IommuError("EINVAL", `the domain has no page of ${PAGE_SIZE} bytes or less`)
  }
  if (alignment > ioas.alignment) checkAreasAligned(ioas, alignment)
  ioas.account.chargeBytes(SLOT_BYTES)
  try {
    reserveOutside(ioas, domain)
    fillDomain(ioas.areas, domain)
  } catch (error) {
    ioas.reserved.remove(domain)
    ioas.account.unchargeBytes(SLOT_BYTES)
    throw error
  }
  ioas.alignment = alignment
  ioas.domains = [...ioas.domains, domain]
}

export function removeDomain(ioas: Ioas, domain: PagingDomain): void {
  if (!ioas.domains.includes(domain)) throw new IommuError("EINVAL", "the domain is none of the IOAS")
  ioas.domains = ioas.domains.filter(other => other !== domain)
  unfillDomain(ioas.areas, domain)
  ioas.reserved.remove(domain)
  ioas.account.unchargeBytes(SLOT_BYTES)
  recalculateAlignment(ioas)
}

function reserveOutside(ioas: Ioas, domain: PagingDomain): void {
  const { start, last } = domain.aperture
  if (start > 0n) reserveRange(ioas, domain, 0n, start - 1n)
  if (last < U64_MAX) reserveRange(ioas, domain, last + 1n, U64_MAX)
}
