/** A register file without an SMMU behind it: bring-up handshakes work, commands are consumed or refused at will. */
import { createMemory, type Mmio, PageAllocator, type PhysicalMemory } from "@iommu/core"

/** Offsets typed from IHI 0070 §6.2, so that a slip in the driver's register map shows. */
const IDR0 = 0x00
const IDR1 = 0x04
const IDR3 = 0x0c
const IDR5 = 0x14
const CR0 = 0x20
const CR0ACK = 0x24
const GBPA = 0x44
const IRQ_CTRL = 0x50
const IRQ_CTRLACK = 0x54
const GERROR = 0x60
const GERRORN = 0x64
const CMDQ_BASE = 0x90
const CMDQ_PROD = 0x98
const CMDQ_CONS = 0x9c

/** What QEMU 10.0 has with both stages: IDR0, IDR1, IDR3, IDR5. */
export const QEMU_IDS = { idr0: 0xd44101b, idr1: 0x2730010, idr3: 0x1414, idr5: 0x74 } as const
export type FakeIds = { readonly [Name in keyof typeof QEMU_IDS]: number }

export interface FakeCommand {
  readonly opcode: number
  readonly words: readonly [bigint, bigint]
}

export class FakeSmmu implements Mmio {
  readonly memory: PhysicalMemory = createMemory([{ base: 0x4000_0000, size: 0x400_0000 }])
  readonly pages: PageAllocator = new PageAllocator(this.memory, { base: 0x4000_0000, size: 0x400_0000 })
  readonly registers: Map<number, number> = new Map<number, number>()
  /** Commands consumed, in order; CMD_SYNC too. */
  readonly commands: FakeCommand[] = []
  /** Writes to registers, in order. */
  readonly writes: { readonly offset: number; readonly value: bigint }[] = []
  /** Returns CMDQ_CONS.ERR for a command that is refused, else 0. */
  refuse: (command: FakeCommand) => number = () => 0
  /** While true, CMDQ_PROD is not looked at, and CR0ACK does not follow. */
  hung = false

  constructor(ids: FakeIds = QEMU_IDS) {
    this.registers.set(IDR0, ids.idr0).set(IDR1, ids.idr1).set(IDR3, ids.idr3).set(IDR5, ids.idr5)
  }

  get mmio(): Mmio {
    return this
  }

  read32(offset: number): number {
    return (this.registers.get(offset) ?? 0) >>> 0
  }

  write32(offset: number, value: number): void {
    this.writes.push({ offset, value: BigInt(value) })
    this.registers.set(offset, value >>> 0)
    if (this.hung) return
    if (offset === CR0) this.registers.set(CR0ACK, value)
    if (offset === IRQ_CTRL) this.registers.set(IRQ_CTRLACK, value)
    if (offset === GBPA) this.registers.set(GBPA, value & 0x7fff_ffff)
    if (offset === CMDQ_PROD || offset === GERRORN) this.consume()
  }

  read64(offset: number): bigint {
    return BigInt(this.read32(offset)) | (BigInt(this.read32(offset + 4)) << 32n)
  }

  write64(offset: number, value: bigint): void {
    this.writes.push({ offset, value })
    this.registers.set(offset, Number(value & 0xffff_ffffn)).set(offset + 4, Number(value >> 32n))
  }

  /** Commands since the last call, without CMD_SYNC. */
  takeCommands(): FakeCommand[] {
    return this.commands.splice(0).filter(command => command.opcode !== 0x46)
  }

  consume(): void {
    const base = this.read64(CMDQ_BASE)
    const sizeLg2 = Number(base & 0x1fn)
    const wrap = 2 ** (sizeLg2 + 1)
    while (this.#position() !== this.read32(CMDQ_PROD) % wrap) {
      if (this.#errorIsActive()) return
      const at = (base & 0x00ff_ffff_ffff_ffe0n) + BigInt(this.#position() % 2 ** sizeLg2) * 16n
      const words = [this.memory.read64(at), this.memory.read64(at + 8n)] as const
      const command = { opcode: Number(words[0] & 0xffn), words }
      const error = this.refuse(command)
      if (error !== 0) {
        this.registers.set(CMDQ_CONS, (this.#position() | (error << 24)) >>> 0)
        this.registers.set(GERROR, this.read32(GERROR) ^ 1)
        return
      }
      this.commands.push(command)
      this.registers.set(CMDQ_CONS, (this.#position() + 1) % wrap)
    }
  }

  #position(): number {
    return this.read32(CMDQ_CONS) & 0xf_ffff
  }

  #errorIsActive(): boolean {
    return ((this.read32(GERROR) ^ this.read32(GERRORN)) & 1) !== 0
  }
}
