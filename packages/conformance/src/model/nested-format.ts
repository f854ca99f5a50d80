/** What the relations between stages must know of a vendor: entries, structures and how to start a model. */
import type { CachePolicies, CachePolicy, IommuModel, PhysicalMemory } from "@iommu/core"

/** Bits of an entry beside its address, low and high half. */
export type Flags = readonly [lo: number, hi: number]

/** What tables and structures of a vendor look like, typed from its book. */
export interface NestedFormat {
  readonly name: string
  readonly device: number
  /** log2 of the bytes of a page, and of a table of 8-byte entries. */
  readonly granuleLg2: 12 | 14 | 16
  /** Levels of tables that an address of the first stage passes, and one of the second. */
  readonly stage1Levels: 3 | 4 | 5
  readonly stage2Levels: 3 | 4 | 5
  /** Whether there are leaves two levels above the last. */
  readonly hasHugeLeaves: boolean
  /** Entries for any level of stage 1: tables above the last level, pages in it. Likely ones stand several times. */
  readonly stage1Plain: readonly Flags[]
  /** Leaves above the last level of stage 1. */
  readonly stage1Large: readonly Flags[]
  /** A table entry that allows all, and the flags of pages that do as a large leaf does. */
  readonly stage1Table: Flags
  readonly stage1Small: (largeLo: number) => number
  /** @param level of the table that it leads to: 4 to 1 */
  readonly stage2Table: (level: number) => Flags
  readonly stage2Page: readonly Flags[]
  readonly stage2Large: readonly Flags[]
  readonly stage2Small: (largeLo: number) => number
  /** Bits of the low half that hardware sets (A, D) or clears in entries of each stage. */
  readonly stage1Updates: { readonly sets: number; readonly clears: number }
  readonly stage2Updates: { readonly sets: number; readonly clears: number }
  /** Whether structures lie in {@link Configuration.guestConfig}, and are read through stage 2. */
  readonly readsGuestConfig: boolean
  /** Access that stage 2 must allow to the page of a stage 1 table for reading it. */
  readonly fetchNeeds: (variant: number) => number
  /** Writes device and PASID structures. */
  configure(memory: PhysicalMemory, how: Configuration): void
  /** A running model over them. */
  start(memory: PhysicalMemory, how: Configuration, caches: CachePolicy | CachePolicies): IommuModel
}

/** Addresses are numbers below 2^31. */
export interface Configuration {
  readonly stages: "first" | "second" | "nested"
  /** {@link CONFIG_PAGES} zeroed pages of host memory, which every model sees. */
  readonly config: number
  /** A zeroed page that stage 2 maps, for structures that lie in guest memory: as the guest and as the host sees it. */
  readonly guestConfig: number
  readonly guestConfigAt: number
  readonly stage1Root: number
  readonly stage2Root: number
  /** Random bits to choose features by: the same for the three models of a world. */
  readonly variant: number
}

/** Pages of 4 KiB, whatever the granule. */
export const CONFIG_PAGES = 6

/** Candidates of which one comes `times` times as often as each other. */
export function mostly(often: Flags, times: number, others: readonly Flags[]): readonly Flags[] {
  return [...Array.from({ length: times }, () => often), ...others]
}
