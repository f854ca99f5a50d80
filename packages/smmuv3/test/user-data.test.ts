import { errnoOf } from "@iommu/conformance"
import {
  type ErrnoCode,
  HwptDataType,
  type HwptPaging,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PAGING_PASID,
  PageTableFormatId,
  pagingParameters,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import { readFeatures } from "../src/driver/features.ts"
import { type Abilities, nestedPlan, pagingPlan, userDataLen } from "../src/driver/user-data.ts"
import { type FakeIds, FakeSmmu, QEMU_IDS } from "./fake-smmu.ts"

/** Both stages, all granules, 52 bits everywhere, HTTU, 20-bit PASIDs. */
const LARGE_IDS: FakeIds = { idr0: 0xd4c109b, idr1: 0x2730510, idr3: 0x1414, idr5: 0x4f6 }

function abilities(ids: FakeIds, overrides: Partial<Abilities> = {}): Abilities {
  const features = readFeatures(new FakeSmmu(ids))
  return {
    features,
    nesting: features.S1P && features.S2P,
    dirtyTracking: features.dirtyState,
    pasidBits: features.SSIDSIZE,
    ...overrides,
  }
}

const large = abilities(LARGE_IDS)
const qemu = abilities(QEMU_IDS)

describe("parameters of a paging domain", () => {
  it("chooses what Linux chooses: stage 1, 48 bits of input, the SMMU's output size", () => {
    expect(pagingPlan(qemu, null)).toMatchObject({
      stage: 1,
      granuleLg2: 12,
      levels: 4,
      inputBits: 48,
      outputBits: 44,
      lpa2: false,
      apertureStart: 0n,
      apertureLast: 0xffff_ffff_ffffn,
    })
  })

  it("chooses stage 2 for a nest parent, as wide as the SMMU's output", () => {
    expect(pagingPlan(qemu, pagingParameters({ flags: PAGING_NEST_PARENT }))).toMatchObject({
      stage: 2,
      inputBits: 44,
      outputBits: 44,
      levels: 4,
      nestParent: true,
    })
  })

  it("chooses stage 2 where there is no stage 1", () => {
    const plan = pagingPlan(abilities({ ...QEMU_IDS, idr0: 0xd441019 }), null)
    expect(plan.stage).toBe(2)
  })

  // DDI 0487 J.a, tables D8-22 to D8-24: number of levels by granule and input size.
  it.each([
    [1, 12, 48, 4],
    [1, 12, 39, 3],
    [1, 12, 30, 2],
    [1, 12, 52, 5],
    [1, 14, 48, 4],
    [1, 14, 47, 3],
    [1, 14, 36, 2],
    [1, 16, 48, 3],
    [1, 16, 42, 2],
    [1, 16, 52, 3],
    [2, 12, 48, 4],
    [2, 12, 44, 4],
    [2, 12, 43, 3],
    [2, 12, 40, 3],
    [2, 12, 39, 3],
    [2, 12, 52, 4],
    [2, 14, 48, 3],
    [2, 14, 47, 3],
    [2, 14, 52, 4],
    [2, 16, 48, 3],
  ])("stage %i, granule 2^%i, %i bits: %i levels", (stage, granuleLg2, inputBits, levels) => {
    const format = stage === 1 ? PageTableFormatId.ARM_64_LPAE_S1 : PageTableFormatId.ARM_64_LPAE_S2
    expect(pagingPlan(large, pagingParameters({ format, granuleLg2, inputBits })).levels).toBe(levels)
    expect(pagingPlan(large, pagingParameters({ format, granuleLg2, inputBits, levels })).levels).toBe(levels)
    const wrong = pagingParameters({ format, granuleLg2, inputBits, levels: levels + 1 })
    expect(errnoOf(() => pagingPlan(large, wrong))).toBe("EINVAL")
  })

  it("takes as many bits of input as the levels reach when only levels are given", () => {
    expect(pagingPlan(large, pagingParameters({ levels: 3 })).inputBits).toBe(39)
    expect(pagingPlan(large, pagingParameters({ levels: 5 })).inputBits).toBe(52)
    const stage2 = pagingParameters({ levels: 3, format: PageTableFormatId.ARM_64_LPAE_S2 })
    expect(pagingPlan(large, stage2).inputBits).toBe(43)
  })

  it.each<[string, Abilities, Partial<HwptPaging>, ErrnoCode]>([
    ["unknown flag", large, { flags: 4 }, "EOPNOTSUPP"],
    ["reserved word", large, { __reserved: 1 }, "EOPNOTSUPP"],
    ["another vendor's format", large, { format: PageTableFormatId.AMD_V1 }, "EOPNOTSUPP"],
    ["unknown format", large, { format: 77 }, "EOPNOTSUPP"],
    [
      "nest parent and dirty tracking",
      large,
      { flags: PAGING_NEST_PARENT | PAGING_DIRTY_TRACKING },
      "EOPNOTSUPP",
    ],
    ["nest parent and PASID", large, { flags: PAGING_NEST_PARENT | PAGING_PASID }, "EOPNOTSUPP"],
    [
      "nest parent without nesting",
      abilities(QEMU_IDS, { nesting: false }),
      { flags: PAGING_NEST_PARENT },
      "EOPNOTSUPP",
    ],
    ["dirty tracking without HTTU", qemu, { flags: PAGING_DIRTY_TRACKING }, "EOPNOTSUPP"],
    ["PASID without SubstreamIDs", qemu, { flags: PAGING_PASID }, "EOPNOTSUPP"],
    [
      "nest parent on stage 1",
      large,
      { flags: PAGING_NEST_PARENT, format: PageTableFormatId.ARM_64_LPAE_S1 },
      "EINVAL",
    ],
    [
      "dirty tracking on stage 2",
      large,
      { flags: PAGING_DIRTY_TRACKING, format: PageTableFormatId.ARM_64_LPAE_S2 },
      "EINVAL",
    ],
    ["PASID on stage 2", large, { flags: PAGING_PASID, format: PageTableFormatId.ARM_64_LPAE_S2 }, "EINVAL"],
    [
      "no stage 1",
      abilities({ ...QEMU_IDS, idr0: 0xd441019 }),
      { format: PageTableFormatId.ARM_64_LPAE_S1 },
      "EOPNOTSUPP",
    ],
    [
      "no stage 2",
      abilities({ ...QEMU_IDS, idr0: 0xd44101a }),
      { format: PageTableFormatId.ARM_64_LPAE_S2 },
      "EOPNOTSUPP",
    ],
    ["no such granule", large, { granuleLg2: 13 }, "EINVAL"],
    ["a granule the SMMU lacks", abilities({ ...QEMU_IDS, idr5: 0x14 }), { granuleLg2: 16 }, "EOPNOTSUPP"],
    ["more levels than there are", large, { levels: 6 }, "EINVAL"],
    ["levels the SMMU lacks", qemu, { levels: 5 }, "EOPNOTSUPP"],
    ["levels against input bits", large, { levels: 3, inputBits: 48 }, "EINVAL"],
    ["input beyond the format", large, { inputBits: 53 }, "EINVAL"],
    ["input below a page", large, { inputBits: 12 }, "EINVAL"],
    ["input beyond the SMMU", qemu, { inputBits: 52 }, "EOPNOTSUPP"],
    ["input below what T0SZ takes", large, { inputBits: 24 }, "EOPNOTSUPP"],
    ["stage 2 input beyond the SMMU", qemu, { flags: PAGING_NEST_PARENT, inputBits: 48 }, "EOPNOTSUPP"],
    ["output beyond the format", large, { outputBits: 53 }, "EINVAL"],
    ["output below a page", large, { outputBits: 12 }, "EINVAL"],
    ["output beyond the SMMU", qemu, { outputBits: 48 }, "EOPNOTSUPP"],
    ["aperture backwards", large, { apertureStart: 0x2000n, apertureLast: 0xfffn }, "EINVAL"],
    [
      "aperture beyond the input",
      large,
      { inputBits: 39, apertureStart: 0n, apertureLast: 0xff_ffff_ffffn },
      "EINVAL",
    ],
    ["aperture start within a page", large, { apertureStart: 0x800n, apertureLast: 0xffffn }, "EINVAL"],
    ["aperture end within a page", large, { apertureStart: 0x1000n, apertureLast: 0x17ffn }, "EINVAL"],
    ["a number that is no byte", large, { granuleLg2: 12.5 }, "EINVAL"],
    ["a negative number", large, { levels: -1 }, "EINVAL"],
  ])("refuses: %s", (_, given, data, errno) => {
    expect(errnoOf(() => pagingPlan(given, pagingParameters(data)))).toBe(errno)
  })
})

describe("a guest's STE", () => {
  const plan = (word0: bigint, word1: bigint) => nestedPlan({ ste: [word0, word1] })

  it("is taken over as Linux guests write it", () => {
    // captures/smmuv3-nested-4k, StreamID 16.
    expect(plan(0x43e9600bn, 0xd6n)).toEqual({
      config: "stage1",
      word0: 0x43e96000n,
      word1: 0xd6n,
      ats: false,
    })
  })

  it("keeps EATS aside", () => {
    expect(plan(0x43e9600bn, 0x1000_00d6n)).toMatchObject({ word1: 0xd6n, ats: true })
    expect(plan(0x9n, 0x1000_0000n)).toMatchObject({ config: "bypass", ats: false })
  })

  it("aborts with V = 0, whatever else it holds", () => {
    expect(plan(0xffff_ffff_ffff_fffen, 0xffff_ffff_ffff_ffffn)).toMatchObject({ config: "abort", word0: 0n })
  })

  it.each([
    ["abort", 0x1n],
    ["bypass", 0x9n],
    ["stage1", 0xbn],
  ])("may be %s", (config, word0) => {
    expect(plan(word0, 0n).config).toBe(config)
  })

  it.each([1, 2, 3, 6, 7])("may not have Config %i", config => {
    expect(errnoOf(() => plan(BigInt(1 | (config << 1)), 0n))).toBe("EIO")
  })

  it.each([2, 3])("may not have EATS %i", eats => {
    expect(errnoOf(() => plan(0xbn, BigInt(eats) << 28n))).toBe("EIO")
  })

  // iommufd's allowed set: V, Cfg, S1Fmt, S1ContextPtr[51:6], S1CDMax | S1DSS, S1CIR, S1COR, S1CSH, S1STALLD, EATS.
  const allowed = [0xf80f_ffff_ffff_ffffn, 0x3800_00ffn] as const
  it.each([0, 1])("may have no other bit in word %i", word => {
    for (let bit = 0n; bit < 64n; bit++) {
      const words: [bigint, bigint] = [0xbn, 0n]
      words[word] = (words[word] as bigint) | (1n << bit)
      const refused = errnoOf(() => plan(...words)) !== null
      const isAllowed = ((allowed[word] as bigint) >> bit) & 1n
      // Config 7 and EATS 2 are made of allowed bits.
      const valueRefused = (word === 0 && bit === 2n) || (word === 1 && bit === 29n)
      expect(refused, `bit ${bit}`).toBe(isAllowed === 0n || valueRefused)
    }
  })
})

it("tells the bytes of each type it serves", () => {
  expect(userDataLen(qemu, HwptDataType.ARM_SMMUV3)).toBe(16)
  expect(userDataLen(qemu, HwptDataType.PAGING)).toBe(32)
  expect(errnoOf(() => userDataLen(qemu, HwptDataType.VTD_S1))).toBe("EOPNOTSUPP")
  const single = abilities(QEMU_IDS, { nesting: false })
  expect(errnoOf(() => userDataLen(single, HwptDataType.ARM_SMMUV3))).toBe("EOPNOTSUPP")
})
