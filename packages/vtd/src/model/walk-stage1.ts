/** The first-stage walk, alone and nested. Intel VT-d 5.10 (D51397-018) §3.6, §3.8, §9.7. */
import * as core from "@iommu/core"
import * as fr from "../spec/events.ts"
import * as pte from "../spec/page-tables.ts"
import { spanHi, spanLo } from "./tlb.ts"
import { traceFirstStage } from "./trace.ts"
import type { Transaction } from "./transaction.ts"
import * as transaction from "./transaction.ts"
import * as second from "./walk-stage2.ts"
import { beyondSecondStage, setSecondStageDirty, walkSecondStage, walkSecondTables } from "./walk-stage2.ts"

// Copies: V8 reads an imported constant through its module, which costs a walk a third of its time.
const { ACCESS_EXEC, ACCESS_WRITE } = core
const { LEAF_NOT_READ, MODE_NESTED } = transaction
const { ADDR_HI, ADDR_LO, FS_A, FS_D, FS_EA, FS_P, FS_PS, FS_RW, FS_US, FS_XD_HI, SS_R, SS_W } = pte

const { SS_FLAG_UPDATE, SS_OK, SS_RESERVED_BIT, SS_ROOT_UNREADABLE, SS_TABLE_UNREADABLE } = second

const PAGE_MASK = ADDR_LO | 0
const ADDR_HI_MASK = ADDR_HI
/** Begin at the root, and take neither tables nor second-stage pages from the caches. */
const FROM_TABLES = -2
/** Word of a table's record: its index in memory.words, -1 in memory where none may be kept. */
const TABLE_AT = 6
/** Upper key word of the table of level 1, which spans 2^9 pages. */
const LEAF_TABLE_SPAN = spanHi(0, 9)

/**
 * Translates the request's address through the first stage and checks its access rights. Fills the `fs` fields.
 * @returns 0 or the fault reason
 */
export function walkFirstStage(t: Transaction): number {
  if (!t.tlb.enabled) return walkEveryStep(t, FROM_TABLES)
  if (t.trace === null && walkLeafTable(t)) return 0
  const reason = walkEveryStep(t, findTable(t))
  // Flags of an entry are written through the second stage, which has to be walked for it: §3.8.1.
  const again = reason === 0 && t.mode === MODE_NESTED && !hasFlags(t) && !readLeaves(t)
  return again ? walkEveryStep(t, FROM_TABLES) : reason
}

/** The second-stage leaf below each entry of the last walk has been read. */
function readLeaves(t: Transaction): boolean {
  if (t.fsStart !== t.fsLevels) return false
  for (let level = t.fsLevels; level >= t.fsLeafLevel; level--) {
    if (t.fsEntryLeafAt[level] === LEAF_NOT_READ) return false
  }
  return true
}

/** From the cached address of the leaf table to a 4 KiB page. @returns false when anything is out of the ordinary */
function walkLeafTable(t: Transaction): boolean {
  const at = findPlainEntry(t)
  if (at < 0) return false
  const words = t.memory.words
  const paHi = (words[at + 1] as number) & ADDR_HI_MASK
  if (t.mode === MODE_NESTED && paHi >= (t.features.ssMaxHi[t.ssLevels] as number)) return false
  t.fsPaHi = paHi
  t.fsPaLo = ((words[at] as number) & PAGE_MASK) | (t.iovaLo & 0xfff)
  t.fsFlags = -1
  t.fsLeafFlags = -1
  return true
}

/**
 * The entry of a 4 KiB page with all its flags set, in a table that is cached. Sets what the results of such a page
 * have in common.
 * @returns index in memory.words, -1 when anything is out of the ordinary
 */
export function findPlainEntry(t: Transaction): number {
  const lo = t.iovaLo
  const hi = t.iovaHi
  const store = t.tlb.firstTables
  const known = store.findSame(
    ((hi << 20) | (lo >>> 12)) & -512,
    (hi >>> 12) | LEAF_TABLE_SPAN,
    t.domainId,
    t.effectivePasid,
  )
  if (known < 0 || (t.access & ACCESS_EXEC) !== 0) return -1
  const cached = store.words
  const memory = t.memory
  let at = cached[known + TABLE_AT] as number
  // There is memory: the table has been read.
  if (at < 0) at = memory.find(cached[known] as number, cached[known + 1] as number)
  at += (lo >>> 11) & 0x3fe
  const words = memory.words
  const entry = words[at] as number
  const rights = cached[known + 2] as number
  const write = t.access & ACCESS_WRITE
  const wanted = write === 0 ? t.fsWanted : t.fsWanted | FS_RW
  const leafWanted = write === 0 ? wanted : wanted | FS_D
  const odd = (((rights | FS_P) & wanted) ^ wanted) | ((entry & leafWanted) ^ leafWanted)
  if ((odd | ((words[at + 1] as number) & t.features.fsRsvdHi)) !== 0) return -1
  t.fsLeaf = entry | 0
  t.fsSizeLg2 = 12
  t.fsWritable = rights & entry & FS_RW
  t.fsUser = FS_US
  t.fsExecutable = false
  t.fsLeafLevel = 1
  t.fsStart = 1
  return at
}

/** The deepest table on the way that a paging-structure cache knows. @returns index of its record, -1 without */
function findTable(t: Transaction): number {
  const store = t.tlb.firstTables
  if (store.size === 0) return -1
  const wanted = t.eafe ? FS_EA | FS_A : FS_A
  const pageLo = (t.iovaHi << 20) | (t.iovaLo >>> 12)
  for (let level = 1; level < t.fsLevels; level++) {
    const span = 9 * level
    const at = store.find(spanLo(pageLo, span), spanHi(t.iovaHi >>> 12, span), t.domainId, t.effectivePasid)
    if (at >= 0 && ((store.words[at + 2] as number) & wanted) === wanted) {
      t.fsStart = level
      return at
    }
  }
  return -1
}

/** Keeps where the tables are that the last walk went through; their flags are set by now. §6.2. */
export function keepFirstTables(t: Transaction): void {
  const store = t.tlb.firstTables
  const words = t.memory.words
  const pageLo = (t.iovaHi << 20) | (t.iovaLo >>> 12)
  let rights = t.fsStartRights
  let executeDisable = t.fsStartExecuteDisable
  for (let level = t.fsStart - 1; level >= t.fsLeafLevel; level--) {
    const span = 9 * level
    const entry = t.fsAt[level + 1] as number
    rights &= words[entry] as number
    executeDisable |= (words[entry + 1] as number) & FS_XD_HI
    const at = store.insert(spanLo(pageLo, span), spanHi(t.iovaHi >>> 12, span), t.domainId, t.effectivePasid)
    store.words[at] = t.fsHostHi[level] as number
    store.words[at + 1] = t.fsHostLo[level] as number
    store.words[at + 2] = rights & (FS_US | FS_RW | FS_A | FS_EA)
    store.words[at + 3] = executeDisable
    store.words[at + 4] = (words[entry + 1] as number) & ADDR_HI_MASK
    store.words[at + 5] = (words[entry] as number) & PAGE_MASK
    store.words[at + TABLE_AT] = t.memory.isVolatile
      ? -1
      : t.memory.find(t.fsHostHi[level] as number, t.fsHostLo[level] as number)
  }
}

/** @param known record of the table to begin at, -1 for the root, {@link FROM_TABLES} */
function walkEveryStep(t: Transaction, known: number): number {
  const hi = t.iovaHi
  const lo = t.iovaLo
  const unused = t.fsLevels === 5 ? 7 : 16
  if ((hi << unused) >> unused !== (hi | 0)) return t.fail(fr.SGN_1, 1, hi, lo)

  const memory = t.memory
  const words = memory.words
  const features = t.features
  const nested = t.mode === MODE_NESTED
  const page = (hi << 20) | (lo >>> 12)
  let tableHi = t.fsTableHi
  let tableLo = t.fsTableLo
  let rights = FS_US | FS_RW | FS_A | FS_EA
  let executeDisable = 0
  let flags = -1
  let level = t.fsLevels
  let hostHi = 0
  let hostLo = 0
  if (known >= 0) {
    const cached = t.tlb.firstTables.words
    hostHi = cached[known] as number
    hostLo = cached[known + 1] as number
    rights = cached[known + 2] as number
    flags = rights
    executeDisable = cached[known + 3] as number
    tableHi = cached[known + 4] as number
    tableLo = cached[known + 5] as number
    level = t.fsStart
  }
  t.fsStart = level
  t.fsStartRights = rights
  t.fsStartExecuteDisable = executeDisable
  for (;;) {
    const index = (level > 3 ? hi >>> (9 * level - 29) : page >>> (9 * level - 9)) & 511
    const entryAddress = tableLo + (index << 3)
    if (!nested) {
      hostHi = tableHi
      hostLo = tableLo
    } else if (known < 0 || level !== t.fsStart) {
      const reason = translateEntryAddress(t, level, tableHi, entryAddress, known)
      if (reason !== 0) return reason
      hostHi = t.ssPaHi
      hostLo = t.ssPaLo & PAGE_MASK
    }
    t.fsHostHi[level] = hostHi
    t.fsHostLo[level] = hostLo
    const at = memory.find(hostHi, hostLo + (index << 3))
    if (at < 0) return t.fail(level === t.fsLevels ? fr.SFS_4 : fr.SFS_1, 1, tableHi, entryAddress)
    const entryLo = words[at] as number
    const entryHi = words[at + 1] as number
    t.fsAt[level] = at
    if (t.trace !== null) traceFirstStage(t, level, tableHi, tableLo, index, entryHi, entryLo)
    if ((entryLo & FS_P) === 0) return t.fail(fr.SFS_2, 1, tableHi, entryAddress)
    const leaf = level === 1 || ((entryLo & FS_PS) !== 0 && ((features.fsLargeLevels >> level) & 1) !== 0)
    const reserved = (leaf ? features.fsLeafRsvdLo : features.fsTableRsvdLo)[level] as number
    if ((entryLo & reserved) !== 0 || (entryHi & features.fsRsvdHi) !== 0) {
      return t.fail(fr.SFS_3, 1, tableHi, entryAddress)
    }
    if (nested && beyondSecondStage(t, entryHi & 0xfffff, entryLo & 0xfffff000))
      return t.fail(fr.SFS_5, 1, tableHi, entryAddress)
    rights &= entryLo
    flags &= entryLo
    executeDisable |= entryHi & FS_XD_HI
    if (leaf) {
      const below = level === 1 ? 0xfff : level === 2 ? 0x1fffff : 0x3fffffff
      t.fsPaHi = entryHi & 0xfffff
      t.fsPaLo = (entryLo & ~below) | (lo & below)
      t.fsSizeLg2 = 9 * level + 3
      t.fsLeafLevel = level
      t.fsLeaf = entryLo
      t.fsFlags = flags
      t.fsLeafFlags = entryLo
      t.fsWritable = rights & FS_RW
      t.fsUser = rights & FS_US
      t.fsExecutable = executeDisable === 0
      return checkRights(t, rights, executeDisable, tableHi, entryAddress)
    }
    tableHi = entryHi & 0xfffff
    tableLo = entryLo & 0xfffff000
    level--
  }
}

/** §3.6.1. */
function checkRights(t: Transaction, rights: number, executeDisable: number, hi: number, lo: number): number {
  if (!t.privileged && (rights & FS_US) === 0) return t.fail(fr.SGN_2, 1, hi, lo)
  if (executeDisable !== 0 && (t.access & ACCESS_EXEC) !== 0) return t.fail(fr.SGN_3, 1, hi, lo)
  const obeysRw = !t.privileged || t.wpe
  if ((t.access & ACCESS_WRITE) !== 0 && obeysRw && (rights & FS_RW) === 0) return t.fail(fr.SGN_6, 1, hi, lo)
  return 0
}

/** The guest physical address of a first-stage entry through the second stage. §3.8.1. */
function translateEntryAddress(t: Transaction, level: number, hi: number, lo: number, known: number): number {
  // With SSADE, a read of a first-stage table needs both permissions.
  const needed = t.ssAccessed === 0 ? SS_R : SS_R | SS_W
  const status = known === FROM_TABLES ? walkSecondTables(t, hi, lo) : walkSecondStage(t, hi, lo, needed)
  if (status !== SS_OK) return t.fail(nestedReason(status), 2, t.whereHi, t.whereLo)
  if ((t.ssPermissions & needed) !== needed) {
    return t.fail(level === t.fsLevels ? fr.SFS_6 : fr.SFS_7, 2, hi, lo)
  }
  t.fsEntryPermissions[level] = t.ssPermissions
  t.fsEntryLeafAt[level] = t.ssLeafAt
  return 0
}

/** Fault reason in scalable mode for what a second-stage walk came to. */
export function nestedReason(status: number): number {
  switch (status) {
    case SS_ROOT_UNREADABLE:
      return fr.SSS_4
    case SS_TABLE_UNREADABLE:
      return fr.SSS_1
    case SS_RESERVED_BIT:
      return fr.SSS_3
    case SS_FLAG_UPDATE:
      return fr.SSS_5
    default:
      // SS_NO_PERMISSION.
      return fr.SSS_2
  }
}

/**
 * Accessed, extended accessed and dirty flags of the entries that the last walk used. §3.6.2. Called when the request
 * is otherwise known to succeed, so that a refused request leaves none.
 * @returns 0 or the fault reason
 */
export function updateFirstStageFlags(t: Transaction): number {
  if (hasFlags(t)) return 0
  const words = t.memory.words
  const accessed = t.eafe ? FS_A | FS_EA : FS_A
  const leafFlags = (t.access & ACCESS_WRITE) !== 0 ? accessed | FS_D : accessed
  for (let level = t.fsStart; level >= t.fsLeafLevel; level--) {
    const at = t.fsAt[level] as number
    const wanted = level === t.fsLeafLevel ? leafFlags : accessed
    const entry = words[at] as number
    if ((entry & wanted) !== wanted) {
      const reason = updateEntry(t, level)
      if (reason !== 0) return reason
      words[at] = (words[at] as number) | wanted
    }
  }
  return 0
}

/** All flags that the last walk's entries need are set already. */
function hasFlags(t: Transaction): boolean {
  const accessed = t.eafe ? FS_A | FS_EA : FS_A
  const leafFlags = (t.access & ACCESS_WRITE) !== 0 ? accessed | FS_D : accessed
  return (t.fsFlags & accessed) === accessed && (t.fsLeafFlags & leafFlags) === leafFlags
}

/** May the flags of the entry at a level be written? Marks the second-stage leaf dirty when it may. */
function updateEntry(t: Transaction, level: number): number {
  if (!t.pwsnp) return t.fail(fr.SFS_9, 1, t.iovaHi, t.iovaLo)
  if (t.mode !== MODE_NESTED) return 0
  if (((t.fsEntryPermissions[level] as number) & SS_W) === 0) return t.fail(fr.SFS_8, 2, t.iovaHi, t.iovaLo)
  // Refuses for want of PWSNP alone.
  setSecondStageDirty(t, t.fsEntryLeafAt[level] as number)
  return 0
}
