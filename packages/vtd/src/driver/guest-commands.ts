/**
 * What a guest asks to be invalidated of its first stage: `struct iommu_hwpt_vtd_s1_invalidate`, checked and carried
 * out with the host's tags. Linux's `intel_nested_cache_invalidate_user`; Intel VT-d 5.10 §6.5.2.4.
 */
import {
  type CacheInvalidateData,
  type CacheInvalidateResult,
  HwptInvalidateDataType,
  IommuError,
  isIommuError,
  U64_MAX,
  VTD_INV_FLAGS_LEAF,
  type VtdS1Invalidate,
} from "@iommu/core"
import { invalidateGuestPages } from "./invalidate.ts"
import type { VtdNestedDomain } from "./nested-domain.ts"

const LAST_PAGE = 2 ** 52 - 1

/** Entries before a bad one are done and waited for. */
export function carryOutGuestCommands(
  domain: VtdNestedDomain,
  data: CacheInvalidateData,
): CacheInvalidateResult {
  if (data.type !== HwptInvalidateDataType.VTD_S1) {
    const rule = "only invalidations of VT-d's first stage are served"
    return { handled: 0, error: new IommuError("EINVAL", rule) }
  }
  const refusal = data.entries.findIndex(entry => errorOf(entry) !== null)
  const good = refusal < 0 ? data.entries : data.entries.slice(0, refusal)
  try {
    for (const entry of good) carryOut(domain, entry)
    domain.ops.hardware.queue.sync()
  } catch (error) {
    if (!isIommuError(error)) throw error
    // Which one the hardware refused is not known; repeating the others does no harm.
    return { handled: 0, error }
  }
  const wrong = data.entries[good.length]
  return { handled: good.length, error: wrong === undefined ? null : errorOf(wrong) }
}

function carryOut(domain: VtdNestedDomain, { addr, npages, flags }: Readonly<VtdS1Invalidate>): void {
  const isLeafOnly = (flags & VTD_INV_FLAGS_LEAF) !== 0
  const first = Number(addr >> 12n)
  const last = npages === U64_MAX ? LAST_PAGE : first + Number(npages) - 1
  invalidateGuestPages(domain, first, last, isLeafOnly)
}

/**
 * No pages, and ranges that run past 2^64, are refused on purpose: Linux lets them wrap, and invalidates something
 * else than was asked for.
 */
function errorOf(entry: Readonly<VtdS1Invalidate>): IommuError | null {
  const { addr, npages, flags, __reserved } = entry
  if ((flags & ~VTD_INV_FLAGS_LEAF) !== 0 || __reserved !== 0) {
    return new IommuError("EOPNOTSUPP", "unknown flags and the reserved member must be 0")
  }
  if ((addr & 0xfffn) !== 0n) return new IommuError("EINVAL", "addr is a multiple of 4096")
  if (npages === U64_MAX) {
    return addr === 0n ? null : new IommuError("EINVAL", "npages of all ones means everything, from addr 0")
  }
  if (npages === 0n || addr + npages * 4096n > U64_MAX + 1n) {
    return new IommuError("EINVAL", "npages counts at least one page, and none beyond 2^64")
  }
  return null
}
