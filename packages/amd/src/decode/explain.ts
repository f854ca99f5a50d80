/** Event log entries in words. AMD 48882 rev 3.10, §2.5; causes from what people report. */
import { type FaultExplanation, requesterName } from "@iommu/core"
import * as evt from "../spec/events.ts"
import type {
  AmdCommandRecord,
  AmdHardwareErrorRecord,
  AmdIllegalEntryRecord,
  AmdInvalidPageRequestRecord,
  AmdInvalidRequestRecord,
  AmdOtherRecord,
  AmdPageFaultRecord,
  AmdRecord,
} from "./record.ts"

const NEVER_MAPPED = "the driver never mapped this address, or unmapped it while the device still used it"
const WRONG_ADDRESS = "the device was given a physical or CPU address instead of its DMA address"
const OVERRUN = "the device went past the end of its buffer: look whether the page before is mapped"
const FIRMWARE_REGION =
  "the firmware set the device up to use memory that no IVMD block of the IVRS table names"
const WRONG_DIRECTION = "a buffer was mapped for the other direction, read-only for a device that writes"
const LAYOUT =
  "whoever wrote the entry has a field in the wrong place, or uses what this IOMMU lacks (EXT_FEATURES)"
const GARBAGE = "the page of the structure was freed, overwritten, or never cleared"
const NO_MEMORY = "the pointer leads to no memory: not set up yet, cut to too few bits, or overwritten"
const NO_ATS = "the device's ATS is on, but its device table entry (I) does not allow it"

export function explain(record: AmdRecord): FaultExplanation {
  switch (record.kind) {
    case "page fault":
      return pageFault(record)
    case "illegal entry":
      return illegalEntry(record)
    case "hardware error":
      return hardwareError(record)
    case "command":
      return command(record)
    case "invalid request":
      return invalidRequest(record)
    case "invalid page request":
      return invalidPageRequest(record)
    case "other":
      return other(record)
  }
}

function pageFault(record: AmdPageFaultRecord): FaultExplanation {
  const section = "AMD 48882 §2.5.3"
  const request = `${accessText(record)} at ${hex(record.address)} was refused`
  if (record.interrupt) {
    return {
      happened: `An interrupt message at ${hex(record.address)} was refused: ${foundText(record)}.`,
      where: "interrupt remapping table",
      causes: [
        "an interrupt was freed or moved while the device could still send it",
        "INVALIDATE_INTERRUPT_TABLE was not sent after the table changed",
      ],
      section,
    }
  }
  return {
    happened: `${request}: ${foundText(record)}.`,
    where: record.guest
      ? `guest tables, PASID ${hex(record.pasid ?? 0)}`
      : `host tables of domain ${hex(record.domain ?? 0)}, or IR and IW of the device table entry`,
    causes: pageFaultCauses(record),
    section,
  }
}

function foundText({ reservedBit, present, permission }: AmdPageFaultRecord): string {
  if (reservedBit) return "a reserved bit is set in an entry"
  if (!present) return "nothing is mapped there"
  return permission ? "the page is there, the permission is not" : "an entry has an illegal level or mode"
}

function pageFaultCauses({ reservedBit, present, permission }: AmdPageFaultRecord): readonly string[] {
  if (reservedBit) return [GARBAGE, LAYOUT]
  if (!present) return [NEVER_MAPPED, WRONG_ADDRESS, OVERRUN, FIRMWARE_REGION]
  return permission ? [WRONG_DIRECTION, NEVER_MAPPED, FIRMWARE_REGION] : [GARBAGE, LAYOUT]
}

function illegalEntry(record: AmdIllegalEntryRecord): FaultExplanation {
  const what = record.reservedBit ? "has a reserved bit set" : "has a field with an illegal value"
  return {
    happened: `The device table entry of ${requesterName(record.device)} ${what}; ${accessText(record)} at ${hex(record.address)} was refused.`,
    where: "device table entry",
    causes: [LAYOUT, GARBAGE, "INVALIDATE_DEVTAB_ENTRY was not sent after the entry changed"],
    section: "AMD 48882 §2.5.2",
  }
}

function hardwareError(record: AmdHardwareErrorRecord): FaultExplanation {
  const parts = {
    DEV_TAB_HARDWARE_ERROR: { what: "The device table", where: "device table", section: "§2.5.4" },
    PAGE_TAB_HARDWARE_ERROR: { what: "A page table", where: "page tables", section: "§2.5.5" },
    COMMAND_HARDWARE_ERROR: { what: "The command buffer", where: "command buffer", section: "§2.5.7" },
  }
  const { what, where, section } = parts[record.name]
  return {
    happened: `${what} could not be read at system physical address ${hex(record.address)}: ${record.type}.`,
    where,
    causes: [NO_MEMORY, GARBAGE, "the memory is broken, or encrypted for somebody else"],
    section: `AMD 48882 ${section}`,
  }
}

function command(record: AmdCommandRecord): FaultExplanation {
  if (record.name === "ILLEGAL_COMMAND_ERROR") {
    return {
      happened: `The command at ${hex(record.address)} is none, has a reserved bit set, or is not supported; the IOMMU fetches no more.`,
      where: "command buffer",
      causes: [LAYOUT, "the tail was moved past what was written, or the command was overwritten too early"],
      section: "AMD 48882 §2.5.6",
    }
  }
  return {
    happened: `Device ${requesterName(record.device ?? 0)} did not answer the invalidation of its IOTLB, command at ${hex(record.address)}.`,
    where: "the device, ATS",
    causes: ["the device hangs, is in reset, or has lost its link", "the device has no ATS, or it is off"],
    section: "AMD 48882 §2.5.8",
  }
}

const REQUEST_TYPES: ReadonlyMap<number, string> = new Map([
  [evt.INVALID_READ_OF_INTERRUPT_RANGE, "a read of the interrupt address range"],
  [evt.TRANSLATED_NOT_ALLOWED, "a translated request, which the device table entry does not allow"],
  [evt.PORT_IO_NOT_ALLOWED, "port I/O, which the device table entry does not allow (IoCtl)"],
  [
    evt.SYSTEM_MANAGEMENT_NOT_ALLOWED,
    "a system management message, which the entry does not let through (SysMgt)",
  ],
  [evt.INVALID_READ_OF_SYSTEM_MANAGEMENT, "a read of the system management address range"],
  [evt.INTERRUPT_NOT_ALLOWED, "an interrupt that the device table entry blocks (IntCtl)"],
  [evt.SYSTEM_MANAGEMENT_NOT_TRANSLATED, "a system management message to be translated, without tables (TV)"],
])
const TRANSLATION_TYPES: ReadonlyMap<number, string> = new Map([
  [evt.TRANSLATION_NOT_ALLOWED, "a translation request, which the device table entry does not allow"],
  [evt.TRANSLATION_OF_RESERVED_RANGE, "a translation request for an address that is never translated"],
])

function invalidRequest(record: AmdInvalidRequestRecord): FaultExplanation {
  const types = record.translationRequest ? TRANSLATION_TYPES : REQUEST_TYPES
  const isAts = record.translationRequest || record.type === evt.TRANSLATED_NOT_ALLOWED
  return {
    happened: `Device ${requesterName(record.device)} sent ${types.get(record.type) ?? "a request of a reserved type"}, at ${hex(record.address)}.`,
    where: "device table entry",
    causes: isAts
      ? [NO_ATS, "the entry is not valid (V) or not translating (TV)", "a device that lies"]
      : ["firmware or a driver set the device up before the IOMMU was on", WRONG_ADDRESS, LAYOUT],
    section: "AMD 48882 §2.5.9",
  }
}

function invalidPageRequest({ device, address, request }: AmdInvalidPageRequestRecord): FaultExplanation {
  return {
    happened: `Device ${requesterName(device)} sent a page request that it must not, for ${hex(address)}, group ${request.group}.`,
    where: "device table entry, PPR",
    causes: ["the device's PRI is on, but its entry does not allow it (PPR)", "a malformed request"],
    section: "AMD 48882 §2.5.10",
  }
}

const OTHERS: Readonly<Record<string, Omit<FaultExplanation, "section">>> = {
  EVENT_COUNTER_ZERO: {
    happened: "A performance counter has run over; nothing was refused.",
    where: "performance counters",
    causes: ["software asked for it"],
  },
  GUEST_EVENT_FAULT: {
    happened: "An event of a guest could not be written to the guest's own log.",
    where: "a guest's virtual IOMMU",
    causes: ["the guest's log is not mapped, or full"],
  },
  VIOMMU_HARDWARE_ERROR: {
    happened: "The private memory of a virtual IOMMU could not be read or written.",
    where: "a guest's virtual IOMMU",
    causes: [NO_MEMORY, GARBAGE],
  },
  RMP_PAGE_FAULT: {
    happened: "The reverse map table does not give the page to whom the access belongs (SEV-SNP).",
    where: "reverse map table",
    causes: ["DMA to a page of a confidential guest, or to one that changed hands without an RMP update"],
  },
  RMP_HARDWARE_ERROR: {
    happened: "The reverse map table could not be read (SEV-SNP).",
    where: "reverse map table",
    causes: [NO_MEMORY],
  },
}

function other({ name, code }: AmdOtherRecord): FaultExplanation {
  const known = OTHERS[name]
  if (known !== undefined) return { ...known, section: "AMD 48882 §2.5" }
  return {
    happened:
      code === 0
        ? "The entry is empty: hardware has not written it yet, or software has cleared it."
        : `The book used here has no event ${code}.`,
    where: "not known",
    causes: ["a record half written (some hardware moves the tail first)", "a later revision"],
    section: "AMD 48882 §2.5",
  }
}

function accessText({
  access,
  translationRequest,
  device,
}: AmdPageFaultRecord | AmdIllegalEntryRecord): string {
  const what = translationRequest ? "A translation request" : access === "write" ? "A write" : "A read"
  return `${what} by device ${requesterName(device)}`
}

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`
}
