/**
 * What tables of one format, width, aperture and depth have in common: computed once and shared, so that a domain
 * at rest has few fields, and hot paths find their numbers in one place.
 */
import { IommuError, toU64, U64_MAX } from "@iommu/core"
import type { PageTableFormat } from "./format.ts"
import { walkFor } from "./leaf-table.ts"
import { pow2 } from "./page-size.ts"
import type { PageTableOptions } from "./page-table.ts"

const PAGES_PER_4G = 0x10_0000

/** The numbers that a geometry follows from. */
interface Plan {
  readonly format: PageTableFormat
  readonly inputBits: number
  readonly outputBits: number
  readonly pageSizes: bigint
  /** The aperture in 4 KiB pages. */
  readonly firstPage: number
  readonly lastPage: number
  /** 0: freed. */
  readonly levels: number
  /** True while each table's place in memory follows from its address by one addition. */
  readonly isLinear: boolean
}

/**
 * Fields are declared, not defined: a field that is defined starts as `undefined`, and V8 then checks it for a number at
 * each use (+12 % on a look-up).
 */
export class Geometry {
  declare readonly format: PageTableFormat
  declare readonly inputBits: number
  declare readonly levels: number
  declare readonly pageSizes: bigint
  declare readonly sizesHi: number
  declare readonly sizesLo: number
  /** 4 KiB pages of the smallest page size: the unit of IOVAs, addresses and sizes. */
  declare readonly unitPages: number
  /** The aperture in 4 KiB pages. */
  declare readonly firstPage: number
  declare readonly lastPage: number
  /** 4 KiB pages that the tables reach: all of the input width, or what the levels so far cover. */
  declare readonly reachPages: number
  /** Last IOVA that the tables reach, signed halves. */
  declare readonly reachHi: number
  declare readonly reachLo: number
  declare readonly rootEntries: number
  /** log2 of the 4 KiB pages of the root, all concatenated tables together. */
  declare readonly rootPagesLg2: number
  /** First 4 KiB page beyond the output width. */
  declare readonly outputEnd: number
  /** Largest bits 63:32 of an output address below that width whose bits all stand in place. */
  declare readonly plainOutputHi: number
  /** 1 when a table of level 0 may hold runs. */
  declare readonly smallRuns: number
  /** 1 when one smallest leaf is mapped without looking at the aperture's start: it is 0, and leaves are pages. */
  declare readonly plainPages: number
  declare readonly isLinear: boolean
  /** Which unrolled walk leads to the tables of level 0. */
  declare readonly walk: number
  /** Bits 63:32 that no IOVA within the reach has. */
  declare readonly beyondHi: number
  /**
   * What the look-up unrolled for 3 and 4 levels compares: under `plainMask`, entries that lead on are `plain3` to
   * `plain1` at their levels, and leaves of the smallest size `plain0`. Anything else is looked at more closely: all,
   * for tables of other shapes, whose `plain3` no entry has.
   */
  declare readonly plainMask: number
  declare readonly plain3: number
  declare readonly plain2: number
  declare readonly plain1: number
  declare readonly plain0: number
  /** Index of an entry of level 2, times 2. Kept an integer: as a double, it cost a random look-up 6 %. */
  declare readonly upperIndexMask: number
  /** Copies of the format's numbers that the unrolled look-up needs. */
  declare readonly kindMask: number
  declare readonly kind1: number
  declare readonly kind2: number
  declare readonly kind3: number
  declare readonly addressHi: number
  /** IOMMU_* bits of the last map, 0 when there was none, and the attributes of its leaves, signed halves. */
  declare prot: number
  declare leafHi: number
  declare leafLo: number
  declare private readonly plan: Plan

  constructor(plan: Plan) {
    const { format, inputBits, outputBits, pageSizes, levels } = plan
    const topShift = bitsOf(format, Math.max(levels, 1) - 1)
    this.format = format
    this.inputBits = inputBits
    this.levels = levels
    this.pageSizes = pageSizes
    this.sizesHi = Number(BigInt.asIntN(32, pageSizes >> 32n))
    this.sizesLo = Number(BigInt.asIntN(32, pageSizes))
    this.unitPages = Number((pageSizes & -pageSizes) >> 12n)
    this.firstPage = plan.firstPage
    this.lastPage = plan.lastPage
    const reachBits = format.grows === 1 ? Math.min(inputBits, topShift + format.indexBits) : inputBits
    this.reachPages = pow2(reachBits - 12)
    const reachLast = Math.min(plan.lastPage, this.reachPages - 1)
    this.reachHi = Math.floor(reachLast / PAGES_PER_4G) | 0
    this.reachLo = ((reachLast % PAGES_PER_4G) << 12) | 0xfff | 0
    this.rootEntries = pow2(format.grows === 1 ? format.indexBits : Math.max(0, inputBits - topShift))
    this.rootPagesLg2 = Math.max(0, Math.log2(this.rootEntries) + 3 - 12)
    this.outputEnd = pow2(outputBits - 12)
    const plainBits = format.movedMask === 0 ? outputBits : Math.min(outputBits, format.movedFrom)
    this.plainOutputHi = plainBits > 32 ? pow2(plainBits - 32) - 1 : -1
    const runs = (pageSizes >> BigInt(format.granuleLg2 + 1)) & ((1n << BigInt(format.indexBits - 1)) - 1n)
    this.smallRuns = runs !== 0n ? 1 : 0
    this.plainPages = this.unitPages === pow2(format.granuleLg2 - 12) && plan.firstPage === 0 ? 1 : 0
    this.isLinear = plan.isLinear
    this.walk = walkFor(format, levels, plan.isLinear)
    this.kindMask = format.kindMask
    this.kind1 = format.tableKind
    this.kind2 = format.tableKind + format.tableKindStep
    this.kind3 = format.tableKind + format.tableKindStep * 2
    const present = format.presentMask & -format.presentMask
    this.plainMask = (format.kindMask & ~format.presentMask) | present | format.oddLeafMask
    this.plain3 = this.walk === 4 && this.rootEntries <= 512 ? this.kind3 & this.plainMask : ~this.plainMask
    this.plain2 = this.kind2 & this.plainMask
    this.plain1 = this.kind1 & this.plainMask
    this.upperIndexMask = ((this.walk === 3 ? this.rootEntries : 512) * 2 - 2) | 0
    this.plain0 = (format.pageBitsLo | present) & this.plainMask
    this.beyondHi = ~(pow2(Math.max(0, reachBits - 32)) - 1)
    this.addressHi = format.addressHi
    this.prot = 0
    this.leafHi = 0
    this.leafLo = 0
    this.plan = plan
  }

  /** The same with other levels: a table that grew, shrank, or (0) was freed. */
  withLevels(levels: number): Geometry {
    return shared({ ...this.plan, levels }).#withLeavesOf(this)
  }

  /** The same with leaves of another format, whose tables have the same shape. */
  withFormat(format: PageTableFormat): Geometry {
    return shared({ ...this.plan, format })
  }

  /** The same for tables that lie anywhere. */
  scattered(): Geometry {
    return shared({ ...this.plan, isLinear: false }).#withLeavesOf(this)
  }

  /** A map that is under way goes on with the leaves that it began with. */
  #withLeavesOf(other: Geometry): this {
    this.prot = other.prot
    this.leafHi = other.leafHi
    this.leafLo = other.leafLo
    return this
  }

  get aperture(): { readonly start: bigint; readonly last: bigint } {
    return { start: BigInt(this.firstPage) << 12n, last: ((BigInt(this.lastPage) + 1n) << 12n) - 1n }
  }
}

/** The geometry that a table begins with. @throws EINVAL for numbers that the format does not have */
export function geometryFor(options: PageTableOptions): Geometry {
  const { format, levels, inputBits, outputBits } = options
  const reach = bitsOf(format, levels) + format.rootTablesLg2
  check(levels >= format.minLevels && levels <= format.maxLevels, `levels that ${format.name} has`)
  check(inputBits > format.granuleLg2 && inputBits <= format.maxInputBits, "an input width of the format")
  check(format.grows === 1 || inputBits <= reach, "enough levels for the input width")
  check(outputBits > format.granuleLg2 && outputBits <= format.maxOutputBits, "an output width of the format")
  const pageSizes = usableSizes(format, options)
  const unit = pageSizes & -pageSizes
  const last = inputBits === 64 ? U64_MAX : (1n << BigInt(inputBits)) - 1n
  const start = toU64(options.apertureStart ?? 0n, "aperture start")
  const end = toU64(options.apertureLast ?? last, "aperture end")
  check(start <= end && end <= last, "an aperture within the input width")
  check(start % unit === 0n && (end + 1n) % unit === 0n, "an aperture of whole pages")
  const firstPage = Number(start >> 12n)
  const lastPage = Number(end >> 12n)
  return shared({ format, inputBits, outputBits, pageSizes, firstPage, lastPage, levels, isLinear: true })
}

/** Domains may choose their apertures freely; the cache must not grow with what they chose. */
const KEPT_GEOMETRIES = 64

const known = new WeakMap<PageTableFormat, Map<string, Geometry>>()

function shared(plan: Plan): Geometry {
  const { format, ...numbers } = plan
  const key = Object.values(numbers).join()
  const ofFormat = known.get(format) ?? new Map<string, Geometry>()
  known.set(format, ofFormat)
  if (ofFormat.size >= KEPT_GEOMETRIES) ofFormat.clear()
  const geometry = ofFormat.get(key) ?? new Geometry(plan)
  ofFormat.set(key, geometry)
  return geometry
}

/** Address bits that `levels` levels of single tables resolve. */
function bitsOf(format: PageTableFormat, levels: number): number {
  return format.granuleLg2 + levels * format.indexBits
}

/** Sizes that fit the address widths and into one table of the highest level there may be. */
function usableSizes(format: PageTableFormat, options: PageTableOptions): bigint {
  const wanted = options.pageSizes ?? format.defaultPageSizes
  check((wanted & ~format.pageSizes) === 0n, `page sizes of ${format.name}`)
  const levels = format.grows === 1 ? format.maxLevels : options.levels
  const bits = Math.min(options.inputBits, options.outputBits, bitsOf(format, levels))
  const sizes = wanted & ((1n << BigInt(bits)) - 1n)
  check(sizes !== 0n, "at least one page size")
  return sizes
}

function check(holds: boolean, rule: string): void {
  if (!holds) throw new IommuError("EINVAL", `a page table needs ${rule}`)
}
