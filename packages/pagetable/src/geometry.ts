/** What tables of one format, width and aperture have in common, computed once and shared by all such domains. */
import { IommuError, toU64, U64_MAX } from "@iommu/core"
import type { PageTableFormat } from "./format.ts"
import { pow2 } from "./page-size.ts"
import type { PageTableOptions } from "./page-table.ts"

export class Geometry {
  readonly format: PageTableFormat
  readonly inputBits: number
  readonly outputBits: number
  /** Levels that the table begins with. */
  readonly levels: number
  readonly pageSizes: bigint
  readonly sizesHi: number
  readonly sizesLo: number
  /** log2 of the smallest page size: the unit of IOVAs, addresses and sizes. */
  readonly unitLg2: number
  /** 4 KiB pages of the smallest page size. */
  readonly unitPages: number
  /** The aperture in 4 KiB pages. */
  readonly firstPage: number
  readonly lastPage: number
  /** The same, halves of the first IOVA. */
  readonly startHi: number
  readonly startLo: number
  /** log2 of the 4 KiB pages of the root, all concatenated tables together. */
  readonly rootPagesLg2: number
  /** First 4 KiB page beyond the output width. */
  readonly outputEnd: number
  /** Largest bits 63:32 of an output address below that width whose bits all stand in place. */
  readonly plainOutputHi: number
  /** 1 when a table of level 0 may hold runs. */
  readonly smallRuns: number
  /** 1 when one smallest leaf is mapped without looking at the aperture's start: it is 0, and leaves are pages. */
  readonly plainPages: number

  constructor(format: PageTableFormat, options: PageTableOptions) {
    const { inputBits, outputBits, levels } = options
    check(levels >= format.minLevels && levels <= format.maxLevels, `${format.name} has no ${levels} levels`)
    const reach = reachBits(format, levels) + format.rootTablesLg2
    check(inputBits > format.granuleLg2 && inputBits <= format.maxInputBits, "an input width of the format")
    check(format.grows === 1 || inputBits <= reach, "enough levels for the input width")
    check(
      outputBits > format.granuleLg2 && outputBits <= format.maxOutputBits,
      "an output width of the format",
    )
    this.format = format
    this.inputBits = inputBits
    this.outputBits = outputBits
    this.levels = levels
    this.pageSizes = usableSizes(format, options)
    this.sizesHi = Number(BigInt.asIntN(32, this.pageSizes >> 32n))
    this.sizesLo = Number(BigInt.asIntN(32, this.pageSizes))
    const unit = this.pageSizes & -this.pageSizes
    this.unitLg2 = unit.toString(2).length - 1
    this.unitPages = Number(unit >> 12n)
    const last = inputBits === 64 ? U64_MAX : (1n << BigInt(inputBits)) - 1n
    const apertureStart = toU64(options.apertureStart ?? 0n, "aperture start")
    const apertureLast = toU64(options.apertureLast ?? last, "aperture end")
    check(apertureStart <= apertureLast && apertureLast <= last, "an aperture within the input width")
    check(apertureStart % unit === 0n && (apertureLast + 1n) % unit === 0n, "an aperture of whole pages")
    this.firstPage = Number(apertureStart >> 12n)
    this.lastPage = Number(apertureLast >> 12n)
    this.startHi = Number(BigInt.asIntN(32, apertureStart >> 32n))
    this.startLo = Number(BigInt.asIntN(32, apertureStart))
    this.rootPagesLg2 = Math.max(0, Math.log2(this.rootEntries(levels)) + 3 - 12)
    this.outputEnd = 2 ** (outputBits - 12)
    const plainBits = format.movedMask === 0 ? outputBits : Math.min(outputBits, format.movedFrom)
    this.plainOutputHi = plainBits > 32 ? 2 ** (plainBits - 32) - 1 : -1
    const granule = BigInt(format.granuleLg2)
    const runs = ((this.pageSizes >> (granule + 1n)) & ((1n << BigInt(format.indexBits - 1)) - 1n)) !== 0n
    this.smallRuns = runs ? 1 : 0
    this.plainPages = this.unitLg2 === format.granuleLg2 && this.firstPage === 0 ? 1 : 0
  }

  /** 4 KiB pages that tables of so many levels reach. */
  pagesOf(levels: number): number {
    const { format } = this
    if (format.grows === 0) return pow2(this.inputBits - 12)
    return pow2(Math.min(this.inputBits, reachBits(format, levels)) - 12)
  }

  /** Entries of the root. */
  rootEntries(levels: number): number {
    const { format } = this
    if (format.grows === 1) return 1 << format.indexBits
    return 1 << Math.max(0, this.inputBits - reachBits(format, levels - 1))
  }

  get aperture(): { readonly start: bigint; readonly last: bigint } {
    return { start: BigInt(this.firstPage) << 12n, last: ((BigInt(this.lastPage) + 1n) << 12n) - 1n }
  }
}

/** Domains may choose their apertures freely; the cache must not grow with what they chose. */
const KEPT_GEOMETRIES = 64

const known = new WeakMap<PageTableFormat, Map<string, Geometry>>()

/** The geometry of a table's options, shared by all tables with the same. @throws EINVAL */
export function geometryFor(options: PageTableOptions): Geometry {
  const { format, levels, inputBits, outputBits, pageSizes, apertureStart, apertureLast } = options
  const key = [levels, inputBits, outputBits, pageSizes, apertureStart, apertureLast].join()
  const ofFormat = known.get(format) ?? new Map<string, Geometry>()
  known.set(format, ofFormat)
  if (ofFormat.size >= KEPT_GEOMETRIES) ofFormat.clear()
  const geometry = ofFormat.get(key) ?? new Geometry(format, options)
  ofFormat.set(key, geometry)
  return geometry
}

/** Address bits that `levels` levels of single tables resolve. */
function reachBits(format: PageTableFormat, levels: number): number {
  return format.granuleLg2 + levels * format.indexBits
}

/** Sizes that fit the address widths and into one table of the highest level there may be. */
function usableSizes(format: PageTableFormat, options: PageTableOptions): bigint {
  const wanted = options.pageSizes ?? format.defaultPageSizes
  check((wanted & ~format.pageSizes) === 0n, `page sizes of ${format.name}`)
  const levels = format.grows === 1 ? format.maxLevels : options.levels
  const bits = Math.min(options.inputBits, options.outputBits, reachBits(format, levels))
  const sizes = wanted & ((1n << BigInt(bits)) - 1n)
  check(sizes !== 0n, "at least one page size")
  return sizes
}

function check(holds: boolean, rule: string): void {
  if (!holds) throw new IommuError("EINVAL", `a page table needs ${rule}`)
}
