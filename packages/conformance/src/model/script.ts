/** Runs the data of a target against a model. */
import { ACCESS_READ, type CachePolicy, type DmaOutcome, hex64, translateRequest } from "@iommu/core"
import { assertEqual } from "../assert.ts"
import type { Answer, ModelMachine, ModelRequest, ModelTarget, Step } from "./target.ts"

export function runSteps(machine: ModelMachine, steps: readonly Step[], what: string): void {
  const { memory, model } = machine
  for (const [index, step] of steps.entries()) {
    const where = `${what}, step ${index + 1}`
    switch (step[0]) {
      case "write32":
        model.mmio.write32(step[1], step[2])
        break
      case "write64":
        model.mmio.write64(step[1], step[2])
        break
      case "expect32":
        assertEqual(hex32(model.mmio.read32(step[1]) & step[2]), hex32(step[3]), where)
        break
      case "expect64":
        assertEqual(model.mmio.read64(step[1]) & step[2], step[3], where)
        break
      case "store":
        memory.write64(step[1], step[2])
        break
      case "load":
        assertEqual(memory.read64(step[1]), step[2], `${where}, memory at ${hex64(step[1])}`)
        break
    }
  }
}

/** A machine with its IOMMU running. */
export function started(target: ModelTarget, caches: CachePolicy = "none"): ModelMachine {
  const machine = target.create(caches)
  runSteps(machine, target.start, "start")
  return machine
}

export function request(machine: ModelMachine, { device, iova, pasid, access }: ModelRequest): DmaOutcome {
  const plain = { device, iova, access: access ?? ACCESS_READ }
  return translateRequest(machine.model, pasid === undefined ? plain : { ...plain, pasid })
}

export function answer(machine: ModelMachine, asked: ModelRequest): Answer {
  const outcome = request(machine, asked)
  return outcome.ok ? outcome.pa : null
}

/** "refused" rather than null, for messages. */
export function showAnswer(given: Answer): string {
  return given === null ? "refused" : hex64(given)
}

export function hex32(value: number): string {
  return `0x${(value >>> 0).toString(16)}`
}
