/**
 * A format of radix page tables as a record of numbers.
 *
 * Words used here and in the builder, whatever a vendor's book calls them: an **entry** is 64 bits in a table; a
 * **leaf** is an entry that gives an output address, a **table entry** one that points to a table. **Level** 0 holds
 * only leaves, level 1 points to tables of level 0, and so on; the **item** of a level is the bytes that one of its
 * entries covers. A **run** is a leaf larger than its item, standing in several neighbouring entries.
 *
 * All formats are made by {@link definePageTableFormat}, so that all have one hidden class: a builder that met a
 * second class slowed down by 1.5 to 5 times for every vendor (measured with five formats alive, Node 24).
 */

/** What an author of a format writes. 64-bit masks are bigint here, and split into halves once. */
export interface PageTableFormatSpec {
  /** For people; nothing branches on it. */
  readonly name: string
  /** log2 of the smallest leaf; a table below the root has the same size. 12, 14 or 16. */
  readonly granuleLg2: number
  readonly minLevels: number
  readonly maxLevels: number
  readonly maxInputBits: number
  readonly maxOutputBits: number
  /** log2 of the number of tables that may stand side by side as one larger root. Default 0. */
  readonly rootTablesLg2?: number
  /** 1 when a new root can be put above the old one while devices use the table. Default 0. */
  readonly grows?: 0 | 1
  /** Sizes of single-entry leaves and of runs, one bit each. */
  readonly pageSizes: bigint
  /** Sizes used when the domain does not choose. Default: all. */
  readonly defaultPageSizes?: bigint
  /** At least one of these bits is set in each present entry. Bits 31:0. */
  readonly presentMask: number
  /** Above level 0, an entry is a table entry when these bits are as {@link tableBits} has them. Bits 31:0. */
  readonly kindMask: number
  /** Bits of the address that stand in place, from bit 12 up. */
  readonly addressMask: bigint
  /** Address bits that do not: `count` bits from address bit `from` up stand at entry bit `to`. Default none. */
  readonly movedAddress?: { readonly from: number; readonly to: number; readonly count: number }
  /** Type of a leaf at level 0, and above. */
  readonly pageBits: bigint
  readonly blockBits: bigint
  /** Set in each entry of a run. Default none. */
  readonly runBits?: bigint
  /**
   * 1: all entries of a run are equal, and the lowest clear address bit is half the run's size. 0: each entry has
   * its own address, and there is one run size a level. Default 0.
   */
  readonly runSizeInAddress?: 0 | 1
  /** A leaf was written to when its bits under `mask` are `value`; flipping `flip` forgets it. Default: never. */
  readonly dirty?: { readonly mask: bigint; readonly value: bigint; readonly flip: bigint }
  /**
   * What an unmap that ends inside a leaf does: 1 removes the whole leaf, 0 leaves it. A range that begins inside
   * a leaf always leaves it.
   */
  readonly cutLeafGoes: 0 | 1
  /**
   * Attributes of a leaf with these IOMMU_* bits, without its type and address; null when they cannot be had. Bit 63
   * is clear and bits 62:52 are not all ones: entries are filled, and found empty, as doubles.
   */
  leafBits(prot: number): bigint | null
  /** All but the address of an entry of `level` that points to a table of `level - 1`. */
  tableBits(level: number): bigint
}

/** Made by {@link definePageTableFormat}. Masks ending in `Hi` are of bits 63:32, in `Lo` of bits 31:0. */
export interface PageTableFormat {
  readonly name: string
  readonly granuleLg2: number
  /** Address bits that a table below the root resolves. */
  readonly indexBits: number
  readonly minLevels: number
  readonly maxLevels: number
  readonly maxInputBits: number
  readonly maxOutputBits: number
  readonly rootTablesLg2: number
  readonly grows: number
  readonly pageSizes: bigint
  readonly defaultPageSizes: bigint
  /** {@link pageSizes} in halves. */
  readonly sizesHi: number
  readonly sizesLo: number
  readonly presentMask: number
  readonly kindMask: number
  /** Bits under {@link kindMask} of a table entry of level 1, and what each further level adds. */
  readonly tableKind: number
  readonly tableKindStep: number
  readonly addressHi: number
  readonly addressLo: number
  readonly movedFrom: number
  readonly movedTo: number
  /** The moved bits where they stand in the entry; 0 when none are moved. */
  readonly movedMask: number
  readonly pageBitsHi: number
  readonly pageBitsLo: number
  readonly blockBitsHi: number
  readonly blockBitsLo: number
  readonly runBitsHi: number
  readonly runBitsLo: number
  readonly runSizeInAddress: number
  /** A leaf of level 0 with any of these bits needs more than a mask to give its address. */
  readonly oddLeafMask: number
  readonly dirtyMaskHi: number
  readonly dirtyMaskLo: number
  readonly dirtyValueHi: number
  readonly dirtyValueLo: number
  readonly dirtyFlipHi: number
  readonly dirtyFlipLo: number
  readonly cutLeafGoes: number
  /** {@link tableBits} by level. */
  readonly tableHi: Int32Array
  readonly tableLo: Int32Array
  leafBits(prot: number): bigint | null
  tableBits(level: number): bigint
}

/** The one place where formats come from. @throws Error (a bug of the format's author) for impossible numbers */
export function definePageTableFormat(spec: PageTableFormatSpec): PageTableFormat {
  const levels = Array.from({ length: spec.maxLevels }, (_, level) =>
    level === 0 ? 0n : spec.tableBits(level),
  )
  const tableLo = Int32Array.from(levels, signedLo)
  const kindOf = (level: number): number => ((tableLo[level] ?? 0) & spec.kindMask) | 0
  const moved = spec.movedAddress ?? { from: 0, to: 0, count: 0 }
  const runBits = spec.runBits ?? 0n
  const movedMask = ((1 << moved.count) - 1) << moved.to
  const dirty = spec.dirty ?? { mask: 0n, value: 1n, flip: 0n }
  const format: PageTableFormat = {
    name: spec.name,
    granuleLg2: spec.granuleLg2,
    indexBits: spec.granuleLg2 - 3,
    minLevels: spec.minLevels,
    maxLevels: spec.maxLevels,
    maxInputBits: spec.maxInputBits,
    maxOutputBits: spec.maxOutputBits,
    rootTablesLg2: spec.rootTablesLg2 ?? 0,
    grows: spec.grows ?? 0,
    pageSizes: spec.pageSizes,
    defaultPageSizes: spec.defaultPageSizes ?? spec.pageSizes,
    sizesHi: signedHi(spec.pageSizes),
    sizesLo: signedLo(spec.pageSizes),
    presentMask: spec.presentMask | 0,
    kindMask: spec.kindMask | 0,
    tableKind: kindOf(1),
    tableKindStep: spec.maxLevels > 2 ? kindOf(2) - kindOf(1) : 0,
    addressHi: signedHi(spec.addressMask),
    addressLo: signedLo(spec.addressMask),
    movedFrom: moved.from,
    movedTo: moved.to,
    movedMask,
    pageBitsHi: signedHi(spec.pageBits),
    pageBitsLo: signedLo(spec.pageBits),
    blockBitsHi: signedHi(spec.blockBits),
    blockBitsLo: signedLo(spec.blockBits),
    runBitsHi: signedHi(runBits),
    runBitsLo: signedLo(runBits),
    runSizeInAddress: spec.runSizeInAddress ?? 0,
    oddLeafMask: movedMask | (spec.runSizeInAddress === 1 ? signedLo(runBits) : 0),
    dirtyMaskHi: signedHi(dirty.mask),
    dirtyMaskLo: signedLo(dirty.mask),
    dirtyValueHi: signedHi(dirty.value),
    dirtyValueLo: signedLo(dirty.value),
    dirtyFlipHi: signedHi(dirty.flip),
    dirtyFlipLo: signedLo(dirty.flip),
    cutLeafGoes: spec.cutLeafGoes,
    tableHi: Int32Array.from(levels, signedHi),
    tableLo,
    leafBits: spec.leafBits,
    tableBits: spec.tableBits,
  }
  checkFormat(format, kindOf)
  return Object.freeze(format)
}

/** Signed, so that V8 keeps every field as a small integer. */
function signedHi(bits: bigint): number {
  return Number(BigInt.asIntN(32, bits >> 32n))
}

function signedLo(bits: bigint): number {
  return Number(BigInt.asIntN(32, bits))
}

function checkFormat(format: PageTableFormat, kindOf: (level: number) => number): void {
  for (let level = 1; level < format.maxLevels; level++) {
    if (kindOf(level) !== format.tableKind + (level - 1) * format.tableKindStep) {
      throw new Error(`bug: ${format.name}: the kind of table entries must be linear in the level`)
    }
  }
  if ((format.pageSizes & format.defaultPageSizes) !== format.defaultPageSizes) {
    throw new Error(`bug: ${format.name}: default page sizes that the format does not have`)
  }
  if (format.pageSizes % (1n << BigInt(format.granuleLg2)) !== 0n) {
    throw new Error(`bug: ${format.name}: page sizes below the granule`)
  }
}
