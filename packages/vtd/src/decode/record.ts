/** Fault records in values. Intel VT-d 5.10 (D51397-018) §11.4.7.6. */
import type { DecodedRecord, RecordedAccess } from "@iommu/core"
import { FAULT_REASONS, FI_INDEX_SHIFT, FRCD, INTERRUPT_REASONS } from "../spec/events.ts"

interface CommonRecord extends DecodedRecord {
  /** Source-id. */
  readonly device: number
  readonly reason: number
  /** F: hardware has written it, software has not cleared it. */
  readonly pending: boolean
}

/** A request of a device to memory. */
export interface VtdDmaRecord extends CommonRecord {
  readonly kind: "dma"
  /** Of the page: no record has bits 11:0. */
  readonly address: bigint
  readonly access: RecordedAccess
  readonly addressType: "untranslated" | "translation request" | "translated" | "reserved"
  /** Both false in requests without PASID, for which the record does not say. */
  readonly privileged: boolean
  readonly execute: boolean
}

/** An interrupt message that was to be remapped. */
export interface VtdInterruptRecord extends CommonRecord {
  readonly kind: "interrupt"
  readonly address: null
  readonly access: null
  /** Which entry of the interrupt remapping table. */
  readonly index: number
}

export type VtdRecord = VtdDmaRecord | VtdInterruptRecord

const ADDRESS_TYPES = ["untranslated", "translation request", "translated", "reserved"] as const
/** By T1 and T2, in this order. */
const ACCESSES = ["write", "page request", "read", "atomic"] as const

export function decodeRecord(words: readonly bigint[]): VtdRecord {
  const fields = FRCD.decode(words)
  const reason = Number(fields.FR)
  const device = Number(fields.SID)
  const pending = fields.F === 1n
  if (INTERRUPT_REASONS.has(reason)) {
    const index = Number(fields.FI >> FI_INDEX_SHIFT)
    const nothing = { pasid: null, address: null, access: null }
    return { kind: "interrupt", name: reasonName(reason), device, reason, index, ...nothing, pending, words }
  }
  const hasPasid = fields.PP === 1n
  return {
    kind: "dma",
    name: reasonName(reason),
    device,
    pasid: hasPasid ? Number(fields.PV) : null,
    address: fields.FI << 12n,
    access: ACCESSES[Number((fields.T1 << 1n) | fields.T2)] as RecordedAccess,
    addressType: ADDRESS_TYPES[Number(fields.AT)] as VtdDmaRecord["addressType"],
    privileged: hasPasid && fields.PRIV === 1n,
    execute: hasPasid && fields.EXE === 1n,
    reason,
    pending,
    words,
  }
}

/** The book's condition code; where it has none, the number as the book writes it: `26h`. */
function reasonName(reason: number): string {
  const known = FAULT_REASONS.get(reason)?.name
  if (known !== undefined) return known
  const digits = reason.toString(16).padStart(2, "0")
  return INTERRUPT_REASONS.has(reason) ? `${digits}h` : `fault reason 0x${digits}`
}
