/**
 * PCIe ATS, PASID and PRI between a device and its IOMMU. PCI Express Base 6.0 chapter 10.
 *
 * A device with an address translation cache (ATC) asks for translations, keeps them, sends requests that are
 * translated already, and asks for pages. The IOMMU answers, and invalidates.
 */
import type { Fault } from "./hardware.ts"

/** Answers to a translation request, as numbers for the hot path. */
export const ATS_SUCCESS = 0
/** Unsupported Request: ATS is off for the device, or the request is refused for good. */
export const ATS_UNSUPPORTED_REQUEST = 1
/** Completer Abort: an error of tables or of the IOMMU. */
export const ATS_COMPLETER_ABORT = 2

/** A successful completion; reused by the model from call to call. Without R and W: no translation now, ask for the page. */
export interface AtsCompletion {
  addressHi: number
  addressLo: number
  /** log2 of the bytes that translate alike. */
  sizeLg2: number
  /** ACCESS_READ, ACCESS_WRITE, ACCESS_EXEC and ACCESS_PRIV that the ATC may use. */
  allowed: number
  /** The translation holds for all PASIDs of the device. */
  global: boolean
  /** U: only untranslated accesses may be made, and nothing cached. */
  untranslatedOnly: boolean
  /** N: translated requests must not have No Snoop set. */
  nonSnooped?: boolean
}

/** Response codes of a page request group. PCIe 10.4.2.1. */
export const PRI_SUCCESS = 0
export const PRI_INVALID_REQUEST = 1
export const PRI_RESPONSE_FAILURE = 15

/** A page request message. PCIe 10.4.1. */
export interface PageRequest {
  readonly device: number
  readonly pasid: number | null
  readonly address: bigint
  readonly read: boolean
  readonly write: boolean
  readonly execute: boolean
  readonly privileged: boolean
  /** Last of its group: the group is answered. */
  readonly last: boolean
  /** Page Request Group Index, 9 bits. */
  readonly group: number
}

/** The device's side, called by the model while it executes commands. */
export interface AtsDevice {
  /**
   * Drops cached translations.
   * @param pasid null: those without PASID, or of all PASIDs when `allPasids`
   * @param sizeLg2 log2 of the bytes from `address` on, 64 for everything
   * @returns false when the device does not complete in time
   */
  invalidate(address: bigint, sizeLg2: number, pasid: number | null, allPasids: boolean): boolean
  pageGroupResponse(group: number, pasid: number | null, code: number): void
}

/** What a model with ATS and PRI offers beside plain translation. */
export interface AtsModel {
  /** Filled by {@link translationRequest} after ATS_SUCCESS. */
  readonly completion: AtsCompletion
  /** The fault that the last refused request left in the log, or null where none is recorded. */
  readonly atsFault: Fault | null
  /** Puts a device with an ATC on the IOMMU. */
  connect(device: number, ats: AtsDevice): void
  /** @param access ACCESS_READ, with ACCESS_WRITE unless No Write is set; @returns an ATS_* code */
  translationRequest(device: number, pasid: number, iovaHi: number, iovaLo: number, access: number): number
  /** A request with a translated address. @returns 0 when it reaches memory, else non-zero with {@link atsFault} set */
  translatedRequest(device: number, pasid: number, paHi: number, paLo: number, access: number): number
  /** Where the last translated request reached memory, in models that may translate its address once more. */
  readonly reached?: Readonly<{ paHi: number; paLo: number; sizeLg2: number }>
  /** Puts a page request into the queue, or answers it at once as the book says (overflow, disabled, not allowed). */
  pageRequest(request: PageRequest): void
  /** A device completes an invalidation that nobody waits for; absent where the hardware does not report that. */
  strayCompletion?(device: number): void
}
