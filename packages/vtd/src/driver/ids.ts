import { IdPool } from "@iommu/core"

/** Domain-ids of CAP_REG.ND's width, above those that the driver's own domains have. Intel VT-d 5.10, §11.4.2. */
export function domainIds(first: number, bits: number): IdPool {
  return new IdPool("domain-id", first, 2 ** bits - 1)
}
