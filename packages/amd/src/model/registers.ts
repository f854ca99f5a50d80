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

/** Bits of a register that a write stores, low and high half; absent: all. */
const WRITABLE: Partial<Record<reg.RegisterName, readonly [lo: number, hi: number]>> = {
  DEVTAB_BASE: [reg.BASE_LO | reg.DEVTAB_SIZE, reg.BASE_HI],
  DEVTAB_SEG1_BASE: [reg.BASE_LO | reg.DEVTAB_SEG_SIZE, reg.BASE_HI],
  DEVTAB_SEG2_BASE: [reg.BASE_LO | reg.DEVTAB_SEG_SIZE, reg.BASE_HI],
  DEVTAB_SEG3_BASE: [reg.BASE_LO | reg.DEVTAB_SEG_SIZE, reg.BASE_HI],
  DEVTAB_SEG4_BASE: [reg.BASE_LO | reg.DEVTAB_SEG_SIZE, reg.BASE_HI],
  DEVTAB_SEG5_BASE: [reg.BASE_LO | reg.DEVTAB_SEG_SIZE, reg.BASE_HI],
  DEVTAB_SEG6_BASE: [reg.BASE_LO | reg.DEVTAB_SEG_SIZE, reg.BASE_HI],
  DEVTAB_SEG7_BASE: [reg.BASE_LO | reg.DEVTAB_SEG_SIZE, reg.BASE_HI],
  CMDBUF_BASE: [reg.BASE_LO, reg.BASE_HI | 0x0f00_0000],
  EVTLOG_BASE: [reg.BASE_LO, reg.BASE_HI | 0x0f00_0000],
  PPR_BASE: [reg.BASE_LO, reg.BASE_HI | 0x0f00_0000],
  EXCL_BASE: [reg.BASE_LO | reg.EXCL_ExEn | reg.EXCL_Allow, reg.BASE_HI],
  EXCL_LIMIT: [reg.BASE_LO, reg.BASE_HI],
  CMD_HEAD: [reg.POINTER_MASK, 0],
  CMD_TAIL: [reg.POINTER_MASK, 0],
  EVT_HEAD: [reg.POINTER_MASK, 0],
  EVT_TAIL: [reg.POINTER_MASK, 0],
  PPR_HEAD: [reg.POINTER_MASK, 0],
  PPR_TAIL: [reg.POINTER_MASK, 0],
}

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
const STATUS = dwordOf("STATUS")

export class Registers implements Mmio {
  /** The register page; hot code reads it by {@link dwordOf}. */
  readonly dwords: Uint32Array = new Uint32Array(reg.MMIO_BYTES / 4)
  effects: RegisterEffects | null = null

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

  #write(name: reg.RegisterName, halves: readonly (readonly [at: number, value: number])[]): void {
    if (this.#isLocked(name)) return
    const controlBefore = this.control
    for (const [at, value] of halves) {
      const high = at !== dwordOf(name)
      this.dwords[at] = stored(name, high, this.dwords[at] as number, value)
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

function stored(name: reg.RegisterName, high: boolean, before: number, value: number): number {
  const access = SPECS[name]?.[2]
  if (access === "RO") return before
  if (access === "RW1C") {
    const clearable = high ? 0 : name === "STATUS" ? reg.STATUS_RW1C : 0xffff_ffff
    return before & ~(value & clearable)
  }
  const writable = WRITABLE[name]?.[high ? 1 : 0] ?? 0xffff_ffff
  return value & writable
}

/** Offsets outside the region meet no register. */
function dwordAt(offset: number): number {
  return offset >= 0 && offset < reg.MMIO_BYTES ? offset >>> 2 : -1
}
