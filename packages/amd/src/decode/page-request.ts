/** PPR log entries in values. AMD 48882 rev 3.10, §2.6. */
import type { PageRequest } from "@iommu/core"
import { PAGE_SERVICE_REQUEST, PPR_PAGE_SERVICE_REQUEST } from "../spec/events.ts"

/** What a page request has at the same bits in the PPR log and in the event that refuses it. */
type RequestFields = Readonly<
  Record<
    "DeviceID" | "PASID_15_0" | "PASID_19_16" | "Tag" | "Last" | "EX" | "RD" | "WR" | "US" | "GN",
    bigint
  >
>

/** @returns null for an entry of a code that no book has */
export function decodePageRequest(words: readonly bigint[]): PageRequest | null {
  const ppr = PAGE_SERVICE_REQUEST.decode(words)
  if (ppr.Code !== BigInt(PPR_PAGE_SERVICE_REQUEST)) return null
  return decodeRequest(ppr, ppr.Address << 12n)
}

export function decodeRequest(ppr: RequestFields, address: bigint): PageRequest {
  return {
    device: Number(ppr.DeviceID),
    pasid: ppr.GN === 1n ? Number((ppr.PASID_19_16 << 16n) | ppr.PASID_15_0) : null,
    address,
    read: ppr.RD === 1n,
    write: ppr.WR === 1n,
    execute: ppr.EX === 1n,
    privileged: ppr.GN === 1n && ppr.US === 0n,
    last: ppr.Last === 1n,
    group: Number(ppr.Tag),
  }
}
