/** The log of faults: order, overflow, restart. */
import { assertEqual, assertTrue } from "../assert.ts"
import type { TestRunner } from "../target.ts"
import { answer, request, showAnswer, started } from "./script.ts"
import type { ModelMachine, ModelTarget } from "./target.ts"

export function logChapter({ it }: TestRunner, target: ModelTarget): void {
  const { log } = target
  const logged = (machine: ModelMachine): string => log.records(machine).map(log.identify).join(" ")
  const numbers = (first: number, count: number): string =>
    Array.from({ length: count }, (_, i) => first + i).join(" ")
  const refuse = (machine: ModelMachine, first: number, count: number): void => {
    for (let n = first; n < first + count; n++) {
      assertTrue(!request(machine, log.refused(n)).ok, `request ${n} is refused`)
    }
  }

  it("holds the record that the fault names", () => {
    const machine = started(target)
    const outcome = request(machine, log.refused(0))
    assertTrue(!outcome.ok && outcome.fault.record !== null, "refused and recorded")
    assertEqual(log.records(machine).join(), [outcome.fault.record].join(), "the record in the log")
  })

  it("keeps the order up to its capacity", () => {
    const machine = started(target)
    refuse(machine, 0, log.capacity)
    assertEqual(logged(machine), numbers(0, log.capacity), "records")
    assertTrue(!log.overflowed(machine), "no overflow yet")
  })

  it("loses what comes after an overflow, and nothing before", () => {
    const machine = started(target)
    refuse(machine, 0, log.capacity + 5)
    assertTrue(log.overflowed(machine), "overflow")
    assertEqual(logged(machine), numbers(0, log.capacity), "records")
  })

  it("goes on translating while it is full", () => {
    const machine = started(target)
    refuse(machine, 0, log.capacity + 1)
    assertEqual(showAnswer(answer(machine, target.running)), showAnswer(target.running.pa), "a request")
  })

  it("starts again, as often as needed", () => {
    const machine = started(target)
    for (const round of [0, 1, 2]) {
      refuse(machine, 0, log.capacity + 1 + round)
      assertTrue(log.overflowed(machine), `overflow ${round}`)
      log.restart(machine)
      assertTrue(!log.overflowed(machine), `no overflow after restart ${round}`)
      assertEqual(logged(machine), "", `all taken, round ${round}`)
      refuse(machine, 3, 2)
      assertEqual(logged(machine), "3 4", `recorded after restart ${round}`)
      log.restart(machine)
    }
  })
}
