/** Entries of the PRI queue in values. Arm IHI 0070 G.b §8. */
import type { PageRequest } from "@iommu/core"
import { PPR } from "../spec/events.ts"

/** Every entry is a page request: its queue has no other kind. */
export function decodePageRequest(words: readonly bigint[]): PageRequest {
  const ppr = PPR.decode(words)
  return {
    device: Number(ppr.StreamID),
    pasid: ppr.SSV === 1n ? Number(ppr.SubstreamID) : null,
    address: ppr.Address << 12n,
    read: ppr.R === 1n,
    write: ppr.W === 1n,
    execute: ppr.X === 1n,
    privileged: ppr.Priv === 1n,
    last: ppr.Last === 1n,
    group: Number(ppr.PRGIndex),
  }
}
