/**
 * What user data may say, and what it means for this hardware. Pure: nothing is allocated here.
 *
 * Errors follow two rules: EOPNOTSUPP for what is not understood or not in this hardware, EINVAL for values that
 * contradict each other or can never be. The first rule that is broken answers; they are checked from top to bottom.
 */
import {
  HWPT_PAGING,
  HWPT_VTD_S1,
  HwptDataType,
  type HwptPaging,
  type HwptVtdS1,
  IommuError,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PAGING_PASID,
  PageTableFormatId,
  VTD_S1_EAFE,
  VTD_S1_SRE,
  VTD_S1_WPE,
} from "@iommu/core"
import type { Features } from "./features.ts"
import type { GuestFirstStage } from "./pasid-table.ts"

/** A paging domain, decided in every detail. */
export interface PagingPlan {
  readonly format: typeof PageTableFormatId.VTD_SECOND_STAGE | typeof PageTableFormatId.X86_64_FIRST_STAGE
  readonly levels: number
  readonly inputBits: number
  readonly outputBits: number
  readonly pageSizes: bigint
  /** null for all that the input width reaches. */
  readonly aperture: { readonly start: bigint; readonly last: bigint } | null
  readonly nestParent: boolean
  readonly dirtyTracking: boolean
}

const KNOWN_FLAGS = PAGING_NEST_PARENT | PAGING_DIRTY_TRACKING | PAGING_PASID
/** Both stages have 512 entries a table. */
const LEVEL_BITS = 9
const PAGE_BITS = 12
/** Address bits of a paging entry. */
const MAX_OUTPUT_BITS = 52
const DEFAULTS: HwptPaging = {
  flags: 0,
  format: PageTableFormatId.DEFAULT,
  levels: 0,
  granuleLg2: 0,
  inputBits: 0,
  outputBits: 0,
  __reserved: 0,
  apertureStart: 0n,
  apertureLast: 0n,
}

/** Bytes of a user data type's struct. @throws EOPNOTSUPP for a type that is not served */
export function userDataLen(features: Features, hwptType: number): number {
  if (hwptType === HwptDataType.PAGING) return HWPT_PAGING.size
  if (hwptType === HwptDataType.VTD_S1 && features.nesting) return HWPT_VTD_S1.size
  throw new IommuError("EOPNOTSUPP", `user data of type ${hwptType} is not served`)
}

/**
 * @param data null for Linux's choice: first stage where scalable mode has it, else second stage
 * @throws EOPNOTSUPP, EINVAL
 */
export function pagingPlan(features: Features, data: HwptPaging | null): PagingPlan {
  const asked = data ?? DEFAULTS
  checkFlags(features, asked)
  const format = chooseFormat(features, asked)
  checkGranule(asked)
  const isFirst = format === PageTableFormatId.X86_64_FIRST_STAGE
  const shape = isFirst ? firstStageShape(features, asked) : secondStageShape(features, asked)
  return {
    format,
    ...shape,
    outputBits: chooseOutputBits(features, asked),
    pageSizes: isFirst ? features.firstStagePageSizes : features.secondStagePageSizes,
    aperture: chooseAperture(asked, shape.inputBits),
    nestParent: (asked.flags & PAGING_NEST_PARENT) !== 0,
    dirtyTracking: (asked.flags & PAGING_DIRTY_TRACKING) !== 0,
  }
}

/**
 * A guest's first stage. Linux looks at its members when a device is attached and not before, and so does this;
 * unlike Linux, unknown flags and the reserved member are refused then, because the header says they must be 0.
 * WPE counts only together with SRE.
 * @throws EINVAL
 */
export function guestFirstStage(features: Features, data: HwptVtdS1): GuestFirstStage {
  const has = (flag: bigint): boolean => (data.flags & flag) !== 0n
  if ((data.flags & ~(VTD_S1_SRE | VTD_S1_EAFE | VTD_S1_WPE)) !== 0n || data.__reserved !== 0) {
    throw new IommuError("EINVAL", "unknown flags and the reserved member of iommu_hwpt_vtd_s1 must be 0")
  }
  const levels = data.addrWidth === 48 ? 4 : data.addrWidth === 57 ? 5 : 0
  if (!features.firstStageLevels.includes(levels)) {
    throw new IommuError("EINVAL", "addr_width is 48, or 57 where CAP.FS5LP is set")
  }
  if (has(VTD_S1_SRE) && !features.supervisorRequests) throw new IommuError("EINVAL", "SRE needs ECAP.SRS")
  if (has(VTD_S1_EAFE) && !features.extendedAccessed) throw new IommuError("EINVAL", "EAFE needs ECAP.EAFS")
  return {
    root: data.pgtblAddr,
    levels,
    sre: has(VTD_S1_SRE),
    wpe: has(VTD_S1_SRE) && has(VTD_S1_WPE),
    eafe: has(VTD_S1_EAFE),
  }
}

function checkFlags(features: Features, { flags, __reserved }: HwptPaging): void {
  if ((flags & ~KNOWN_FLAGS) !== 0) throw new IommuError("EOPNOTSUPP", "unknown flags of a paging domain")
  if (__reserved !== 0) throw new IommuError("EOPNOTSUPP", "the reserved member must be 0")
  if ((flags & PAGING_NEST_PARENT) !== 0 && !features.nesting) {
    throw new IommuError("EOPNOTSUPP", "a nest parent needs scalable mode, both stages and ECAP.NEST")
  }
  if ((flags & PAGING_DIRTY_TRACKING) !== 0 && !features.dirtyTracking) {
    throw new IommuError("EOPNOTSUPP", "dirty tracking needs scalable mode, ECAP.SSADS and ECAP.SMPWCS")
  }
  if ((flags & PAGING_PASID) !== 0 && features.pasidBits === 0) {
    throw new IommuError("EOPNOTSUPP", "a domain for PASIDs needs scalable mode and ECAP.PASID")
  }
}

function chooseFormat(features: Features, { flags, format }: HwptPaging): PagingPlan["format"] {
  const needsSecond = (flags & (PAGING_NEST_PARENT | PAGING_DIRTY_TRACKING)) !== 0
  const hasFirst = features.firstStageLevels.length > 0
  const { DEFAULT, VTD_SECOND_STAGE, X86_64_FIRST_STAGE } = PageTableFormatId
  if (format === X86_64_FIRST_STAGE || (format === DEFAULT && hasFirst && !needsSecond)) {
    if (!hasFirst) throw new IommuError("EOPNOTSUPP", "first stage needs scalable mode and ECAP.FSTS")
    if (needsSecond) {
      throw new IommuError("EINVAL", "nest parents and dirty tracking are the second stage's")
    }
    return X86_64_FIRST_STAGE
  }
  if (format !== VTD_SECOND_STAGE && format !== DEFAULT) {
    throw new IommuError("EOPNOTSUPP", `format ${format} is not one of VT-d`)
  }
  if (features.secondStageLevels.length === 0) {
    throw new IommuError("EOPNOTSUPP", "second stage needs CAP.SAGAW and, in scalable mode, ECAP.SSTS")
  }
  return VTD_SECOND_STAGE
}

function checkGranule({ granuleLg2 }: HwptPaging): void {
  if (granuleLg2 === 0 || granuleLg2 === PAGE_BITS) return
  if (granuleLg2 === 14 || granuleLg2 === 16) {
    throw new IommuError("EOPNOTSUPP", "VT-d tables have 4 KiB pages")
  }
  throw new IommuError("EINVAL", "granules are 2^12, 2^14 and 2^16 bytes")
}

type Shape = Pick<PagingPlan, "levels" | "inputBits">

/**
 * 4 or 5 levels (§3.6). Addresses must be canonical, of which a domain has the lower half: 47 or 56 bits, though
 * the table's width, 48 or 57, may be asked for by that name.
 */
function firstStageShape({ firstStageLevels }: Features, { levels, inputBits }: HwptPaging): Shape {
  checkLevels(levels, 4, firstStageLevels)
  checkInputBits(inputBits, 57, levels)
  const fits = (candidate: number): boolean => inputBits <= reach(candidate)
  const chosen = levels || (inputBits === 0 ? firstStageLevels.at(-1) : firstStageLevels.find(fits))
  if (chosen === undefined) throw new IommuError("EOPNOTSUPP", "more than 48 bits need CAP.FS5LP")
  return { levels: chosen, inputBits: Math.min(inputBits || 57, reach(chosen) - 1) }
}

/** 3, 4 or 5 levels, as CAP.SAGAW has them, and no more address bits than CAP.MGAW (§3.7). */
function secondStageShape(
  { secondStageLevels, guestAddressBits }: Features,
  { levels, inputBits }: HwptPaging,
): Shape {
  checkLevels(levels, 3, secondStageLevels)
  checkInputBits(inputBits, 57, levels)
  if (inputBits > guestAddressBits) {
    throw new IommuError("EOPNOTSUPP", `the hardware takes ${guestAddressBits} address bits (CAP.MGAW)`)
  }
  const widest = reach(levels || (secondStageLevels.at(-1) as number))
  const bits = inputBits || Math.min(widest, guestAddressBits)
  const chosen = levels || secondStageLevels.find(candidate => bits <= reach(candidate))
  if (chosen === undefined) throw new IommuError("EOPNOTSUPP", `no table in CAP.SAGAW reaches ${bits} bits`)
  return { levels: chosen, inputBits: bits }
}

/** Address bits that tables of so many levels resolve. */
function reach(levels: number): number {
  return PAGE_BITS + levels * LEVEL_BITS
}

function checkLevels(levels: number, fewest: number, available: readonly number[]): void {
  if (levels === 0 || available.includes(levels)) return
  if (levels < fewest || levels > 5) throw new IommuError("EINVAL", `tables have ${fewest} to 5 levels`)
  throw new IommuError("EOPNOTSUPP", `tables of ${levels} levels are not in this hardware`)
}

function checkInputBits(inputBits: number, most: number, levels: number): void {
  if (inputBits === 0) return
  if (inputBits <= PAGE_BITS || inputBits > most) {
    throw new IommuError("EINVAL", `input addresses have ${PAGE_BITS + 1} to ${most} bits`)
  }
  if (levels !== 0 && inputBits > reach(levels)) {
    throw new IommuError("EINVAL", `${levels} levels reach ${reach(levels)} bits, not ${inputBits}`)
  }
}

function chooseOutputBits({ hostAddressBits }: Features, { outputBits }: HwptPaging): number {
  if (outputBits === 0) return hostAddressBits
  if (outputBits <= PAGE_BITS || outputBits > MAX_OUTPUT_BITS) {
    throw new IommuError("EINVAL", `output addresses have ${PAGE_BITS + 1} to ${MAX_OUTPUT_BITS} bits`)
  }
  if (outputBits > hostAddressBits) {
    throw new IommuError("EOPNOTSUPP", `this machine's addresses have ${hostAddressBits} bits`)
  }
  return outputBits
}

function chooseAperture(
  { apertureStart: start, apertureLast: last }: HwptPaging,
  inputBits: number,
): PagingPlan["aperture"] {
  if (start === 0n && last === 0n) return null
  const pageMask = (1n << BigInt(PAGE_BITS)) - 1n
  if (start > last || (start & pageMask) !== 0n || ((last + 1n) & pageMask) !== 0n) {
    throw new IommuError("EINVAL", "an aperture starts at a page and ends at the last byte of one")
  }
  if (last >> BigInt(inputBits) !== 0n) {
    throw new IommuError("EINVAL", `the aperture ends beyond the ${inputBits} bits of input addresses`)
  }
  return { start, last }
}
