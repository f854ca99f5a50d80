/**
 * The storage of a hardware cache: tagged records of 32-bit words in one typed array. What may be cached, under
 * which tags, and what an invalidation drops, the models decide.
 *
 * A set-associative Int32Array is looked up in 3.5 ns (Node 24); a Map of numbers takes 36, of bigints 98.
 */

/**
 * How much a model's caches keep.
 * - `exact`: sets and ways as in hardware; the oldest entry of a full set makes room. Deterministic
 * - `hoard`: everything, for as long as no invalidation drops it: what the books let hardware do, and what finds a
 *   missing invalidation for certain
 * - `none`: nothing
 */
export type CachePolicy = "exact" | "hoard" | "none"

/** Policies of a model's three kinds of caches, where they differ. */
export interface CachePolicies {
  /** Device and PASID table entries, context descriptors and the tables that lead to them. */
  readonly structures: CachePolicy
  /**
   * What shortens a walk: paging structures, and pages of stage 2, among them those that a guest's tables lie in. As
   * {@link translations} when left out.
   */
  readonly walks?: CachePolicy
  /** Answers to whole requests: the IOTLB. */
  readonly translations: CachePolicy
}

/** A policy for each kind. */
export interface CacheKinds extends Required<CachePolicies> {
  /**
   * Pages of stage 2 shorten walks, and to a device with stage 2 alone they are the answers: the more that either kind
   * keeps.
   */
  readonly stage2Pages: CachePolicy
}

/** @param given one policy for all caches, or one for each kind; `exact` when left out */
export function cachePolicies(given: CachePolicy | CachePolicies = "exact"): CacheKinds {
  const { structures, walks, translations } =
    typeof given === "string" ? { structures: given, walks: given, translations: given } : given
  const ofWalks = walks ?? translations
  return { structures, walks: ofWalks, translations, stage2Pages: more(ofWalks, translations) }
}

function more(one: CachePolicy, other: CachePolicy): CachePolicy {
  return one === "hoard" || other === "none" ? one : other
}

/** Word of a record after the four of its key: 0 empty, 1 in use. */
const STATE = 4
/** The caller's words. */
const DATA = 5
/** Slots for each record beyond which a hoard with a full set widens its sets instead of doubling their number. */
const SPARSE = 16

export interface CacheShape {
  readonly policy: CachePolicy
  /** Sets under `exact`, a power of two. */
  readonly sets: number
  readonly ways: number
  /** 32-bit words that a record holds beside its key. */
  readonly dataWords: number
}

export class CacheStore {
  // Looked up in every transaction: a private name (#) costs 2 ns a call. Numbers are declared, not defined: a field
  // that is defined starts as `undefined`, and V8 then checks it for a number at each use.
  /** All records, to be indexed with what {@link find} and {@link insert} return. */
  declare words: Int32Array
  declare private readonly policy: CachePolicy
  declare private ways: number
  declare private readonly stride: number
  /** Words of a set. */
  declare private setWords: number
  /** Sets less one. */
  declare private setMask: number
  /** Way of each set that is replaced next. */
  declare private readonly oldest: Uint8Array
  private used = 0
  /** The record that {@link findSame} came to last. */
  private same = 0

  constructor({ policy, sets, ways, dataWords }: CacheShape) {
    if ((sets & (sets - 1)) !== 0 || sets < 1 || ways < 1 || ways > 255) {
      throw new Error("bug: sets are a power of two, ways are 1 to 255")
    }
    this.policy = policy
    this.ways = ways
    this.stride = DATA + dataWords
    this.setWords = ways * this.stride
    this.setMask = sets - 1
    this.oldest = new Uint8Array(sets)
    // `none` needs one record to be written to and never found.
    this.words = new Int32Array(policy === "none" ? this.stride : sets * ways * this.stride)
  }

  /** Records in use. */
  get size(): number {
    return this.used
  }

  /** Bytes that a record costs. */
  get bytesPerRecord(): number {
    return this.stride * 4
  }

  /**
   * Indexes are integers by construction (`| 0`, imul), so that V8 checks none of the sums for an overflow.
   * @returns index in {@link words} of the record's data, or -1
   */
  find(k0: number, k1: number, k2: number, k3: number): number {
    if (this.used === 0) return -1
    const { words, stride, setWords } = this
    const a = k0 | 0
    const b = k1 | 0
    const c = k2 | 0
    const d = k3 | 0
    const first = Math.imul(hash(a, b, c, d) & this.setMask, setWords)
    const end = (first + setWords) | 0
    for (let at = first; at < end; at = (at + stride) | 0) {
      if (
        words[at] === a &&
        words[(at + 1) | 0] === b &&
        words[(at + 2) | 0] === c &&
        words[(at + 3) | 0] === d &&
        words[(at + STATE) | 0] === 1
      ) {
        return (at + DATA) | 0
      }
    }
    return -1
  }

  /**
   * As {@link find}, where the key is mostly that of the last time: then it is compared alone, in place (3 instead of
   * 8 ns). The words are the key's as they are, signed.
   */
  findSame(k0: number, k1: number, k2: number, k3: number): number {
    const { words } = this
    const at = this.same
    if (
      words[at] === k0 &&
      words[(at + 1) | 0] === k1 &&
      words[(at + 2) | 0] === k2 &&
      words[(at + 3) | 0] === k3 &&
      words[(at + STATE) | 0] === 1
    ) {
      return (at + DATA) | 0
    }
    return this.findOther(k0, k1, k2, k3)
  }

  private findOther(k0: number, k1: number, k2: number, k3: number): number {
    const at = this.find(k0, k1, k2, k3)
    if (at >= 0) this.same = at - DATA
    return at
  }

  /**
   * Makes a record, or takes the one that has the key already. A hoarding store may grow: read {@link words} anew.
   * @returns index in {@link words} of its data, to be filled by the caller
   */
  insert(k0: number, k1: number, k2: number, k3: number): number {
    if (this.policy === "none") return DATA
    const { words, stride, setWords } = this
    const a = k0 | 0
    const b = k1 | 0
    const c = k2 | 0
    const d = k3 | 0
    const hashed = hash(a, b, c, d)
    const first = Math.imul(hashed & this.setMask, setWords)
    const end = (first + setWords) | 0
    let free = -1
    for (let at = first; at < end; at = (at + stride) | 0) {
      if (words[(at + STATE) | 0] === 0) {
        if (free < 0) free = at
      } else if (
        words[at] === a &&
        words[(at + 1) | 0] === b &&
        words[(at + 2) | 0] === c &&
        words[(at + 3) | 0] === d
      ) {
        return (at + DATA) | 0
      }
    }
    if (free >= 0) this.used++
    else free = this.#makeRoom(hashed)
    this.words[free] = a
    this.words[free + 1] = b
    this.words[free + 2] = c
    this.words[free + 3] = d
    this.words[free + STATE] = 1
    return free + DATA
  }

  /** Drops the record of a key, if there is one. */
  drop(k0: number, k1: number, k2: number, k3: number): void {
    const at = this.find(k0, k1, k2, k3)
    if (at < 0) return
    this.words[at - DATA + STATE] = 0
    this.used--
  }

  /** Drops every record for which the caller says so. @param isDropped gets the four key words and the data's index */
  dropWhere(isDropped: (k0: number, k1: number, k2: number, k3: number, at: number) => boolean): void {
    if (this.used === 0) return
    const words = this.words
    for (let slot = 0; slot < words.length; slot += this.stride) {
      if (words[slot + STATE] !== 1) continue
      const k0 = words[slot] as number
      const k1 = words[slot + 1] as number
      const k2 = words[slot + 2] as number
      const k3 = words[slot + 3] as number
      if (!isDropped(k0, k1, k2, k3, slot + DATA)) continue
      words[slot + STATE] = 0
      this.used--
    }
  }

  /** Drops everything. */
  clear(): void {
    if (this.used === 0) return
    this.words.fill(0)
    this.used = 0
  }

  /** A slot of a set that is full: its oldest under `exact`, a free one of other sets under `hoard`. */
  #makeRoom(hashed: number): number {
    if (this.policy === "exact") {
      const set = hashed & this.setMask
      const way = this.oldest[set] as number
      this.oldest[set] = way + 1 === this.ways ? 0 : way + 1
      return set * this.setWords + way * this.stride
    }
    for (;;) {
      const sets = this.setMask + 1
      const isSparse = sets * this.ways > SPARSE * (this.used + 1)
      // Keys that collide, by chance or because a guest chose them, get wider sets, not ever more of them.
      if (isSparse && sets > 1) this.#rebuild(sets / 2, this.ways * 2)
      else this.#rebuild(sets * 2, this.ways)
      const free = this.#freeSlot(hashed)
      if (free >= 0) return free
    }
  }

  #freeSlot(hashed: number): number {
    const first = (hashed & this.setMask) * this.setWords
    for (let slot = first; slot < first + this.setWords; slot += this.stride) {
      if (this.words[slot + STATE] === 0) {
        this.used++
        return slot
      }
    }
    return -1
  }

  /** Other sets; records move to where their keys now belong. */
  #rebuild(sets: number, ways: number): void {
    const old = this.words
    this.setMask = sets - 1
    this.ways = ways
    this.setWords = ways * this.stride
    this.words = new Int32Array(sets * this.setWords)
    this.used = 0
    this.same = 0
    for (let slot = 0; slot < old.length; slot += this.stride) {
      if (old[slot + STATE] !== 1) continue
      const [k0, k1, k2, k3] = [old[slot], old[slot + 1], old[slot + 2], old[slot + 3]] as [
        number,
        number,
        number,
        number,
      ]
      const at = this.insert(k0, k1, k2, k3)
      this.words.set(old.subarray(slot + DATA, slot + this.stride), at)
    }
  }
}

/** Neighbouring pages go to different sets, and so do pages that are a power of two apart. */
function hash(k0: number, k1: number, k2: number, k3: number): number {
  // Independent products, which a processor computes side by side.
  const low = (k0 + Math.imul(k1, 0x9e37_79b1)) | 0
  const high = (Math.imul(k2, 0x85eb_ca6b) + Math.imul(k3, 0xc2b2_ae35)) | 0
  const h = (low + high) | 0
  return h ^ (h >>> 9) ^ (h >>> 18)
}
