import { defineConformance, type UserDataContract } from "@iommu/conformance"
import { HwptDataType, iommuDevice, type MemoryAccount, pagingParameters } from "@iommu/core"
import { describe, it } from "vitest"
import { mockDriver, mockDriverWithoutUserDomains } from "./mock-driver.ts"

const paging: UserDataContract = {
  type: HwptDataType.PAGING,
  parent: "none",
  valid: () => pagingParameters({}),
  refused: () => [
    { rule: "format", data: pagingParameters({ format: 9 }), errno: "EOPNOTSUPP", at: "alloc" },
  ],
  reservedBits: Array.from({ length: 32 }, (_, bit) => 96 + bit),
  reservedErrno: "EOPNOTSUPP",
  reservedAt: "alloc",
}

for (const [name, make, userData] of [
  ["mock", mockDriver, [paging]],
  ["mock without user domains", mockDriverWithoutUserDomains, []],
] as const) {
  const create = () => ({
    ops: make(),
    device: (n: number, account: MemoryAccount) => iommuDevice({ id: n, account }),
  })
  defineConformance({ describe, it }, { name, create, userData })
}
