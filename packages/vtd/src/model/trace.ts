/** Steps of a walk, for people. Called only while a trace hook is set; the walks have a null check for it. */
import { fromHalves, hex64, type WalkStep } from "@iommu/core"
import { CONTEXT, ROOT, SCALABLE_CONTEXT } from "../spec/device-table.ts"
import { FS_P, FS_PS, FS_RW, FS_US, SS_PS, SS_R, SS_W } from "../spec/page-tables.ts"
import { PASID_DIRECTORY, PASID_ENTRY } from "../spec/pasid-table.ts"
import type { Transaction } from "./transaction.ts"

const TABLE_NAMES = ["", "PTE", "PDE", "PDPE", "PML4E", "PML5E"]
const PAGE_NAMES = ["", "4 KiB", "2 MiB", "1 GiB"]
const PGTT_NAMES = ["reserved", "first stage", "second stage", "nested", "pass-through"]
const TT_NAMES = ["second stage", "second stage, device-TLB allowed", "pass-through", "reserved"]

/** A root, context, PASID directory or PASID table entry of `count` 64-bit words at `at` in memory.words. */
export function traceEntry(
  t: Transaction,
  what: string,
  tableHi: number,
  tableLo: number,
  index: number,
  at: number,
  count: number,
): void {
  const words = t.memory.words
  const entry = Array.from({ length: count }, (_, word) =>
    fromHalves(words[at + 2 * word + 1] as number, words[at + 2 * word] as number),
  )
  const table = fromHalves(tableHi, tableLo)
  t.trace?.({ stage: 0, what, table, index, entry, meaning: meaningOfEntry(what, entry) })
}

function meaningOfEntry(what: string, entry: readonly bigint[]): string {
  const first = entry[0] as bigint
  if ((first & 1n) === 0n) return "not present"
  switch (what) {
    case "context entry": {
      const c = CONTEXT.decode(entry)
      const type = TT_NAMES[Number(c.TT)] as string
      return `${type}, domain ${c.DID}, AW ${c.AW}, table at ${hex64(CONTEXT.getInPlace(entry, "SSPTPTR"))}`
    }
    case "scalable-mode context entry": {
      const c = SCALABLE_CONTEXT.decode(entry)
      const directory = hex64(c.PASIDDIRPTR << 12n)
      return `PASID directory of ${1n << (c.PDTS + 7n)} entries at ${directory}, RID_PASID ${c.RID_PASID}`
    }
    case "PASID directory entry":
      return `PASID table at ${hex64(PASID_DIRECTORY.getInPlace(entry, "SMPTBLPTR"))}`
    case "PASID table entry":
      return meaningOfPasidEntry(entry)
    default:
      return `context table at ${hex64(ROOT.getInPlace(entry, "CTP"))}`
  }
}

function meaningOfPasidEntry(entry: readonly bigint[]): string {
  const e = PASID_ENTRY.decode(entry)
  const parts = [PGTT_NAMES[Number(e.PGTT)] ?? "reserved", `domain ${e.DID}`]
  if (e.PGTT === 1n || e.PGTT === 3n) {
    parts.push(`first-stage table at ${hex64(e.FSPTPTR << 12n)}, ${e.FSPM === 1n ? 5 : 4} levels`)
  }
  if (e.PGTT === 2n || e.PGTT === 3n) {
    parts.push(`second-stage table at ${hex64(e.SSPTPTR << 12n)}, AW ${e.AW}`)
  }
  return parts.join(", ")
}

export function traceSecondStage(
  t: Transaction,
  level: number,
  tableHi: number,
  tableLo: number,
  index: number,
  entryHi: number,
  entryLo: number,
): void {
  const present = (entryLo & (SS_R | SS_W)) !== 0
  const leaf = isLeaf(level, entryLo & SS_PS, t.features.ssLargeLevels)
  const rights = [entryLo & SS_R ? "read" : "", entryLo & SS_W ? "write" : ""]
  const step = pagingStep("SS-", level, tableHi, tableLo, index, entryHi, entryLo)
  t.trace?.({ stage: 2, ...step, meaning: meaningOfPaging(present, leaf, level, entryHi, entryLo, rights) })
}

export function traceFirstStage(
  t: Transaction,
  level: number,
  tableHi: number,
  tableLo: number,
  index: number,
  entryHi: number,
  entryLo: number,
): void {
  const present = (entryLo & FS_P) !== 0
  const leaf = isLeaf(level, entryLo & FS_PS, t.features.fsLargeLevels)
  const rights = ["read", entryLo & FS_RW ? "write" : "", entryLo & FS_US ? "" : "supervisor"]
  const step = pagingStep("FS-", level, tableHi, tableLo, index, entryHi, entryLo)
  t.trace?.({ stage: 1, ...step, meaning: meaningOfPaging(present, leaf, level, entryHi, entryLo, rights) })
}

function isLeaf(level: number, pageSize: number, largeLevels: number): boolean {
  return level === 1 || (pageSize !== 0 && ((largeLevels >> level) & 1) !== 0)
}

function pagingStep(
  prefix: string,
  level: number,
  tableHi: number,
  tableLo: number,
  index: number,
  entryHi: number,
  entryLo: number,
): Omit<WalkStep, "stage" | "meaning"> {
  return {
    what: `${prefix}${TABLE_NAMES[level]}`,
    table: fromHalves(tableHi, tableLo),
    index,
    entry: [fromHalves(entryHi, entryLo)],
  }
}

function meaningOfPaging(
  present: boolean,
  leaf: boolean,
  level: number,
  entryHi: number,
  entryLo: number,
  rights: readonly string[],
): string {
  if (!present) return "not present"
  const allowed = rights.filter(right => right !== "").join(", ")
  const offsetBits = leaf ? 9 * level + 3 : 12
  const address = (fromHalves(entryHi & 0xfffff, entryLo) >> BigInt(offsetBits)) << BigInt(offsetBits)
  const target = leaf ? `${PAGE_NAMES[level]} page` : "table"
  return `${target} at ${hex64(address)}, ${allowed}`
}
