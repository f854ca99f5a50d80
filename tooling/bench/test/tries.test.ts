import { describe, expect, it } from "vitest"
import type { BenchCase } from "../src/bench-case.ts"
import type { Measurement } from "../src/measure.ts"
import { withFurtherTries } from "../src/tries.ts"

const OPTIONS = { rounds: 1, sampleMs: 0.001 }
const work = { operations: 1, run: () => 1 }

const bench = (operation: string, limit: number | null): BenchCase => ({
  ...work,
  operation,
  subject: "toy",
  yardstick: { ...work, name: "fill" },
  limit,
})
const measured = (operation: string, ratio: number, limit: number): Measurement => ({
  operation,
  subject: "toy",
  ns: { min: ratio, median: ratio },
  yardstick: "fill",
  yardstickNs: { min: 1, median: 1 },
  ratio,
  ratioMedian: ratio,
  limit,
  ok: ratio <= limit,
})

/** Above any ratio that work can have to itself. */
const HUGE = 1e12

describe("further tries", () => {
  it("replace a result over its limit by a better one, and leave the others alone", () => {
    const kept = measured("kept", 1, 2)
    const results = withFurtherTries([measured("slow", HUGE, HUGE / 2), kept], OPTIONS, () => [
      bench("slow", HUGE / 2),
      bench("kept", 2),
    ])
    expect(results[0]).toMatchObject({ operation: "slow", ok: true })
    expect(results[0]?.ratio).toBeLessThan(HUGE)
    expect(results[1]).toBe(kept)
  })

  it("end after five, the first included, and keep the least of the work and of its yardstick", () => {
    let made = 0
    const first = {
      ...measured("slow", 1, -2),
      ns: { min: 0, median: 0 },
      yardstickNs: { min: 1e-9, median: 1 },
    }
    const results = withFurtherTries([first], OPTIONS, () => {
      made++
      return [bench("slow", -2)]
    })
    expect(made).toBe(4)
    expect(results[0]).toMatchObject({ ns: first.ns, yardstickNs: first.yardstickNs, ratio: 0, ok: false })
  })

  it("make no cases where every result is within its limit", () => {
    const results = [measured("kept", 1, 2)]
    const none = () => {
      throw new Error("not needed")
    }
    expect(withFurtherTries(results, OPTIONS, none)).toBe(results)
  })
})
