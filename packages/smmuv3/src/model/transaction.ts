/**
 * A transaction on its way: the shape of the tables that it walks, and where it was when it faulted.
 * Arm IHI 0070 G.b §3.4, §7.3; Arm DDI 0487 §D8.2, with what IHI 0070 §5.2 and §5.4 add.
 */
import { CLASS_IN, CLASS_TT } from "../spec/events.ts"
import { ADDRESS_48, ADDRESS_LPA, ADDRESS_LPA2 } from "../spec/page-tables.ts"

/** What the walks say about a fault besides its number. One per model, reused. */
export class FaultSite {
  stage: 1 | 2 = 1
  cls: number = CLASS_IN
  /** The stage 1 table access was a read. */
  tableRead = false
  ipaHi = 0
  ipaLo = 0
  fetchHi = 0
  fetchLo = 0

  /** Stage 1, input address: what holds unless a walk says otherwise. */
  reset(): void {
    this.stage = 1
    this.cls = CLASS_IN
    this.tableRead = false
    this.ipaHi = 0
    this.ipaLo = 0
  }

  stage2(cls: number, ipaHi: number, ipaLo: number, tableRead: boolean): void {
    this.stage = 2
    this.cls = cls
    this.ipaHi = ipaHi
    this.ipaLo = ipaLo
    this.tableRead = tableRead && cls === CLASS_TT
  }
}

/** What an STE or CD says of one tree of VMSAv8-64 tables. */
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
