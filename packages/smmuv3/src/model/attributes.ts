/**
 * Memory type and shareability of a translated transaction. Arm IHI 0070 G.b chapter 13; Arm DDI 0487 §D8.6 for
 * MAIR, stage 2 MemAttr and forced write-back.
 *
 * An attribute is one number, as SMMU_GATOS_PAR reports it (§6.3.40): bits 7:0 the type in MAIR format, bits 9:8 the
 * shareability as in descriptors. A device's own attributes do not reach the model, so §13.1.3's defaults stand for
 * them. NS is not among them: Non-secure streams have no other (§13.4.2).
 */
import { ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE, type Fault, type TranslationResult } from "@iommu/core"
import {
  ALLOCCFG,
  ALLOCCFG_SHIFT,
  MEMATTR,
  MTCFG,
  SHCFG,
  SHCFG_INCOMING,
  SHCFG_SHIFT,
} from "../spec/device-table.ts"
import { S1_ATTR_INDX, S1_NG, S2_MEM_ATTR, S2_MEM_ATTR_SHIFT, SH, SH_SHIFT } from "../spec/page-tables.ts"
import type { StreamTable } from "./device-entry.ts"
import type { ContextEntry, ContextTable } from "./pasid-entry.ts"
import type { Registers } from "./registers.ts"
import {
  INFO_CLEAN,
  INFO_PRIVILEGED_SHIFT,
  INFO_SHAPE_SHIFT,
  INFO_SIZE1_SHIFT,
  INFO_SIZE2_SHIFT,
  INFO_STAGE2_SHIFT,
  PAGE_INFO,
  PAGE_IPA_HI,
  PAGE_IPA_LO,
  PAGE_LEAF1,
  PAGE_LEAF2,
  PAGE_PA_HI,
  PAGE_PA_LO,
  type PageCache,
  REGIME_GLOBAL,
} from "./tlb.ts"
import type { Transaction } from "./transaction.ts"
import type { Stage1Walk } from "./walk-stage1.ts"
import type { Stage2Walk } from "./walk-stage2.ts"

const NON_SHAREABLE = 0
const OUTER_SHAREABLE = 2

/** Halves of a MAIR byte for Normal memory: outer above inner. */
const NON_CACHEABLE = 0x4
const WRITE_THROUGH = 0xb
const WRITE_BACK = 0xf
/** Bit of a cacheable half: write-back, else write-through. */
const IS_WRITE_BACK = 0x4
/** Hints of a cacheable half: not transient, read-allocate, write-allocate. */
const HINTS = 0xb
/** Of a MAIR byte: Normal memory, else Device. */
const IS_NORMAL = 0xf0

/** Normal write-back, allocating, Non-shareable: what a transaction without attributes has, §13.1.3. */
export const DEFAULT_INPUT: number = (NON_SHAREABLE << 8) | (WRITE_BACK << 4) | WRITE_BACK

/**
 * The input as word 3 of an STE overrides it: MTCFG, MemAttr, ALLOCCFG, SHCFG. §5.2, §13.1.4.
 * ALLOCCFG counts with MTCFG 0 too, where the book leaves that open.
 */
export function overriddenInput(word3: number): number {
  const allocation = (word3 & ALLOCCFG) >>> ALLOCCFG_SHIFT
  return override(word3 & (MTCFG | MEMATTR), allocation, (word3 & SHCFG) >>> SHCFG_SHIFT)
}

/** The same of SMMU_GBPA, whose ALLOCCFG lies elsewhere. §6.3.14, §13.2. */
function globalBypassInput(gbpa: number): number {
  return override(gbpa & (MTCFG | MEMATTR), (gbpa >>> 8) & 0xf, (gbpa & SHCFG) >>> SHCFG_SHIFT)
}

/** @param allocation ALLOCCFG: bit 3 overrides, then read, write, transient */
function override(memory: number, allocation: number, sharing: number): number {
  let type = (memory & MTCFG) !== 0 ? typeOfMemAttr(memory & MEMATTR) : (WRITE_BACK << 4) | WRITE_BACK
  if ((allocation & 8) !== 0 && (type & IS_NORMAL) !== 0) {
    const hints = ((allocation >>> 1) & 3) | ((allocation & 1) === 0 ? 8 : 0)
    type = (withHints(type >>> 4, hints) << 4) | withHints(type & 0xf, hints)
  }
  return consistent(type, sharing === SHCFG_INCOMING ? NON_SHAREABLE : sharing)
}

/**
 * What stage 1 makes of the input: type and shareability are its own, hints of cacheable memory combine. §13.4.2.
 * @param mairLo CD.MAIR0, @param mairHi CD.MAIR1
 * @param treeSharing CD.SH0 or SH1 where descriptors have no shareability (DS), else -1
 */
function stage1Attributes(
  input: number,
  leafLo: number,
  mairLo: number,
  mairHi: number,
  treeSharing: number,
): number {
  const index = (leafLo & S1_ATTR_INDX) >>> 2
  const mair = ((index < 4 ? mairLo : mairHi) >>> ((index & 3) * 8)) & 0xff
  const sharing = treeSharing < 0 ? (leafLo & SH) >>> SH_SHIFT : treeSharing
  if ((mair & IS_NORMAL) === 0) return consistent(mair & 0xc, sharing)
  const outer = mair >>> 4
  // 0x40, 0xa0 and 0xf0 say something about both halves in the outer one; other zero halves are UNPREDICTABLE.
  const inner = (mair & 0xf) === 0 ? outer : mair & 0xf
  const type = (pulledDown(outer, (input >>> 4) & 0xf) << 4) | pulledDown(inner, input & 0xf)
  return consistent(type, sharing)
}

/** What stage 2 makes of its input: the stronger of both. §13.1.5. */
function stage2Attributes(input: number, leafLo: number, treeSharing: number): number {
  const type = combinedType(input & 0xff, typeOfMemAttr((leafLo & S2_MEM_ATTR) >>> S2_MEM_ATTR_SHIFT))
  return consistent(type, combinedSharing(input, leafLo, treeSharing))
}

/**
 * The same with STE.S2FWB: stage 2 replaces the type rather than weakening it. §13.1.6, DDI 0487 §D8.6.6 and
 * AArch64.S2ApplyFWBMemAttrs(). Device and Non-cacheable memory of stage 1 counts as Outer Shareable, as its effective
 * shareability is, one of two ways that DDI 0487 leaves open.
 */
function stage2ForcedAttributes(input: number, leafLo: number, treeSharing: number): number {
  const type = forcedType(input & 0xff, (leafLo & S2_MEM_ATTR) >>> S2_MEM_ATTR_SHIFT)
  return consistent(type, combinedSharing(input, leafLo, treeSharing))
}

/** MemAttr[3:0] of an STE or of a stage 2 leaf; its Reserved values are Device-nGnRnE. */
function typeOfMemAttr(memAttr: number): number {
  const outer = memAttr >>> 2
  const inner = memAttr & 3
  if (outer === 0) return inner << 2
  return inner === 0 ? 0 : (cacheability(outer) << 4) | cacheability(inner)
}

/** 1 Non-cacheable, 2 write-through, 3 write-back. */
function cacheability(field: number): number {
  return field === 1 ? NON_CACHEABLE : field === 2 ? WRITE_THROUGH : WRITE_BACK
}

function combinedType(one: number, other: number): number {
  const oneNormal = (one & IS_NORMAL) !== 0
  const otherNormal = (other & IS_NORMAL) !== 0
  // Device types grow stronger towards nGnRnE, which is 0.
  if (!oneNormal) return otherNormal ? one : Math.min(one, other)
  if (!otherNormal) return other
  return (weakerHalf(one >>> 4, other >>> 4) << 4) | weakerHalf(one & 0xf, other & 0xf)
}

/** The less cacheable of two halves, with the hints of the first: stage 2 has none. */
function weakerHalf(one: number, other: number): number {
  if (one === NON_CACHEABLE || other === NON_CACHEABLE) return NON_CACHEABLE
  return one & (other | ~IS_WRITE_BACK)
}

/** @param memAttr 7 as stage 1, 6 write-back, 5 Non-cacheable unless Device, 0 to 3 Device; bit 3 is RES0 */
function forcedType(input: number, memAttr: number): number {
  const isDevice = (input & IS_NORMAL) === 0
  if ((memAttr & 4) === 0) {
    const type = (memAttr & 3) << 2
    return isDevice ? Math.min(input, type) : type
  }
  switch (memAttr & 3) {
    case 3:
      return input
    case 2:
      if (isDevice) return (WRITE_BACK << 4) | WRITE_BACK
      return (forcedHalf(input >>> 4) << 4) | forcedHalf(input & 0xf)
    default:
      return isDevice ? input : (NON_CACHEABLE << 4) | NON_CACHEABLE
  }
}

function forcedHalf(half: number): number {
  return half === NON_CACHEABLE ? WRITE_BACK : half | IS_WRITE_BACK
}

function withHints(half: number, hints: number): number {
  return half === NON_CACHEABLE ? half : settled((half & ~HINTS) | hints)
}

/** A half of stage 1 with hints no stronger than a cacheable input's: no-allocate and transient win. */
function pulledDown(half: number, input: number): number {
  if (half === NON_CACHEABLE || input === NON_CACHEABLE || input === 0) return half
  return settled(half & (input | ~HINTS))
}

/** Outer Shareable before Inner before Non-shareable, figure 13.1. */
function combinedSharing(input: number, leafLo: number, treeSharing: number): number {
  const one = (input >>> 8) & 3
  const other = treeSharing < 0 ? (leafLo & SH) >>> SH_SHIFT : treeSharing
  if (one === OUTER_SHAREABLE || other === OUTER_SHAREABLE) return OUTER_SHAREABLE
  return one === 3 || other === 3 ? 3 : NON_SHAREABLE
}

/** Device and Normal Non-cacheable memory is Outer Shareable, §13.1.7. */
function consistent(type: number, sharing: number): number {
  if ((type & IS_NORMAL) === 0 || type === ((NON_CACHEABLE << 4) | NON_CACHEABLE)) {
    return (OUTER_SHAREABLE << 8) | type
  }
  return ((sharing === 1 ? NON_SHAREABLE : sharing) << 8) | type
}

/** Cacheable memory that is not allocated is not transient either, §13.1.7; MAIR has no word for it. */
function settled(half: number): number {
  return (half & 3) === 0 ? half | 8 : half
}

/** What a translation gave. Attributes are worked out when somebody asks, until the next transaction. */
export class Outcome implements TranslationResult {
  /** Attributes that are known already, else -1. */
  known = -1
  paHi = 0
  paLo = 0
  sizeLg2 = 0
  allowed = 0
  ipaHi = 0
  ipaLo = 0
  stage1SizeLg2 = 0
  stage2SizeLg2 = 0
  fault: Fault | null = null
  private readonly registers: Registers
  private readonly streams: StreamTable
  private readonly contexts: ContextTable
  private readonly stage1: Stage1Walk
  private readonly stage2: Stage2Walk

  constructor(
    registers: Registers,
    streams: StreamTable,
    contexts: ContextTable,
    stage1: Stage1Walk,
    stage2: Stage2Walk,
  ) {
    this.registers = registers
    this.streams = streams
    this.contexts = contexts
    this.stage1 = stage1
    this.stage2 = stage2
  }

  /** @param stage1 and @param stage2 log2 of their leaves, 0 without the stage; @param allowed ACCESS_* bits */
  fill(
    paHi: number,
    paLo: number,
    stage1: number,
    stage2: number,
    allowed: number,
    ipaHi: number,
    ipaLo: number,
  ): void {
    this.known = -1
    this.paHi = paHi >>> 0
    this.paLo = paLo >>> 0
    this.ipaHi = ipaHi >>> 0
    this.ipaLo = ipaLo >>> 0
    this.allowed = allowed
    this.stage1SizeLg2 = stage1
    this.stage2SizeLg2 = stage2
    const smaller = stage1 === 0 ? stage2 : stage2 === 0 || stage1 < stage2 ? stage1 : stage2
    this.sizeLg2 = smaller === 0 ? this.registers.features.oasBits : smaller
  }

  /** §13.2 to §13.4. */
  get attributes(): number {
    return this.known >= 0 ? this.known : this.workOut()
  }

  private workOut(): number {
    const { features, translates } = this.registers
    if (!translates) {
      return features.typeOverrides ? globalBypassInput(this.registers.get("GBPA")) : DEFAULT_INPUT
    }
    let attributes = this.streams.entry.input
    if (this.stage1SizeLg2 !== 0) {
      const { leafLo, sharing } = this.stage1
      const { mairLo, mairHi } = this.contexts.context
      attributes = stage1Attributes(attributes, leafLo, mairLo, mairHi, sharing)
    }
    if (this.stage2SizeLg2 === 0) return attributes
    const { leafLo, config } = this.stage2
    return config.forceWriteBack
      ? stage2ForcedAttributes(attributes, leafLo, config.geometry.sharing)
      : stage2Attributes(attributes, leafLo, config.geometry.sharing)
  }
}

const SIZE_LG2 = 0x3f
/** Bits of a leaf that attributes come from; above them the shareability of leaves without one, counted from -1. */
const LEAF_ATTRIBUTES = 0xfff
const SHARING_SHIFT = 12
const ALL_ACCESS = ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC
// V8 loads a binding of another module from memory at each use, one of its own not.
const CLEAN = INFO_CLEAN
const PA_HI = PAGE_PA_HI
const PA_LO = PAGE_PA_LO
const IPA_HI = PAGE_IPA_HI
const IPA_LO = PAGE_IPA_LO
const INFO = PAGE_INFO
const LEAF1 = PAGE_LEAF1
const LEAF2 = PAGE_LEAF2
const PRIVILEGED_SHIFT = INFO_PRIVILEGED_SHIFT
const STAGE2_SHIFT = INFO_STAGE2_SHIFT
const SIZE1_SHIFT = INFO_SIZE1_SHIFT
const SIZE2_SHIFT = INFO_SIZE2_SHIFT

/** The result of a transaction out of a page's record; the walks have the leaves as if they had found them. */
export function recallPage(
  pages: PageCache,
  kept: number,
  { hi, lo }: Transaction,
  result: Outcome,
  stage1: Stage1Walk,
  stage2: Stage2Walk,
): void {
  const { words } = pages.store
  const info = words[kept + INFO] as number
  const size1 = (info >> SIZE1_SHIFT) & SIZE_LG2
  const size2 = (info >> SIZE2_SHIFT) & SIZE_LG2
  const sizeLg2 = size2 === 0 || size1 < size2 ? size1 : size2
  const offsetLo = sizeLg2 < 32 ? lo & ((1 << sizeLg2) - 1) : lo
  const offsetHi = sizeLg2 < 32 ? 0 : hi & ((1 << (sizeLg2 - 32)) - 1)
  const paHi = (words[kept + PA_HI] as number) | offsetHi
  const paLo = (words[kept + PA_LO] as number) | offsetLo
  const ipaHi = (words[kept + IPA_HI] as number) | offsetHi
  const ipaLo = (words[kept + IPA_LO] as number) | offsetLo
  result.fill(paHi, paLo, size1, size2, pages.allows(kept, stage1.privileged), ipaHi, ipaLo)
  // What attributes come from.
  const leaf = words[kept + LEAF1] as number
  stage1.leafLo = leaf
  stage1.sharing = (leaf >> SHARING_SHIFT) - 1
  stage2.leafLo = words[kept + LEAF2] as number
}

/** Keeps what a transaction has found by walking. */
export function keepPage(
  pages: PageCache,
  context: ContextEntry,
  { hi, lo }: Transaction,
  result: TranslationResult,
  stage1: Stage1Walk,
  stage2: Stage2Walk,
): void {
  const { sizeLg2, stage1SizeLg2, stage2SizeLg2 } = result
  const vaHi = stage1.config.withoutTopByte(hi)
  const isGlobal = context.hasAsids && (stage1.leafLo & S1_NG) === 0
  const at = isGlobal
    ? pages.insert(sizeLg2, vaHi, lo, context.globalTag, context.regime | REGIME_GLOBAL)
    : pages.insert(sizeLg2, vaHi, lo, context.tag, context.regime)
  if (sizeLg2 < stage1SizeLg2) pages.hasPieces = true
  const { words } = pages.store
  const maskLo = sizeLg2 < 32 ? -(1 << sizeLg2) : 0
  const maskHi = sizeLg2 < 32 ? -1 : -(1 << (sizeLg2 - 32))
  words[at + PA_HI] = result.paHi & maskHi
  words[at + PA_LO] = result.paLo & maskLo
  words[at + IPA_HI] = result.ipaHi & maskHi
  words[at + IPA_LO] = result.ipaLo & maskLo
  words[at + LEAF1] = (stage1.leafLo & LEAF_ATTRIBUTES) | ((stage1.sharing + 1) << SHARING_SHIFT)
  words[at + LEAF2] = stage2.leafLo
  const { nested } = stage1
  const isClean = stage1.isClean || (nested && stage2.isClean)
  words[at + INFO] =
    stage1.allowedTo(false) |
    (stage1.allowedTo(true) << PRIVILEGED_SHIFT) |
    ((nested ? stage2.allowedTo(false) : ALL_ACCESS) << STAGE2_SHIFT) |
    ((nested ? stage2.allowedTo(true) : ALL_ACCESS) << (STAGE2_SHIFT + PRIVILEGED_SHIFT)) |
    (isClean ? CLEAN : 0) |
    (stage1SizeLg2 << SIZE1_SHIFT) |
    (stage2SizeLg2 << SIZE2_SHIFT) |
    (stage1.shape << INFO_SHAPE_SHIFT)
}
