/**
 * What the suite must know of a hardware model: facts of the vendor's book, typed by the model's authors as data and
 * small functions. Nothing here goes through a driver or a builder of tables: memory is written word by word,
 * registers by offset, so that a misread bit in one part of a package does not hide behind the same in another.
 */
import type { CachePolicy, IommuModel, PhysicalMemory, RegisterSpecs } from "@iommu/core"

/** A model over memory that only the test writes. */
export interface ModelMachine {
  readonly model: IommuModel
  readonly memory: PhysicalMemory
}

/**
 * One thing software does, or must find.
 * - `write32`, `write64`: a register by byte offset
 * - `expect32`, `expect64`: the bits of `mask` in a register
 * - `store`, `load`: a 64-bit word of memory, written or expected
 */
export type Step =
  | readonly ["write32", offset: number, value: number]
  | readonly ["write64", offset: number, value: bigint]
  | readonly ["expect32", offset: number, mask: number, value: number]
  | readonly ["expect64", offset: number, mask: bigint, value: bigint]
  | readonly ["store", address: bigint, value: bigint]
  | readonly ["load", address: bigint, value: bigint]

/** A transaction; a read without PASID unless it says otherwise. */
export interface ModelRequest {
  readonly device: number
  readonly iova: bigint
  readonly pasid?: number
  readonly access?: number
}

/** Where a transaction lands; null when it is refused. */
export type Answer = bigint | null

export interface ModelTarget {
  readonly name: string
  /** A machine at reset, with zeroed memory that has room for all that the contracts below write. */
  create(caches: CachePolicy): ModelMachine
  /** Steps from reset to a running IOMMU: tables for {@link running} and {@link refused}, queue and log enabled. */
  readonly start: readonly Step[]
  /** A request that a started machine answers with `pa`. */
  readonly running: ModelRequest & { readonly pa: bigint }
  readonly registers: RegisterContract
  readonly handshakes: readonly Handshake[]
  readonly queue: QueueContract
  readonly log: LogContract
  readonly structures: readonly StructureContract[]
  /** null while the model has no caches. */
  readonly caching: CachingContract | null
}

/** Access classes. All facts hold for a machine at reset unless they say otherwise. */
export interface RegisterContract {
  readonly specs: RegisterSpecs
  /** Values after reset that the book fixes. */
  readonly reset: Readonly<Record<string, bigint>>
  /**
   * Bits that software can write at reset and reads back, of registers without side effects of writing. Others of
   * the register read as zero.
   */
  readonly writable: Readonly<Record<string, bigint>>
  /** Registers whose writes set something going: handshakes, queues and logs show what. */
  readonly active: readonly string[]
  readonly clearable: readonly ClearableBits[]
  readonly locked: readonly LockedRegister[]
  /** Byte offsets that no register answers: they read as zero, and writes are dropped. */
  readonly holes: readonly number[]
}

/** Status bits that software clears by writing 1. */
export interface ClearableBits {
  readonly register: string
  readonly bits: number
  /** From a started machine to one where the bits are 1. */
  raise(machine: ModelMachine): void
}

/** A register that ignores writes while something is enabled. */
export interface LockedRegister {
  readonly register: string
  readonly source: string
  /** From reset to locked, and back. */
  readonly lock: readonly Step[]
  readonly unlock: readonly Step[]
  /** A value other than the register has then. */
  readonly value: bigint
}

/** A command register and the status that answers it, from reset. */
export interface Handshake {
  readonly name: string
  readonly source: string
  readonly steps: readonly Step[]
}

/** The queue of commands of a started machine. */
export interface QueueContract {
  /** Entries that it holds. */
  readonly entries: number
  /** Puts commands behind each other and moves the tail once. */
  submit(machine: ModelMachine, commands: readonly (readonly bigint[])[]): void
  /** Index of the entry that hardware reads next. */
  head(machine: ModelMachine): number
  /** A command that writes a 32-bit number to memory when everything before it is done. */
  wait(address: bigint, data: number): readonly bigint[]
  /** Three 8-byte words of memory that {@link wait} may write to, at consecutive addresses. */
  readonly scratch: bigint
  readonly errors: readonly QueueError[]
}

export interface QueueError {
  readonly name: string
  readonly source: string
  /** A command that stops the queue. */
  readonly command: readonly bigint[]
  /** What software finds in registers and memory then, besides the head that stays at the command. */
  readonly found: readonly Step[]
  /**
   * As the book has software go on: after it, hardware has taken what stands behind the wrong command, which is
   * replaced by `replacement` at the index `at`.
   */
  resume(machine: ModelMachine, at: number, replacement: readonly bigint[]): void
}

/** The log of faults of a started machine. */
export interface LogContract {
  /** Records that fit before one is lost. */
  readonly capacity: number
  /** The `n`-th request that is refused and recorded. Requests differ in what {@link identify} reads from the record. */
  refused(n: number): ModelRequest
  /** Records that software has not taken yet, oldest first, in 64-bit words. */
  records(machine: ModelMachine): (readonly bigint[])[]
  /** `n` of the request that a record is about. */
  identify(record: readonly bigint[]): number
  overflowed(machine: ModelMachine): boolean
  /** As the book has software go on: all records taken, overflow acknowledged, recording. */
  restart(machine: ModelMachine): void
}

/** Bits `first` to `last` of a structure, counted from its first word's bit 0: reserved ones, or valid bits. */
export interface RefusedBits {
  readonly first: number
  readonly last: number
  /** The fault of a request that meets any one of them flipped. */
  readonly reason: string
}

/** A structure in memory that a request goes through. */
export interface StructureContract {
  readonly name: string
  readonly source: string
  /** From reset to a machine that answers the request. */
  readonly start: readonly Step[]
  readonly request: ModelRequest
  readonly pa: bigint
  /** Address of the structure. */
  readonly at: bigint
  readonly refused: readonly RefusedBits[]
  /** Bits that hardware ignores in this use of the structure. */
  readonly ignored: readonly (readonly [first: number, last: number])[]
}

/** What the model caches, and what drops it. */
export interface CachingContract {
  /** From reset to a running machine with everything that entries and commands are about. */
  readonly start: readonly Step[]
  readonly entries: Readonly<Record<string, CachedEntry>>
  readonly commands: readonly InvalidationCase[]
  readonly liveUpdates: readonly LiveUpdate[]
}

/**
 * One thing that hardware may keep. Choose request and change so that the answer depends on this cache alone: another
 * leaf for an IOTLB, another domain-id and table for a device entry.
 */
export interface CachedEntry {
  /** Which cache, and the tags. */
  readonly what: string
  readonly source: string
  /**
   * Requests that fill the cache in place of {@link request}, which then comes for the first time after the change:
   * for paging-structure caches, a neighbouring page.
   */
  readonly primedBy?: readonly ModelRequest[]
  readonly request: ModelRequest
  /** Words of memory that software changes. */
  readonly change: readonly (readonly [address: bigint, value: bigint])[]
  readonly before: Answer
  readonly after: Answer
  /** False where the book forbids caching (most not-present entries): the change shows at once. */
  readonly cacheable: boolean
}

export interface InvalidationCase {
  readonly name: string
  readonly source: string
  issue(machine: ModelMachine): void
  /** Names of all entries that it must drop; every other one stays in a hoard. */
  readonly drops: readonly string[]
}

/** A change of tables in use and the book's sequence that makes it take effect. */
export interface LiveUpdate {
  readonly name: string
  readonly source: string
  readonly request: ModelRequest
  readonly before: Answer
  readonly after: Answer
  /** Changes and invalidations in the book's order. */
  readonly sequence: readonly UpdateStep[]
}

export interface UpdateStep {
  readonly what: string
  /** A change of memory, or an invalidation. An update without any one invalidation leaves the old answer in a hoard. */
  readonly kind: "change" | "invalidate"
  run(machine: ModelMachine): void
}
