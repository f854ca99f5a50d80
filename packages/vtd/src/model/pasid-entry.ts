/**
 * PASID directory and PASID table entries: from the PASID that counts to how the request is translated.
 * Intel VT-d 5.10 (D51397-018) §3.4.3, §9.5, §9.6, fault conditions §7.1.3.
 */
import * as core from "@iommu/core"
import { ADDR_MASK_LO } from "../spec/device-table.ts"
import * as fr from "../spec/events.ts"
import * as pte from "../spec/page-tables.ts"
import * as pt from "../spec/pasid-table.ts"
import { traceEntry } from "./trace.ts"
import type { Transaction } from "./transaction.ts"
import * as transaction from "./transaction.ts"
import { beyondSecondStage } from "./walk-stage2.ts"

// Copies: V8 reads an imported constant through its module, which costs a walk a third of its time.
const {
  FSPM_4_LEVEL,
  FSPM_5_LEVEL,
  PASID_DIRECTORY_ENTRY_BYTES,
  PASID_TABLE_BITS,
  PASID_TABLE_ENTRY_BYTES,
  PDE_FPD,
  PDE_P,
  PDE_RSVD_LO,
  PE_AW_MASK,
  PE_AW_SHIFT,
  PE_DID_MASK_LO1,
  PE_EAFE_LO2,
  PE_FPD,
  PE_FSPM_MASK,
  PE_FSPM_SHIFT_LO2,
  PE_P,
  PE_PGTT_MASK,
  PE_PGTT_SHIFT,
  PE_PWSNP_LO1,
  PE_SRE_LO2,
  PE_SSADE,
  PE_WPE_LO2,
  PGTT_FIRST,
  PGTT_NESTED,
  PGTT_SECOND,
} = pt
const { ACCESS_EXEC } = core
const { MODE_FIRST, REQUEST_PAGE } = transaction
const { FS_A, FS_EA, FS_P, FS_US, SS_A } = pte

/** From the PASID that counts to mode and tables. @returns 0 or the fault reason */
export function resolvePasid(t: Transaction): number {
  if (t.caches.findPasid(t)) {
    if (t.reason !== 0) return t.reason
    applyPasidEntry(t)
  } else {
    const above = t.fpd
    t.fpd = false
    const reason = readPasidEntry(t)
    t.caches.keepPasid(t, t.fpd, reason)
    if (above) t.fpd = true
    if (reason !== 0) return reason
  }
  // A page request only asks; what the device then does is judged when it does it.
  if (t.request === REQUEST_PAGE) return 0
  const reason = checkPrivilege(t, t.pasidLo2)
  return reason === 0 ? 0 : t.fail(reason, 0, t.iovaHi, t.iovaLo)
}

/** Through directory and table to an entry that is right. @returns 0 or the fault reason */
function readPasidEntry(t: Transaction): number {
  const { features, memory } = t
  const words = memory.words
  const directoryHi = t.contextHi
  const directoryLo = t.contextLo & ADDR_MASK_LO
  const directoryIndex = t.effectivePasid >>> PASID_TABLE_BITS
  // A directory has up to 128 KiB and can cross a multiple of 4 GiB.
  const sum = (directoryLo + directoryIndex * PASID_DIRECTORY_ENTRY_BYTES) | 0
  const carry = sum >>> 0 < directoryLo >>> 0 ? 1 : 0
  const entryHi = (directoryHi + carry) | 0
  const directoryAt = memory.find(entryHi, sum)
  if (directoryAt < 0) return t.fail(fr.SPD_1, 0, entryHi, sum)
  if (t.trace !== null) {
    traceEntry(t, "PASID directory entry", directoryHi, directoryLo, directoryIndex, directoryAt, 1)
  }
  const lo = words[directoryAt] as number
  const hi = words[directoryAt + 1] as number
  if ((lo & PDE_FPD) !== 0) t.fpd = true
  if ((lo & PDE_P) === 0) return t.fail(fr.SPD_2, 0, entryHi, sum)
  if (((lo & PDE_RSVD_LO) | (hi & features.pointerRsvdHi)) !== 0) return t.fail(fr.SPD_3, 0, entryHi, sum)

  const index = t.effectivePasid & ((1 << PASID_TABLE_BITS) - 1)
  const tableLo = lo & ADDR_MASK_LO
  const address = tableLo + index * PASID_TABLE_ENTRY_BYTES
  const at = memory.find(hi, address)
  if (at < 0) return t.fail(fr.SPT_1, 0, hi, address)
  if (t.trace !== null) traceEntry(t, "PASID table entry", hi, tableLo, index, at, 8)
  const reason = checkPasidEntry(t, at)
  return reason === 0 ? 0 : t.fail(reason, 0, hi, address)
}

/** §9.6. @returns 0 or the fault reason */
function checkPasidEntry(t: Transaction, at: number): number {
  const { features } = t
  const words = t.memory.words
  const lo = words[at] as number
  const hi = words[at + 1] as number
  const lo1 = words[at + 2] as number
  const lo2 = words[at + 4] as number
  const hi2 = words[at + 5] as number
  if ((lo & PE_FPD) !== 0) t.fpd = true
  if ((lo & PE_P) === 0) return fr.SPT_2
  let rsvd =
    (lo & features.pasidEntryRsvdLo) |
    (hi & features.pasidEntryRsvdHi) |
    (lo1 & features.pasidEntryRsvdLo1) |
    ((words[at + 3] as number) & features.pasidEntryRsvdHi1) |
    (lo2 & features.pasidEntryRsvdLo2) |
    (hi2 & features.pasidEntryRsvdHi2)
  rsvd |=
    (words[at + 6] as number) |
    (words[at + 7] as number) |
    (words[at + 8] as number) |
    (words[at + 9] as number) |
    (words[at + 10] as number)
  rsvd |=
    (words[at + 11] as number) |
    (words[at + 12] as number) |
    (words[at + 13] as number) |
    (words[at + 14] as number) |
    (words[at + 15] as number)
  if (rsvd !== 0) return fr.SPT_3
  t.pasidLo = lo | 0
  t.pasidHi = hi | 0
  t.pasidLo1 = lo1 | 0
  t.pasidHi1 = (words[at + 3] as number) | 0
  t.pasidLo2 = lo2 | 0
  t.pasidHi2 = hi2 | 0
  return applyPasidEntry(t) ? 0 : fr.SPT_4
}

/** @returns false when PGTT, AW, FSPM or FSPTPTR has a value that this hardware does not support */
function applyPasidEntry(t: Transaction): boolean {
  const { features, pasidLo: lo } = t
  t.domainId = t.pasidLo1 & PE_DID_MASK_LO1
  t.pwsnp = (t.pasidLo1 & PE_PWSNP_LO1) !== 0
  t.ssAccessed = 0
  const pgtt = (lo >>> PE_PGTT_SHIFT) & PE_PGTT_MASK
  if (((features.translationTypes >> pgtt) & 1) === 0) return false
  t.mode = pgtt
  if (pgtt === PGTT_SECOND || pgtt === PGTT_NESTED) {
    const aw = (lo >>> PE_AW_SHIFT) & PE_AW_MASK
    if (((features.widths >> aw) & 1) === 0) return false
    t.setSecondStage(t.pasidHi, lo, aw, (lo & PE_SSADE) === 0 ? 0 : SS_A)
  }
  const hasFirst = pgtt === PGTT_FIRST || pgtt === PGTT_NESTED
  return !hasFirst || setFirstStage(t, t.pasidHi2, t.pasidLo2)
}

/** @returns false when FSPM or FSPTPTR has a value that this hardware does not support */
function setFirstStage(t: Transaction, hi2: number, lo2: number): boolean {
  const fspm = (lo2 >>> PE_FSPM_SHIFT_LO2) & PE_FSPM_MASK
  if (fspm !== FSPM_4_LEVEL && (fspm !== FSPM_5_LEVEL || !t.features.fs5lp)) return false
  t.fsLevels = fspm === FSPM_5_LEVEL ? 5 : 4
  t.fsUnused = 64 - (9 * t.fsLevels + 12)
  t.fsRsvdHi = t.features.fsRsvdHi
  t.fsTableHi = hi2 | 0
  t.fsTableLo = lo2 & ADDR_MASK_LO
  t.fsRootAt = t.memory.isVolatile ? -1 : t.memory.find(t.fsTableHi, t.fsTableLo)
  t.wpe = (lo2 & PE_WPE_LO2) !== 0
  t.eafe = (lo2 & PE_EAFE_LO2) !== 0
  t.fsWanted = t.eafe ? FS_EA | FS_P | FS_US | FS_A : FS_P | FS_US | FS_A
  return t.mode === MODE_FIRST || !beyondSecondStage(t, hi2, t.fsTableLo)
}

function checkPrivilege(t: Transaction, lo2: number): number {
  if (t.pasid >= 0 && (t.access & ACCESS_EXEC) !== 0 && !t.features.executeRequests) return fr.SPT_5
  if (t.privileged && (lo2 & PE_SRE_LO2) === 0) return fr.SPT_6
  return 0
}
