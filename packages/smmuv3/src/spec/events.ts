/**
 * Event records. Arm IHI 0070 G.b §7.3. A record is four 64-bit words.
 */
import { type BitLayout, bitLayout, type FieldSpec, type FieldSpecs } from "@iommu/core"

export const EVENT_BYTES = 32

/** Event numbers. `F_`: a fault of an access or of a fetch; `C_`: a configuration error. */
export const EVENTS = {
  F_UUT: 0x01,
  C_BAD_STREAMID: 0x02,
  F_STE_FETCH: 0x03,
  C_BAD_STE: 0x04,
  F_BAD_ATS_TREQ: 0x05,
  F_STREAM_DISABLED: 0x06,
  F_TRANSL_FORBIDDEN: 0x07,
  C_BAD_SUBSTREAMID: 0x08,
  F_CD_FETCH: 0x09,
  C_BAD_CD: 0x0a,
  F_WALK_EABT: 0x0b,
  F_TRANSLATION: 0x10,
  F_ADDR_SIZE: 0x11,
  F_ACCESS: 0x12,
  F_PERMISSION: 0x13,
  F_TLB_CONFLICT: 0x20,
  F_CFG_CONFLICT: 0x21,
  E_PAGE_REQUEST: 0x24,
  F_VMS_FETCH: 0x25,
} as const

export type EventName = keyof typeof EVENTS

/** CLASS: the operation that faulted. */
export const CLASS_CD = 0
export const CLASS_TT = 1
export const CLASS_IN = 2

const EventNumber = [7, 0, "event number"] as const
const SSV = [11, 11, "SubstreamID is valid"] as const
const SubstreamID = [31, 12, "SubstreamID"] as const
const StreamID = [63, 32, "StreamID"] as const
const Reason = [79, 64, "IMPLEMENTATION DEFINED"] as const
const GPCF = [80, 80, "granule protection check fault"] as const
const PnU = [97, 97, "privileged"] as const
const InD = [98, 98, "instruction fetch"] as const
const RnW = [99, 99, "read"] as const
const S2 = [103, 103, "stage 2"] as const
const CLASS = [105, 104, "0 CD fetch, 1 stage 1 table fetch, 2 input address"] as const
const InputAddr = [191, 128, "address of the transaction"] as const
const FetchAddr = [247, 195, "physical address of the fetch, bits 55:3"] as const

const stream = { EventNumber, SSV, SubstreamID, StreamID } as const
const fieldsUut = { ...stream, Reason, PnU, InD, RnW, InputAddr } as const
const fieldsBadSubstreamId = { EventNumber, SubstreamID, StreamID } as const
/** The text of §7.3.6 says what R, W, X, PRIV and Span are; where they lie is also in Microsoft's SMMUv3 driver. */
const fieldsBadAtsTreq = {
  ...stream,
  Span: [67, 64, "translations asked for"],
  PRIV: [92, 92, "privileged access"],
  X: [93, 93, "execute access"],
  W: [94, 94, "write access: No Write is not set"],
  R: [95, 95, "read access: always"],
  InputAddr: [191, 140, "address of the request, bits 63:12"],
} as const
const fieldsStreamDisabled = { EventNumber, StreamID } as const
const fieldsTranslForbidden = { EventNumber, StreamID, RnW, InputAddr } as const
const fieldsFetch = { ...stream, Reason, GPCF, FetchAddr } as const
const fieldsWalkEabt = { ...stream, Reason, GPCF, PnU, InD, RnW, S2, CLASS, InputAddr, FetchAddr } as const
const fieldsTranslation = {
  ...stream,
  STAG: [79, 64, "which stalled transaction"],
  Stall: [95, 95, "the transaction is stalled"],
  PnU,
  InD,
  RnW,
  NSIPA: [102, 102, "the IPA is Non-secure, for Secure streams"],
  S2,
  CLASS,
  InputAddr,
  IPA: [247, 204, "intermediate physical address, bits 55:12, of a stage 2 fault"],
} as const
const fieldsPermission = {
  ...fieldsTranslation,
  TTRnW: [108, 108, "the stage 1 table access was a read"],
} as const

/** Layout of a record with the given fields. */
export type EventLayout<Fields extends string> = BitLayout<Readonly<Record<Fields, FieldSpec>>>

const record = <const F extends FieldSpecs>(name: string, section: string, fields: F): BitLayout<F> =>
  bitLayout(name, `IHI 0070 G.b §7.3.${section}`, 256, fields)

export const F_UUT: EventLayout<
  "EventNumber" | "SSV" | "SubstreamID" | "StreamID" | "Reason" | "PnU" | "InD" | "RnW" | "InputAddr"
> = record("F_UUT", "2", fieldsUut)
export const C_BAD_STREAMID: EventLayout<"EventNumber" | "SSV" | "SubstreamID" | "StreamID"> = record(
  "C_BAD_STREAMID",
  "3",
  stream,
)
export const F_STE_FETCH: EventLayout<
  "EventNumber" | "SSV" | "SubstreamID" | "StreamID" | "Reason" | "GPCF" | "FetchAddr"
> = record("F_STE_FETCH", "4", fieldsFetch)
export const C_BAD_STE: EventLayout<"EventNumber" | "SSV" | "SubstreamID" | "StreamID"> = record(
  "C_BAD_STE",
  "5",
  stream,
)
export const F_BAD_ATS_TREQ: EventLayout<
  "EventNumber" | "SSV" | "SubstreamID" | "StreamID" | "Span" | "PRIV" | "X" | "W" | "R" | "InputAddr"
> = record("F_BAD_ATS_TREQ", "6", fieldsBadAtsTreq)
export const F_STREAM_DISABLED: EventLayout<"EventNumber" | "StreamID"> = record(
  "F_STREAM_DISABLED",
  "7",
  fieldsStreamDisabled,
)
export const F_TRANSL_FORBIDDEN: EventLayout<"EventNumber" | "StreamID" | "RnW" | "InputAddr"> = record(
  "F_TRANSL_FORBIDDEN",
  "8",
  fieldsTranslForbidden,
)
export const C_BAD_SUBSTREAMID: EventLayout<"EventNumber" | "SubstreamID" | "StreamID"> = record(
  "C_BAD_SUBSTREAMID",
  "9",
  fieldsBadSubstreamId,
)
export const F_CD_FETCH: EventLayout<
  "EventNumber" | "SSV" | "SubstreamID" | "StreamID" | "Reason" | "GPCF" | "FetchAddr"
> = record("F_CD_FETCH", "10", fieldsFetch)
export const C_BAD_CD: EventLayout<"EventNumber" | "SSV" | "SubstreamID" | "StreamID"> = record(
  "C_BAD_CD",
  "11",
  stream,
)
export const F_WALK_EABT: EventLayout<
  | "EventNumber"
  | "SSV"
  | "SubstreamID"
  | "StreamID"
  | "Reason"
  | "GPCF"
  | "PnU"
  | "InD"
  | "RnW"
  | "S2"
  | "CLASS"
  | "InputAddr"
  | "FetchAddr"
> = record("F_WALK_EABT", "12", fieldsWalkEabt)
export const F_TRANSLATION: EventLayout<
  | "EventNumber"
  | "SSV"
  | "SubstreamID"
  | "StreamID"
  | "STAG"
  | "Stall"
  | "PnU"
  | "InD"
  | "RnW"
  | "NSIPA"
  | "S2"
  | "CLASS"
  | "InputAddr"
  | "IPA"
> = record("F_TRANSLATION", "13", fieldsTranslation)
export const F_ADDR_SIZE: EventLayout<
  | "EventNumber"
  | "SSV"
  | "SubstreamID"
  | "StreamID"
  | "STAG"
  | "Stall"
  | "PnU"
  | "InD"
  | "RnW"
  | "NSIPA"
  | "S2"
  | "CLASS"
  | "InputAddr"
  | "IPA"
> = record("F_ADDR_SIZE", "14", fieldsTranslation)
export const F_ACCESS: EventLayout<
  | "EventNumber"
  | "SSV"
  | "SubstreamID"
  | "StreamID"
  | "STAG"
  | "Stall"
  | "PnU"
  | "InD"
  | "RnW"
  | "NSIPA"
  | "S2"
  | "CLASS"
  | "InputAddr"
  | "IPA"
> = record("F_ACCESS", "15", fieldsTranslation)
export const F_PERMISSION: EventLayout<
  | "EventNumber"
  | "SSV"
  | "SubstreamID"
  | "StreamID"
  | "STAG"
  | "Stall"
  | "PnU"
  | "InD"
  | "RnW"
  | "NSIPA"
  | "S2"
  | "CLASS"
  | "InputAddr"
  | "IPA"
  | "TTRnW"
> = record("F_PERMISSION", "16", fieldsPermission)

export const PPR_BYTES = 16
const fieldsPpr = {
  StreamID: [31, 0, "StreamID"],
  SubstreamID: [51, 32, "SubstreamID"],
  Priv: [58, 58, "privileged access"],
  X: [59, 59, "execute access"],
  R: [60, 60, "read access"],
  W: [61, 61, "write access"],
  Last: [62, 62, "last of its group; with neither R nor W and a SubstreamID, a Stop PASID marker"],
  SSV: [63, 63, "SubstreamID is valid"],
  PRGIndex: [72, 64, "page request group"],
  Address: [127, 76, "page address, bits 63:12"],
} as const
/** An entry of the PRI queue. */
export const PPR: BitLayout<typeof fieldsPpr> = bitLayout(
  "PRI queue entry",
  "IHI 0070 G.b §8",
  128,
  fieldsPpr,
)
