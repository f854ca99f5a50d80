/**
 * The book's steps from a request to an address or a fault. Intel VT-d 5.10 (D51397-018) §3.4 to §3.9, §3.15, §7.1.3.
 */

import type { TranslationResult } from "@iommu/core"
import * as core from "@iommu/core"
import * as fr from "../spec/events.ts"
import * as pte from "../spec/page-tables.ts"
import { attributesOf, WB } from "./attributes.ts"
import { resolveEntries } from "./device-entry.ts"
import { translatePlain } from "./plain-walk.ts"
import * as iotlb from "./tlb.ts"
import { findTranslation, keepTranslation, prepareLookUp } from "./tlb.ts"
import type { Transaction } from "./transaction.ts"
import * as transaction from "./transaction.ts"
import {
  findPlainEntry,
  keepFirstTables,
  nestedReason,
  updateFirstStageFlags,
  walkFirstStage,
} from "./walk-stage1.ts"
import * as second from "./walk-stage2.ts"
import {
  beyondSecondStage,
  setSecondStageDirty,
  walkSecondPage,
  walkSecondStage,
  walkSecondTables,
} from "./walk-stage2.ts"

// Copies: V8 reads an imported constant through its module, which costs a walk a third of its time.
const { ACCESS_READ, ACCESS_WRITE } = core
const { INTERRUPT_MEGABYTE, MODE_FIRST, MODE_NESTED, MODE_PASS_THROUGH, MODE_SECOND } = transaction
const { DIRTY, GRANTED, LEAF, PA_HI, PA_LO } = iotlb
const { SS_NO_PERMISSION, SS_OK, SS_RESERVED_BIT, SS_ROOT_UNREADABLE } = second

const READ_WRITE = ACCESS_READ | ACCESS_WRITE
const PAGE_LG2 = 12
const PAGE_MASK = pte.ADDR_LO | 0
const ADDR_HI_MASK = pte.ADDR_HI

/** With attributes: memory type and snooping, see attributes.ts. */
export interface VtdTranslationResult extends TranslationResult {
  attributes: number
}

/** The interrupt address range, FEEx_xxxxh. §3.15. */
export function isInterruptAddress(hi: number, lo: number): boolean {
  return hi === 0 && lo >>> 20 === INTERRUPT_MEGABYTE
}

/** A request without PASID to the interrupt address range: writes are messages, anything else is wrong. §3.15, Table 15. */
export function translateInterrupt(t: Transaction, result: VtdTranslationResult): number {
  if ((t.access & ACCESS_READ) !== 0) return t.fail(fr.INTERRUPT_29, 0, t.iovaHi, t.iovaLo)
  identity(t, result)
  result.allowed = ACCESS_WRITE
  return 0
}

/** Translates while remapping is enabled. @returns 0 with the result filled, or the fault reason */
export function translateRemapped(t: Transaction, result: VtdTranslationResult): number {
  const { caches } = t
  if (!caches.hasEntries(t)) {
    const reason = resolveEntries(t)
    if (reason !== 0) return reason
    prepareLookUp(t)
    caches.noteEntries(t)
  }
  if (!t.looksUp || !findTranslation(t, result)) return translateResolved(t, result)
  const reason = checkOutput(t, result)
  if (reason === 0) t.tlb.recent.keep(t, result)
  return reason
}

/** The walks, once the entries are read. */
export function translateResolved(t: Transaction, result: VtdTranslationResult): number {
  if (t.mode === MODE_PASS_THROUGH) return translatePassThrough(t, result)
  if (!t.tlb.enabled) return t.trace === null && takePlain(t, result) ? 0 : walk(t, result)
  const isPlain = t.mode === MODE_NESTED && t.trace === null && plainBelowTable(t, result)
  const reason = isPlain ? 0 : walk(t, result)
  if (reason === 0) {
    if (t.looksUp) keepTranslation(t, result)
    if (t.mode !== MODE_SECOND && t.fsStart > t.fsLeafLevel) keepFirstTables(t)
  }
  return reason
}

/** A plain walk; when the entries are kept, the next requests of the device and PASID go to it directly. */
function takePlain(t: Transaction, result: VtdTranslationResult): boolean {
  const isDone = translatePlain(t, result)
  if (isDone) t.caches.notePlain(t)
  return isDone
}

function walk(t: Transaction, result: VtdTranslationResult): number {
  switch (t.mode) {
    case MODE_FIRST:
      return translateFirst(t, result)
    case MODE_SECOND:
      return translateSecond(t, result)
    default:
      // MODE_NESTED.
      return translateNested(t, result)
  }
}

/** The address as it is: remapping disabled, or pass-through. */
export function identity(t: Transaction, result: VtdTranslationResult): void {
  result.paHi = t.iovaHi >>> 0
  result.paLo = t.iovaLo >>> 0
  result.ipaHi = t.iovaHi >>> 0
  result.ipaLo = t.iovaLo >>> 0
  result.sizeLg2 = PAGE_LG2
  result.stage1SizeLg2 = 0
  result.stage2SizeLg2 = 0
  result.allowed = ACCESS_READ | ACCESS_WRITE
  result.attributes = WB
}

/** §3.9. */
function translatePassThrough(t: Transaction, result: VtdTranslationResult): number {
  if ((t.iovaHi & t.features.pointerRsvdHi) !== 0) {
    return t.fail(t.legacy ? fr.LGN_1 : fr.SGN_4, 0, t.iovaHi, t.iovaLo)
  }
  identity(t, result)
  result.attributes = attributesOf(t)
  return checkOutput(t, result)
}

/** §3.7. */
function translateSecond(t: Transaction, result: VtdTranslationResult): number {
  if (beyondSecondStage(t, t.iovaHi, t.iovaLo)) {
    return t.fail(t.legacy ? fr.LGN_1 : fr.SGN_5, 2, t.iovaHi, t.iovaLo)
  }
  const status = walkSecondTables(t, t.iovaHi, t.iovaLo)
  if (status !== SS_OK) {
    return t.fail(t.legacy ? legacyReason(t, status) : nestedReason(status), 2, t.whereHi, t.whereLo)
  }
  const reason = checkPermissions(t)
  if (reason !== 0) return reason
  result.ipaHi = t.iovaHi >>> 0
  result.ipaLo = t.iovaLo >>> 0
  result.stage1SizeLg2 = 0
  result.stage2SizeLg2 = t.ssSizeLg2
  result.sizeLg2 = t.ssSizeLg2
  result.allowed = t.ssPermissions
  result.attributes = attributesOf(t)
  result.paHi = t.ssPaHi
  result.paLo = t.ssPaLo >>> 0
  const output = checkOutput(t, result)
  return output === 0 ? markDirty(t) : output
}

/** Permissions of the page that the request goes to. §3.7.1. */
function checkPermissions(t: Transaction): number {
  const missing = t.access & ~t.ssPermissions
  if ((missing & ACCESS_WRITE) !== 0) {
    return t.fail(t.legacy ? fr.LGN_2 : fr.SGN_6, 2, t.iovaHi, t.iovaLo)
  }
  if ((missing & ACCESS_READ) !== 0) {
    return t.fail(t.legacy ? fr.LGN_3 : fr.SGN_7, 2, t.iovaHi, t.iovaLo)
  }
  return 0
}

/** The dirty flag of the second-stage leaf that the request goes through. §3.7.2. */
function markDirty(t: Transaction): number {
  if ((t.access & ACCESS_WRITE) === 0) return 0
  return setSecondStageDirty(t, t.ssLeafAt) === SS_OK ? 0 : t.fail(fr.SSS_5, 2, t.iovaHi, t.iovaLo)
}

/** Fault reason in legacy mode for what a second-stage walk came to. */
function legacyReason(t: Transaction, status: number): number {
  if (status === SS_ROOT_UNREADABLE) return fr.LCT_4
  if (status === SS_RESERVED_BIT) return fr.LSS_2
  if (status === SS_NO_PERMISSION) return (t.access & ACCESS_WRITE) !== 0 ? fr.LGN_2 : fr.LGN_3
  return fr.LSS_1
}

/** §3.6. */
function translateFirst(t: Transaction, result: VtdTranslationResult): number {
  const reason = walkFirstStage(t)
  if (reason !== 0) return reason
  result.ipaHi = t.fsPaHi
  result.ipaLo = t.fsPaLo >>> 0
  result.stage1SizeLg2 = t.fsSizeLg2
  result.stage2SizeLg2 = 0
  result.sizeLg2 = t.fsSizeLg2
  result.allowed = allowedByFirst(t)
  result.attributes = attributesOf(t)
  result.paHi = t.fsPaHi
  result.paLo = t.fsPaLo >>> 0
  const output = checkOutput(t, result)
  return output === 0 ? updateFirstStageFlags(t) : output
}

/** §3.8. */
function translateNested(t: Transaction, result: VtdTranslationResult): number {
  const reason = walkFirstStage(t)
  if (reason !== 0) return reason
  const access = t.access & READ_WRITE
  const needed = (access & ACCESS_WRITE) === 0 ? access : access | DIRTY
  const status = walkSecondStage(t, t.fsPaHi, t.fsPaLo, needed)
  if (status !== SS_OK) return t.fail(nestedReason(status), 2, t.whereHi, t.whereLo)
  const missing = checkPermissions(t)
  if (missing !== 0) return missing
  result.ipaHi = t.fsPaHi
  result.ipaLo = t.fsPaLo >>> 0
  result.stage1SizeLg2 = t.fsSizeLg2
  result.stage2SizeLg2 = t.ssSizeLg2
  result.sizeLg2 = t.fsSizeLg2 < t.ssSizeLg2 ? t.fsSizeLg2 : t.ssSizeLg2
  result.allowed = allowedByFirst(t) & t.ssPermissions
  result.attributes = attributesOf(t)
  result.paHi = t.ssPaHi
  result.paLo = t.ssPaLo >>> 0
  const output = checkOutput(t, result)
  if (output !== 0) return output
  const flags = updateFirstStageFlags(t)
  return flags === 0 ? markDirty(t) : flags
}

/** Reads are always allowed by a valid first-stage translation. §3.6.1. */
function allowedByFirst(t: Transaction): number {
  const writable = t.fsWritable !== 0 || (t.privileged && !t.wpe)
  return writable ? ACCESS_READ | ACCESS_WRITE : ACCESS_READ
}

/** No request may come out in the interrupt address range, 0xFEEx_xxxx. §3.15, LGN.4 and SGN.8. */
export function checkOutput(t: Transaction, result: VtdTranslationResult): number {
  if (isInterruptAddress(result.paHi, result.paLo)) {
    return t.fail(t.legacy ? fr.LGN_4 : fr.SGN_8, t.mode === MODE_FIRST ? 1 : 2, result.paHi, result.paLo)
  }
  return 0
}

/**
 * A 4 KiB page of a first-stage table that is cached: one entry to read, and its page in the cache of second-stage pages
 * or not.
 * @returns false when anything is out of the ordinary
 */
function plainBelowTable(t: Transaction, result: VtdTranslationResult): boolean {
  const at = findPlainEntry(t)
  if (at < 0) return false
  const words = t.memory.words
  const ipaHi = (words[at + 1] as number) & ADDR_HI_MASK
  const ipaLo = ((words[at] as number) & PAGE_MASK) | (t.iovaLo & 0xfff)
  if (ipaHi >= (t.features.ssMaxHi[t.ssLevels] as number)) return false
  const access = t.access & READ_WRITE
  const needed = (access & ACCESS_WRITE) === 0 ? access : access | DIRTY
  if (!takeCachedPage(t, result, ipaHi, ipaLo, needed) && !takeWalkedPage(t, result, ipaHi, ipaLo)) {
    return false
  }
  result.ipaHi = ipaHi
  result.ipaLo = ipaLo >>> 0
  result.stage1SizeLg2 = PAGE_LG2
  result.sizeLg2 = PAGE_LG2
  result.allowed = allowedByFirst(t) & t.ssPermissions
  result.attributes = attributesOf(t)
  return true
}

/** A cached page, straight to the result (a request in 52 instead of 55 ns). */
function takeCachedPage(
  t: Transaction,
  result: VtdTranslationResult,
  hi: number,
  lo: number,
  needed: number,
): boolean {
  const { tlb } = t
  const at = tlb.findSecond(hi, lo, t.domainId)
  if (at < 0) return false
  const words = tlb.second.words
  const granted = words[at + GRANTED] as number
  const sizeLg2 = tlb.span + PAGE_LG2
  const paHi = words[at + PA_HI] as number
  const paLo = (words[at + PA_LO] as number) | (lo & ((1 << sizeLg2) - 1))
  if ((granted & needed) !== needed || isInterruptAddress(paHi, paLo)) return false
  t.ssPermissions = granted & READ_WRITE
  t.ssLeaf = words[at + LEAF] as number
  result.paHi = paHi
  result.paLo = paLo >>> 0
  result.stage2SizeLg2 = sizeLg2
  return true
}

/** A page that is not cached with what the request needs. @returns false when anything is out of the ordinary */
function takeWalkedPage(t: Transaction, result: VtdTranslationResult, hi: number, lo: number): boolean {
  if (walkSecondPage(t, hi, lo) !== SS_OK || (t.access & READ_WRITE & ~t.ssPermissions) !== 0) return false
  if (isInterruptAddress(t.ssPaHi, t.ssPaLo) || markDirty(t) !== 0) return false
  result.paHi = t.ssPaHi
  result.paLo = t.ssPaLo >>> 0
  result.stage2SizeLg2 = t.ssSizeLg2
  return true
}
