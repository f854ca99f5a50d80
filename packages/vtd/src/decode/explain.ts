/** Fault records in words. Intel VT-d 5.10 (D51397-018) §7.1.3; causes from what people report. */
import { type FaultExplanation, requesterName } from "@iommu/core"
import * as ev from "../spec/events.ts"
import type { VtdDmaRecord, VtdRecord } from "./record.ts"

interface Place {
  readonly where: string
  /** Of the structure. */
  readonly section: string
  readonly causes: readonly string[]
}

const NEVER_MAPPED = "the driver never mapped this address, or unmapped it while the device still used it"
const WRONG_ADDRESS = "the device was given a physical or CPU address instead of its DMA address"
const FIRMWARE_REGION =
  "the firmware set the device up to use memory that no RMRR of the DMAR table names (graphics and USB at boot)"
const WRONG_DIRECTION = "a buffer was mapped for the other direction, read-only for a device that writes"
const OVERRUN = "the device went past the end of its buffer: look whether the page before is mapped"
const STALE = "the entry was changed or removed, and what was cached of it is in use or no longer in use"
const LAYOUT = "whoever wrote the entry has a field in the wrong place, or uses what this hardware lacks"
const GARBAGE = "the table's page was freed, overwritten, or never cleared"
const NO_MEMORY = "the pointer leads to no memory: not set up yet, cut to too few bits, or overwritten"
const NO_CONTEXT =
  "no driver has attached the device: it is not bound, was reset or unplugged, or firmware left it on"
const ALIAS = "the request carries another requester id than the device's (a bridge's, or a function's alias)"
const PASID_OFF = "PASIDs are not enabled for the device, or its entry was set up before they were"
const PASID_GONE = "the address space was detached while the device still worked for it (missing drain)"

const ROOT: Place = {
  where: "root table, legacy mode",
  section: "§9.1",
  causes: [ALIAS, "the table is another one than RTADDR_REG says, or in the other mode", FIRMWARE_REGION],
}
const CONTEXT: Place = {
  where: "context table, legacy mode",
  section: "§9.3",
  causes: [NO_CONTEXT, ALIAS, "the context cache was not invalidated after the entry was written"],
}
const ROOT_ADDRESS: Place = {
  where: "RTADDR_REG",
  section: "§11.4.5",
  causes: ["the mode in TTM and the request do not go together: PASIDs and page requests need scalable mode"],
}
const SCALABLE_ROOT: Place = {
  where: "root table, scalable mode",
  section: "§9.2",
  causes: [ALIAS, GARBAGE, LAYOUT],
}
const SCALABLE_CONTEXT: Place = {
  where: "context table, scalable mode",
  section: "§9.4",
  causes: [NO_CONTEXT, PASID_OFF, ALIAS],
}
const PASID_DIRECTORY: Place = { where: "PASID directory", section: "§9.5", causes: [PASID_GONE, GARBAGE] }
const PASID_TABLE: Place = { where: "PASID table", section: "§9.6", causes: [PASID_GONE, LAYOUT, STALE] }
const FIRST_STAGE: Place = {
  where: "first-stage tables",
  section: "§9.7",
  causes: [NEVER_MAPPED, WRONG_ADDRESS, OVERRUN, PASID_GONE],
}
const SECOND_STAGE: Place = {
  where: "second-stage tables",
  section: "§9.8",
  causes: [NEVER_MAPPED, WRONG_ADDRESS, FIRMWARE_REGION, OVERRUN],
}
const PERMISSION: Place = {
  where: "permissions of the translation",
  section: "§3.6, §3.7",
  causes: [WRONG_DIRECTION, NEVER_MAPPED],
}
const RANGE: Place = {
  where: "width of addresses",
  section: "§3.6, §3.7",
  causes: [WRONG_ADDRESS, "the device drops or extends upper address bits, or its DMA mask is too wide"],
}
const INTERRUPT_RANGE: Place = {
  where: "interrupt address range",
  section: "§3.15",
  causes: ["DMA, or a mapping, to FEEx_xxxxh, where only interrupt messages may go"],
}
const INTERRUPT: Place = {
  where: "interrupt remapping table",
  section: "§5.1.4",
  causes: [
    "an interrupt was freed or moved while the device could still send it",
    "the interrupt entry cache was not invalidated after the table changed",
    "the message is older than remapping: set up by firmware, or by a guest for itself",
  ],
}
const UNKNOWN: Place = { where: "not known", section: "§7.1.3", causes: ["a reason of a later revision"] }

/** First and last reason of a place. The single ones come first. */
const PLACES: readonly (readonly [first: number, last: number, place: Place])[] = [
  [ev.LGN_1, ev.LGN_1, RANGE],
  [
    ev.LGN_2,
    ev.LGN_3,
    { ...SECOND_STAGE, causes: [NEVER_MAPPED, WRONG_DIRECTION, WRONG_ADDRESS, FIRMWARE_REGION] },
  ],
  [ev.LGN_4, ev.LGN_4, INTERRUPT_RANGE],
  [ev.INTERRUPT_29, ev.INTERRUPT_29, INTERRUPT_RANGE],
  [ev.LRT_2, ev.LRT_2, ROOT],
  [ev.LRT_1, ev.LRT_1, { ...ROOT, causes: [NO_MEMORY] }],
  [ev.LRT_3, ev.LRT_3, { ...ROOT, causes: [GARBAGE, LAYOUT] }],
  [ev.LCT_2, ev.LCT_2, CONTEXT],
  [
    ev.LCT_4,
    ev.LCT_4,
    { ...CONTEXT, causes: [LAYOUT, "more levels than CAP_REG.SAGAW has, or a device without ATS"] },
  ],
  [ev.LCT_1, ev.LCT_1, { ...CONTEXT, causes: [NO_MEMORY] }],
  [ev.LCT_3, ev.LCT_3, { ...CONTEXT, causes: [GARBAGE, LAYOUT] }],
  [ev.LCT_5, ev.LCT_5, { ...CONTEXT, causes: ["the device uses ATS, but its entry does not allow it"] }],
  [ev.LSS_1, ev.LSS_1, { ...SECOND_STAGE, causes: [NO_MEMORY, GARBAGE] }],
  [ev.LSS_2, ev.LSS_2, { ...SECOND_STAGE, causes: [GARBAGE, LAYOUT] }],
  [ev.RTA_1, ev.RTA_5, ROOT_ADDRESS],
  [ev.SRT_1, ev.SRT_3, SCALABLE_ROOT],
  [ev.SCT_1, ev.SCT_9, SCALABLE_CONTEXT],
  [ev.SPD_1, ev.SPD_3, PASID_DIRECTORY],
  [ev.SPT_1, ev.SPT_6, PASID_TABLE],
  [ev.SFS_1, ev.SFS_8, FIRST_STAGE],
  [ev.SFS_9, ev.SFS_10, { ...FIRST_STAGE, causes: [LAYOUT] }],
  [ev.SSS_1, ev.SSS_4, SECOND_STAGE],
  [ev.SSS_5, ev.SSS_6, { ...SECOND_STAGE, causes: [LAYOUT] }],
  [ev.SGN_1, ev.SGN_1, RANGE],
  [ev.SGN_2, ev.SGN_3, PERMISSION],
  [ev.SGN_4, ev.SGN_5, RANGE],
  [ev.SGN_6, ev.SGN_7, PERMISSION],
  [ev.SGN_8, ev.SGN_8, INTERRUPT_RANGE],
  [ev.SGN_10, ev.SGN_10, { ...SCALABLE_CONTEXT, causes: ["the PASID is wider than this hardware takes"] }],
]

export function explain(record: VtdRecord): FaultExplanation {
  if (record.kind === "interrupt") {
    const meaning = ev.INTERRUPT_REASONS.get(record.reason)
    return {
      happened: `Interrupt ${record.index} of device ${requesterName(record.device)} was blocked: ${meaning}.`,
      where: INTERRUPT.where,
      causes: INTERRUPT.causes,
      section: `VT-d 5.10 §5.1.4.1, Table 15; ${INTERRUPT.section}`,
    }
  }
  const { where, causes, section } = placeOf(record.reason)
  const meaning =
    ev.FAULT_REASONS.get(record.reason)?.meaning ?? "the book used here does not have this reason"
  return {
    happened: `${requestText(record)} was refused: ${meaning}.`,
    where,
    causes,
    section: `VT-d 5.10 §7.1.3, Table 30; ${section}`,
  }
}

function placeOf(reason: number): Place {
  return PLACES.find(([first, last]) => reason >= first && reason <= last)?.[2] ?? UNKNOWN
}

function requestText(record: VtdDmaRecord): string {
  const { access, addressType, device, pasid, privileged, execute, address } = record
  const what = {
    read: execute ? "An execute request" : "A read",
    write: "A write",
    atomic: "An atomic operation",
    "page request": "A page request",
  }[access]
  const kind = {
    untranslated: "",
    "translation request": " by ATS (translation request)",
    translated: " by ATS (translated)",
    reserved: "",
  }[addressType]
  const space = pasid === null ? "" : `, PASID 0x${pasid.toString(16)}${privileged ? ", privileged" : ""}`
  return `${what}${kind} by device ${requesterName(device)} at page 0x${address.toString(16)}${space}`
}
