/** An NVM Express controller as a PCI function: registers, doorbells, and the loop that serves queues. */
import { ConfigSpace } from "../pci/config-space.ts"
import type { Dma } from "../pci/dma.ts"
import type { PciFunction } from "../pci/function.ts"
import { MsiCapability } from "../pci/msi.ts"
import { type AdminState, executeAdmin, MAX_ENTRIES } from "./admin.ts"
import type { Disk } from "./disk.ts"
import { PCI_DEVICE, PCI_VENDOR } from "./identify.ts"
import { executeIo } from "./io.ts"
import { CompletionQueue, SubmissionQueue } from "./queues.ts"
import { addRogueRegisters, rogueWrite } from "./rogue.ts"
import * as nvme from "./spec.ts"

const NVME_CLASS = 0x010802
const BAR_BYTES = 0x4000
/** CAP, §3.1.1: MQES, CQR, TO of 10 s, the NVM command set; pages of 4 KiB alone. */
const CAPABILITIES = BigInt(MAX_ENTRIES - 1) | (1n << 16n) | (20n << 24n) | (1n << 37n)

export class NvmeController implements PciFunction {
  readonly name = "nvme"
  readonly barBytes: number = BAR_BYTES
  readonly config: ConfigSpace
  /** Commands served, by queue and opcode: `admin 0x06`. */
  readonly commands: Map<string, number> = new Map()
  interruptsSent = 0
  readonly #msi: MsiCapability
  readonly #rogueAt: number
  readonly #dma: Dma
  readonly #state: AdminState
  readonly #registers = new Uint32Array(0x40 / 4)
  #masked = 0
  #owesInterrupt = false

  constructor(dma: Dma, disk: Disk) {
    this.#dma = dma
    const identity = { vendor: PCI_VENDOR, device: PCI_DEVICE, classCode: NVME_CLASS, barBytes: BAR_BYTES }
    this.config = new ConfigSpace(identity)
    this.#msi = new MsiCapability(this.config)
    this.#rogueAt = addRogueRegisters(this.config)
    this.config.onWrite = offset => rogueWrite(this.config, this.#rogueAt, offset, dma)
    this.#state = {
      dma,
      disk,
      submissions: new Map(),
      completions: new Map(),
      features: new Map(),
      eventRequests: [],
    }
    this.reset()
  }

  /** Where in configuration space a guest finds the registers of {@link addRogueRegisters}. */
  get rogueOffset(): number {
    return this.#rogueAt
  }

  readConfig(offset: number, bytes: number): number {
    return this.config.read(offset, bytes)
  }

  writeConfig(offset: number, bytes: number, value: number): void {
    this.config.write(offset, bytes, value)
  }

  readBar(offset: number, bytes: number): bigint {
    const at = offset & ~3
    const low = BigInt(this.#registers[at / 4] ?? 0)
    const high = BigInt(this.#registers[at / 4 + 1] ?? 0)
    return BigInt.asUintN(bytes * 8, ((high << 32n) | low) >> BigInt((offset & 3) * 8))
  }

  writeBar(offset: number, bytes: number, value: bigint): void {
    if (bytes !== 4 && bytes !== 8) return
    this.#write32(offset, Number(value & 0xffff_ffffn))
    if (bytes === 8) this.#write32(offset + 4, Number(value >> 32n))
  }

  reset(): void {
    this.#registers.fill(0)
    this.#registers[nvme.CAP / 4] = Number(CAPABILITIES & 0xffff_ffffn)
    this.#registers[nvme.CAP / 4 + 1] = Number(CAPABILITIES >> 32n)
    this.#registers[nvme.VS / 4] = nvme.VERSION_1_4
    this.#masked = 0
    this.#forgetQueues()
  }

  #write32(offset: number, value: number): void {
    if (offset >= nvme.DOORBELLS) {
      this.#doorbell((offset - nvme.DOORBELLS) / 4, value)
      return
    }
    switch (offset) {
      case nvme.INTMS:
        this.#masked |= value
        return
      case nvme.INTMC:
        this.#masked &= ~value
        if (this.#owesInterrupt) this.#interrupt()
        return
      case nvme.CC:
        this.#configure(value)
        return
      case nvme.AQA:
      case nvme.ASQ:
      case nvme.ASQ + 4:
      case nvme.ACQ:
      case nvme.ACQ + 4:
        this.#registers[offset / 4] = value
    }
  }

  /** §3.1.5, §7.6: enable and disable, and the notice of a shutdown, which is complete at once. */
  #configure(value: number): void {
    const before = this.#registers[nvme.CC / 4] as number
    this.#registers[nvme.CC / 4] = value
    const isEnabled = (value & nvme.CC_EN) !== 0
    if (isEnabled && (before & nvme.CC_EN) === 0) this.#enable(value)
    else if (!isEnabled && (before & nvme.CC_EN) !== 0) {
      this.#forgetQueues()
      this.#setStatus(0)
    }
    if (((value >>> nvme.CC_SHN_SHIFT) & 3) !== 0) this.#setStatus(this.#status | nvme.CSTS_SHST_COMPLETE)
  }

  #enable(configuration: number): void {
    const sizes = this.#registers[nvme.AQA / 4] as number
    const shape = (base: number, size: number): { base: bigint; size: number } => ({
      base: this.readBar(base, 8) & ~0xfffn,
      size: (size & 0xfff) + 1,
    })
    const submissions = shape(nvme.ASQ, sizes)
    const completions = shape(nvme.ACQ, sizes >>> 16)
    const hasOtherPages = ((configuration >>> nvme.CC_MPS_SHIFT) & 0xf) !== 0
    if (hasOtherPages || submissions.size < 2 || completions.size < 2) {
      this.#setStatus(nvme.CSTS_CFS)
      return
    }
    this.#state.completions.set(0, new CompletionQueue(completions, true))
    this.#state.submissions.set(0, new SubmissionQueue(0, submissions, 0))
    this.#setStatus(nvme.CSTS_RDY)
  }

  get #status(): number {
    return this.#registers[nvme.CSTS / 4] as number
  }

  #setStatus(value: number): void {
    this.#registers[nvme.CSTS / 4] = value
  }

  #forgetQueues(): void {
    this.#state.submissions.clear()
    this.#state.completions.clear()
    this.#state.eventRequests.length = 0
    this.#owesInterrupt = false
  }

  /** §3.1.24: even numbers are tails of submission queues, odd ones heads of completion queues. */
  #doorbell(number: number, value: number): void {
    if (!Number.isInteger(number)) return
    const queue = number >> 1
    if ((number & 1) === 0) {
      const submissions = this.#state.submissions.get(queue)
      if (submissions?.moveTail(value) === true) this.#serve(submissions)
      return
    }
    if (this.#state.completions.get(queue)?.moveHead(value) !== true) return
    for (const submissions of this.#state.submissions.values()) {
      if (submissions.completions === queue) this.#serve(submissions)
    }
  }

  /** Until the queue is empty or its completions have no room. What cannot be fetched or posted stops the controller. */
  #serve(submissions: SubmissionQueue): void {
    const completions = this.#state.completions.get(submissions.completions)
    if (completions === undefined) return
    let hasPosted = false
    while (this.#status === nvme.CSTS_RDY && !submissions.isEmpty && !completions.isFull) {
      const entry = submissions.take(this.#dma)
      if (entry === null) {
        this.#setStatus(this.#status | nvme.CSTS_CFS)
        break
      }
      const command = nvme.decodeCommand(entry)
      this.#count(submissions.id, command.opcode)
      const outcome = this.#execute(submissions.id, command)
      if (outcome === null) continue
      if (!completions.post(this.#dma, submissions.id, submissions.head, command.id, outcome)) {
        this.#setStatus(this.#status | nvme.CSTS_CFS)
      }
      hasPosted = true
    }
    if (hasPosted && completions.interrupts) this.#interrupt()
  }

  #execute(queue: number, command: nvme.Command): nvme.Outcome | null {
    return queue === 0 ? executeAdmin(this.#state, command) : executeIo(this.#dma, this.#state.disk, command)
  }

  #count(queue: number, opcode: number): void {
    const name = `${queue === 0 ? "admin" : "io"} 0x${opcode.toString(16).padStart(2, "0")}`
    this.commands.set(name, (this.commands.get(name) ?? 0) + 1)
  }

  #interrupt(): void {
    this.#owesInterrupt = (this.#masked & 1) !== 0
    if (this.#owesInterrupt) return
    const message = this.#msi.message
    if (message === null) return
    this.interruptsSent++
    this.#dma.message(message.address, message.data)
  }
}
