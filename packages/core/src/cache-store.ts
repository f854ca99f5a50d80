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

/** Words of a record that identify it. */
const KEY_WORDS = 4
/** Word of a record before its key: 0 empty, 1 in use. */
const STATE = 0
/** Slots for each record beyond which a hoard with a full set widens its sets instead of doubling their number. */
const SPARSE = 16
const KEY = 1

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
  declare private sets: number
  /** Way of each set that is replaced next. */
  declare private readonly oldest: Uint8Array
  private used = 0

  constructor({ policy, sets, ways, dataWords }: CacheShape) {
    if ((sets & (sets - 1)) !== 0 || sets < 1 || ways < 1 || ways > 255) {
      throw new Error("bug: sets are a power of two, ways are 1 to 255")
    }
    this.policy = policy
    this.ways = ways
    this.stride = KEY + KEY_WORDS + dataWords
    this.setWords = ways * this.stride
    this.sets = sets
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

  /** @returns index in {@link words} of the record's data, or -1 */
  find(k0: number, k1: number, k2: number, k3: number): number {
    if (this.used === 0) return -1
    const words = this.words
    const stride = this.stride
    const setWords = this.setWords
    const first = (hash(k0, k1, k2, k3) & (this.sets - 1)) * setWords
    const end = first + setWords
    for (let at = first; at < end; at += stride) {
      if (
        words[at + KEY] === (k0 | 0) &&
        words[at + KEY + 1] === (k1 | 0) &&
        words[at + KEY + 2] === (k2 | 0) &&
        words[at + KEY + 3] === (k3 | 0) &&
        words[at + STATE] === 1
      ) {
        return at + KEY + KEY_WORDS
      }
    }
    return -1
  }

  /**
   * Makes a record, or takes the one that has the key already. A hoarding store may grow: read {@link words} anew.
   * @returns index in {@link words} of its data, to be filled by the caller
   */
  insert(k0: number, k1: number, k2: number, k3: number): number {
    if (this.policy === "none") return KEY + KEY_WORDS
    const hashed = hash(k0, k1, k2, k3)
    const first = (hashed & (this.sets - 1)) * this.setWords
    const end = first + this.setWords
    let words = this.words
    let slot = -1
    for (let at = first; at < end; at += this.stride) {
      if (words[at + STATE] === 0) {
        if (slot < 0) slot = at
      } else if (
        words[at + KEY] === (k0 | 0) &&
        words[at + KEY + 1] === (k1 | 0) &&
        words[at + KEY + 2] === (k2 | 0) &&
        words[at + KEY + 3] === (k3 | 0)
      ) {
        return at + KEY + KEY_WORDS
      }
    }
    if (slot >= 0) this.used++
    else {
      slot = this.#makeRoom(hashed)
      words = this.words
    }
    words[slot + STATE] = 1
    words[slot + KEY] = k0
    words[slot + KEY + 1] = k1
    words[slot + KEY + 2] = k2
    words[slot + KEY + 3] = k3
    return slot + KEY + KEY_WORDS
  }

  /** Drops the record of a key, if there is one. */
  drop(k0: number, k1: number, k2: number, k3: number): void {
    const at = this.find(k0, k1, k2, k3)
    if (at < 0) return
    this.words[at - KEY - KEY_WORDS + STATE] = 0
    this.used--
  }

  /** Drops every record for which the caller says so. @param isDropped gets the four key words and the data's index */
  dropWhere(isDropped: (k0: number, k1: number, k2: number, k3: number, at: number) => boolean): void {
    if (this.used === 0) return
    const words = this.words
    for (let slot = 0; slot < words.length; slot += this.stride) {
      if (words[slot + STATE] !== 1) continue
      const [k0, k1, k2, k3] = [words[slot + 1], words[slot + 2], words[slot + 3], words[slot + 4]] as [
        number,
        number,
        number,
        number,
      ]
      if (!isDropped(k0, k1, k2, k3, slot + KEY + KEY_WORDS)) continue
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
      const set = hashed & (this.sets - 1)
      const way = this.oldest[set] as number
      this.oldest[set] = way + 1 === this.ways ? 0 : way + 1
      return set * this.setWords + way * this.stride
    }
    for (;;) {
      const isSparse = this.sets * this.ways > SPARSE * (this.used + 1)
      // Keys that collide, by chance or because a guest chose them, get wider sets, not ever more of them.
      if (isSparse && this.sets > 1) this.#rebuild(this.sets / 2, this.ways * 2)
      else this.#rebuild(this.sets * 2, this.ways)
      const free = this.#freeSlot(hashed)
      if (free >= 0) return free
    }
  }

  #freeSlot(hashed: number): number {
    const first = (hashed & (this.sets - 1)) * this.setWords
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
    this.sets = sets
    this.ways = ways
    this.setWords = ways * this.stride
    this.words = new Int32Array(sets * this.setWords)
    this.used = 0
    for (let slot = 0; slot < old.length; slot += this.stride) {
      if (old[slot + STATE] !== 1) continue
      const [k0, k1, k2, k3] = [old[slot + 1], old[slot + 2], old[slot + 3], old[slot + 4]] as [
        number,
        number,
        number,
        number,
      ]
      const at = this.insert(k0, k1, k2, k3)
      this.words.set(old.subarray(slot + KEY + KEY_WORDS, slot + this.stride), at)
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
