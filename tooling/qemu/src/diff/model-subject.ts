/** A model of ours in a machine, as a subject of comparison. */
import {
  ACCESS_READ,
  ACCESS_WRITE,
  createMemory,
  type Fault,
  type IommuModel,
  NO_PASID,
  PAGE_SIZE,
  type PhysicalMemory,
  translateRequest,
} from "@iommu/core"
import type { MachineLayout } from "../machine/layout.ts"
import { TEST_WORD } from "../machine/test-device.ts"
import { answerOfRead, framePattern, patternAt, tagOf } from "./data-frames.ts"
import { pagesOf } from "./image.ts"
import { FRAME_BYTES, type Places } from "./places.ts"
import type {
  Access,
  Answer,
  Observation,
  RegisterWrite,
  Round,
  RoundObservation,
  Script,
  Subject,
} from "./script.ts"

export class ModelSubject implements Subject {
  readonly name: string
  readonly #memory: PhysicalMemory
  readonly #layout: MachineLayout
  readonly #places: Places
  readonly #deviceIds: readonly number[]
  readonly #make: (memory: PhysicalMemory) => IommuModel
  #dirtyPages: number[] = []

  /**
   * @param make a model on this memory, as after reset; one is made for each script
   * @param deviceIds requester ids of the machine's devices
   */
  constructor(
    name: string,
    layout: MachineLayout,
    places: Places,
    deviceIds: readonly number[],
    make: (memory: PhysicalMemory) => IommuModel,
  ) {
    this.name = name
    this.#layout = layout
    this.#memory = createMemory(
      [...layout.zeros, ...layout.ram].map(({ base, bytes }) => ({ base, size: bytes })),
    )
    this.#places = places
    this.#deviceIds = deviceIds
    this.#make = make
    places.frames.forEach((frame, index) => {
      this.#memory.write(frame, framePattern(index))
    })
  }

  run(script: Script): Promise<Observation> {
    return this.runOn(script, this.#make)
  }

  /** As {@link run}, on another model in the same memory. */
  async runOn(script: Script, make: (memory: PhysicalMemory) => IommuModel): Promise<Observation> {
    this.#load(script)
    const model = make(this.#memory)
    const rounds = script.rounds.map((round, index) => this.#round(model, round, index))
    const changed = new Map<number, bigint>()
    const expected = new Map(script.memory)
    for (const { stores } of script.rounds) for (const [at, value] of stores) expected.set(at, value)
    for (const [at, value] of expected) {
      const now = this.#memory.read64(at)
      if (now !== value) changed.set(at, now)
    }
    return { rounds, changed }
  }

  async close(): Promise<void> {}

  #load(script: Script): void {
    const zero = new Uint8Array(PAGE_SIZE)
    for (const page of this.#dirtyPages) this.#memory.write(page, zero)
    for (const page of script.zeroed) this.#memory.write(page, zero)
    const pages = pagesOf(script.memory)
    for (const [page, bytes] of pages) this.#memory.write(page, bytes)
    this.#dirtyPages = [...pages.keys(), ...script.zeroed]
  }

  #round(model: IommuModel, round: Round, index: number): RoundObservation {
    for (const [at, value] of round.stores) {
      this.#memory.write64(at, value)
      this.#dirtyPages.push(at - (at % PAGE_SIZE))
    }
    apply(model, round.writes)
    for (const { from, to, bytes } of round.copies ?? []) {
      apply(model, [{ offset: to, bytes, value: readRegister(model, from, bytes) }])
    }
    const answers: Answer[] = []
    const faults: (Fault | null)[] = []
    for (const access of round.accesses) {
      const { answer, fault } = this.#access(model, access, index)
      answers.push(answer)
      faults.push(fault)
    }
    this.#forgetOverwritten(round, index, answers)
    this.#restoreFrames(round, answers)
    const registers = round.reads.map(({ offset, bytes }) => readRegister(model, offset, bytes))
    const areas = round.areas.map(({ address, bytes }) => this.#memory.read(address, bytes))
    apply(model, round.acknowledge)
    return { answers, registers, areas, faults }
  }

  #access(
    model: IommuModel,
    { device, iova, write, asks }: Access,
    round: number,
  ): { readonly answer: Answer; readonly fault: Fault | null } {
    const outcome = translateRequest(model, {
      device: this.#deviceIds[device],
      pasid: NO_PASID,
      iova,
      access: write ? ACCESS_WRITE : ACCESS_READ,
    })
    if (!outcome.ok) return { answer: { kind: "refused" }, fault: outcome.fault }
    const { pa } = outcome
    if (!this.#memory.contains(pa, 4)) return { answer: { kind: "outside" }, fault: null }
    if (!write) {
      const [value] = new Uint32Array(this.#memory.read(pa, 4).buffer)
      return { answer: answerOfRead(this.#places.frames, value), fault: null }
    }
    // What reads as zeros keeps nothing.
    if (this.#layout.zeros.some(({ base, bytes }) => pa >= base && pa < base + bytes)) {
      return { answer: { kind: asks === "place" ? "refused" : "outside" }, fault: null }
    }
    const inFrame = this.#places.frames.some(base => pa >= base && pa < base + FRAME_BYTES)
    if (asks === "passage") {
      // In a frame it would be put right after the round.
      if (!inFrame) this.#memory.write(pa, new Uint8Array(Uint32Array.of(TEST_WORD).buffer))
      return { answer: { kind: "passed" }, fault: null }
    }
    this.#memory.write(pa, new Uint8Array(Uint32Array.of(tagOf(device, round)).buffer))
    return { answer: inFrame ? { kind: "landed", address: Number(pa) } : { kind: "refused" }, fault: null }
  }

  /** Seen is what stands in memory after the round: of two writes to one place, the later one. */
  #forgetOverwritten({ accesses }: Round, round: number, answers: Answer[]): void {
    for (const [index, { device, write }] of accesses.entries()) {
      const answer = answers[index]
      if (!write || answer.kind !== "landed") continue
      const [word] = new Uint32Array(this.#memory.read(answer.address, 4).buffer)
      if (word !== tagOf(device, round)) answers[index] = { kind: "refused" }
    }
  }

  #restoreFrames(round: Round, answers: readonly Answer[]): void {
    for (const [index, answer] of answers.entries()) {
      if (answer.kind !== "landed" || !round.accesses[index].write) continue
      const word = patternAt(this.#places.frames, answer.address)
      this.#memory.write(answer.address, new Uint8Array(Uint32Array.of(word).buffer))
    }
  }
}

function readRegister(model: IommuModel, offset: number, bytes: 4 | 8): bigint {
  return bytes === 8 ? model.mmio.read64(offset) : BigInt(model.mmio.read32(offset) >>> 0)
}

function apply(model: IommuModel, writes: readonly RegisterWrite[]): void {
  for (const { offset, bytes, value } of writes) {
    if (bytes === 8) model.mmio.write64(offset, value)
    else model.mmio.write32(offset, Number(value))
  }
}
