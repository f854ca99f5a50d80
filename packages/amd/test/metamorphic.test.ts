import { type Configuration, defineMetamorphic, mostly, type NestedFormat, store } from "@iommu/conformance"
import { ACCESS_READ, type PhysicalMemory } from "@iommu/core"
import { describe, it } from "vitest"
import { amdModel } from "../src/index.ts"

const DEVTAB_BASE = 0x00
const CONTROL = 0x18
const IOMMU_EN = 1n << 0n
const GT_EN = 1n << 16n
const GD_UPDATE_DIS = 1n << 48n
const GA_UPDATE_DIS = 1n << 54n
const DEVICE = 1
/** High half of a guest entry: NX. Of a host entry: IR and IW. §2.2.6, §2.2.3. */
const NX = 0x8000_0000
const IR = 1 << 29
const IW = 1 << 30
/** High half of a DTE: GIOV, GV. §2.2.2.1. */
const GUEST = 3 << 22

/** Levels of guest and of host tables. */
type Levels = readonly [guest: 4 | 5, host: 3 | 4 | 5]

/** AMD 48882 rev 3.10 §2.2, typed as numbers. Guest tables by GIOV. */
const formatOf = ([guest, host]: Levels): NestedFormat => ({
  name: `AMD, ${guest} and ${host} levels`,
  device: DEVICE,
  granuleLg2: 12,
  stage1Levels: guest,
  stage2Levels: host,
  hasHugeLeaves: true,
  // P, R/W, U/S, A, D.
  stage1Plain: mostly([0x67, 0], 14, [
    [0x27, 0],
    [0x07, 0],
    [0x07, 0],
    [0x25, 0],
    [0x65, 0],
    [0x23, 0],
    [0x67, NX],
    [0x26, 0],
  ]),
  stage1Large: [
    [0xe7, 0],
    [0xe7, 0],
    [0xa7, 0],
    [0x87, 0],
    [0x85, 0],
    [0xa3, 0],
    [0xa7, NX],
  ],
  stage1Table: [0x67, 0],
  stage1Small: lo => lo & ~0x80,
  // PR, NextLevel, IR, IW.
  stage2Table: level => [1 | (level << 9), IR | IW],
  stage2Page: mostly([1, IR | IW], 12, [
    [1, IR],
    [1, IW],
    [0, IR | IW],
    [0x61, IR | IW],
    [0x21, IR | IW],
  ]),
  stage2Large: mostly([1, IR | IW], 5, [
    [1, IR],
    [0x61, IR | IW],
  ]),
  stage2Small: lo => lo,
  stage1Updates: { sets: 0x60, clears: 0 },
  stage2Updates: { sets: 0x60, clears: 0 },
  readsGuestConfig: false,
  fetchNeeds: () => ACCESS_READ,
  configure: (memory, how) => configure(memory, how, [guest, host]),
  start: (memory, { config, variant }, caches) => {
    const model = amdModel({ memory, caches })
    model.mmio.write64(DEVTAB_BASE, BigInt(config))
    const guestDirty = (variant & 4) === 0 ? 0n : GD_UPDATE_DIS
    const guestAccessed = (variant & 8) === 0 ? 0n : GA_UPDATE_DIS
    model.mmio.write64(CONTROL, IOMMU_EN | GT_EN | guestDirty | guestAccessed)
    return model
  },
})

/** Variants choose HAD, and who updates A and D of guest tables. */
function configure(memory: PhysicalMemory, how: Configuration, [guestLevels, hostLevels]: Levels): void {
  const { config, variant, stages, stage1Root, stage2Root } = how
  const had = [0, 1, 3, 3][variant & 3] as number
  const host = stages === "first" ? 0 : stage2Root | (hostLevels << 9) | (had << 7)
  const gcr3 = config + 0x1000
  const guest = stages === "second" ? 0 : GUEST | (((gcr3 >>> 12) & 7) << 26)
  const dte = config + 32 * DEVICE
  store(memory, dte, host | 3, IR | IW | guest)
  store(memory, dte + 8, stages === "second" ? 5 : 5 | (((gcr3 >>> 15) & 0xffff) << 16), 0)
  // GuestPagingMode, bits 183:182.
  store(memory, dte + 16, 0, stages === "second" ? 0 : (guestLevels - 4) << 22)
  if (stages !== "second") store(memory, gcr3, stage1Root | 1, 0)
}

const cases = Number(process.env["METAMORPHIC_CASES"] ?? 100_000)

defineMetamorphic({ describe, it }, formatOf([4, 4]), { seed: 20261123, cases })
for (const levels of [
  [4, 3],
  [5, 4],
  [5, 5],
] as const) {
  defineMetamorphic({ describe, it }, formatOf(levels), { seed: 20261129, cases: cases / 10 })
}
