/**
 * What a map has done so far, so that one that fails midway leaves nothing behind. There is one journal: maps run
 * to their end before another starts.
 */
import type { TableTree } from "./table-tree.ts"

/** Entries written: index in doubles, count, ... */
const fills: number[] = []
/** Word indexes of entries that got a new table. */
const created: number[] = []
/** Entries with emptied tables that made room for leaves: word index, hi, lo, level, first page, ... */
const replaced: number[] = []
let fillsUsed = 0

const REPLACED_STRIDE = 5

export function noteFill(at: number, count: number): void {
  fills[fillsUsed] = at
  fills[fillsUsed + 1] = count
  fillsUsed += 2
}

export function noteCreated(slot: number): void {
  created.push(slot)
}

/** Takes an emptied table out of its entry, which is cleared. */
export function noteReplaced(tree: TableTree, slot: number, level: number, firstPage: number): void {
  const { words } = tree
  replaced.push(slot, words[slot + 1] as number, words[slot] as number, level, firstPage)
  words[slot] = 0
  words[slot + 1] = 0
}

/** Puts everything back as it was before the map. */
export function undo(tree: TableTree, levelsBefore: number): void {
  const { words } = tree
  const { doubles } = tree.memory
  for (let i = 0; i < fillsUsed; i += 2) {
    const at = fills[i] as number
    doubles.fill(0, at, at + (fills[i + 1] as number))
  }
  for (let i = created.length - 1; i >= 0; i--) tree.dropTable(created[i] as number)
  for (let i = 0; i < replaced.length; i += REPLACED_STRIDE) {
    const slot = replaced[i] as number
    words[slot + 1] = replaced[i + 1] as number
    words[slot] = replaced[i + 2] as number
  }
  while (tree.levels > levelsBefore) tree.shrink()
  forget()
}

/** The map is complete: replaced tables wait for the invalidation of what may still point to them. */
export function commit(
  tree: TableTree,
  release: (tree: TableTree, hi: number, lo: number, level: number, firstPage: number) => void,
): void {
  for (let i = 0; i < replaced.length; i += REPLACED_STRIDE) {
    release(
      tree,
      replaced[i + 1] as number,
      replaced[i + 2] as number,
      replaced[i + 3] as number,
      replaced[i + 4] as number,
    )
  }
  forget()
}

function forget(): void {
  fillsUsed = 0
  created.length = 0
  replaced.length = 0
}
