/** The ledger: differences between QEMU, whose answers captures hold, and the book, which the models follow. */
import type { Vendor } from "../capture/schema.ts"
import type { Finding } from "../verify/finding.ts"

export interface LedgerEntry {
  readonly id: string
  readonly vendor: Vendor
  /** What QEMU does. */
  readonly qemu: string
  /** What the book says instead. */
  readonly book: string
  /** Book, revision and section that decide. */
  readonly section: string
  readonly slip: Slip
}

/**
 * How a slip shows.
 *
 * `record`: in some bits of the record. Several such slips can meet in one record, so each only answers for the
 * bits of its mask; the rest of the record has to agree.
 *
 * `answer`: in the whole answer; the entry recognises the row and what the model made of it.
 */
type Slip =
  | {
      readonly kind: "record"
      /** Bits of each word that this slip decides. */
      readonly mask: readonly bigint[]
      /** True when QEMU's record has under the mask what this slip makes of the model's. */
      matches(ours: readonly bigint[], qemu: readonly bigint[]): boolean
    }
  | { readonly kind: "answer"; explains(finding: Finding): boolean }
