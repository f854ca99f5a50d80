/** The second-stage walk. Intel VT-d 5.10 (D51397-018) §3.7, §9.8. */
import * as pte from "../spec/page-tables.ts"
import * as tlb from "./tlb.ts"
import { keepSecondPage, recallSecondPage, spanHi, spanLo } from "./tlb.ts"
import { traceSecondStage } from "./trace.ts"
import type { Transaction } from "./transaction.ts"
import * as transaction from "./transaction.ts"

// Copies: V8 reads an imported constant through its module, which costs a walk a third of its time.
const { ADDR_HI, ADDR_LO, SS_A, SS_D, SS_PS, SS_R, SS_SNP, SS_W } = pte
const { DIRTY } = tlb
const { LEAF_IS_DIRTY } = transaction

const RW = SS_R | SS_W
/** In no plain table: a leaf above level 1, and a bit that is reserved there. */
const TABLE_ODD = SS_PS | SS_SNP
const PAGE_MASK = ADDR_LO | 0
const ADDR_HI_MASK = ADDR_HI
/** Upper key word of the table of level 1, which spans 2^9 pages. */
const LEAF_TABLE_SPAN = spanHi(0, 9)

/** What the walk came to. The caller knows the fault reason: it differs by mode and by what the address was. */
export const SS_OK = 0
/** The table at SSPTPTR, or a later one, has no memory behind it. */
export const SS_ROOT_UNREADABLE = 1
export const SS_TABLE_UNREADABLE = 2
/** An entry with R and W clear, or none of both left over all levels. */
export const SS_NO_PERMISSION = 3
export const SS_RESERVED_BIT = 4
/** An accessed or dirty flag has to be set, but walks do not snoop. */
export const SS_FLAG_UPDATE = 5

/**
 * Translates a guest physical address that is known to be within `Features.ssMaxHi`. Fills the `ss` fields, sets
 * accessed flags. A page that is cached answers when it grants what is needed, and else the tables.
 * @param needed SS_R and SS_W, DIRTY where a write will follow
 * @returns SS_*; on a fault, `where` is the entry's address
 */
export function walkSecondStage(t: Transaction, hi: number, lo: number, needed: number): number {
  if (!t.tlb.enabled) return walkSecondTables(t, hi, lo)
  return recallSecondPage(t, hi, lo, needed) ? SS_OK : walkSecondPage(t, hi, lo)
}

/** As {@link walkSecondStage}, where what is cached does not grant enough. */
export function walkSecondPage(t: Transaction, hi: number, lo: number): number {
  const status = walkSecondTables(t, hi, lo)
  if (status === SS_OK) {
    keepSecondPage(t, hi, lo, t.ssAccessed === 0 || (t.ssLeaf & SS_D) !== 0 ? DIRTY : 0)
  }
  return status
}

/** As {@link walkSecondStage}, through the tables: what comes of it is known to be in no cache, or must not be. */
export function walkSecondTables(t: Transaction, hi: number, lo: number): number {
  if (t.tlb.enabled) return walkCached(t, hi, lo)
  const at = t.trace === null ? findPlainLeaf(t, hi, lo) : -1
  if (at < 0) return walkEveryStep(t, hi, lo)
  const words = t.memory.words
  setPage(t, words[at] as number, words[at + 1] as number, lo)
  t.ssPermissions = (words[at] as number) & RW
  t.ssLeafAt = at
  return SS_OK
}

function setPage(t: Transaction, entryLo: number, entryHi: number, lo: number): void {
  t.ssLeaf = entryLo
  t.ssPaHi = entryHi & ADDR_HI_MASK
  t.ssPaLo = (entryLo & PAGE_MASK) | (lo & 0xfff)
  t.ssSizeLg2 = 12
}

/** With paging-structure caches, and in caching mode with what was not present before. §6.1, §6.2. */
function walkCached(t: Transaction, hi: number, lo: number): number {
  const { tlb } = t
  if (tlb.keepsFaults) {
    const known = tlb.findFault(t, hi, lo)
    if (known !== 0) return known
  }
  if (t.trace === null && walkLeafTable(t, hi, lo)) return SS_OK
  const status = walkEveryStep(t, hi, lo)
  if (status === SS_OK) keepTables(t, hi, lo)
  else if (tlb.keepsFaults) tlb.keepFault(t, hi, lo, status)
  return status
}

/** From the cached address of the leaf table to a 4 KiB page. @returns false when anything is out of the ordinary */
function walkLeafTable(t: Transaction, hi: number, lo: number): boolean {
  const store = t.tlb.secondTables
  const known = store.find(((hi << 20) | (lo >>> 12)) & -512, (hi >>> 12) | LEAF_TABLE_SPAN, t.domainId, 0)
  if (known < 0) return false
  const cached = store.words
  const accessed = t.ssAccessed
  if (((cached[known + 3] as number) & accessed) !== accessed) return false
  const memory = t.memory
  // There is memory: the table has been read.
  const at = memory.find(cached[known] as number, (cached[known + 1] as number) + ((lo >>> 9) & 0xff8))
  const words = memory.words
  const entryLo = words[at] as number
  const entryHi = words[at + 1] as number
  const odd = ((entryLo & (t.features.ssPageRsvdLo | accessed)) ^ accessed) | (entryHi & t.features.ssRsvdHi)
  const permissions = entryLo & (cached[known + 2] as number)
  if (odd !== 0 || permissions === 0) return false
  setPage(t, entryLo, entryHi, lo)
  t.ssPermissions = permissions
  t.ssLeafAt = at
  return true
}

/** The deepest table on the way that a paging-structure cache knows. @returns index of its record, -1 without */
function findTable(t: Transaction, hi: number, lo: number): number {
  const store = t.tlb.secondTables
  if (store.size === 0) return -1
  const pageLo = (hi << 20) | (lo >>> 12)
  for (let level = 1; level < t.ssLevels; level++) {
    const at = store.find(spanLo(pageLo, 9 * level), spanHi(hi >>> 12, 9 * level), t.domainId, 0)
    if (at >= 0 && ((store.words[at + 3] as number) & t.ssAccessed) === t.ssAccessed) {
      t.ssStart = level
      return at
    }
  }
  return -1
}

/** Keeps where the tables are that the last walk went through, with the rights on the way to them. */
function keepTables(t: Transaction, hi: number, lo: number): void {
  const store = t.tlb.secondTables
  const words = t.memory.words
  const pageLo = (hi << 20) | (lo >>> 12)
  let permissions = t.ssStartPermissions
  for (let level = t.ssStart - 1; level >= t.ssLeafLevel; level--) {
    const entry = t.ssAt[level + 1] as number
    permissions &= words[entry] as number
    const at = store.insert(spanLo(pageLo, 9 * level), spanHi(hi >>> 12, 9 * level), t.domainId, 0)
    store.words[at] = (words[entry + 1] as number) & ADDR_HI_MASK
    store.words[at + 1] = (words[entry] as number) & PAGE_MASK
    store.words[at + 2] = permissions
    store.words[at + 3] = t.ssAccessed
  }
}

/**
 * The common walk without its branches: tables that grant everything, a 4 KiB page, flags already set. What is odd
 * about the entries is gathered and judged once, at the end: reading on from a wrong one does no harm.
 * Complete walks of two stages, as a large page of the guest needs, take 245 ns so and 300 without (Node 24).
 * Four levels, the usual number, stand alone so that V8 builds the function into its callers, which it does with 460
 * bytes of bytecode at most: these are 460.
 * @returns index in memory.words of the leaf, -1 when anything is out of the ordinary
 */
function findPlainLeaf(t: Transaction, hi: number, lo: number): number {
  let at = t.ssRootAt
  if (at < 0 || t.ssLevels !== 4) return findOtherLeaf(t, hi, lo)
  const memory = t.memory
  const words = memory.words
  at += (hi >>> 6) & 0x3fe
  const low4 = words[at] as number
  const high4 = words[at + 1] as number
  at = memory.find(high4 & 0xf_ffff, low4 & -4096)
  if (at < 0) return -1
  at += ((hi << 3) | (lo >>> 29)) & 0x3fe
  const low3 = words[at] as number
  const high3 = words[at + 1] as number
  at = memory.find(high3 & 0xf_ffff, low3 & -4096)
  if (at < 0) return -1
  at += (lo >>> 20) & 0x3fe
  const low2 = words[at] as number
  const high2 = words[at + 1] as number
  at = memory.find(high2 & 0xf_ffff, low2 & -4096)
  if (at < 0) return -1
  at += (lo >>> 11) & 0x3fe
  const low = words[at] as number
  const accessed = t.ssAccessed
  const missing = (~(low4 & low3 & low2) & (3 | accessed)) | (~low & accessed)
  const odd = ((low4 | low3 | low2) & TABLE_ODD) | (low & t.ssPageRsvdLo)
  const above = (high4 | high3 | high2 | (words[at + 1] as number)) & t.ssRsvdHi
  return (missing | odd | above) === 0 && (low & 3) !== 0 ? at : -1
}

/** As {@link findPlainLeaf}, for three and five levels: one function for both. */
function findOtherLeaf(t: Transaction, hi: number, lo: number): number {
  const memory = t.memory
  let at = t.ssRootAt
  if (at < 0) return -1
  const words = memory.words
  const accessed = t.ssAccessed
  const wanted = RW | accessed
  let odd = 0
  let tops = 0
  let entryLo: number
  let entryHi: number
  if (t.ssLevels !== 3) {
    at += (hi >>> 15) & 0x3fe
    entryLo = words[at] as number
    entryHi = words[at + 1] as number
    odd = entryLo ^ wanted
    tops = entryHi
    at = memory.find(entryHi & ADDR_HI_MASK, (entryLo & PAGE_MASK) + ((hi >>> 4) & 0xff8))
    if (at < 0) return -1
    entryLo = words[at] as number
    entryHi = words[at + 1] as number
    odd |= entryLo ^ wanted
    tops |= entryHi
    at = memory.find(entryHi & ADDR_HI_MASK, entryLo & PAGE_MASK)
    if (at < 0) return -1
  }
  at += ((hi << 3) | (lo >>> 29)) & 0x3fe
  entryLo = words[at] as number
  entryHi = words[at + 1] as number
  odd |= entryLo ^ wanted
  tops |= entryHi
  at = memory.find(entryHi & ADDR_HI_MASK, entryLo & PAGE_MASK)
  if (at < 0) return -1
  at += (lo >>> 20) & 0x3fe
  entryLo = words[at] as number
  entryHi = words[at + 1] as number
  odd |= entryLo ^ wanted
  tops |= entryHi
  at = memory.find(entryHi & ADDR_HI_MASK, entryLo & PAGE_MASK)
  if (at < 0) return -1
  at += (lo >>> 11) & 0x3fe
  entryLo = words[at] as number
  odd &= TABLE_ODD | wanted
  odd |= (entryLo & (t.ssPageRsvdLo | accessed)) ^ accessed
  odd |= ((words[at + 1] as number) | tops) & t.ssRsvdHi
  return odd === 0 && (entryLo & RW) !== 0 ? at : -1
}

function walkEveryStep(t: Transaction, hi: number, lo: number): number {
  const memory = t.memory
  const words = memory.words
  const features = t.features
  // Bits 43:12, which hold the indexes of levels 1 to 3 without a seam.
  const page = (hi << 20) | (lo >>> 12)
  let tableHi = t.ssTableHi
  let tableLo = t.ssTableLo
  let permissions = RW
  let level = t.ssLevels
  const known = findTable(t, hi, lo)
  if (known >= 0) {
    const cached = t.tlb.secondTables.words
    tableHi = cached[known] as number
    tableLo = cached[known + 1] as number
    permissions = cached[known + 2] as number
    level = t.ssStart
  }
  t.ssStart = level
  t.ssStartPermissions = permissions
  for (;;) {
    const index = (level > 3 ? hi >>> (9 * level - 29) : page >>> (9 * level - 9)) & 511
    const at = memory.find(tableHi, tableLo + (index << 3))
    if (at < 0) {
      note(t, tableHi, tableLo, index)
      return level === t.ssLevels ? SS_ROOT_UNREADABLE : SS_TABLE_UNREADABLE
    }
    const entryLo = words[at] as number
    const entryHi = words[at + 1] as number
    t.ssAt[level] = at
    if (t.trace !== null) traceSecondStage(t, level, tableHi, tableLo, index, entryHi, entryLo)
    if ((entryLo & (SS_R | SS_W)) === 0) {
      note(t, tableHi, tableLo, index)
      return SS_NO_PERMISSION
    }
    const leaf = level === 1 || ((entryLo & SS_PS) !== 0 && ((features.ssLargeLevels >> level) & 1) !== 0)
    const reserved = (leaf ? features.ssLeafRsvdLo : features.ssTableRsvdLo)[level] as number
    if ((entryLo & reserved) !== 0 || (entryHi & features.ssRsvdHi) !== 0) {
      note(t, tableHi, tableLo, index)
      return SS_RESERVED_BIT
    }
    permissions &= entryLo
    if (leaf) {
      const below = level === 1 ? 0xfff : level === 2 ? 0x1fffff : 0x3fffffff
      t.ssPaHi = entryHi & 0xfffff
      t.ssPaLo = (entryLo & ~below) | (lo & below)
      t.ssSizeLg2 = 9 * level + 3
      t.ssPermissions = permissions
      t.ssLeafAt = at
      t.ssLeafLevel = level
      t.ssLeaf = entryLo
      if (permissions === 0) {
        note(t, tableHi, tableLo, index)
        return SS_NO_PERMISSION
      }
      return t.ssAccessed === 0 ? SS_OK : setAccessed(t)
    }
    tableHi = entryHi & 0xfffff
    tableLo = entryLo & 0xfffff000
    level--
  }
}

function note(t: Transaction, tableHi: number, tableLo: number, index: number): void {
  t.whereHi = tableHi >>> 0
  t.whereLo = (tableLo + (index << 3)) >>> 0
}

/** §3.7.2. All entries or none: a walk that may not write leaves no trace. */
function setAccessed(t: Transaction): number {
  const words = t.memory.words
  for (let level = t.ssStart; level >= t.ssLeafLevel; level--) {
    const at = t.ssAt[level] as number
    if (((words[at] as number) & SS_A) === 0) {
      if (!t.pwsnp) return SS_FLAG_UPDATE
      words[at] = (words[at] as number) | SS_A
    }
  }
  return SS_OK
}

/** Sets the dirty flag in a leaf that a write went through. @returns SS_OK or SS_FLAG_UPDATE */
export function setSecondStageDirty(t: Transaction, leafAt: number): number {
  if (t.ssAccessed === 0 || leafAt === LEAF_IS_DIRTY) return SS_OK
  const words = t.memory.words
  if (((words[leafAt] as number) & SS_D) !== 0) return SS_OK
  if (!t.pwsnp) return SS_FLAG_UPDATE
  words[leafAt] = (words[leafAt] as number) | SS_D
  return SS_OK
}

/** True when an address does not fit the second stage's input width. §3.7. */
export function beyondSecondStage(t: Transaction, hi: number, lo: number): boolean {
  const above = hi >>> 0
  const maxHi = t.features.ssMaxHi[t.ssLevels] as number
  return above > maxHi || (above === maxHi && lo >>> 0 > (t.features.ssMaxLo[t.ssLevels] as number))
}
