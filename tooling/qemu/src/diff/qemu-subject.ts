/** QEMU as a subject of comparison: a script becomes lines of qtest and copies of the RAM file. */
import { PAGE_SIZE } from "@iommu/core"
import { describeBinary } from "../binary/qemu-binary.ts"
import { QemuEnded, type QemuMachine } from "../machine/qemu-machine.ts"
import { testWriteOf } from "../machine/test-device.ts"
import { hex } from "../process/qtest.ts"
import { answerOfRead, findTag, framePattern, tagOf } from "./data-frames.ts"
import { pagesOf } from "./image.ts"
import { FRAME_BYTES, type Places } from "./places.ts"
import {
  type Access,
  type Answer,
  type Observation,
  type RegisterCopy,
  type RegisterWrite,
  type Round,
  type RoundObservation,
  type Script,
  type Subject,
  SubjectDied,
} from "./script.ts"

/** In a device's buffer: the words that it writes, one a round, and the words that it has read. */
const TAGS_AT = 0
const READS_AT = 0x800
/** Rounds of a script, as many as a device has tags for. */
const MAX_ROUNDS = 16

/** A script takes milliseconds of CPU; a QEMU that is still at it after so many seconds of it is in a loop. */
const HANG_SECONDS = 3
const LOOK_MS = 500
export const NO_ANSWER = "it does not answer any more"

interface PendingRound {
  /** Where the tags of this round were found, by access; null for a read and for a tag that is nowhere. */
  readonly landed: readonly (number | null)[]
  /** By access that asks for its passage: what the device said of it. */
  readonly passages: ReadonlyMap<Access, Answer>
  readonly registers: readonly bigint[]
  readonly areas: readonly Uint8Array[]
}

export class QemuSubject implements Subject {
  readonly name: string
  readonly #machine: QemuMachine
  readonly #places: Places
  /** Frames as nobody has written to them. */
  readonly #untouched: readonly Uint8Array[]
  /** Frames as they are after a round: memory of its own for each round kept the collector busy for 4 ms a case. */
  readonly #contents: readonly Uint8Array[]
  #dirtyPages: number[] = []

  private constructor(machine: QemuMachine, places: Places) {
    this.name = describeBinary(machine.binary)
    this.#machine = machine
    this.#places = places
    this.#untouched = places.frames.map((_, index) => framePattern(index))
    this.#contents = places.frames.map(() => new Uint8Array(FRAME_BYTES))
  }

  /** @param bypass as {@link Script.bypass}: the devices get their tags through it */
  static async prepare(
    machine: QemuMachine,
    places: Places,
    bypass: readonly RegisterWrite[],
  ): Promise<QemuSubject> {
    const subject = new QemuSubject(machine, places)
    for (const { base, bytes } of machine.layout.leftovers) machine.ram.write(base, new Uint8Array(bytes))
    places.frames.forEach((frame, index) => {
      machine.ram.write(frame, subject.#untouched[index])
    })
    await subject.#loadTags(bypass)
    return subject
  }

  async run(script: Script): Promise<Observation> {
    let isHung = false
    const started = this.#machine.cpuSeconds()
    const watch = setInterval(() => {
      if (this.#machine.cpuSeconds() - started < HANG_SECONDS) return
      isHung = true
      this.#machine.kill()
    }, LOOK_MS)
    try {
      return await this.#run(script)
    } catch (error) {
      if (isHung) throw new SubjectDied(NO_ANSWER, { cause: error })
      throw error instanceof QemuEnded ? new SubjectDied(error.message, { cause: error }) : error
    } finally {
      clearInterval(watch)
    }
  }

  async #run(script: Script): Promise<Observation> {
    if (script.rounds.length > MAX_ROUNDS) throw new RangeError(`a script has at most ${MAX_ROUNDS} rounds`)
    this.#load(script)
    const pending: PendingRound[] = []
    for (const [index, round] of script.rounds.entries()) pending.push(await this.#round(round, index))
    const values = await this.#collectReads(script)
    const rounds = script.rounds.map((round, index) =>
      this.#observation(round, index, pending[index], values),
    )
    const changed = this.#changes(script)
    if (script.needsReset === true) await this.#machine.reset()
    return { rounds, changed }
  }

  close(): Promise<void> {
    return this.#machine.close()
  }

  async #loadTags(bypass: readonly RegisterWrite[]): Promise<void> {
    const { devices, ram, run, idle } = this.#machine
    const words = new Uint32Array((PAGE_SIZE / 4) * 1)
    for (const index of devices.keys()) {
      for (let round = 0; round < MAX_ROUNDS; round++) words[index * MAX_ROUNDS + round] = tagOf(index, round)
    }
    ram.write(this.#places.tags, new Uint8Array(words.buffer))
    const bytes = MAX_ROUNDS * 4
    await run([
      ...this.#writes(bypass),
      ...devices.flatMap((device, index) =>
        device.load(BigInt(this.#places.tags + index * bytes), TAGS_AT, bytes),
      ),
    ])
    await idle(devices)
  }

  #load(script: Script): void {
    const { ram } = this.#machine
    const pages = pagesOf(script.memory)
    const zero = new Uint8Array(PAGE_SIZE)
    for (const page of [...this.#dirtyPages, ...script.zeroed]) if (!pages.has(page)) ram.write(page, zero)
    for (const [page, bytes] of pages) ram.write(page, bytes)
    this.#dirtyPages = [...pages.keys(), ...script.zeroed]
  }

  async #round(round: Round, index: number): Promise<PendingRound> {
    const { ram, devices, run, idle } = this.#machine
    for (const [at, value] of round.stores) {
      ram.write(at, new Uint8Array(BigUint64Array.of(value).buffer))
      this.#dirtyPages.push(at - (at % PAGE_SIZE))
    }
    const transfers = round.accesses.filter(({ asks }) => asks === "place")
    const copies = round.copies ?? []
    if (copies.length > 0) await this.#copy(round.writes, copies)
    const started = [
      ...(copies.length > 0 ? [] : this.#writes(round.writes)),
      ...transfers.flatMap(({ device, iova, write }) =>
        write
          ? devices[device].store(iova, TAGS_AT + index * 4, 4)
          : devices[device].load(iova, READS_AT + index * 4, 4),
      ),
    ]
    const asked = [
      ...round.reads.map(({ offset, bytes }) => this.#read(offset, bytes)),
      ...this.#writes(round.acknowledge),
    ]
    // Where no device is waited for, all goes in one.
    const isWaiting = round.accesses.length > 0
    if (isWaiting) await run(started)
    await idle(transfers.map(({ device }) => devices[device]))
    const passages = await this.#passages(round.accesses.filter(({ asks }) => asks === "passage"))
    const answers = (await run(isWaiting ? asked : [...started, ...asked])).slice(
      isWaiting ? 0 : started.length,
    )
    const areas = round.areas.map(({ address, bytes }) => {
      const area = new Uint8Array(bytes)
      ram.read(address, area)
      return area
    })
    return {
      landed: this.#findWrites(round, index),
      passages,
      registers: round.reads.map((_, read) => BigInt(answers[read])),
      areas,
    }
  }

  /** Writes of devices that say what came of them. */
  async #passages(accesses: readonly Access[]): Promise<Map<Access, Answer>> {
    const { devices, testDevices, run } = this.#machine
    const elsewhere = BigInt(this.#places.tags)
    const lines = accesses.map(({ device, iova }) =>
      testDevices[device - devices.length].write(iova, elsewhere),
    )
    const answers = await run(lines.flat())
    let taken = 0
    return new Map(
      accesses.map((access, index): [Access, Answer] => {
        taken += lines[index].length
        return [access, { kind: testWriteOf(answers[taken - 1]) === "refused" ? "refused" : "passed" }]
      }),
    )
  }

  async #copy(before: readonly RegisterWrite[], copies: readonly RegisterCopy[]): Promise<void> {
    await this.#machine.run(this.#writes(before))
    for (const { from, to, bytes } of copies) {
      const [value] = await this.#machine.run([this.#read(from, bytes)])
      await this.#machine.run(this.#writes([{ offset: to, bytes, value: BigInt(value) }]))
    }
  }

  /** Finds what was written, and puts the frames right again. */
  #findWrites(round: Round, index: number): (number | null)[] {
    const { frames } = this.#places
    if (!round.accesses.some(({ write }) => write)) return round.accesses.map(() => null)
    const contents = this.#contents
    for (const [frame, content] of contents.entries()) {
      this.#machine.ram.read(frames[frame], content)
      const untouched = this.#untouched[frame]
      if (Buffer.compare(content, untouched) !== 0) this.#machine.ram.write(frames[frame], untouched)
    }
    return round.accesses.map(({ device, write, asks }) =>
      write && asks === "place" ? findTag(frames, contents, tagOf(device, index)) : null,
    )
  }

  /** With translation off, the devices that read hand over what they have: one word a round. */
  async #collectReads(script: Script): Promise<Uint32Array> {
    const { devices, ram, run, idle } = this.#machine
    const values = new Uint32Array(devices.length * MAX_ROUNDS)
    const readers = [
      ...new Set(
        script.rounds.flatMap(({ accesses }) =>
          accesses.filter(({ write }) => !write).map(({ device }) => device),
        ),
      ),
    ]
    const bytes = MAX_ROUNDS * 4
    await run([
      ...this.#writes(script.bypass),
      ...readers.flatMap(index =>
        devices[index].store(BigInt(this.#places.landing + index * bytes), READS_AT, bytes),
      ),
    ])
    if (readers.length === 0) return values
    await idle(readers.map(index => devices[index]))
    ram.read(this.#places.landing, new Uint8Array(values.buffer))
    return values
  }

  #observation(round: Round, index: number, pending: PendingRound, values: Uint32Array): RoundObservation {
    const answers = round.accesses.map((given, access): Answer => {
      const passage = pending.passages.get(given)
      if (passage !== undefined) return passage
      const { device, write } = given
      if (!write) return answerOfRead(this.#places.frames, values[device * MAX_ROUNDS + index])
      const address = pending.landed[access]
      return address === null ? { kind: "refused" } : { kind: "landed", address }
    })
    return { answers, registers: pending.registers, areas: pending.areas }
  }

  #changes(script: Script): Map<number, bigint> {
    const expected = new Map(script.memory)
    for (const { stores } of script.rounds) for (const [at, value] of stores) expected.set(at, value)
    const changed = new Map<number, bigint>()
    const pages = new Map<number, DataView>()
    for (const [at, value] of expected) {
      const base = at - (at % PAGE_SIZE)
      let page = pages.get(base)
      if (page === undefined) {
        const bytes = new Uint8Array(PAGE_SIZE)
        this.#machine.ram.read(base, bytes)
        page = new DataView(bytes.buffer)
        pages.set(base, page)
      }
      const now = page.getBigUint64(at - base, true)
      if (now !== value) changed.set(at, now)
    }
    return changed
  }

  #writes(writes: readonly RegisterWrite[]): string[] {
    return writes.map(
      ({ offset, bytes, value }) => `write${bytes === 8 ? "q" : "l"} ${this.#at(offset)} ${hex(value)}`,
    )
  }

  #read(offset: number, bytes: 4 | 8): string {
    return `read${bytes === 8 ? "q" : "l"} ${this.#at(offset)}`
  }

  #at(offset: number): string {
    return hex(this.#machine.iommu + offset)
  }
}
