import { IdPool } from "@iommu/core"

/** ASIDs or VMIDs of a width. 0 is never handed out: it tags what has no domain of its own. */
export function tags(what: "ASID" | "VMID", bits: number): IdPool {
  return new IdPool(what, 1, 2 ** bits - 1)
}
