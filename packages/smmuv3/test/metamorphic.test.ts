import { type Configuration, defineMetamorphic, mostly, type NestedFormat, store } from "@iommu/conformance"
import { ACCESS_READ, type PhysicalMemory } from "@iommu/core"
import { describe, it } from "vitest"
import { SMMUV3_EVERYTHING, smmuv3Model } from "../src/index.ts"

const CR0 = 0x20
const STRTAB_BASE = 0x80
const STRTAB_BASE_CFG = 0x88
/** §5.2 Config. */
const CONFIG = { first: 0b101, second: 0b110, nested: 0b111 } as const
const STREAM = 1
/** High half of a descriptor: DBM, PXN, UXN of stage 1 or XN of stage 2. DDI 0487 §D8.3. */
const DBM = 1 << 19
const PXN = 1 << 21
const XN = 1 << 22
/** APTable: no access from EL0, no writes. */
const NO_WRITES_BELOW = 1 << 30

/** IDR5.OAS, bits 2:0: 48 bits, with which 64 KiB have no blocks of 4 TiB. §6.3.6. */
const BITS_48 = (SMMUV3_EVERYTHING.IDR5 & ~7) | 5
/** TG0 of a CD, and S2TG. §5.4, §5.2. */
const GRANULES = { 12: 0, 14: 2, 16: 1 } as const
/** T0SZ and S2T0SZ: 48 bits, of which stage 2 with 16 KiB has 47 from level 1, as all others have from S2SL0 2. */
const STAGE1_T0SZ = 16
const STAGE2_T0SZ = { 12: 16, 14: 17, 16: 16 } as const

/** Arm IHI 0070 G.b §5.2, §5.4 and DDI 0487 §D8.3, typed as numbers. The same granule in both stages. */
const formatOf = (granuleLg2: NestedFormat["granuleLg2"]): NestedFormat => ({
  name: `SMMUv3, granule of ${2 ** (granuleLg2 - 10)} KiB`,
  device: STREAM,
  granuleLg2,
  stage1Levels: granuleLg2 === 16 ? 3 : 4,
  stage2Levels: granuleLg2 === 12 ? 4 : 3,
  hasHugeLeaves: granuleLg2 === 12,
  // A page with AF and AP 01; read-only; AP 00; without AF; with nG; invalid.
  stage1Plain: mostly([0x743, 0], 14, [
    [0x7c3, 0],
    [0x703, 0],
    [0x343, 0],
    [0xf43, 0],
    [0x7c3, DBM],
    [0x743, XN | PXN],
    [0x743, NO_WRITES_BELOW],
    [0x742, 0],
  ]),
  stage1Large: [
    [0x741, 0],
    [0x741, 0],
    [0x741, 0],
    [0x7c1, 0],
    [0x341, 0],
    [0x7c1, DBM],
    [0x741, XN],
  ],
  stage1Table: [0x743, 0],
  stage1Small: lo => lo | 2,
  stage2Table: () => [3, 0],
  // S2AP 11 with AF; read-only; write-only; without AF.
  stage2Page: mostly([0x7ff, 0], 12, [
    [0x77f, 0],
    [0x7bf, 0],
    [0x3ff, 0],
    [0x77f, DBM],
    [0x7ff, XN],
    [0, 0],
  ]),
  stage2Large: mostly([0x7fd, 0], 5, [
    [0x77d, 0],
    [0x3fd, 0],
    [0x77d, DBM],
  ]),
  stage2Small: lo => lo | 2,
  stage1Updates: { sets: 0x400, clears: 0x80 },
  stage2Updates: { sets: 0x480, clears: 0 },
  readsGuestConfig: true,
  fetchNeeds: () => ACCESS_READ,
  configure: (memory, how) => configure(memory, how, granuleLg2),
  start: (memory, { config }, caches) => {
    const model = smmuv3Model({ memory, caches, id: { IDR5: BITS_48 } })
    model.mmio.write64(STRTAB_BASE, BigInt(config))
    model.mmio.write32(STRTAB_BASE_CFG, 1)
    model.mmio.write32(CR0, 1)
    return model
  },
})

/** Variants choose HA, HD, WXN, PAN, S2HA, S2HD, S2AFFD. */
function configure(memory: PhysicalMemory, how: Configuration, granuleLg2: NestedFormat["granuleLg2"]): void {
  const { config, guestConfig, guestConfigAt, stages, stage1Root, stage2Root, variant } = how
  const bit = (n: number, at: number): number => ((variant >>> n) & 1) << at
  const ste = config + 64 * STREAM
  store(memory, ste, (stages === "second" ? 0 : guestConfig) | (CONFIG[stages] << 1) | 1, 0)
  if (stages !== "first") {
    // S2VMID 7; S2SL0 2, S2PS 48 bits, S2AA64, S2R.
    const shape = STAGE2_T0SZ[granuleLg2] | (GRANULES[granuleLg2] << 14)
    const control = shape | (2 << 6) | (5 << 16) | (1 << 19) | (1 << 26)
    store(memory, ste + 16, 7, control | bit(4, 24) | (bit(4, 23) & bit(5, 23)) | bit(6, 21))
    store(memory, ste + 24, stage2Root, 0)
  }
  // EPD1, V; IPS 48 bits, AA64, R, A, ASID 3.
  const low = STAGE1_T0SZ | (GRANULES[granuleLg2] << 6) | (1 << 30) | (1 << 31)
  const high = 5 | (1 << 9) | (1 << 13) | (1 << 14) | (3 << 16)
  const features = bit(0, 11) | (bit(0, 10) & bit(1, 10)) | (bit(2, 4) & bit(7, 4)) | bit(3, 8)
  store(memory, guestConfigAt, low, high | features)
  store(memory, guestConfigAt + 8, stage1Root, 0)
}

const cases = Number(process.env["METAMORPHIC_CASES"] ?? 100_000)

defineMetamorphic({ describe, it }, formatOf(12), { seed: 20261123, cases })
for (const granuleLg2 of [14, 16] as const) {
  defineMetamorphic({ describe, it }, formatOf(granuleLg2), { seed: 20261123 + granuleLg2, cases: cases / 5 })
}
