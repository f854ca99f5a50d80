/**
 * What user data asks for: the rules of each ABI struct and the errno of each broken one. Nothing is allocated.
 * AMD 48882 rev 3.10, §2.2.2.1 (the guest's entry).
 */
import {
  type FieldValues,
  HWPT_AMD_GUEST,
  HWPT_PAGING,
  type HwptAmdGuest,
  HwptDataType,
  type HwptPaging,
  IommuError,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PAGING_PASID,
  PageTableFormatId,
  pagingParameters,
} from "@iommu/core"
import { DTE, GLX_MAX, GUEST_PAGING_5_LEVEL, gcr3RootOf } from "../spec/device-table.ts"
import type { Features } from "./features.ts"

/** A paging request with every choice made. */
export interface PagingPlan {
  readonly format: number
  /** Levels of tables to start with. */
  readonly levels: number
  readonly inputBits: number
  readonly outputBits: number
  readonly apertureStart: bigint
  readonly apertureLast: bigint
  readonly nestParent: boolean
  readonly dirty: boolean
  readonly pasid: boolean
}

const KNOWN_FLAGS = PAGING_NEST_PARENT | PAGING_DIRTY_TRACKING | PAGING_PASID
const GRANULE_LG2 = 12
const OUTPUT_BITS = 52
/** Linux's start for v1; the root grows to what is mapped. */
const V1_DEFAULT_LEVELS = 3
const V1_MAX_LEVELS = 6
const V1_MAX_INPUT_BITS = 64
const V2_MIN_LEVELS = 4
const V2_MAX_LEVELS = 5

/** @throws EOPNOTSUPP for a type that this driver does not serve */
export function userDataLen(hwptType: number): number {
  if (hwptType === HwptDataType.AMD_GUEST) return HWPT_AMD_GUEST.size
  if (hwptType === HwptDataType.PAGING) return HWPT_PAGING.size
  throw new IommuError("EOPNOTSUPP", `AMD-Vi serves no user data of type ${hwptType}`)
}

/** §3.4, Extended Feature registers: nesting needs guest translation, and GCR3 tables that the guest addresses. */
export function canNest(features: Features): boolean {
  const { GTSup, GIoSup, GCR3TRPModeSup, hostLevels } = features
  return GTSup && GIoSup && GCR3TRPModeSup && hostLevels > 0
}

/** A domain on guest tables also takes requests without PASID: that is GIOV. */
export function canUseGuestTables(features: Features): boolean {
  return features.GTSup && features.GIoSup
}

/** @throws EOPNOTSUPP, EINVAL */
export function pagingPlan(features: Features, data: Readonly<HwptPaging> | null): PagingPlan {
  const asked = data ?? pagingParameters({})
  if ((asked.flags & ~KNOWN_FLAGS) !== 0) unsupported(`flags 0x${asked.flags.toString(16)} are not known`)
  if (asked.__reserved !== 0) unsupported("reserved members must be zero")
  const format = chooseFormat(features, asked)
  const { levels, inputBits } = chooseSize(features, format, asked)
  return {
    format,
    levels,
    inputBits,
    outputBits: chooseOutputBits(asked),
    ...chooseAperture(inputBits, asked),
    nestParent: (asked.flags & PAGING_NEST_PARENT) !== 0,
    dirty: (asked.flags & PAGING_DIRTY_TRACKING) !== 0,
    pasid: (asked.flags & PAGING_PASID) !== 0,
  }
}

function chooseFormat(features: Features, { flags, format }: Readonly<HwptPaging>): number {
  const { DEFAULT, AMD_V1, AMD_V2 } = PageTableFormatId
  if (format !== DEFAULT && format !== AMD_V1 && format !== AMD_V2)
    unsupported(`format ${format} is not AMD's`)
  if (format === AMD_V1 && features.hostLevels === 0) unsupported("this hardware has no host (v1) tables")
  if (format === AMD_V2 && !canUseGuestTables(features)) unsupported("this hardware has no guest (v2) tables")
  const nest = (flags & PAGING_NEST_PARENT) !== 0
  const dirty = (flags & PAGING_DIRTY_TRACKING) !== 0
  const pasid = (flags & PAGING_PASID) !== 0
  if (nest && !canNest(features)) unsupported("nesting needs GTSup, GIoSup and GCR3TRPModeSup")
  if (dirty && !features.HDSup) unsupported("dirty tracking needs HDSup")
  if (pasid && !canUseGuestTables(features)) unsupported("PASIDs need GTSup and GIoSup")
  const host = nest || dirty
  if (format === DEFAULT) {
    if (pasid && host) unsupported("PASIDs need guest tables, nesting and dirty tracking host tables")
    if (!host && features.hostLevels === 0 && canUseGuestTables(features)) return AMD_V2
    if (!pasid && features.hostLevels === 0) unsupported("this hardware has no host (v1) tables")
    return pasid ? AMD_V2 : AMD_V1
  }
  if (format === AMD_V2 && host) invalid("nest parents and dirty tracking need host (v1) tables")
  if (format === AMD_V1 && pasid) invalid("PASIDs need guest (v2) tables")
  return format
}

/** §2.2.3: nine bits a level. §2.2.6: canonical addresses, so the lower half of what the levels resolve. */
function reach(format: number, levels: number): number {
  const bits = GRANULE_LG2 + 9 * levels
  return format === PageTableFormatId.AMD_V2 ? bits - 1 : Math.min(bits, V1_MAX_INPUT_BITS)
}

function chooseSize(
  features: Features,
  format: number,
  asked: Readonly<HwptPaging>,
): { levels: number; inputBits: number } {
  const { levels, inputBits, granuleLg2 } = asked
  const v2 = format === PageTableFormatId.AMD_V2
  const [least, most] = v2 ? [V2_MIN_LEVELS, V2_MAX_LEVELS] : [1, V1_MAX_LEVELS]
  const here = v2 ? features.guestLevels : features.hostLevels
  if (granuleLg2 !== 0 && granuleLg2 !== 12 && granuleLg2 !== 14 && granuleLg2 !== 16) {
    invalid(`no granule has 2^${granuleLg2} bytes`)
  }
  if (granuleLg2 > GRANULE_LG2) unsupported("AMD tables have a granule of 4 KiB")
  if (levels !== 0 && (levels < least || levels > most)) invalid(`the format has ${least} to ${most} levels`)
  if (levels > here) unsupported(`this hardware walks ${here} levels`)
  if (inputBits !== 0) {
    if (inputBits <= GRANULE_LG2 || inputBits > reach(format, most)) {
      invalid(`the format has input addresses of up to ${reach(format, most)} bits`)
    }
    if (levels !== 0 && inputBits > reach(format, levels)) {
      invalid(`${levels} levels reach ${reach(format, levels)} bits, not ${inputBits}`)
    }
    if (inputBits > reach(format, here)) unsupported(`this hardware takes ${reach(format, here)} bits`)
  }
  if (levels !== 0) return { levels, inputBits: inputBits || reach(format, levels) }
  if (inputBits === 0) return { levels: v2 ? here : V1_DEFAULT_LEVELS, inputBits: reach(format, here) }
  let fewest = least
  while (reach(format, fewest) < inputBits) fewest++
  return { levels: fewest, inputBits }
}

function chooseOutputBits({ outputBits }: Readonly<HwptPaging>): number {
  if (outputBits === 0) return OUTPUT_BITS
  if (outputBits <= GRANULE_LG2 || outputBits > OUTPUT_BITS) {
    invalid(`output addresses have 13 to ${OUTPUT_BITS} bits, got ${outputBits}`)
  }
  return outputBits
}

function chooseAperture(
  inputBits: number,
  { apertureStart, apertureLast }: Readonly<HwptPaging>,
): { apertureStart: bigint; apertureLast: bigint } {
  const last = (1n << BigInt(inputBits)) - 1n
  if (apertureStart === 0n && apertureLast === 0n) return { apertureStart, apertureLast: last }
  if (apertureStart > apertureLast || apertureLast > last) {
    invalid(`the aperture ends before it starts, or beyond ${inputBits} bits`)
  }
  const page = 1n << BigInt(GRANULE_LG2)
  if (apertureStart % page !== 0n || (apertureLast + 1n) % page !== 0n) {
    invalid("the aperture is whole pages")
  }
  return { apertureStart, apertureLast }
}

/** What the host's entry takes over from a guest's, as bits of its first three words. */
export interface NestedPlan {
  /** The guest's tag, which stands for a host DomainID. */
  readonly gDomID: number
  readonly word0: bigint
  readonly word1: bigint
  readonly word2: bigint
}

/**
 * A guest's entry means over the parent's tables what it would mean to a real device (§2.2.2.1):
 * - V = 0, or GV = 0: guest physical addresses reach the parent as they are; with V = 1, IR and IW decide
 * - V = 1 and TV = 0: what needs a translation is refused, here by neither IR nor IW
 * - else requests go through the guest's GCR3 table
 * @throws EINVAL for an entry that the book does not allow in a guest, EOPNOTSUPP for one beyond this hardware
 */
export function nestedPlan(features: Features, { dte }: Readonly<HwptAmdGuest>): NestedPlan {
  const guest = DTE.decode(dte)
  checkGuestEntry(features, guest, gcr3RootOf(dte))
  const gDomID = Number(guest.DomainID)
  if (guest.V === 0n) return planOf(gDomID, { IR: 1n, IW: 1n })
  if (guest.TV === 0n) return planOf(gDomID, {})
  const { IR, IW } = guest
  if (guest.GV === 0n) return planOf(gDomID, { IR, IW })
  const { PPR, GIOV, GV, GLX, GCR3_14_12, GCR3_30_15, GCR3_51_31, GuestPagingMode } = guest
  return planOf(gDomID, {
    IR,
    IW,
    PPR,
    GIOV,
    GV,
    GLX,
    GCR3_14_12,
    GCR3_30_15,
    GCR3_51_31,
    GuestPagingMode,
  })
}

/** The rules in the order in which Linux checks them, then what it leaves to the hardware. */
function checkGuestEntry(features: Features, guest: FieldValues<typeof DTE.fields>, gcr3Root: bigint): void {
  if (guest.Mode !== 0n || guest.HostPageTableRootPtr !== 0n) {
    invalid("the guest's entry must leave Mode and the host page table root to the host")
  }
  if (guest.V === 1n && guest.GV === 1n && gcr3Root === 0n) {
    invalid("an entry with V and GV needs a GCR3 table root pointer")
  }
  if (guest.GuestPagingMode > BigInt(GUEST_PAGING_5_LEVEL)) invalid("GuestPagingMode is 0 or 1")
  if (guest.GLX > BigInt(GLX_MAX)) invalid("GLX 3 is reserved")
  if (Number(guest.GuestPagingMode) + 4 > features.guestLevels)
    unsupported("no guest tables of 5 levels here")
  if (Number(guest.GLX) > features.GLXSup) {
    unsupported(`GCR3 tables have up to ${features.GLXSup + 1} levels here`)
  }
  if (guest.V === 1n && guest.GV === 1n && guest.PPR === 1n && !features.pageRequests) {
    unsupported("no page requests by device here: PPR is reserved")
  }
}

function planOf(gDomID: number, fields: Partial<FieldValues<typeof DTE.fields>>): NestedPlan {
  const [word0 = 0n, word1 = 0n, word2 = 0n] = DTE.encode(fields)
  return { gDomID, word0, word1, word2 }
}

function unsupported(rule: string): never {
  throw new IommuError("EOPNOTSUPP", rule)
}

function invalid(rule: string): never {
  throw new IommuError("EINVAL", rule)
}
