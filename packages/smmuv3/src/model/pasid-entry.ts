/**
 * From a SubstreamID to what its Context descriptor says. Arm IHI 0070 G.b §5.3, §5.4.
 *
 * Read anew for each transaction, through stage 2 where that is on; checked and decoded again only when the
 * words, the stream's world or a register changed.
 */
import { ACCESS_READ, type PhysicalMemory } from "@iommu/core"
import { S1FMT_4KB_L2, S1FMT_64KB_L2 } from "../spec/device-table.ts"
import { CLASS_CD, EVENTS } from "../spec/events.ts"
import {
  AP_TABLE_HI,
  GRANULE_LG2_TG0,
  GRANULE_LG2_TG1,
  PXN_TABLE_HI,
  stage1StartLevel,
  XN_TABLE_HI,
} from "../spec/page-tables.ts"
import * as pasidTable from "../spec/pasid-table.ts"
import { type Caches, DESCRIPTOR_HI, DESCRIPTOR_LO } from "./caches.ts"
import { type DeviceEntry, WORLD_EL1, WORLD_EL2 } from "./device-entry.ts"
import type { FaultSite } from "./events.ts"
import type { Features } from "./options.ts"
import type { Registers } from "./registers.ts"
import { REGIME_NESTED } from "./tlb.ts"
import type { Tracer } from "./trace.ts"
import { type Geometry, Stage1Config, type TreeShape } from "./transaction.ts"
import type { Stage2Walk } from "./walk-stage2.ts"

// V8 loads a binding of another module from memory at each use, one of its own not, and takes long to find it first.
const READ = ACCESS_READ
const cd = { ...pasidTable }

/** Words of a CD that have a meaning here. */
const WORDS_USED = 8
/** What table descriptors limit below them. */
const LIMITS: number = PXN_TABLE_HI | XN_TABLE_HI | AP_TABLE_HI

/** A valid CD, decoded. */
export class ContextEntry {
  /** CD.R, S and A. */
  records = false
  stalls = false
  aborts = true
  asid = 0
  /** CD.ASET. */
  unshared = false
  /** CD.MAIR0 and MAIR1. */
  mairLo = 0
  mairHi = 0
  readonly stage1: Stage1Config = new Stage1Config()
  /** Tags of what is translated through the CD, as caches have them. §3.17. */
  tag = 0
  globalTag = 0
  regime = 0
  hasAsids = true
  /** Why the CD is ILLEGAL. */
  reason = ""
}

export class ContextTable {
  /** The CD found last. */
  context: ContextEntry = new ContextEntry()
  trace: Tracer | null = null
  private readonly memory: PhysicalMemory
  private readonly registers: Registers
  private readonly site: FaultSite
  private readonly stage2: Stage2Walk
  private readonly caches: Caches
  private readonly decoded = new Int32Array(WORDS_USED)
  private generation = -1
  private world = WORLD_EL1
  private stallsOff = false
  private status = 0

  constructor(
    memory: PhysicalMemory,
    registers: Registers,
    site: FaultSite,
    stage2: Stage2Walk,
    caches: Caches,
  ) {
    this.memory = memory
    this.registers = registers
    this.site = site
    this.stage2 = stage2
    this.caches = caches
  }

  /** @returns 0 with {@link context} filled, or the number of the event */
  find(entry: DeviceEntry, index: number): number {
    if (this.caches.keepsStructures) return this.findKept(entry, index)
    const at = this.locate(entry, index)
    if (at < 0) return -at
    if (!this.matches(entry, at)) return this.decode(entry, at)
    if (this.caches.keepsWalks) setTags(this.context, entry)
    return this.status
  }

  private findKept(entry: DeviceEntry, index: number): number {
    const { contexts } = this.caches
    const kept = contexts.find(entry.streamId, index)
    if (kept >= 0) {
      this.context = contexts.object(kept)
      return contexts.status(kept)
    }
    const at = this.locate(entry, index)
    if (at < 0) return -at
    const record = contexts.insert(entry.streamId, index)
    this.caches.forgetEntries()
    this.context = contexts.object(record)
    const status = this.decode(entry, at)
    contexts.setStatus(record, status)
    return status
  }

  /** Word index of a CD, or minus the number of the event. */
  private locate(entry: DeviceEntry, index: number): number {
    let tableHi = entry.s1ContextHi
    let tableLo = entry.s1ContextLo
    let inTable = index
    if (entry.s1CdMax !== 0) {
      if (entry.s1Fmt === S1FMT_4KB_L2 || entry.s1Fmt === S1FMT_64KB_L2) {
        const status = this.level1(entry, index, leafLg2(entry.s1Fmt))
        if (status !== 0) return -status
        inTable = index & ((1 << leafLg2(entry.s1Fmt)) - 1)
        tableHi = this.site.fetchHi
        tableLo = this.site.fetchLo
      } else {
        tableLo &= -(1 << (entry.s1CdMax + 6))
      }
    }
    const at = this.fetch(entry, tableHi, tableLo | (inTable << 6))
    if (at >= 0 && this.trace !== null) this.trace.cd(this.site.fetchHi, this.site.fetchLo, inTable, at)
    return at
  }

  /** Leaves the leaf table's address in the site. */
  private level1(entry: DeviceEntry, index: number, leaf: number): number {
    const { contextTables } = this.caches
    const kept = contextTables.find(entry.streamId, index >>> leaf, leaf)
    if (kept >= 0) {
      const { words } = contextTables.store
      return this.follow(
        entry,
        leaf,
        words[kept + DESCRIPTOR_HI] as number,
        words[kept + DESCRIPTOR_LO] as number,
      )
    }
    // The table is aligned to its size, and to 64 bytes.
    const alignLg2 = Math.max(6, entry.s1CdMax - leaf + 3)
    const tableLo = entry.s1ContextLo & -(1 << alignLg2)
    const at = this.fetch(entry, entry.s1ContextHi, tableLo | ((index >>> leaf) << 3))
    if (at < 0) return -at
    const { words } = this.memory
    if (this.trace !== null) this.trace.l1cd(this.site.fetchHi, this.site.fetchLo, index >>> leaf, at)
    contextTables.insert(entry.streamId, index >>> leaf, leaf, words[at + 1], words[at])
    return this.follow(entry, leaf, words[at + 1], words[at])
  }

  private follow(entry: DeviceEntry, leaf: number, high: number, low: number): number {
    if ((low & cd.L1CD_V) === 0) return EVENTS.C_BAD_SUBSTREAMID
    const pointerHi = high & cd.L1CD_L2PTR_HI
    // Beyond the IAS stage 2 refuses by itself; beyond the OAS this is C_BAD_SUBSTREAMID. §3.4.3.
    if (!entry.stage2 && pointerHi >>> (this.registers.features.oasBits - 32) !== 0) {
      return EVENTS.C_BAD_SUBSTREAMID
    }
    this.site.fetchHi = pointerHi
    this.site.fetchLo = low & cd.L1CD_L2PTR_LO & -(1 << (leaf + 6))
    return 0
  }

  /** Word index of a structure, its physical address in the site; or minus the number of the event. */
  private fetch(entry: DeviceEntry, hi: number, lo: number): number {
    const site = this.site
    site.fetchHi = hi
    site.fetchLo = lo
    if (entry.stage2) {
      let status = this.stage2.walk(hi, lo, READ)
      if (status === 0 && this.stage2.forbidsTable()) status = EVENTS.F_PERMISSION
      if (status !== 0) {
        site.stage2(CLASS_CD, hi, lo, true)
        return -status
      }
      site.fetchHi = this.stage2.outHi
      site.fetchLo = this.stage2.outLo
    }
    const at = this.memory.find(site.fetchHi, site.fetchLo)
    return at < 0 ? -EVENTS.F_CD_FETCH : at
  }

  private matches(entry: DeviceEntry, at: number): boolean {
    if (this.generation !== this.registers.generation) return false
    if (this.world !== entry.world || this.stallsOff !== entry.stallsOff) return false
    const w = this.memory.words
    const d = this.decoded
    const low = (w[at] ^ d[0]) | (w[at + 1] ^ d[1]) | (w[at + 2] ^ d[2])
    const high = (w[at + 5] ^ d[5]) | (w[at + 6] ^ d[6]) | (w[at + 7] ^ d[7])
    return (low | high | (w[at + 3] ^ d[3]) | (w[at + 4] ^ d[4])) === 0
  }

  private decode(entry: DeviceEntry, at: number): number {
    for (let i = 0; i < WORDS_USED; i++) this.decoded[i] = this.memory.words[at + i]
    this.generation = this.registers.generation
    this.world = entry.world
    this.stallsOff = entry.stallsOff
    this.status = this.classify()
    setTags(this.context, entry)
    return this.status
  }

  private classify(): number {
    const w = this.decoded
    const { features } = this.registers
    const c = this.context
    const lower = lowerRange(w, this.world, features)
    const upper = upperRange(w, this.world, features)
    const reason =
      illegal(w, this.world, this.stallsOff, features) ?? illegalRanges(w, lower, upper, features)
    if (reason !== null) {
      c.reason = reason
      return EVENTS.C_BAD_CD
    }
    c.records = (w[1] & cd.R) !== 0
    c.stalls = (w[1] & cd.S) !== 0
    c.aborts = (w[1] & cd.A) !== 0
    c.asid = w[1] >>> cd.ASID_SHIFT
    c.unshared = (w[1] & cd.ASET) !== 0
    c.mairLo = w[6]
    c.mairHi = w[7]
    configureStage1(c.stage1, w, this.world, features)
    fillRange(c.stage1.lower, lower, this.memory)
    fillRange(c.stage1.upper, upper, this.memory)
    return 0
  }
}

/** §3.17: any EL2 has no ASIDs and ignores nG, StreamWorlds other than EL1 have no VMIDs. */
function setTags(context: ContextEntry, { world, stage2, stage2Config: { vmid } }: DeviceEntry): void {
  context.tag = (vmid << 16) | (world === WORLD_EL2 ? 0 : context.asid)
  context.globalTag = (vmid << 16) | (context.unshared ? 1 : 0)
  context.regime = world | (stage2 ? REGIME_NESTED : 0)
  context.hasAsids = world !== WORLD_EL2
}

function leafLg2(fmt: number): number {
  return fmt === S1FMT_4KB_L2 ? cd.L2_CDS_LG2_4KB : cd.L2_CDS_LG2_64KB
}

/** One of the two ranges of a CD, as it is in effect. A range without tables is decoded no further. */
type Range =
  | (TreeShape & { readonly enabled: true })
  | (Pick<TreeShape, "topByteIgnored" | "unprivilegedOff"> & { readonly enabled: false })

/** EPDx do not exist for EL2 without E2H, which has the lower range alone. §5.4 EPD0. */
function lowerRange(w: Int32Array, world: number, features: Features): Range {
  const topByteIgnored = (w[1] & cd.TBI0) !== 0
  const unprivilegedOff = features.e0pd && world !== WORLD_EL2 && (w[2] & cd.E0PD0) !== 0
  if ((w[0] & cd.EPD0) !== 0 && world !== WORLD_EL2)
    return { enabled: false, topByteIgnored, unprivilegedOff }
  const granuleLg2 = GRANULE_LG2_TG0[(w[0] & cd.TG0) >>> cd.TG0_SHIFT]
  const inputBits = 64 - (w[0] & cd.T0SZ)
  return {
    enabled: true,
    granuleLg2,
    inputBits,
    startLevel: stage1StartLevel(granuleLg2, inputBits),
    outputBits: features.outputBits(w[1] & cd.IPS),
    oasBits: features.oasBits,
    bigEndian: (w[0] & cd.ENDI) !== 0,
    updatesDirty: updatesDirty(w),
    ds: effectiveDs(w, granuleLg2, features),
    rootHi: w[3] & 0x000f_ffff,
    rootLo: w[2] & cd.TTB0_LO,
    sharing: (w[0] & cd.SH0) >>> cd.SH0_SHIFT,
    limitMask: features.had && (w[2] & cd.HAD0) !== 0 ? 0 : LIMITS,
    topByteIgnored,
    unprivilegedOff,
  }
}

function upperRange(w: Int32Array, world: number, features: Features): Range {
  const topByteIgnored = (w[1] & cd.TBI1) !== 0
  const unprivilegedOff = features.e0pd && world !== WORLD_EL2 && (w[4] & cd.E0PD1) !== 0
  if ((w[0] & cd.EPD1) !== 0 || world === WORLD_EL2)
    return { enabled: false, topByteIgnored, unprivilegedOff }
  const granuleLg2 = GRANULE_LG2_TG1[(w[0] & cd.TG1) >>> cd.TG1_SHIFT]
  const inputBits = 64 - ((w[0] & cd.T1SZ) >>> cd.T1SZ_SHIFT)
  return {
    enabled: true,
    granuleLg2,
    inputBits,
    startLevel: stage1StartLevel(granuleLg2, inputBits),
    outputBits: features.outputBits(w[1] & cd.IPS),
    oasBits: features.oasBits,
    bigEndian: (w[0] & cd.ENDI) !== 0,
    updatesDirty: updatesDirty(w),
    ds: effectiveDs(w, granuleLg2, features),
    rootHi: w[5] & 0x000f_ffff,
    rootLo: w[4] & cd.TTB1_LO,
    sharing: (w[0] & cd.SH1) >>> cd.SH1_SHIFT,
    limitMask: features.had && (w[4] & cd.HAD1) !== 0 ? 0 : LIMITS,
    topByteIgnored,
    unprivilegedOff,
  }
}

/** HD counts with HA alone. */
function updatesDirty(w: Int32Array): boolean {
  return (w[1] & cd.HA) !== 0 && (w[1] & cd.HD) !== 0
}

function effectiveDs(w: Int32Array, granuleLg2: number, features: Features): boolean {
  return features.ds && granuleLg2 !== 16 && (w[5] & cd.DS) !== 0
}

/** §5.4.2 CdIllegal for Non-secure streams; null when legal. */
function illegal(w: Int32Array, world: number, stallsOff: boolean, features: Features): string | null {
  const f = features
  if ((w[0] & cd.V) === 0) return "V is 0"
  const stalls = (w[1] & cd.S) !== 0
  if (stallsOff && stalls) return "S is 1 on a stream with STE.S1STALLD 1"
  if (f.termModel && (w[1] & cd.A) === 0) return "A is 0 where IDR0.TERM_MODEL allows aborts alone"
  if (f.stallModel === 1 && stalls) return "S is 1 where IDR0.STALL_MODEL has no stalls"
  if (f.stallModel === 2 && !stalls) return "S is 0 where IDR0.STALL_MODEL forces stalls"
  if ((w[1] & cd.AA64) === 0 || !f.aarch64) return "AA64 selects a table format that is not there"
  if ((w[1] & (cd.HA | cd.HD)) !== 0 && f.httu === 0) return "HA or HD is 1 where IDR0.HTTU is 0"
  if ((w[1] & cd.HD) !== 0 && f.httu === 1) return "HD is 1 where IDR0.HTTU has the Access flag alone"
  if (world !== WORLD_EL2 && !f.asid16 && w[1] >>> 24 !== 0) return "ASID has more than 8 bits"
  return null
}

function illegalRanges(w: Int32Array, lower: Range, upper: Range, features: Features): string | null {
  if (lower.enabled || upper.enabled) {
    const there = (w[0] & cd.ENDI) !== 0 ? features.bigEndian : features.littleEndian
    if (!there) return "ENDI selects an endianness that is not there"
  }
  return illegalRange(lower, "0", features) ?? illegalRange(upper, "1", features)
}

function illegalRange(range: Range, name: string, features: Features): string | null {
  if (!range.enabled) return null
  const { outputBits } = range
  const large = range.granuleLg2 === 16
  const most = features.smallTables ? (large ? 47 : 48) : 39
  const least = features.va52 && (large || range.ds) ? 12 : 16
  const size = 64 - range.inputBits
  if (size > most || size < least) return `T${name}SZ is out of range`
  if (!features.hasGranule(range.granuleLg2)) return `TG${name} selects a granule that is not there`
  const rootBits = large || range.ds ? outputBits : Math.min(outputBits, 48)
  if (range.rootHi >>> (rootBits - 32) !== 0) return `TTB${name} exceeds the output size`
  return null
}

function configureStage1(config: Stage1Config, w: Int32Array, world: number, features: Features): void {
  const onePrivilege = world === WORLD_EL2
  config.accessFaultsOff = (w[1] & cd.AFFD) !== 0
  config.updateAccess = (w[1] & cd.HA) !== 0
  config.updateDirty = updatesDirty(w)
  config.writeExecuteNever = (w[1] & cd.WXN) !== 0
  config.privilegedAccessNever = !onePrivilege && (w[1] & cd.PAN) !== 0
  config.panCoversExecute = features.epan && (w[3] & cd.EPAN) !== 0
  config.singlePrivilege = onePrivilege
  config.tabulate()
}

function fillRange(geometry: Geometry, range: Range, memory: PhysicalMemory): void {
  geometry.enabled = range.enabled
  geometry.quick = false
  geometry.rootAt = -1
  geometry.topByteIgnored = range.topByteIgnored
  geometry.unprivilegedOff = range.unprivilegedOff
  if (range.enabled) geometry.fill(range, memory)
}
