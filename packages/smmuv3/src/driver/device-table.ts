/**
 * The Stream table, and the way of any STE or CD into memory while the SMMU may be using it. Arm IHI 0070 G.b §3.3.1,
 * §3.21.3, §5.1, §5.2.
 *
 * The SMMU reads an entry in 64-bit pieces, at any time, and keeps what it read until it is told to forget. So at
 * each moment an entry is the old one, the new one, or not valid; and what it ignores may change at any time.
 */
import { IommuError, type PhysicalMemory } from "@iommu/core"
import { CMD_CFGI_STE, CMD_CFGI_STE_RANGE, CMD_PREFETCH_CONFIG, LEAF } from "../spec/commands.ts"
import * as ste from "../spec/device-table.ts"
import {
  STRTAB_BASE_CFG_FMT_SHIFT,
  STRTAB_BASE_CFG_SPLIT_SHIFT,
  STRTAB_BASE_RA,
  STRTAB_FMT_2LVL,
  STRTAB_FMT_LINEAR,
} from "../spec/registers.ts"
import type { Features } from "./features.ts"
import type { Hardware, PageRun } from "./hardware.ts"

/** STEs of one level 2 array: 2^8, one PCI bus. */
const SPLIT = 8
const L2_STES = 1 << SPLIT
/** Level 1 arrays end at 1 MiB, as the drivers in the field have it. */
const MAX_LEVEL1_LG2 = 17

export const ENTRY_WORDS = 8

/** The eight 64-bit words of an STE or a CD. */
export type Entry = readonly bigint[]

/** What one kind of entry is made of. V is bit `valid` of word 0. */
export interface EntryKind {
  readonly valid: bigint
  /** Per word, the bits that the SMMU looks at when an entry has these words. */
  used(words: Entry): Entry
  /** Per word, the bits that may already be new while all others are old: they harm in neither entry. */
  harmless(old: Entry, target: Entry): Entry
}

/** STE.SHCFG of streams whose attributes no stage 1 decides: 1 keeps what comes in, where the field has effect. */
export function incomingShareability({ ATTR_TYPES_OVR }: Features): bigint {
  return ATTR_TYPES_OVR ? 1n : 0n
}

/**
 * ATS, and with it page requests: answers that the SMMU gives by itself carry the PASID (PPAR), as the driver's do. §5.2,
 * §8.1.
 */
export function atsFields({ PRI }: Features, ats: boolean): { EATS: bigint; PPAR: bigint } {
  return { EATS: BigInt(ats ? ste.EATS_FULL : ste.EATS_NONE), PPAR: ats && PRI ? 1n : 0n }
}

/** V = 1, Config = 0: aborts, and leaves no event. */
export const ABORT_STE: Entry = ste.STE.encode({ V: 1n, Config: BigInt(ste.CONFIG_ABORT) })

const ONES: Entry = Array.from({ length: ENTRY_WORDS }, () => (1n << 64n) - 1n)
type SteField = keyof typeof ste.STE.fields

function maskOf(...fields: SteField[]): Entry {
  return ste.STE.encode(Object.fromEntries(fields.map(field => [field, ste.STE.get(ONES, field)])))
}

const USED_ALWAYS = maskOf("V", "Config")
const USED_STAGE1 = union(
  maskOf("S1Fmt", "S1ContextPtr", "S1CDMax", "S1DSS", "S1CIR", "S1COR", "S1CSH"),
  maskOf("S1STALLD", "STRW", "EATS", "PPAR", "MEV", "S2VMID"),
)
const USED_STAGE2 = union(
  maskOf("S2FWB", "EATS", "PPAR", "SHCFG", "MEV", "S2VMID", "S2T0SZ", "S2SL0", "S2IR0", "S2OR0", "S2SH0"),
  maskOf("S2TG", "S2PS", "S2AA64", "S2ENDI", "S2AFFD", "S2PTW", "S2HD", "S2HA", "S2S", "S2R"),
  maskOf("S2SL0_2", "S2DS", "S2TTB"),
)
const USED_SHCFG = maskOf("SHCFG")
const MEV = maskOf("MEV")
const MEV_AND_EATS = maskOf("MEV", "EATS")

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
  // Software must expect merged events with MEV 0, too (§7.3.1). Whoever changes EATS has turned the device's ATS off;
  // only split-stage ATS, and stage 2 stalls beside full ATS, would make the entry ILLEGAL (§5.2 EATS).
  harmless: (...entries) => {
    const mayBeIllegal = entries.some(
      words => Number(ste.STE.get(words, "EATS")) > ste.EATS_FULL || ste.STE.get(words, "S2S") === 1n,
    )
    return mayBeIllegal ? MEV : MEV_AND_EATS
  },
}

function union(...masks: Entry[]): Entry {
  return ONES.map((_, i) => masks.reduce((all, mask) => all | (mask[i] as bigint), 0n))
}

export function readEntry(memory: PhysicalMemory, address: bigint): Entry {
  return Array.from({ length: ENTRY_WORDS }, (_, i) => memory.read64(address + BigInt(i * 8)))
}

/**
 * Brings an entry to its new words. Without a gap in translation when the words that count differ in one 64-bit
 * piece; else through V = 0.
 * @param forget invalidates the SMMU's copies of the entry and waits
 * @throws what `forget` throws; the entry has its old words then
 */
export function updateEntry(
  memory: PhysicalMemory,
  address: bigint,
  target: Entry,
  kind: EntryKind,
  forget: () => void,
): void {
  const old = readEntry(memory, address)
  const put = (words: Entry): void => {
    if (writeChanged(memory, address, words)) forget()
  }
  try {
    for (const words of updateSteps(old, target, kind)) put(words)
  } catch (error) {
    restoreEntry(memory, address, old, kind, forget)
    throw error
  }
}

/** The states through which an entry goes, the last being its new words. Copies are forgotten after each. */
export function updateSteps(old: Entry, target: Entry, kind: EntryKind): Entry[] {
  const harmless = kind.harmless(old, target)
  const counts = (words: Entry): Entry => kind.used(words).map((used, i) => used & ~(harmless[i] as bigint))
  const oldCounts = counts(old)
  const targetCounts = counts(target)
  // What does not count in the old entry may already be new.
  const prepared = old.map((word, i) => {
    const used = oldCounts[i] as bigint
    return (word & used) | ((target[i] as bigint) & ~used)
  })
  const differ = prepared.flatMap((word, i) => {
    const used = targetCounts[i] as bigint
    return ((word ^ (target[i] as bigint)) & used) === 0n ? [] : [i]
  })
  if (differ.length === 0) return [target]
  if (differ.length === 1) {
    const critical = differ[0] as number
    const ready = prepared.with(critical, old[critical] as bigint)
    return [ready, ready.with(critical, target[critical] as bigint), target]
  }
  const invalid = old.with(0, (old[0] as bigint) & ~kind.valid)
  return [invalid, target.with(0, 0n), target]
}

function writeChanged(memory: PhysicalMemory, address: bigint, words: Entry): boolean {
  let changed = false
  words.forEach((word, i) => {
    const at = address + BigInt(i * 8)
    if (memory.read64(at) === word) return
    memory.write64(at, word)
    changed = true
  })
  return changed
}

/**
 * Puts an entry's old words back after hardware failed. V comes last, and copies are forgotten as far as the
 * hardware still answers.
 */
export function restoreEntry(
  memory: PhysicalMemory,
  address: bigint,
  old: Entry,
  kind: EntryKind,
  forget: () => void,
): void {
  for (const words of [old.with(0, (old[0] as bigint) & ~kind.valid), old]) {
    if (!writeChanged(memory, address, words)) continue
    try {
      forget()
    } catch {
      // The failure that led here is the one to report.
    }
  }
}

interface Level2 {
  readonly run: PageRun
  streams: number
}

export class DeviceTable {
  readonly run: PageRun
  readonly #hardware: Hardware
  readonly #twoLevel: boolean
  /** log2 of the StreamIDs that the table covers. */
  readonly #sizeLg2: number
  /** Level 2 arrays by their index in level 1. */
  readonly #level2 = new Map<number, Level2>()

  /** @throws ENOMEM */
  constructor(hardware: Hardware) {
    const { SIDSIZE, twoLevelStreamTable } = hardware.features
    this.#hardware = hardware
    this.#twoLevel = twoLevelStreamTable && SIDSIZE > SPLIT
    this.#sizeLg2 = this.#twoLevel ? Math.min(SIDSIZE, MAX_LEVEL1_LG2 + SPLIT) : SIDSIZE
    const bytes = this.#twoLevel
      ? 2 ** (this.#sizeLg2 - SPLIT) * ste.L1STD_BYTES
      : 2 ** this.#sizeLg2 * ste.STE_BYTES
    this.run = hardware.allocRun(bytes, hardware.account)
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
    this.#hardware.memory.write64(this.#level1At(index), 0n)
    this.#forgetLevel2(index)
    this.#hardware.freeRun(level2.run)
  }

  /**
   * Changes what a stream does, in the order that a live STE needs. The new STE is likely to be used soon, and the
   * SMMU is told so, as Linux does (§4.2.1).
   * @throws EIO, ETIMEDOUT: the old STE is in place then
   */
  write(streamId: number, words: Entry): void {
    updateEntry(this.#hardware.memory, this.#steAt(streamId), words, STE_KIND, () => this.#forget(streamId))
    this.#hardware.queue.hint(CMD_PREFETCH_CONFIG, streamId, 0, 0)
  }

  read(streamId: number): Entry {
    return readEntry(this.#hardware.memory, this.#steAt(streamId))
  }

  /** Puts words back that were there before, with hardware that may not answer any more. */
  restore(streamId: number, words: Entry): void {
    restoreEntry(this.#hardware.memory, this.#steAt(streamId), words, STE_KIND, () => this.#forget(streamId))
  }

  /** The SMMU's copy of an STE, and of all CDs found through it, §4.3.1. */
  #forget(streamId: number): void {
    this.#hardware.queue.push(CMD_CFGI_STE, streamId, LEAF, 0)
    this.#hardware.queue.sync()
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
    const { memory, account } = this.#hardware
    const run = this.#hardware.allocRun(L2_STES * ste.STE_BYTES, account)
    this.#fillWithAbort(run.address, L2_STES)
    const words = ste.L1STD.encode({ Span: BigInt(SPLIT + 1) })
    memory.write64(this.#level1At(index), (words[0] as bigint) | BigInt(run.address))
    try {
      this.#forgetLevel2(index)
    } catch (error) {
      memory.write64(this.#level1At(index), 0n)
      this.#hardware.freeRun(run)
      throw error
    }
    const level2 = { run, streams: 0 }
    this.#level2.set(index, level2)
    return level2
  }

  /** All STEs of a level 2 array, and the L1STD on the way to them, §4.3.2. */
  #forgetLevel2(index: number): void {
    this.#hardware.queue.push(CMD_CFGI_STE_RANGE, index * L2_STES, SPLIT - 1, 0)
    this.#hardware.queue.sync()
  }

  #fillWithAbort(address: number, stes: number): void {
    for (let i = 0; i < stes; i++) {
      this.#hardware.memory.write64(BigInt(address + i * ste.STE_BYTES), ABORT_STE[0] as bigint)
    }
  }
}
