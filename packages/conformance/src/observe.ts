/** What a call does to hardware and memory, for tests of a driver's own order of things. */
import {
  type ErrnoCode,
  type Invalidation,
  type IommuModel,
  isIommuError,
  type PhysicalMemory,
  toU64,
} from "@iommu/core"

/** Invalidations that a model carries out while a call runs, in order. */
export function invalidationsDuring(model: IommuModel, call: () => void): Invalidation[] {
  const seen: Invalidation[] = []
  model.onInvalidate = invalidation => seen.push(invalidation)
  try {
    call()
  } finally {
    model.onInvalidate = null
  }
  return seen
}

/** What a structure of `words` 64-bit words is after each 64-bit store into it while a call runs. */
export function statesDuring(
  memory: PhysicalMemory,
  at: bigint,
  words: number,
  call: () => void,
): bigint[][] {
  const states: bigint[][] = []
  const write64 = memory.write64.bind(memory)
  memory.write64 = (address, value) => {
    write64(address, value)
    const offset = toU64(address, "address") - at
    if (offset < 0n || offset >= BigInt(words * 8)) return
    states.push(Array.from({ length: words }, (_, i) => memory.read64(at + BigInt(i * 8))))
  }
  try {
    call()
  } finally {
    memory.write64 = write64
  }
  return states
}

/** The errno that a call throws, null when it returns. Errors of other kinds come through. */
export function errnoOf(call: () => unknown): ErrnoCode | null {
  try {
    call()
    return null
  } catch (error) {
    if (!isIommuError(error)) throw error
    return error.code
  }
}
