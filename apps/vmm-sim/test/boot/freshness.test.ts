/** The detector of stale translations has to find one: a page moved without an invalidation, and one with it. */
import { ACCESS_READ, type CachePolicy, type MemoryBacking } from "@iommu/core"
import { describe, expect, it } from "vitest"
import type { Hardware } from "../../src/boot/machine/hardware.ts"
import { createHardware } from "../../src/boot/machine/hardware.ts"
import { vtd } from "../../src/boot/platforms/vtd.ts"

const ROOT = 0x1000n
const CONTEXTS = 0x2000n
const TABLES = [0x3000n, 0x4000n, 0x5000n, 0x6000n] as const
const DEVICE = 0x18
const BYTES = 1 << 20

/** Legacy mode by VT-d 5.10: §9.1 root entry, §9.3 context entry, §9.8 second-stage entries of four levels. */
function boardWithTables(caches: CachePolicy): {
  hardware: Hardware
  write(address: bigint, value: bigint): void
} {
  const bytes = new Uint8Array(BYTES)
  const view = new DataView(bytes.buffer)
  const ram: MemoryBacking & { path: string; close(): void } = {
    path: "",
    close: () => undefined,
    load: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
    store: (offset, from) => bytes.set(from, offset),
  }
  const write = (address: bigint, value: bigint): void => view.setBigUint64(Number(address), value, true)
  const mode = vtd.modes["legacy"]
  if (mode === undefined) throw new Error("no such mode")
  const { createModel } = mode
  const hardware = createHardware({
    platform: vtd,
    createModel,
    caches,
    ram,
    ramBytes: BYTES,
    device: DEVICE,
    onMessage: () => undefined,
  })
  write(ROOT, CONTEXTS | 1n)
  write(CONTEXTS + BigInt(DEVICE) * 16n, TABLES[0] | 1n)
  write(CONTEXTS + BigInt(DEVICE) * 16n + 8n, 2n | (1n << 8n))
  write(TABLES[0], TABLES[1] | 3n)
  write(TABLES[1], TABLES[2] | 3n)
  write(TABLES[2], TABLES[3] | 3n)
  write(TABLES[3], 0x8000n | 3n)
  const { trap } = hardware
  trap.writeBar(0x20, 8, ROOT)
  trap.writeBar(0x18, 4, 1n << 30n)
  trap.writeBar(0x18, 4, 1n << 31n)
  return { hardware, write }
}

describe("stale translations", () => {
  it("are found when a page moves without an invalidation, and not with one", () => {
    const { hardware, write } = boardWithTables("hoard")
    const { iommu, freshness, trap } = hardware
    const translate = (): number => iommu.translate(DEVICE, -1, 0, 0x10, ACCESS_READ)
    expect(translate()).toBe(0)
    expect(translate()).toBe(0)
    expect(freshness?.stale).toBe(0)
    write(TABLES[3], 0x9000n | 3n)
    translate()
    expect(freshness?.hits).toEqual([{ device: DEVICE, iova: "0x10", kept: "0x8010", now: "0x9010" }])
    // IOTLB_REG at 0xf8: IVT, global.
    trap.writeBar(0xf8, 8, (1n << 63n) | (1n << 60n))
    translate()
    expect(freshness).toMatchObject({ stale: 1, compared: 4 })
  })

  it("are found when a page has gone, and the second model leaves no trace of its refusal", () => {
    const { hardware, write } = boardWithTables("hoard")
    const { iommu, freshness, trap } = hardware
    iommu.translate(DEVICE, -1, 0, 0x10, ACCESS_READ)
    write(TABLES[3], 0n)
    expect(iommu.translate(DEVICE, -1, 0, 0x10, ACCESS_READ)).toBe(0)
    expect(freshness?.hits).toEqual([{ device: DEVICE, iova: "0x10", kept: "0x8010", now: "LGN.3" }])
    expect(trap.readBar(0x34, 4), "FSTS").toBe(0n)
  })

  it("are looked for under hoard alone", () => {
    expect(boardWithTables("exact").hardware.freshness).toBeNull()
  })
})
