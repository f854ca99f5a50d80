/** How QEMU takes the entries of a queue where it does not take them as the book does. */
import type { Words } from "../diff/script.ts"

/** The entries of a queue in memory. */
export interface QueueArea {
  readonly base: number
  readonly entries: number
  readonly entryBytes: number
}

/** @param read an entry as QEMU takes it; the same words where it takes it as the book does */
export function changedEntries(
  memory: Words,
  { base, entries, entryBytes }: QueueArea,
  read: (entry: readonly bigint[]) => readonly bigint[],
): Words {
  const changes = new Map<number, bigint>()
  for (let at = base; at < base + entries * entryBytes; at += entryBytes) {
    if (!memory.has(at)) continue
    const words = Array.from({ length: entryBytes / 8 }, (_, index) => memory.get(at + index * 8) ?? 0n)
    for (const [index, word] of read(words).entries()) {
      if (word !== words[index]) changes.set(at + index * 8, word)
    }
  }
  return changes
}
