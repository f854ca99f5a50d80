/** QEMU's slips in VT-d. Book: Intel VT-d 5.10 (D51397-018). */
import type { Dispute, LedgerEntry } from "./entry.ts"

/**
 * Fault reasons of legacy mode that QEMU gives in scalable mode, by the scalable-mode reason of the same condition.
 * Where the book has one reason for reads and writes, QEMU has two.
 */
const LEGACY_REASONS: ReadonlyMap<string, { readonly read: bigint; readonly write: bigint }> = new Map([
  ["SRT.2", { read: 0x01n, write: 0x01n }],
  ["SRT.3", { read: 0x0an, write: 0x0an }],
  ["SCT.2", { read: 0x02n, write: 0x02n }],
  ["SCT.3", { read: 0x0bn, write: 0x0bn }],
  ["SSS.1", { read: 0x07n, write: 0x07n }],
  ["SSS.2", { read: 0x06n, write: 0x05n }],
  ["SSS.3", { read: 0x0cn, write: 0x0cn }],
  ["SGN.5", { read: 0x04n, write: 0x04n }],
  ["SGN.6", { read: 0x05n, write: 0x05n }],
  ["SGN.7", { read: 0x06n, write: 0x06n }],
])

/** Word 1 of a fault recording register has the fault reason in bits 39:32. §11.4.14. */
const REASON_SHIFT = 32n
const REASON_MASK = 0xffn

export const VTD_SLIPS: readonly LedgerEntry[] = [
  {
    id: "vtd-legacy-reasons",
    vendor: "vtd",
    versions: "7.2, 10.0, 11.1",
    qemu: "In scalable mode, root, context and second-stage faults carry the fault reason of legacy mode (1h to Ch).",
    book: "Each of these conditions has a reason of its own in scalable mode: SRT, SCT, SSS, SGN (39h to 86h).",
    section: "VT-d 5.10 §7.1.3, Table 30",
    recognised: "the legacy reason of the same condition, and nothing else, in place of the model's",
    slip: {
      kind: "answer",
      explains: dispute =>
        dispute.fault !== null &&
        LEGACY_REASONS.get(dispute.fault.reason)?.[dispute.write ? "write" : "read"] === reasonOf(dispute) &&
        agreesButForReason(dispute),
    },
  },
  {
    id: "vtd-pasid-entry-present",
    vendor: "vtd",
    versions: "7.2, 10.0, 11.1",
    qemu: "A PASID table entry's type is looked at before its P bit: an entry of zeros gets SPT.4 (5Bh).",
    book: "An entry that is not present is SPT.2 (59h), whatever its other fields hold.",
    section: "VT-d 5.10 §7.1.3, Table 30; §9.6 (P)",
    recognised: "reason 5Bh, and nothing else, in place of the model's SPT.2",
    slip: {
      kind: "answer",
      explains: dispute =>
        dispute.fault?.reason === "SPT.2" && reasonOf(dispute) === 0x5bn && agreesButForReason(dispute),
    },
  },
]

function reasonOf({ theirCode, theirRecord }: Dispute): bigint | null {
  return theirRecord === null ? theirCode : (theirRecord[1] >> REASON_SHIFT) & REASON_MASK
}

/** Captures have the reason alone; where both recorded, the rest of the record has to be the same. */
function agreesButForReason({ ourRecord, theirRecord }: Dispute): boolean {
  if (ourRecord === null || theirRecord === null) return theirRecord === null
  const mask = ~(REASON_MASK << REASON_SHIFT)
  return theirRecord.every(
    (word, index) => (index === 1 ? (word ^ ourRecord[1]) & mask : word ^ ourRecord[index]) === 0n,
  )
}
