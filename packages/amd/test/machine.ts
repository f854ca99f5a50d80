/**
 * A small machine around the model. Tables are written as raw numbers, bit positions as in the book: nothing here
 * uses the encoders of `src/spec`, so that a bit misread there shows.
 */

import { type AmdModel, type AmdModelOptions, amdModel } from "@iommu/amd"
import {
  createMemory,
  type DmaOutcome,
  type Fault,
  NO_PASID,
  type PhysicalMemory,
  translateRequest,
} from "@iommu/core"

export const bit = (n: number): bigint => 1n << BigInt(n)

export const DTE_V = bit(0)
export const DTE_TV = bit(1)
export const DTE_PPR = bit(52)
export const DTE_GPRP = bit(53)
export const DTE_GIOV = bit(54)
export const DTE_GV = bit(55)
/** In the second word: ATS allowed, secure ATS, table reads do not snoop. */
export const DTE1_I = bit(32)
export const DTE1_SD = bit(38)
export const DTE1_SATS = bit(42)
export const IR = bit(61)
export const IW = bit(62)
export const IRW = IR | IW

/** v1 */
export const PR = bit(0)
export const pde = (next: number, table: bigint, rights = IRW): bigint =>
  table | (BigInt(next) << 9n) | PR | rights
export const page = (address: bigint, rights = IRW): bigint => address | PR | rights
/** NextLevel 7: `ones` are the size's ones in the address. */
export const sized = (address: bigint, size: bigint, rights = IRW): bigint =>
  address | ((((size >> 1n) - 1n) >> 12n) << 12n) | (7n << 9n) | PR | rights

/** v2 */
export const P = bit(0)
export const RW = bit(1)
export const US = bit(2)
export const A = bit(5)
export const D = bit(6)
export const PS = bit(7)
export const NX = bit(63)
export const PRWU = P | RW | US

export const REG = {
  DEVTAB_BASE: 0x0,
  CMDBUF_BASE: 0x8,
  EVTLOG_BASE: 0x10,
  CONTROL: 0x18,
  EXCL_BASE: 0x20,
  EXCL_LIMIT: 0x28,
  EXT_FEATURES: 0x30,
  PPR_BASE: 0x38,
  HWEV_UPPER: 0x40,
  HWEV_LOWER: 0x48,
  HWEV_STATUS: 0x50,
  SEG1: 0x100,
  MSI_CAP: 0x158,
  MSI_LO: 0x15c,
  MSI_HI: 0x160,
  MSI_DATA: 0x164,
  XT_GEN: 0x170,
  CMD_HEAD: 0x2000,
  CMD_TAIL: 0x2008,
  EVT_HEAD: 0x2010,
  EVT_TAIL: 0x2018,
  STATUS: 0x2020,
  PPR_HEAD: 0x2030,
  PPR_TAIL: 0x2038,
  PPR_AUTO_RESPONSE: 0x2080,
  PPR_OVERFLOW_EARLY: 0x2088,
} as const

export const IOMMU_EN = bit(0)
export const EVT_LOG_EN = bit(2)
export const EVT_INT_EN = bit(3)
export const COM_WAIT_INT_EN = bit(4)
export const CMD_BUF_EN = bit(12)
const GT_EN = bit(16)
export const GCR3_TRP_MODE = bit(58)
export const ON: bigint = IOMMU_EN | EVT_LOG_EN | CMD_BUF_EN | GT_EN

/** 2 MiB device table, 4 KiB command buffer and event log, tables from 16 MiB on. */
export const DEVTAB = 0x20_0000n
export const CMDBUF = 0x1000n
export const EVTLOG = 0x2000n
const TABLES = 0x100_0000n
const MEMORY = 0x400_0000n

export class Machine {
  readonly memory: PhysicalMemory
  readonly model: AmdModel
  #nextTable = TABLES
  #commandTail = 0

  constructor(options: Omit<AmdModelOptions, "memory"> = {}, control: bigint = ON) {
    this.memory = createMemory([{ base: 0n, size: MEMORY }])
    this.model = amdModel({ memory: this.memory, caches: "none", ...options })
    const { mmio } = this.model
    mmio.write64(REG.DEVTAB_BASE, DEVTAB | 0x1ffn)
    mmio.write64(REG.CMDBUF_BASE, CMDBUF | (8n << 56n))
    mmio.write64(REG.EVTLOG_BASE, EVTLOG | (8n << 56n))
    mmio.write64(REG.CONTROL, control)
  }

  /** A zeroed table. */
  table(entries: Readonly<Record<number, bigint>> = {}): bigint {
    const address = this.#nextTable
    this.#nextTable += 0x1000n
    this.set(address, entries)
    return address
  }

  set(table: bigint, entries: Readonly<Record<number, bigint>>): void {
    for (const [index, entry] of Object.entries(entries))
      this.memory.write64(table + BigInt(index) * 8n, entry)
  }

  entry(table: bigint, index: number): bigint {
    return this.memory.read64(table + BigInt(index) * 8n)
  }

  dte(device: number, ...words: bigint[]): void {
    words.forEach((word, index) => {
      this.memory.write64(DEVTAB + BigInt(device * 32 + index * 8), word)
    })
  }

  /** A device with host tables of `mode` levels at `root`, domain 5. */
  hostDevice(device: number, mode: number, root: bigint, extra = 0n): void {
    this.dte(device, DTE_V | DTE_TV | (BigInt(mode) << 9n) | root | IRW | extra, 5n, 0n, 0n)
  }

  read(device: number, iova: bigint, pasid: number = NO_PASID, more = 0): DmaOutcome {
    return translateRequest(this.model, { device, iova, pasid, access: 1 | more })
  }

  write(device: number, iova: bigint, pasid: number = NO_PASID, more = 0): DmaOutcome {
    return translateRequest(this.model, { device, iova, pasid, access: 2 | more })
  }

  command(low: bigint, high: bigint): void {
    this.memory.write64(CMDBUF + BigInt(this.#commandTail), low)
    this.memory.write64(CMDBUF + BigInt(this.#commandTail) + 8n, high)
    this.#commandTail = (this.#commandTail + 16) % 0x1000
    this.model.mmio.write64(REG.CMD_TAIL, BigInt(this.#commandTail))
  }

  get status(): bigint {
    return this.model.mmio.read64(REG.STATUS)
  }

  /** Events between head and tail, oldest first. */
  events(): bigint[][] {
    const { mmio } = this.model
    const words: bigint[][] = []
    for (let at = mmio.read64(REG.EVT_HEAD); at !== mmio.read64(REG.EVT_TAIL); at = (at + 16n) % 0x1000n) {
      words.push([this.memory.read64(EVTLOG + at), this.memory.read64(EVTLOG + at + 8n)])
    }
    return words
  }
}

export function faultOf(outcome: DmaOutcome): Fault {
  if (outcome.ok) throw new Error(`expected a fault, got 0x${outcome.pa.toString(16)}`)
  return outcome.fault
}

/** The flags of an event record, bits 59:48 of the first word: what Linux prints as `flags=`. */
export function flagsOf(outcome: DmaOutcome): bigint {
  const record = faultOf(outcome).record
  if (record === null) throw new Error("the fault has no record")
  return ((record[0] as bigint) >> 48n) & 0xfffn
}
