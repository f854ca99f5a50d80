/** The parts of a capture that are checked, schema 1. Fields that are not named here are ignored. */
import * as v from "valibot"

const VENDORS = ["vtd", "smmuv3", "amd"] as const
export type Vendor = (typeof VENDORS)[number]

/** This request succeeds. */
export interface TranslationRow {
  readonly device: number
  readonly iova: bigint
  readonly pa: bigint
  /** Bytes of the leaf; nested: of the smaller of both stages' leaves. */
  readonly size: bigint
  readonly read: boolean
  readonly write: boolean
  /** Nested: what stage 1 gives, and the leaves of both stages. */
  readonly ipa?: bigint | undefined
  readonly s1Size?: bigint | undefined
  readonly s2Size?: bigint | undefined
}

/** No translation at the dump. */
export interface UnmappedRow {
  readonly device: number
  readonly iova: bigint
}

/** A request that fails; with `qemu: "bypass"`, one that passes untranslated on a stream without a table. */
export interface FaultRow {
  readonly device: number
  readonly iova: bigint
  readonly access: "read" | "write"
  readonly reason?: string | undefined
  /** VT-d fault reason. */
  readonly code?: bigint | undefined
  /** Name of the SMMUv3 event. */
  readonly event?: string | null | undefined
  /** The record; null: QEMU wrote none. */
  readonly words?: readonly bigint[] | null | undefined
  readonly qemu?: string | null | undefined
}

/** With one 64-bit word of memory changed, one access gives exactly these event records. */
export interface VariantRow {
  readonly name?: string | undefined
  /** Physical address, and what to write there. */
  readonly patch: readonly [bigint, bigint]
  /** What is there before. */
  readonly was?: bigint | undefined
  readonly sid: number
  readonly iova: bigint
  readonly write: boolean
  readonly events: readonly (readonly bigint[])[]
}

export interface CaptureDocument {
  readonly schema: 1
  readonly name?: string | undefined
  readonly vendor: Vendor
  readonly registers: Readonly<Record<string, bigint>>
  /** Physical address of each page of `pages.bin`. */
  readonly pages: readonly bigint[]
  readonly translations: readonly TranslationRow[]
  readonly unmapped: readonly UnmappedRow[]
  readonly faults: readonly FaultRow[]
  readonly variants: readonly VariantRow[]
  /** Which devices are on which domain of `ops.txt`. */
  readonly traceDomains?: Readonly<Record<string, readonly number[]>> | undefined
}

/** 64 bits at most; a number where it is exact, else hex. */
const u64 = v.pipe(
  v.custom<string | number>(
    value =>
      typeof value === "string"
        ? /^0x[0-9a-f]{1,16}$/i.test(value)
        : Number.isSafeInteger(value) && Number(value) >= 0,
    'must be a hex string of at most 64 bits ("0x1f000") or a non-negative safe integer',
  ),
  v.transform(value => BigInt(value)),
)

const device = v.pipe(
  v.number("must be a number: a source id, StreamID or DeviceID"),
  v.integer("must be a whole number"),
  v.minValue(0, "must not be negative"),
  v.maxValue(0xffff_ffff, "must fit in 32 bits"),
)

const translationRow = v.object({
  device,
  iova: u64,
  pa: u64,
  size: u64,
  read: v.boolean(),
  write: v.boolean(),
  ipa: v.optional(u64),
  s1Size: v.optional(u64),
  s2Size: v.optional(u64),
})

const faultRow = v.object({
  device,
  iova: u64,
  access: v.picklist(["read", "write"]),
  reason: v.optional(v.string()),
  code: v.optional(u64),
  event: v.nullish(v.string()),
  words: v.nullish(v.array(u64)),
  qemu: v.nullish(v.string()),
})

const variantRow = v.object({
  name: v.optional(v.string()),
  patch: v.tuple([u64, u64]),
  was: v.optional(u64),
  sid: device,
  iova: u64,
  write: v.boolean(),
  events: v.array(v.array(u64)),
})

export const captureSchema: v.GenericSchema<unknown, CaptureDocument> = v.object({
  schema: v.literal(1, "must be 1, the only schema known here"),
  name: v.optional(v.string()),
  vendor: v.picklist(VENDORS, `must be one of ${VENDORS.join(", ")}`),
  registers: v.record(v.string(), u64),
  pages: v.array(u64),
  translations: v.optional(v.array(translationRow), []),
  unmapped: v.optional(v.array(v.object({ device, iova: u64 })), []),
  faults: v.optional(v.array(faultRow), []),
  variants: v.optional(v.array(variantRow), []),
  traceDomains: v.optional(v.record(v.string(), v.array(device))),
})
