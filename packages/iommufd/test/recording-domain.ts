/** A domain whose table is a list of runs, written for these tests alone: it knows no driver, and can be told to fail. */
import {
  type DirtyBitmap,
  type DirtyOps,
  fromHalves,
  IommuError,
  type IommuOps,
  isIommuError,
  type PagingDomain,
  toU64,
  type U64Like,
} from "@iommu/core"

export interface Run {
  readonly iova: bigint
  readonly pa: bigint
  readonly size: bigint
  readonly prot: number
}

export interface RecordingDomainOptions {
  readonly start?: bigint
  readonly last?: bigint
  readonly smallestPage?: bigint
  /** Makes dirty tracking available. */
  readonly dirty?: "tracked"
}

export class RecordingDomain implements PagingDomain, DirtyOps {
  readonly type = "paging"
  readonly format = 0
  readonly nestParent = false
  readonly physHi = 0
  readonly physLo = 0
  readonly aperture: { readonly start: bigint; readonly last: bigint }
  readonly pageSizes: bigint
  readonly dirty?: DirtyOps
  /** As mapped, call by call. */
  runs: Run[] = []
  mapCalls = 0
  /** Counts down with each map; at 0 the map fails with ENOMEM. */
  failsAfter = Number.POSITIVE_INFINITY
  /** IOVAs that devices wrote to. */
  written: bigint[] = []

  constructor(options: RecordingDomainOptions = {}) {
    this.aperture = { start: options.start ?? 0n, last: options.last ?? (1n << 64n) - 1n }
    this.pageSizes = (options.smallestPage ?? 4096n) | (2n << 20n) | (1n << 30n)
    if (options.dirty) this.dirty = this
  }

  get ops(): IommuOps {
    throw new Error("the tests of the IOAS ask for no driver")
  }

  map(iova: U64Like, pa: U64Like, size: U64Like, prot: number): void {
    this.mapCalls++
    if (this.failsAfter-- <= 0) throw new IommuError("ENOMEM", "the domain was told to fail")
    const run = { iova: toU64(iova, "iova"), pa: toU64(pa, "pa"), size: toU64(size, "size"), prot }
    const smallest = this.pageSizes & -this.pageSizes
    if ((run.iova | run.pa | run.size) % smallest !== 0n)
      throw new Error("a misaligned map reached the domain")
    if (run.iova < this.aperture.start || run.iova + run.size - 1n > this.aperture.last) {
      throw new Error("a map outside the aperture reached the domain")
    }
    if (this.runs.some(other => other.iova < run.iova + run.size && run.iova < other.iova + other.size)) {
      throw new Error("a map of what is mapped reached the domain")
    }
    this.runs.push(run)
  }

  unmap(iova: U64Like, size: U64Like): bigint {
    const start = toU64(iova, "iova")
    const end = start + toU64(size, "size")
    let bytes = 0n
    this.runs = this.runs.flatMap(run => {
      const from = run.iova > start ? run.iova : start
      const to = run.iova + run.size < end ? run.iova + run.size : end
      if (from >= to) return [run]
      bytes += to - from
      const left = { ...run, size: from - run.iova }
      const right = { ...run, iova: to, pa: run.pa + to - run.iova, size: run.iova + run.size - to }
      return [left, right].filter(piece => piece.size > 0n)
    })
    return bytes
  }

  unmapFast(iova: U64Like, size: U64Like): bigint {
    return this.unmap(iova, size)
  }

  iotlbSync(): void {}

  flushIotlbAll(): void {}

  iovaToPhys(iova: U64Like): bigint | null {
    const at = toU64(iova, "iova")
    const run = this.runs.find(one => one.iova <= at && at < one.iova + one.size)
    return run ? run.pa + at - run.iova : null
  }

  setDirtyTracking(): void {}

  readAndClearDirty(dirty: DirtyBitmap): void {
    this.readDirty(dirty)
    this.written = this.written.filter(iova => iova < dirty.iova || iova >= dirty.iova + dirty.length)
  }

  readDirty(dirty: DirtyBitmap): void {
    for (const iova of this.written) dirty.mark(iova, 1n)
  }

  mapPages(iovaHi: number, iovaLo: number, paHi: number, paLo: number, pages: number, prot: number): number {
    try {
      this.map(fromHalves(iovaHi, iovaLo), fromHalves(paHi, paLo), pages * 4096, prot)
      return 0
    } catch (error) {
      if (isIommuError(error)) return error.errno
      throw error
    }
  }

  unmapPages(): number {
    throw new Error("the IOAS unmaps in bytes")
  }

  iovaToPhysHalves(): number {
    throw new Error("the IOAS looks up in bytes")
  }

  attachDev(): void {}

  detachDev(): void {}

  free(): void {}
}
