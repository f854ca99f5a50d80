/** Answers to the last requests, in front of what caches.ts keeps. */
import type { Transaction } from "./transaction.ts"
import type { VtdTranslationResult } from "./translate.ts"

// Words of a recent page, in a power of two.
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
const VALID = 1
/** Sets devices apart; times 16 bits it stays a small integer, and no call is needed as for Math.imul. */
const SPREAD = 2503

/**
 * The last requests' pages with the whole answer, tables and entries included: one look-up for all. Every invalidation
 * of anything empties it, so that it never knows more than the caches behind it.
 */
export class RecentPages {
  private readonly words: Int32Array
  private used = false
  readonly enabled: boolean
  declare private readonly mask: number

  constructor(enabled: boolean) {
    this.words = new Int32Array(enabled ? RECENT_PAGES << RECENT_LG2 : 1 << RECENT_LG2)
    this.enabled = enabled
    this.mask = enabled ? RECENT_PAGES - 1 : 0
  }

  find(
    device: number,
    pasid: number,
    hi: number,
    lo: number,
    access: number,
    result: VtdTranslationResult,
  ): boolean {
    const words = this.words
    const at = (((lo >>> 12) + device * SPREAD + pasid) & this.mask) << RECENT_LG2
    if (
      words[at] !== ((lo & -4096) | VALID) ||
      words[at + 1] !== (hi | 0) ||
      words[at + DEVICE] !== device ||
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
    result.attributes = words[at + ATTRIBUTES] as number
    return true
  }

  /** Keeps the answer to a request that the caches answered. */
  keep(t: Transaction, result: VtdTranslationResult): void {
    if (!this.enabled) return
    const words = this.words
    const lo = t.iovaLo
    const at = (((lo >>> 12) + t.device * SPREAD + t.pasid) & this.mask) << RECENT_LG2
    this.used = true
    words[at] = (lo & -4096) | VALID
    words[at + 1] = t.iovaHi
    words[at + DEVICE] = t.device
    words[at + PASID] = t.pasid
    words[at + ACCESS] = t.access
    words[at + PA_HI] = result.paHi
    words[at + PA_LO] = result.paLo & -4096
    words[at + IPA_HI] = result.ipaHi
    words[at + IPA_LO] = result.ipaLo & -4096
    words[at + SIZES] =
      result.sizeLg2 | (result.stage1SizeLg2 << 8) | (result.stage2SizeLg2 << 16) | (result.allowed << 24)
    words[at + ATTRIBUTES] = result.attributes
  }

  clear(): void {
    if (!this.used) return
    this.words.fill(0)
    this.used = false
  }
}
