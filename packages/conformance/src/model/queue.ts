/** The queue of commands: order, the turn of the ring, and errors. */
import { assertEqual, assertTrue } from "../assert.ts"
import type { TestRunner } from "../target.ts"
import { runSteps, started } from "./script.ts"
import type { ModelMachine, ModelTarget, QueueError } from "./target.ts"

const FIRST = 0x1111_1111
const SECOND = 0x2222_2222

export function queueChapter({ it }: TestRunner, target: ModelTarget): void {
  const { queue } = target

  it("takes commands in order, up to the tail", () => {
    const machine = started(target)
    queue.submit(machine, [queue.wait(queue.scratch, FIRST), queue.wait(queue.scratch, SECOND)])
    assertEqual(word(machine, queue.scratch), SECOND, "the last word written")
    assertEqual(queue.head(machine), 2, "head")
  })

  it("goes round the ring", () => {
    const machine = started(target)
    for (let sent = 1; sent <= 2 * queue.entries + 3; sent++) {
      queue.submit(machine, [queue.wait(queue.scratch, sent)])
      assertEqual(word(machine, queue.scratch), sent, `wait ${sent}`)
      assertEqual(queue.head(machine), sent % queue.entries, `head after ${sent}`)
    }
  })

  it("takes a full ring at once", () => {
    const machine = started(target)
    const most = queue.entries - 1
    for (const round of [1, 2, 3]) {
      const command = queue.wait(queue.scratch, round)
      queue.submit(
        machine,
        Array.from({ length: most }, () => command),
      )
      assertEqual(word(machine, queue.scratch), round, `round ${round}`)
      assertEqual(queue.head(machine), (round * most) % queue.entries, "head")
    }
  })

  for (const error of queue.errors) {
    it(`stops at ${error.name}, ${error.source}`, () => stopsAndResumes(target, error))
  }
}

function stopsAndResumes(target: ModelTarget, error: QueueError): void {
  const { queue } = target
  const { scratch } = queue
  const machine = started(target)
  queue.submit(machine, [
    queue.wait(scratch, FIRST),
    error.command,
    queue.wait(scratch + 8n, SECOND),
    queue.wait(scratch + 16n, FIRST),
  ])
  const stands = (): void => {
    assertEqual(word(machine, scratch), FIRST, "what stands before it")
    assertEqual(word(machine, scratch + 8n), 0, "what stands behind it")
    assertEqual(queue.head(machine), 1, "head")
  }
  stands()
  runSteps(machine, error.found, error.name)
  queue.submit(machine, [queue.wait(scratch + 8n, FIRST)])
  stands()
  error.resume(machine, 1, queue.wait(scratch, SECOND))
  assertEqual(word(machine, scratch), SECOND, "what took its place")
  assertTrue(word(machine, scratch + 8n) !== 0, "what stands behind it is done")
  assertEqual(word(machine, scratch + 16n), FIRST, "and the next")
  queue.submit(machine, [queue.wait(scratch, 7)])
  assertEqual(word(machine, scratch), 7, "and what comes later")
}

function word(machine: ModelMachine, address: bigint): number {
  return Number(machine.memory.read64(address) & 0xffff_ffffn)
}
