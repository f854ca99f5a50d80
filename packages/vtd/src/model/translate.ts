/**
 * The book's steps from a request to an address or a fault. Intel VT-d 5.10 (D51397-018) §3.4 to §3.9, §3.15, §7.1.3.
 */
import { ACCESS_READ, ACCESS_WRITE, type TranslationResult } from "@iommu/core"
import * as fr from "../spec/events.ts"
import { resolveEntries } from "./device-entry.ts"
import { MODE_FIRST, MODE_NESTED, MODE_PASS_THROUGH, MODE_SECOND, type Transaction } from "./transaction.ts"
import { nestedReason, updateFirstStageFlags, walkFirstStage } from "./walk-stage1.ts"
import {
  beyondSecondStage,
  SS_NO_PERMISSION,
  SS_OK,
  SS_RESERVED_BIT,
  SS_ROOT_UNREADABLE,
  setSecondStageDirty,
  walkSecondStage,
} from "./walk-stage2.ts"

const PAGE_LG2 = 12

/** Translates while remapping is enabled. @returns 0 with the result filled, or the fault reason */
export function translateRemapped(t: Transaction, result: TranslationResult): number {
  const reason = resolveEntries(t)
  if (reason !== 0) return reason
  switch (t.mode) {
    case MODE_FIRST:
      return translateFirst(t, result)
    case MODE_SECOND:
      return translateSecond(t, result)
    case MODE_NESTED:
      return translateNested(t, result)
    case MODE_PASS_THROUGH:
      return translatePassThrough(t, result)
    default:
      throw new Error(`bug: translation mode ${t.mode}`)
  }
}

/** The address as it is: remapping disabled, or pass-through. */
export function identity(t: Transaction, result: TranslationResult): void {
  result.paHi = t.iovaHi >>> 0
  result.paLo = t.iovaLo >>> 0
  result.ipaHi = t.iovaHi >>> 0
  result.ipaLo = t.iovaLo >>> 0
  result.sizeLg2 = PAGE_LG2
  result.stage1SizeLg2 = 0
  result.stage2SizeLg2 = 0
  result.allowed = ACCESS_READ | ACCESS_WRITE
}

/** §3.9. */
function translatePassThrough(t: Transaction, result: TranslationResult): number {
  if ((t.iovaHi & t.features.pointerRsvdHi) !== 0) {
    return t.fail(t.legacy ? fr.LGN_1 : fr.SGN_4, 0, t.iovaHi, t.iovaLo)
  }
  identity(t, result)
  return checkOutput(t, result)
}

/** §3.7. */
function translateSecond(t: Transaction, result: TranslationResult): number {
  if (beyondSecondStage(t, t.iovaHi, t.iovaLo)) {
    return t.fail(t.legacy ? fr.LGN_1 : fr.SGN_5, 2, t.iovaHi, t.iovaLo)
  }
  const status = walkSecondStage(t, t.iovaHi, t.iovaLo)
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
function translateFirst(t: Transaction, result: TranslationResult): number {
  const reason = walkFirstStage(t)
  if (reason !== 0) return reason
  result.ipaHi = t.fsPaHi
  result.ipaLo = t.fsPaLo >>> 0
  result.stage1SizeLg2 = t.fsSizeLg2
  result.stage2SizeLg2 = 0
  result.sizeLg2 = t.fsSizeLg2
  result.allowed = allowedByFirst(t)
  result.paHi = t.fsPaHi
  result.paLo = t.fsPaLo >>> 0
  const output = checkOutput(t, result)
  return output === 0 ? updateFirstStageFlags(t) : output
}

/** §3.8. */
function translateNested(t: Transaction, result: TranslationResult): number {
  const reason = walkFirstStage(t)
  if (reason !== 0) return reason
  const status = walkSecondStage(t, t.fsPaHi, t.fsPaLo)
  if (status !== SS_OK) return t.fail(nestedReason(status), 2, t.whereHi, t.whereLo)
  const missing = checkPermissions(t)
  if (missing !== 0) return missing
  result.ipaHi = t.fsPaHi
  result.ipaLo = t.fsPaLo >>> 0
  result.stage1SizeLg2 = t.fsSizeLg2
  result.stage2SizeLg2 = t.ssSizeLg2
  result.sizeLg2 = t.fsSizeLg2 < t.ssSizeLg2 ? t.fsSizeLg2 : t.ssSizeLg2
  result.allowed = allowedByFirst(t) & t.ssPermissions
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
function checkOutput(t: Transaction, result: TranslationResult): number {
  if (result.paHi === 0 && result.paLo >>> 20 === 0xfee) {
    return t.fail(t.legacy ? fr.LGN_4 : fr.SGN_8, t.mode === MODE_FIRST ? 1 : 2, result.paHi, result.paLo)
  }
  return 0
}
