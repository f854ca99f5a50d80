/**
 * The ledger: differences between QEMU, as captures and comparisons show it, and the book, which the models follow.
 */
import type { Fault } from "@iommu/core"
import type { Difference } from "../diff/compare.ts"
import type { Script, Words } from "../diff/script.ts"
import type { World } from "../diff/vendor-diff.ts"
import type { Vendor } from "../machine/recipe.ts"

export interface LedgerEntry {
  readonly id: string
  readonly vendor: Vendor
  /** Releases of QEMU that do so, as far as they were looked at: `10.0`. */
  readonly versions: readonly string[]
  /** What QEMU does. */
  readonly qemu: string
  /** What the book says instead. */
  readonly book: string
  /** Book, revision and section that decide. */
  readonly section: string
  /** Why ten thousand random cases may not show it, where that is so: its absence is no news then. */
  readonly seldom?: string
  /** How a comparison recognises it, for people. */
  readonly recognised: string
  readonly slip: Slip
}

/** An access that our model and QEMU answer differently. */
export interface Dispute {
  readonly write: boolean
  /** Why our model refused; null when it let the access pass. */
  readonly fault: Fault | null
  /** What our model recorded, and what QEMU did; null for nothing. */
  readonly ourRecord: readonly bigint[] | null
  readonly theirRecord: readonly bigint[] | null
  /** All that QEMU recorded, where it recorded more than one thing. */
  readonly theirRecords: readonly (readonly bigint[])[]
  /** The reason that QEMU gave, where it is known without a record. */
  readonly theirCode: bigint | null
  readonly theyRefused: boolean
}

/** The case that a difference is of; captures do not have one. */
export interface Setting {
  readonly world: World
  readonly script: Script
}

/** What is known of an access that both refused, beside its records; captures sometimes have the records alone. */
export interface RefusedAccess {
  readonly write: boolean
  /** Our model's reason, by the book's name. */
  readonly reason: string
}

/**
 * How a slip shows.
 *
 * `record`: in some bits of the record. Several such slips can meet in one record, so each only answers for the
 * bits of its mask; the rest of the record has to agree.
 *
 * `answer`: in the whole answer; the entry recognises what the model made of the access, what QEMU did, and the words of
 * the case that made it so.
 *
 * `state`: in what QEMU leaves behind, or in that it ends.
 *
 * `states`: in several such things, which are recognised by one of them.
 *
 * `reading`: in all that follows from some words of memory, which QEMU reads as if they said something else. Then
 * our model has to agree in everything once the words do say that.
 */
type Slip =
  | {
      readonly kind: "record"
      /** Bits of each word that this slip decides. */
      readonly mask: readonly bigint[]
      /** True when QEMU's record has under the mask what this slip makes of the model's. */
      matches(ours: readonly bigint[], qemu: readonly bigint[], access: RefusedAccess | null): boolean
    }
  | { readonly kind: "answer"; explains(dispute: Dispute, setting: Setting | null): boolean }
  | { readonly kind: "state"; explains(difference: Difference): boolean }
  | { readonly kind: "states"; explained(differences: readonly Difference[]): readonly Difference[] }
  | {
      readonly kind: "reading"
      /** The words that QEMU reads in another way, as it reads them; none when this memory has no such words. */
      reads(world: World, memory: Words): Words
      /** The address that QEMU takes an access to be of. Absent: the access's own. */
      readonly addressOf?: (world: World, memory: Words, iova: bigint) => bigint
      /** What QEMU leaves behind where it reads so. Absent: nothing. */
      readonly leaves?: (difference: Difference) => boolean
    }
