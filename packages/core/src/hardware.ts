/**
 * What every hardware model offers to the machine around it: registers to software, translation to devices.
 * A model never throws for what a guest wrote; it answers with the record that the hardware would write.
 */
import type { Gpa, Hpa, Iova } from "./address.ts"
import type { Mmio } from "./registers.ts"
import { fromHalves, hi32, lo32, toU64, type U64Like } from "./u64.ts"

/** Access bits of a transaction, combined with `|`. */
export const ACCESS_READ = 1
export const ACCESS_WRITE = 2
/** An instruction fetch; comes with {@link ACCESS_READ}. */
export const ACCESS_EXEC = 4
/** A privileged (supervisor) access. */
export const ACCESS_PRIV = 8

/** "No PASID" in the number API. */
export const NO_PASID = -1

/** Answers of {@link IommuModel.translate}. */
export const TRANSLATED = 0
export const REFUSED = 1
/** The hardware holds the transaction until software decides; only a {@link HoldingModel} does so. */
export const HELD = 2

/** A transaction that the hardware refused, with the record it wrote. */
export interface Fault {
  /** The book's name: `F_TRANSLATION`, `IO_PAGE_FAULT`, for VT-d the name of the reason code (`SFS.5`…). */
  readonly reason: string
  /** The book's number: event number, VT-d fault reason, AMD event code. */
  readonly code: number
  /** Source id, StreamID or DeviceID. */
  readonly device: number
  readonly pasid: number | null
  readonly address: Iova
  /** Access bits of the transaction. */
  readonly access: number
  /** The stage that refused; 0 when a configuration structure did, before any stage. */
  readonly stage: 0 | 1 | 2
  /** The record's 64-bit words as written to the log, or null when the book says that nothing is recorded. */
  readonly record: readonly bigint[] | null
  /** One sentence for people. */
  readonly detail: string
  /** The device sees success all the same: reads give zero, writes are dropped. */
  readonly completes?: boolean
  /** After {@link HELD}: number of the transaction, absent when the hardware has no room and the device must send it again. */
  readonly held?: number
}

/**
 * Result of a translation in halves, reused by the model from call to call. Numeric fields are valid after
 * status 0, {@link fault} after any other.
 */
export interface TranslationResult {
  paHi: number
  paLo: number
  /** log2 of the bytes around the address that translate alike: the smaller leaf of both stages. */
  sizeLg2: number
  /** Access bits that this translation would allow. */
  allowed: number
  /** What stage 1 gave; equal to the input without stage 1. */
  ipaHi: number
  ipaLo: number
  /** log2 of the stage's leaf; 0 when the stage was off. */
  stage1SizeLg2: number
  stage2SizeLg2: number
  /** Memory type and shareability in the vendor's encoding, where the model resolves them. */
  readonly attributes?: number
  fault: Fault | null
}

/** One table read of a walk, for people. */
export interface WalkStep {
  /** 0: configuration structure; 1, 2: the stage whose table was read. */
  readonly stage: 0 | 1 | 2
  /** What was read, in the book's words: "root entry", "SS-PML4E", "STE", "level 2 descriptor". */
  readonly what: string
  /** Physical address of the table, and of the entry within it. */
  readonly table: Hpa
  readonly index: number
  readonly entry: readonly bigint[]
  /** What the entry says: "table at 0x…", "2 MiB page at 0x…, read, write", "not present". */
  readonly meaning: string
}

/** What an invalidation command asked for, as decoded from the queue or a register. */
export interface Invalidation {
  /** The book's name of the command: "CMD_TLBI_NH_VA", "P_IOTLB_INV", "INVALIDATE_IOMMU_PAGES". */
  readonly command: string
  /** Decoded fields, by the book's names. */
  readonly fields: Readonly<Record<string, bigint>>
  /** The queue entry as read, in 64-bit words; empty when a register asked. */
  readonly words: readonly bigint[]
}

export interface IommuModel {
  readonly vendor: string
  readonly mmio: Mmio
  /** Filled by {@link translate}. */
  readonly result: TranslationResult
  /**
   * Translates one access.
   * @param device source id, StreamID or DeviceID
   * @param pasid PASID or SubstreamID, {@link NO_PASID} for none
   * @param access ACCESS_* bits
   * @returns {@link TRANSLATED}, else {@link REFUSED} or {@link HELD} with {@link TranslationResult.fault} set
   */
  translate(device: number, pasid: number, iovaHi: number, iovaLo: number, access: number): number
  /** Called for each table read while set. */
  trace: ((step: WalkStep) => void) | null
  /** Called for each invalidation command executed, while set. */
  onInvalidate: ((invalidation: Invalidation) => void) | null
  /** Called for each interrupt message that the model would send, while set. */
  onInterrupt: ((address: bigint, data: number) => void) | null
  /**
   * Puts registers into the state of a stopped machine, by the book's names and with no side effects of a write:
   * a dump holds status registers, not the writes that led there. Names the model does not have are returned.
   */
  restoreRegisters(values: Readonly<Record<string, bigint>>): string[]
}

/** The end of a transaction that was held. */
export interface Release {
  /** As in {@link Fault.held}. */
  readonly held: number
  /** As if {@link IommuModel.translate} had returned it; the model's result belongs to it. */
  readonly status: typeof TRANSLATED | typeof REFUSED
}

/** What a model whose hardware can hold faulting transactions offers beside translation: Arm's stall model. */
export interface HoldingModel {
  /** Called for each held transaction that ends, while set. */
  onRelease: ((release: Release) => void) | null
}

/** What a model offers whose hardware can wake processors that wait for an event: Arm's SEV and WFE. */
export interface WakingModel {
  /** Called for each event that the model would send, while set. */
  onEvent: (() => void) | null
}

/** A transaction at the door. */
export interface DmaRequest {
  readonly device: number
  readonly pasid?: number
  readonly iova: U64Like
  readonly access: number
}

export type DmaOutcome =
  | {
      readonly ok: true
      readonly pa: Hpa
      /** Bytes around the address that translate alike. */
      readonly size: bigint
      /** Access bits that the translation allows. */
      readonly allowed: number
      readonly ipa: Gpa
      readonly stage1Size: bigint
      readonly stage2Size: bigint
    }
  | { readonly ok: false; readonly fault: Fault }

/** The comfortable form of {@link IommuModel.translate}. */
export function translateRequest(model: IommuModel, request: DmaRequest): DmaOutcome {
  const iova = toU64(request.iova, "iova")
  const pasid = request.pasid ?? NO_PASID
  const status = model.translate(request.device, pasid, hi32(iova), lo32(iova), request.access)
  const r = model.result
  if (status !== 0) {
    if (r.fault === null) throw new Error("bug: a model refused a transaction without a fault")
    return { ok: false, fault: r.fault }
  }
  return {
    ok: true,
    pa: fromHalves(r.paHi, r.paLo),
    size: 1n << BigInt(r.sizeLg2),
    allowed: r.allowed,
    ipa: fromHalves(r.ipaHi, r.ipaLo),
    stage1Size: r.stage1SizeLg2 === 0 ? 0n : 1n << BigInt(r.stage1SizeLg2),
    stage2Size: r.stage2SizeLg2 === 0 ? 0n : 1n << BigInt(r.stage2SizeLg2),
  }
}
