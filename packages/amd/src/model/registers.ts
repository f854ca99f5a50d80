/**
 * The register file. AMD 48882 rev 3.10, §3.4.
 *
 * It stores; {@link RegisterEffects} says what a write sets in motion. Registers that cost nothing to keep but that
 * nothing here acts on (SMI filters, MARC, performance counters) are left out: they read as zero.
 */
import { fromHalves, hi32, lo32, type Mmio, type RegisterSpecs } from "@iommu/core"
import * as reg from "../spec/registers.ts"

/** What must happen after a write has been stored. Called once per write and register, whatever the width. */
export interface RegisterEffects {
  /** @param controlBefore low half of CONTROL before the write */
  onWrite(name: reg.RegisterName, controlBefore: number): void
}

type Halves = readonly [lo: number, hi: number]
type Masks = Partial<Record<reg.RegisterName, Halves>>

const BUFFER: Halves = [reg.BASE_LO, reg.BASE_HI | 0x0f00_0000]
const POINTER: Halves = [reg.POINTER_MASK, 0]
const SEGMENT: Halves = [reg.BASE_LO | reg.DEVTAB_SEG_SIZE, reg.BASE_HI]
/** XT_*_INT_CONTROL: destination mode, destination, vector, delivery mode. */
const XT: Halves = [0xffff_ff04, 0xff00_01ff]
const ALL: Halves = [0xffff_ffff, 0xffff_ffff]

/** Bits that a write stores whatever the features are: of CONTROL IommuEn to CmdBufEn, SlfWBDis and IRTCacheDis. */
const WRITABLE: Masks = {
  DEVTAB_BASE: [reg.BASE_LO | reg.DEVTAB_SIZE, reg.BASE_HI],
  CMDBUF_BASE: BUFFER,
  EVTLOG_BASE: BUFFER,
  CONTROL: [0x0080_1fff, 0x0800_0000],
  EXCL_BASE: [reg.BASE_LO | reg.EXCL_ExEn | reg.EXCL_Allow, reg.BASE_HI],
  EXCL_LIMIT: [reg.BASE_LO, reg.BASE_HI],
  MSI_CAP_HEADER: [0x0071_0000, 0],
  MSI_ADDR_LO: [0xffff_fffc, 0],
  MSI_ADDR_HI: ALL,
  MSI_DATA: [0xffff, 0],
  CMD_HEAD: POINTER,
  CMD_TAIL: POINTER,
  EVT_HEAD: POINTER,
  EVT_TAIL: POINTER,
}

/** Bits that are reserved without a feature, §3.4: by its field in EXT_FEATURES. */
const FEATURED: readonly (readonly [feature: keyof typeof reg.fieldsEXT_FEATURES, masks: Masks])[] = [
  ["PPRSup", { CONTROL: [0xe000, 0], PPR_BASE: BUFFER, PPR_HEAD: POINTER, PPR_TAIL: POINTER }],
  ["XTSup", { CONTROL: [0, 0xc_0000], XT_GEN_INT_CONTROL: XT, XT_PPR_INT_CONTROL: XT }],
  ["GTSup", { CONTROL: [reg.CONTROL_GTEn, 0] }],
  [
    "GASup",
    {
      CONTROL: [0x3e02_0000, 0],
      GALOG_BASE: BUFFER,
      GALOG_TAIL_ADDR: [0xffff_fff8, reg.BASE_HI],
      GALOG_HEAD: [0xfff8, 0],
      GALOG_TAIL: [0xfff8, 0],
      XT_GA_INT_CONTROL: XT,
    },
  ],
  ["HESup", { HWEV_UPPER: ALL, HWEV_LOWER: ALL }],
  ["SmiFSup", { CONTROL: [0x0140_0000, 0] }],
  [
    "DualPprLogSup",
    {
      CONTROL: [0xc000_0000, 0],
      PPRB_BASE: BUFFER,
      PPRB_HEAD: POINTER,
      PPRB_TAIL: POINTER,
      PPRB_OVERFLOW_EARLY: [0xc000_7fff, 0],
    },
  ],
  ["DualEventLogSup", { CONTROL: [0, 3], EVTLOGB_BASE: BUFFER, EVTB_HEAD: POINTER, EVTB_TAIL: POINTER }],
  ["USSup", { CONTROL: [0, 0x60] }],
  [
    "DevTblSegSup",
    {
      CONTROL: [0, 0x1c],
      DEVTAB_SEG1_BASE: SEGMENT,
      DEVTAB_SEG2_BASE: SEGMENT,
      DEVTAB_SEG3_BASE: SEGMENT,
      DEVTAB_SEG4_BASE: SEGMENT,
      DEVTAB_SEG5_BASE: SEGMENT,
      DEVTAB_SEG6_BASE: SEGMENT,
      DEVTAB_SEG7_BASE: SEGMENT,
    },
  ],
  ["PprOvrflwEarlySup", { PPR_OVERFLOW_EARLY: [0xc000_7fff, 0] }],
  ["PprAutoRspSup", { CONTROL: [0, 0x480], PPR_AUTO_RESPONSE: [0x1f, 0] }],
  ["MarcSup", { CONTROL: [0, 0x100] }],
  ["BlkStopMrkSup", { CONTROL: [0, 0x200] }],
  ["PerfOptSup", { PERF_OPT_CONTROL: [0x2000, 0] }],
  ["EPHSup", { CONTROL: [0, 0x2000] }],
  ["HASup", { CONTROL: [0, 0xc000] }],
  ["HDSup", { CONTROL: [0, 0xc000] }],
  ["V2HDDisSup", { CONTROL: [0, reg.CONTROL_GDUpdateDis_HI] }],
  ["GAUpdateDisSup", { CONTROL: [0, reg.CONTROL_GAUpdateDis_HI] }],
  ["vIommuSup", { CONTROL: [0, 0x30_0000] }],
  ["GAPPISup", { CONTROL: [0, 0x80_0000] }],
]

/** MSI_CAP_HEADER: a capability of id 05h with a 64-bit address, one message. */
const MSI_CAP_HEADER = 0x0080_0005

/** Writing a base register sets the pointers of its buffer to zero (§2.4, §2.5). */
const POINTERS_OF: Partial<Record<reg.RegisterName, readonly [reg.RegisterName, reg.RegisterName]>> = {
  CMDBUF_BASE: ["CMD_HEAD", "CMD_TAIL"],
  EVTLOG_BASE: ["EVT_HEAD", "EVT_TAIL"],
  PPR_BASE: ["PPR_HEAD", "PPR_TAIL"],
}

const SPECS: RegisterSpecs = reg.REGISTERS
const NAMES = Object.keys(reg.REGISTERS) as reg.RegisterName[]
/** By dword of the region: the register that lies there. */
const NAME_AT: ReadonlyMap<number, reg.RegisterName> = new Map(
  NAMES.flatMap(name => {
    const [offset, bytes] = reg.REGISTERS[name]
    const dwords: [number, reg.RegisterName][] = [[offset >> 2, name]]
    if (bytes === 8) dwords.push([(offset >> 2) + 1, name])
    return dwords
  }),
)

/** Index of a register's low dword in {@link Registers.dwords}. */
export const dwordOf = (name: reg.RegisterName): number => reg.REGISTERS[name][0] >> 2

const CONTROL = dwordOf("CONTROL")
const EXT_FEATURES = dwordOf("EXT_FEATURES")
const STATUS = dwordOf("STATUS")

export class Registers implements Mmio {
  /** The register page; hot code reads it by {@link dwordOf}. */
  readonly dwords: Uint32Array = new Uint32Array(reg.MMIO_BYTES / 4)
  effects: RegisterEffects | null = null
  /** By dword: what a write stores. */
  readonly #writable = new Uint32Array(reg.MMIO_BYTES / 4)

  constructor(extFeatures: bigint, extFeatures2: bigint) {
    this.set64("EXT_FEATURES", extFeatures)
    this.set64("EXT_FEATURES2", extFeatures2)
    this.set64("MSI_CAP_HEADER", BigInt(MSI_CAP_HEADER))
    this.set64("MSI_VECTOR_0", miscInfo(extFeatures))
    this.configure()
  }

  /** Makes reserved what EXT_FEATURES and EXT_FEATURES2 lack. What registers hold stays. */
  configure(): void {
    this.#writable.fill(0)
    this.#allow(WRITABLE)
    const features = [this.get64("EXT_FEATURES")]
    for (const [feature, masks] of FEATURED) {
      if (reg.EXT_FEATURES.get(features, feature) !== 0n) this.#allow(masks)
    }
    if ((this.dwords[dwordOf("EXT_FEATURES2")] & reg.EFR2_GCR3TRPModeSup) !== 0) {
      this.#allow({ CONTROL: [0, reg.CONTROL_GCR3TRPMode_HI] })
    }
  }

  #allow(masks: Masks): void {
    for (const [name, [lo, hi]] of Object.entries(masks)) {
      const at = dwordOf(name as reg.RegisterName)
      this.#writable[at] |= lo
      if (reg.REGISTERS[name as reg.RegisterName][1] === 8) this.#writable[at + 1] |= hi
    }
  }

  read32(offset: number): number {
    const at = dwordAt(offset)
    return NAME_AT.has(at) ? (this.dwords[at] as number) : 0
  }

  read64(offset: number): bigint {
    return fromHalves(this.read32(offset + 4), this.read32(offset))
  }

  write32(offset: number, value: number): void {
    const at = dwordAt(offset)
    const name = NAME_AT.get(at)
    if (name !== undefined) this.#write(name, [[at, value >>> 0]])
  }

  write64(offset: number, value: bigint): void {
    const at = dwordAt(offset)
    const low = NAME_AT.get(at)
    const high = NAME_AT.get(at + 1)
    if (low !== undefined && low === high) {
      this.#write(low, [
        [at, lo32(value)],
        [at + 1, hi32(value)],
      ])
      return
    }
    if (low !== undefined) this.#write(low, [[at, lo32(value)]])
    if (high !== undefined) this.#write(high, [[at + 1, hi32(value)]])
  }

  get64(name: reg.RegisterName): bigint {
    const at = dwordOf(name)
    return fromHalves(this.dwords[at + 1] as number, this.dwords[at] as number)
  }

  /** Sets a register as hardware does: no masks, no effects. */
  set64(name: reg.RegisterName, value: bigint): void {
    const at = dwordOf(name)
    this.dwords[at] = lo32(value)
    if (reg.REGISTERS[name][1] === 8) this.dwords[at + 1] = hi32(value)
  }

  /** STATUS, low half. */
  get status(): number {
    return this.dwords[STATUS] as number
  }

  set status(value: number) {
    this.dwords[STATUS] = value
  }

  /** CONTROL, low half. */
  get control(): number {
    return this.dwords[CONTROL] as number
  }

  /**
   * DTE.PPR and DTE.GPRP say whether and how page requests are served; otherwise both are reserved. MMIO Offset 0018h,
   * EPHEn, and 0030h, EPHSup.
   */
  get enhancedPageRequests(): boolean {
    const announced = (this.dwords[EXT_FEATURES + 1] as number) & reg.EFR_EPHSup_HI
    return announced !== 0 && ((this.dwords[CONTROL + 1] as number) & reg.CONTROL_EPHEn_HI) !== 0
  }

  #write(name: reg.RegisterName, halves: readonly (readonly [at: number, value: number])[]): void {
    if (this.#isLocked(name)) return
    const controlBefore = this.control
    for (const [at, value] of halves) {
      const before = this.dwords[at]
      const writable = this.#writable[at]
      this.dwords[at] =
        SPECS[name]?.[2] === "RW1C"
          ? before & ~(value & clearable(name, at))
          : (before & ~writable) | (value & writable)
    }
    for (const pointer of POINTERS_OF[name] ?? []) this.set64(pointer, 0n)
    this.effects?.onWrite(name, controlBefore)
  }

  /** Pointers that hardware moves are not written while it does (§3.4: "undefined"; here the write is dropped). */
  #isLocked(name: reg.RegisterName): boolean {
    if (name === "CMD_HEAD") return (this.status & reg.STATUS_CmdBufRun) !== 0
    if (name === "EVT_TAIL") return (this.status & reg.STATUS_EventLogRun) !== 0
    if (name === "PPR_TAIL") return (this.status & reg.STATUS_PprLogRun) !== 0
    return false
  }
}

/** HWEV_STATUS: HEV and HEO. The high halves are reserved. */
function clearable(name: reg.RegisterName, at: number): number {
  if (at !== dwordOf(name)) return 0
  return name === "STATUS" ? reg.STATUS_RW1C : 3
}

/** Widths of addresses. */
function miscInfo(extFeatures: bigint): bigint {
  const { GTSup, HATS } = reg.EXT_FEATURES.decode([extFeatures])
  const [word] = reg.MISC_INFO_0.encode({
    GVAsize: GTSup === 0n ? 0n : 0b010n,
    PAsize: 52n,
    VAsize: HATS < 2n ? 48n : 64n,
  })
  return word as bigint
}

/** Offsets outside the region meet no register. */
function dwordAt(offset: number): number {
  return offset >= 0 && offset < reg.MMIO_BYTES ? offset >>> 2 : -1
}
