/** Mistakes that others made in finding an IOMMU, each by its thread. */

import { createMemory } from "@iommu/core"
import { vtdModel } from "@iommu/vtd"
import { describe, expect, it } from "vitest"
import { dmarTable } from "../../src/boot/firmware/dmar.ts"
import { RegisterTrap } from "../../src/boot/machine/trap.ts"

const REGISTER_BASE = 0xfed9_0000n
/** Offsets of the six BARs in a configuration header. PCI Local Bus 3.0 §6.2.5. */
const BARS = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24]
/** Register Base Address: offset 8 of the DRHD, which follows the 48 bytes of the DMAR's head. VT-d 5.10 §8.1, §8.3. */
const DRHD_REGISTER_BASE = 48 + 8

describe("mistakes of others", () => {
  it("fullerene#211: a VT-d unit's registers stand where its DRHD says, and no BAR tells", () => {
    const { mmio } = vtdModel({ memory: createMemory([{ base: 0, size: 0x1000 }]) })
    const trap = new RegisterTrap(mmio, 0x1000)
    trap.writeConfig(0x10, 4, Number(REGISTER_BASE))
    trap.hide()
    for (const bar of BARS) expect(trap.readConfig(bar, 4), `BAR at ${bar}`).toBe(0xffff_ffff)
    expect(trap.readBar(8, 8), "CAP is read all the same").toBe(mmio.read64(8))

    const table = dmarTable({ registerBase: REGISTER_BASE, hostAddressWidth: 39 })
    const view = new DataView(table.buffer, table.byteOffset)
    expect(view.getBigUint64(DRHD_REGISTER_BASE, true)).toBe(REGISTER_BASE)
  })
})
