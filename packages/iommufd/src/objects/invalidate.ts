/** IOMMU_HWPT_INVALIDATE: what a guest invalidates in its page table, or through its vIOMMU. */
import {
  type CacheInvalidateData,
  type CacheInvalidateResult,
  type InvalidateLayout,
  IommuError,
  isIommuError,
  nestedInvalidateLayout,
  PAGE_SIZE,
  padded,
  viommuInvalidateLayout,
} from "@iommu/core"
import type { IommufdContext } from "./iommufd-context.ts"

/** Entries that are decoded at once; bounds what a large array costs. */
const BATCH = 1024
const MOST_ENTRIES = 524_288

/** An array of requests that is not copied yet. */
export interface InvalidateArray {
  readonly type: number
  readonly entryLength: number
  readonly entryCount: number
  /** False for a null pointer. */
  readonly hasData: boolean
  /** The bytes of entries one after the other. @throws EFAULT */
  copy(first: number, count: number): Uint8Array
}

/** Who carries requests out. */
interface Target {
  readonly layout: InvalidateLayout
  run(data: CacheInvalidateData): CacheInvalidateResult
}

/** Requests that a caller has as values go straight to the driver. @throws ENOENT, EINVAL, EOPNOTSUPP */
export function invalidateValues(
  context: IommufdContext,
  id: number,
  data: CacheInvalidateData,
): CacheInvalidateResult {
  return findRunner(context, id).run(data)
}

/**
 * @param id of a nested page table or a vIOMMU
 * @returns how far it got; the error, if any, belongs to the entry after that
 */
export function invalidate(
  context: IommufdContext,
  id: number,
  array: InvalidateArray,
): CacheInvalidateResult {
  try {
    checkArray(array)
    const target = findTarget(context, id, array.type)
    return target.layout.copies === "array" ? runWhole(target, array) : runInBatches(target, array)
  } catch (error) {
    if (isIommuError(error)) return { handled: 0, error }
    throw error
  }
}

function checkArray({ entryCount, entryLength, hasData }: InvalidateArray): void {
  if (entryCount === 0) return
  if (!hasData || entryLength === 0) throw new IommuError("EINVAL", "entries have an address and a length")
  if (entryLength > PAGE_SIZE || entryCount > MOST_ENTRIES) {
    throw new IommuError("EINVAL", `at most ${MOST_ENTRIES} entries of at most ${PAGE_SIZE} bytes`)
  }
}

function findTarget(context: IommufdContext, id: number, type: number): Target {
  const { run, layout } = findRunner(context, id)
  return { run, layout: layout(type) }
}

interface Runner {
  run(data: CacheInvalidateData): CacheInvalidateResult
  /** @throws EINVAL for a type that the driver does not know */
  layout(type: number): InvalidateLayout
}

function findRunner({ objects }: IommufdContext, id: number): Runner {
  const object = objects.find(id)
  switch (object.kind) {
    case "hwpt-nested": {
      const { domain } = object
      const run = domain.cacheInvalidateUser?.bind(domain)
      if (run === undefined) throw unserved(id)
      return { run, layout: type => nestedInvalidateLayout(domain.ops, type) }
    }
    case "viommu": {
      const { viommu, ops } = object
      const run = viommu.cacheInvalidate?.bind(viommu)
      if (run === undefined) throw unserved(id)
      return { run, layout: type => viommuInvalidateLayout(ops, type) }
    }
    default:
      throw new IommuError("EINVAL", `a ${object.kind} has no guest's caches to invalidate`)
  }
}

function unserved(id: number): IommuError {
  return new IommuError("EOPNOTSUPP", `the driver of object ${id} carries out no invalidations of guests`)
}

/** Each entry is copied when its turn comes: those before a bad one are done. */
function runInBatches({ layout, run }: Target, array: InvalidateArray): CacheInvalidateResult {
  let handled = 0
  do {
    const batch = readBatch(layout, array, handled)
    const result = run(layout.decode(batch.entries))
    handled += result.handled
    if (result.error !== null || batch.error !== null) return { handled, error: result.error ?? batch.error }
  } while (handled < array.entryCount)
  return { handled, error: null }
}

interface Batch {
  readonly entries: readonly Uint8Array[]
  /** Of the entry after them. */
  readonly error: IommuError | null
}

function readBatch(layout: InvalidateLayout, array: InvalidateArray, first: number): Batch {
  const { entryLength, entryCount } = array
  const count = Math.min(BATCH, entryCount - first)
  if (count > 0 && (entryLength < layout.minSize || entryLength > layout.size)) {
    const error = new IommuError("EINVAL", `entries of this type have ${layout.size} bytes`)
    return { entries: [], error }
  }
  try {
    return { entries: split(layout, array, array.copy(first, count)), error: null }
  } catch (error) {
    if (isIommuError(error)) return readSingly(layout, array, first, count)
    throw error
  }
}

/** As far as memory goes. */
function readSingly(layout: InvalidateLayout, array: InvalidateArray, first: number, count: number): Batch {
  const entries: Uint8Array[] = []
  try {
    while (entries.length < count)
      entries.push(...split(layout, array, array.copy(first + entries.length, 1)))
  } catch (error) {
    if (isIommuError(error)) return { entries, error }
    throw error
  }
  return { entries, error: null }
}

/** All entries are copied before the first is carried out. */
function runWhole({ layout, run }: Target, array: InvalidateArray): CacheInvalidateResult {
  const entries: Uint8Array[] = []
  while (entries.length < array.entryCount) {
    const count = Math.min(BATCH, array.entryCount - entries.length)
    entries.push(...split(layout, array, array.copy(entries.length, count)))
  }
  return run(layout.decode(entries))
}

/** Entries of the layout's size. @throws E2BIG for one that is longer and does not end in zeros */
function split(
  { size }: InvalidateLayout,
  { entryLength }: InvalidateArray,
  bytes: Uint8Array,
): Uint8Array[] {
  return Array.from({ length: bytes.length / entryLength }, (_, index) => {
    const entry = bytes.subarray(index * entryLength, (index + 1) * entryLength)
    if (entryLength <= size) return padded(entry, size)
    if (entry.subarray(size).some(byte => byte !== 0)) {
      throw new IommuError("E2BIG", `bytes beyond the ${size} of an entry must be zero`)
    }
    return entry.subarray(0, size)
  })
}
