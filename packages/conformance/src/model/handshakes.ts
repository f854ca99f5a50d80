/** Commands in registers, and the status that answers them. */
import { assertEqual } from "../assert.ts"
import type { TestRunner } from "../target.ts"
import { answer, runSteps, showAnswer, started } from "./script.ts"
import type { ModelTarget } from "./target.ts"

export function handshakesChapter({ it }: TestRunner, target: ModelTarget): void {
  it("bring the IOMMU up", () => {
    const machine = started(target)
    assertEqual(showAnswer(answer(machine, target.running)), showAnswer(target.running.pa), "a request")
  })

  for (const { name, source, steps } of target.handshakes) {
    it(`${name}, ${source}`, () => runSteps(target.create("none"), steps, name))
  }
}
