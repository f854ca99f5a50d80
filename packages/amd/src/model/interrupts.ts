/**
 * The IOMMU's own interrupts: an MSI, or with CONTROL.IntCapXTEn the destination in the XT registers.
 * AMD 48882 rev 3.10, §3.2 (MSI capability, also at MMIO Offset 0158h) and §3.4 (MMIO Offset 0170h).
 */
import { fromHalves } from "@iommu/core"
import * as reg from "../spec/registers.ts"
import { dwordOf, type Registers } from "./registers.ts"

export type InterruptHook = (address: bigint, data: number) => void

const CONTROL = dwordOf("CONTROL")
const MSI_CAP_HEADER = dwordOf("MSI_CAP_HEADER")
const MSI_ADDR_LO = dwordOf("MSI_ADDR_LO")
const MSI_ADDR_HI = dwordOf("MSI_ADDR_HI")
const MSI_DATA = dwordOf("MSI_DATA")
const XT_GEN = dwordOf("XT_GEN_INT_CONTROL")
const XT_PPR = dwordOf("XT_PPR_INT_CONTROL")

/** Where x86 interrupt messages go; the destination's bits 7:0 stand in 19:12, its bits 31:8 in 63:40. */
const MESSAGE_BASE = 0xfee0_0000

export class InterruptSource {
  readonly #registers: Registers
  hook: InterruptHook | null = null

  constructor(registers: Registers) {
    this.#registers = registers
  }

  /** STATUS.EventLogInt or EventOverflow became 1. */
  eventLog(): void {
    if ((this.#registers.control & reg.CONTROL_EventIntEn) !== 0) this.#send(XT_GEN)
  }

  /** STATUS.ComWaitInt became 1. */
  completionWait(): void {
    if ((this.#registers.control & reg.CONTROL_ComWaitIntEn) !== 0) this.#send(XT_GEN)
  }

  /** STATUS.PprInt or PprOverflow became 1. */
  pprLog(): void {
    if ((this.#registers.control & reg.CONTROL_PPRIntEn) !== 0) this.#send(XT_PPR)
  }

  /** STATUS.PprOvrflwEarly became 1, and its own register asks for an interrupt. */
  pprOverflowEarly(): void {
    this.#send(XT_PPR)
  }

  /** @param xt the register that holds destination and vector with CONTROL.IntCapXTEn */
  #send(xt: number): void {
    if (this.hook === null) return
    const { dwords } = this.#registers
    if (((dwords[CONTROL + 1] as number) & reg.CONTROL_IntCapXTEn_HI) !== 0) {
      this.#sendXt(dwords[xt + 1] as number, dwords[xt] as number)
      return
    }
    if (((dwords[MSI_CAP_HEADER] as number) & reg.MSI_MsiEn) === 0) return
    const address = fromHalves(dwords[MSI_ADDR_HI] as number, dwords[MSI_ADDR_LO] as number)
    this.hook(address, (dwords[MSI_DATA] as number) & 0xffff)
  }

  #sendXt(hi: number, lo: number): void {
    const logical = lo & reg.XT_DestMode
    const destinationLow = lo >>> reg.XT_DestinationLo_SHIFT
    const destinationHigh = hi >>> reg.XT_DestinationHi_HI_SHIFT
    const low = MESSAGE_BASE | ((destinationLow & 0xff) << 12) | logical
    const high = ((destinationHigh << 24) | destinationLow) & 0xffff_ff00
    const mode = (hi & reg.XT_DeliveryMode_HI) === 0 ? 0 : 1
    this.hook?.(fromHalves(high >>> 0, low >>> 0), (hi & reg.XT_Vector_HI_MASK) | (mode << 8))
  }
}
