/**
 * From a request's source-id to its context entry, and in legacy mode to how it is translated. Entries are checked in
 * the order of their reading. Intel VT-d 5.10 (D51397-018) §3.4, §9.1 to §9.4, fault conditions §7.1.3.
 */
import * as core from "@iommu/core"
import * as ctx from "../spec/device-table.ts"
import * as fr from "../spec/events.ts"
import * as pt from "../spec/pasid-table.ts"
import * as reg from "../spec/registers.ts"
import { resolvePasid } from "./pasid-entry.ts"
import { traceEntry } from "./trace.ts"
import type { Transaction } from "./transaction.ts"
import * as transaction from "./transaction.ts"

// Copies: V8 reads an imported constant through its module, which costs a walk a third of its time.
const { MODE_PASS_THROUGH, MODE_SECOND, REQUEST_PAGE, REQUEST_TRANSLATED, REQUEST_UNTRANSLATED } = transaction
const {
  ADDR_MASK_LO,
  CONTEXT_AW_MASK_LO1,
  CONTEXT_DID_SHIFT_LO1,
  CONTEXT_ENTRY_BYTES,
  CONTEXT_FPD,
  CONTEXT_P,
  CONTEXT_RSVD_HI1,
  CONTEXT_RSVD_LO,
  CONTEXT_TT_MASK,
  CONTEXT_TT_SHIFT,
  DTE,
  PASIDE,
  PDTS_MASK,
  PDTS_SHIFT,
  PRE,
  RID_PASID_MASK_LO1,
  RID_PRIV_LO1,
  ROOT_ENTRY_BYTES,
  ROOT_P,
  ROOT_RSVD_LO,
  SCALABLE_CONTEXT_ENTRY_BYTES,
  TT_DEVICE_TLB,
  TT_PASS_THROUGH,
  TT_UNTRANSLATED,
} = ctx
const { ACCESS_EXEC, ACCESS_PRIV } = core
const { TTM_ABORT, TTM_LEGACY, TTM_MASK, TTM_SCALABLE, TTM_SHIFT } = reg

/** Fills mode, tables and flags of the transaction. @returns 0 or the fault reason */
export function resolveEntries(t: Transaction): number {
  const { features } = t
  t.caches.forgetEntries()
  t.attributesKey = -1
  t.plainKey = -1
  const ttm = (t.rootLo >>> TTM_SHIFT) & TTM_MASK
  t.fpd = false
  t.legacy = ttm === TTM_LEGACY
  if (ttm === TTM_LEGACY) return resolveLegacy(t)
  if (ttm === TTM_SCALABLE && features.scalable) return resolveScalable(t)
  if (ttm === TTM_ABORT && features.abortDma) return t.fail(fr.RTA_4, 0, t.iovaHi, t.iovaLo)
  return t.fail(fr.RTA_1, 0, t.rootHi, t.rootLo)
}

/** §3.4.2. */
function resolveLegacy(t: Transaction): number {
  if (t.request === REQUEST_PAGE) return t.fail(fr.RTA_3, 0, t.iovaHi, t.iovaLo)
  if (t.pasid >= 0) return t.fail(fr.RTA_2, 0, t.iovaHi, t.iovaLo)
  if (t.caches.findContext(t, TTM_LEGACY)) {
    if (t.reason !== 0) return t.reason
  } else {
    const reason = readLegacyContext(t)
    t.caches.keepContext(t, TTM_LEGACY, reason)
    if (reason !== 0) return reason
  }
  if (t.request !== REQUEST_UNTRANSLATED && translationType(t) !== TT_DEVICE_TLB) {
    return t.fail(fr.LCT_5, 0, t.iovaHi, t.iovaLo)
  }
  t.domainId = (t.contextLo1 >>> CONTEXT_DID_SHIFT_LO1) & 0xffff
  t.effectivePasid = 0
  t.privileged = false
  t.pwsnp = false
  t.mode = translationType(t) === TT_PASS_THROUGH ? MODE_PASS_THROUGH : MODE_SECOND
  t.setSecondStage(t.contextHi, t.contextLo, t.contextLo1 & CONTEXT_AW_MASK_LO1, 0)
  return 0
}

function translationType(t: Transaction): number {
  return (t.contextLo >>> CONTEXT_TT_SHIFT) & CONTEXT_TT_MASK
}

/** Through the root table to a context entry that is right. §9.1, §9.3. @returns 0 or the fault reason */
function readLegacyContext(t: Transaction): number {
  const { features, memory } = t
  const words = memory.words
  const rootTableLo = t.rootLo & ADDR_MASK_LO
  const bus = t.device >>> 8
  const rootAddress = rootTableLo + bus * ROOT_ENTRY_BYTES
  const rootAt = memory.find(t.rootHi, rootAddress)
  if (rootAt < 0) return t.fail(fr.LRT_1, 0, t.rootHi, rootAddress)
  if (t.trace !== null) traceEntry(t, "root entry", t.rootHi, rootTableLo, bus, rootAt, 2)
  const rootLo = words[rootAt] as number
  const rootHi = words[rootAt + 1] as number
  if ((rootLo & ROOT_P) === 0) return t.fail(fr.LRT_2, 0, t.rootHi, rootAddress)
  const rootRsvd =
    (rootLo & ROOT_RSVD_LO) |
    (rootHi & features.pointerRsvdHi) |
    (words[rootAt + 2] as number) |
    (words[rootAt + 3] as number)
  if (rootRsvd !== 0) return t.fail(fr.LRT_3, 0, t.rootHi, rootAddress)

  const devfn = t.device & 0xff
  const tableLo = rootLo & ADDR_MASK_LO
  const address = tableLo + devfn * CONTEXT_ENTRY_BYTES
  const at = memory.find(rootHi, address)
  if (at < 0) return t.fail(fr.LCT_1, 0, rootHi, address)
  if (t.trace !== null) traceEntry(t, "context entry", rootHi, tableLo, devfn, at, 2)
  const lo = words[at] as number
  const hi = words[at + 1] as number
  const lo1 = words[at + 2] as number
  const hi1 = words[at + 3] as number
  t.fpd = (lo & CONTEXT_FPD) !== 0
  if ((lo & CONTEXT_P) === 0) return t.fail(fr.LCT_2, 0, rootHi, address)

  t.contextLo = lo | 0
  t.contextHi = hi | 0
  t.contextLo1 = lo1 | 0
  const tt = translationType(t)
  // Pass-through ignores SSPTPTR, its upper bits included.
  const pointerRsvd = tt === TT_PASS_THROUGH ? 0 : hi & features.pointerRsvdHi
  const rsvd =
    (lo & CONTEXT_RSVD_LO) | pointerRsvd | (lo1 & features.contextRsvdLo1) | (hi1 & CONTEXT_RSVD_HI1)
  if (rsvd !== 0) return t.fail(fr.LCT_3, 0, rootHi, address)
  const aw = lo1 & CONTEXT_AW_MASK_LO1
  if (((features.widths >> aw) & 1) === 0) return t.fail(fr.LCT_4, 0, rootHi, address)
  return supportsTranslationType(t, tt) ? 0 : t.fail(fr.LCT_4, 0, rootHi, address)
}

/** §9.3, TT. */
function supportsTranslationType(t: Transaction, tt: number): boolean {
  switch (tt) {
    case TT_UNTRANSLATED:
      return true
    case TT_DEVICE_TLB:
      return t.features.deviceTlb
    case TT_PASS_THROUGH:
      return t.features.passThrough
    default:
      return false
  }
}

/** §3.4.3. */
function resolveScalable(t: Transaction): number {
  const executes = t.pasid >= 0 && (t.access & ACCESS_EXEC) !== 0 && t.request !== REQUEST_PAGE
  if (executes && t.features.majorVersion >= 8) {
    return t.fail(fr.RTA_5, 0, t.iovaHi, t.iovaLo)
  }
  if (t.caches.findContext(t, TTM_SCALABLE)) {
    if (t.reason !== 0) return t.reason
  } else {
    const reason = readScalableContext(t)
    t.caches.keepContext(t, TTM_SCALABLE, reason)
    if (reason !== 0) return reason
  }
  const reason = checkRequest(t) || choosePasid(t)
  if (reason !== 0) return t.fail(reason, 0, t.iovaHi, t.iovaLo)
  // A translated address is beyond PASIDs and tables. §4.2.5.
  return t.request === REQUEST_TRANSLATED ? 0 : resolvePasid(t)
}

/** Through the root table to a context entry that is right. §9.2, §9.4. @returns 0 or the fault reason */
function readScalableContext(t: Transaction): number {
  const { features, memory } = t
  const words = memory.words
  const rootTableLo = t.rootLo & ADDR_MASK_LO
  const bus = t.device >>> 8
  const half = t.device & 0x80 ? 8 : 0
  const rootAddress = rootTableLo + bus * ROOT_ENTRY_BYTES + half
  const rootAt = memory.find(t.rootHi, rootAddress)
  if (rootAt < 0) return t.fail(fr.SRT_1, 0, t.rootHi, rootAddress)
  if (t.trace !== null) {
    const what = half === 0 ? "root entry, lower half" : "root entry, upper half"
    traceEntry(t, what, t.rootHi, rootTableLo, bus, rootAt, 1)
  }
  const rootLo = words[rootAt] as number
  const rootHi = words[rootAt + 1] as number
  if ((rootLo & ROOT_P) === 0) return t.fail(fr.SRT_2, 0, t.rootHi, rootAddress)
  if (((rootLo & ROOT_RSVD_LO) | (rootHi & features.pointerRsvdHi)) !== 0) {
    return t.fail(fr.SRT_3, 0, t.rootHi, rootAddress)
  }

  const devfn = t.device & 0x7f
  const tableLo = rootLo & ADDR_MASK_LO
  const address = tableLo + devfn * SCALABLE_CONTEXT_ENTRY_BYTES
  const at = memory.find(rootHi, address)
  if (at < 0) return t.fail(fr.SCT_1, 0, rootHi, address)
  if (t.trace !== null) traceEntry(t, "scalable-mode context entry", rootHi, tableLo, devfn, at, 4)
  const reason = checkScalableContext(t, at)
  return reason === 0 ? 0 : t.fail(reason, 0, rootHi, address)
}

/** §9.4. @returns 0 or the fault reason */
function checkScalableContext(t: Transaction, at: number): number {
  const { features } = t
  const words = t.memory.words
  const lo = words[at] as number
  const lo1 = words[at + 2] as number
  t.contextLo = lo | 0
  t.contextHi = (words[at + 1] as number) | 0
  t.contextLo1 = lo1 | 0
  t.fpd = (lo & CONTEXT_FPD) !== 0
  if ((lo & CONTEXT_P) === 0) return fr.SCT_2
  const rsvd =
    (lo & features.scalableContextRsvdLo) |
    ((words[at + 1] as number) & features.pointerRsvdHi) |
    (lo1 & features.scalableContextRsvdLo1) |
    (words[at + 3] as number) |
    (words[at + 4] as number) |
    (words[at + 5] as number) |
    (words[at + 6] as number) |
    (words[at + 7] as number)
  if (rsvd !== 0) return fr.SCT_3
  if ((lo & PRE) !== 0 && (lo & DTE) === 0) return fr.SCT_4
  return (lo1 & RID_PASID_MASK_LO1) >= pasidLimit(lo) ? fr.SCT_4 : 0
}

/** PASIDs that the directory has room for. §9.4, PDTS. */
function pasidLimit(contextLo: number): number {
  return 1 << (((contextLo >>> PDTS_SHIFT) & PDTS_MASK) + 7 + pt.PASID_TABLE_BITS)
}

/** May the device send requests of this kind? §9.4, DTE and PRE. @returns 0 or the fault reason */
function checkRequest(t: Transaction): number {
  if (t.request === REQUEST_UNTRANSLATED) return 0
  if (t.request === REQUEST_PAGE) return (t.contextLo & PRE) === 0 ? fr.SCT_8 : 0
  return (t.contextLo & DTE) === 0 ? fr.SCT_5 : 0
}

/** Sets the PASID that counts. §3.4.3, §7.1.3. @returns 0 or the fault reason */
function choosePasid(t: Transaction): number {
  const lo = t.contextLo
  const ridPasid = t.contextLo1 & RID_PASID_MASK_LO1
  if (t.pasid < 0) {
    t.effectivePasid = ridPasid
    t.privileged = (t.contextLo1 & RID_PRIV_LO1) !== 0
    return 0
  }
  if ((lo & PASIDE) === 0) return fr.SCT_6
  if (t.pasid >= pasidLimit(lo)) return fr.SCT_7
  if (t.pasid === ridPasid) return fr.SCT_9
  if (t.pasid > t.features.maxPasid && t.request !== REQUEST_PAGE) return fr.SGN_10
  t.effectivePasid = t.pasid
  t.privileged = (t.access & ACCESS_PRIV) !== 0
  return 0
}
