/** QEMU's slips in AMD-Vi. Book: AMD 48882 rev 3.10. */

import { deviceTable } from "@iommu/amd"
import { NO_ANSWER } from "../diff/qemu-subject.ts"
import { DEVICE_TABLE } from "../diff/vendors/amd-layout.ts"
import {
  withinMode,
  withoutPageRequestBits,
  withoutReservedEntryBits,
  withPermissionsOfLeaves,
  withPresentLeaves,
  withQemusReservedBits,
} from "./amd-readings.ts"
import type { Dispute, LedgerEntry, Setting } from "./entry.ts"

/** An event in 64-bit words (§2.5): the code in bits 63:60 of word 0, DeviceID in 15:0; the address is word 1. */
const CODE_SHIFT = 60n
const DEVICE = 0xffffn
/** Codes that QEMU records, if it records any, by the event that the model has. */
const CODES: Readonly<Record<string, readonly bigint[]>> = {
  ILLEGAL_DEV_TABLE_ENTRY: [1n],
  IO_PAGE_FAULT: [2n],
  PAGE_TAB_HARDWARE_ERROR: [4n, 2n],
  DEV_TAB_HARDWARE_ERROR: [3n],
}

export const AMD_SLIPS: readonly LedgerEntry[] = [
  {
    id: "amd-silent",
    vendor: "amd",
    versions: ["7.2", "10.0"],
    qemu: "Refused accesses leave no event.",
    book: "Each of these faults is an event in the log.",
    section: "AMD 48882 §2.5",
    recognised: "no event of an access that both refuse and the model logs",
    slip: {
      kind: "answer",
      explains: ({ fault, ourRecord, theirRecords, theyRefused }) =>
        fault !== null &&
        fault.reason in CODES &&
        ourRecord !== null &&
        theirRecords.length === 0 &&
        theyRefused,
    },
  },
  {
    id: "amd-untranslated-silent",
    vendor: "amd",
    versions: ["11.1"],
    qemu: "A device whose entry has TV = 0 is refused without an event.",
    book: "Its requests that need translation are IO_PAGE_FAULT.",
    section: "AMD 48882 §2.2.2.1 (TV), §2.5.3",
    recognised: "no event where the model has IO_PAGE_FAULT, of a device with TV = 0",
    slip: {
      kind: "answer",
      explains: ({ fault, ourRecord, theirRecords, theyRefused }, setting) =>
        fault?.reason === "IO_PAGE_FAULT" &&
        ourRecord !== null &&
        theirRecords.length === 0 &&
        theyRefused &&
        setting !== null &&
        (dteWord(setting, fault.device, 0) & V_TV) === V,
    },
  },
  {
    id: "amd-event-fields",
    vendor: "amd",
    versions: ["11.1"],
    qemu: "Events have neither address nor domain, flags of their own, and sometimes come twice.",
    book: "One event with the address, the domain and the flags of the access.",
    section: "AMD 48882 §2.5.2 to §2.5.5",
    recognised: "events of the same device and of the model's event, with an address of 0",
    slip: { kind: "answer", explains: isBareEvent },
  },
  {
    id: "amd-entry-reserved",
    vendor: "amd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "Reserved bits of table entries are not looked at.",
    book: "A reserved bit that is set is IO_PAGE_FAULT with RZ.",
    section: "AMD 48882 §2.2.3, §2.5.3",
    recognised: "the model agrees once these bits are clear",
    slip: { kind: "reading", reads: withoutReservedEntryBits },
  },
  {
    id: "amd-dte-reserved",
    vendor: "amd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "Bits of the device table entry that later revisions of the book defined count as reserved.",
    book: "CxlMemAttr and HAD have a meaning; PPR and GPRP only with EPHSup, which QEMU does not announce.",
    section: "AMD 48882 §2.2.2.1",
    recognised: "the model agrees once a reserved bit is set in such an entry",
    slip: { kind: "reading", reads: withQemusReservedBits },
  },
  {
    id: "amd-dte-page-requests",
    vendor: "amd",
    versions: ["7.2", "11.1"],
    qemu: "PPR and GPRP of the device table entry are taken without EPHSup.",
    book: "They are reserved without it: ILLEGAL_DEV_TABLE_ENTRY.",
    section: "AMD 48882 §2.2.2.1",
    recognised: "the model agrees once both are clear",
    slip: { kind: "reading", reads: withoutPageRequestBits },
  },
  {
    id: "amd-beyond-mode",
    vendor: "amd",
    versions: ["7.2", "10.0"],
    qemu: "Address bits above those that the levels of Mode resolve are dropped.",
    book: "An address that the tables do not reach is not present: IO_PAGE_FAULT.",
    section: "AMD 48882 §2.2.3",
    recognised: "the model agrees once the address has no such bits",
    slip: { kind: "reading", reads: () => new Map(), addressOf: withinMode },
  },
  {
    id: "amd-leaf-permissions",
    vendor: "amd",
    versions: ["11.1"],
    qemu: "IR and IW of the device table entry and of entries that lead to tables are not looked at.",
    book: "An access needs the permission at every step of the walk.",
    section: "AMD 48882 §2.2.2.1, §2.2.3",
    recognised: "the model agrees once they are set above the leaves",
    slip: { kind: "reading", reads: withPermissionsOfLeaves },
  },
  {
    id: "amd-leaf-present",
    vendor: "amd",
    versions: ["7.2", "10.0"],
    qemu: "PR of the entry that ends a walk is not looked at, only whether the entry is 0.",
    book: "An entry with PR = 0 is not present: IO_PAGE_FAULT.",
    section: "AMD 48882 §2.2.3",
    recognised: "the model agrees once leaves have PR = 1",
    slip: { kind: "reading", reads: withPresentLeaves },
  },
  {
    id: "amd-iotlb-key",
    vendor: "amd",
    versions: ["7.2", "10.0"],
    qemu: "Address bits 48 and up are mixed with the DeviceID in the IOTLB: a device can meet another one's entry.",
    book: "Cached translations are those of the domain and the address.",
    section: "AMD 48882 §2.4.3",
    recognised:
      "an access beyond 48 bits that passes where the model has a fault, and another device's access with the same key",
    slip: { kind: "answer", explains: meetsAnotherEntry },
  },
  {
    id: "amd-suppression",
    vendor: "amd",
    versions: ["11.1"],
    qemu: "Page faults are logged whatever SA and SE of the device table entry say.",
    book: "With SA = 1 none is logged, with SE = 1 the first one.",
    section: "AMD 48882 §2.2.2.1 (SA, SE)",
    recognised: "an event of an IO_PAGE_FAULT that the model does not log, of a device with SA or SE",
    slip: {
      kind: "answer",
      explains: ({ fault, ourRecord, theirRecords, theyRefused }, setting) =>
        fault?.reason === "IO_PAGE_FAULT" &&
        ourRecord === null &&
        theirRecords.length > 0 &&
        theyRefused &&
        setting !== null &&
        (dteWord(setting, fault.device, 1) & SA_SE) !== 0n,
    },
  },
  {
    id: "amd-walk-loops",
    vendor: "amd",
    versions: ["7.2", "10.0"],
    qemu: "A walk whose next level is not a lower one goes on for ever, and QEMU with it.",
    book: "NextLevel has to be below the level of the entry: IO_PAGE_FAULT.",
    section: "AMD 48882 §2.2.3",
    recognised: "QEMU does not answer any more",
    slip: {
      kind: "state",
      explains: difference => difference.kind === "died" && difference.words === NO_ANSWER,
    },
  },
]

/** Of word 0. */
const V = 1n
const V_TV = 3n
/** SA and SE of word 1. */
const SA_SE = 3n << 33n

function dteWord({ world, script }: Setting, id: number, word: number): bigint {
  const at = world.places.structures + DEVICE_TABLE + id * deviceTable.DTE_BYTES
  return script.memory.get(at + word * 8) ?? 0n
}

/** QEMU's key of its IOTLB: the page, with the DeviceID over bits 48 and up of the address. */
function iotlbKey(iova: bigint, id: number): bigint {
  return (iova >> 12n) | (BigInt(id) << 36n)
}

function meetsAnotherEntry({ fault, theyRefused }: Dispute, setting: Setting | null): boolean {
  if (fault === null || theyRefused || setting === null || fault.address >> 48n === 0n) return false
  const key = iotlbKey(fault.address, fault.device)
  const { world, script } = setting
  return script.rounds.some(({ accesses }) =>
    accesses.some(({ device, iova }) => {
      const id = world.deviceIds[device]
      return id !== fault.device && iotlbKey(iova, id) === key
    }),
  )
}

function isBareEvent({ fault, ourRecord, theirRecords, theyRefused }: Dispute): boolean {
  if (fault === null || ourRecord === null || theirRecords.length === 0 || !theyRefused) return false
  return theirRecords.every(
    ([word0, word1]) =>
      (CODES[fault.reason] ?? []).includes(word0 >> CODE_SHIFT) &&
      (word0 & DEVICE) === (ourRecord[0] & DEVICE) &&
      word1 === 0n,
  )
}
