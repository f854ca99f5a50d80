/**
 * From a StreamID to what its STE says. Arm IHI 0070 G.b §3.3.2, §5.1, §5.2.
 *
 * Without caches an STE is read anew for each transaction. Its checks and its decoding run again only when its
 * words or a register changed: comparing eight words costs less than checking them.
 */
import { ACCESS_EXEC, ACCESS_PRIV, ACCESS_WRITE, NO_PASID, type PhysicalMemory } from "@iommu/core"
import * as deviceTable from "../spec/device-table.ts"
import { EVENTS } from "../spec/events.ts"
import { GRANULE_LG2_TG0, stage2LevelFits, stage2StartLevel } from "../spec/page-tables.ts"
import * as registers from "../spec/registers.ts"
import { DEFAULT_INPUT, overriddenInput } from "./attributes.ts"
import { type Caches, DESCRIPTOR_HI, DESCRIPTOR_LO } from "./caches.ts"
import type { FaultSite } from "./events.ts"
import type { Features } from "./options.ts"
import type { Registers } from "./registers.ts"
import type { Tracer } from "./trace.ts"
import { Stage2Config } from "./transaction.ts"

// V8 loads a binding of another module from memory at each use, one of its own not, and takes long to find it first.
const ste = { ...deviceTable }
const reg = { ...registers }

/** Translation regimes of Non-secure streams, §5.2 STRW. */
export const WORLD_EL1 = 0
export const WORLD_EL2 = 1
export const WORLD_EL2_E2H = 2

/** {@link StreamTable.find} found an STE that aborts without an event. */
export const ABORT = -1

/** {@link DeviceEntry.contextOf}: stage 1 is skipped. */
export const SKIP_STAGE1 = -1

/** A valid STE, decoded. */
export class DeviceEntry {
  streamId = 0
  stage1 = false
  stage2 = false
  s1Fmt = 0
  s1ContextHi = 0
  s1ContextLo = 0
  s1CdMax = 0
  s1Dss = 0
  stallsOff = false
  world: number = WORLD_EL1
  /** PRIVCFG or INSTCFG replaces what the device says. */
  overrides = false
  privCfg = 0
  instCfg = 0
  s2Records = false
  s2Stalls = false
  readonly stage2Config: Stage2Config = new Stage2Config()
  /** Why the STE is ILLEGAL. */
  reason = ""
  /** STE.EATS where it is not IGNORED, else 0. */
  eats: number = ste.EATS_NONE
  /** STE.PPAR; known for aborting streams too. */
  answersWithPasid = false
  /** STE.MEV. */
  merges = false
  /** Attributes of the input, with the overrides of MTCFG, ALLOCCFG and SHCFG. */
  input: number = DEFAULT_INPUT

  /**
   * Which CD a transaction uses. §5.2 S1CDMax, S1DSS.
   * @returns an index, {@link SKIP_STAGE1}, or minus the number of the event
   */
  contextOf(pasid: number): number {
    if (!this.stage1) return pasid === NO_PASID ? SKIP_STAGE1 : -EVENTS.C_BAD_SUBSTREAMID
    if (pasid === NO_PASID) {
      if (this.s1CdMax === 0 || this.s1Dss === ste.S1DSS_SSID0) return 0
      return this.s1Dss === ste.S1DSS_BYPASS ? SKIP_STAGE1 : -EVENTS.F_STREAM_DISABLED
    }
    if (this.s1CdMax === 0 || pasid < 0 || pasid >= 2 ** this.s1CdMax) return -EVENTS.C_BAD_SUBSTREAMID
    return pasid === 0 && this.s1Dss === ste.S1DSS_SSID0 ? -EVENTS.F_STREAM_DISABLED : pasid
  }

  /** ACCESS_* bits as PRIVCFG and INSTCFG have them; writes stay data. §5.2. */
  overridden(access: number): number {
    let bits = this.privCfg >= ste.PRIVCFG_UNPRIVILEGED ? access & ~ACCESS_PRIV : access
    if (this.privCfg === ste.PRIVCFG_PRIVILEGED) bits |= ACCESS_PRIV
    if (this.instCfg < ste.INSTCFG_DATA || (access & ACCESS_WRITE) !== 0) return bits
    return this.instCfg === ste.INSTCFG_INSTRUCTION ? bits | ACCESS_EXEC : bits & ~ACCESS_EXEC
  }
}

/** Words of an STE that have a meaning here. */
const WORDS_USED = 8

export class StreamTable {
  /** The STE found last. */
  entry: DeviceEntry = new DeviceEntry()
  trace: Tracer | null = null
  private readonly memory: PhysicalMemory
  private readonly registers: Registers
  private readonly site: FaultSite
  private readonly caches: Caches
  /** Registers in the form the look-up needs. */
  private generation = -1
  private baseHi = 0
  private baseLo = 0
  private sizeLg2 = 0
  private split = 0
  private twoLevel = false
  private outputShift = 0
  /** The STE decoded last, and what came out. */
  private readonly decoded = new Int32Array(WORDS_USED)
  private status = 0
  private fresh = false

  constructor(memory: PhysicalMemory, registers: Registers, site: FaultSite, caches: Caches) {
    this.memory = memory
    this.registers = registers
    this.site = site
    this.caches = caches
  }

  /** @returns 0 with {@link entry} filled, {@link ABORT}, or the number of the event */
  find(streamId: number): number {
    if (this.caches.keepsStructures) return this.findKept(streamId)
    const at = this.locate(streamId)
    if (at < 0) return -at
    this.entry.streamId = streamId
    return this.matches(at) ? this.status : this.decode(at)
  }

  private findKept(streamId: number): number {
    const { streams } = this.caches
    const kept = streams.find(streamId, 0)
    if (kept >= 0) {
      this.entry = streams.object(kept)
      return streams.status(kept)
    }
    const at = this.locate(streamId)
    if (at < 0) return -at
    const record = streams.insert(streamId, 0)
    this.caches.forgetEntries()
    this.entry = streams.object(record)
    this.entry.streamId = streamId
    const status = this.decode(at)
    streams.setStatus(record, status)
    return status
  }

  /** Word index of an STE, or minus the number of the event. */
  private locate(streamId: number): number {
    if (this.generation !== this.registers.generation) this.configure()
    if (this.sizeLg2 < 32 && streamId >>> this.sizeLg2 !== 0) return -EVENTS.C_BAD_STREAMID
    let tableHi = this.baseHi
    let tableLo = this.baseLo
    let index = streamId
    if (this.twoLevel) {
      const status = this.level1(streamId)
      if (status !== 0) return -status
      tableHi = this.site.fetchHi
      tableLo = this.site.fetchLo
      index = streamId & ((1 << this.split) - 1)
    }
    const at = this.read(tableHi | (index >>> 26), tableLo | (index << 6))
    if (at < 0) return -EVENTS.F_STE_FETCH
    if (this.trace !== null) this.trace.ste(tableHi, tableLo, index, at)
    return at
  }

  /** Takes over what registers say; when they change, or with the next transaction after that. */
  configure(): void {
    const r = this.registers
    const cfg = r.get("STRTAB_BASE_CFG")
    const literal = cfg & reg.STRTAB_BASE_CFG_LOG2SIZE
    const split = (cfg & reg.STRTAB_BASE_CFG_SPLIT) >>> reg.STRTAB_BASE_CFG_SPLIT_SHIFT
    const fmt = (cfg & reg.STRTAB_BASE_CFG_FMT) >>> reg.STRTAB_BASE_CFG_FMT_SHIFT
    this.generation = r.generation
    this.fresh = false
    this.outputShift = r.features.oasBits - 32
    this.sizeLg2 = Math.min(literal, r.features.sidSize)
    this.split = split === 8 || split === 10 ? split : 6
    this.twoLevel = r.features.twoLevelStreamTable && fmt === reg.STRTAB_FMT_2LVL
    // The table is aligned by its literal size, §6.3.24.
    const alignLg2 = this.twoLevel ? Math.max(6, literal - this.split + 3) : literal + 6
    const base = r.get64("STRTAB_BASE") & ~((1n << BigInt(alignLg2)) - 1n)
    this.baseHi = Number(base >> 32n) & reg.STRTAB_BASE_ADDR_HI
    this.baseLo = Number(base & BigInt(reg.STRTAB_BASE_ADDR_LO)) | 0
  }

  /** Leaves the Level 2 array's address in the site. Out of bounds is C_BAD_STREAMID, §5.1.1. */
  private level1(streamId: number): number {
    const index = streamId >>> this.split
    const kept = this.caches.streamTables.find(0, index, this.split)
    if (kept >= 0) {
      const { words } = this.caches.streamTables.store
      return this.follow(
        streamId,
        words[kept + DESCRIPTOR_HI] as number,
        words[kept + DESCRIPTOR_LO] as number,
      )
    }
    const at = this.read(this.baseHi | (index >>> 29), this.baseLo | (index << 3))
    if (at < 0) return EVENTS.F_STE_FETCH
    const { words } = this.memory
    if (this.trace !== null) this.trace.l1std(this.baseHi, this.baseLo, index, at)
    this.caches.streamTables.insert(0, index, this.split, words[at + 1], words[at])
    return this.follow(streamId, words[at + 1], words[at])
  }

  private follow(streamId: number, high: number, low: number): number {
    const span = low & ste.L1STD_SPAN
    if (span === 0 || span > ste.L1STD_SPAN_LAST || span > this.split + 1) return EVENTS.C_BAD_STREAMID
    if ((streamId & ((1 << this.split) - 1)) >>> (span - 1) !== 0) return EVENTS.C_BAD_STREAMID
    this.site.fetchHi = high & ste.L1STD_L2PTR_HI
    this.site.fetchLo = low & ste.L1STD_L2PTR_LO & -(1 << (span + 5))
    return 0
  }

  /** Word index of a structure, or -1 with the site's fetch address set; beyond the OAS no memory answers. */
  private read(hi: number, lo: number): number {
    const at = hi >>> this.outputShift === 0 ? this.memory.find(hi, lo) : -1
    if (at < 0) {
      this.site.fetchHi = hi
      this.site.fetchLo = lo
    }
    return at
  }

  private matches(at: number): boolean {
    const w = this.memory.words
    const d = this.decoded
    const low = (w[at] ^ d[0]) | (w[at + 1] ^ d[1]) | (w[at + 2] ^ d[2]) | (w[at + 3] ^ d[3])
    const high = (w[at + 4] ^ d[4]) | (w[at + 5] ^ d[5]) | (w[at + 6] ^ d[6]) | (w[at + 7] ^ d[7])
    return (low | high) === 0 && this.fresh
  }

  private decode(at: number): number {
    for (let i = 0; i < WORDS_USED; i++) this.decoded[i] = this.memory.words[at + i]
    this.fresh = true
    this.status = this.classify()
    return this.status
  }

  private classify(): number {
    const w = this.decoded
    const { features } = this.registers
    if ((w[0] & ste.V) === 0) return this.bad("V is 0")
    const config = (w[0] & ste.CONFIG) >>> ste.CONFIG_SHIFT
    const e = this.entry
    e.answersWithPasid = (w[2] & ste.PPAR) !== 0
    if ((config & ste.CONFIG_BYPASS) === 0) return ABORT
    const reason = illegal(w, config, features)
    if (reason !== null) return this.bad(reason)
    e.stage1 = (config & ste.CONFIG_S1_BIT) !== 0
    e.stage2 = (config & ste.CONFIG_S2_BIT) !== 0
    e.s1Fmt = (w[0] & ste.S1FMT) >>> ste.S1FMT_SHIFT
    e.s1ContextHi = w[1] & ste.S1CONTEXTPTR_HI
    e.s1ContextLo = w[0] & ste.S1CONTEXTPTR_LO
    e.s1CdMax = features.ssidSize === 0 ? 0 : w[1] >>> ste.S1CDMAX_SHIFT
    e.s1Dss = w[2] & ste.S1DSS
    e.stallsOff = (w[2] & ste.S1STALLD) !== 0
    e.world = this.world(w[2], config)
    e.privCfg = features.permissionOverrides ? (w[3] & ste.PRIVCFG) >>> ste.PRIVCFG_SHIFT : 0
    e.instCfg = features.permissionOverrides ? (w[3] & ste.INSTCFG) >>> ste.INSTCFG_SHIFT : 0
    e.overrides = e.privCfg >= ste.PRIVCFG_UNPRIVILEGED || e.instCfg >= ste.INSTCFG_DATA
    e.s2Records = (w[5] & ste.S2R) !== 0
    e.s2Stalls = (w[5] & ste.S2S) !== 0
    e.eats = effectiveEats(w, config, features)
    e.merges = (w[2] & ste.MEV) !== 0
    e.input = features.typeOverrides ? overriddenInput(w[3]) : DEFAULT_INPUT
    // Without stage 2 the field is 0, which is the tag then. §3.17.
    e.stage2Config.vmid = features.s2p && e.world === WORLD_EL1 ? w[4] & ste.S2VMID : 0
    if (e.stage2) this.configureStage2(e.stage2Config)
    return 0
  }

  private configureStage2(config: Stage2Config): void {
    const { decoded: w, memory } = this
    const { features } = this.registers
    config.updateAccess = (w[5] & ste.S2HA) !== 0
    config.updateDirty = config.updateAccess && (w[5] & ste.S2HD) !== 0
    config.accessFaultsOff = (w[5] & ste.S2AFFD) !== 0
    config.protectTables = (w[5] & ste.S2PTW) !== 0
    config.forceWriteBack = features.fwb && (w[2] & ste.S2FWB) !== 0
    config.xnx = features.xnx
    config.tabulate()
    const shape = stage2Shape(w, features)
    const startLevel = shape.startLevel ?? 0
    const bigEndian = (w[5] & ste.S2ENDI) !== 0
    const inStage1 = { limitMask: 0, topByteIgnored: false, unprivilegedOff: false }
    const updatesDirty = config.updateDirty
    config.geometry.fill(
      { ...shape, ...inStage1, startLevel, oasBits: features.oasBits, bigEndian, updatesDirty },
      memory,
    )
  }

  private bad(reason: string): number {
    this.entry.reason = reason
    return EVENTS.C_BAD_STE
  }

  private world(word2: number, config: number): number {
    if (strwUnused(config, this.registers.features)) return WORLD_EL1
    if ((word2 & ste.STRW) >>> ste.STRW_SHIFT !== ste.STRW_EL2) return WORLD_EL1
    return (this.registers.get("CR2") & reg.CR2_E2H) !== 0 ? WORLD_EL2_E2H : WORLD_EL2
  }
}

/** §5.2.2 IgnoreSTESTRW, for Non-secure streams. */
function strwUnused(config: number, features: Features): boolean {
  return !features.s1p || !features.hyp || config !== ste.CONFIG_S1
}

/** EATS is IGNORED without ATS and without translation, and 3 needs a DPT, which is not modelled. §5.2 EATS. */
function effectiveEats(w: Int32Array, config: number, features: Features): number {
  if (!features.ats || config === ste.CONFIG_BYPASS) return ste.EATS_NONE
  const eats = (w[2] & ste.EATS) >>> ste.EATS_SHIFT
  return eats > ste.EATS_SPLIT ? ste.EATS_NONE : eats
}

/** §5.2.2 SteIllegal for Non-secure streams; null when legal. Config is 4 to 7. */
function illegal(w: Int32Array, config: number, features: Features): string | null {
  const stage1 = (config & ste.CONFIG_S1_BIT) !== 0
  const stage2 = (config & ste.CONFIG_S2_BIT) !== 0
  if (stage1 && !features.s1p) return "Config enables stage 1, which IDR0.S1P says is not there"
  if (stage2 && !features.s2p) return "Config enables stage 2, which IDR0.S2P says is not there"
  const eats = effectiveEats(w, config, features)
  const stalls = (w[5] & ste.S2S) !== 0
  if (eats === ste.EATS_SPLIT && (config !== ste.CONFIG_NESTED || stalls || features.ns1ats)) {
    return "EATS asks for split-stage ATS, which needs both stages, S2S 0 and IDR0.NS1ATS 0"
  }
  if (eats === ste.EATS_FULL && stalls && stage2) return "EATS asks for full ATS on a stream with S2S 1"
  if (!strwUnused(config, features) && (w[2] & (1 << ste.STRW_SHIFT)) !== 0) return "STRW is Reserved"
  const reason = (stage1 ? illegalStage1(w, features) : null) ?? (stage2 ? illegalStage2(w, features) : null)
  if (reason !== null) return reason
  const el1 = strwUnused(config, features) || (w[2] & ste.STRW) === 0
  const usesVmid = features.s2p && config !== ste.CONFIG_BYPASS && el1
  if (usesVmid && !features.vmid16 && (w[4] & 0xff00) !== 0) return "S2VMID has more than 8 bits"
  return null
}

function illegalStage1(w: Int32Array, features: Features): string | null {
  if ((w[2] & ste.S1STALLD) !== 0 && features.stallModel !== 0) {
    return "S1STALLD is 1 where IDR0.STALL_MODEL leaves no choice"
  }
  const cdMax = w[1] >>> ste.S1CDMAX_SHIFT
  const fmt = (w[0] & ste.S1FMT) >>> ste.S1FMT_SHIFT
  if (features.ssidSize !== 0) {
    if (cdMax > features.ssidSize) return "S1CDMax exceeds IDR1.SSIDSIZE"
    const twoLevel = fmt === ste.S1FMT_4KB_L2 || fmt === ste.S1FMT_64KB_L2
    if (cdMax !== 0 && twoLevel && !features.cd2l) return "S1Fmt has two levels where IDR0.CD2L is 0"
  }
  const stage2 = (w[0] & (ste.CONFIG_S2_BIT << ste.CONFIG_SHIFT)) !== 0
  const bits = stage2 ? features.iasBits : features.oasBits
  if ((w[1] & ste.S1CONTEXTPTR_HI) >>> (bits - 32) !== 0) return "S1ContextPtr exceeds the address size"
  return null
}

function illegalStage2(w: Int32Array, features: Features): string | null {
  const f = features
  const stalls = (w[5] & ste.S2S) !== 0
  if (stalls && f.stallModel === 1) return "S2S is 1 where IDR0.STALL_MODEL has no stalls"
  if (!stalls && f.stallModel === 2) return "S2S is 0 where IDR0.STALL_MODEL forces stalls"
  if ((w[5] & ste.S2AA64) === 0 || !f.aarch64) return "S2AA64 selects a table format that is not there"
  if ((w[5] & (ste.S2HA | ste.S2HD)) !== 0 && f.httu === 0) return "S2HA or S2HD is 1 where IDR0.HTTU is 0"
  if ((w[5] & ste.S2HD) !== 0 && f.httu === 1) return "S2HD is 1 where IDR0.HTTU has the Access flag alone"
  const s = stage2Shape(w, features)
  if (!f.hasGranule(s.granuleLg2)) return "S2TG selects a granule that is not there"
  const rootBits = s.granuleLg2 === 16 || s.ds ? s.outputBits : Math.min(s.outputBits, 48)
  if (s.rootHi >>> (rootBits - 32) !== 0) return "S2TTB exceeds the output size"
  const most = f.smallTables ? (s.granuleLg2 === 16 ? 47 : 48) : 39
  const least = s.granuleLg2 === 16 || s.ds ? 12 : 16
  const t0sz = w[5] & ste.S2T0SZ
  // SMMUv3.0 has no lower bound but the IAS, §5.2 S2T0SZ.
  if (t0sz > most || t0sz < Math.max(f.minor === 0 ? 0 : least, 64 - f.iasBits))
    return "S2T0SZ is out of range"
  if (s.startLevel === undefined || !stage2LevelFits(s.granuleLg2, 64 - t0sz, s.startLevel)) {
    return "S2SL0 does not fit S2T0SZ and S2TG"
  }
  if ((w[5] & ste.S2ENDI) !== 0 ? !f.bigEndian : !f.littleEndian)
    return "S2ENDI selects an endianness that is not there"
  return null
}

function stage2Shape(w: Int32Array, features: Features) {
  const granuleLg2 = GRANULE_LG2_TG0[(w[5] & ste.S2TG) >>> ste.S2TG_SHIFT]
  const ds = features.ds && granuleLg2 !== 16 && (w[6] & ste.S2DS) !== 0
  const sl = (w[5] & ste.S2SL0) >>> ste.S2SL0_SHIFT
  const sl2 = ds && granuleLg2 === 12 && (w[6] & ste.S2SL0_2) !== 0 ? 4 : 0
  return {
    granuleLg2,
    ds,
    inputBits: 64 - (w[5] & ste.S2T0SZ),
    startLevel: stage2StartLevel(granuleLg2, sl | sl2, ds),
    outputBits: features.outputBits((w[5] & ste.S2PS) >>> ste.S2PS_SHIFT),
    // VMSAv8-64 has bits 51:4 of the base; 55:52 are RES0.
    rootHi: w[7] & 0x000f_ffff,
    rootLo: w[6] & ste.S2TTB_LO,
    sharing: (w[5] & ste.S2SH0) >>> ste.S2SH0_SHIFT,
  }
}
