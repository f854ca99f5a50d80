/**
 * The command buffer. AMD 48882 rev 3.10, §2.4: fetch at head, check, execute, advance, until head meets tail.
 *
 * What a command invalidates is told to an {@link InvalidationTarget}; caches join there.
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
import { bufferMask, type EventLog } from "./events.ts"
import type { InterruptSource } from "./interrupts.ts"
import { dwordOf, type Registers } from "./registers.ts"

/** Whatever holds state that commands drop. */
export interface InvalidationTarget {
  invalidateDevice(device: number): void
  invalidateAll(): void
  /** INVALIDATE_IOTLB_PAGES. @returns false when the device does not answer */
  invalidateIotlb(words: readonly bigint[]): boolean
  /** COMPLETE_PPR_REQUEST. */
  completePageRequest(words: readonly bigint[]): void
}

/** After a command: go on; the buffer stops, with its event logged; or the command is tried again later. */
type CommandEnd = "next" | "stop" | "wait"

interface Command {
  readonly name: cmd.CommandName
  readonly layout: BitLayout<FieldSpecs>
  /** EXT_FEATURES bit without which the opcode is illegal, 0 for none. */
  readonly feature: number
}

const COMMANDS: ReadonlyMap<number, Command> = new Map(
  (
    [
      ["COMPLETION_WAIT", cmd.COMPLETION_WAIT, 0],
      ["INVALIDATE_DEVTAB_ENTRY", cmd.INVALIDATE_DEVTAB_ENTRY, 0],
      ["INVALIDATE_IOMMU_PAGES", cmd.INVALIDATE_IOMMU_PAGES, 0],
      ["INVALIDATE_IOTLB_PAGES", cmd.INVALIDATE_IOTLB_PAGES, 0],
      ["INVALIDATE_INTERRUPT_TABLE", cmd.INVALIDATE_INTERRUPT_TABLE, 0],
      ["PREFETCH_IOMMU_PAGES", cmd.PREFETCH_IOMMU_PAGES, reg.EFR_PreFSup],
      ["COMPLETE_PPR_REQUEST", cmd.COMPLETE_PPR_REQUEST, reg.EFR_PPRSup],
      ["INVALIDATE_IOMMU_ALL", cmd.INVALIDATE_IOMMU_ALL, reg.EFR_IASup],
    ] as const
  ).map(([name, layout, feature]): [number, Command] => [cmd.OPCODE[name], { name, layout, feature }]),
)

const EXT_FEATURES = dwordOf("EXT_FEATURES")
const CMDBUF_BASE = dwordOf("CMDBUF_BASE")
const CMD_HEAD = dwordOf("CMD_HEAD")
const CMD_TAIL = dwordOf("CMD_TAIL")

export class CommandBuffer {
  readonly #registers: Registers
  readonly #memory: PhysicalMemory
  readonly #events: EventLog
  readonly #interrupts: InterruptSource
  readonly #target: InvalidationTarget
  hook: ((invalidation: Invalidation) => void) | null = null
  /** True while commands run, so that a hook that writes registers does not start a second run. */
  #busy = false

  constructor(
    registers: Registers,
    memory: PhysicalMemory,
    events: EventLog,
    interrupts: InterruptSource,
    target: InvalidationTarget,
  ) {
    this.#registers = registers
    this.#memory = memory
    this.#events = events
    this.#interrupts = interrupts
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
    const address = (this.#registers.get64("CMDBUF_BASE") & 0x000f_ffff_ffff_f000n) + BigInt(head)
    const at = this.#memory.find(hi32(address), lo32(address))
    if (at < 0) return this.#hardwareError(address)
    const words = this.#memory.words
    const low = fromHalves(words[at + 1] as number, words[at] as number)
    const high = fromHalves(words[at + 3] as number, words[at + 2] as number)
    const command = COMMANDS.get((words[at + 1] as number) >>> cmd.OPCODE_SHIFT)
    if (command === undefined || !this.#isLegal(command, [low, high])) {
      this.#events.append(
        evt.ILLEGAL_COMMAND_ERROR.encode({
          Code: BigInt(evt.EVENT.ILLEGAL_COMMAND_ERROR),
          Address: address >> 4n,
        }),
      )
      return "stop"
    }
    return this.#execute(command, [low, high], address)
  }

  #isLegal({ layout, feature }: Command, words: readonly bigint[]): boolean {
    const features = this.#registers.dwords[EXT_FEATURES] as number
    if ((features & feature) !== feature) return false
    if ((features & reg.EFR_GTSup) === 0 && "GN" in layout.fields && layout.get(words, "GN") !== 0n)
      return false
    return layout.reserved.every((mask, index) => (mask & (words[index] as bigint)) === 0n)
  }

  #execute({ name, layout }: Command, words: readonly bigint[], address: bigint): CommandEnd {
    switch (name) {
      case "COMPLETION_WAIT":
        return this.#completionWait(words)
      case "INVALIDATE_DEVTAB_ENTRY":
        this.#target.invalidateDevice(Number(layout.get(words, "DeviceID")))
        break
      case "INVALIDATE_IOMMU_ALL":
        this.#target.invalidateAll()
        break
      case "INVALIDATE_IOTLB_PAGES":
        if (!this.#target.invalidateIotlb(words) && !this.#timeOut(words, address)) return "wait"
        break
      case "COMPLETE_PPR_REQUEST":
        this.#target.completePageRequest(words)
        break
      case "INVALIDATE_IOMMU_PAGES":
      case "INVALIDATE_INTERRUPT_TABLE":
      case "PREFETCH_IOMMU_PAGES":
        break
      case "INSERT_GUEST_EVENT":
      case "RESET_VMMIO":
        return "stop"
    }
    this.hook?.({ command: name, fields: layout.decode(words), words })
    return "next"
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

  #completionWait(words: readonly bigint[]): CommandEnd {
    const fields = cmd.COMPLETION_WAIT.decode(words)
    if (fields.S === 1n) {
      const address = fields.StoreAddress << 3n
      const at = this.#memory.find(hi32(address), lo32(address))
      if (at < 0) return this.#hardwareError(address)
      this.#memory.words[at] = lo32(fields.StoreData)
      this.#memory.words[at + 1] = hi32(fields.StoreData)
    }
    if (fields.I === 1n) {
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
