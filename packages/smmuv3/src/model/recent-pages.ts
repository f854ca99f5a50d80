/** Answers to the last transactions, in front of what caches.ts keeps. */
import type { Outcome } from "./attributes.ts"
import type { Transaction } from "./transaction.ts"

// Words of a slot of RecentPages, after the page's address: a power of two in all.
const DEVICE = 2
const PASID = 3
const ACCESS = 4
const PA_HI = 5
const PA_LO = 6
const IPA_HI = 7
const IPA_LO = 8
const SIZES = 9
const ATTRIBUTES = 10
const RECENT_LG2 = 4
const RECENT_PAGES = 512
/** In the first word of a slot in use, beside the page's address. */
const RECENT_VALID = 1
const PAGE_MASK = -4096
/** Slots from one device's page to the same page of the next: odd, so that no two of 512 have the same one. */
const DEVICE_STRIDE = 37

/**
 * The first level in front of all caches, as hardware has one: the last transactions' pages with the whole answer, by
 * StreamID, SubstreamID, page and access. Whatever might change an answer empties it: every invalidation, of
 * structures and of translations, and CR0.SMMUEN.
 */
export class RecentPages {
  private readonly words: Int32Array
  readonly enabled: boolean
  private readonly mask: number
  private isEmpty = true

  constructor(enabled: boolean) {
    this.words = new Int32Array(enabled ? RECENT_PAGES << RECENT_LG2 : 1 << RECENT_LG2)
    this.enabled = enabled
    this.mask = enabled ? RECENT_PAGES - 1 : 0
  }

  /** @returns whether the answer is known; then the result is filled */
  find(device: number, pasid: number, hi: number, lo: number, access: number, result: Outcome): boolean {
    const words = this.words
    const at = (((lo >>> 12) + device * DEVICE_STRIDE + pasid) & this.mask) << RECENT_LG2
    if (
      words[at] !== ((lo & PAGE_MASK) | RECENT_VALID) ||
      words[at + 1] !== (hi | 0) ||
      words[at + DEVICE] !== (device | 0) ||
      words[at + PASID] !== pasid ||
      words[at + ACCESS] !== access
    ) {
      return false
    }
    const sizes = words[at + SIZES] as number
    const offset = lo & 0xfff
    result.paHi = words[at + PA_HI] as number
    result.paLo = ((words[at + PA_LO] as number) | offset) >>> 0
    result.ipaHi = words[at + IPA_HI] as number
    result.ipaLo = ((words[at + IPA_LO] as number) | offset) >>> 0
    result.sizeLg2 = sizes & 0xff
    result.stage1SizeLg2 = (sizes >>> 8) & 0xff
    result.stage2SizeLg2 = (sizes >>> 16) & 0xff
    result.allowed = sizes >>> 24
    result.known = words[at + ATTRIBUTES] as number
    if (result.fault !== null) result.fault = null
    return true
  }

  /** Keeps the answer to a transaction that the caches answered. */
  keep({ device, pasid, hi, lo, access }: Transaction, result: Outcome): void {
    if (!this.enabled) return
    const words = this.words
    const at = (((lo >>> 12) + device * DEVICE_STRIDE + pasid) & this.mask) << RECENT_LG2
    this.isEmpty = false
    words[at] = (lo & PAGE_MASK) | RECENT_VALID
    words[at + 1] = hi
    words[at + DEVICE] = device
    words[at + PASID] = pasid
    words[at + ACCESS] = access
    words[at + PA_HI] = result.paHi
    words[at + PA_LO] = result.paLo & PAGE_MASK
    words[at + IPA_HI] = result.ipaHi
    words[at + IPA_LO] = result.ipaLo & PAGE_MASK
    words[at + SIZES] =
      result.sizeLg2 | (result.stage1SizeLg2 << 8) | (result.stage2SizeLg2 << 16) | (result.allowed << 24)
    words[at + ATTRIBUTES] = result.attributes
  }

  clear(): void {
    if (this.isEmpty) return
    this.words.fill(0)
    this.isEmpty = true
  }
}
