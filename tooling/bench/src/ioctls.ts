/** What iommufd's commands cost by a method, and how much more by the bytes of their ioctls. */
import { type CallPair, callPairs } from "../../../packages/iommufd/bench/ioctls.ts"
import type { Work } from "./bench-case.ts"
import { sample } from "./measure.ts"
import type { QuantityCase } from "./quantity.ts"

const SAMPLES = 5
const SAMPLE_MS = 8
const SUBJECT = "iommufd"

export function ioctlQuantities(): QuantityCase[] {
  let pairs: readonly CallPair[] = []
  const commands = callPairs().map(({ command }) => command)
  const pair = (index: number): CallPair => {
    if (pairs.length === 0) pairs = callPairs()
    return pairs[index] as CallPair
  }
  return commands.flatMap((command, index) => [
    {
      what: `${command}, by a method`,
      subject: SUBJECT,
      unit: "µs",
      limit: null,
      measure: () => microseconds(pair(index).method),
    },
    {
      what: `${command}, by ioctl`,
      subject: SUBJECT,
      unit: "µs",
      limit: null,
      measure: () => microseconds(pair(index).bytes),
    },
  ])
}

function microseconds(work: Work): number {
  sample(work, SAMPLE_MS)
  return Math.min(...Array.from({ length: SAMPLES }, () => sample(work, SAMPLE_MS))) / 1000
}
