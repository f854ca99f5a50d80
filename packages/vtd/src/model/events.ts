/**
 * The fault log in the fault recording registers, and the fault event. Intel VT-d 5.10 (D51397-018) §7.2.1, §7.3.
 */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  type Fault,
  fromHalves,
  hex64,
  hi32,
  lo32,
} from "@iommu/core"
import { FAULT_REASONS, FRCD, FRCD_BYTES, FRCD_F } from "../spec/events.ts"
import * as reg from "../spec/registers.ts"
import { EventInterrupt } from "./interrupts.ts"
import type { Registers } from "./registers.ts"
import { REQUEST_PAGE, REQUEST_TRANSLATION, type Transaction } from "./transaction.ts"

/** Conditions that keep a further fault event back until software has served them. */
const PENDING = reg.PPF | reg.PFO | reg.IQE | reg.ICE | reg.ITE

export class FaultLog {
  readonly #registers: Registers
  /** The record that the next fault goes to. */
  #index = 0
  readonly interrupt: EventInterrupt

  constructor(registers: Registers) {
    this.#registers = registers
    this.interrupt = new EventInterrupt(registers, "FE")
  }

  /** Records a fault of a transaction, unless FPD or an overflow forbids. @returns the fault as a value */
  report(t: Transaction): Fault {
    const known = FAULT_REASONS.get(t.reason)
    if (known === undefined) throw new Error(`bug: fault reason ${t.reason}`)
    const suppressed = known.qualified && t.fpd
    const recorded = suppressed ? null : this.#record(faultRecord(t))
    const where = fromHalves(t.whereHi, t.whereLo)
    const notRecorded = suppressed
      ? "; not recorded: FPD"
      : recorded === null
        ? "; not recorded: overflow"
        : ""
    return {
      reason: known.name,
      code: t.reason,
      device: t.device,
      pasid: t.pasid < 0 ? null : t.pasid,
      address: fromHalves(t.iovaHi, t.iovaLo),
      access: t.access,
      stage: t.stage,
      record: recorded,
      detail: `${known.meaning} (at ${hex64(where)})${notRecorded}`,
    }
  }

  /** §7.2.1. @returns the record, or null when it was lost to an overflow */
  #record(words: readonly bigint[]): readonly bigint[] | null {
    const r = this.#registers
    const status = r.get("FSTS")
    if ((status & reg.PFO) !== 0) return null
    const offset = r.frcd + this.#index * FRCD_BYTES
    if ((r.at(offset + 12) & FRCD_F) !== 0) {
      r.set("FSTS", status | reg.PFO)
      return null
    }
    words.forEach((word, i) => {
      r.put(offset + 8 * i, lo32(word))
      r.put(offset + 8 * i + 4, hi32(word))
    })
    if ((status & reg.PPF) === 0) {
      r.set("FSTS", (status & ~(reg.FRI_MASK << reg.FRI_SHIFT)) | reg.PPF | (this.#index << reg.FRI_SHIFT))
      this.#raise(status)
    }
    this.#index = (this.#index + 1) % r.frcdCount
    return words
  }

  /** An error of the invalidation queue: IQE, ICE or ITE. §6.5.2.11. */
  setStatus(bit: number): void {
    const status = this.#registers.get("FSTS")
    this.#registers.set("FSTS", status | bit)
    this.#raise(status)
  }

  /** An event, unless an earlier one waits to be served; `before` is FSTS as it was before. §7.3. */
  #raise(before: number): void {
    if ((before & PENDING) === 0) this.interrupt.raise()
  }

  /** After software cleared F or status bits: PPF is the OR of all F; nothing left to serve clears IP. */
  refresh(): void {
    const r = this.#registers
    let pending = false
    for (let record = 0; record < r.frcdCount; record++) {
      if ((r.at(r.frcd + record * FRCD_BYTES + 12) & FRCD_F) !== 0) pending = true
    }
    const status = pending ? r.get("FSTS") | reg.PPF : r.get("FSTS") & ~reg.PPF
    r.set("FSTS", status)
    if ((status & PENDING) === 0) this.interrupt.served()
  }

  /** Remapping of requests and of interrupts is off. §7.2.1. */
  resetIndex(): void {
    this.#index = 0
  }

  /** Continues after the records that are pending, as a restored dump has them. */
  restoreIndex(): void {
    const r = this.#registers
    this.refresh()
    const first = (r.get("FSTS") >>> reg.FRI_SHIFT) & reg.FRI_MASK
    this.#index = first % r.frcdCount
    for (let seen = 0; seen < r.frcdCount; seen++) {
      if ((r.at(r.frcd + this.#index * FRCD_BYTES + 12) & FRCD_F) === 0) return
      this.#index = (this.#index + 1) % r.frcdCount
    }
  }
}

/** §11.4.7.6. */
function faultRecord(t: Transaction): bigint[] {
  const pages = t.request === REQUEST_PAGE
  // A translation request is a read, whatever it asks for.
  const asks = t.request === REQUEST_TRANSLATION
  const read = asks || (!pages && (t.access & (ACCESS_READ | ACCESS_WRITE)) !== ACCESS_WRITE)
  const atomic = read && !asks && (t.access & ACCESS_WRITE) !== 0
  const tagged = t.pasid >= 0 && t.features.pasid
  return FRCD.encode({
    FI: (fromHalves(t.iovaHi, t.iovaLo) & t.features.faultInfoMask) >> 12n,
    SID: BigInt(t.device),
    T1: read ? 1n : 0n,
    T2: atomic || pages ? 1n : 0n,
    FR: BigInt(t.reason),
    PP: tagged ? 1n : 0n,
    PV: tagged ? BigInt(t.pasid & 0xfffff) : 0n,
    PRIV: tagged && (t.access & ACCESS_PRIV) !== 0 ? 1n : 0n,
    EXE: tagged && read && !atomic && (t.access & ACCESS_EXEC) !== 0 ? 1n : 0n,
    AT: pages ? 0n : BigInt(t.request),
    F: 1n,
  })
}
