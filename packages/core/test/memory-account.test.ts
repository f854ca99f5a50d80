import { MemoryAccount } from "@iommu/core"
import { describe, expect, it } from "vitest"

describe("memory account", () => {
  it("charges the pages that small objects fill or begin", () => {
    const account = new MemoryAccount("owner")
    account.chargeBytes(100)
    account.chargeBytes(3996)
    expect([account.usagePages, account.objectBytes]).toEqual([1, 4096])
    account.chargeBytes(1)
    account.charge(5)
    expect(account.usagePages).toBe(7)
    account.unchargeBytes(2)
    expect([account.usagePages, account.objectBytes]).toEqual([6, 4095])
    account.unchargeBytes(4095)
    expect(account.usagePages).toBe(5)
  })

  it("refuses the object that needs a page too many, and charges nothing: ENOMEM", () => {
    const account = new MemoryAccount("owner", 1)
    account.chargeBytes(4096)
    expect(() => account.chargeBytes(1)).toThrow(/ENOMEM.*limit of 1/)
    expect([account.usagePages, account.objectBytes]).toEqual([1, 4096])
  })

  it("knows its own bugs", () => {
    const account = new MemoryAccount("owner")
    account.chargeBytes(8)
    expect(() => account.unchargeBytes(9)).toThrow(/bug: account "owner" uncharges 9 bytes of 8/)
  })
})
