/**
 * Physical memory whose bytes lie outside the process, where others change them at any time: the RAM of a virtual
 * machine, shared as a file.
 *
 * A model reads and writes {@link PhysicalMemory.words} in its walks, so these have to hold what the memory holds.
 * An operation of the hardware (one translation, one register access) stands between {@link BackedMemory.begin} and
 * {@link BackedMemory.end}: each 4 KiB page that it looks into is fetched once, and what it changed goes back, word
 * by word, so that a neighbour which another has written meanwhile survives. Nothing outlives an operation.
 *
 * Apart from that the class is {@link PhysicalMemory}: the same look-up, and the same price while a process holds one
 * kind alone. With both kinds alive a look-up costs 3 ns more (eight of them, VT-d without caches: 107 and 133 ns; Node
 * 24). An operation that looks into n pages of a file costs some 3 n microseconds.
 */
import { PAGE_SIZE } from "./address.ts"
import { IommuError } from "./errno.ts"
import { layOut, type Segment } from "./memory-segments.ts"
import { type MemoryRange, PhysicalMemory } from "./physical-memory.ts"
import { fromHalves, hi32, lo32, toU64, type U64Like } from "./u64.ts"

/** Where the bytes are. Offsets count from the first range on, ranges one after the other as they were given. */
export interface MemoryBacking {
  /** Fills `into` with the bytes at `offset`. */
  load(offset: number, into: Uint8Array): void
  store(offset: number, bytes: Uint8Array): void
}

const PAGE_WORDS = PAGE_SIZE / 4
const PAGE_WORDS_LG2 = 10

export class BackedMemory extends PhysicalMemory {
  override readonly isVolatile: boolean = true
  /** Called with the offset of each page that an operation looks into, while set. */
  onPage: ((offset: number) => void) | null = null
  readonly #backing: MemoryBacking
  readonly #bytes: Uint8Array
  readonly #layout: readonly Segment[]
  /** The operation in which each page was fetched last. */
  readonly #fetchedIn: Uint32Array
  #operation = 1
  /** Pages of this operation, and what they held when they were fetched. */
  readonly #pages: number[] = []
  #fetched = new Uint32Array(8 * PAGE_WORDS)

  /** Use {@link backedMemory}. */
  constructor(backing: MemoryBacking, segments: readonly Segment[], bytes: number) {
    super(new ArrayBuffer(bytes), segments)
    this.#backing = backing
    this.#layout = segments
    this.#bytes = new Uint8Array(this.words.buffer)
    this.#fetchedIn = new Uint32Array(bytes / PAGE_SIZE)
    this.#forgetHit()
  }

  /** Pages that the operation under way, or the last one, has looked into. */
  get pagesFetched(): number {
    return this.#pages.length
  }

  /** An operation of the hardware begins: what is known of the memory's contents is forgotten. */
  begin(): void {
    this.#operation = (this.#operation + 1) >>> 0
    if (this.#operation === 0) {
      this.#fetchedIn.fill(0)
      this.#operation = 1
    }
    this.#pages.length = 0
    this.#forgetHit()
  }

  /** The operation ends: the words that it changed are stored. */
  end(): void {
    for (let n = 0; n < this.#pages.length; n++) this.#storeChanges(this.#pages[n] as number, n)
    this.#forgetHit()
  }

  override contains(address: U64Like, size: U64Like = 1): boolean {
    return this.#pieces(toU64(address, "address"), Number(toU64(size, "size"))) !== null
  }

  override read(address: U64Like, length: number): Uint8Array {
    const out = new Uint8Array(length)
    for (const { offset, at, bytes } of this.#piecesOf(address, length)) {
      this.#backing.load(offset, out.subarray(at, at + bytes))
    }
    return out
  }

  override write(address: U64Like, data: Uint8Array): void {
    for (const { offset, at, bytes } of this.#piecesOf(address, data.length)) {
      this.#backing.store(offset, data.subarray(at, at + bytes))
    }
  }

  override read64(address: U64Like): bigint {
    const word = new Uint32Array(this.read(aligned(address), 8).buffer)
    return fromHalves(word[1] as number, word[0] as number)
  }

  override write64(address: U64Like, value: U64Like): void {
    const bits = toU64(value, "value")
    this.write(aligned(address), new Uint8Array(Uint32Array.of(lo32(bits), hi32(bits)).buffer))
  }

  /** @throws EOPNOTSUPP: contents are those of one operation, and a view would outlive it */
  override view(): PhysicalMemory {
    throw new IommuError("EOPNOTSUPP", "a memory that others write has no views")
  }

  protected override search(hi: number, lo: number): number {
    const word = super.search(hi, lo)
    if (word < 0) {
      this.#forgetHit()
      return -1
    }
    const page = word >>> PAGE_WORDS_LG2
    if (this.#fetchedIn[page] !== this.#operation) this.#fetch(page)
    // Until the operation ends, the page alone counts as known.
    this.hitHi = hi | 0
    this.hitLo = lo & -PAGE_SIZE
    this.hitLast = PAGE_SIZE - 1
    this.hitWord = page << PAGE_WORDS_LG2
    return word
  }

  #fetch(page: number): void {
    const offset = page * PAGE_SIZE
    this.#backing.load(offset, this.#bytes.subarray(offset, offset + PAGE_SIZE))
    this.#fetchedIn[page] = this.#operation
    const slot = this.#pages.push(page) - 1
    if (this.#fetched.length < (slot + 1) * PAGE_WORDS) {
      const larger = new Uint32Array(this.#fetched.length * 2)
      larger.set(this.#fetched)
      this.#fetched = larger
    }
    const first = page * PAGE_WORDS
    this.#fetched.set(this.words.subarray(first, first + PAGE_WORDS), slot * PAGE_WORDS)
    this.onPage?.(offset)
  }

  #storeChanges(page: number, slot: number): void {
    const { words } = this
    const before = this.#fetched
    const first = page * PAGE_WORDS
    const old = slot * PAGE_WORDS
    for (let n = 0; n < PAGE_WORDS; n++) {
      if (words[first + n] === before[old + n]) continue
      let end = n + 1
      while (end < PAGE_WORDS && words[first + end] !== before[old + end]) end++
      this.#backing.store((first + n) * 4, this.#bytes.subarray((first + n) * 4, (first + end) * 4))
      n = end
    }
  }

  /** No address matches: the next look-up searches, and fetches. */
  #forgetHit(): void {
    this.hitHi = -1
    this.hitLo = -1
    this.hitLast = 0
    this.hitWord = -1
  }

  #piecesOf(address: U64Like, length: number): readonly Piece[] {
    const at = toU64(address, "address")
    const pieces = this.#pieces(at, length)
    if (pieces !== null) return pieces
    throw new IommuError("EFAULT", `no memory behind all of 0x${at.toString(16)}+${length}`)
  }

  /** Where the bytes of a stretch of addresses are, or null when some have no memory. */
  #pieces(address: bigint, length: number): Piece[] | null {
    const pieces: Piece[] = []
    for (let done = 0; done < length; ) {
      const from = address + BigInt(done)
      const segment = this.#layout.find(({ base, size }) => from >= base && from < base + size)
      if (segment === undefined) return null
      const into = Number(from - segment.base)
      const bytes = Math.min(length - done, Number(segment.size) - into)
      pieces.push({ offset: segment.word * 4 + into, at: done, bytes })
      done += bytes
    }
    return pieces
  }
}

interface Piece {
  readonly offset: number
  /** Where in the caller's bytes the piece begins. */
  readonly at: number
  readonly bytes: number
}

function aligned(address: U64Like): bigint {
  const at = toU64(address, "address")
  if (at % 8n !== 0n) throw new IommuError("EINVAL", `0x${at.toString(16)} is not 8-byte aligned`)
  return at
}

/**
 * Memory whose bytes lie elsewhere and are changed by others as well.
 * @throws EINVAL for misaligned, empty or overlapping ranges and for more than 8 GiB together
 */
export function backedMemory(ranges: readonly MemoryRange[], backing: MemoryBacking): BackedMemory {
  const { segments, bytes } = layOut(ranges)
  return new BackedMemory(backing, segments, bytes)
}
