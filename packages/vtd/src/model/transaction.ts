/**
 * One request on its way through the remapping unit: what the device asked, what its entries say, what the walks
 * found. One object serves all requests, so that a translation allocates nothing.
 */
import type { PhysicalMemory, WalkStep } from "@iommu/core"
import { ADDR_LO, SS_D } from "../spec/page-tables.ts"
import type { Caches } from "./caches.ts"
import type { Features } from "./options.ts"
import type { Tlb } from "./tlb.ts"

/** How a request is translated, once its entries are read; numbered as PGTT. */
export const MODE_FIRST = 1
export const MODE_SECOND = 2
export const MODE_NESTED = 3
export const MODE_PASS_THROUGH = 4

/** In the place of a second-stage leaf's index, where a cached page was the answer. */
export const LEAF_IS_DIRTY = -1
export const LEAF_NOT_READ = -2

/** What the device sent; for memory requests the number is the address type, AT. */
export const REQUEST_UNTRANSLATED = 0
export const REQUEST_TRANSLATION = 1
export const REQUEST_TRANSLATED = 2
export const REQUEST_PAGE = 3

/** Bits 31:20 of an address in the interrupt address range, FEEx_xxxxh. §3.15. */
export const INTERRUPT_MEGABYTE = 0xfee

/** Levels of paging tables at most; arrays by level have one more slot, index 0 is not used. */
const MAX_LEVELS = 5

export class Transaction {
  readonly memory: PhysicalMemory
  readonly caches: Caches
  readonly tlb: Tlb
  features: Features
  /** RTADDR_REG as of the last SRTP. */
  rootHi = 0
  rootLo = 0
  trace: ((step: WalkStep) => void) | null = null

  /** REQUEST_* */
  request = 0
  device = 0
  /** PASID of the request, -1 without. */
  pasid = -1
  iovaHi = 0
  iovaLo = 0
  access = 0

  /** The context entry, as read or from the context-cache: bits 63:0, and 31:0 of the second word. */
  contextLo = 0
  contextHi = 0
  contextLo1 = 0
  /** The PASID table entry, as read or from the PASID-cache: what the translation depends on. */
  pasidLo = 0
  pasidHi = 0
  pasidLo1 = 0
  /** PAT. */
  pasidHi1 = 0
  pasidLo2 = 0
  pasidHi2 = 0

  /** Legacy mode reports other fault reasons than scalable mode. */
  legacy = false
  mode = 0
  domainId = 0
  /** The PASID that chose the PASID table entry: the request's, or RID_PASID. */
  effectivePasid = 0
  privileged = false
  /** An FPD bit was set in an entry on the way. */
  fpd = false
  ssTableHi = 0
  ssTableLo = 0
  ssLevels = 0
  /** Index in memory.words of the root table; -1 where no memory answers, and in volatile memory. */
  ssRootAt = -1
  /** What plain walks ask of addresses and entries, from {@link features}. */
  ssMaxHi = 0
  ssRsvdHi = 0
  ssPageRsvdLo = 0
  /** SS_A when SSADE is set, 0 when not. */
  ssAccessed = 0
  /** SS_D when SSADE is set. */
  ssDirty = 0
  fsTableHi = 0
  fsTableLo = 0
  fsLevels = 0
  /** As {@link ssRootAt}; the tables of a nested first stage lie elsewhere. */
  fsRootAt = -1
  /** Upper bits of an address that {@link fsLevels} do not use. */
  fsUnused = 0
  fsRsvdHi = 0
  /** FS_* that a read needs in all entries. */
  fsWanted = 0
  wpe = false
  eafe = false
  /** Page walks snoop caches; without it no A/D flag can be updated. */
  pwsnp = false

  /** The IOTLB may have this kind of translation; what a record must grant for it. */
  looksUp = false
  neededToRead = 0
  neededToWrite = 0

  /** Result of the last second-stage walk. */
  ssPaHi = 0
  ssPaLo = 0
  ssSizeLg2 = 0
  /** SS_R and SS_W of all levels together. */
  ssPermissions = 0
  /** Index in memory.words of the entry at each level. */
  readonly ssAt: Int32Array = new Int32Array(MAX_LEVELS + 1)
  /** Index in memory.words, {@link LEAF_IS_DIRTY} or {@link LEAF_NOT_READ}. */
  ssLeafAt = 0
  ssLeafLevel = 0
  /** Level of the table that the last walk began at: below the root's when a paging-structure cache knew the way. */
  ssStart = 0
  /** SS_R and SS_W of the levels above {@link ssStart}. */
  ssStartPermissions = 0
  /** Bits 31:0 of the leaf. */
  ssLeaf = 0

  /** Result of the first-stage walk: guest physical address when nested. */
  fsPaHi = 0
  fsPaLo = 0
  fsSizeLg2 = 0
  fsLeafLevel = 0
  /** Bits 31:0 of the leaf. */
  fsLeaf = 0
  /** FS_RW and FS_US of all levels together; no level forbids execution. */
  fsWritable = 0
  fsUser = 0
  fsExecutable = false
  /** As {@link ssStart}; rights, flags and execute-disable of the levels above. */
  fsStart = 0
  fsStartRights = 0
  fsStartExecuteDisable = 0
  /** The flags of all levels together, and those of the leaf. */
  fsFlags = 0
  fsLeafFlags = 0
  readonly fsAt: Int32Array = new Int32Array(MAX_LEVELS + 1)
  /** Host address of the table of each level. */
  readonly fsHostHi: Int32Array = new Int32Array(MAX_LEVELS + 1)
  readonly fsHostLo: Int32Array = new Int32Array(MAX_LEVELS + 1)
  /** Nested: permissions of, and the leaf that translated, the address of the entry at each level. */
  readonly fsEntryPermissions: Int32Array = new Int32Array(MAX_LEVELS + 1)
  /** As {@link ssLeafAt}. */
  readonly fsEntryLeafAt: Int32Array = new Int32Array(MAX_LEVELS + 1)

  /** The last leaves' bits that choose attributes, and what they chose; -1 once other entries are read. */
  attributesKey = -1
  attributes = 0
  /** The same for plain walks. */
  plainKey = -1
  plainAttributes = 0

  /** Fault reason, 0 while there is none; the stage that refused, and the entry or address it refused at. */
  reason = 0
  stage: 0 | 1 | 2 = 0
  whereHi = 0
  whereLo = 0

  constructor(memory: PhysicalMemory, features: Features, caches: Caches) {
    this.memory = memory
    this.caches = caches
    this.tlb = caches.tlb
    this.features = features
  }

  /** Takes a request of any kind; translation of memory requests does the same in line. */
  begin(request: number, device: number, pasid: number, hi: number, lo: number, access: number): void {
    this.request = request
    this.device = device & 0xffff
    this.pasid = pasid < 0 ? -1 : pasid
    this.iovaHi = hi | 0
    this.iovaLo = lo | 0
    this.access = access
  }

  /**
   * Table and width of the second stage; AW counts levels from 2.
   * @param accessed SS_A when SSADE is set, 0 when not
   */
  setSecondStage(tableHi: number, tableLo: number, aw: number, accessed: number): void {
    this.ssTableHi = tableHi | 0
    this.ssTableLo = tableLo & ADDR_LO
    this.ssLevels = aw + 2
    this.ssAccessed = accessed
    this.ssDirty = accessed === 0 ? 0 : SS_D
    this.ssRootAt = this.memory.isVolatile ? -1 : this.memory.find(this.ssTableHi, this.ssTableLo)
    this.ssMaxHi = this.features.ssMaxHi[this.ssLevels] as number
    this.ssRsvdHi = this.features.ssRsvdHi
    this.ssPageRsvdLo = this.features.ssPageRsvdLo
  }

  /** Notes a fault. Returns its reason, for `return t.fail(...)`. */
  fail(reason: number, stage: 0 | 1 | 2, whereHi: number, whereLo: number): number {
    this.reason = reason
    this.stage = stage
    this.whereHi = whereHi >>> 0
    this.whereLo = whereLo >>> 0
    return reason
  }
}
