/**
 * Random registers, commands, tables and requests against a model: it never throws, its work is bounded, and its
 * counters hold. A failure names the seed that brings it back.
 */
import {
  ACCESS_READ,
  type AtsModel,
  type CachePolicy,
  type IommuModel,
  NO_PASID,
  type PhysicalMemory,
} from "@iommu/core"
import { assertTrue } from "../assert.ts"
import { Random } from "../random.ts"
import type { TestRunner } from "../target.ts"
import type { Flags } from "./nested-format.ts"
import type { ModelMachine, ModelTarget, Step } from "./target.ts"

/** What helps random bytes to get somewhere, and what must hold whatever they are. */
export interface FuzzContract {
  /** Entries of tables and structures that hardware may find sensible, beside an address of a page. */
  readonly entries: readonly Flags[]
  /** A command, mostly one that exists. */
  command(random: Random): readonly bigint[]
  /** Puts commands where the queue of a started machine is and moves the tail behind them, whatever registers say. */
  submit(machine: ModelMachine, commands: readonly (readonly bigint[])[]): void
  readonly devices: readonly number[]
  /** Table reads that one request may take at most. */
  readonly mostSteps: number
  /** Records that wait in the log, or an index that grows with each; counted modulo {@link logModulus}. */
  logged(machine: ModelMachine): number
  logModulus(machine: ModelMachine): number
  /** Commands that wait in the queue, when its registers make sense; else null. */
  waiting(machine: ModelMachine): number | null
}

export interface FuzzOptions {
  readonly seed: number
  readonly steps: number
}

const STEPS_A_MACHINE = 1000
const POLICIES: readonly CachePolicy[] = ["none", "hoard", "exact"]

/** Defines the fuzz test for one vendor in the given runner. */
export function defineFuzz(
  { it }: TestRunner,
  target: ModelTarget,
  contract: FuzzContract,
  { seed, steps }: FuzzOptions,
): void {
  it(`${target.name} survives ${steps} random steps, seed ${seed}`, () => {
    const seen = { allowed: 0, refused: 0, commands: 0 }
    for (let made = 0; made * STEPS_A_MACHINE < steps; made++) {
      const fuzz = new Fuzz(target, contract, seed, made, seen)
      try {
        fuzz.run()
      } catch (error) {
        const message = error instanceof Error ? error.message : String(error)
        throw new Error(`seed ${seed}, machine ${made}, step ${fuzz.done}: ${message}`, { cause: error })
      }
    }
    for (const [what, count] of Object.entries(seen)) {
      assertTrue(count > steps / 50, `too few ${what}: ${JSON.stringify(seen)}`)
    }
  })
}

interface Seen {
  allowed: number
  refused: number
  commands: number
}

class Fuzz {
  done = 0
  readonly #target: ModelTarget
  readonly #contract: FuzzContract
  readonly #random: Random
  readonly #machine: ModelMachine
  readonly #model: IommuModel
  readonly #ats: AtsModel | null
  readonly #memory: PhysicalMemory
  readonly #pages: readonly number[]
  readonly #offsets: readonly number[]
  readonly #seen: Seen
  /** Calls of hooks since the last step. */
  #reads = 0
  #calls = 0

  constructor(target: ModelTarget, contract: FuzzContract, seed: number, made: number, seen: Seen) {
    this.#target = target
    this.#contract = contract
    this.#random = new Random(Math.imul(seed + made, 0x9e37_79b1))
    this.#machine = target.create(POLICIES[made % POLICIES.length] as CachePolicy)
    this.#seen = seen
    const { model, memory } = this.#machine
    this.#model = model
    this.#ats = hasAts(model) ? model : null
    this.#memory = memory
    this.#pages = memory.ranges.flatMap(({ base, size }) =>
      Array.from({ length: Number(size) / 0x1000 }, (_, page) => Number(base) + page * 0x1000),
    )
    this.#offsets = Object.values(target.registers.specs).map(([offset]) => offset)
    // Models walk differently when someone looks on.
    if (made % 2 === 0) {
      model.trace = () => {
        this.#reads++
      }
      model.onInvalidate = () => {
        this.#calls++
      }
      model.onInterrupt = () => {
        this.#calls++
      }
    }
  }

  run(): void {
    this.#write(this.#target.start)
    for (this.done = 0; this.done < STEPS_A_MACHINE; this.done++) this.#step()
  }

  #step(): void {
    const random = this.#random
    this.#reads = 0
    this.#calls = 0
    const kind = random.below(100)
    if (kind < 45) this.#request()
    else if (kind < 50) this.#atsRequest()
    else if (kind < 80) this.#tableWord()
    else if (kind < 92) this.#command()
    else if (kind < 97) this.#register()
    else this.#write(this.#target.start)
    // A doorbell takes at most what memory holds of commands, with an invalidation and an interrupt each.
    const most = 2 * (this.#memory.words.length / 4 + 1)
    assertTrue(this.#calls <= most, `${this.#calls} calls of hooks in one step`)
  }

  #request(): void {
    const { device, pasid, hi, lo, access } = this.#transaction()
    const { result } = this.#model
    const before = this.#logged()
    const status = this.#model.translate(device, pasid, hi, lo, access)
    this.#bounded(before)
    if (status === 0) {
      this.#seen.allowed++
      assertTrue(isHalf(result.paHi) && isHalf(result.paLo), `address ${result.paHi}:${result.paLo}`)
      assertTrue(isHalf(result.ipaHi) && isHalf(result.ipaLo), `ipa ${result.ipaHi}:${result.ipaLo}`)
      assertTrue(result.sizeLg2 >= 12 && result.sizeLg2 <= 64, `size 2^${result.sizeLg2}`)
      return
    }
    this.#seen.refused++
    const { fault } = result
    assertTrue(fault !== null && fault.reason.length > 0 && fault.detail.length > 0, "a fault for people")
    assertTrue(fault.record === null || fault.record.length > 0, "a record has words")
  }

  #atsRequest(): void {
    const ats = this.#ats
    if (ats === null) return
    const random = this.#random
    const { device, pasid, hi, lo, access } = this.#transaction()
    const before = this.#logged()
    switch (random.below(3)) {
      case 0:
        ats.translationRequest(device, pasid, hi, lo, access | ACCESS_READ)
        break
      case 1:
        ats.translatedRequest(device, pasid, hi, lo, access)
        break
      default:
        ats.pageRequest({
          device,
          pasid: pasid < 0 ? null : pasid & 0xf_ffff,
          address: (BigInt(hi >>> 0) << 32n) | (BigInt(lo >>> 0) & 0xffff_f000n),
          read: random.flip(),
          write: random.flip(),
          execute: random.flip(),
          privileged: random.flip(),
          last: random.flip(),
          group: random.below(512),
        })
    }
    this.#bounded(before)
  }

  /** At most one record for one request, and no more table reads than the deepest walk has. */
  #bounded(before: number): void {
    const modulus = this.#contract.logModulus(this.#machine)
    const written = (this.#logged() - before + modulus) % modulus
    assertTrue(written <= 1, `${written} records of one request`)
    assertTrue(this.#reads <= this.#contract.mostSteps, `${this.#reads} table reads of one request`)
  }

  #logged(): number {
    return this.#contract.logged(this.#machine)
  }

  #transaction() {
    const random = this.#random
    const { running } = this.#target
    const near = random.below(4) !== 0
    return {
      device: near ? random.pick(this.#contract.devices) : random.below(0x1_0000),
      pasid: random.pick([NO_PASID, NO_PASID, NO_PASID, 0, 1, 2, random.below(0x20_0000)]),
      hi: near ? 0 : random.pick([0, 0x7fff, 0xffff_ffff, random.below(0x1_0000_0000)]),
      lo: near ? Number(running.iova) ^ random.below(0x1000) : random.below(0x1_0000_0000),
      access: random.below(16),
    }
  }

  /** One bit of what stands in memory, a sensible entry, or anything. */
  #tableWord(): void {
    const random = this.#random
    const { words } = this.#memory
    const word = random.below(words.length / 2) * 2
    const kind = random.below(16)
    if (kind < 8) {
      const used = this.#usedWord(word)
      words[used] = (words[used] as number) ^ (1 << random.below(32))
    } else if (kind < 15) {
      const [lo, hi] = random.pick(this.#contract.entries)
      words[word] = lo | random.pick(this.#pages)
      words[word + 1] = hi
    } else {
      words[word] = random.below(0x1_0000_0000)
      words[word + 1] = random.below(0x1_0000_0000)
    }
  }

  /** The next word that is not zero, if one is near. */
  #usedWord(word: number): number {
    const { words } = this.#memory
    for (let at = word; at < word + 512 && at < words.length; at++) if (words[at] !== 0) return at
    return word
  }

  #command(): void {
    const random = this.#random
    const count = 1 + random.below(3)
    const commands = Array.from({ length: count }, () => this.#contract.command(random))
    const before = this.#contract.waiting(this.#machine)
    this.#contract.submit(this.#machine, commands)
    this.#seen.commands += count
    const after = this.#contract.waiting(this.#machine)
    if (before !== null && after !== null) {
      assertTrue(after <= before + count, `${after} commands wait, of ${before} and ${count} new ones`)
    }
  }

  #register(): void {
    const random = this.#random
    const { mmio } = this.#model
    const known = random.below(8) !== 0
    const offset = known ? random.pick(this.#offsets) + 4 * random.below(2) : random.below(0x1_2000)
    const page = random.pick(this.#pages)
    const value = random.pick([
      random.below(0x1_0000_0000),
      page | random.below(16),
      page,
      1 << random.below(32),
      0,
    ])
    if (random.flip()) mmio.write32(offset, value >>> 0)
    else
      mmio.write64(
        offset,
        (BigInt(random.pick([0, 0, random.below(0x1_0000_0000)])) << 32n) | BigInt(value >>> 0),
      )
    const read = mmio.read32(offset)
    assertTrue(isHalf(read), `register ${offset} reads as ${read}`)
    const wide = mmio.read64(offset & ~7)
    assertTrue(wide >= 0n && wide < 1n << 64n, `register ${offset} reads as ${wide}`)
  }

  #write(steps: readonly Step[]): void {
    const { mmio } = this.#model
    for (const step of steps) {
      if (step[0] === "write32") mmio.write32(step[1], step[2])
      else if (step[0] === "write64") mmio.write64(step[1], step[2])
      else if (step[0] === "store") this.#memory.write64(step[1], step[2])
    }
  }
}

function isHalf(value: number): boolean {
  return value >>> 0 === value
}

function hasAts(model: IommuModel): model is IommuModel & AtsModel {
  return "translationRequest" in model
}
