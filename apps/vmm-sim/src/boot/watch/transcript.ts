/**
 * What software said to an IOMMU, in order: registers written, commands queued. Commands are read from the queue when
 * its tail moves, before the model sees them: what it makes of them has no part in the transcript, and some are
 * overwritten when they are done.
 */
import type { BitLayout, FieldSpecs, Mmio, PhysicalMemory, RegisterSpecs } from "@iommu/core"

export type TranscriptEntry =
  | { readonly kind: "write"; readonly register: string; readonly value: bigint }
  | {
      readonly kind: "command"
      readonly command: string
      readonly fields: Readonly<Record<string, bigint>>
      readonly words: readonly bigint[]
    }

/** A command queue in memory, as a vendor's registers describe it. */
export interface QueueShape {
  readonly base: bigint
  readonly entryBytes: number
  /** Entries, a power of two. */
  readonly entries: number
  /** Index of the next entry that software will write; what a value of the tail register says of it. */
  readonly tail: number
  indexOf(value: number): number
}

export interface CommandQueueWatch {
  /** Offset of the register whose write hands commands over. */
  readonly tailRegister: number
  /** @returns null while the queue is off */
  shape(mmio: Mmio): QueueShape | null
  layoutOf(words: readonly bigint[]): BitLayout<FieldSpecs> | null
}

/** Entries kept; what comes later is counted only. */
const KEPT = 100_000
/** Accesses of either kind kept for the report of a guest that hangs. */
const LAST = 24

export class Transcript implements Mmio {
  readonly entries: TranscriptEntry[] = []
  /** Entries before the first DMA that was translated by tables. */
  bringUpEntries = 0
  readonly reads: Map<string, number> = new Map()
  readonly writes: Map<string, number> = new Map()
  readonly commands: Map<string, number> = new Map()
  /** Called after each write but those that move the queue's tail, while set. */
  onWrite: (() => void) | null = null
  readonly #mmio: Mmio
  readonly #memory: PhysicalMemory
  readonly #queue: CommandQueueWatch
  readonly #specs: RegisterSpecs
  readonly #names = new Map<number, string>()
  readonly #last: string[] = []

  constructor(mmio: Mmio, memory: PhysicalMemory, specs: RegisterSpecs, queue: CommandQueueWatch) {
    this.#mmio = mmio
    this.#memory = memory
    this.#queue = queue
    this.#specs = specs
  }

  /** The first DMA was translated: what software has said until now has brought the IOMMU up. */
  bringUpEnds(): void {
    this.bringUpEntries = this.entries.length
  }

  /** The last accesses of registers, oldest first. */
  get lastAccesses(): readonly string[] {
    return this.#last
  }

  read32(offset: number): number {
    const value = this.#mmio.read32(offset)
    this.#noteRead(offset, BigInt(value))
    return value
  }

  read64(offset: number): bigint {
    const value = this.#mmio.read64(offset)
    this.#noteRead(offset, value)
    return value
  }

  write32(offset: number, value: number): void {
    this.#written(offset, BigInt(value), () => this.#mmio.write32(offset, value))
  }

  write64(offset: number, value: bigint): void {
    this.#written(offset, value, () => this.#mmio.write64(offset, value))
  }

  #noteRead(offset: number, value: bigint): void {
    const name = this.#nameOf(offset)
    count(this.reads, name)
    this.#remember(`read  ${name} = 0x${value.toString(16)}`)
  }

  #written(offset: number, value: bigint, write: () => void): void {
    const name = this.#nameOf(offset)
    const queue = offset === this.#queue.tailRegister ? this.#queue.shape(this.#mmio) : null
    count(this.writes, name)
    this.#remember(`write ${name} = 0x${value.toString(16)}`)
    this.#keep({ kind: "write", register: name, value })
    if (queue !== null) this.#noteCommands(queue, Number(value & 0xffff_ffffn))
    write()
    if (offset !== this.#queue.tailRegister) this.onWrite?.()
  }

  /** At most one turn of the ring, whatever tail a guest writes. */
  #noteCommands(queue: QueueShape, value: number): void {
    const { entries, tail } = queue
    const queued = (Math.floor(queue.indexOf(value)) - tail + entries) % entries
    for (let n = 0; n < queued; n++) this.#noteCommand(this.#entryAt(queue, (tail + n) % entries))
  }

  #entryAt({ base, entryBytes }: QueueShape, index: number): bigint[] {
    const at = base + BigInt(index * entryBytes)
    if (!this.#memory.contains(at, entryBytes)) return []
    return Array.from({ length: entryBytes / 8 }, (_, word) => this.#memory.read64(at + BigInt(word * 8)))
  }

  #noteCommand(words: readonly bigint[]): void {
    const layout = this.#queue.layoutOf(words)
    const command = layout?.name ?? "unknown"
    count(this.commands, command)
    this.#keep({ kind: "command", command, fields: layout?.decode(words) ?? {}, words })
  }

  #keep(entry: TranscriptEntry): void {
    if (this.entries.length < KEPT) this.entries.push(entry)
  }

  #remember(access: string): void {
    this.#last.push(access)
    if (this.#last.length > LAST) this.#last.shift()
  }

  #nameOf(offset: number): string {
    const known = this.#names.get(offset)
    if (known !== undefined) return known
    const name = registerNameOf(this.#specs, offset)
    this.#names.set(offset, name)
    return name
  }
}

/** How the upper 32 bits of a register of 64 are called when they are written by themselves. */
export function upperHalf(register: string): string {
  return `${register} (upper half)`
}

/** The book's name of the register at an offset; the upper half of one of 64 bits is called so. */
export function registerNameOf(specs: RegisterSpecs, offset: number): string {
  const nameAt = (at: number): string | undefined =>
    Object.entries(specs).find(([, [start]]) => start === at)?.[0]
  const exact = nameAt(offset)
  if (exact !== undefined) return exact
  const low = nameAt(offset - 4)
  return low === undefined ? `0x${offset.toString(16)}` : upperHalf(low)
}

function count(counts: Map<string, number>, name: string): void {
  counts.set(name, (counts.get(name) ?? 0) + 1)
}
