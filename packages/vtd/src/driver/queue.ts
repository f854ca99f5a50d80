/**
 * The invalidation queue. Intel VT-d 5.10 §6.5.2 (descriptors and the queue), §11.4.9 (registers).
 *
 * Descriptors are written in halves and nothing is allocated per descriptor: a VMM that unmaps page by page comes
 * through here for each page. Page numbers are IOVA / 4096 as doubles, which hold 52 bits exactly.
 */
import {
  hi32,
  IommuError,
  type IommuPlatform,
  lo32,
  type MemoryAccount,
  type Mmio,
  type PageAllocator,
} from "@iommu/core"
import * as cmd from "../spec/commands.ts"
import * as reg from "../spec/registers.ts"
import type { Features } from "./features.ts"

/** Bits 5:4 of a descriptor. */
const G_SHIFT = 4
const DID_SHIFT = 16
const IOTLB_DW = 1 << 6
const IOTLB_DR = 1 << 7
const IH = 1 << 6
const DEV_TLB_S = 1 << 0
const P_DEV_TLB_S = 1 << 11
/** Last page in group, bit 66. */
const LPIG = 1 << 2
const WAIT_SW = 1 << 5
const WAIT_FN = 1 << 6
const QUEUE_ERRORS = reg.IQE | reg.ITE | reg.ICE
/** Pages of the 64-bit address space, log2: "everything" to a device-TLB. */
export const ALL_PAGES_LG2 = 52
const TWO_20 = 0x10_0000

export class InvalidationQueue {
  readonly #mmio: Mmio
  readonly #pages: PageAllocator
  readonly #words: Uint32Array
  readonly #account: MemoryAccount
  readonly #maxPolls: number
  readonly #base: number
  readonly #baseWord: number
  readonly #status: number
  readonly #statusHi: number
  readonly #statusLo: number
  readonly #statusWord: number
  /** 256-bit descriptors, which scalable mode asks for (IQA_REG.DW, §11.4.9.3). */
  readonly #isWide: boolean
  readonly #entryLg2: number
  readonly #entries: number
  readonly #drain: number
  readonly #namesFunction: boolean
  #tail = 0
  /** Descriptors since the last wait that completed. */
  #pending = 0
  #cookie = 0

  constructor(platform: IommuPlatform, features: Features, account: MemoryAccount, maxPolls: number) {
    const { memory, mmio, pages } = platform
    this.#mmio = mmio
    this.#pages = pages
    this.#words = memory.words
    this.#account = account
    this.#maxPolls = maxPolls
    this.#isWide = features.scalable
    this.#entryLg2 = this.#isWide ? 5 : 4
    this.#entries = 4096 >> this.#entryLg2
    this.#drain = (features.drainWrites ? IOTLB_DW : 0) | (features.drainReads ? IOTLB_DR : 0)
    this.#namesFunction = features.invalidationThrottle
    this.#base = pages.alloc(0, account)
    try {
      this.#status = pages.alloc(0, account)
    } catch (error) {
      pages.free(this.#base, 0, account)
      throw error
    }
    this.#baseWord = memory.find(hi32(BigInt(this.#base)), lo32(BigInt(this.#base)))
    this.#statusHi = hi32(BigInt(this.#status))
    this.#statusLo = lo32(BigInt(this.#status))
    this.#statusWord = memory.find(this.#statusHi, this.#statusLo)
  }

  /** Puts an empty queue into the registers; the queue must be off (GSTS.QIES). */
  reset(): void {
    this.#tail = 0
    this.#pending = 0
    this.#mmio.write32(reg.REGISTERS.FSTS[0], QUEUE_ERRORS)
    this.#mmio.write64(reg.REGISTERS.IQT[0], 0n)
    this.#mmio.write64(reg.REGISTERS.IQA[0], BigInt(this.#base) | BigInt(this.#isWide ? reg.IQA_DW : 0))
  }

  free(): void {
    this.#pages.free(this.#status, 0, this.#account)
    this.#pages.free(this.#base, 0, this.#account)
  }

  contextCacheGlobal(): void {
    this.#push(cmd.CC_INV | (cmd.CC_GLOBAL << G_SHIFT), 0, 0, 0)
  }

  /** All that is cached of one function's context entry; the domain-id counts in legacy mode only. */
  contextCacheDevice(did: number, sourceId: number): void {
    this.#push(cmd.CC_INV | (cmd.CC_DEVICE << G_SHIFT) | (did << DID_SHIFT), sourceId, 0, 0)
  }

  pasidCacheGlobal(): void {
    this.#push(cmd.PC_INV | (cmd.PC_GLOBAL << G_SHIFT), 0, 0, 0)
  }

  pasidCache(did: number, pasid: number): void {
    this.#push(cmd.PC_INV | (cmd.PC_PASID << G_SHIFT) | (did << DID_SHIFT), pasid, 0, 0)
  }

  iotlbGlobal(): void {
    this.#push(cmd.IOTLB_INV | (cmd.IOTLB_GLOBAL << G_SHIFT) | this.#drain, 0, 0, 0)
  }

  iotlbDomain(did: number): void {
    this.#push(cmd.IOTLB_INV | (cmd.IOTLB_DOMAIN << G_SHIFT) | this.#drain | (did << DID_SHIFT), 0, 0, 0)
  }

  /** 2^pagesLg2 pages, at a page number that is a multiple of that. */
  iotlbPages(did: number, page: number, pagesLg2: number, isLeafOnly: boolean): void {
    const head = cmd.IOTLB_INV | (cmd.IOTLB_PAGE << G_SHIFT) | this.#drain | (did << DID_SHIFT)
    this.#push(head, 0, pageLo(page) | (isLeafOnly ? IH : 0) | pagesLg2, pageHi(page))
  }

  pasidIotlb(did: number, pasid: number): void {
    this.#push(cmd.P_IOTLB_INV | (cmd.P_IOTLB_PASID << G_SHIFT) | (did << DID_SHIFT), pasid, 0, 0)
  }

  pasidIotlbPages(did: number, pasid: number, page: number, pagesLg2: number, isLeafOnly: boolean): void {
    const head = cmd.P_IOTLB_INV | (cmd.P_IOTLB_PAGE << G_SHIFT) | (did << DID_SHIFT)
    this.#push(head, pasid, pageLo(page) | (isLeafOnly ? IH : 0) | pagesLg2, pageHi(page))
  }

  /**
   * Requests without PASID. Where the hardware throttles by physical function (ECAP.DIT), the device is taken for
   * its own (PFSID = SID).
   * @param pagesLg2 {@link ALL_PAGES_LG2} with page 0 for everything
   */
  deviceTlb(sourceId: number, page: number, pagesLg2: number): void {
    const at = sizedPage(page, pagesLg2)
    const pfsid = this.#namesFunction ? sourceId : 0
    const lo0 = cmd.DEV_TLB_INV | ((pfsid & 0xf) << 12)
    const hi0 = sourceId | ((pfsid >>> 4) << 20)
    this.#push(lo0, hi0, pageLo(at) | (pagesLg2 > 0 ? DEV_TLB_S : 0), pageHi(at))
  }

  pasidDeviceTlb(sourceId: number, pasid: number, page: number, pagesLg2: number): void {
    const at = sizedPage(page, pagesLg2)
    const pfsid = this.#namesFunction ? sourceId : 0
    const lo0 = cmd.P_DEV_TLB_INV | ((pfsid & 0xf) << 12) | (sourceId << 16)
    const hi0 = pasid | ((pfsid >>> 4) << 20)
    this.#push(lo0, hi0, pageLo(at) | (pagesLg2 > 0 ? P_DEV_TLB_S : 0), pageHi(at))
  }

  /** Answers the page requests of a group. §7.6.1. @param code a response code of PCIe */
  pageGroupResponse(sourceId: number, pasid: number | null, group: number, code: number): void {
    const lo0 =
      cmd.PAGE_GRP_RESP |
      (pasid === null ? 0 : cmd.PAGE_GRP_PP) |
      (code << cmd.PAGE_GRP_RC_SHIFT) |
      (sourceId << cmd.PAGE_GRP_RID_SHIFT)
    this.#push(lo0, pasid ?? 0, (group << cmd.PAGE_GRP_PRGI_SHIFT_LO1) | LPIG, 0)
  }

  /**
   * Returns when the hardware has completed all descriptors before.
   * @throws EIO when it refused one, ETIMEDOUT when it does not answer
   */
  sync(): void {
    if (this.#pending >= this.#entries - 1) this.#catchUp()
    if (this.#pending === 0) return
    this.#cookie = (this.#cookie + 1) >>> 0
    this.#write(cmd.INV_WAIT | WAIT_SW, this.#cookie, this.#statusLo, this.#statusHi)
    this.#pending++
    this.#ring()
    let refusal = ""
    for (let polls = 0; polls < this.#maxPolls; polls++) {
      refusal = this.#clearErrors() || refusal
      if (this.#words[this.#statusWord] === this.#cookie) {
        this.#pending = 0
        if (refusal !== "") throw new IommuError("EIO", refusal)
        return
      }
    }
    if (refusal !== "") throw new IommuError("EIO", refusal)
    throw new IommuError("ETIMEDOUT", "the invalidation queue did not complete a wait descriptor")
  }

  /** After waits that failed the queue may be full: it is of use again when the hardware has read all of it. */
  #catchUp(): void {
    this.#ring()
    for (let polls = 0; polls < this.#maxPolls; polls++) {
      this.#clearErrors()
      const head = this.#mmio.read32(reg.REGISTERS.IQH[0]) & reg.QUEUE_OFFSET_MASK
      if (head >>> this.#entryLg2 === this.#tail) {
        this.#pending = 0
        return
      }
    }
    throw new IommuError("ETIMEDOUT", "the invalidation queue is full, and the hardware does not read it")
  }

  /** Tells the hardware how far the queue goes. */
  #ring(): void {
    this.#mmio.write32(reg.REGISTERS.IQT[0], this.#tail << this.#entryLg2)
  }

  /** One slot stays free, because a full queue would look empty; one is kept for the wait descriptor. */
  #push(lo0: number, hi0: number, lo1: number, hi1: number): void {
    if (this.#pending >= this.#entries - 2) this.sync()
    this.#write(lo0, hi0, lo1, hi1)
    this.#pending++
  }

  #write(lo0: number, hi0: number, lo1: number, hi1: number): void {
    const at = this.#baseWord + ((this.#tail << this.#entryLg2) >>> 2)
    const words = this.#words
    words[at] = lo0
    words[at + 1] = hi0
    words[at + 2] = lo1
    words[at + 3] = hi1
    if (this.#isWide) words.fill(0, at + 4, at + 8)
    this.#tail = (this.#tail + 1) % this.#entries
  }

  /**
   * Error bits of the queue, §11.4.7.1. A descriptor that the hardware stopped at (IQE) is overwritten with a fence,
   * so that the queue can go on; the caller learns that an invalidation was not done.
   */
  #clearErrors(): string {
    const errors = this.#mmio.read32(reg.REGISTERS.FSTS[0]) & QUEUE_ERRORS
    if (errors === 0) return ""
    let refusal = "a device did not answer an invalidation of its TLB (FSTS.ITE, FSTS.ICE)"
    if ((errors & reg.IQE) !== 0) {
      const head = this.#mmio.read32(reg.REGISTERS.IQH[0]) & reg.QUEUE_OFFSET_MASK & 0xfff
      const why = this.#mmio.read32(reg.REGISTERS.IQERCD[0]) & 0xf
      const at = this.#baseWord + (head >>> 2)
      refusal = `the hardware refused an invalidation descriptor at 0x${head.toString(16)} (IQEI ${why})`
      this.#words.fill(0, at, at + (1 << (this.#entryLg2 - 2)))
      this.#words[at] = cmd.INV_WAIT | WAIT_FN
    }
    this.#mmio.write32(reg.REGISTERS.FSTS[0], errors)
    return refusal
  }
}

function pageLo(page: number): number {
  return (page % TWO_20) * 4096
}

function pageHi(page: number): number {
  return Math.floor(page / TWO_20)
}

/** Device-TLB ranges say their size in the address: the low bits are ones up to a zero. §6.5.2.5. */
function sizedPage(page: number, pagesLg2: number): number {
  return pagesLg2 === 0 ? page : page + 2 ** (pagesLg2 - 1) - 1
}
