/**
 * Changing an STE or a CD that the SMMU may be using. Arm IHI 0070 G.b §3.21.3.
 *
 * The SMMU reads an entry in 64-bit pieces, at any time, and keeps what it read until it is told to forget. So at
 * each moment an entry is the old one, the new one, or not valid; and what it ignores may change at any time.
 */
import type { PhysicalMemory } from "@iommu/core"

export const ENTRY_WORDS = 8

/** The eight 64-bit words of an STE or a CD. */
export type Entry = readonly bigint[]

/** What one kind of entry is made of. V is bit `valid` of word 0. */
export interface EntryKind {
  readonly valid: bigint
  /** Per word, the bits that the SMMU looks at when an entry has these words. */
  used(words: Entry): Entry
}

export function readEntry(memory: PhysicalMemory, address: bigint): Entry {
  return Array.from({ length: ENTRY_WORDS }, (_, i) => memory.read64(address + BigInt(i * 8)))
}

/**
 * Brings an entry to its new words. Without a gap in translation when the words that count differ in one 64-bit
 * piece; else through V = 0.
 * @param forget invalidates the SMMU's copies of the entry and waits
 * @throws what `forget` throws; the entry has its old words then
 */
export function updateEntry(
  memory: PhysicalMemory,
  address: bigint,
  target: Entry,
  kind: EntryKind,
  forget: () => void,
): void {
  const old = readEntry(memory, address)
  const put = (words: Entry): void => {
    if (writeChanged(memory, address, words)) forget()
  }
  try {
    for (const words of updateSteps(old, target, kind)) put(words)
  } catch (error) {
    restoreEntry(memory, address, old, kind, forget)
    throw error
  }
}

/** The states through which an entry goes, the last being its new words. Copies are forgotten after each. */
export function updateSteps(old: Entry, target: Entry, kind: EntryKind): Entry[] {
  const oldUsed = kind.used(old)
  const targetUsed = kind.used(target)
  // What the SMMU ignores in the old entry may already be new.
  const prepared = old.map((word, i) => {
    const used = oldUsed[i] as bigint
    return (word & used) | ((target[i] as bigint) & ~used)
  })
  const differ = prepared.flatMap((word, i) => {
    const used = targetUsed[i] as bigint
    return ((word ^ (target[i] as bigint)) & used) === 0n ? [] : [i]
  })
  if (differ.length === 0) return [target]
  if (differ.length === 1) {
    const critical = differ[0] as number
    const ready = prepared.with(critical, old[critical] as bigint)
    return [ready, ready.with(critical, target[critical] as bigint), target]
  }
  const invalid = old.with(0, (old[0] as bigint) & ~kind.valid)
  return [invalid, target.with(0, 0n), target]
}

function writeChanged(memory: PhysicalMemory, address: bigint, words: Entry): boolean {
  let changed = false
  words.forEach((word, i) => {
    const at = address + BigInt(i * 8)
    if (memory.read64(at) === word) return
    memory.write64(at, word)
    changed = true
  })
  return changed
}

/**
 * Puts an entry's old words back after hardware failed. V comes last, and copies are forgotten as far as the
 * hardware still answers.
 */
export function restoreEntry(
  memory: PhysicalMemory,
  address: bigint,
  old: Entry,
  kind: EntryKind,
  forget: () => void,
): void {
  for (const words of [old.with(0, (old[0] as bigint) & ~kind.valid), old]) {
    if (!writeChanged(memory, address, words)) continue
    try {
      forget()
    } catch {
      // The failure that led here is the one to report.
    }
  }
}
