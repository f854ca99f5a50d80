/** What paging and nested user data may say, against capability registers typed by hand. */
import {
  type HwptPaging,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PAGING_PASID,
  PageTableFormatId,
  pagingParameters,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import { decodeFeatures } from "../src/driver/features.ts"
import { guestFirstStage, pagingPlan, userDataLen } from "../src/driver/user-data.ts"

const SS = PageTableFormatId.VTD_SECOND_STAGE
const FS = PageTableFormatId.X86_64_FIRST_STAGE

/** CAP and ECAP by the bit numbers of §11.4.2 and §11.4.3. */
const bit = (n: number): bigint => 1n << BigInt(n)
const ND6 = 6n
const sagaw = (...levels: number[]): bigint => levels.reduce((bits, l) => bits | bit(8 + l - 2), 0n)
const mgaw = (bits: number): bigint => BigInt(bits - 1) << 16n
const SSLPS_2M_1G = 3n << 34n
const PSI = bit(39)
const FS1GP = bit(56)
const FS5LP = bit(60)
const QI = bit(1)
const NEST = bit(26)
const SRS = bit(31)
const EAFS = bit(34)
const PSS20 = 19n << 35n
const PASID = bit(40)
const SMTS = bit(43)
const SSADS = bit(45)
const SSTS = bit(46)
const FSTS = bit(47)
const SMPWCS = bit(48)

const CAP = ND6 | sagaw(3, 4) | mgaw(48) | SSLPS_2M_1G | PSI | FS1GP
const SCALABLE = QI | NEST | PASID | PSS20 | SMTS | SSADS | SSTS | FSTS | SMPWCS
const full = decodeFeatures(CAP, SCALABLE, {})
const legacy = decodeFeatures(CAP, QI, {})
const firstOnly = decodeFeatures(CAP, QI | SMTS | FSTS, {})
const fiveLevels = decodeFeatures(CAP | FS5LP | sagaw(5) | mgaw(57), SCALABLE, {})

const plan = (features: typeof full, given: Partial<HwptPaging>) =>
  pagingPlan(features, pagingParameters(given))

describe("the driver's own choice", () => {
  it("is the first stage in scalable mode: 4 levels, the lower canonical half", () => {
    expect(pagingPlan(full, null)).toMatchObject({ format: FS, levels: 4, inputBits: 47, aperture: null })
    expect(pagingPlan(fiveLevels, null)).toMatchObject({ format: FS, levels: 5, inputBits: 56 })
  })

  it("is the second stage in legacy mode, as wide as SAGAW and MGAW allow", () => {
    expect(pagingPlan(legacy, null)).toMatchObject({ format: SS, levels: 4, inputBits: 48, outputBits: 52 })
    const narrow = decodeFeatures(ND6 | sagaw(3, 4) | mgaw(39), QI, { hostAddressBits: 40 })
    expect(pagingPlan(narrow, null)).toMatchObject({ format: SS, levels: 3, inputBits: 39, outputBits: 40 })
    const three = decodeFeatures(ND6 | sagaw(3) | mgaw(48), QI, {})
    expect(pagingPlan(three, null)).toMatchObject({ format: SS, levels: 3, inputBits: 39 })
  })

  it("is the second stage where nesting or dirty tracking asks for it", () => {
    const parent = plan(full, { flags: PAGING_NEST_PARENT | PAGING_DIRTY_TRACKING })
    expect(parent).toMatchObject({ format: SS, nestParent: true, dirtyTracking: true })
    expect(plan(full, { flags: PAGING_PASID }).format).toBe(FS)
  })

  it("has the page sizes of the hardware", () => {
    const noLarge = decodeFeatures(ND6 | sagaw(4) | mgaw(48), SCALABLE, {})
    expect(plan(noLarge, { format: SS }).pageSizes).toBe(bit(12))
    expect(plan(noLarge, { format: FS }).pageSizes).toBe(bit(12) | bit(21))
    expect(plan(full, { format: SS }).pageSizes).toBe(bit(12) | bit(21) | bit(30))
    expect(plan(full, { format: FS }).pageSizes).toBe(bit(12) | bit(21) | bit(30))
  })
})

describe("paging parameters", () => {
  it("choose format, levels, widths and aperture", () => {
    const aperture = { apertureStart: 0x10_0000n, apertureLast: 0xffff_ffffn }
    expect(plan(full, { format: SS, levels: 3, outputBits: 40, granuleLg2: 12, ...aperture })).toEqual({
      format: SS,
      levels: 3,
      inputBits: 39,
      outputBits: 40,
      pageSizes: bit(12) | bit(21) | bit(30),
      aperture: { start: 0x10_0000n, last: 0xffff_ffffn },
      nestParent: false,
      dirtyTracking: false,
    })
  })

  it("take the fewest levels that reach the input width", () => {
    expect(plan(full, { format: SS, inputBits: 32 })).toMatchObject({ levels: 3, inputBits: 32 })
    expect(plan(full, { format: SS, inputBits: 40 })).toMatchObject({ levels: 4, inputBits: 40 })
    expect(plan(fiveLevels, { format: SS, inputBits: 49 })).toMatchObject({ levels: 5, inputBits: 49 })
    expect(plan(fiveLevels, { format: FS, inputBits: 48 })).toMatchObject({ levels: 4, inputBits: 47 })
    expect(plan(fiveLevels, { format: FS, inputBits: 57 })).toMatchObject({ levels: 5, inputBits: 56 })
    expect(plan(fiveLevels, { format: FS, levels: 4 })).toMatchObject({ levels: 4, inputBits: 47 })
  })

  const refused: [string, string, typeof full, Partial<HwptPaging>][] = [
    ["unknown flag", "EOPNOTSUPP", full, { flags: 16 }],
    ["Linux's fault flag, which this struct does not have", "EOPNOTSUPP", full, { flags: 4 }],
    ["reserved member", "EOPNOTSUPP", full, { __reserved: 1 }],
    ["unknown format", "EOPNOTSUPP", full, { format: 99 }],
    ["another vendor's format", "EOPNOTSUPP", full, { format: PageTableFormatId.AMD_V1 }],
    ["first stage in legacy mode", "EOPNOTSUPP", legacy, { format: FS }],
    ["second stage without SSTS", "EOPNOTSUPP", firstOnly, { format: SS }],
    ["nest parent in legacy mode", "EOPNOTSUPP", legacy, { flags: PAGING_NEST_PARENT }],
    ["nest parent without NEST", "EOPNOTSUPP", firstOnly, { flags: PAGING_NEST_PARENT }],
    ["dirty tracking in legacy mode", "EOPNOTSUPP", legacy, { flags: PAGING_DIRTY_TRACKING }],
    [
      "dirty tracking without SMPWCS",
      "EOPNOTSUPP",
      decodeFeatures(CAP, SCALABLE & ~SMPWCS, {}),
      { flags: PAGING_DIRTY_TRACKING },
    ],
    [
      "dirty tracking without SSADS",
      "EOPNOTSUPP",
      decodeFeatures(CAP, SCALABLE & ~SSADS, {}),
      { flags: PAGING_DIRTY_TRACKING },
    ],
    ["PASID in legacy mode", "EOPNOTSUPP", legacy, { flags: PAGING_PASID }],
    ["first-stage nest parent", "EINVAL", full, { format: FS, flags: PAGING_NEST_PARENT }],
    ["first stage with dirty tracking", "EINVAL", full, { format: FS, flags: PAGING_DIRTY_TRACKING }],
    ["16 KiB granule", "EOPNOTSUPP", full, { granuleLg2: 14 }],
    ["64 KiB granule", "EOPNOTSUPP", full, { granuleLg2: 16 }],
    ["a granule that none has", "EINVAL", full, { granuleLg2: 13 }],
    ["2 levels", "EINVAL", full, { format: SS, levels: 2 }],
    ["6 levels", "EINVAL", full, { format: SS, levels: 6 }],
    ["3 levels of first stage", "EINVAL", full, { format: FS, levels: 3 }],
    ["5 levels not in SAGAW", "EOPNOTSUPP", full, { format: SS, levels: 5 }],
    ["5 levels without FS5LP", "EOPNOTSUPP", full, { format: FS, levels: 5 }],
    ["12 input bits", "EINVAL", full, { format: SS, inputBits: 12 }],
    ["58 input bits", "EINVAL", full, { format: SS, inputBits: 58 }],
    ["more input bits than the levels reach", "EINVAL", full, { format: SS, levels: 3, inputBits: 40 }],
    ["more input bits than MGAW", "EOPNOTSUPP", full, { format: SS, inputBits: 49 }],
    ["more than 48 first-stage bits without FS5LP", "EOPNOTSUPP", full, { format: FS, inputBits: 49 }],
    ["12 output bits", "EINVAL", full, { outputBits: 12 }],
    ["53 output bits", "EINVAL", full, { outputBits: 53 }],
    [
      "more output bits than the machine",
      "EOPNOTSUPP",
      decodeFeatures(CAP, SCALABLE, { hostAddressBits: 46 }),
      { outputBits: 47 },
    ],
    [
      "an aperture that ends before it starts",
      "EINVAL",
      full,
      { apertureStart: 0x2000n, apertureLast: 0xfffn },
    ],
    ["an aperture that starts within a page", "EINVAL", full, { apertureStart: 1n, apertureLast: 0xfffn }],
    ["an aperture that ends within a page", "EINVAL", full, { apertureStart: 0n, apertureLast: 0x1000n }],
    [
      "an aperture beyond the lower canonical half",
      "EINVAL",
      full,
      { format: FS, apertureStart: 0n, apertureLast: bit(48) - 1n },
    ],
    [
      "an aperture beyond the input width",
      "EINVAL",
      full,
      { format: SS, inputBits: 32, apertureStart: 0n, apertureLast: bit(33) - 1n },
    ],
  ]
  it.each(refused)("%s: %s", (_rule, code, features, given) => {
    expect(() => plan(features, given)).toThrow(expect.objectContaining({ code }))
  })

  it("without any table format: EOPNOTSUPP", () => {
    const none = decodeFeatures(ND6 | mgaw(48), QI, {})
    expect(() => pagingPlan(none, null)).toThrow(expect.objectContaining({ code: "EOPNOTSUPP" }))
  })
})

describe("a guest's first stage", () => {
  const rich = decodeFeatures(CAP | FS5LP, SCALABLE | SRS | EAFS, {})
  const s1 = { flags: 0n, pgtblAddr: 0x5000n, addrWidth: 48, __reserved: 0 }

  it("is 4 or 5 levels, with the flags that the hardware has", () => {
    expect(guestFirstStage(full, s1)).toEqual({
      root: 0x5000n,
      levels: 4,
      sre: false,
      wpe: false,
      eafe: false,
    })
    expect(guestFirstStage(rich, { ...s1, addrWidth: 57, flags: 7n })).toEqual({
      root: 0x5000n,
      levels: 5,
      sre: true,
      wpe: true,
      eafe: true,
    })
  })

  it("has WPE only together with SRE", () => {
    expect(guestFirstStage(rich, { ...s1, flags: 4n }).wpe).toBe(false)
  })

  it.each([
    ["39 bits", { addrWidth: 39 }],
    ["57 bits without FS5LP", { addrWidth: 57 }],
    ["0 bits", { addrWidth: 0 }],
    ["SRE without ECAP.SRS", { flags: 1n }],
    ["EAFE without ECAP.EAFS", { flags: 2n }],
    ["an unknown flag", { flags: 8n }],
    ["the reserved member", { __reserved: 1 }],
  ])("%s: EINVAL", (_rule, wrong) => {
    expect(() => guestFirstStage(full, { ...s1, ...wrong })).toThrow(
      expect.objectContaining({ code: "EINVAL" }),
    )
  })
})

describe("lengths of user data", () => {
  it("are those of Linux's structs, and of this project's", () => {
    expect(userDataLen(full, 1)).toBe(24)
    expect(userDataLen(full, 0x8000_0001)).toBe(32)
  })

  it.each([
    [full, 0],
    [full, 2],
    [full, 3],
    [legacy, 1],
  ])("EOPNOTSUPP for types that are not served", (features, type) => {
    expect(() => userDataLen(features, type)).toThrow(expect.objectContaining({ code: "EOPNOTSUPP" }))
  })
})
