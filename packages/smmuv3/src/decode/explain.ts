/** Event records in words. Arm IHI 0070 G.b §7.3; causes from what people report. */
import type { FaultExplanation } from "@iommu/core"
import type {
  SmmuV3ConfigurationRecord,
  SmmuV3FetchRecord,
  SmmuV3OtherRecord,
  SmmuV3Record,
  SmmuV3RefusalRecord,
  SmmuV3TranslationRecord,
  SmmuV3WalkAbortRecord,
} from "./record.ts"

const NEVER_MAPPED = "the driver never mapped this address, or unmapped it while the device still used it"
const WRONG_ADDRESS = "the device was given a physical or CPU address instead of its DMA address"
const OVERRUN = "the device went past the end of its buffer: look whether the page before is mapped"
const NOT_IN_STAGE_2 =
  "the guest's memory at this IPA is not mapped: ballooned, hot-unplugged, or no RAM at all"
const GUEST_POINTS_WRONG = "the guest's CD or table holds an address outside its memory"
const GARBAGE = "the page of the structure was freed, overwritten, or never cleared"
const NO_MEMORY = "the pointer to it leads to no memory: not set up yet, cut to too few bits, or overwritten"
const LAYOUT = "whoever wrote it has a field in the wrong place, or uses what this SMMU lacks (IDR0 to IDR5)"
const NOT_INVALIDATED = "it was changed without CMD_CFGI and CMD_SYNC, and the SMMU still used the old one"
const WRONG_ID = "firmware's table (IORT, iommu-map) gives the device another StreamID than it sends"
const PASID_GONE = "the address space was detached while the device still worked for it"

export function explain(record: SmmuV3Record): FaultExplanation {
  switch (record.kind) {
    case "translation":
      return translation(record)
    case "walk abort":
      return walkAbort(record)
    case "fetch":
      return fetch(record)
    case "configuration":
      return configuration(record)
    case "refusal":
      return refusal(record)
    case "other":
      return other(record)
  }
}

const TRANSLATION_FAULTS: {
  readonly [N in SmmuV3TranslationRecord["name"]]: {
    readonly what: string
    readonly section: string
    readonly causes: readonly string[]
  }
} = {
  F_TRANSLATION: {
    what: "no valid translation",
    section: "§7.3.13",
    causes: [NEVER_MAPPED, WRONG_ADDRESS, OVERRUN, "the address has more bits than TxSZ or S2T0SZ lets in"],
  },
  F_ADDR_SIZE: {
    what: "an address beyond the output size",
    section: "§7.3.14",
    causes: [GARBAGE, "IPS, S2PS or OAS is smaller than the addresses in the table"],
  },
  F_ACCESS: {
    what: "the Access flag is clear",
    section: "§7.3.15",
    causes: ["the table is a process's, and software is to set AF (no HTTU, or HA clear)", GARBAGE],
  },
  F_PERMISSION: {
    what: "the access is not permitted",
    section: "§7.3.16",
    causes: [
      "a buffer was mapped for the other direction, read-only for a device that writes",
      "an unprivileged access to a privileged page, or execution of one that is XN",
      "dirty tracking without HTTU: the page is read-only until software sees the write",
    ],
  },
}

function translation(record: SmmuV3TranslationRecord): FaultExplanation {
  const { what, section, causes } = TRANSLATION_FAULTS[record.name]
  const held =
    record.stalled === null ? "was terminated" : `waits for CMD_RESUME (STAG ${hex(record.stalled)})`
  return {
    happened: `${accessText(record)} ${held}: ${what} in stage ${record.stage}${forWhat(record)}.`,
    where:
      record.stage === 1 ? "stage 1 tables (TTB0 or TTB1 of the CD)" : "stage 2 tables (S2TTB of the STE)",
    causes: record.stage === 1 ? causes : stage2Causes(record, causes),
    section: `IHI 0070 G.b ${section}`,
  }
}

function stage2Causes(record: SmmuV3TranslationRecord, causes: readonly string[]): readonly string[] {
  if (record.name !== "F_TRANSLATION") return causes
  const first = record.class === "input address" ? NOT_IN_STAGE_2 : GUEST_POINTS_WRONG
  return [first, ...causes]
}

function forWhat({ stage, class: cls, ipa }: SmmuV3TranslationRecord): string {
  const what =
    cls === "input address"
      ? ""
      : `, at the ${cls === "CD fetch" ? "fetch of the CD" : "fetch of a stage 1 table"}`
  return stage === 1 || ipa === null ? what : `${what}, IPA ${hex(ipa)}`
}

function walkAbort(record: SmmuV3WalkAbortRecord): FaultExplanation {
  const why = record.granuleProtection ? "the granule protection check refused" : "memory did not answer"
  return {
    happened: `${accessText(record)} was terminated: ${why} when stage ${record.stage} was walked, at ${hex(record.fetchAddress)}.`,
    where: `stage ${record.stage} tables`,
    causes: [GARBAGE, NO_MEMORY, "the table lies in memory of another world (Secure, Realm)"],
    section: "IHI 0070 G.b §7.3.12",
  }
}

function fetch(record: SmmuV3FetchRecord): FaultExplanation {
  const parts = {
    F_STE_FETCH: { what: "STE", where: "Stream table", section: "§7.3.4" },
    F_CD_FETCH: { what: "CD", where: "Context descriptor table", section: "§7.3.10" },
    F_VMS_FETCH: { what: "VMS", where: "VM structure", section: "§7.3.20" },
  }
  const { what, where, section } = parts[record.name]
  const why = record.granuleProtection ? "the granule protection check refused" : "memory did not answer"
  return {
    happened: `The ${what} of StreamID ${hex(record.device)} could not be read at ${hex(record.fetchAddress)}: ${why}.`,
    where,
    causes: [NO_MEMORY, GARBAGE, NOT_INVALIDATED],
    section: `IHI 0070 G.b ${section}`,
  }
}

function configuration(record: SmmuV3ConfigurationRecord): FaultExplanation {
  const stream = `StreamID ${hex(record.device)}`
  switch (record.name) {
    case "C_BAD_STREAMID":
      return {
        happened: `${stream} is beyond the Stream table, or its level 1 descriptor is not valid.`,
        where: "Stream table",
        causes: [
          WRONG_ID,
          "no driver has attached the device yet, and its level 2 table is not made",
          LAYOUT,
        ],
        section: "IHI 0070 G.b §7.3.3",
      }
    case "C_BAD_STE":
      return {
        happened: `The STE of ${stream} is not valid, or its fields contradict each other or the SMMU.`,
        where: "Stream table entry",
        causes: [LAYOUT, "no driver has attached the device (V is clear)", WRONG_ID, NOT_INVALIDATED],
        section: "IHI 0070 G.b §7.3.5",
      }
    case "F_STREAM_DISABLED":
      return {
        happened: `A transaction of ${stream} without SubstreamID was terminated: STE.S1DSS does not let it in.`,
        where: "Stream table entry, S1DSS",
        causes: ["the device works with PASIDs alone, and sent something without", WRONG_ID],
        section: "IHI 0070 G.b §7.3.7",
      }
    case "C_BAD_SUBSTREAMID":
      return {
        happened: `SubstreamID ${hex(record.pasid ?? 0)} of ${stream} leads to no CD.`,
        where: "Context descriptor table",
        causes: ["PASIDs are not enabled for the stream, or the table (S1CDMax) is smaller", PASID_GONE],
        section: "IHI 0070 G.b §7.3.9",
      }
    case "C_BAD_CD":
      return {
        happened: `The CD of ${stream} is not valid, or its fields contradict each other or the SMMU.`,
        where: "Context descriptor",
        causes: [PASID_GONE, LAYOUT, NOT_INVALIDATED, GARBAGE],
        section: "IHI 0070 G.b §7.3.11",
      }
  }
}

function refusal(record: SmmuV3RefusalRecord): FaultExplanation {
  const request = accessText(record)
  switch (record.name) {
    case "F_UUT":
      return {
        happened: `${request} has attributes that this SMMU does not support.`,
        where: "the transaction itself",
        causes: ["how device and SMMU are wired together: the SoC's own manual says"],
        section: "IHI 0070 G.b §7.3.2",
      }
    case "F_BAD_ATS_TREQ":
      return {
        happened: `${request} is an ATS translation request that the configuration does not serve.`,
        where: "Stream table entry, EATS",
        causes: ["the device uses ATS, and its STE does not allow it (EATS)", "ATS stayed on across a reset"],
        section: "IHI 0070 G.b §7.3.6",
      }
    case "F_TRANSL_FORBIDDEN":
      return {
        happened: `${request} claims to be translated already, which the stream must not.`,
        where: "Stream table entry, EATS, and CR0.ATSCHK",
        causes: ["the device's ATS is on, but its STE does not allow it", WRONG_ID, "a device that lies"],
        section: "IHI 0070 G.b §7.3.8",
      }
  }
}

function other({ name, device }: SmmuV3OtherRecord): FaultExplanation {
  const stream = `StreamID ${hex(device)}`
  switch (name) {
    case "F_TLB_CONFLICT":
      return {
        happened: `Several cached translations match one address of ${stream}.`,
        where: "TLB",
        causes: ["a page was split or joined without an invalidation in between"],
        section: "IHI 0070 G.b §7.3.17",
      }
    case "F_CFG_CONFLICT":
      return {
        happened: `Several cached configurations match ${stream}.`,
        where: "configuration cache",
        causes: ["an STE or CD was changed without CMD_CFGI; a range (STE.CONT) was split"],
        section: "IHI 0070 G.b §7.3.18",
      }
    case "E_PAGE_REQUEST":
      return {
        happened: `${stream} hints that pages may be needed soon; nothing was refused.`,
        where: "the device itself",
        causes: ["speculative access, for software to act on or not"],
        section: "IHI 0070 G.b §7.3.19",
      }
    default:
      return {
        happened: `${stream}: the book used here does not have ${name}.`,
        where: "not known",
        causes: [
          "numbers from 0xe0 on are the implementation's own",
          "a later revision",
          "a record half written",
        ],
        section: "IHI 0070 G.b §7.3",
      }
  }
}

function accessText(record: SmmuV3TranslationRecord | SmmuV3WalkAbortRecord | SmmuV3RefusalRecord): string {
  const verbs = {
    read: record.instruction ? "An instruction fetch" : "A read",
    write: "A write",
    atomic: "A request to read and write",
  }
  const space = record.pasid === null ? "" : `, SubstreamID ${hex(record.pasid)}`
  const rights = record.privileged ? ", privileged" : ""
  return `${verbs[record.access]} at ${hex(record.address)} by StreamID ${hex(record.device)}${space}${rights}`
}

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`
}
