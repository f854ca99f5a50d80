/** QEMU's slips in VT-d. Book: Intel VT-d 5.10 (D51397-018). */
import type { LedgerEntry } from "./entry.ts"

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

export const VTD_SLIPS: readonly LedgerEntry[] = [
  {
    id: "vtd-legacy-reasons",
    vendor: "vtd",
    qemu: "In scalable mode, root, context and second-stage faults carry the fault reason of legacy mode (1h to Ch).",
    book: "Each of these conditions has a reason of its own in scalable mode: SRT, SCT, SSS, SGN (39h to 86h).",
    section: "VT-d 5.10 §7.1.3, Table 30",
    slip: {
      kind: "answer",
      explains: finding =>
        finding.table === "faults" &&
        !finding.outcome.ok &&
        LEGACY_REASONS.get(finding.outcome.fault.reason)?.[finding.row.access] === finding.row.code,
    },
  },
  {
    id: "vtd-pasid-entry-present",
    vendor: "vtd",
    qemu: "A PASID table entry's type is looked at before its P bit: an entry of zeros gets SPT.4 (5Bh).",
    book: "An entry that is not present is SPT.2 (59h), whatever its other fields hold.",
    section: "VT-d 5.10 §7.1.3, Table 30; §9.6 (P)",
    slip: {
      kind: "answer",
      explains: finding =>
        finding.table === "faults" &&
        !finding.outcome.ok &&
        finding.outcome.fault.reason === "SPT.2" &&
        finding.row.code === 0x5bn,
    },
  },
]
