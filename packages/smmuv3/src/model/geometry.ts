/**
 * The shape of one tree of VMSAv8-64 tables, precomputed from TxSZ, granule, DS and output size.
 * Arm DDI 0487 §D8.2, with what IHI 0070 G.b §5.2 and §5.4 add.
 */

import * as pte from "../spec/page-tables.ts"

/** How a descriptor holds an address: bits 47:n, 64 KiB granule with 51:48 in 15:12, or DS with 51:50 in 9:8. */
export const ADDRESS_48 = 0
export const ADDRESS_LPA = 1
export const ADDRESS_LPA2 = 2

/** log2 of the granule by CD.TG0 and STE.S2TG, then by CD.TG1; 0 where reserved. */
export const GRANULE_LG2_TG0: readonly number[] = [12, 16, 14, 0]
export const GRANULE_LG2_TG1: readonly number[] = [0, 14, 12, 16]

export interface TreeShape {
  readonly granuleLg2: number
  /** Bits of an input address. */
  readonly inputBits: number
  /** Level of the root: -1 to 3. */
  readonly startLevel: number
  readonly outputBits: number
  readonly oasBits: number
  readonly ds: boolean
  readonly bigEndian: boolean
  readonly rootHi: number
  readonly rootLo: number
}

/** One instance per table base register, refilled when the structure that describes it changes. */
export class Geometry {
  enabled = false
  inputBits = 48
  outputBits = 48
  startLevel = 0
  /** Index bits per level. */
  stride = 9
  indexMask = 511
  /** Position and mask of the root's index; the mask covers concatenated stage 2 roots. */
  rootShift = 39
  rootMask = 511
  rootHi = 0
  rootLo = 0
  addressForm: number = ADDRESS_48
  /** Mask of bits 31:0 that an address has in a table descriptor. */
  addressMaskLo = -4096
  /** The lowest level whose descriptors may be blocks. */
  firstBlockLevel = 1
  bigEndian = false
  /** 4 KiB granule, 48-bit addresses, little-endian, root at level 0 or 1: the shape that walks unroll. */
  quick = true

  fill(shape: TreeShape): void {
    const { granuleLg2, inputBits, startLevel, ds } = shape
    this.enabled = true
    this.inputBits = inputBits
    this.outputBits = shape.outputBits
    this.startLevel = startLevel
    this.stride = granuleLg2 - 3
    this.indexMask = (1 << this.stride) - 1
    this.rootShift = granuleLg2 + (3 - startLevel) * this.stride
    this.rootMask = (1 << (inputBits - this.rootShift)) - 1
    // A root is aligned to its size, and to 64 bytes where 52-bit outputs are possible.
    const rootLg2 = Math.max(inputBits - this.rootShift + 3, shape.outputBits === 52 ? 6 : 4)
    this.rootHi = shape.rootHi | 0
    this.rootLo = (shape.rootLo & -(1 << rootLg2)) | 0
    const lpa = granuleLg2 === 16 && shape.oasBits >= 52
    this.addressForm = lpa ? ADDRESS_LPA : ds ? ADDRESS_LPA2 : ADDRESS_48
    this.addressMaskLo = -(1 << granuleLg2)
    this.firstBlockLevel = firstBlockLevel(granuleLg2, ds, lpa)
    this.bigEndian = shape.bigEndian
    const plain = granuleLg2 === 12 && !ds && !shape.bigEndian
    this.quick = plain && inputBits >= 32 && (startLevel === 0 || startLevel === 1)
  }
}

/** 512 GiB, 64 GiB and 4 TiB blocks exist only with 52-bit addresses, DDI 0487 §D8.2. */
function firstBlockLevel(granuleLg2: number, ds: boolean, lpa: boolean): number {
  if (granuleLg2 === 12) return ds ? 0 : 1
  if (granuleLg2 === 14) return ds ? 1 : 2
  return lpa ? 1 : 2
}

/** Level of a stage 1 root: the deepest that still resolves the input, DDI 0487 §D8.2. */
export function stage1StartLevel(granuleLg2: number, inputBits: number): number {
  return 3 - Math.trunc((inputBits - 1 - granuleLg2) / (granuleLg2 - 3))
}

/** Level of a stage 2 root by {S2SL0_2, S2SL0}; undefined where reserved. DDI 0487 tables D8-19, D8-29, D8-38. */
export function stage2StartLevel(granuleLg2: number, sl: number, ds: boolean): number | undefined {
  if (granuleLg2 === 12) return [2, 1, 0, 3, ds ? -1 : undefined][sl]
  if (granuleLg2 === 14) return [3, 2, 1, ds ? 0 : undefined][sl & 3]
  return [3, 2, 1, undefined][sl & 3]
}

/**
 * Whether stage 2 input bits fit a root of the given level, with up to 16 concatenated tables.
 * DDI 0487 tables D8-20 to D8-41.
 */
export function stage2LevelFits(granuleLg2: number, inputBits: number, startLevel: number): boolean {
  const stride = granuleLg2 - 3
  const fewest = (3 - startLevel) * stride + granuleLg2 + 1
  const most = fewest + stride - 1 + 4
  return inputBits >= fewest && inputBits <= most
}

/** What a descriptor is. DDI 0487 §D8.3.1. */
export const INVALID = 0
export const TABLE = 1
export const LEAF = 2

export function descriptorKind(low: number, level: number, firstBlockLevel: number): number {
  const type = low & pte.TYPE
  if (level === pte.LAST_LEVEL) return type === pte.TYPE_PAGE ? LEAF : INVALID
  if (type === pte.TYPE_TABLE) return TABLE
  return type === pte.TYPE_BLOCK && level >= firstBlockLevel ? LEAF : INVALID
}

/** Bits 63:32 of the address that a descriptor holds. */
export function addressHi(high: number, low: number, form: number): number {
  if (form === ADDRESS_48) return high & pte.ADDR_HI
  if (form === ADDRESS_LPA) return (high & pte.ADDR_HI) | ((low & pte.LPA_OA_51_48) << 4)
  return (high & pte.LPA2_ADDR_HI) | ((low & pte.LPA2_OA_51_50) << 10)
}

/** Swaps the bytes of a 32-bit word: tables may be big-endian, CD.ENDI and STE.S2ENDI. */
export function swap32(word: number): number {
  return (word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24)
}
