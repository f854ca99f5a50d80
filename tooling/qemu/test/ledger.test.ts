import { describe, expect, it } from "vitest"
import { LEDGER, ledgerDocument } from "../src/index.ts"

describe("the ledger", () => {
  it("is what docs/ledger.md says", async () => {
    await expect(ledgerDocument()).toMatchFileSnapshot("../../../docs/ledger.md")
  })

  it("names each slip once, with the section that decides", () => {
    expect(new Set(LEDGER.map(({ id }) => id)).size).toBe(LEDGER.length)
    for (const { id, vendor, section } of LEDGER) {
      expect(id.startsWith(`${vendor}-`)).toBe(true)
      expect(section).toMatch(/§\w/)
    }
  })
})
