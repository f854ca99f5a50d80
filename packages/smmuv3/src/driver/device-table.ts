/** The Stream table: STEs for what a stream can be on, and their way into memory. Arm IHI 0070 G.b §3.3.1, §5.1, §5.2. */
import { IommuError, type MemoryAccount, type PageAllocator, type PhysicalMemory } from "@iommu/core"
import { CMD_CFGI_STE, CMD_CFGI_STE_RANGE, LEAF } from "../spec/commands.ts"
import * as ste from "../spec/device-table.ts"
import {
  STRTAB_BASE_CFG_FMT_SHIFT,
  STRTAB_BASE_CFG_SPLIT_SHIFT,
  STRTAB_BASE_RA,
  STRTAB_FMT_2LVL,
  STRTAB_FMT_LINEAR,
} from "../spec/registers.ts"
import {
  ENTRY_WORDS,
  type Entry,
  type EntryKind,
  readEntry,
  restoreEntry,
  updateEntry,
} from "./entry-update.ts"
import type { Features } from "./features.ts"
import { allocRun, freeRun, type PageRun } from "./page-run.ts"
import type { CommandQueue } from "./queue.ts"

/** STEs of one level 2 array: 2^8, one PCI bus. */
const SPLIT = 8
const L2_STES = 1 << SPLIT
/** Level 1 arrays end at 1 MiB, as the drivers in the field have it. */
const MAX_LEVEL1_LG2 = 17

/** Incoming shareability, for streams whose attributes no stage 1 decides. */
const SHCFG_INCOMING = 1n
/** Cacheability and shareability of fetches. */
const WRITE_BACK = 1n
const OUTER_SHAREABLE = 2n
const INNER_SHAREABLE = 3n

/** V = 1, Config = 0: aborts, and leaves no event. */
export const ABORT_STE: Entry = ste.STE.encode({ V: 1n, Config: BigInt(ste.CONFIG_ABORT) })

export function bypassSte(features: Features): Entry {
  return ste.STE.encode({ V: 1n, Config: BigInt(ste.CONFIG_BYPASS), SHCFG: shcfg(features) })
}

/** Where a stream's CDs are. */
export interface ContextTable {
  readonly address: number
  readonly s1Fmt: number
  /** log2 of the CDs. */
  readonly s1CdMax: number
}

/**
 * Stage 1.
 * @param s1dss what transactions without SubstreamID do
 */
export function stage1Ste(features: Features, table: ContextTable, s1dss: number, ats: boolean): Entry {
  const words = ste.STE.encode({
    V: 1n,
    Config: BigInt(ste.CONFIG_S1),
    S1Fmt: BigInt(table.s1Fmt),
    S1CDMax: BigInt(table.s1CdMax),
    S1DSS: BigInt(s1dss),
    S1CIR: WRITE_BACK,
    S1COR: WRITE_BACK,
    S1CSH: INNER_SHAREABLE,
    S1STALLD: features.STALL_MODEL === 0 ? 1n : 0n,
    EATS: eats(ats),
    STRW: BigInt(ste.STRW_EL1),
    SHCFG: s1dss === ste.S1DSS_BYPASS ? shcfg(features) : 0n,
  })
  return words.with(0, (words[0] as bigint) | BigInt(table.address))
}

/** Stage 2 alone. */
export function stage2Ste(features: Features, stage2: Stage2Root, ats: boolean): Entry {
  const cacheable = features.COHACC ? WRITE_BACK : 0n
  const words = ste.STE.encode({
    V: 1n,
    Config: BigInt(ste.CONFIG_S2),
    EATS: eats(ats),
    SHCFG: shcfg(features),
    S2VMID: BigInt(stage2.vmid),
    S2T0SZ: BigInt(64 - stage2.inputBits),
    S2SL0: BigInt(stage2.sl0 & 3),
    S2IR0: cacheable,
    S2OR0: cacheable,
    S2SH0: features.COHACC ? INNER_SHAREABLE : OUTER_SHAREABLE,
    S2TG: BigInt(stage2.tg),
    S2PS: BigInt(stage2.ps),
    S2AA64: 1n,
    S2PTW: 1n,
    S2S: features.STALL_MODEL === 2 ? 1n : 0n,
    S2R: 1n,
    S2SL0_2: BigInt(stage2.sl0 >> 2),
    S2DS: stage2.ds ? 1n : 0n,
  })
  return words.with(3, (words[3] as bigint) | stage2.root)
}

/** Bits of a guest's STE, words 0 and 1, that are taken over for stage 1. */
export interface GuestSte {
  readonly word0: bigint
  readonly word1: bigint
  readonly ats: boolean
}

/** A guest's stage 1 over stage 2; events of the guest may be merged, so that it cannot flood the Event queue. */
export function nestedSte(features: Features, stage2: Stage2Root, guest: GuestSte): Entry {
  const parent = stage2Ste(features, stage2, guest.ats)
  const config = (BigInt(ste.CONFIG_NESTED) << BigInt(ste.CONFIG_SHIFT)) | 1n
  const word1 = (parent[1] as bigint) | guest.word1 | BigInt(ste.MEV)
  return parent.with(0, guest.word0 | config).with(1, word1)
}

/** What an STE says of stage 2. */
export interface Stage2Root {
  readonly root: bigint
  readonly vmid: number
  readonly inputBits: number
  /** S2SL0_2 and S2SL0 as one number. */
  readonly sl0: number
  readonly tg: number
  readonly ps: number
  readonly ds: boolean
}

function shcfg(features: Features): bigint {
  return features.ATTR_TYPES_OVR ? SHCFG_INCOMING : 0n
}

function eats(ats: boolean): bigint {
  return BigInt(ats ? ste.EATS_FULL : ste.EATS_NONE)
}

const ONES: Entry = Array.from({ length: ENTRY_WORDS }, () => (1n << 64n) - 1n)
type SteField = keyof typeof ste.STE.fields

function maskOf(...fields: SteField[]): Entry {
  return ste.STE.encode(Object.fromEntries(fields.map(field => [field, ste.STE.get(ONES, field)])))
}

const USED_ALWAYS = maskOf("V", "Config")
const USED_STAGE1 = union(
  maskOf("S1Fmt", "S1ContextPtr", "S1CDMax", "S1DSS", "S1CIR", "S1COR", "S1CSH"),
  maskOf("S1STALLD", "STRW", "EATS", "MEV", "S2VMID"),
)
const USED_STAGE2 = union(
  maskOf("S2FWB", "EATS", "SHCFG", "MEV", "S2VMID", "S2T0SZ", "S2SL0", "S2IR0", "S2OR0", "S2SH0", "S2TG"),
  maskOf("S2PS", "S2AA64", "S2ENDI", "S2AFFD", "S2PTW", "S2HD", "S2HA", "S2S", "S2R"),
  maskOf("S2SL0_2", "S2DS", "S2TTB"),
)
const USED_SHCFG = maskOf("SHCFG")

/** §5.2: with V = 0 nothing else counts, then Config and S1DSS say what does. */
export const STE_KIND: EntryKind = {
  valid: BigInt(ste.V),
  used: words => {
    if (ste.STE.get(words, "V") === 0n) return maskOf("V")
    const config = Number(ste.STE.get(words, "Config"))
    let used = USED_ALWAYS
    if (config === ste.CONFIG_BYPASS) used = union(used, USED_SHCFG)
    if (config > ste.CONFIG_BYPASS && (config & ste.CONFIG_S1_BIT) !== 0) {
      used = union(used, USED_STAGE1)
      if (Number(ste.STE.get(words, "S1DSS")) === ste.S1DSS_BYPASS) used = union(used, USED_SHCFG)
    }
    return config > ste.CONFIG_BYPASS && (config & ste.CONFIG_S2_BIT) !== 0 ? union(used, USED_STAGE2) : used
  },
}

function union(...masks: Entry[]): Entry {
  return ONES.map((_, i) => masks.reduce((all, mask) => all | (mask[i] as bigint), 0n))
}

/** What the table needs of the SMMU that reads it. */
export interface DeviceTableOwner {
  readonly features: Features
  readonly memory: PhysicalMemory
  readonly pages: PageAllocator
  readonly account: MemoryAccount
  readonly queue: CommandQueue
}

interface Level2 {
  readonly run: PageRun
  streams: number
}

export class DeviceTable {
  readonly run: PageRun
  readonly #owner: DeviceTableOwner
  readonly #twoLevel: boolean
  /** log2 of the StreamIDs that the table covers. */
  readonly #sizeLg2: number
  /** Level 2 arrays by their index in level 1. */
  readonly #level2 = new Map<number, Level2>()

  /** @throws ENOMEM */
  constructor(owner: DeviceTableOwner) {
    const { SIDSIZE, twoLevelStreamTable } = owner.features
    this.#owner = owner
    this.#twoLevel = twoLevelStreamTable && SIDSIZE > SPLIT
    this.#sizeLg2 = this.#twoLevel ? Math.min(SIDSIZE, MAX_LEVEL1_LG2 + SPLIT) : SIDSIZE
    const bytes = this.#twoLevel
      ? 2 ** (this.#sizeLg2 - SPLIT) * ste.L1STD_BYTES
      : 2 ** this.#sizeLg2 * ste.STE_BYTES
    this.run = allocRun(owner.pages, bytes, owner.account)
    if (!this.#twoLevel) this.#fillWithAbort(this.run.address, 2 ** this.#sizeLg2)
  }

  /** STRTAB_BASE, §6.3.24. */
  get baseRegister(): bigint {
    return BigInt(this.run.address) | STRTAB_BASE_RA
  }

  /** STRTAB_BASE_CFG, §6.3.25. */
  get configRegister(): number {
    return this.#twoLevel
      ? (STRTAB_FMT_2LVL << STRTAB_BASE_CFG_FMT_SHIFT) |
          (SPLIT << STRTAB_BASE_CFG_SPLIT_SHIFT) |
          this.#sizeLg2
      : (STRTAB_FMT_LINEAR << STRTAB_BASE_CFG_FMT_SHIFT) | this.#sizeLg2
  }

  /**
   * Makes room for a stream, which aborts at first.
   * @throws ENODEV when the table does not reach the StreamID, ENOMEM
   */
  add(streamId: number): void {
    if (!Number.isInteger(streamId) || streamId < 0 || streamId >= 2 ** this.#sizeLg2) {
      throw new IommuError(
        "ENODEV",
        `StreamID 0x${streamId.toString(16)} is outside the Stream table (2^${this.#sizeLg2} streams)`,
      )
    }
    if (!this.#twoLevel) return
    const index = Math.floor(streamId / L2_STES)
    const level2 = this.#level2.get(index) ?? this.#addLevel2(index)
    level2.streams++
  }

  /** Takes back what {@link add} made. The stream must abort already. */
  remove(streamId: number): void {
    const index = Math.floor(streamId / L2_STES)
    const level2 = this.#level2.get(index)
    if (level2 === undefined || --level2.streams > 0) return
    this.#level2.delete(index)
    this.#owner.memory.write64(this.#level1At(index), 0n)
    this.#forgetLevel2(index)
    freeRun(this.#owner.pages, level2.run)
  }

  /**
   * Changes what a stream does, in the order that a live STE needs.
   * @throws EIO, ETIMEDOUT: the old STE is in place then
   */
  write(streamId: number, words: Entry): void {
    updateEntry(this.#owner.memory, this.#steAt(streamId), words, STE_KIND, () => this.#forget(streamId))
  }

  read(streamId: number): Entry {
    return readEntry(this.#owner.memory, this.#steAt(streamId))
  }

  /** Puts words back that were there before, with hardware that may not answer any more. */
  restore(streamId: number, words: Entry): void {
    restoreEntry(this.#owner.memory, this.#steAt(streamId), words, STE_KIND, () => this.#forget(streamId))
  }

  /** The SMMU's copy of an STE, and of all CDs found through it, §4.3.1. */
  #forget(streamId: number): void {
    this.#owner.queue.push(CMD_CFGI_STE, streamId, LEAF, 0)
    this.#owner.queue.sync()
  }

  #steAt(streamId: number): bigint {
    if (!this.#twoLevel) return BigInt(this.run.address + streamId * ste.STE_BYTES)
    const level2 = this.#level2.get(Math.floor(streamId / L2_STES))
    if (level2 === undefined) throw new Error(`bug: no level 2 array for StreamID ${streamId}`)
    return BigInt(level2.run.address + (streamId % L2_STES) * ste.STE_BYTES)
  }

  #level1At(index: number): bigint {
    return BigInt(this.run.address + index * ste.L1STD_BYTES)
  }

  #addLevel2(index: number): Level2 {
    const { memory, pages, account } = this.#owner
    const run = allocRun(pages, L2_STES * ste.STE_BYTES, account)
    this.#fillWithAbort(run.address, L2_STES)
    const words = ste.L1STD.encode({ Span: BigInt(SPLIT + 1) })
    memory.write64(this.#level1At(index), (words[0] as bigint) | BigInt(run.address))
    try {
      this.#forgetLevel2(index)
    } catch (error) {
      memory.write64(this.#level1At(index), 0n)
      freeRun(pages, run)
      throw error
    }
    const level2 = { run, streams: 0 }
    this.#level2.set(index, level2)
    return level2
  }

  /** All STEs of a level 2 array, and the L1STD on the way to them, §4.3.2. */
  #forgetLevel2(index: number): void {
    this.#owner.queue.push(CMD_CFGI_STE_RANGE, index * L2_STES, SPLIT - 1, 0)
    this.#owner.queue.sync()
  }

  #fillWithAbort(address: number, stes: number): void {
    for (let i = 0; i < stes; i++) {
      this.#owner.memory.write64(BigInt(address + i * ste.STE_BYTES), ABORT_STE[0] as bigint)
    }
  }
}
