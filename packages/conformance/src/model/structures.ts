/** Reserved and ignored bits of structures in memory, one at a time. */
import { assertEqual, assertTrue } from "../assert.ts"
import type { TestRunner } from "../target.ts"
import { answer, request, runSteps, showAnswer } from "./script.ts"
import type { ModelMachine, ModelTarget, StructureContract } from "./target.ts"

export function structuresChapter({ describe, it }: TestRunner, target: ModelTarget): void {
  for (const structure of target.structures) {
    describe(`${structure.name}, ${structure.source}`, () => {
      const machine = (): ModelMachine => {
        const made = target.create("none")
        runSteps(made, structure.start, structure.name)
        return made
      }

      it("as the book has it", () => {
        assertEqual(showAnswer(answer(machine(), structure.request)), showAnswer(structure.pa), "the request")
      })

      for (const { first, last, reason } of structure.refused) {
        it(`${bits(first, last)} gives ${reason}`, () => {
          refusesEachBit(machine(), structure, first, last, reason)
        })
      }
      for (const [first, last] of structure.ignored) {
        it(`${bits(first, last)} is ignored`, () => ignoresEachBit(machine(), structure, first, last))
      }
    })
  }
}

function refusesEachBit(
  machine: ModelMachine,
  { at, request: asked, pa }: StructureContract,
  first: number,
  last: number,
  reason: string,
): void {
  for (let bit = first; bit <= last; bit++) {
    flip(machine, at, bit)
    const outcome = request(machine, asked)
    assertTrue(!outcome.ok, `bit ${bit} is refused`)
    assertEqual(outcome.fault.reason, reason, `bit ${bit}`)
    machine.model.trace = () => {}
    const traced = request(machine, asked)
    machine.model.trace = null
    assertEqual(traced.ok ? "allowed" : traced.fault.reason, reason, `bit ${bit}, with someone looking on`)
    flip(machine, at, bit)
    assertEqual(showAnswer(answer(machine, asked)), showAnswer(pa), `after flipping back bit ${bit}`)
  }
}

function ignoresEachBit(
  machine: ModelMachine,
  { at, request: asked }: StructureContract,
  first: number,
  last: number,
): void {
  const show = (): string => JSON.stringify(request(machine, asked), (_, value: unknown) => String(value))
  const before = show()
  for (let bit = first; bit <= last; bit++) {
    flip(machine, at, bit)
    assertEqual(show(), before, `bit ${bit}`)
    flip(machine, at, bit)
  }
}

function flip({ memory }: ModelMachine, at: bigint, bit: number): void {
  const address = at + 8n * BigInt(bit >>> 6)
  memory.write64(address, memory.read64(address) ^ (1n << BigInt(bit & 63)))
}

function bits(first: number, last: number): string {
  return first === last ? `bit ${first}` : `each of bits ${last}:${first}`
}
