/** CD tables: what each SubstreamID of a device translates with. Arm IHI 0070 G.b §3.3.2, §5.3, §5.4. */
import type { MemoryAccount } from "@iommu/core"
import { MAIR_INDEX_CACHE, MAIR_INDEX_DEVICE, MAIR_INDEX_NC } from "../formats/stage1.ts"
import { CMD_CFGI_CD, SUBSTREAMID_SHIFT } from "../spec/commands.ts"
import * as ste from "../spec/device-table.ts"
import * as cd from "../spec/pasid-table.ts"
import {
  atsFields,
  ENTRY_WORDS,
  type Entry,
  type EntryKind,
  incomingShareability,
  readEntry,
  restoreEntry,
  updateEntry,
} from "./device-table.ts"
import type { Features } from "./features.ts"
import type { Hardware, PageRun } from "./hardware.ts"

const L2_CDS = 1 << cd.L2_CDS_LG2_64KB
/** Attributes 0 to 3, picked by AttrIndx of a leaf: those of the formats, and Linux's write-back beyond inner caches. */
const MAIR0 =
  (0x44n << BigInt(8 * MAIR_INDEX_NC)) |
  (0xffn << BigInt(8 * MAIR_INDEX_CACHE)) |
  (0x04n << BigInt(8 * MAIR_INDEX_DEVICE)) |
  (0xf4n << 24n)
/** Attributes 4 to 7, which no leaf picks, have the value that Linux leaves there. */
const MAIR1 = 0xffff_ffffn

/** V = 0: the SubstreamID translates nothing. */
export const NO_CD: Entry = Array.from({ length: ENTRY_WORDS }, () => 0n)

/** What a CD says of stage 1. */
export interface Stage1Root {
  readonly root: bigint
  readonly asid: number
  readonly inputBits: number
  readonly tg: number
  readonly ips: number
  readonly ds: boolean
  /** Hardware sets the Access flag and dirty state. */
  readonly dirty: boolean
}

/** §5.4. TTB1 is off; faults are recorded and abort; the ASID is this SMMU's own (ASET). */
export function contextDescriptor(features: Features, stage1: Stage1Root): Entry {
  const writeBack = features.COHACC ? 1n : 0n
  const words = cd.CD.encode({
    T0SZ: BigInt(64 - stage1.inputBits),
    TG0: BigInt(stage1.tg),
    IR0: writeBack,
    OR0: writeBack,
    SH0: features.COHACC ? 3n : 2n,
    EPD1: 1n,
    V: 1n,
    IPS: BigInt(stage1.ips),
    AA64: 1n,
    HD: stage1.dirty ? 1n : 0n,
    HA: stage1.dirty ? 1n : 0n,
    S: features.STALL_MODEL === 2 ? 1n : 0n,
    R: 1n,
    A: 1n,
    ASET: 1n,
    ASID: BigInt(stage1.asid),
    DS: stage1.ds ? 1n : 0n,
    MAIR0,
    MAIR1,
  })
  return words.with(1, (words[1] as bigint) | stage1.root)
}

/** Where a stream's CDs are. */
export interface ContextTable {
  readonly address: number
  readonly s1Fmt: number
  /** log2 of the CDs. */
  readonly s1CdMax: number
}

/**
 * The STE of a stream with stage 1, §5.2. CD fetches are write-back, inner shareable.
 * @param s1dss what transactions without SubstreamID do
 */
export function stage1Ste(features: Features, table: ContextTable, s1dss: number, ats: boolean): Entry {
  const words = ste.STE.encode({
    V: 1n,
    Config: BigInt(ste.CONFIG_S1),
    S1Fmt: BigInt(table.s1Fmt),
    S1CDMax: BigInt(table.s1CdMax),
    S1DSS: BigInt(s1dss),
    S1CIR: 1n,
    S1COR: 1n,
    S1CSH: 3n,
    S1STALLD: features.STALL_MODEL === 0 ? 1n : 0n,
    ...atsFields(features, ats),
    STRW: BigInt(ste.STRW_EL1),
    SHCFG: s1dss === ste.S1DSS_BYPASS ? incomingShareability(features) : 0n,
  })
  return words.with(0, (words[0] as bigint) | BigInt(table.address))
}

/** With V = 0 nothing else counts, §5.4. */
export const CD_KIND: EntryKind = {
  valid: BigInt(cd.V),
  used: words => {
    const all = (1n << 64n) - 1n
    const valid = ((words[0] as bigint) & BigInt(cd.V)) !== 0n
    return words.map((_, i) => (valid ? all : i === 0 ? BigInt(cd.V) : 0n))
  },
  harmless: words => words.map(() => 0n),
}

/** The CD table of one device. */
export class PasidTable {
  readonly s1Fmt: number
  readonly s1CdMax: number
  readonly #hardware: Hardware
  readonly #streamId: number
  readonly #run: PageRun
  readonly #leaves = new Map<number, PageRun>()

  /**
   * @param cdsLg2 log2 of the SubstreamIDs; 0 for a table of CD 0 alone
   * @param account pays for the table; remembered
   * @throws ENOMEM
   */
  constructor(hardware: Hardware, streamId: number, cdsLg2: number, account: MemoryAccount) {
    const twoLevel = hardware.features.CD2L && cdsLg2 > cd.L2_CDS_LG2_64KB
    const bytes = twoLevel ? 2 ** (cdsLg2 - cd.L2_CDS_LG2_64KB) * cd.L1CD_BYTES : 2 ** cdsLg2 * cd.CD_BYTES
    this.#hardware = hardware
    this.#streamId = streamId
    this.s1CdMax = cdsLg2
    this.s1Fmt = twoLevel ? ste.S1FMT_64KB_L2 : ste.S1FMT_LINEAR
    this.#run = hardware.allocRun(bytes, account)
  }

  /** Physical address of the table, or of its first level. */
  get address(): number {
    return this.#run.address
  }

  /**
   * Makes room for a SubstreamID's CD, so that {@link write} needs no memory.
   * @throws ENOMEM
   */
  reserve(ssid: number): void {
    if (this.s1Fmt === ste.S1FMT_LINEAR) return
    const index = Math.floor(ssid / L2_CDS)
    if (this.#leaves.has(index)) return
    const { memory } = this.#hardware
    const leaf = this.#hardware.allocRun(L2_CDS * cd.CD_BYTES, this.#run.account)
    this.#leaves.set(index, leaf)
    memory.write64(BigInt(this.address + index * cd.L1CD_BYTES), BigInt(leaf.address) | BigInt(cd.L1CD_V))
    this.#forget(ssid, 0)
  }

  /**
   * Changes a CD, in the order that a live one needs. Room must be {@link reserve}d.
   * @throws EIO, ETIMEDOUT: the old CD is in place then
   */
  write(ssid: number, words: Entry): void {
    updateEntry(this.#hardware.memory, this.#cdAt(ssid), words, CD_KIND, () => this.#forget(ssid, 1))
  }

  read(ssid: number): Entry {
    return readEntry(this.#hardware.memory, this.#cdAt(ssid))
  }

  /** Puts words back that were there before, with hardware that may not answer any more. */
  restore(ssid: number, words: Entry): void {
    restoreEntry(this.#hardware.memory, this.#cdAt(ssid), words, CD_KIND, () => this.#forget(ssid, 1))
  }

  /** No STE may point at the table any more. */
  free(): void {
    for (const leaf of this.#leaves.values()) this.#hardware.freeRun(leaf)
    this.#hardware.freeRun(this.#run)
  }

  #cdAt(ssid: number): bigint {
    if (this.s1Fmt === ste.S1FMT_LINEAR) return BigInt(this.address + ssid * cd.CD_BYTES)
    const leaf = this.#leaves.get(Math.floor(ssid / L2_CDS))
    if (leaf === undefined) throw new Error(`bug: no leaf table for SubstreamID ${ssid}`)
    return BigInt(leaf.address + (ssid % L2_CDS) * cd.CD_BYTES)
  }

  /** The SMMU's copy of a CD, and with Leaf = 0 of the L1CD on the way to it, §4.3.3. */
  #forget(ssid: number, leaf: number): void {
    this.#hardware.queue.push(((ssid << SUBSTREAMID_SHIFT) | CMD_CFGI_CD) >>> 0, this.#streamId, leaf, 0)
    this.#hardware.queue.sync()
  }
}
