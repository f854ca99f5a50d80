/**
 * The register file: what reads give, which writes count, when. Arm IHI 0070 G.b §6.3.
 *
 * Updates complete at once, so CR0ACK and IRQ_CTRLACK follow within the write. Guarded registers ignore writes
 * while their guard holds, as SMMUv3.2 and later do.
 */
import { fromHalves, hi32, lo32, type Mmio } from "@iommu/core"
import * as reg from "../spec/registers.ts"
import { EVERYTHING, Features, type IdRegisters } from "./options.ts"

/** Words of page 0, then of page 1; both use offsets below 0x100. */
const PAGE_WORDS = 64
const ID_NAMES = ["IDR0", "IDR1", "IDR2", "IDR3", "IDR4", "IDR5", "IIDR", "AIDR"] as const

interface Word {
  readonly name: reg.RegisterName
  readonly high: boolean
}

/** Index of the word at a byte offset, -1 where there is none. */
function wordIndex(offset: number): number {
  const page = offset >>> 16
  const word = (offset & 0xffff) >>> 2
  if (offset >>> 0 !== offset || page > 1 || word >= PAGE_WORDS || (offset & 3) !== 0) return -1
  return page * PAGE_WORDS + word
}

const WORDS: (Word | undefined)[] = new Array(2 * PAGE_WORDS)
for (const [key, [offset, bytes]] of Object.entries(reg.REGISTERS)) {
  const name = key as reg.RegisterName
  WORDS[wordIndex(offset)] = { name, high: false }
  if (bytes === 8) WORDS[wordIndex(offset + 4)] = { name, high: true }
}

/** Index in {@link Registers.words} of a register's low half; the high one follows it. */
export function wordOf(name: reg.RegisterName): number {
  return wordIndex(reg.offsetOf(name))
}

const CR0ACK_WORD = wordIndex(reg.offsetOf("CR0ACK"))

const isRegister = (name: string): name is reg.RegisterName => Object.hasOwn(reg.REGISTERS, name)
const is64 = (name: reg.RegisterName): boolean => reg.REGISTERS[name][1] === 8

/** What the rest of the model does when a register changes. */
export interface RegisterEffects {
  /** The Command queue may have something to do. */
  runCommands(): void
  /** CR0.SMMUEN went to 1. */
  translationEnabled(): void
  /** CR0.SMMUEN went to 0. */
  translationDisabled(): void
  /** Software made room in the Event queue. */
  eventsConsumed(): void
}

export class Registers implements Mmio {
  features: Features
  /** Changes whenever a structure in memory may have to be read with other eyes. */
  generation = 0
  effects: RegisterEffects | null = null
  /** All registers, for who reads them often; others go by name. */
  readonly words: Uint32Array = new Uint32Array(2 * PAGE_WORDS)

  constructor(id: Partial<IdRegisters>) {
    const all = { ...EVERYTHING, ...id }
    for (const name of ID_NAMES) this.set(name, all[name])
    this.features = this.#readFeatures()
    // A size field of a base register reads as 0 here; GBPA resets to bypass with the incoming shareability.
    this.set("GBPA", reg.GBPA_SHCFG_INCOMING)
  }

  /** CR0.SMMUEN as it is in effect; asked by every transaction, so without a look-up by name. */
  get translates(): boolean {
    return (this.words[CR0ACK_WORD] & reg.CR0_SMMUEN) !== 0
  }

  /** Bits 63:32 that a physical address may have. */
  get physicalMaskHi(): number {
    return (1 << (this.features.oasBits - 32)) - 1
  }

  /** A register, or the low half of a 64-bit one. */
  get(name: reg.RegisterName): number {
    return this.words[wordIndex(reg.offsetOf(name))]
  }

  get64(name: reg.RegisterName): bigint {
    const index = wordIndex(reg.offsetOf(name))
    return fromHalves(this.words[index + 1], this.words[index])
  }

  /** Without side effects; for what the SMMU itself updates. */
  set(name: reg.RegisterName, value: number): void {
    this.words[wordIndex(reg.offsetOf(name))] = value
  }

  read32(offset: number): number {
    const index = wordIndex(offset)
    return index < 0 || WORDS[index] === undefined ? 0 : this.words[index]
  }

  read64(offset: number): bigint {
    return (offset & 7) !== 0 ? 0n : fromHalves(this.read32(offset + 4), this.read32(offset))
  }

  write64(offset: number, value: bigint): void {
    if ((offset & 7) !== 0) return
    this.write32(offset, lo32(value))
    this.write32(offset + 4, hi32(value))
  }

  write32(offset: number, value: number): void {
    const index = wordIndex(offset)
    const word = index < 0 ? undefined : WORDS[index]
    if (word === undefined || reg.REGISTERS[word.name][2] === "RO") return
    switch (word.name) {
      case "CR0":
        this.#writeCr0(value)
        return
      case "GBPA":
        if ((value & reg.GBPA_UPDATE) !== 0) this.words[index] = value & ~reg.GBPA_UPDATE & 0x001f_3f1f
        return
      case "IRQ_CTRL":
        this.set("IRQ_CTRL", value & this.#irqCtrlBits)
        this.set("IRQ_CTRLACK", value & this.#irqCtrlBits)
        return
      case "GERRORN":
        this.words[index] = value & 0x1fd
        this.effects?.runCommands()
        return
      case "CMDQ_PROD":
        this.words[index] = value & reg.QUEUE_INDEX
        this.effects?.runCommands()
        return
      default:
        if (this.#guarded(word.name)) return
        this.words[index] = this.#storable(word, this.words[index], value)
        if (word.name === "EVENTQ_CONS") this.effects?.eventsConsumed()
        else this.generation++
    }
  }

  /** @returns the names that are no registers of this map */
  restore(values: Readonly<Record<string, bigint>>): string[] {
    const unknown: string[] = []
    for (const [name, value] of Object.entries(values)) {
      if (!isRegister(name)) {
        unknown.push(name)
        continue
      }
      const index = wordIndex(reg.offsetOf(name))
      this.words[index] = lo32(value)
      if (is64(name)) this.words[index + 1] = hi32(value)
    }
    // A dump may lack the acknowledgements; nothing was under way when the machine stopped.
    if ("CR0" in values && !("CR0ACK" in values)) this.set("CR0ACK", this.get("CR0"))
    if ("IRQ_CTRL" in values && !("IRQ_CTRLACK" in values)) this.set("IRQ_CTRLACK", this.get("IRQ_CTRL"))
    this.features = this.#readFeatures()
    this.generation++
    return unknown
  }

  get #irqCtrlBits(): number {
    const pri = this.features.pri ? reg.IRQ_CTRL_PRIQ_IRQEN : 0
    return reg.IRQ_CTRL_GERROR_IRQEN | reg.IRQ_CTRL_EVENTQ_IRQEN | pri
  }

  #writeCr0(value: number): void {
    const { features } = this
    let known = reg.CR0_SMMUEN | reg.CR0_EVENTQEN | reg.CR0_CMDQEN
    if (features.pri) known |= reg.CR0_PRIQEN
    if (features.ats) known |= reg.CR0_ATSCHK
    if (features.vmw) known |= reg.CR0_VMW
    const before = this.get("CR0ACK")
    const disabled = before & ~value & reg.CR0_SMMUEN
    const enabled = ~before & value & reg.CR0_SMMUEN
    this.set("CR0", value & known)
    this.set("CR0ACK", value & known)
    this.generation++
    if (enabled !== 0) this.effects?.translationEnabled()
    if (disabled !== 0) this.effects?.translationDisabled()
    this.effects?.runCommands()
  }

  /** The last lines of each "Accessing …" in §6.3. */
  #guarded(name: reg.RegisterName): boolean {
    const cr0 = this.get("CR0") | this.get("CR0ACK")
    const irq = this.get("IRQ_CTRL") | this.get("IRQ_CTRLACK")
    switch (name) {
      case "CR2":
        return (cr0 & reg.CR0_SMMUEN) !== 0
      case "STRTAB_BASE":
      case "STRTAB_BASE_CFG":
        return this.features.tablesPreset || (cr0 & reg.CR0_SMMUEN) !== 0
      case "CMDQ_BASE":
        return this.features.queuesPreset || (cr0 & reg.CR0_CMDQEN) !== 0
      case "CMDQ_CONS":
        return (cr0 & reg.CR0_CMDQEN) !== 0
      case "EVENTQ_BASE":
        return this.features.queuesPreset || (cr0 & reg.CR0_EVENTQEN) !== 0
      case "EVENTQ_PROD":
        return (cr0 & reg.CR0_EVENTQEN) !== 0
      case "PRIQ_BASE":
        return !this.features.pri || this.features.queuesPreset || (cr0 & reg.CR0_PRIQEN) !== 0
      case "PRIQ_PROD":
        return !this.features.pri || (cr0 & reg.CR0_PRIQEN) !== 0
      case "PRIQ_CONS":
        return !this.features.pri
      case "GERROR_IRQ_CFG0":
      case "GERROR_IRQ_CFG1":
      case "GERROR_IRQ_CFG2":
        return !this.features.msi || (irq & reg.IRQ_CTRL_GERROR_IRQEN) !== 0
      case "EVENTQ_IRQ_CFG0":
      case "EVENTQ_IRQ_CFG1":
      case "EVENTQ_IRQ_CFG2":
        return !this.features.msi || (irq & reg.IRQ_CTRL_EVENTQ_IRQEN) !== 0
      case "PRIQ_IRQ_CFG0":
      case "PRIQ_IRQ_CFG1":
      case "PRIQ_IRQ_CFG2":
        return !this.features.pri || (irq & reg.IRQ_CTRL_PRIQ_IRQEN) !== 0
      default:
        return false
    }
  }

  /** Reserved bits stay 0. */
  #storable(word: Word, old: number, value: number): number {
    switch (word.name) {
      case "CR1":
        return this.#storableCr1(old, value)
      case "CR2":
        return value & (reg.CR2_E2H | reg.CR2_RECINVSID | reg.CR2_PTM | reg.CR2_REC_CFG_ATS)
      case "STRTAB_BASE":
        return value & (word.high ? 0x40ff_ffff : reg.STRTAB_BASE_ADDR_LO)
      case "STRTAB_BASE_CFG":
        return value & (reg.STRTAB_BASE_CFG_FMT | reg.STRTAB_BASE_CFG_SPLIT | reg.STRTAB_BASE_CFG_LOG2SIZE)
      case "CMDQ_BASE":
      case "EVENTQ_BASE":
      case "PRIQ_BASE":
        return word.high ? value & 0x40ff_ffff : value
      case "CMDQ_CONS":
        return value & (reg.QUEUE_INDEX | reg.CMDQ_CONS_ERR)
      case "EVENTQ_PROD":
      case "EVENTQ_CONS":
      case "PRIQ_PROD":
      case "PRIQ_CONS":
        return value & (reg.QUEUE_INDEX | reg.QUEUE_PROD_OVFLG)
      case "GERROR_IRQ_CFG0":
      case "EVENTQ_IRQ_CFG0":
      case "PRIQ_IRQ_CFG0":
        return value & (word.high ? 0x00ff_ffff : 0xffff_fffc)
      case "GERROR_IRQ_CFG2":
      case "EVENTQ_IRQ_CFG2":
        return value & 0x3f
      case "PRIQ_IRQ_CFG2":
        return value & 0x8000_003f
      default:
        return value
    }
  }

  /** TABLE_* is guarded by SMMUEN, QUEUE_* by the enables of all queues. §6.3.11. */
  #storableCr1(old: number, value: number): number {
    const cr0 = this.get("CR0") | this.get("CR0ACK")
    const queues = reg.CR0_CMDQEN | reg.CR0_EVENTQEN | reg.CR0_PRIQEN
    const writable = ((cr0 & reg.CR0_SMMUEN) === 0 ? 0xfc0 : 0) | ((cr0 & queues) === 0 ? 0x3f : 0)
    return (old & ~writable) | (value & writable)
  }

  #readFeatures(): Features {
    const [IDR0, IDR1, IDR2, IDR3, IDR4, IDR5, IIDR, AIDR] = ID_NAMES.map(name => this.get(name)) as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ]
    return new Features({ IDR0, IDR1, IDR2, IDR3, IDR4, IDR5, IIDR, AIDR })
  }
}
