/** What the machine around a model hangs on it: hooks, and registers put back from a dump. */
import type { Invalidation, WalkStep } from "@iommu/core"
import { assertEqual, assertTrue } from "../assert.ts"
import type { TestRunner } from "../target.ts"
import { answer, request, runSteps, showAnswer, started } from "./script.ts"
import type { ModelTarget } from "./target.ts"

export function hooksChapter({ it }: TestRunner, target: ModelTarget): void {
  it("start empty, and give back what was set", () => {
    const { model } = target.create("none")
    const [trace, onInvalidate, onInterrupt] = [(): void => {}, (): void => {}, (): void => {}]
    assertEqual(model.trace, null, "trace")
    assertEqual(model.onInvalidate, null, "onInvalidate")
    assertEqual(model.onInterrupt, null, "onInterrupt")
    model.trace = trace
    model.onInvalidate = onInvalidate
    model.onInterrupt = onInterrupt
    assertEqual(model.trace, trace, "trace")
    assertEqual(model.onInvalidate, onInvalidate, "onInvalidate")
    assertEqual(model.onInterrupt, onInterrupt, "onInterrupt")
    model.trace = null
    assertEqual(model.trace, null, "trace taken off")
  })

  for (const { name, start, request: asked } of target.structures) {
    it(`trace shows each table of a walk without changing it: ${name}`, () => {
      const [plain, traced] = [target.create("none"), target.create("none")]
      const steps: WalkStep[] = []
      for (const machine of [plain, traced]) runSteps(machine, start, name)
      traced.model.trace = step => steps.push(step)
      assertEqual(show(request(traced, asked)), show(request(plain, asked)), "the answer")
      assertTrue(steps.length >= 2, `${steps.length} steps`)
      for (const { what, meaning, entry, table } of steps) {
        assertTrue(what.length > 0 && meaning.length > 0 && entry.length > 0, "a step for people")
        assertTrue(traced.memory.contains(table), `${what} is read from memory`)
      }
    })
  }

  if (target.caching !== null) {
    const { start, commands } = target.caching
    for (const command of commands) {
      it(`onInvalidate hears of no more than one invalidation by ${command.name}`, () => {
        const machine = target.create("exact")
        runSteps(machine, start, "start")
        const heard: Invalidation[] = []
        machine.model.onInvalidate = invalidation => heard.push(invalidation)
        command.issue(machine)
        assertTrue(heard.length <= 1, `${heard.length} invalidations`)
        for (const { command: name, words } of heard) {
          assertTrue(name.length > 0 && words.length > 0, "name and words")
        }
      })
    }
  }

  it("a hook may submit commands itself", () => {
    if (target.caching === null) return
    const command = target.caching.commands.find(({ drops }) => drops.length > 0)
    assertTrue(command !== undefined, "an invalidation")
    const machine = target.create("none")
    runSteps(machine, target.caching.start, "start")
    const { queue } = target
    let heard = 0
    machine.model.onInvalidate = () => {
      if (heard++ === 0) queue.submit(machine, [queue.wait(queue.scratch, 0x7777)])
    }
    command.issue(machine)
    assertEqual(heard, 1, "invalidations")
    assertEqual(
      machine.memory.read64(queue.scratch) & 0xffff_ffffn,
      0x7777n,
      "what the hook submitted is done",
    )
  })

  it("a model goes on from another one's registers", () => {
    const [before, after] = [started(target), target.create("none")]
    const values: Record<string, bigint> = {}
    for (const [name, [offset, bytes]] of Object.entries(target.registers.specs)) {
      const { mmio } = before.model
      values[name] = bytes === 8 ? mmio.read64(offset) : BigInt(mmio.read32(offset))
    }
    after.memory.words.set(before.memory.words)
    const unknown = after.model.restoreRegisters({ ...values, NO_SUCH_REGISTER: 1n })
    assertEqual(unknown.join(), "NO_SUCH_REGISTER", "names that are no registers")
    assertEqual(
      showAnswer(answer(after, target.running)),
      showAnswer(target.running.pa),
      "a request after restoring",
    )
  })
}

function show(value: unknown): string {
  return JSON.stringify(value, (_, inner: unknown) => (typeof inner === "bigint" ? String(inner) : inner))
}
