/**
 * What userspace may ask for, and with which errno it is refused. Facts of the hardware: Arm IHI 0070 G.b §5.2,
 * §5.4; DDI 0487 J.a §D8.2 for levels. Rules of the ABI: Linux's iommufd and arm-smmu-v3.
 */
import {
  HWPT_ARM_SMMUV3,
  HWPT_PAGING,
  type HwptArmSmmuv3,
  HwptDataType,
  type HwptPaging,
  IommuError,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PAGING_PASID,
  PageTableFormatId,
  pagingParameters,
} from "@iommu/core"
import * as ste from "../spec/device-table.ts"
import { ADDRESS_SIZE_BITS } from "../spec/registers.ts"
import type { Features } from "./features.ts"

/** A paging domain as it will be built. */
export interface PagingPlan {
  readonly stage: 1 | 2
  readonly granuleLg2: number
  /** Tables that a walk looks up. */
  readonly levels: number
  readonly inputBits: number
  readonly outputBits: number
  /** 52-bit addresses with the 4 KiB or 16 KiB granule: LPA2, CD.DS, STE.S2DS. */
  readonly lpa2: boolean
  readonly apertureStart: bigint
  readonly apertureLast: bigint
  readonly nestParent: boolean
  readonly dirty: boolean
}

/** A nested domain as the guest's STE asks for it. */
export interface NestedPlan {
  readonly config: "abort" | "bypass" | "stage1"
  /** S1Fmt, S1ContextPtr and S1CDMax of word 0; S1DSS to S1CSH and S1STALLD of word 1. */
  readonly word0: bigint
  readonly word1: bigint
  /** EATS was 1: the guest uses ATS. */
  readonly ats: boolean
}

/** What this SMMU can serve, beyond single registers. */
export interface Abilities {
  readonly features: Features
  readonly nesting: boolean
  readonly dirtyTracking: boolean
  readonly pasidBits: number
}

/** @throws EOPNOTSUPP for a type that this driver does not serve */
export function userDataLen(abilities: Abilities, hwptType: number): number {
  if (hwptType === HwptDataType.PAGING) return HWPT_PAGING.size
  if (hwptType === HwptDataType.ARM_SMMUV3 && abilities.nesting) return HWPT_ARM_SMMUV3.size
  throw new IommuError("EOPNOTSUPP", `this SMMU does not serve user data of type ${hwptType}`)
}

const KNOWN_FLAGS = PAGING_NEST_PARENT | PAGING_DIRTY_TRACKING | PAGING_PASID
const GRANULES = [12, 14, 16]
/** VMSAv8-64 addresses have at most 52 bits (128-bit descriptors aside), 48 without FEAT_LPA, FEAT_LVA. */
const MAX_BITS = 52
const PLAIN_BITS = 48
/** TxSZ is at most 39; 48 (47 with the 64 KiB granule) with small translation tables. */
const MIN_INPUT_BITS = 25
const MIN_INPUT_BITS_STT = 16
/** Tables that a stage 2 root may be made of. */
const MAX_CONCATENATED_LG2 = 4

/** @throws EOPNOTSUPP for what is not understood or not in this SMMU, EINVAL for what is wrong */
export function pagingPlan(abilities: Abilities, data: HwptPaging | null): PagingPlan {
  const wanted = data ?? pagingParameters({})
  HWPT_PAGING.encode(wanted)
  checkFlags(abilities, wanted)
  const stage = stageFor(abilities.features, wanted)
  const granuleLg2 = granuleFor(abilities.features, wanted)
  const wide =
    Math.max(wanted.inputBits, wanted.outputBits) > PLAIN_BITS ||
    wanted.levels > levelsWithoutConcatenation(granuleLg2, PLAIN_BITS)
  const limit = granuleLg2 === 16 || (wide && abilities.features.DS) ? MAX_BITS : PLAIN_BITS
  const outputBits = outputBitsFor(abilities.features, wanted, granuleLg2, limit)
  const inputBits = inputBitsFor(abilities.features, wanted, stage, granuleLg2, limit)
  const levels = levelsFor(abilities.features, stage, granuleLg2, inputBits)
  if (wanted.levels !== 0 && wanted.levels !== levels) {
    throw new IommuError("EINVAL", `${inputBits} bits of input need ${levels} levels, not ${wanted.levels}`)
  }
  return {
    stage,
    granuleLg2,
    levels,
    inputBits,
    outputBits,
    lpa2: wide && granuleLg2 !== 16,
    ...apertureFor(wanted, granuleLg2, inputBits),
    nestParent: (wanted.flags & PAGING_NEST_PARENT) !== 0,
    dirty: (wanted.flags & PAGING_DIRTY_TRACKING) !== 0,
  }
}

function checkFlags({ nesting, dirtyTracking, pasidBits }: Abilities, wanted: HwptPaging): void {
  const { flags } = wanted
  const nest = (flags & PAGING_NEST_PARENT) !== 0
  const dirty = (flags & PAGING_DIRTY_TRACKING) !== 0
  const pasid = (flags & PAGING_PASID) !== 0
  const refused = [
    [(flags & ~KNOWN_FLAGS) !== 0, "unknown flags of a paging domain"],
    [wanted.__reserved !== 0, "the reserved word of a paging domain's parameters must be zero"],
    [nest && !nesting, "this SMMU cannot nest: both stages and coherent devices are needed"],
    [dirty && !dirtyTracking, "this SMMU does not set dirty state in coherent tables (IDR0.HTTU)"],
    [pasid && pasidBits === 0, "this SMMU takes no SubstreamIDs (IDR1.SSIDSIZE)"],
    [nest && (dirty || pasid), "a nest parent is stage 2, which has neither dirty tracking nor PASIDs here"],
  ] as const
  for (const [broken, rule] of refused) if (broken) throw new IommuError("EOPNOTSUPP", rule)
}

function stageFor(features: Features, { flags, format }: HwptPaging): 1 | 2 {
  const needsStage2 = (flags & PAGING_NEST_PARENT) !== 0
  const needsStage1 = (flags & (PAGING_DIRTY_TRACKING | PAGING_PASID)) !== 0
  switch (format) {
    case PageTableFormatId.DEFAULT:
      if (needsStage1 && !features.S1P) throw new IommuError("EOPNOTSUPP", "this SMMU has no stage 1")
      return needsStage2 || !features.S1P ? 2 : 1
    case PageTableFormatId.ARM_64_LPAE_S1:
      if (!features.S1P) throw new IommuError("EOPNOTSUPP", "this SMMU has no stage 1")
      if (needsStage2) throw new IommuError("EINVAL", "a nest parent is a stage 2 table")
      return 1
    case PageTableFormatId.ARM_64_LPAE_S2:
      if (!features.S2P) throw new IommuError("EOPNOTSUPP", "this SMMU has no stage 2")
      if (needsStage1) throw new IommuError("EINVAL", "dirty tracking and PASIDs need a stage 1 table")
      return 2
    default:
      throw new IommuError("EOPNOTSUPP", `an SMMU does not walk tables of format ${format}`)
  }
}

/** Linux's choice is the CPU's page size; 4 KiB here where there is that. */
function granuleFor({ granules }: Features, { granuleLg2 }: HwptPaging): number {
  if (granuleLg2 === 0) return granules[0] as number
  if (!GRANULES.includes(granuleLg2))
    throw new IommuError("EINVAL", "a granule is 4, 16 or 64 KiB (12, 14, 16)")
  if (!granules.includes(granuleLg2)) {
    throw new IommuError("EOPNOTSUPP", `this SMMU has no granule of 2^${granuleLg2} bytes (IDR5)`)
  }
  return granuleLg2
}

interface Range {
  readonly least: number
  readonly most: number
}

function outputBitsFor(features: Features, wanted: HwptPaging, granuleLg2: number, limit: number): number {
  const bits = wanted.outputBits
  const most = Math.min(features.outputBits, limit)
  if (bits === 0) return most
  if (bits > MAX_BITS || bits <= granuleLg2) {
    throw new IommuError("EINVAL", `an output address has ${granuleLg2 + 1} to ${MAX_BITS} bits, not ${bits}`)
  }
  if (bits > most)
    throw new IommuError("EOPNOTSUPP", `this SMMU's output addresses have ${most} bits (IDR5.OAS)`)
  return bits
}

function inputBitsFor(
  features: Features,
  wanted: HwptPaging,
  stage: 1 | 2,
  granuleLg2: number,
  limit: number,
): number {
  const most = Math.min(stage === 1 ? features.inputBits : features.outputBits, limit)
  const least = features.STT ? MIN_INPUT_BITS_STT + (granuleLg2 === 16 ? 1 : 0) : MIN_INPUT_BITS
  const bits = wanted.inputBits
  if (bits === 0 && wanted.levels === 0) return most
  if (bits === 0) return reachOf(features, wanted, stage, granuleLg2, { least, most })
  if (bits > MAX_BITS || bits <= granuleLg2) {
    throw new IommuError("EINVAL", `an input address has ${granuleLg2 + 1} to ${MAX_BITS} bits, not ${bits}`)
  }
  if (bits > most || bits < least) {
    throw new IommuError("EOPNOTSUPP", `stage ${stage} of this SMMU takes ${least} to ${most} bits of input`)
  }
  return bits
}

/** The most bits of input for which so many levels are looked up. */
function reachOf(
  features: Features,
  wanted: HwptPaging,
  stage: 1 | 2,
  granuleLg2: number,
  range: Range,
): number {
  const { levels } = wanted
  const most = levelsWithoutConcatenation(granuleLg2, MAX_BITS)
  if (levels > most) {
    throw new IommuError("EINVAL", `tables of 2^${granuleLg2} bytes have at most ${most} levels`)
  }
  for (let bits = range.most; bits >= range.least; bits--) {
    if (levelsFor(features, stage, granuleLg2, bits) === levels) return bits
  }
  throw new IommuError("EOPNOTSUPP", `stage ${stage} of this SMMU has no tables of ${levels} levels`)
}

function levelsWithoutConcatenation(granuleLg2: number, inputBits: number): number {
  return Math.ceil((inputBits - granuleLg2) / (granuleLg2 - 3))
}

/**
 * Levels that are looked up. Stage 2 starts one level lower where that saves level 0 and the root is then at most
 * 16 tables side by side (DDI 0487 J.a §D8.2): a shorter walk, and the only one there is with 16 KiB tables and 48
 * bits. With 40-bit output addresses 16 KiB tables start at level 2 for the same reason.
 */
function levelsFor(features: Features, stage: 1 | 2, granuleLg2: number, inputBits: number): number {
  const levels = levelsWithoutConcatenation(granuleLg2, inputBits)
  const topBits = inputBits - granuleLg2 - (levels - 1) * (granuleLg2 - 3)
  if (stage === 1 || levels === 1 || topBits > MAX_CONCATENATED_LG2) return levels
  const startsAtLevel0 = levels >= 4
  const level1Missing = granuleLg2 === 14 && features.outputBits <= 40 && levels === 3
  return startsAtLevel0 || level1Missing ? levels - 1 : levels
}

function apertureFor(
  { apertureStart, apertureLast }: HwptPaging,
  granuleLg2: number,
  inputBits: number,
): { apertureStart: bigint; apertureLast: bigint } {
  const all = (1n << BigInt(inputBits)) - 1n
  if (apertureStart === 0n && apertureLast === 0n) return { apertureStart: 0n, apertureLast: all }
  const page = 1n << BigInt(granuleLg2)
  if (apertureStart > apertureLast || apertureLast > all) {
    throw new IommuError(
      "EINVAL",
      `an aperture lies within the ${inputBits} bits of input, start before last`,
    )
  }
  if (apertureStart % page !== 0n || (apertureLast + 1n) % page !== 0n) {
    throw new IommuError("EINVAL", "an aperture consists of whole pages")
  }
  return { apertureStart, apertureLast }
}

/** The ABI's S1ContextPtr ends at bit 51, four bits before the book's. */
const S1_CONTEXT_PTR = (1n << 52n) - (1n << 6n)
const WORD0_STAGE1 = fieldsInWord(0, "S1Fmt", "S1CDMax") | S1_CONTEXT_PTR
const WORD1_STAGE1 = fieldsInWord(1, "S1DSS", "S1CIR", "S1COR", "S1CSH", "S1STALLD")
const WORD0_ALLOWED = WORD0_STAGE1 | fieldsInWord(0, "V", "Config")
const WORD1_ALLOWED = WORD1_STAGE1 | fieldsInWord(1, "EATS")

function fieldsInWord(word: number, ...fields: (keyof typeof ste.STE.fields)[]): bigint {
  const ones = Array.from({ length: 8 }, () => (1n << 64n) - 1n)
  const entry = ste.STE.encode(Object.fromEntries(fields.map(field => [field, ste.STE.get(ones, field)])))
  return entry[word] as bigint
}

const ABORT: NestedPlan = { config: "abort", word0: 0n, word1: 0n, ats: false }

/** @throws EIO for a guest STE that asks for anything but abort, bypass or stage 1 */
export function nestedPlan(data: HwptArmSmmuv3): NestedPlan {
  HWPT_ARM_SMMUV3.encode(data)
  const words = data.ste
  const [word0, word1] = words
  if ((word0 & BigInt(ste.V)) === 0n) return ABORT
  if ((word0 & ~WORD0_ALLOWED) !== 0n || (word1 & ~WORD1_ALLOWED) !== 0n) {
    throw new IommuError("EIO", "a guest's STE holds fields of stage 1 only: the others are the host's")
  }
  const eats = ste.STE.get(words, "EATS")
  if (eats > BigInt(ste.EATS_FULL)) throw new IommuError("EIO", "a guest's STE.EATS is 0 or 1")
  const guest = { word0: word0 & WORD0_STAGE1, word1: word1 & WORD1_STAGE1 }
  switch (Number(ste.STE.get(words, "Config"))) {
    case ste.CONFIG_ABORT:
      return ABORT
    case ste.CONFIG_BYPASS:
      return { config: "bypass", word0: 0n, word1: 0n, ats: false }
    case ste.CONFIG_S1:
      return { config: "stage1", ...guest, ats: eats === BigInt(ste.EATS_FULL) }
    default:
      throw new IommuError("EIO", "a guest's STE.Config is abort (0), bypass (4) or stage 1 (5)")
  }
}

/** IDR5.OAS, CD.IPS, STE.S2PS: the smallest size that holds so many bits. */
export function addressSizeCode(bits: number): number {
  return ADDRESS_SIZE_BITS.findIndex(size => size >= bits)
}
