import { describe, expect, it } from "vitest"
import { asAtGoal, fastest, readColdStart } from "../src/cold-start.ts"
import { BENCH_VENDORS } from "../src/machines.ts"
import { allocatedBy, measureQuantity } from "../src/quantity.ts"
import { queueWork } from "../src/queue.ts"

describe("quantities", () => {
  const toy = { what: "toy", subject: "toy", unit: "bytes" }

  it.each([
    [3, null, true],
    [3, 3, true],
    [4, 3, false],
  ])("of %d with limit %s: %s", (value, limit, ok) => {
    const quantity = measureQuantity({ ...toy, limit, measure: () => value })
    expect(quantity).toEqual({ ...toy, value, limit, ok })
  })

  it.each([
    [3.08, true],
    [3.1, false],
  ])("set against a yardstick of %d with limit 3: %s", (value, ok) => {
    expect(measureQuantity({ ...toy, limit: 3, isRatio: true, measure: () => value }).ok).toBe(ok)
  })
})

describe("allocation", () => {
  it("of one small object a call is seen, and of none is not", () => {
    const calls = 32_768
    const kept = new Array<unknown>(8).fill(null)
    const objects = (): void => {
      for (let n = 0; n < calls; n++) kept[n & 7] = { n }
    }
    let sum = 0
    const numbers = (): void => {
      for (let n = 0; n < calls; n++) sum = (sum + n) | 0
    }
    objects()
    numbers()
    expect(allocatedBy(objects) / calls).toBeGreaterThan(8)
    expect(allocatedBy(numbers) / calls).toBeLessThan(0.5)
    expect(sum).not.toBe(0)
  })
})

describe("cold starts", () => {
  it("count by the clock that was disturbed least", () => {
    const starts = [
      { ms: 3, cpuMs: 2 },
      { ms: 1, cpuMs: 4 },
    ]
    expect(fastest(starts)).toBe(1)
    expect(fastest(starts.slice(0, 1))).toBe(2)
  })

  it("are told as on the machine of the goal", () => {
    expect(asAtGoal(3, 15.2)).toBeCloseTo(1.5)
  })

  it("are two numbers", () => {
    expect(readColdStart('{"ms":1,"cpuMs":2}')).toEqual({ ms: 1, cpuMs: 2 })
    for (const text of ["null", "{}", '{"ms":1}']) expect(() => readColdStart(text)).toThrow("not two times")
  })
})

describe.each(BENCH_VENDORS)("the queue of $key", vendor => {
  it.each([1, 63])("carries out batches of %d commands and a wait", commands => {
    const { operations, run } = queueWork(vendor, commands)
    const position = run()
    expect(operations).toBe(1024)
    expect(run() - position).toBe(1024)
  })
})
