/** Page requests: from the device's message to the page request queue. Intel VT-d 5.10 (D51397-018) §7.4, §7.5. */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  type Fault,
  hi32,
  lo32,
  NO_PASID,
  type PageRequest,
  PRI_INVALID_REQUEST,
  PRI_SUCCESS,
} from "@iommu/core"
import * as record from "../spec/events.ts"
import * as reg from "../spec/registers.ts"
import type { AtsDevices } from "./ats.ts"
import { resolveEntries } from "./device-entry.ts"
import type { FaultLog } from "./events.ts"
import { EventInterrupt } from "./interrupts.ts"
import type { Registers } from "./registers.ts"
import { MODE_FIRST, MODE_NESTED, REQUEST_PAGE, type Transaction } from "./transaction.ts"

/** Conditions that keep a further page request event back until software has served them. */
const PENDING = reg.PPR | reg.PRO

export class PageRequestQueue {
  readonly interrupt: EventInterrupt
  readonly #transaction: Transaction
  readonly #registers: Registers
  readonly #log: FaultLog
  readonly #devices: AtsDevices

  constructor(transaction: Transaction, registers: Registers, log: FaultLog, devices: AtsDevices) {
    this.#transaction = transaction
    this.#registers = registers
    this.#log = log
    this.#devices = devices
    this.interrupt = new EventInterrupt(registers, "PE")
  }

  /**
   * @param enabled remapping is on. Without it, or without PRS, no entry permits page requests: the book says of
   * neither how they end, and this answers as for a device that is not permitted
   * @returns the fault that the request left in the log
   */
  receive(request: PageRequest, enabled: boolean): Fault | null {
    const t = this.#transaction
    if (!enabled || !t.features.pageRequests) {
      this.#respond(request, PRI_INVALID_REQUEST)
      return null
    }
    const { device, pasid, address } = request
    t.begin(REQUEST_PAGE, device, pasid ?? NO_PASID, hi32(address), lo32(address), accessOf(request))
    if (resolveEntries(t) !== 0) {
      const fault = this.#log.report(t)
      this.#respond(request, PRI_INVALID_REQUEST)
      return fault
    }
    if (!this.#enqueue(request)) this.#respond(request, PRI_SUCCESS)
    else invalidateImplicitly(t)
    return null
  }

  /** Table 31: the last request of a group is answered; a stop marker, which asks for no access, is not. */
  #respond({ device, group, pasid, last, read, write }: PageRequest, code: number): void {
    if (last && (read || write)) this.#devices.respond(device & 0xffff, group, pasid, code)
  }

  /** @returns false when the queue is full, or has overflowed and software has not cleared PRO */
  #enqueue(request: PageRequest): boolean {
    const r = this.#registers
    if ((r.get("PRS") & reg.PRO) !== 0) return false
    const size = 4096 << (r.get("PQA") & reg.PQA_PQS_MASK)
    const tail = r.get("PQT") % size
    const next = (tail + record.PAGE_REQ_BYTES) % size
    if (next === r.get("PQH") % size) {
      this.#setStatus(reg.PRO)
      return false
    }
    this.#write(tail, request)
    r.set("PQT", next)
    this.#setStatus(reg.PPR)
    return true
  }

  /** §7.4.1.1. */
  #write(offset: number, request: PageRequest): void {
    const { memory } = this.#transaction
    const sum = (this.#registers.get("PQA") & 0xfffff000) + offset
    const carry = sum >>> 0 < offset ? 1 : 0
    const at = memory.find(this.#registers.getHi("PQA") + carry, sum)
    if (at < 0) return
    const { words } = memory
    words.fill(0, at, at + record.PAGE_REQ_BYTES / 4)
    const present = request.pasid === null ? 0 : record.PAGE_REQ_PP
    words[at] = record.PAGE_REQ_TYPE | present | (request.device << record.PAGE_REQ_RID_SHIFT)
    words[at + 1] =
      ((request.pasid ?? 0) & 0xfffff) |
      (request.execute ? record.PAGE_REQ_EXR_HI : 0) |
      (request.privileged ? record.PAGE_REQ_PMR_HI : 0)
    words[at + 2] =
      (lo32(request.address) & 0xfffff000) |
      (request.read ? record.PAGE_REQ_RDR_LO1 : 0) |
      (request.write ? record.PAGE_REQ_WRR_LO1 : 0) |
      (request.last ? record.PAGE_REQ_LPIG_LO1 : 0) |
      ((request.group & 0x1ff) << record.PAGE_REQ_PRGI_SHIFT_LO1)
    words[at + 3] = hi32(request.address)
  }

  /** §7.5. */
  #setStatus(bit: number): void {
    const status = this.#registers.get("PRS")
    this.#registers.set("PRS", status | bit)
    if ((status & PENDING) === 0) this.interrupt.raise()
  }

  /** Software wrote PRS. */
  served(): void {
    if ((this.#registers.get("PRS") & PENDING) === 0) this.interrupt.served()
  }
}

/** What is cached of the page may have fewer rights than the tables by now. §6.5.3.1, Table 27. */
function invalidateImplicitly(t: Transaction): void {
  switch (t.mode) {
    case MODE_FIRST:
      t.tlb.dropPasidPages(t.domainId, t.effectivePasid, t.iovaHi, t.iovaLo, 0, false)
      return
    case MODE_NESTED:
      t.tlb.dropDomain(t.domainId)
      return
    default:
      t.tlb.dropPages(t.domainId, t.iovaHi, t.iovaLo, 0, false)
  }
}

function accessOf({ read, write, execute, privileged }: PageRequest): number {
  return (
    (read ? ACCESS_READ : 0) |
    (write ? ACCESS_WRITE : 0) |
    (execute ? ACCESS_EXEC : 0) |
    (privileged ? ACCESS_PRIV : 0)
  )
}
