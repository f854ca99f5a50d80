/** QEMU's slips in VT-d. Book: Intel VT-d 5.10 (D51397-018). */
import { pasidTable } from "@iommu/vtd"
import { PASID_TABLE } from "../diff/vendors/vtd-layout.ts"
import type { Dispute, LedgerEntry, Setting } from "./entry.ts"
import { withoutReservedBits, withoutSnoop, withReservedBitsOfBothHalves } from "./vtd-readings.ts"

/**
 * Fault reasons of legacy mode that QEMU gives in scalable mode, by the scalable-mode reason of the same condition.
 * Where the book has one reason for reads and writes, QEMU has two.
 */
const LEGACY_REASONS: ReadonlyMap<string, { readonly read: bigint; readonly write: bigint }> = new Map([
  ["SRT.1", { read: 0x08n, write: 0x08n }],
  ["SRT.2", { read: 0x01n, write: 0x01n }],
  ["SRT.3", { read: 0x0an, write: 0x0an }],
  ["SCT.1", { read: 0x09n, write: 0x09n }],
  ["SCT.2", { read: 0x02n, write: 0x02n }],
  ["SCT.3", { read: 0x0bn, write: 0x0bn }],
  ["SSS.4", { read: 0x03n, write: 0x03n }],
  ["SPT.3", { read: 0x03n, write: 0x03n }],
  ["SSS.1", { read: 0x07n, write: 0x07n }],
  ["SSS.2", { read: 0x06n, write: 0x05n }],
  ["SSS.3", { read: 0x0cn, write: 0x0cn }],
  ["SGN.5", { read: 0x04n, write: 0x04n }],
  ["SGN.6", { read: 0x05n, write: 0x05n }],
  ["SGN.7", { read: 0x06n, write: 0x06n }],
])

/**
 * A fault recording register, §11.4.7.6: word 0 is FI; word 1 has SID in bits 15:0, PP in 31, the fault reason in
 * 39:32, PASID in 59:40.
 */
const REASON_SHIFT = 32n
const REASON_MASK = 0xffn << REASON_SHIFT

const PASS_THROUGH_WIDTH = ["LGN.1", "SGN.4", "SGN.5"]
const PASID_SHIFT = 40n
const PASID_MASK = 0xf_ffffn << PASID_SHIFT
const PP = 1n << 31n
const FI_BEYOND_48_BITS = 0xffff_0000_0000_0000n

export const VTD_SLIPS: readonly LedgerEntry[] = [
  {
    id: "vtd-pasid-without-pp",
    vendor: "vtd",
    versions: ["7.2", "10.0"],
    qemu: "The record of a request without PASID has PASID FFFFh, with PP = 0.",
    book: "PASID means something only with PP = 1, and is 0 on hardware without PASID support.",
    section: "VT-d 5.10 §11.4.7.6",
    recognised: "PASID = FFFFh and PP = 0 where the model has PASID = 0 and PP = 0",
    slip: {
      kind: "record",
      mask: [0n, PASID_MASK],
      matches: (ours, qemu) =>
        ((ours[1] | qemu[1]) & PP) === 0n &&
        (ours[1] & PASID_MASK) === 0n &&
        (qemu[1] & PASID_MASK) === 0xffffn << PASID_SHIFT,
    },
  },
  {
    id: "vtd-fault-info-width",
    vendor: "vtd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "FI holds all 64 bits of an address beyond the maximum guest address width.",
    book: "Hardware treats FI bits 63:N as reserved (0), N the maximum guest address width.",
    section: "VT-d 5.10 §11.4.7.6",
    recognised: "FI bits 63:48, zero in the model's record",
    slip: {
      kind: "record",
      mask: [FI_BEYOND_48_BITS],
      matches: ours => (ours[0] & FI_BEYOND_48_BITS) === 0n,
    },
  },
  {
    id: "vtd-legacy-reasons",
    vendor: "vtd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "In scalable mode, root, context and second-stage faults carry the fault reason of legacy mode (1h to Ch).",
    book: "Each of these conditions has a reason of its own in scalable mode: SRT, SCT, SSS, SGN (39h to 86h).",
    section: "VT-d 5.10 §7.1.3, Table 30",
    recognised: "the legacy reason of the same condition in place of the model's",
    slip: {
      kind: "record",
      mask: [0n, REASON_MASK],
      matches: (_, qemu, access) =>
        access !== null &&
        LEGACY_REASONS.get(access.reason)?.[access.write ? "write" : "read"] ===
          reasonOf(qemu) >> REASON_SHIFT,
    },
  },
  {
    id: "vtd-pasid-entry-present",
    vendor: "vtd",
    versions: ["10.0", "11.1"],
    qemu: "A PASID table entry's type is looked at before its P bit and its reserved bits: SPT.4 (5Bh).",
    book: "An entry that is not present is SPT.2 (59h), whatever its other fields hold; reserved bits are SPT.3.",
    section: "VT-d 5.10 §7.1.3, Table 30; §9.6 (P)",
    recognised: "reason 5Bh in place of the model's SPT.2 or SPT.3",
    slip: {
      kind: "record",
      mask: [0n, REASON_MASK],
      matches: (_, qemu, access) =>
        (access?.reason === "SPT.2" || access?.reason === "SPT.3") &&
        reasonOf(qemu) === 0x5bn << REASON_SHIFT,
    },
  },
  {
    id: "vtd-directory-entry",
    vendor: "vtd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "A PASID directory entry whose address has more bits than the host, in 7.2 any that cannot be used, is SPT.1 (58h).",
    book: "An entry that cannot be read is SPD.1 (50h), one that is not present SPD.2 (51h); address bits beyond the host address width are reserved: SPD.3.",
    section: "VT-d 5.10 §9.5, §7.1.3 Table 30",
    recognised: "reason 58h in place of the model's SPD.1 to SPD.3, SPT.2 to SPT.4",
    slip: {
      kind: "record",
      mask: [0n, REASON_MASK],
      matches: (_, qemu, access) =>
        access !== null &&
        /^(SPD.[123]|SPT.[234])$/.test(access.reason) &&
        reasonOf(qemu) === 0x58n << REASON_SHIFT,
    },
  },
  {
    id: "vtd-first-stage-pointer",
    vendor: "vtd",
    versions: ["10.0", "11.1"],
    qemu: "A first-stage table beyond the host address width is not read, which is SFS.4 (73h).",
    book: "Address bits beyond the host address width are reserved: SPT.3.",
    section: "VT-d 5.10 §9.6 (FSPTPTR), §7.1.3 Table 30",
    recognised: "reason 73h in place of the model's SPT.3",
    slip: {
      kind: "record",
      mask: [0n, REASON_MASK],
      matches: (_, qemu, access) => access?.reason === "SPT.3" && reasonOf(qemu) === 0x73n << REASON_SHIFT,
    },
  },
  {
    id: "vtd-snoop",
    vendor: "vtd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "SNP is not looked at in leaves of 2 MiB and 1 GiB, in scalable mode in no leaf.",
    book: "Without snoop control (ECAP.SC) it is reserved: LSS.2, SSS.3.",
    section: "VT-d 5.10 §9.8 (SNP), §7.1.3 Table 30",
    recognised: "the model agrees once SNP is clear",
    slip: { kind: "reading", reads: withoutSnoop },
  },
  {
    id: "vtd-user-first",
    vendor: "vtd",
    versions: ["10.0", "11.1"],
    qemu: "U/S = 0, for a write R/W = 0, ends a first-stage walk at once (SGN.2, SGN.6), though entries below are not present or reserved.",
    book: "Permissions are those of all levels; what the walk finds below comes first (SFS.2, SFS.3).",
    section: "VT-d 5.10 §3.6, §7.1.3 Table 30",
    recognised: "reason 81h, for a write 85h, in place of the model's SFS fault",
    slip: {
      kind: "record",
      mask: [0n, REASON_MASK],
      matches: (_, qemu, access) =>
        access?.reason.startsWith("SFS.") === true &&
        (reasonOf(qemu) === 0x81n << REASON_SHIFT ||
          (access.write && reasonOf(qemu) === 0x85n << REASON_SHIFT)),
    },
  },
  {
    id: "vtd-permission-first",
    vendor: "vtd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "An entry that lacks the permission and has reserved bits set is refused for the permission (5h, 6h).",
    book: "Reserved bits of an entry that is present are a fault of their own (LSS.2, SSS.3), looked at first.",
    section: "VT-d 5.10 §7.1.3, Table 30; §9.8",
    recognised: "reason 5h for a write, 6h for a read in place of the model's LSS.2 or SSS.3",
    slip: {
      kind: "record",
      mask: [0n, REASON_MASK],
      matches: (_, qemu, access) =>
        (access?.reason === "LSS.2" || access?.reason === "SSS.3") &&
        reasonOf(qemu) === (access.write ? 0x5n : 0x6n) << REASON_SHIFT,
    },
  },
  {
    id: "vtd-pp-without-pasid",
    vendor: "vtd",
    versions: ["7.2", "10.0"],
    qemu: "In scalable mode the record of a request without PASID has PP = 1, and PASID 0 of RID_PASID.",
    book: "PP says that the faulted request had a PASID.",
    section: "VT-d 5.10 §11.4.7.6",
    recognised: "PP = 1 with PASID = 0 where the model has PP = 0",
    slip: {
      kind: "record",
      mask: [0n, PP],
      matches: (ours, qemu) => (ours[1] & PP) === 0n && (qemu[1] & PASID_MASK) === 0n,
    },
  },
  {
    id: "vtd-first-stage-width",
    vendor: "vtd",
    versions: ["10.0", "11.1"],
    qemu: "AW of a first-stage entry is the width of its addresses: others are not canonical (SGN.1).",
    book: "AW says nothing of a first stage, whose addresses have as many bits as FSPM has levels for.",
    section: "VT-d 5.10 §9.6 (AW), §3.6",
    recognised:
      "reason 80h where the model does not have SGN.1, of an address that is not canonical in the width of AW",
    slip: { kind: "answer", explains: isBeyondWidth },
  },
  {
    id: "vtd-pass-through-width",
    vendor: "vtd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "With pass-through, an address beyond the widest AGAW is sent on, to where there is no memory.",
    book: "An untranslated request above the AGAW of its entry is refused and recorded, pass-through or not.",
    section: "VT-d 5.10 §7.1.3, Table 30 (LGN.1, SGN.4, SGN.5)",
    recognised: "no record where the model has LGN.1, SGN.4 or SGN.5",
    slip: {
      kind: "answer",
      explains: ({ fault, theirRecord, theirCode, theyRefused }) =>
        PASS_THROUGH_WIDTH.includes(fault?.reason ?? "") &&
        theirRecord === null &&
        theirCode === null &&
        theyRefused,
    },
  },
  {
    id: "vtd-a-flag-without-snoop",
    vendor: "vtd",
    versions: ["10.0", "11.1"],
    qemu: "First-stage walks set A and D in entries whatever PWSNP says.",
    book: "Where walks do not snoop, an entry whose A or D would have to be set is a fault (SFS.9).",
    section: "VT-d 5.10 §3.6.2, §7.1.3 Table 30",
    recognised: "an access that passes where the model has SFS.9, and A or D set in entries",
    slip: {
      kind: "state",
      explains: difference =>
        difference.kind === "table"
          ? difference.ours === null && isAccessedOrDirty((difference.theirs ?? 0n) ^ difference.before)
          : difference.kind === "access" &&
            difference.fault?.reason === "SFS.9" &&
            difference.theirs.records.length === 0,
    },
  },
  {
    id: "vtd-structure-reserved",
    vendor: "vtd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "Reserved bits of PASID directory and table entries, and some of scalable context entries, are not looked at; in 7.2 PGTT 3 counts as 2.",
    book: "A reserved bit that is set in a present entry is a fault (SCT.3, SPD.3, SPT.3).",
    section: "VT-d 5.10 §7.1.3, Table 30; §9.4 to §9.6",
    recognised: "the model agrees once these bits are clear",
    slip: { kind: "reading", reads: withoutReservedBits },
  },
  {
    id: "vtd-root-halves",
    vendor: "vtd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "Reserved bits of both halves of a scalable root entry are looked at, whichever half a request uses.",
    book: "A device uses one half of the entry, which has its own present bit.",
    section: "VT-d 5.10 §9.2, §7.1.3 Table 30 (SRT.3)",
    recognised: "the model agrees once each half has the reserved bits of both",
    slip: { kind: "reading", reads: withReservedBitsOfBothHalves },
  },
]

/** The widest that QEMU is set up for. */
const MAX_WIDTH = 48n

function isBeyondWidth({ fault, theirRecord, theyRefused }: Dispute, setting: Setting | null): boolean {
  if (!theyRefused || theirRecord === null || fault?.reason === "SGN.1" || setting === null) return false
  if (reasonOf(theirRecord) !== 0x80n << REASON_SHIFT) return false
  const entry = setting.script.memory.get(setting.world.places.structures + PASID_TABLE) ?? 0n
  const agaw = 30n + 9n * pasidTable.PASID_ENTRY.get([entry, 0n, 0n, 0n, 0n, 0n, 0n, 0n], "AW")
  // The bits that are all alike in a canonical address.
  const upper = BigInt.asIntN(64, theirRecord[0]) >> ((agaw < MAX_WIDTH ? agaw : MAX_WIDTH) - 1n)
  return upper !== 0n && upper !== -1n
}

function reasonOf(record: readonly bigint[]): bigint {
  return record[1] & REASON_MASK
}

/** Captures of VT-d can have the reason of a fault alone; the rest of its record then counts as the model's. */
export function recordOfCode({ ourRecord, theirCode }: Dispute): readonly bigint[] | null {
  if (theirCode === null || ourRecord === null) return null
  return ourRecord.map((word, index) =>
    index === 1 ? (word & ~REASON_MASK) | (theirCode << REASON_SHIFT) : word,
  )
}

function isAccessedOrDirty(bits: bigint): boolean {
  return bits !== 0n && (bits & ~0x60n) === 0n
}
