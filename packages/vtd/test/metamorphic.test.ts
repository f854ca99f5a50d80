import { type Configuration, defineMetamorphic, mostly, type NestedFormat, store } from "@iommu/conformance"
import { ACCESS_READ, ACCESS_WRITE, type PhysicalMemory } from "@iommu/core"
import { describe, it } from "vitest"
import { vtdModel } from "../src/index.ts"

const RTADDR = 0x20
const GCMD = 0x18
const SCALABLE = 1n << 10n
const PGTT = { first: 1, second: 2, nested: 3 } as const
/** Bit 50 of an entry, reserved with 46 bits of host address. §9.7, §9.8. */
const BEYOND = 1 << 18

/** Levels of the first stage and of the second. */
type Levels = readonly [first: 4 | 5, second: 3 | 4 | 5]

/** Intel VT-d 5.10 §9.1 to §9.8, typed as numbers. Scalable mode, requests without PASID from 00:00.0. */
const formatOf = ([first, second]: Levels): NestedFormat => ({
  name: `VT-d, ${first} and ${second} levels`,
  device: 0,
  granuleLg2: 12,
  stage1Levels: first,
  stage2Levels: second,
  hasHugeLeaves: true,
  // P, R/W, U/S, A, D, EA.
  stage1Plain: mostly([0x67, 0], 12, [
    [0x27, 0],
    [0x07, 0],
    [0x07, 0],
    [0x25, 0],
    [0x65, 0],
    [0x23, 0],
    [0x467, 0],
    [0x26, 0],
    [0x67, BEYOND],
  ]),
  stage1Large: [
    [0xe7, 0],
    [0xe7, 0],
    [0xa7, 0],
    [0x87, 0],
    [0x85, 0],
    [0xa3, 0],
    [0x4a7, 0],
  ],
  stage1Table: [0x467, 0],
  stage1Small: lo => lo & ~0x80,
  stage2Table: () => [3, 0],
  // R, W, A, D.
  stage2Page: mostly([3, 0], 12, [
    [1, 0],
    [2, 0],
    [0, 0],
    [0x303, 0],
    [0x103, 0],
    [3, BEYOND],
  ]),
  stage2Large: mostly([0x83, 0], 6, [
    [0x81, 0],
    [0x82, 0],
    [0x383, 0],
  ]),
  stage2Small: lo => lo & ~0x80,
  stage1Updates: { sets: 0x460, clears: 0 },
  stage2Updates: { sets: 0x300, clears: 0 },
  readsGuestConfig: false,
  // §3.8.1: with SSADE both permissions.
  fetchNeeds: variant => (((variant >>> 2) & 1) === 0 ? ACCESS_READ : ACCESS_READ | ACCESS_WRITE),
  configure: (memory, how) => configure(memory, how, [first, second]),
  start: (memory, { config }, caches) => {
    const model = vtdModel({ memory, hostAddressWidth: 46, caches })
    model.mmio.write64(RTADDR, BigInt(config) | SCALABLE)
    model.mmio.write32(GCMD, 0x4000_0000)
    model.mmio.write32(GCMD, 0x8000_0000)
    return model
  },
})

/** Variants choose RID_PRIV, SSADE, WPE, EAFE. */
function configure(memory: PhysicalMemory, how: Configuration, [firstLevels, secondLevels]: Levels): void {
  const { config, variant, stages, stage1Root, stage2Root } = how
  const bit = (n: number, at: number): number => ((variant >>> n) & 1) << at
  store(memory, config, (config + 0x1000) | 1, 0)
  store(memory, config + 0x1000, (config + 0x2000) | 1, 0)
  store(memory, config + 0x1008, bit(0, 20) & bit(1, 20), 0)
  store(memory, config + 0x2000, (config + 0x3000) | 1, 0)
  const table = stages === "first" ? 0 : stage2Root | bit(2, 9)
  store(memory, config + 0x3000, table | ((secondLevels - 2) << 2) | (PGTT[stages] << 6) | 1, 0)
  store(memory, config + 0x3008, 5 | (1 << 23), 0)
  const first = stages === "second" ? 0 : stage1Root | bit(3, 4) | bit(4, 7) | ((firstLevels - 4) << 2)
  store(memory, config + 0x3010, first | 1, 0)
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
