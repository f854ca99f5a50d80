/**
 * The register page: storage, which bits software can write or clear, and 32- and 64-bit access.
 * Intel VT-d 5.10 (D51397-018) §11.4. What a write sets going is the device's affair (`onWrite`).
 */
import { fromHalves, hi32, lo32, type Mmio } from "@iommu/core"
import { FRCD_BYTES, FRCD_F } from "../spec/events.ts"
import * as reg from "../spec/registers.ts"
import type { Features, VtdCapabilities } from "./options.ts"

/** FRO reaches 0x3ff0 and is followed by up to 256 records. */
const SPACE_BYTES = 0x5000

/** Bits that software can write, `[low half, high half]`. All others of a register are read-only or reserved. */
const WRITABLE: Readonly<Partial<Record<reg.RegisterName, readonly [number, number]>>> = {
  RTADDR: [0xfffffc00, 0xffffffff],
  CCMD: [0xffffffff, 0xe7ffffff],
  FECTL: [reg.IM, 0],
  FEDATA: [0xffff, 0],
  FEADDR: [0xfffffffc, 0],
  FEUADDR: [0xffffffff, 0],
  IQT: [reg.QUEUE_OFFSET_MASK, 0],
  IQA: [0xfffff807, 0xffffffff],
  IECTL: [reg.IM, 0],
  IEDATA: [0xffff, 0],
  IEADDR: [0xfffffffc, 0],
  IEUADDR: [0xffffffff, 0],
  IRTA: [0xfffff80f, 0xffffffff],
  PQH: [0x7ffe0, 0],
  PQT: [0x7ffe0, 0],
  PQA: [0xfffff007, 0xffffffff],
  PECTL: [reg.IM, 0],
  PEDATA: [0xffff, 0],
  PEADDR: [0xfffffffc, 0],
  PEUADDR: [0xffffffff, 0],
}
/** Bits that software clears by writing 1. */
const CLEARABLE: Readonly<Partial<Record<reg.RegisterName, number>>> = {
  FSTS: reg.PFO | reg.IQE | reg.ICE | reg.ITE,
  ICS: reg.IWC,
  PRS: reg.PPR | reg.PRO,
}
const QUEUE_REGISTERS = ["IQT", "IQA", "ICS", "IECTL", "IEDATA", "IEADDR", "IEUADDR"] as const
const PAGE_REQUEST_REGISTERS = ["PQH", "PQT", "PQA", "PRS", "PECTL", "PEDATA", "PEADDR", "PEUADDR"] as const
/** IAIG is read-only. */
const IOTLB_WRITABLE_HI = 0xf9ffffff

export class Registers implements Mmio {
  readonly #words = new Uint32Array(SPACE_BYTES / 4)
  readonly #writable = new Uint32Array(SPACE_BYTES / 4)
  readonly #clearable = new Uint32Array(SPACE_BYTES / 4)
  /** Called after each 32-bit write to an offset that exists, with the value written. */
  onWrite: ((offset: number, value: number) => void) | null = null
  iva = 0
  iotlb = 0
  frcd = 0
  frcdCount = 1

  constructor(capabilities: VtdCapabilities, features: Features) {
    this.configure(capabilities, features)
    this.set("FECTL", reg.IM)
    this.set("IECTL", reg.IM)
    this.set("PECTL", reg.IM)
  }

  /** Lays the register page out as the capability registers say. Values of other registers stay. */
  configure(capabilities: VtdCapabilities, features: Features): void {
    this.#writable.fill(0)
    this.#clearable.fill(0)
    const absent = new Set<string>([
      ...(features.queuedInvalidation ? [] : QUEUE_REGISTERS),
      ...(features.pageRequests ? [] : PAGE_REQUEST_REGISTERS),
      ...(features.interruptRemapping ? [] : ["IRTA"]),
    ])
    for (const [name, [offset]] of Object.entries(reg.REGISTERS)) {
      if (absent.has(name)) continue
      const [low, high] = WRITABLE[name as reg.RegisterName] ?? [0, 0]
      this.#writable[offset / 4] = low
      if (high !== 0) this.#writable[offset / 4 + 1] = high
      const clearable = CLEARABLE[name as reg.RegisterName]
      if (clearable !== undefined) this.#clearable[offset / 4] = clearable
    }
    this.iva = reg.ivaOffset(capabilities.ecap)
    this.iotlb = this.iva + 8
    this.#writable.set([0xffffffff, 0xffffffff, 0xffffffff, IOTLB_WRITABLE_HI], this.iva / 4)
    this.frcd = reg.faultRecordOffset(capabilities.cap)
    this.frcdCount = reg.faultRecordCount(capabilities.cap)
    for (let record = 0; record < this.frcdCount; record++) {
      this.#clearable[(this.frcd + record * FRCD_BYTES) / 4 + 3] = FRCD_F
    }
    this.set("VER", lo32(capabilities.ver))
    this.set64("CAP", capabilities.cap)
    this.set64("ECAP", capabilities.ecap)
  }

  /** Bits 31:0 of a register. */
  get(name: reg.RegisterName): number {
    return this.at(reg.REGISTERS[name][0])
  }

  getHi(name: reg.RegisterName): number {
    return this.at(reg.REGISTERS[name][0] + 4)
  }

  get64(name: reg.RegisterName): bigint {
    return fromHalves(this.getHi(name), this.get(name))
  }

  /** Puts a value in with none of the effects of a write. */
  set(name: reg.RegisterName, value: number): void {
    this.put(reg.REGISTERS[name][0], value)
  }

  setHi(name: reg.RegisterName, value: number): void {
    this.put(reg.REGISTERS[name][0] + 4, value)
  }

  set64(name: reg.RegisterName, value: bigint): void {
    this.set(name, lo32(value))
    this.put(reg.REGISTERS[name][0] + 4, hi32(value))
  }

  at(offset: number): number {
    return this.#words[offset >>> 2] as number
  }

  put(offset: number, value: number): void {
    this.#words[offset >>> 2] = value
  }

  read32(offset: number): number {
    return isWord(offset) ? this.at(offset) : 0
  }

  write32(offset: number, value: number): void {
    if (!isWord(offset)) return
    const word = offset >>> 2
    const writable = this.#writable[word] as number
    const cleared = value & (this.#clearable[word] as number)
    this.#words[word] = (((this.#words[word] as number) & ~writable) | (value & writable)) & ~cleared
    this.onWrite?.(offset, value >>> 0)
  }

  /** Two 32-bit accesses, the low one first. */
  read64(offset: number): bigint {
    return fromHalves(this.read32(offset + 4), this.read32(offset))
  }

  /** Two 32-bit accesses, the low one first: commands stand in the high half. */
  write64(offset: number, value: bigint): void {
    const bits = BigInt.asUintN(64, value)
    this.write32(offset, lo32(bits))
    this.write32(offset + 4, hi32(bits))
  }
}

/** Unaligned accesses and offsets beyond the page reach no register. */
function isWord(offset: number): boolean {
  return offset >= 0 && offset < SPACE_BYTES && (offset & 3) === 0 && Number.isInteger(offset)
}
