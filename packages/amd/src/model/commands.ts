/**
 * The command buffer. AMD 48882 rev 3.10, §2.4: fetch at head, check, execute, advance, until head meets tail.
 *
 * Translations are dropped from the {@link Caches} here; the rest is told to a {@link CommandTarget}. Commands are
 * decoded in 32-bit halves, and in full only for whoever listens.
 */
import {
  type BitLayout,
  type FieldSpecs,
  fromHalves,
  hi32,
  type Invalidation,
  lo32,
  type PhysicalMemory,
} from "@iommu/core"
import * as cmd from "../spec/commands.ts"
import * as evt from "../spec/events.ts"
import * as reg from "../spec/registers.ts"
import type { Caches } from "./caches.ts"
import { bufferMask, type EventLog } from "./events.ts"
import type { InterruptSource } from "./interrupts.ts"
import { dwordOf, type Registers } from "./registers.ts"
import type { AddressRange } from "./tlb.ts"

/** Whatever else commands are about. */
export interface CommandTarget {
  invalidateDevice(device: number): void
  invalidateAll(): void
  /** INVALIDATE_IOTLB_PAGES. @returns false when the device does not answer */
  invalidateIotlb(words: readonly bigint[]): boolean
  /** PREFETCH_IOMMU_PAGES with Inval = 1. @param range of the device's translations to drop */
  dropForPrefetch(words: readonly bigint[], range: AddressRange): void
  /** COMPLETE_PPR_REQUEST. */
  completePageRequest(words: readonly bigint[]): void
}

/** After a command: go on; the buffer stops, with its event logged; or the command is tried again later. */
type CommandEnd = "next" | "stop" | "wait"

/** Those of guests (vIOMMU) are none of this model's. */
type ModelledName = Exclude<cmd.CommandName, "INSERT_GUEST_EVENT" | "RESET_VMMIO">

interface Command {
  readonly name: ModelledName
  readonly layout: BitLayout<FieldSpecs>
  /** EXT_FEATURES bits without which the opcode is illegal, 0 for none. */
  readonly feature: number
  /** Bits that must be zero, by dword. */
  readonly reserved: Uint32Array
  /** Those of dword 2 that must be zero without GTSup. */
  readonly guestBits: number
}

function command(name: ModelledName, layout: BitLayout<FieldSpecs>, feature: number): Command {
  const reserved = Uint32Array.from(layout.reserved.flatMap(mask => [lo32(mask), hi32(mask)]))
  return { name, layout, feature, reserved, guestBits: "GN" in layout.fields ? cmd.GN : 0 }
}

/** By opcode. */
const COMMANDS: readonly (Command | null)[] = Array.from({ length: 16 }, (_, opcode) => {
  switch (opcode) {
    case cmd.OPCODE.COMPLETION_WAIT:
      return command("COMPLETION_WAIT", cmd.COMPLETION_WAIT, 0)
    case cmd.OPCODE.INVALIDATE_DEVTAB_ENTRY:
      return command("INVALIDATE_DEVTAB_ENTRY", cmd.INVALIDATE_DEVTAB_ENTRY, 0)
    case cmd.OPCODE.INVALIDATE_IOMMU_PAGES:
      return command("INVALIDATE_IOMMU_PAGES", cmd.INVALIDATE_IOMMU_PAGES, 0)
    case cmd.OPCODE.INVALIDATE_IOTLB_PAGES:
      return command("INVALIDATE_IOTLB_PAGES", cmd.INVALIDATE_IOTLB_PAGES, 0)
    case cmd.OPCODE.INVALIDATE_INTERRUPT_TABLE:
      return command("INVALIDATE_INTERRUPT_TABLE", cmd.INVALIDATE_INTERRUPT_TABLE, 0)
    case cmd.OPCODE.PREFETCH_IOMMU_PAGES:
      return command("PREFETCH_IOMMU_PAGES", cmd.PREFETCH_IOMMU_PAGES, reg.EFR_PreFSup)
    case cmd.OPCODE.COMPLETE_PPR_REQUEST:
      return command("COMPLETE_PPR_REQUEST", cmd.COMPLETE_PPR_REQUEST, reg.EFR_PPRSup)
    case cmd.OPCODE.INVALIDATE_IOMMU_ALL:
      return command("INVALIDATE_IOMMU_ALL", cmd.INVALIDATE_IOMMU_ALL, reg.EFR_IASup)
    default:
      return null
  }
})

const EXT_FEATURES = dwordOf("EXT_FEATURES")
const CMDBUF_BASE = dwordOf("CMDBUF_BASE")
const CMD_HEAD = dwordOf("CMD_HEAD")
const PAGE_LG2 = 12
const CMD_TAIL = dwordOf("CMD_TAIL")

export class CommandBuffer {
  readonly #registers: Registers
  readonly #memory: PhysicalMemory
  readonly #events: EventLog
  readonly #interrupts: InterruptSource
  readonly #caches: Caches
  readonly #target: CommandTarget
  hook: ((invalidation: Invalidation) => void) | null = null
  readonly #range = { hi: 0, lo: 0, sizeLg2: 0 }
  /** True while commands run, so that a hook that writes registers does not start a second run. */
  #busy = false

  constructor(
    registers: Registers,
    memory: PhysicalMemory,
    events: EventLog,
    interrupts: InterruptSource,
    caches: Caches,
    target: CommandTarget,
  ) {
    this.#registers = registers
    this.#memory = memory
    this.#events = events
    this.#interrupts = interrupts
    this.#caches = caches
    this.#target = target
  }

  /** Starts or stops fetching as CONTROL.CmdBufEn and IommuEn say (MMIO Offset 0018h). */
  applyControl(before: number, now: number): void {
    const registers = this.#registers
    const enable = reg.CONTROL_CmdBufEn | reg.CONTROL_IommuEn
    const was = (before & enable) === enable
    const is = (now & enable) === enable
    if (!is) registers.status &= ~reg.STATUS_CmdBufRun
    else if (!was && bufferMask(registers.dwords[CMDBUF_BASE + 1] as number) >= 0) {
      registers.status |= reg.STATUS_CmdBufRun
      this.run()
    }
  }

  /** Executes what software has queued. Bounded by the buffer: each command moves the head by one. */
  run(): void {
    if (this.#busy) return
    this.#busy = true
    try {
      const { dwords } = this.#registers
      const mask = bufferMask(dwords[CMDBUF_BASE + 1] as number)
      for (let left = (mask + 1) >> cmd.COMMAND_BYTES_LG2; left > 0; left--) {
        if ((this.#registers.status & reg.STATUS_CmdBufRun) === 0) return
        const head = (dwords[CMD_HEAD] as number) & mask
        if (head === ((dwords[CMD_TAIL] as number) & mask)) return
        const end = this.#step(head)
        if (end === "stop") this.#registers.status &= ~reg.STATUS_CmdBufRun
        if (end !== "next") return
        dwords[CMD_HEAD] = (head + cmd.COMMAND_BYTES) & mask
      }
    } finally {
      this.#busy = false
    }
  }

  #step(head: number): CommandEnd {
    const { dwords } = this.#registers
    const hi = (dwords[CMDBUF_BASE + 1] as number) & reg.BASE_HI
    const lo = (dwords[CMDBUF_BASE] as number) & reg.BASE_LO
    // A buffer is aligned to its pages, not to its size: the low half may overflow.
    const addressLo = ((lo >>> 0) + head) >>> 0
    const addressHi = addressLo < lo >>> 0 ? hi + 1 : hi
    const at = this.#memory.find(addressHi, addressLo)
    if (at < 0) return this.#hardwareError(fromHalves(addressHi, addressLo))
    const { words } = this.#memory
    const command = COMMANDS[(words[at + 1] as number) >>> cmd.OPCODE_SHIFT] as Command | null
    if (command === null || !this.#isLegal(command, at)) {
      this.#events.append(
        evt.ILLEGAL_COMMAND_ERROR.encode({
          Code: BigInt(evt.EVENT.ILLEGAL_COMMAND_ERROR),
          Address: fromHalves(addressHi, addressLo) >> 4n,
        }),
      )
      return "stop"
    }
    const end = this.#execute(command, at, addressHi, addressLo)
    if (end === "next" && this.hook !== null && command.name !== "COMPLETION_WAIT") {
      const read = this.#command(at)
      this.hook({ command: command.name, fields: command.layout.decode(read), words: read })
    }
    return end
  }

  /** The command in 64-bit words. */
  #command(at: number): readonly bigint[] {
    const { words } = this.#memory
    return [
      fromHalves(words[at + 1] as number, words[at] as number),
      fromHalves(words[at + 3] as number, words[at + 2] as number),
    ]
  }

  #isLegal({ feature, reserved, guestBits }: Command, at: number): boolean {
    const { words } = this.#memory
    const features = this.#registers.dwords[EXT_FEATURES] as number
    if ((features & feature) !== feature) return false
    const guest = (features & reg.EFR_GTSup) === 0 ? guestBits : 0
    const low =
      ((words[at] as number) & (reserved[0] as number)) |
      ((words[at + 1] as number) & (reserved[1] as number))
    const third = (words[at + 2] as number) & ((reserved[2] as number) | guest)
    return (low | third | ((words[at + 3] as number) & (reserved[3] as number))) === 0
  }

  #execute({ name }: Command, at: number, addressHi: number, addressLo: number): CommandEnd {
    const { words } = this.#memory
    switch (name) {
      case "COMPLETION_WAIT":
        return this.#completionWait(at)
      case "INVALIDATE_DEVTAB_ENTRY":
        this.#target.invalidateDevice((words[at] as number) & cmd.DEVICE_ID_MASK)
        return "next"
      case "INVALIDATE_IOMMU_ALL":
        this.#target.invalidateAll()
        return "next"
      case "INVALIDATE_IOMMU_PAGES":
        this.#invalidatePages(at)
        return "next"
      case "INVALIDATE_IOTLB_PAGES": {
        const command = this.#command(at)
        if (this.#target.invalidateIotlb(command)) return "next"
        return this.#timeOut(command, fromHalves(addressHi, addressLo)) ? "next" : "wait"
      }
      case "COMPLETE_PPR_REQUEST":
        this.#target.completePageRequest(this.#command(at))
        return "next"
      case "PREFETCH_IOMMU_PAGES":
        if (((words[at + 2] as number) & cmd.INVAL) !== 0) {
          this.#setRange(at)
          this.#target.dropForPrefetch(this.#command(at), this.#range)
        }
        return "next"
      case "INVALIDATE_INTERRUPT_TABLE":
        return "next"
    }
  }

  /** §2.4.3. */
  #invalidatePages(at: number): void {
    const { words } = this.#memory
    const caches = this.#caches
    const range = this.#setRange(at)
    const domainId = (words[at + 1] as number) & cmd.DOMAIN_ID_MASK
    const flags = words[at + 2] as number
    const tables = (flags & cmd.PDE) !== 0
    if ((flags & cmd.GN) === 0) {
      caches.invalidateHostPages(domainId, range)
      if (tables) caches.invalidateHostTables(domainId, range)
      return
    }
    const pasid = (words[at] as number) & cmd.PASID_MASK
    caches.invalidateGuestPages(domainId, pasid, range)
    if (tables) caches.invalidateGuestTables(domainId, pasid, range)
  }

  /** Address and S of the command, see {@link cmd.decodeInvalidateRange}. */
  #setRange(at: number): AddressRange {
    const { words } = this.#memory
    const range = this.#range
    const low = words[at + 2] as number
    range.hi = (words[at + 3] as number) | 0
    range.lo = low & cmd.ADDRESS_LO
    range.sizeLg2 = (low & cmd.S) === 0 ? PAGE_LG2 : cmd.invalidateSizeLg2(range.hi, range.lo)
    return range
  }

  /**
   * A device has not answered an invalidation. Time does not pass here: with a time-out, it is over at once.
   * @returns false when CONTROL.InvTimeOut says to wait for ever
   */
  #timeOut(words: readonly bigint[], address: bigint): boolean {
    const timeOut = (this.#registers.control >>> reg.CONTROL_InvTimeOut_SHIFT) & reg.CONTROL_InvTimeOut_MASK
    if (timeOut === 0) return false
    this.#events.append(
      evt.IOTLB_INV_TIMEOUT.encode({
        DeviceID: cmd.INVALIDATE_IOTLB_PAGES.get(words, "DeviceID"),
        Code: BigInt(evt.EVENT.IOTLB_INV_TIMEOUT),
        Address: address >> 4n,
      }),
    )
    return true
  }

  /** §2.4.1. Commands before it are done: each is, when it has been executed. */
  #completionWait(at: number): CommandEnd {
    const { words } = this.#memory
    const flags = words[at] as number
    if ((flags & cmd.STORE) !== 0) {
      const hi = (words[at + 1] as number) & cmd.STORE_HI
      const lo = (flags & cmd.STORE_LO) >>> 0
      const store = this.#memory.find(hi, lo)
      if (store < 0) return this.#hardwareError(fromHalves(hi, lo))
      words[store] = words[at + 2] as number
      words[store + 1] = words[at + 3] as number
    }
    if ((flags & cmd.INTERRUPT) !== 0) {
      const before = this.#registers.status
      this.#registers.status = before | reg.STATUS_ComWaitInt
      if ((before & reg.STATUS_ComWaitInt) === 0) this.#interrupts.completionWait()
    }
    return "next"
  }

  #hardwareError(address: bigint): "stop" {
    this.#events.append(
      evt.COMMAND_HARDWARE_ERROR.encode({
        Type: BigInt(evt.MASTER_ABORT),
        Code: BigInt(evt.EVENT.COMMAND_HARDWARE_ERROR),
        Address: address >> 4n,
      }),
    )
    return "stop"
  }
}
