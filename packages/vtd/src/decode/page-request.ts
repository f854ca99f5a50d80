/** Entries of the page request queue in values. Intel VT-d 5.10 (D51397-018) §7.4.1.1. */
import type { PageRequest } from "@iommu/core"
import { PAGE_REQ_DSC, PAGE_REQ_TYPE } from "../spec/events.ts"

/** @returns null for an entry of a type that no book has */
export function decodePageRequest(words: readonly bigint[]): PageRequest | null {
  const request = PAGE_REQ_DSC.decode(words)
  if (request.Type !== BigInt(PAGE_REQ_TYPE)) return null
  return {
    device: Number(request.RID),
    pasid: request.PP === 1n ? Number(request.PASID) : null,
    address: request.ADDR << 12n,
    read: request.RDR === 1n,
    write: request.WRR === 1n,
    execute: request.EXR === 1n,
    privileged: request.PMR === 1n,
    last: request.LPIG === 1n,
    group: Number(request.PRGI),
  }
}
