/** Event records in values. Arm IHI 0070 G.b §7.3. */
import type { DecodedRecord } from "@iommu/core"
import * as ev from "../spec/events.ts"

interface CommonRecord extends Omit<DecodedRecord, "address" | "access"> {
  /** StreamID. */
  readonly device: number
  readonly event: number
}

/** What was being read when it faulted: CLASS. */
export type SmmuV3FaultClass = "CD fetch" | "stage 1 table fetch" | "input address" | "reserved"

interface Transaction {
  readonly address: bigint
  readonly access: "read" | "write"
  readonly privileged: boolean
  readonly instruction: boolean
}

interface NoTransaction {
  readonly address: null
  readonly access: null
}

/** A walk ended without a translation. §7.3.13 to §7.3.16. */
export interface SmmuV3TranslationRecord extends CommonRecord, Transaction {
  readonly kind: "translation"
  readonly name: "F_TRANSLATION" | "F_ADDR_SIZE" | "F_ACCESS" | "F_PERMISSION"
  readonly stage: 1 | 2
  readonly class: SmmuV3FaultClass
  /** STAG of a transaction that waits for CMD_RESUME; null: it was terminated. */
  readonly stalled: number | null
  /** Page of the intermediate physical address, of faults of stage 2. */
  readonly ipa: bigint | null
  /** F_PERMISSION of stage 2 at a stage 1 table: how the table was accessed. */
  readonly tableAccess: "read" | "write" | null
}

/** A walk met an external abort. §7.3.12. */
export interface SmmuV3WalkAbortRecord extends CommonRecord, Transaction {
  readonly kind: "walk abort"
  readonly name: "F_WALK_EABT"
  readonly stage: 1 | 2
  readonly class: SmmuV3FaultClass
  readonly fetchAddress: bigint
  readonly granuleProtection: boolean
}

/** A structure could not be read. §7.3.4, §7.3.10, §7.3.20. */
export interface SmmuV3FetchRecord extends CommonRecord, NoTransaction {
  readonly kind: "fetch"
  readonly name: "F_STE_FETCH" | "F_CD_FETCH" | "F_VMS_FETCH"
  readonly fetchAddress: bigint
  readonly granuleProtection: boolean
}

/** A structure is wrong, missing, or does not allow the transaction. */
export interface SmmuV3ConfigurationRecord extends CommonRecord, NoTransaction {
  readonly kind: "configuration"
  readonly name: "C_BAD_STREAMID" | "C_BAD_STE" | "F_STREAM_DISABLED" | "C_BAD_SUBSTREAMID" | "C_BAD_CD"
}

/** A transaction that the SMMU, or its configuration, does not serve. §7.3.2, §7.3.6, §7.3.8. */
export interface SmmuV3RefusalRecord extends CommonRecord, Omit<Transaction, "access"> {
  readonly kind: "refusal"
  readonly name: "F_UUT" | "F_BAD_ATS_TREQ" | "F_TRANSL_FORBIDDEN"
  readonly access: "read" | "write" | "atomic"
}

/** Events of which only the stream is decoded, and numbers that the book does not have. */
export interface SmmuV3OtherRecord extends CommonRecord, NoTransaction {
  readonly kind: "other"
}

export type SmmuV3Record =
  | SmmuV3TranslationRecord
  | SmmuV3WalkAbortRecord
  | SmmuV3FetchRecord
  | SmmuV3ConfigurationRecord
  | SmmuV3RefusalRecord
  | SmmuV3OtherRecord

const NAMES: ReadonlyMap<number, ev.EventName> = new Map(
  Object.entries(ev.EVENTS).map(([name, number]) => [number, name as ev.EventName]),
)
const CLASSES = ["CD fetch", "stage 1 table fetch", "input address", "reserved"] as const

export function decodeRecord(words: readonly bigint[]): SmmuV3Record {
  const event = Number(ev.F_TRANSLATION.get(words, "EventNumber"))
  const stream = streamOf(words)
  const common = { ...stream, event, words }
  const name = NAMES.get(event)
  switch (name) {
    case "F_TRANSLATION":
    case "F_ADDR_SIZE":
    case "F_ACCESS":
    case "F_PERMISSION":
      return { kind: "translation", name, ...common, ...translation(words, name) }
    case "F_WALK_EABT": {
      const fields = ev.F_WALK_EABT.decode(words)
      const { stage, class: cls } = whereInWalk(fields)
      const granuleProtection = fields.GPCF === 1n
      const fetchAddress = fields.FetchAddr << 3n
      const rest = { stage, class: cls, fetchAddress, granuleProtection }
      return { kind: "walk abort", name, ...common, ...transaction(fields), ...rest }
    }
    case "F_STE_FETCH":
    case "F_CD_FETCH":
    case "F_VMS_FETCH": {
      // The same fields in all three.
      const { FetchAddr, GPCF } = ev.F_STE_FETCH.decode(words)
      const rest = {
        fetchAddress: FetchAddr << 3n,
        granuleProtection: GPCF === 1n,
        address: null,
        access: null,
      }
      return { kind: "fetch", name, ...common, ...rest }
    }
    case "C_BAD_SUBSTREAMID": {
      // The one event about a SubstreamID needs no flag that says there was one.
      const pasid = Number(ev.C_BAD_SUBSTREAMID.get(words, "SubstreamID"))
      return { kind: "configuration", name, ...common, pasid, address: null, access: null }
    }
    case "C_BAD_STREAMID":
    case "C_BAD_STE":
    case "C_BAD_CD":
      return { kind: "configuration", name, ...common, address: null, access: null }
    case "F_STREAM_DISABLED":
      return { kind: "configuration", name, ...common, pasid: null, address: null, access: null }
    case "F_UUT":
      return { kind: "refusal", name, ...common, ...transaction(ev.F_UUT.decode(words)) }
    case "F_TRANSL_FORBIDDEN": {
      const { RnW, InputAddr } = ev.F_TRANSL_FORBIDDEN.decode(words)
      const rest = { address: InputAddr, access: RnW === 1n ? "read" : "write", pasid: null } as const
      return { kind: "refusal", name, ...common, ...rest, privileged: false, instruction: false }
    }
    case "F_BAD_ATS_TREQ":
      return { kind: "refusal", name, ...common, ...translationRequest(words) }
    case "F_TLB_CONFLICT":
    case "F_CFG_CONFLICT":
    case "E_PAGE_REQUEST":
    case undefined: {
      const otherName = name ?? `event 0x${event.toString(16).padStart(2, "0")}`
      return { kind: "other", name: otherName, ...common, address: null, access: null }
    }
  }
}

function streamOf(words: readonly bigint[]): { readonly device: number; readonly pasid: number | null } {
  const { StreamID, SSV, SubstreamID } = ev.C_BAD_STE.decode(words)
  return { device: Number(StreamID), pasid: SSV === 1n ? Number(SubstreamID) : null }
}

type TransactionFields = Readonly<Record<"InputAddr" | "RnW" | "PnU" | "InD", bigint>>

function transaction({ InputAddr, RnW, PnU, InD }: TransactionFields): Transaction {
  return {
    address: InputAddr,
    access: RnW === 1n ? "read" : "write",
    privileged: PnU === 1n,
    instruction: InD === 1n,
  }
}

function whereInWalk({ S2, CLASS }: { readonly S2: bigint; readonly CLASS: bigint }): {
  readonly stage: 1 | 2
  readonly class: SmmuV3FaultClass
} {
  return { stage: S2 === 1n ? 2 : 1, class: CLASSES[Number(CLASS)] as SmmuV3FaultClass }
}

type TranslationParts = Omit<SmmuV3TranslationRecord, keyof CommonRecord | "kind">

function translation(words: readonly bigint[], name: SmmuV3TranslationRecord["name"]): TranslationParts {
  const fields = ev.F_PERMISSION.decode(words)
  const where = whereInWalk(fields)
  const hasTableAccess = name === "F_PERMISSION" && where.stage === 2 && where.class === "stage 1 table fetch"
  return {
    ...transaction(fields),
    ...where,
    stalled: fields.Stall === 1n ? Number(fields.STAG) : null,
    ipa: where.stage === 2 ? fields.IPA << 12n : null,
    tableAccess: hasTableAccess ? (fields.TTRnW === 1n ? "read" : "write") : null,
  }
}

/** An ATS translation request always asks to read. */
function translationRequest(
  words: readonly bigint[],
): Omit<Transaction, "access"> & { access: "read" | "atomic" } {
  const { InputAddr, W, X, PRIV } = ev.F_BAD_ATS_TREQ.decode(words)
  return {
    address: InputAddr << 12n,
    access: W === 1n ? "atomic" : "read",
    privileged: PRIV === 1n,
    instruction: X === 1n,
  }
}
